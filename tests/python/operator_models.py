"""Models made of nothing but our operators, random inputs for them, and running both.

For tests that compare the portable functions, the kernels and the NumPy reference.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
from focal_loss_onnx import DOMAIN, OPERATORS, add_functions, library_path, reference
from focal_loss_onnx.operators import LOSSES, NORMALIZATIONS, OPTIONAL_INPUTS
from onnx import TensorProto, helper

LEVELS = (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)

#: Element types of the logits: the NumPy type that values are exact in, relative error, smallest step.
DTYPES = {
    TensorProto.FLOAT: (np.float32, 4e-6, 1e-38),
    TensorProto.DOUBLE: (np.float64, 2e-14, 1e-300),
    TensorProto.FLOAT16: (np.float16, 1e-3, 6e-8),
    TensorProto.BFLOAT16: (np.float32, 8e-3, 1e-38),
}
TARGETS = {"int64": np.int64, "int32": np.int32, "dense": None}

#: Every reduction and normalisation, as one node each.
RESULTS = {
    "none": {"reduction": "none"},
    "sum": {"reduction": "sum"},
    **{name: {"reduction": "mean", "normalization": name} for name in NORMALIZATIONS},
}


def session(model, level=LEVELS[1], library=False):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    if library:
        options.register_custom_ops_library(library_path())
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def newest_opset():
    """The newest opset that both onnx and the installed ONNX Runtime have."""
    for opset in range(onnx.defs.onnx_opset_version(), 12, -1):
        info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [info], [out])
        try:
            session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9))
        except Exception:  # the host has no narrower class for this
            continue
        return opset
    raise RuntimeError("no opset works")


def bfloat16(values):
    """Values rounded to bfloat16, as float32."""
    values = np.asarray(values, np.float32)
    bits = values.reshape(-1).view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(values), values, bits.view(np.float32).reshape(values.shape))


def rounded(values, dtype):
    return bfloat16(values) if dtype == TensorProto.BFLOAT16 else np.asarray(values).astype(DTYPES[dtype][0])


def operator_model(operator, dtype, feeds, results, opset=17, *, ranks):
    """A model with one node per entry of ``results``, carrying its function.

    ONNX Runtime's Python API has no bfloat16 arrays: such inputs are float32 and converted in the graph.
    """
    converted = dtype == TensorProto.BFLOAT16
    nodes, inputs, outputs, values = [], [], [], []
    names = {}
    for name, value in feeds.items():
        element_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        inputs.append(helper.make_tensor_value_info(name, element_type, [None] * value.ndim))
        names[name] = name
        if converted and element_type == TensorProto.FLOAT:
            names[name] = f"{name}_bfloat16"
            nodes.append(helper.make_node("Cast", [name], [names[name]], to=TensorProto.BFLOAT16))
    for key, attributes in results.items():
        # A gradient of an unreduced loss is a tensor: each result may have a grad_loss of its own.
        own = {"grad_loss": names.get(f"grad_loss_{key}", names.get("grad_loss"))}
        arguments = [{**names, **own}.get(name, "") for name in OPERATORS[operator].inputs]
        while not arguments[-1]:
            arguments.pop()
        made = f"{key}_bfloat16" if converted else key
        nodes.append(helper.make_node(operator, arguments, [made], name=key, domain=DOMAIN, **attributes))
        if converted:
            # ONNX Runtime before 1.24 cannot infer it where an optional input before the last is absent.
            values.append(helper.make_tensor_value_info(made, TensorProto.BFLOAT16, [None] * ranks[key]))
            nodes.append(helper.make_node("Cast", [made], [key], to=TensorProto.FLOAT))
        element_type = TensorProto.FLOAT if converted else dtype
        outputs.append(helper.make_tensor_value_info(key, element_type, [None] * ranks[key]))
    graph = helper.make_graph(nodes, "operators", inputs, outputs, value_info=values)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return add_functions(helper.make_model(graph, opset_imports=imports, ir_version=8))


@dataclass
class Case:
    """One kind of input for one operator; ``wanted`` holds what the reference gives per result."""

    operator: str
    dtype: int
    feeds: dict
    results: dict
    wanted: dict = field(default_factory=dict)

    def model(self, opset=17):
        ranks = {key: value.ndim for key, value in self.wanted.items()}
        return operator_model(self.operator, self.dtype, self.feeds, self.results, opset, ranks=ranks)

    def outputs(self, model, level=LEVELS[1], library=False):
        values = session(model, level, library).run(list(self.results), self.feeds)
        return dict(zip(self.results, values))


def make_case(
    activation, gradient, dtype, target_kind, optional, seed=0, axis=-1, rows=(3, 5), classes=4, **attributes
):
    """Random logits with an ignored NaN row, targets with background, and the reference's results."""
    rng = np.random.default_rng(seed)
    operator = LOSSES[activation].name + ("Grad" if gradient else "")
    logits = rng.standard_normal((*rows, classes)) * 6
    labels = rng.random(logits.shape)
    if activation == "softmax":
        labels /= labels.sum(-1, keepdims=True)
    indices = rng.integers(0, classes + (activation == "sigmoid"), rows)
    attributes = {"gamma": 1.5, "axis": axis, **attributes}
    if target_kind != "dense" and indices.size:
        attributes.setdefault("ignore_index", -100)
        indices.flat[0] = attributes["ignore_index"]
        logits[np.unravel_index(0, rows)] = np.nan

    def moved(values):
        return np.ascontiguousarray(np.moveaxis(values, -1, axis))

    logits = rounded(moved(logits), dtype)
    targets = rounded(moved(labels), dtype) if target_kind == "dense" else indices.astype(TARGETS[target_kind])
    weight_shape = logits.shape if activation == "sigmoid" else rows
    available = {
        "class_alpha": rng.random(classes),
        "weight": rng.random(weight_shape),
        "normalizer": np.array(3.25),
    }
    feeds = {"logits": logits, "targets": targets}
    feeds.update({name: rounded(available[name], dtype) for name in optional})
    results = {key: {**attributes, **result} for key, result in RESULTS.items()}
    wanted = {}
    for key, result in results.items():
        options = {**result, "activation": activation, **{name: feeds[name] for name in optional}}
        for name in ("alpha", "gamma"):
            if name in options:  # attributes are float32
                options[name] = float(np.float32(options[name]))
        wanted[key] = reference.focal_loss(logits, targets, **options)
        if gradient:
            feeds[f"grad_loss_{key}"] = rounded(rng.standard_normal(wanted[key].shape), dtype)
            wanted[key] = reference.focal_loss_grad(feeds[f"grad_loss_{key}"], logits, targets, **options)
    return Case(operator, dtype, feeds, results, wanted)


def all_cases():
    """Every operator, element type, kind of targets and set of optional inputs; the class axis varies."""
    subsets = [s for n in range(len(OPTIONAL_INPUTS) + 1) for s in itertools.combinations(OPTIONAL_INPUTS, n)]
    kinds = itertools.product(LOSSES, (False, True), DTYPES, TARGETS, subsets)
    for number, (activation, gradient, dtype, target_kind, optional) in enumerate(kinds):
        axis = (-1, 1, 0)[number % 3]
        yield (activation, gradient, dtype, target_kind, optional, number, axis)


def case_id(parameters):
    activation, gradient, dtype, target_kind, optional, _, axis = parameters
    kind = TensorProto.DataType.Name(dtype).lower()
    return "-".join([activation, "grad" if gradient else "loss", kind, target_kind, *optional, f"axis{axis}"])


def assert_close(got, wanted, dtype, where=""):
    """Equal to within the type's rounding, relative to the value and (far less) to the largest value."""
    _, relative, smallest = DTYPES[dtype]
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape, f"{where}: shape {got.shape}, wanted {wanted.shape}"
    largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
    allowed = relative * np.abs(wanted) + 0.02 * relative * largest + smallest
    with np.errstate(invalid="ignore"):
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted)) | (np.abs(got - wanted) <= allowed)
    assert same.all(), f"{where}: {got[~same][:5]} where {wanted[~same][:5]} is wanted"
