"""The operators of the domain ``focal_loss``: names, inputs, attributes and defaults, in one place.

Everything else in the package reads these tables; ``OPERATORS.md`` is the same in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, TensorProto

DOMAIN = "focal_loss"
VERSION = 1

#: ``T``: the element types of logits, weights and results, with the type the arithmetic is done in.
ARITHMETIC_TYPE: dict[int, int] = {
    TensorProto.FLOAT16: TensorProto.FLOAT,
    TensorProto.BFLOAT16: TensorProto.FLOAT,
    TensorProto.FLOAT: TensorProto.FLOAT,
    TensorProto.DOUBLE: TensorProto.DOUBLE,
}

#: ``Ti``: the element types of class indices.
INDEX_TYPES = (TensorProto.INT32, TensorProto.INT64)

#: What both losses take, in order; the gradients take ``grad_loss`` before them.
LOSS_INPUTS = ("logits", "targets", "class_alpha", "weight", "normalizer")
OPTIONAL_INPUTS = ("class_alpha", "weight", "normalizer")

REDUCTIONS = ("none", "sum", "mean")
NORMALIZATIONS = ("elements", "rows", "positives", "weights")


class InvalidAttribute(ValueError):
    """An attribute has a value that the operator does not accept."""


@dataclass(frozen=True)
class Attribute:
    """An attribute of the operators: its kind and its default (``None``: absent means absent)."""

    name: str
    kind: int
    default: float | int | str | None


@dataclass(frozen=True)
class Operator:
    """One operator: the loss it computes and whether it is the loss or its gradient."""

    name: str
    activation: str
    is_gradient: bool
    attributes: tuple[Attribute, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return ("grad_loss", *LOSS_INPUTS) if self.is_gradient else LOSS_INPUTS

    @property
    def output(self) -> str:
        """Name of the only output."""
        return "grad_logits" if self.is_gradient else "loss"

    def attribute(self, name: str) -> Attribute:
        """The attribute called ``name``."""
        return next(a for a in self.attributes if a.name == name)


def _attributes(alpha: float, background: bool) -> tuple[Attribute, ...]:
    common = (
        Attribute("alpha", AttributeProto.FLOAT, alpha),
        Attribute("gamma", AttributeProto.FLOAT, 2.0),
        Attribute("reduction", AttributeProto.STRING, "mean"),
        Attribute("normalization", AttributeProto.STRING, "elements"),
        Attribute("axis", AttributeProto.INT, -1),
        Attribute("ignore_index", AttributeProto.INT, None),
    )
    if background:
        return (*common, Attribute("background_index", AttributeProto.INT, None))
    return common


_SIGMOID = _attributes(alpha=0.25, background=True)
_SOFTMAX = _attributes(alpha=-1.0, background=False)

OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("SigmoidFocalLoss", "sigmoid", False, _SIGMOID),
        Operator("SoftmaxFocalLoss", "softmax", False, _SOFTMAX),
        Operator("SigmoidFocalLossGrad", "sigmoid", True, _SIGMOID),
        Operator("SoftmaxFocalLossGrad", "softmax", True, _SOFTMAX),
    )
}

#: The loss operator for each activation.
LOSSES = {op.activation: op for op in OPERATORS.values() if not op.is_gradient}
ACTIVATIONS = tuple(LOSSES)


def check_attributes(values: Mapping[str, Any], operator: Operator, index_targets: bool) -> None:
    """Raise :class:`InvalidAttribute` unless ``values`` are attributes that ``operator`` accepts.

    Args:
        values: attributes by name; those that are missing or ``None`` have their defaults.
        operator: the operator they are for.
        index_targets: whether the targets are class indices rather than dense.
    """
    known = [a.name for a in operator.attributes]
    for name, value in values.items():
        if value is None:
            continue
        if name == "background_index" and operator.activation == "softmax":
            raise InvalidAttribute("background_index is for the sigmoid loss: a softmax always names a class")
        if name not in known:
            raise InvalidAttribute(f"{operator.name} has no attribute {name!r}; it has {', '.join(known)}")
        if name in ("ignore_index", "background_index") and not index_targets:
            raise InvalidAttribute(f"{name} is for class indices, but the targets are dense")

    alpha, gamma = values.get("alpha"), values.get("gamma")
    if alpha is not None and not alpha <= 1:
        raise InvalidAttribute(f"alpha must be at most 1 (below 0 is off), not {alpha}")
    if gamma is not None and not (gamma >= 0 and math.isfinite(gamma)):
        raise InvalidAttribute(f"gamma must be finite and not negative, not {gamma}")
    for name, allowed in (("reduction", REDUCTIONS), ("normalization", NORMALIZATIONS)):
        if values.get(name) is not None and values[name] not in allowed:
            raise InvalidAttribute(f"{name} must be one of {', '.join(allowed)}, not {values[name]!r}")
