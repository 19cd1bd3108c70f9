"""Models of one operator of ours, and sessions that run them with the library.

Unlike the models of the Python package these carry no functions, so nothing but a kernel can run them, and
they load in every ONNX Runtime since 1.17.
"""

import os
import pathlib
import sys

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, ValueInfoProto, helper

ROOT = pathlib.Path(__file__).resolve().parents[2]

try:
    from focal_loss_onnx import PortableFunctionError, add_functions, reference
except ImportError:  # not installed: the checkout's
    sys.path.append(str(ROOT / "onnx/src"))
    from focal_loss_onnx import PortableFunctionError, add_functions, reference

HOST = tuple(int(part) for part in ort.__version__.split(".")[:2])
DOMAIN = "focal_loss"
LOSSES = ("SigmoidFocalLoss", "SoftmaxFocalLoss")
OPERATORS = (*LOSSES, "SigmoidFocalLossGrad", "SoftmaxFocalLossGrad")
#: What sessions do to a graph: ort_matrix.py runs the tests with either.
OPTIMIZATION = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}[os.environ.get("FOCAL_LOSS_ORT_OPTIMIZATION", "all")]
OPTIONAL = ("class_alpha", "weight", "normalizer")

#: Element types by name: ONNX's, the NumPy type that carries the values, and the error allowed, relative to the
#: value. Python has no bfloat16 arrays for ONNX Runtime: such models convert from and to float32.
DTYPES = {
    "float16": (TensorProto.FLOAT16, np.float16, 2.0**-10),
    "bfloat16": (TensorProto.BFLOAT16, np.float32, 2.0**-7),
    "float32": (TensorProto.FLOAT, np.float32, 2e-6),
    "float64": (TensorProto.DOUBLE, np.float64, 1e-13),
}
INDICES = {"int32": (TensorProto.INT32, np.int32), "int64": (TensorProto.INT64, np.int64)}
TARGETS = ("dense", *INDICES)


def library_path():
    path = pathlib.Path(os.environ.get("FOCAL_LOSS_LIBRARY", ROOT / "target/release/libfocal_loss.so"))
    assert path.exists(), f"{path} is not there: run `cargo build --release`, or set FOCAL_LOSS_LIBRARY"
    return str(path)


def is_gradient(operator):
    return operator.endswith("Grad")


def activation(operator):
    return "sigmoid" if operator.startswith("Sigmoid") else "softmax"


def input_names(operator):
    return (*(("grad_loss",) if is_gradient(operator) else ()), "logits", "targets", *OPTIONAL)


def make_model(operator, dtype="float32", targets="int64", optional=(), shapes=None, output=(), **attributes):
    """A model of one node named ``node_under_test``.

    Optional inputs that are not in ``optional`` have empty names; those after the last are left out. ``shapes``
    states shapes of inputs; by default they are unknown, rank included. ``output`` is the stated shape of the
    output; ``None`` states neither type nor shape.
    """
    element, _, _ = DTYPES[dtype]
    carried = TensorProto.FLOAT if dtype == "bfloat16" else element
    nodes, inputs, arguments = [], [], []
    for name in input_names(operator):
        if name in OPTIONAL and name not in optional:
            arguments.append("")
            continue
        is_index = name == "targets" and targets in INDICES
        stated = INDICES[targets][0] if is_index else carried
        inputs.append(helper.make_tensor_value_info(name, stated, (shapes or {}).get(name)))
        arguments.append(name)
        if dtype == "bfloat16" and not is_index:
            arguments[-1] = f"{name}_bfloat16"
            nodes.append(helper.make_node("Cast", [name], arguments[-1:], to=element))
    while not arguments[-1]:
        arguments.pop()
    made = "made" if dtype == "bfloat16" else "result"
    nodes.append(helper.make_node(operator, arguments, [made], name="node_under_test", domain=DOMAIN, **attributes))
    # ONNX Runtime 1.17 infers no output type for a node with an input left out: the model has to state it.
    known = []
    if dtype == "bfloat16":
        nodes.append(helper.make_node("Cast", [made], ["result"], to=carried))
        known.append(helper.make_tensor_value_info(made, element, None))
    if output is None:
        result = ValueInfoProto(name="result")
    else:
        result = helper.make_tensor_value_info("result", carried, None if output == () else output)
    graph = helper.make_graph(nodes, "one_operator", inputs, [result], value_info=known)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, ir_version=8, opset_imports=imports)


def session_options(threads=1, registrations=1):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = OPTIMIZATION
    options.intra_op_num_threads = threads
    for _ in range(registrations):
        options.register_custom_ops_library(library_path())
    return options


def make_session(model, options=None):
    options = options or session_options()
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session, feeds):
    (result,) = session.run(None, feeds)
    return result


def rounded(values, dtype):
    """Values that ``dtype`` can hold, in the NumPy type that carries it."""
    values = np.asarray(values)
    if dtype != "bfloat16":
        return values.astype(DTYPES[dtype][1])
    bits = values.astype(np.float32).reshape(-1).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).reshape(values.shape)


def make_feeds(operator, dtype="float32", targets="int64", optional=(), rows=(6,), classes=5, axis=-1, seed=0):
    """Random inputs of every kind; the gradient's ``grad_loss`` is for a reduced loss."""
    rng = np.random.default_rng(seed)
    logits = np.moveaxis(rng.normal(0, 4, (*rows, classes)), -1, axis)
    if targets == "dense":
        chosen = rng.random(logits.shape)
        if activation(operator) == "softmax":
            chosen /= chosen.sum(axis, keepdims=True)
        chosen = rounded(chosen, dtype)
    else:
        background = activation(operator) == "sigmoid"
        chosen = rng.integers(0, classes + background, rows).astype(INDICES[targets][1])
    weights = logits.shape if activation(operator) == "sigmoid" else rows
    available = {
        "class_alpha": rng.random(classes),
        "weight": rng.random(weights),
        "normalizer": np.array(2.75),
    }
    feeds = {"logits": rounded(logits, dtype), "targets": chosen}
    feeds.update((name, rounded(available[name], dtype)) for name in optional)
    if is_gradient(operator):
        feeds["grad_loss"] = rounded(np.array(1.25), dtype)
    return feeds


def oracle(operator, feeds, **attributes):
    """What plain float64 NumPy gives for the same inputs."""
    given = dict(feeds)
    arguments = [given.pop(name) for name in ("grad_loss", "logits", "targets") if name in given]
    for name in ("alpha", "gamma"):  # the model stores them as float32
        if name in attributes:
            attributes[name] = float(np.float32(attributes[name]))
    function = reference.focal_loss_grad if is_gradient(operator) else reference.focal_loss
    return function(*arguments, activation=activation(operator), **attributes, **given)


def assert_close(result, expected, dtype):
    assert result.shape == expected.shape
    assert result.dtype == DTYPES[dtype][1]
    relative = DTYPES[dtype][2]
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    smallest = {"float16": 6e-8, "bfloat16": 1e-38, "float32": 1e-38, "float64": 1e-300}[dtype]
    np.testing.assert_allclose(result.astype(np.float64), expected, relative, relative * largest * 0.05 + smallest)
