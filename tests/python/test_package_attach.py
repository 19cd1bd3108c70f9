"""attach() and inspect() on small synthetic detectors, run without the library."""

import warnings

import numpy as np
import onnx
import pytest
from focal_loss_onnx import (
    DOMAIN,
    AttachError,
    LibraryNotFound,
    TracedToLogitsWarning,
    attach,
    inspect,
    library_path,
    reference,
)
from onnx import TensorProto, helper
from operator_models import LEVELS, assert_close, newest_opset, session

NUMPY = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64, TensorProto.FLOAT16: np.float16}


def detector(tensors, nodes, outputs, opset=17, dtype=TensorProto.FLOAT, ir_version=8, value_info=()):
    """A graph of ``nodes`` with inputs and outputs given as name -> shape."""
    inputs = [helper.make_tensor_value_info(name, dtype, shape) for name, shape in tensors.items()]
    results = [helper.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(
        [helper.make_node(op, list(i), list(o), **attributes) for op, i, o, attributes in nodes],
        "detector",
        inputs,
        results,
        value_info=list(value_info),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def simple(shape=("B", "N", 3), **options):
    """A detector whose logits are the negated features."""
    nodes = [("Neg", ["features"], ["cls_logits"], {}), ("Abs", ["features"], ["box_deltas"], {})]
    return detector({"features": shape}, nodes, {"cls_logits": shape, "box_deltas": shape}, **options)


def run(model, feeds, level=LEVELS[1]):
    onnx.checker.check_model(model, full_check=True)
    outputs = session(model, level).run(None, feeds)
    return dict(zip([output.name for output in model.graph.output], outputs))


def data(shape, classes, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 3).astype(dtype), rng.integers(-1, classes + 1, shape[:-1])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(2, 5, 3), (7, 3), (0, 3), (2, 0, 3)])
@pytest.mark.parametrize("dtype", NUMPY)
def test_the_loss_is_the_references(shape, dtype, level):
    model = simple(["B", "N", 3][-len(shape) :], dtype=dtype)
    features, targets = data(shape, 3, NUMPY[dtype])
    result = attach(model, "cls_logits", ignore_index=-1, per_anchor_loss=True, grad_logits=True)
    got = run(result, {"features": features, "targets": targets}, level)
    assert list(got) == ["cls_logits", "box_deltas", "loss", "per_anchor_loss", "grad_logits"]
    options = {"ignore_index": -1}
    assert_close(got["loss"], reference.focal_loss(-features, targets, **options), dtype)
    each = reference.focal_loss(-features, targets, reduction="none", **options)
    assert_close(got["per_anchor_loss"], each.sum(-1), dtype)
    assert_close(got["grad_logits"], reference.focal_loss_grad(1.0, -features, targets, **options), dtype)


def test_every_option_reaches_the_operator():
    model = simple()
    features, targets = data((2, 5, 3), 3)
    weight, normalizer = np.random.default_rng(1).random((2, 5, 1)).astype(np.float32), np.array(7, np.float32)
    options = {
        "gamma": 1.25,
        "normalization": "weights",
        "ignore_index": 3,
        "background_index": -1,
        "class_alpha": [0.5, 0.25, 0.125],
    }
    result = attach(
        model,
        ["cls_logits"],
        **options,
        alpha=0.5,
        weight="w",
        normalizer="total",
        index_dtype="int32",
        num_classes=3,
        targets="labels",
        loss="focal",
        per_anchor_loss="each",
    )
    feeds = {"features": features, "labels": targets.astype(np.int32), "w": weight, "total": normalizer}
    got = run(result, feeds)
    options.update(weight=weight, normalizer=normalizer)
    assert_close(got["focal"], reference.focal_loss(-features, targets, **options), TensorProto.FLOAT)
    each = reference.focal_loss(-features, targets, reduction="none", **options).sum(-1)
    assert_close(got["each"], each, TensorProto.FLOAT)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("target_kind", ["index", "dense"])
def test_reductions_and_targets(activation, reduction, target_kind):
    features, targets = data((2, 5, 3), 3)
    targets = np.clip(targets, 0, 2)
    if target_kind == "dense":
        targets = np.eye(3, dtype=np.float32)[targets]
    options = {"activation": activation, "reduction": reduction}
    weight = np.ones((2, 5, 3)[: 3 if activation == "sigmoid" else 2], np.float32) * 2
    result = attach(simple(), "cls_logits", target_kind=target_kind, per_anchor_loss=True, weight=True, **options)
    got = run(result, {"features": features, "targets": targets, "weight": weight})
    options["weight"] = weight
    assert_close(got["loss"], reference.focal_loss(-features, targets, **options), TensorProto.FLOAT)
    each = reference.focal_loss(-features, targets, **{**options, "reduction": "none"})
    each = each.sum(-1) if activation == "sigmoid" else each
    assert_close(got["per_anchor_loss"], each, TensorProto.FLOAT)


@pytest.mark.parametrize("layout", ["AK", "KA"])
@pytest.mark.parametrize("static", [True, False])
def test_pyramid_levels(layout, static):
    anchors, classes = 2, 3
    sizes = {"p3": (4, 5), "p4": (2, 3)}
    shapes = {name: [2, 6, *size] if static else ["B", 6, f"H{name}", f"W{name}"] for name, size in sizes.items()}
    nodes = [("Neg", [name], [f"cls_{name}"], {}) for name in sizes]
    model = detector(shapes, nodes, {f"cls_{name}": shape for name, shape in shapes.items()})
    result = attach(model, ["cls_p3", "cls_p4"], num_classes=classes, layout=layout, per_anchor_loss=True)

    rng = np.random.default_rng(3)
    feeds, flat = {}, []
    for name, (height, width) in sizes.items():
        # logits[b, y, x, a, k] are what the network means
        logits = rng.standard_normal((2, height, width, anchors, classes)).astype(np.float32)
        order = (0, 3, 4, 1, 2) if layout == "AK" else (0, 4, 3, 1, 2)
        feeds[name] = -logits.transpose(order).reshape(2, anchors * classes, height, width)
        flat.append(logits.reshape(2, -1, classes))
    logits = np.concatenate(flat, axis=1)
    targets = rng.integers(0, classes + 1, logits.shape[:2])
    got = run(result, {**feeds, "targets": targets})
    each = reference.focal_loss(logits, targets, reduction="none").sum(-1)
    assert_close(got["per_anchor_loss"], each, TensorProto.FLOAT)
    assert_close(got["loss"], reference.focal_loss(logits, targets), TensorProto.FLOAT)
    declared = next(i for i in result.graph.input if i.name == "targets").type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in declared] == ([2, 52] if static else ["B", "anchors"])


def test_levels_that_are_already_flat_are_concatenated():
    shapes = {"a": ["B", 4, 3], "b": ["B", "N", 3]}
    model = detector(shapes, [("Neg", [n], [f"cls_{n}"], {}) for n in "ab"], {f"cls_{n}": shapes[n] for n in "ab"})
    a, _ = data((2, 4, 3), 3)
    b, _ = data((2, 6, 3), 3, seed=1)
    targets = np.random.default_rng(2).integers(0, 4, (2, 10))
    got = run(attach(model, ["cls_b", "cls_a"]), {"a": a, "b": b, "targets": targets})
    assert_close(got["loss"], reference.focal_loss(-np.concatenate([b, a], 1), targets), TensorProto.FLOAT)


@pytest.mark.parametrize("activation", ["Sigmoid", "Softmax"])
def test_a_probability_is_traced_back_to_its_logits(activation):
    nodes = [("Neg", ["x"], ["logits"], {}), (activation, ["logits"], ["scores"], {})]
    model = detector({"x": ["B", "N", 3]}, nodes, {"scores": ["B", "N", 3]})
    with pytest.warns(TracedToLogitsWarning, match="'scores' is the output of a .* logits before it, 'logits'"):
        result = attach(model, "scores", activation=activation.lower())
    features, targets = data((2, 5, 3), 3)
    targets = np.clip(targets, 0, 2)
    features[0, 0] = 16301  # a sigmoid that is 0 or 1 in float32
    got = run(result, {"x": features, "targets": targets})
    assert_close(
        got["loss"], reference.focal_loss(-features, targets, activation=activation.lower()), TensorProto.FLOAT
    )


def test_traced_through_operators_that_move_elements():
    nodes = [
        ("Sigmoid", ["x"], ["probabilities"], {}),
        ("Transpose", ["probabilities"], ["last"], {"perm": [0, 2, 3, 1]}),
        ("Constant", [], ["shape"], {"value_ints": [0, -1, 3]}),
        ("Reshape", ["last", "shape"], ["scores"], {}),
    ]
    model = detector({"x": ["B", 6, 4, 5]}, nodes, {"scores": ["B", 40, 3]})
    with pytest.warns(TracedToLogitsWarning):
        result = attach(model, "scores")
    x = np.random.default_rng(0).standard_normal((2, 6, 4, 5)).astype(np.float32)
    targets = np.random.default_rng(1).integers(0, 4, (2, 40))
    got = run(result, {"x": x, "targets": targets})
    logits = x.transpose(0, 2, 3, 1).reshape(2, 40, 3)
    assert_close(got["loss"], reference.focal_loss(logits, targets), TensorProto.FLOAT)


def test_logits_are_taken_as_they_are():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(simple(), "cls_logits")


def test_the_input_model_is_untouched(tmp_path):
    model = simple()
    before = model.SerializeToString()
    attach(model, "cls_logits", per_anchor_loss=True)
    assert model.SerializeToString() == before
    path = tmp_path / "detector.onnx"
    onnx.save(model, path)
    for given in (path, str(path)):
        assert attach(given, "cls_logits").graph.output[2].name == "loss"


def test_attaching_twice():
    once = attach(simple(), "cls_logits")
    twice = attach(once, "cls_logits", gamma=0.5, targets="targets_2", loss="loss_2", per_anchor_loss=True)
    assert len(twice.functions) == 1
    features, targets = data((2, 5, 3), 3)
    targets = np.abs(targets)
    got = run(twice, {"features": features, "targets": targets, "targets_2": targets})
    assert_close(got["loss"], reference.focal_loss(-features, targets), TensorProto.FLOAT)
    assert_close(got["loss_2"], reference.focal_loss(-features, targets, gamma=0.5), TensorProto.FLOAT)


@pytest.mark.parametrize("opset", range(13, newest_opset() + 1))
def test_every_opset(opset):
    features, targets = data((2, 5, 3), 3)
    result = attach(simple(opset=opset), "cls_logits", ignore_index=-1, per_anchor_loss=True)
    got = run(result, {"features": features, "targets": targets})
    assert_close(got["loss"], reference.focal_loss(-features, targets, ignore_index=-1), TensorProto.FLOAT)


def test_bfloat16_models():
    model = simple(dtype=TensorProto.BFLOAT16)
    result = attach(model, "cls_logits", class_alpha=[0.25, 0.5, 0.75], weight=True, per_anchor_loss=True)
    onnx.checker.check_model(result, full_check=True)
    types = {i.name: i.type.tensor_type.elem_type for i in (*result.graph.input, *result.graph.output)}
    assert types["loss"] == types["weight"] == types["per_anchor_loss"] == TensorProto.BFLOAT16
    assert {i.data_type for i in result.graph.initializer} == {TensorProto.BFLOAT16}


def test_versions_of_the_result():
    result = attach(simple(ir_version=7), "cls_logits")
    assert result.ir_version == 9
    assert {(e.domain, e.version) for e in result.opset_import} == {("", 17), (DOMAIN, 1)}
    assert attach(simple(ir_version=10), "cls_logits").ir_version == 10


RAW = ["B", 6, "H", "W"]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (None, {"logits": "cls_logit"}, "no tensor named 'cls_logit'; near: cls_logits"),
        (None, {"logits": "CLS"}, "near: cls_logits"),
        (None, {"logits": []}, "no logits are named"),
        (None, {"logits": ["cls_logits", "cls_logits"]}, "named twice"),
        (None, {"loss": "cls_logits"}, "already has a tensor named 'cls_logits'"),
        (None, {"targets": "features"}, "already has a tensor named 'features'"),
        (None, {"targets": "loss"}, "are both named 'loss'"),
        (None, {"loss": ""}, "not empty"),
        (None, {"activation": "tanh"}, "activation must be one of sigmoid, softmax, not 'tanh'"),
        (None, {"target_kind": "onehot"}, "target_kind must be one of index, dense"),
        (None, {"index_dtype": "int8"}, "index_dtype must be one of int32, int64"),
        (None, {"reduction": "avg"}, "reduction must be one of"),
        (None, {"normalization": "batch"}, "normalization must be one of"),
        (None, {"alpha": 2.0}, "alpha must be at most 1"),
        (None, {"gamma": -1.0}, "gamma must be finite"),
        (None, {"gamma": float("nan")}, "gamma must be finite"),
        (None, {"activation": "softmax", "background_index": 0}, "a softmax always names a class"),
        (None, {"target_kind": "dense", "ignore_index": 0}, "the targets are dense"),
        (None, {"class_alpha": [0.5, 0.5]}, "class_alpha has 2 values, but the logits have 3 classes"),
        (None, {"class_alpha": [0.5, 1.5, 0.5]}, "class_alpha of every class must be in"),
        (None, {"class_alpha": []}, "one number per class"),
        (None, {"num_classes": 4}, "num_classes is 4"),
        (None, {"num_classes": 0}, "at least 1"),
        (None, {"layout": "AK"}, "layout is for raw levels"),
        (None, {"layout": "BK"}, "layout must be one of AK, KA"),
        (None, {"reduction": "none", "grad_logits": True}, "grad_logits is the gradient of one number"),
        (RAW, {}, "a raw level .* pass num_classes"),
        (RAW, {"num_classes": 3}, "layout 'AK' if"),
        (RAW, {"num_classes": 4, "layout": "AK"}, "6 channels, not a multiple of num_classes 4"),
        (["N"], {}, "logits are \\[B, N, K\\]"),
        (["A", "B", "C", "D", "E"], {}, "logits are \\[B, N, K\\]"),
    ],
)
def test_what_does_not_fit_is_refused(shape, options, message):
    arguments = {"logits": "cls_logits", **options}
    with pytest.raises(AttachError, match=message):
        attach(simple(shape or ("B", "N", 3)), arguments.pop("logits"), **arguments)


def test_an_old_opset_is_refused():
    with pytest.raises(AttachError, match="opset 12.*convert_version"):
        attach(simple(opset=12), "cls_logits")


def test_integers_are_not_logits():
    with pytest.raises(AttachError, match="int32.*logits are one of float16"):
        attach(simple(dtype=TensorProto.INT32), "cls_logits")


def test_levels_that_differ():
    shapes = {"a": ["B", 4, 3], "b": ["B", 4, 2], "c": ["N", 3]}
    model = detector(shapes, [("Neg", [n], [f"cls_{n}"], {}) for n in "abc"], {f"cls_{n}": shapes[n] for n in "abc"})
    with pytest.raises(AttachError, match="different numbers of classes"):
        attach(model, ["cls_a", "cls_b"])
    with pytest.raises(AttachError, match="the levels differ"):
        attach(model, ["cls_a", "cls_c"])


def test_an_unknown_rank():
    nodes = [helper.make_node("Mystery", ["x"], ["logits"], domain="someone"), helper.make_node("Neg", ["x"], ["y"])]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("someone", 1)]
    model = helper.make_model(graph, opset_imports=imports)
    with pytest.raises(AttachError, match="unknown .* declare it in the model's value_info"):
        attach(model, "logits")
    model.graph.value_info.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 3]))
    assert attach(model, "logits").functions


def test_the_other_activation_is_refused():
    nodes = [("Softmax", ["x"], ["scores"], {})]
    model = detector({"x": ["B", "N", 3]}, nodes, {"scores": ["B", "N", 3]})
    with pytest.raises(AttachError, match="comes from a Softmax: pass activation='softmax'"):
        attach(model, "scores")
    model = detector({"x": ["B", "N", 3]}, [("Softmax", ["x"], ["scores"], {"axis": 1})], {"scores": ["B", "N", 3]})
    with pytest.raises(AttachError, match="runs over axis 1"):
        attach(model, "scores", activation="softmax")


def test_inspect_finds_the_logits():
    nodes = [
        ("Neg", ["x"], ["hidden"], {}),
        ("Sigmoid", ["hidden"], ["gate"], {}),
        ("Mul", ["hidden", "gate"], ["silu"], {}),
        ("Neg", ["silu"], ["head_output_1"], {}),
        ("Sigmoid", ["head_output_1"], ["scores"], {}),
        ("Neg", ["y"], ["box_deltas"], {}),
    ]
    model = detector(
        {"x": ["B", "N", 3], "y": ["B", "N", 4]}, nodes, {"scores": ["B", "N", 3], "box_deltas": ["B", "N", 4]}
    )
    found = inspect(model)
    assert [c.tensor.name for c in found] == ["head_output_1", "box_deltas"]
    assert found[0].activation == "sigmoid" and found[0].tensor.shape == ("B", "N", 3)
    assert any("Sigmoid that makes output 'scores'" in reason for reason in found[0].reasons)
    assert any("like boxes" in reason for reason in found[1].reasons) and found[1].score < 0


def test_inspect_leaves_out_what_cannot_be_logits():
    assert inspect(simple(dtype=TensorProto.INT64)) == []
    assert inspect(simple(["N"])) == []


def test_library_path(tmp_path, monkeypatch):
    library = tmp_path / "libsomething.so"
    monkeypatch.setenv("FOCAL_LOSS_LIBRARY", str(library))
    with pytest.raises(LibraryNotFound, match="FOCAL_LOSS_LIBRARY names .*not a file"):
        library_path()
    library.touch()
    assert library_path() == str(library.resolve())


def test_library_path_in_a_checkout(tmp_path, monkeypatch):
    from focal_loss_onnx import library as module

    monkeypatch.delenv("FOCAL_LOSS_LIBRARY", raising=False)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "elsewhere" / "library.py"))
    (tmp_path / "checkout" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "checkout" / "deep")
    with pytest.raises(LibraryNotFound, match="cargo build --release"):
        library_path()
    (tmp_path / "checkout" / "Cargo.toml").touch()
    built = tmp_path / "checkout" / "target" / "release" / module.FILE_NAME
    built.parent.mkdir(parents=True)
    built.touch()
    assert library_path() == str(built)
