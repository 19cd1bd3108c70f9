"""Which tensors of a detector look like classification logits."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

import onnx
from onnx import ModelProto, NodeProto

from .damage import names_damage
from .graph import Tensor, known_tensors, producers
from .operators import ARITHMETIC_TYPE
from .probabilities import ACTIVATION_OPERATOR

#: Words in a tensor's name, and what they say for (or against) its being logits.
_NAME_HINTS = (
    (re.compile(r"cls|class|logit|score|conf|prob", re.IGNORECASE), 2, "its name says classification"),
    (re.compile(r"box|bbox|reg|loc|delta|offset|ctr|center|anchor|mask|landmark|kps", re.IGNORECASE), -3,
     "its name says boxes or another head"),
)  # fmt: skip

#: Weight of being read by a Sigmoid or Softmax, of being an output of the graph, of looking like boxes.
_BEFORE_ACTIVATION, _GRAPH_OUTPUT, _BOX_LIKE = 4, 2, -3

#: Consumers of an activation's output that show it to be a gate (SiLU, squeeze-and-excitation) or attention.
_INTERNAL_CONSUMERS = {"Sigmoid": {"Mul"}, "Softmax": {"MatMul", "Einsum"}}


@dataclass
class Candidate:
    """A tensor that may be classification logits: the higher the score, the likelier."""

    tensor: Tensor
    activation: str | None = None
    score: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, score: int, reason: str) -> None:
        """Count a reason for (or against) the tensor."""
        self.score += score
        self.reasons.append(reason)


@names_damage
def inspect(model: ModelProto | str | os.PathLike[str]) -> list[Candidate]:
    """Tensors that look like classification logits, the likeliest first.

    These are what a ``Sigmoid`` or ``Softmax`` reads (unless it is a gate or attention) and the outputs of
    the graph, where type and rank fit; an output that is itself a probability is listed as the logits
    behind it. Tensors that look like boxes come last, with the reason.

    Raises:
        ModelError: the model is damaged.
    """
    if not isinstance(model, ModelProto):
        model = onnx.load(os.fspath(model), load_external_data=False)
    tensors, makers = known_tensors(model), producers(model)
    consumers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    outputs = {output.name for output in model.graph.output}

    found: dict[str, Candidate] = {}
    for activation, op_type in ACTIVATION_OPERATOR.items():
        for node in model.graph.node:
            if node.op_type == op_type and not node.domain and not _is_internal(node, consumers, outputs):
                candidate = _candidate(found, node.input[0], tensors)
                candidate.activation = activation
                made = f"output {node.output[0]!r}" if node.output[0] in outputs else repr(node.output[0])
                candidate.add(_BEFORE_ACTIVATION, f"read by the {op_type} that makes {made}")
    for name in [output.name for output in model.graph.output]:
        maker = makers.get(name)
        if maker is None or maker.op_type not in ACTIVATION_OPERATOR.values():
            _candidate(found, name, tensors).add(_GRAPH_OUTPUT, "an output of the graph")

    plausible = [candidate for candidate in found.values() if _fits(candidate.tensor)]
    for candidate in plausible:
        _weigh(candidate)
    return sorted(plausible, key=lambda c: -c.score)


def _candidate(found: dict[str, Candidate], name: str, tensors: dict[str, Tensor]) -> Candidate:
    return found.setdefault(name, Candidate(tensors.get(name, Tensor(name, 0, None))))


def _is_internal(node: NodeProto, consumers: dict[str, list[NodeProto]], outputs: set[str]) -> bool:
    readers = consumers.get(node.output[0], [])
    if node.output[0] in outputs or not readers:
        return False
    return all(reader.op_type in _INTERNAL_CONSUMERS[node.op_type] for reader in readers)


def _fits(tensor: Tensor) -> bool:
    """Floating point, and of rank 2 to 4 where the rank is known."""
    if tensor.element_type and tensor.element_type not in ARITHMETIC_TYPE:
        return False
    return tensor.shape is None or 2 <= len(tensor.shape) <= 4


def _weigh(candidate: Candidate) -> None:
    for pattern, score, reason in _NAME_HINTS:
        if pattern.search(candidate.tensor.name):
            candidate.add(score, reason)
    shape = candidate.tensor.shape
    if shape is not None and len(shape) < 4 and shape[-1] == 4:
        candidate.add(_BOX_LIKE, "its last dimension is 4, like boxes")
