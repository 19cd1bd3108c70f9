"""Which tensors of a graph are focal losses, and which are only like one."""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from .elementwise import CONTEXT, Cone, Elementwise, Number, Region, attribute
from .formulas import Variant
from .functions import nodes_of_domain, variant_of
from .operators import ARITHMETIC_TYPE, LOSSES
from .recognition import Parameters, Recognition, recognise, softmax_form

OPERATOR = LOSSES["sigmoid"]

#: Without one of these there is no cross entropy.
_LOGARITHMS = frozenset({"Log", "Log1p", "Softplus"})

#: Constants are as exact as the type that they were written in, and attributes are float32.
_ROUNDING: dict[int, float] = {TensorProto.FLOAT16: 2.0**-9, TensorProto.BFLOAT16: 2.0**-6}
_FLOAT32_ROUNDING = 2.0**-22

#: What a type rounds a number by at most, relative to it.
_UNIT_ROUNDING: dict[int, float] = {
    TensorProto.FLOAT16: 2.0**-11,
    TensorProto.BFLOAT16: 2.0**-8,
    TensorProto.FLOAT: 2.0**-24,
    TensorProto.DOUBLE: 2.0**-53,
}

_SOFTMAX_OPERATORS = ("Softmax", "LogSoftmax", "SoftmaxCrossEntropyLoss")
#: What may lie between a softmax and the probability of the true class.
_PICKING = frozenset({
    "Gather", "GatherElements", "GatherND", "NegativeLogLikelihoodLoss", "ReduceSum", "ReduceMax", "Mul", "Neg",
    "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Identity", "Flatten", "Cast", "Log", "Exp", "Add", "Clip",
})  # fmt: skip


@dataclass(frozen=True)
class LeftAlone:
    """Something like a focal loss that was not replaced, and why."""

    output: str
    reason: str

    def __str__(self) -> str:
        return f"{self.output!r} {self.reason}"


@dataclass
class Plan:
    """A region that is to become the operator."""

    region: Region
    parameters: Parameters
    alpha: float
    gamma: float
    scale: float
    soft: bool
    notes: list[str] = field(default_factory=list)
    near: bool = False

    @property
    def logits(self) -> str:
        return self.region.cut[0]

    @property
    def targets(self) -> str:
        return self.region.cut[1]


class Search:
    """Goes through the tensors from the outputs back, and takes the outermost that is a focal loss."""

    def __init__(self, model: ModelProto, allow_epsilon: bool, hard_targets: bool) -> None:
        self.graph = Elementwise(model)
        self.allow_epsilon = allow_epsilon
        self.hard_targets = hard_targets
        self.left_alone: list[LeftAlone] = []
        self.covered: set[str] = set()
        self._variant = self._present_variant()

    def plans(self) -> list[Plan]:
        """Exact ones first; then those that need a factor or an epsilon, where there is nothing better inside."""
        found: list[Plan] = []
        later: list[Plan] = []
        misses: list[tuple[Region, str]] = []
        for name in reversed(self.graph.order):
            if name in self.covered or not self._may_be_loss(name):
                continue
            for plan, region, reason in self._examine(name):
                if plan is None:
                    misses.append((region, reason))
                elif plan.scale == 1 and not plan.near:
                    self._accept(plan, found)
                    break
                else:
                    later.append(plan)
        for plan in later:
            if self.covered.isdisjoint(plan.region.inside):
                self._accept(plan, found)
        self._report(misses)
        self._report(list(self._softmax_losses()))
        return sorted(found, key=lambda plan: self.graph.order.index(plan.region.output))

    def _accept(self, plan: Plan, found: list[Plan]) -> None:
        self.covered.update(plan.region.inside)
        variant = Variant(OPERATOR, self.graph.tensor(plan.logits).element_type, False, False, False, False)
        self._variant = self._variant or variant
        if self._variant == variant:
            found.append(plan)
            return
        self.left_alone.append(
            LeftAlone(
                plan.region.output,
                "is a focal loss, but needs another function than the model's other one "
                "(in its type or its kind of targets), and a model has one function of a name",
            )  # fmt: skip
        )

    def _report(self, misses: list[tuple[Region, str]]) -> None:
        """The outermost of those that nothing better was found in."""
        for region, reason in misses:
            if self.covered.isdisjoint(region.inside):
                self.covered.update(region.inside)
                self.left_alone.append(LeftAlone(region.output, reason))

    def _present_variant(self) -> Variant | None:
        """Of the operators that the model has already."""
        for node in nodes_of_domain(self.graph.model.graph):
            if node.op_type == OPERATOR.name:
                return variant_of(node, self.graph.tensors)
        return None

    def _may_be_loss(self, name: str) -> bool:
        return name in self.graph.operands and self.graph.tensor(name).element_type in ARITHMETIC_TYPE

    def _examine(self, name: str) -> Iterator[tuple[Plan | None, Region, str]]:
        """What a tensor is: a plan, or a reason why there is none; the best of its cuts."""
        cone = Cone(self.graph, name)
        if not cone.operators & _LOGARITHMS:
            return
        kind = self.graph.tensor(name).element_type
        cuts = [cut for cut in cone.cuts() if self._fits(name, kind, *cut)]
        cuts.sort(key=lambda cut: self.graph.tensor(cut[1]).element_type != kind)
        best: tuple[int, Plan | None, Region, str] | None = None
        for cut in cuts:
            region = cone.region(*cut)
            known_hard = self.hard_targets or is_hard(self.graph, cut[1])
            is_condition = self.graph.tensor(cut[1]).element_type == TensorProto.BOOL
            function = _of_conditions(region) if is_condition else region
            what = region.compared(), known_hard, _UNIT_ROUNDING[kind]
            found = recognise(function, *what)
            if found is None and not self._makes_softmax(cut[0]):
                found = recognise(_of_probabilities(function), *what)
                if found is not None and self._is_tried(best, 0):
                    reason = f"is {_named(found)} of the probabilities {cut[0]!r}, and the logits are not in the graph"
                    best = (0, None, region, reason)
                continue
            if found is None:
                continue
            rank, plan, reason = self._judge(region, found, known_hard)
            if self._is_tried(best, rank):
                best = (rank, plan, region, reason)
        if best is not None:
            yield best[1:]

    @staticmethod
    def _is_tried(best: tuple[int, Any, Any, Any] | None, rank: int) -> bool:
        return best is None or rank > best[0]

    def _fits(self, output: str, kind: int, logits: str, targets: str) -> bool:
        """Types, and shapes as far as they are known."""
        kinds = {*ARITHMETIC_TYPE, TensorProto.BOOL, TensorProto.INT32, TensorProto.INT64}
        if self.graph.tensor(logits).element_type != kind or self.graph.tensor(targets).element_type not in kinds:
            return False
        shape = self.graph.tensor(logits).shape
        if shape == ():
            return False
        return all(_may_equal(shape, self.graph.tensor(name).shape) for name in (targets, output))

    def _judge(self, region: Region, found: Recognition, known_hard: bool) -> tuple[int, Plan | None, str]:
        """How good a recognition is, and the plan or the reason why not."""
        what = _named(found)
        if abs(found.parameters.gamma) < Decimal("1e-3"):
            return 0, None, "is a binary cross entropy without a focusing factor (gamma 0), no focal loss"
        if not found.parameters.a or not found.parameters.b:
            return 0, None, f"is {what}: one side of a focal loss, which has no loss on the other"
        problem = self._shapes_of_constants(region)
        if problem:
            return 1, None, f"is {what}, but {problem}"
        if found.only_near and not self.allow_epsilon:
            return 1, None, (
                f"is {what} but for an epsilon or a bound: {found.difference} "
                "(allow_epsilon, --allow-epsilon, replaces it all the same)"
            )  # fmt: skip
        if not (found.soft or (found.hard and known_hard)):
            return 2, None, (
                f"is {what} for targets 0 and 1 only: {found.difference} "
                "(hard_targets, --hard-targets, says that there are no others)"
            )  # fmt: skip
        plan = self._plan(region, found)
        if plan is None:
            return 1, None, f"is like {what}, but no alpha in [0, 1] and factor express it"
        return 4 if plan.scale == 1 and not plan.near else 3, plan, ""

    def _plan(self, region: Region, found: Recognition) -> Plan | None:
        kind = self.graph.tensor(region.cut[0]).element_type
        rounding = 1e-4 if found.only_near else _ROUNDING.get(kind, _FLOAT32_ROUNDING)
        split = alpha_and_scale(float(found.parameters.a), float(found.parameters.b), rounding)
        gamma = _float32(float(found.parameters.gamma))
        if split is None or gamma < 0:
            return None
        alpha, scale = split
        plan = Plan(region, found.parameters, alpha, gamma, scale, found.soft, near=found.only_near)
        if found.only_near:
            plan.notes.append(f"the epsilon or bound is gone: {found.difference}")
        if alpha < 0 and scale not in (1, -1):
            plan.notes.append(f"the factor {scale:g} is the same for positives and negatives: it balances nothing")
        if kind == TensorProto.DOUBLE:
            wanted = (found.parameters.a, found.parameters.b, found.parameters.gamma)
            got = (*_sides(alpha, scale), gamma)
            change = max(abs(float(w) - g) / abs(g) for w, g in zip(wanted, got, strict=True))
            if change > 1e-15:
                plan.notes.append(f"alpha and gamma became float32, a relative change of up to {change:.0e}")
        shapes = [self.graph.tensor(name).shape for name in region.cut]
        if None in shapes or shapes[0] != shapes[1] or None in (shapes[0] or ()):
            plan.notes.append("logits and targets are not known to have the same shape, which the operator needs")
        return plan

    def _shapes_of_constants(self, region: Region) -> str:
        """Why constants of more than one element may widen the result; nothing if they do not."""
        shape = self.graph.tensor(region.cut[0]).shape
        same = {*region.inside, *region.cut}
        for name, constant in region.constants.items():
            if constant.shape_of is not None:
                if constant.shape_of not in same and not _surely_equal(
                    shape, self.graph.tensor(constant.shape_of).shape
                ):
                    return f"{name!r} may have another shape than the logits"
            elif len(constant.shape) > 1 or constant.shape not in ((), (1,)):
                if shape is None or not _broadcasts_into(constant.shape, shape):
                    return f"the constant {name!r} of shape {list(constant.shape)} may broadcast the logits"
        return ""

    def _softmax_losses(self) -> Iterator[tuple[Region, str]]:
        """Focal losses of a softmax, which are another loss, and are named."""
        for name in reversed(self.graph.order):
            if name in self.covered or not self._may_be_loss(name):
                continue
            cone = Cone(self.graph, name)
            leaves = cone.leaves()
            found = None
            if len(leaves) == 1:
                found = self._softmax_of_one(cone.region(*leaves), leaves[0])
            elif any(self._makes_softmax(leaf) for leaf in leaves):
                cuts = (cut for cut in cone.cuts() if self._makes_softmax(cut[0]))
                found = next(filter(None, (self._softmax_of_two(cone.region(*cut), *cut) for cut in cuts)), None)
            if found:
                yield found

    def _softmax_of_one(self, region: Region, leaf: str) -> tuple[Region, str] | None:
        """A function of the true class's probability, or of its logarithm."""
        softmax = self._softmax_behind(leaf)
        if softmax is None:
            return None
        for argument in (lambda p: p, lambda p: p.ln(), lambda p: -p.ln()):
            for sign in (1, -1):
                found = softmax_form(lambda p, a=argument, s=sign: _times(s, region(a(p))))  # type: ignore[misc]
                if found:
                    return region, _wrong_softmax(softmax, "the true class's term alone", *found)
        return None

    def _softmax_of_two(self, region: Region, first: str, second: str) -> tuple[Region, str] | None:
        """A function of every class's probability and a one-hot label."""
        node = self.graph.producers[first]
        is_logarithm = node.op_type == "LogSoftmax"
        for sign in (1, -1):

            def loss(p: Decimal, t: int, sign: int = sign) -> Number:
                return _times(sign, region(p.ln() if is_logarithm else p, Decimal(t)))

            found = softmax_form(lambda p, loss=loss: loss(p, 1))  # type: ignore[misc]
            if found:
                with decimal.localcontext(CONTEXT):
                    at_zero = loss(Decimal("0.3"), 0)
                label = f"a one-hot label ({second!r})" if at_zero == 0 else f"the labels {second!r}"
                return region, _wrong_softmax(node, label, *found)
        return None

    def _makes_softmax(self, name: str) -> bool:
        node = self.graph.producers.get(name)
        return node is not None and node.op_type in ("Softmax", "LogSoftmax")

    def _softmax_behind(self, name: str) -> NodeProto | None:
        queue = [name]
        for current in queue:
            node = self.graph.producers.get(current)
            if node is None or len(queue) > 40:
                continue
            if node.op_type in _SOFTMAX_OPERATORS:
                return node
            if node.op_type in _PICKING:
                queue.extend(name for name in node.input if name)
        return None


def _times(sign: int, value: Number) -> Number:
    return sign * value if isinstance(value, Decimal) else value


def _wrong_softmax(softmax: NodeProto, label: str, alpha: Decimal, gamma: Decimal) -> str:
    text = (
        f"is a focal loss of a {softmax.op_type} ({softmax.output[0]!r}) and {label}, gamma {float(gamma):g}: not the "
        "published loss, in which every class has a term of its own"
    )
    if alpha == 1:
        return f"{text} (SoftmaxFocalLoss computes it)"
    return f"{text}; its constant alpha {float(alpha):g} scales everything alike and balances nothing"


def _named(found: Recognition) -> str:
    p = found.parameters
    factors = f"factor {float(p.a):.4g} of positives, {float(p.b):.4g} of negatives"
    return f"a focal loss (gamma {float(p.gamma):.4g}, {factors})"


def _of_conditions(region: Region) -> Any:
    """A region whose targets are conditions, as a function of numbers."""
    return lambda x, t: region(x, t != 0)


def _of_probabilities(function: Any) -> Any:
    return lambda x, t: function(1 / (1 + (-x).exp()), t)


def _float32(value: float) -> float:
    return float(np.float32(value))


def alpha_and_scale(a: float, b: float, rounding: float) -> tuple[float, float] | None:
    """``alpha`` (-1: off) and a factor that express ``a*t + b*(1-t)``; ``None`` if there are none."""

    def near(value: float, wanted: float) -> bool:
        return abs(value - wanted) <= rounding * abs(wanted)

    def plain(value: float) -> float:
        return next((w for w in (1.0, -1.0) if near(value, w)), value)

    if near(a, b) and a:
        return (0.5, 1.0) if near(a, 0.5) else (-1.0, plain(a))
    if a * b < 0 or a + b == 0:
        return None
    scale = plain(a + b)
    return _float32(a / scale), scale


def _sides(alpha: float, scale: float) -> tuple[float, float]:
    """The factors of positives and negatives that an operator has."""
    return (scale, scale) if alpha < 0 else (scale * alpha, scale * (1 - alpha))


def is_hard(graph: Elementwise, name: str) -> bool:
    """Whether a tensor is known to hold nothing but 0 and 1."""
    if graph.tensor(name).element_type == TensorProto.BOOL:
        return True
    constant = graph.constant(name)
    if constant is not None:
        return constant.value in (0, 1)
    array = graph.array(name)
    if array is not None:
        return array.dtype.kind in "fiub" and bool(((array == 0) | (array == 1)).all())
    node = graph.producers.get(name)
    if node is None or node.domain:
        return False
    inputs = list(node.input)
    if node.op_type == "OneHot":
        return is_hard(graph, inputs[2])
    if node.op_type == "Sub":
        minuend = graph.constant(inputs[0])
        return minuend is not None and minuend.value == 1 and is_hard(graph, inputs[1])
    if node.op_type in ("Where", "ScatterElements", "ScatterND"):
        values = inputs[1:] if node.op_type == "Where" else [inputs[0], inputs[2]]
        return attribute(node, "reduction", b"none") == b"none" and all(is_hard(graph, i) for i in values)
    if node.op_type in ("Concat", "Mul", "Max", "Min"):
        return all(is_hard(graph, i) for i in inputs)
    moves = (
        "Cast",
        "Identity",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Gather",
        "Slice",
        "Expand",
        "Flatten",
        "Tile",
    )
    return node.op_type in moves and is_hard(graph, inputs[0])


def _may_equal(first: tuple[Any, ...] | None, second: tuple[Any, ...] | None) -> bool:
    """Whether two shapes can be the same."""
    if first is None or second is None:
        return True
    known = (a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(first, second, strict=False))
    return len(first) == len(second) and all(known)


def _surely_equal(first: tuple[Any, ...] | None, second: tuple[Any, ...] | None) -> bool:
    return first is not None and first == second and None not in first


def _broadcasts_into(shape: tuple[int, ...], into: tuple[Any, ...]) -> bool:
    """Whether broadcasting a tensor of the first shape leaves the second as it is."""
    if len(shape) > len(into):
        return False
    ends = into[len(into) - len(shape) :]
    return all(length in (1, end) for length, end in zip(shape, ends, strict=True))
