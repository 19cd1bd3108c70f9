"""Classification logits in the shapes that detectors have them, made into one ``[B, N, K]``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .editor import GraphEditor
from .errors import AttachError
from .graph import Dimension, Tensor, element_type_name
from .operators import ARITHMETIC_TYPE

#: Channel orders of a raw level ``[B, A*K, H, W]``, the slowest first: ``AK`` has all classes of the
#: first anchor and then of the next, ``KA`` all anchors of the first class and then of the next.
LAYOUTS = ("AK", "KA")


@dataclass(frozen=True)
class Logits(Tensor):
    """Logits of a known type and rank, anchors and classes last."""

    shape: tuple[Dimension, ...]


def merge_levels(graph: GraphEditor, names: list[str], layout: str | None, num_classes: int | None) -> Logits:
    """One tensor ``[B, N, K]`` or ``[N, K]`` with the logits of all levels, in the order given.

    Args:
        graph: where the nodes go.
        names: the levels' tensors.
        layout: one of :data:`LAYOUTS`, for raw levels.
        num_classes: K, for raw levels; otherwise compared with the graph's.

    Raises:
        AttachError: a level's shape or type is unknown or does not fit the others.
    """
    if layout is not None and layout not in LAYOUTS:
        raise AttachError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    if num_classes is not None and num_classes < 1:
        raise AttachError(f"num_classes must be at least 1, not {num_classes}")
    levels = [_level(graph, name, layout, num_classes) for name in names]
    first = levels[0]
    for other in levels[1:]:
        if other.element_type != first.element_type or len(other.shape) != len(first.shape):
            raise AttachError(f"the levels differ: {names[0]!r} is {first}, {other.name!r} is {other}")
        if _differ(first.shape[-1], other.shape[-1]):
            raise AttachError(f"the levels have different numbers of classes: {first} and {other}")
    batch, anchors, classes = first.shape[:-2], first.shape[-2], first.shape[-1]
    name = first.name
    if len(levels) > 1:
        name = graph.add_node("Concat", [level.name for level in levels], stem="logits", axis=-2)
        anchors = _static([level.shape[-2] for level in levels], sum)
        classes = next((level.shape[-1] for level in levels if isinstance(level.shape[-1], int)), classes)
    named = (*(d or "batch" for d in batch), anchors or "anchors", classes or "classes")
    return Logits(name, first.element_type, named)


def _level(graph: GraphEditor, name: str, layout: str | None, num_classes: int | None) -> Logits:
    tensor = graph.tensor(name)
    if not tensor.element_type or tensor.shape is None:
        raise AttachError(
            f"type or rank of {name!r} is unknown ({tensor}) and cannot be inferred: declare it in the model's "
            "value_info (onnx.helper.make_tensor_value_info)"
        )
    if tensor.element_type not in ARITHMETIC_TYPE:
        allowed = ", ".join(element_type_name(t) for t in ARITHMETIC_TYPE)
        raise AttachError(f"{name!r} is {tensor}; logits are one of {allowed}")
    logits = Logits(name, tensor.element_type, tensor.shape)
    rank = len(logits.shape)
    if rank == 4:
        return _raw_level(graph, logits, layout, num_classes)
    if rank not in (2, 3):
        raise AttachError(f"{name!r} is {tensor}; logits are [B, N, K], [N, K] or raw levels [B, A*K, H, W]")
    if layout is not None:
        raise AttachError(f"layout is for raw levels [B, A*K, H, W], but {name!r} is {tensor}")
    classes = logits.shape[-1]
    if _differ(classes, num_classes):
        raise AttachError(f"num_classes is {num_classes}, but {name!r} is {tensor}")
    return Logits(name, tensor.element_type, (*logits.shape[:-1], classes if num_classes is None else num_classes))


def _raw_level(graph: GraphEditor, tensor: Logits, layout: str | None, num_classes: int | None) -> Logits:
    name = tensor.name
    if num_classes is None or layout is None:
        raise AttachError(
            f"{name!r} is {tensor}, a raw level [B, A*K, H, W]: pass num_classes (K), and layout 'AK' if its "
            "channels are all classes of the first anchor, then of the next, or 'KA' the other way round"
        )
    batch, channels, height, width = tensor.shape
    if isinstance(channels, int) and channels % num_classes:
        raise AttachError(f"{name!r} has {channels} channels, not a multiple of num_classes {num_classes}")
    logits = graph.add_node("Transpose", [name], stem=f"{name}_channels_last", perm=[0, 2, 3, 1])
    if layout == "KA":
        split = graph.add_integers("split", [0, 0, 0, num_classes, -1])
        logits = graph.add_node("Reshape", [logits, split], stem=f"{name}_classes_anchors")
        logits = graph.add_node("Transpose", [logits], stem=f"{name}_anchors_classes", perm=[0, 1, 2, 4, 3])
    rows = graph.add_integers("rows", [0, -1, num_classes])
    logits = graph.add_node("Reshape", [logits, rows], stem=f"{name}_rows")
    anchors = _static([channels, height, width], math.prod)
    if anchors is not None:
        anchors //= num_classes
    return Logits(logits, tensor.element_type, (batch, anchors, num_classes))


def _differ(one: Dimension, other: Dimension) -> bool:
    """Whether two dimensions are known to differ."""
    return isinstance(one, int) and isinstance(other, int) and one != other


def _static(dimensions: list[Dimension], combine: Callable[[list[int]], int]) -> int | None:
    """The dimensions combined, if all are known."""
    known = [d for d in dimensions if isinstance(d, int)]
    return combine(known) if len(known) == len(dimensions) else None
