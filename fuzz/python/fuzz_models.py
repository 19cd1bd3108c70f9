"""Damaged models for ``attach``, ``fuse`` and ``inspect``: an exception that is documented, or a model as valid as before.

``python fuzz/python/fuzz_models.py SECONDS [FIRST_SEED]`` goes through seeds; ``--coverage`` lets atheris choose.
"""

import pathlib
import sys
import time
import warnings

import onnx
from onnx import AttributeProto, TensorProto, helper

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "onnx/src"), str(ROOT / "fuzz/python")]

from choices import Choices  # noqa: E402

COVERAGE = __name__ == "__main__" and "--coverage" in sys.argv
if COVERAGE:
    import atheris

    with atheris.instrument_imports(include=["focal_loss_onnx"]):
        import focal_loss_onnx
else:
    import focal_loss_onnx

DOCUMENTED = (
    focal_loss_onnx.AttachError,
    focal_loss_onnx.FuseError,
    focal_loss_onnx.ModelError,
    focal_loss_onnx.PortableFunctionError,
)
TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.STRING, 0, 99)
NUMBERS = (0, 1, -1, 2, 3, 7, 2**31, 2**63 - 1, -(2**63))


def _detector():
    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("Neg", ["features"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["cls_logits"]),
        helper.make_node("Sigmoid", ["cls_logits"], ["scores"]),
        helper.make_node("Transpose", ["scores"], ["moved"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["image", "kernel"], ["level"], kernel_shape=[1, 1]),
        helper.make_node("Softmax", ["cls_logits"], ["likely"], axis=-1),
    ]
    constants = [
        helper.make_tensor("shape", TensorProto.INT64, [3], [0, -1, 3]),
        helper.make_tensor("kernel", TensorProto.FLOAT, [6, 2, 1, 1], [0.5] * 12),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [value("features", ["B", "N", 3]), value("image", ["B", 2, 4, 4])],
        [value("scores", ["B", "N", 3]), value("moved", ["B", 3, "N"]), value("level", ["B", 6, 4, 4]),
         value("likely", ["B", "N", 3])],
        constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def bases():
    """A small detector, and losses that exporters wrote: sound models, without functions of other domains."""
    paths = sorted((ROOT / "tests/data/fuse").glob("*.onnx"))
    return [_detector(), *(onnx.load(path) for path in paths if path.stat().st_size < 15000)]


def mutate(choices, model):
    """Damages the model in one place, or only makes it odd."""
    graph = model.graph
    names = sorted({name for node in graph.node for name in (*node.input, *node.output)} | {"", "nothing"})
    way = choices.below(22)
    if graph.node and way < 11:
        node = graph.node[choices.below(len(graph.node))]
        if way == 0:
            graph.node.remove(node)
        elif way == 1:
            graph.node.add().CopyFrom(node)
        elif way == 2 and node.input:
            node.input[choices.below(len(node.input))] = choices.pick(names)
        elif way == 3 and node.output:
            node.output[choices.below(len(node.output))] = choices.pick(names)
        elif way == 4:
            del node.input[choices.below(len(node.input) + 1) :]
        elif way == 5:
            del node.output[:]
        elif way == 6:
            node.op_type = choices.pick(["", "Sigmoid", "Softmax", "Reshape", "Identity", "NoSuch", "Log", "If", "Pow"])
        elif way == 7:
            node.domain = choices.pick(["", "focal_loss", "com.microsoft", "ai.onnx", "no.such"])
        elif way == 8 and node.attribute:
            _mutate_attribute(choices, node.attribute[choices.below(len(node.attribute))])
        elif way == 9 and node.attribute:
            del node.attribute[choices.below(len(node.attribute))]
        else:
            node.attribute.append(helper.make_attribute(choices.pick(["axis", "axes", "perm", "to"]), choices.pick(NUMBERS)))
    elif graph.initializer and way < 15:
        tensor = graph.initializer[choices.below(len(graph.initializer))]
        if way == 11:
            tensor.data_type = choices.pick(TYPES)
        elif way == 12:
            tensor.raw_data = tensor.raw_data[: choices.below(9)]
        elif way == 13:
            tensor.dims.append(choices.pick(NUMBERS))
        else:
            graph.initializer.remove(tensor)
    elif way < 19:
        infos = [*graph.input, *graph.output, *graph.value_info]
        if not infos:
            return
        info = choices.pick(infos)
        tensor_type = info.type.tensor_type
        if way == 15:
            tensor_type.elem_type = choices.pick(TYPES)
        elif way == 16:
            tensor_type.ClearField("shape")
        elif way == 17:
            tensor_type.shape.dim.add().dim_value = choices.pick(NUMBERS)
        else:
            info.ClearField("type")
    elif way == 19:
        info = choices.pick([graph.input, graph.output])
        if info:
            del info[choices.below(len(info))]
    elif way == 20:
        if choices.one_in(3):
            del model.opset_import[:]
        else:
            for entry in model.opset_import:
                entry.version = choices.pick([*NUMBERS, 9, 11, 13, 18, 21])
    else:
        model.ir_version = choices.pick([0, 3, 7, 8, 10, 2**40])


def _mutate_attribute(choices, attribute):
    way = choices.below(4)
    if way == 0:
        attribute.i = choices.pick(NUMBERS)
    elif way == 1:
        attribute.type = choices.pick([AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.TENSOR, AttributeProto.INTS])
    elif way == 2 and attribute.ints:
        del attribute.ints[choices.below(len(attribute.ints)) :]
    elif attribute.HasField("t"):
        attribute.t.dims.append(choices.pick(NUMBERS))


def is_valid(model, full):
    """Whether ``onnx.checker`` takes it."""
    try:
        onnx.checker.check_model(model, full_check=full)
    except Exception:  # ValidationError, InferenceError, and what protobuf and the checker say of broken sizes
        return False
    return True


def check(seed, choices=None, base_models=None):
    """One damaged model; what came of it, and an AssertionError where that is wrong."""
    choices = choices or Choices(seed)
    model = onnx.ModelProto()
    base_models = base_models or bases()
    model.CopyFrom(base_models[0] if choices.one_in(2) else choices.pick(base_models))
    for _ in range(choices.below(4)):
        mutate(choices, model)
    before = model.SerializeToString(deterministic=True)
    names = sorted({name for node in model.graph.node for name in node.output if name}) or ["nothing"]
    function = choices.pick(["attach", "fuse", "inspect"])
    if function == "attach":
        logits = [choices.pick(names) for _ in range(1 + choices.below(2))]
        arguments = {
            "activation": choices.pick(["sigmoid", "softmax"]),
            "reduction": choices.pick(["mean", "sum", "none"]),
            "target_kind": choices.pick(["index", "dense"]),
            "num_classes": choices.pick([None, 3, 1, 0, 2]),
            "layout": choices.pick([None, "AK", "KA"]),
            "per_anchor_loss": choices.one_in(2),
            "grad_logits": choices.one_in(2),
            "weight": choices.one_in(2),
            "class_alpha": choices.pick([None, [0.5, 0.25, 1.0]]),
        }
    else:
        logits, arguments = [], {"allow_epsilon": True, "hard_targets": True} if choices.one_in(2) else {}
        arguments = arguments if function == "fuse" else {}
    told = f"seed {seed}: {function} {logits} {arguments}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = getattr(focal_loss_onnx, function)(model, *([logits] if logits else []), **arguments)
    except DOCUMENTED as error:
        assert str(error), told
        return f"{function}: refused"
    except Exception as error:
        raise AssertionError(f"{error!r}, for a model that is {'valid' if is_valid(model, False) else 'damaged'}\n{told}") from error
    assert model.SerializeToString(deterministic=True) == before, f"the given model was changed\n{told}"
    if function == "inspect":
        return "inspect: done"
    made = result if function == "attach" else result[0]
    for full in (False, True):
        assert not is_valid(model, full) or is_valid(made, full), f"valid before (full: {full}), not after\n{told}"
    return f"{function}: done"


def main(seconds, seed=0):
    end, done, failed, base_models = time.monotonic() + seconds, {}, 0, bases()
    while time.monotonic() < end:
        try:
            what = check(seed, base_models=base_models)
        except AssertionError as error:
            what, failed = "failed", failed + 1
            print(f"FAILED {error}", flush=True)
        done[what] = done.get(what, 0) + 1
        seed += 1
    told = ", ".join(f"{what} {count}" for what, count in sorted(done.items()))
    print(f"models: {sum(done.values())} executions: {told}")
    return 1 if failed else 0


def cover():
    """What atheris runs: the same with its bytes for choices."""
    base_models = bases()
    atheris.Setup(
        [argument for argument in sys.argv if argument != "--coverage"],
        lambda data: check("of the input", Choices(provider=atheris.FuzzedDataProvider(data)), base_models),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    if COVERAGE:
        cover()
    else:
        sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
