"""From probabilities back to the logits that they were made from."""

from __future__ import annotations

from onnx import NodeProto

from .editor import GraphEditor
from .errors import AttachError, ModelError

#: The operator that turns logits into probabilities, by activation.
ACTIVATION_OPERATOR = {"sigmoid": "Sigmoid", "softmax": "Softmax"}

#: Operators that only move or rename elements, so that an elementwise function may trade places with them.
_MOVES = frozenset({"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"})

#: Of these, the ones that leave the axes alone, which a softmax may trade places with.
_MOVES_PAST = {"sigmoid": _MOVES, "softmax": frozenset({"Identity"})}


def trace_logits(graph: GraphEditor, name: str, activation: str) -> str:
    """The logits behind ``name``: ``name`` itself, unless the activation made it.

    The way back leads through operators that only move elements; they are repeated on the logits.

    Raises:
        AttachError: ``name`` was made by the other activation, or by a softmax that cannot be traced.
        ModelError: moves go round in a circle.
    """
    moves: list[NodeProto] = []
    node = graph.producers.get(name)
    while node is not None and node.op_type in _MOVES and not node.domain:
        if node in moves:
            raise ModelError(f"the model is damaged: {name!r} is made from itself")
        moves.append(node)
        node = graph.producers.get(node.input[0])
    made_by = {op: kind for kind, op in ACTIVATION_OPERATOR.items()}.get(node.op_type if node else "")
    if node is None or made_by is None or node.domain:
        return name
    if made_by != activation:
        raise AttachError(
            f"{name!r} comes from a {node.op_type}: pass activation={made_by!r}, "
            f"or the name of logits (what that {node.op_type} reads is {node.input[0]!r})"
        )
    if any(move.op_type not in _MOVES_PAST[activation] for move in moves):
        raise AttachError(
            f"{name!r} is the output of a {node.op_type} that was moved to other axes since; "
            f"pass logits in one of the known shapes (that {node.op_type} reads {node.input[0]!r})"
        )
    if activation == "softmax":
        _check_axis(graph, node)
    logits = node.input[0]
    for move in reversed(moves):
        logits = graph.add_copy(move, logits)
    return logits


def _check_axis(graph: GraphEditor, softmax: NodeProto) -> None:
    """A softmax over anything but the last axis is not over the classes."""
    axis = next((a.i for a in softmax.attribute if a.name == "axis"), -1)
    shape = graph.tensor(softmax.input[0]).shape
    if axis not in (-1, None if shape is None else len(shape) - 1):
        raise AttachError(
            f"the Softmax that makes {softmax.output[0]!r} runs over axis {axis}, but the classes of logits "
            f"are the last axis; pass logits [B, N, K] or raw levels instead of its output"
        )
