"""Reading models: which tensors there are, where they come from, and what is known of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

Dimension = int | str | None


@dataclass(frozen=True)
class Tensor:
    """What is known of a tensor: ``element_type`` 0 is unknown, ``shape`` ``None`` an unknown rank."""

    name: str
    element_type: int
    shape: tuple[Dimension, ...] | None

    def __str__(self) -> str:
        shape = "unknown shape"
        if self.shape is not None:
            shape = "[" + ", ".join("?" if d is None else str(d) for d in self.shape) + "]"
        return f"{element_type_name(self.element_type)} {shape}"


def element_type_name(element_type: int) -> str:
    """An element type as ONNX spells it: ``float16``, ``int64``."""
    return TensorProto.DataType.Name(element_type).lower() if element_type else "unknown type"


def known_tensors(model: ModelProto) -> dict[str, Tensor]:
    """Every tensor of the main graph whose type is stated or can be inferred, by name."""
    graph = _inferred(model).graph
    tensors = {}
    for initializer in graph.initializer:
        tensors[initializer.name] = Tensor(initializer.name, initializer.data_type, tuple(initializer.dims))
    for info in (*graph.input, *graph.value_info, *graph.output):
        if info.type.HasField("tensor_type"):
            tensors[info.name] = _tensor(info)
    return tensors


def producers(model: ModelProto) -> dict[str, NodeProto]:
    """The node that makes each tensor of the main graph."""
    return {output: node for node in model.graph.node for output in node.output if output}


def all_names(model: ModelProto) -> set[str]:
    """Every tensor name that the main graph uses."""
    graph = model.graph
    names = {info.name for info in (*graph.input, *graph.output, *graph.value_info)}
    names.update(initializer.name for initializer in graph.initializer)
    names.update(initializer.values.name for initializer in graph.sparse_initializer)
    for node in graph.node:
        names.update(node.input, node.output)
    return names - {""}


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Names that somebody who wrote ``name`` may have meant, best first."""
    by_folded = {n.lower(): n for n in sorted(names)}
    close = difflib.get_close_matches(name.lower(), by_folded, n=5, cutoff=0.5)
    within = [n for n in by_folded if name and name.lower() in n and n not in close]
    return [by_folded[n] for n in (*close, *within)][:5]


def default_opset(model: ModelProto) -> int:
    """Version of the default operator domain that the model imports; 0 if it imports none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _inferred(model: ModelProto) -> ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return model  # what the model states itself is still there


def _tensor(info: ValueInfoProto) -> Tensor:
    tensor_type = info.type.tensor_type
    if not tensor_type.HasField("shape"):
        return Tensor(info.name, tensor_type.elem_type, None)
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor_type.shape.dim)
    return Tensor(info.name, tensor_type.elem_type, shape)
