"""The losses and their gradients in standard ONNX operators.

Nothing here overflows or turns a finite logit into NaN: every exponential has an argument of at most
zero, ``1-p`` is never a subtraction from one, logarithms near one go through :func:`log1p`, and a
product whose limit is zero is zero (:func:`limit_product`). Ignored rows are replaced before the
arithmetic and masked after it.

Elements are computed in the arithmetic type of the logits, sums and quotients in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, TensorProto

from .body import Body, Value
from .operators import ARITHMETIC_TYPE, NORMALIZATIONS, REDUCTIONS, Operator

#: Stands for an ``ignore_index`` or ``background_index`` that the node does not have.
ABSENT_INDEX = int(np.iinfo(np.int64).min)

Product = Callable[[Value, Value], Value]

#: Below this the exponential is less than half of the smallest number.
_EXP_IS_ZERO: dict[int, float] = {TensorProto.FLOAT: -104.0, TensorProto.DOUBLE: -746.0}

_LAST = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Variant:
    """What a function body is made for; everything else is an attribute of the calling node.

    ``dtype`` is the ONNX element type of the logits, ``index_targets`` tells class indices from dense
    targets, and the last three say which of the optional inputs are there.
    """

    operator: Operator
    dtype: int
    index_targets: bool
    class_alpha: bool
    weight: bool
    normalizer: bool


def result_of(body: Body, variant: Variant) -> Value:
    """Write the whole operator into ``body``; returns its output."""
    problem = Problem(body, variant)
    loss = SigmoidLoss(problem) if variant.operator.activation == "sigmoid" else SoftmaxLoss(problem)
    divisor = divisor_of(problem, loss)
    if not variant.operator.is_gradient:
        return reduced(problem, loss.values(), divisor)
    share = body.input("grad_loss", variant.dtype).cast(TensorProto.DOUBLE) / divisor
    scale = body.where(divisor.equals(0), 0, problem.normalized(share))
    return loss.gradient(scale.cast(problem.real)).cast(variant.dtype)


def limit_product(factor: Value, value: Value) -> Value:
    """``factor * value``, but 0 where the factor is 0 and the value infinite: the limit."""
    vanishes = factor.equals(0) & value.is_infinite()
    return factor.body.where(vanishes, 0, factor * value)


def exp(x: Value) -> Value:
    """``exp(x)`` for ``x <= 0``, and exactly 0 from where it rounds to that.

    Not every host's ``Exp`` gets there: ONNX Runtime 1.17 stops at 5.6e-309 in float64, which times
    a large logit is not small.
    """
    return x.body.where(x < _EXP_IS_ZERO[x.dtype], 0, x.body.op("Exp", x))


def log1p(u: Value) -> Value:
    """``log(1 + u)`` for finite ``u >= 0`` without losing small ``u`` (Kahan's correction)."""
    body, w = u.body, 1 + u
    return body.where(w.equals(1), u, body.op("Log", w) * (u / (w - 1)))


def choice(body: Body, attribute: str, options: tuple[str, ...]) -> Value:
    """Which of ``options`` the string attribute is, as a scalar index.

    ``Equal`` takes strings only from opset 19 on. A vocabulary of the options, one word each, counts
    the attribute as a one-hot vector on every opset.
    """
    word = body.op("Unsqueeze", body.attribute(attribute, AttributeProto.STRING), body.integers(0))
    counts = body.op(
        "TfIdfVectorizer",
        word,
        dtype=TensorProto.FLOAT,
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=list(range(len(options))),
        pool_strings=list(options),
    )
    return body.op("ArgMax", counts, dtype=TensorProto.INT64, axis=0, keepdims=0)


class Problem:
    """The inputs and attributes of an operator as expressions, shaped to broadcast against the logits.

    Rows keep the class axis with length 1, so a row's value meets its K logits by broadcasting,
    whatever the rank and wherever the axis.
    """

    def __init__(self, body: Body, variant: Variant) -> None:
        self.body = body
        self.variant = variant
        self.real = ARITHMETIC_TYPE[variant.dtype]
        self.gamma = body.attribute("gamma", AttributeProto.FLOAT).cast(self.real)

        logits = body.input("logits", variant.dtype)
        self.shape = body.op("Shape", logits, dtype=TensorProto.INT64)
        rank = body.op("Shape", self.shape)
        axis = body.op("Unsqueeze", body.attribute("axis", AttributeProto.INT), body.integers(0))
        # ONNX Runtime 1.17 reduces an empty tensor wrongly along a negative axis.
        self.axis = body.where(axis < 0, axis + rank, axis)
        self.class_count = body.op("Gather", self.shape, self.axis)
        ones = body.op("Expand", body.integers(1), rank)
        self.class_shape = body.op("ScatterElements", ones, self.axis, self.class_count, axis=0)
        self.row_shape = body.op("ScatterElements", self.shape, self.axis, body.integers(1), axis=0)
        outside = body.op("ScatterElements", ones, self.axis, body.integers(0), axis=0)
        self.squeezed_shape = body.op("Compress", self.shape, outside.cast(TensorProto.BOOL), axis=0)
        count = body.op("Squeeze", self.class_count)
        indices = body.op("Range", body.constant(0, TensorProto.INT64), count, body.constant(1, TensorProto.INT64))
        self.classes = body.op("Reshape", indices, self.class_shape)

        self._read_targets()
        self.logits = self.masked(logits.cast(self.real))
        self.alpha = self._read_alpha()
        self.weight = self._read_weight() if variant.weight else None

    def _read_targets(self) -> None:
        body = self.body
        if not self.variant.index_targets:
            targets = body.input("targets", self.variant.dtype).cast(self.real)
            self.labels = body.op("Reshape", targets, self.shape)
            self.ignored = self.invalid = None
            return
        indices = body.input("targets", TensorProto.UNDEFINED).cast(TensorProto.INT64)
        # The Reshape changes nothing; it refuses targets that have another number of rows.
        rows = body.op("Reshape", body.op("Unsqueeze", indices, self.axis), self.row_shape)
        ignore_index = body.attribute("ignore_index", AttributeProto.INT)
        self.ignored = rows.equals(ignore_index) & ~ignore_index.equals(ABSENT_INDEX)
        self.positive = (rows >= 0) & (rows < self.class_count) & ~self.ignored
        allowed = self.ignored | self.positive
        if self.variant.operator.activation == "sigmoid":
            background_index = body.attribute("background_index", AttributeProto.INT)
            is_absent = background_index.equals(ABSENT_INDEX)
            background = rows.equals(body.where(is_absent, self.class_count, background_index))
            self.positive = self.positive & ~background
            allowed = allowed | background
        self.invalid = ~allowed
        self.hit = self.positive & rows.equals(self.classes)

    def _read_alpha(self) -> Value:
        if self.variant.class_alpha:
            alpha = self.body.input("class_alpha", self.variant.dtype).cast(self.real)
            return self.body.op("Reshape", alpha, self.class_shape)
        return self.body.attribute("alpha", AttributeProto.FLOAT).cast(self.real)

    def unless_off(self, factor: Value) -> Value:
        """``factor``, but 1 where the attribute ``alpha`` is negative; ``class_alpha`` is never off."""
        return factor if self.variant.class_alpha else self.body.where(self.alpha < 0, 1, factor)

    def _read_weight(self) -> Value:
        weight = self.body.input("weight", self.variant.dtype).cast(self.real)
        if self.variant.operator.activation == "sigmoid":
            return self.masked(self.body.op("Expand", weight, self.shape))
        return self.masked(self.per_row(weight))

    def per_row(self, value: Value) -> Value:
        """``value`` broadcast to the rows."""
        rows = self.body.op("Expand", value, self.squeezed_shape)
        return self.body.op("Reshape", self.body.op("Unsqueeze", rows, self.axis), self.row_shape)

    def masked(self, value: Value) -> Value:
        """``value`` with 0 in the ignored rows, whatever is there."""
        return value if self.ignored is None else self.body.where(self.ignored, 0, value)

    def checked(self, value: Value) -> Value:
        """``value`` with 0 in the ignored rows and NaN in those whose class does not exist."""
        if self.invalid is None:
            return value
        return self.masked(self.body.where(self.invalid, float("nan"), value))

    def normalized(self, value: Value) -> Value:
        """A float64 ``value`` divided by the normalizer, if there is one."""
        if not self.variant.normalizer:
            return value
        normalizer = self.body.input("normalizer", self.variant.dtype).cast(TensorProto.DOUBLE)
        scalar = self.body.constant(np.empty(0), TensorProto.INT64)
        return value / self.body.op("Reshape", normalizer, scalar)

    def over_classes(self, value: Value) -> Value:
        """Sum along the class axis, which stays with length 1."""
        return self.body.op("ReduceSum", value, self.axis, keepdims=1)

    def total(self, value: Value) -> Value:
        """Sum of everything, a float64 scalar."""
        return self.body.op("ReduceSum", value.cast(TensorProto.DOUBLE), keepdims=0)

    def count_of_classes(self) -> Value:
        """K, a float64 scalar."""
        return self.body.op("Squeeze", self.class_count).cast(TensorProto.DOUBLE)

    def count_of_rows(self) -> Value:
        """Rows that are not ignored, a float64 scalar."""
        if self.ignored is not None:
            return self.total(~self.ignored)
        return self.body.op("ReduceProd", self.row_shape, keepdims=0).cast(TensorProto.DOUBLE)

    def count_of_positives(self) -> Value:
        """Rows of a real class, or the sum of dense targets; never below 1."""
        positives = self.total(self.positive if self.variant.index_targets else self.labels)
        return self.body.op("Max", positives, 1)


class SigmoidLoss:
    """K binary losses per row.

    ::

        e = exp(-|x|)    p = sigmoid(x)    q = sigmoid(-x)    m = q*t + p*(1-t)
        CE    = log1p(e) + max(-x,0)*t + max(x,0)*(1-t)
        L     = weight * alpha_t * m^gamma * CE
        dL/dx = weight * alpha_t * m^gamma * [(p-t) + gamma*(1-2t)*r*CE],   r = p*q/m
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        body, x = problem.body, problem.logits
        e = exp(-abs(x))
        larger, smaller = 1 / (1 + e), e / (1 + e)
        self.p = body.where(x >= 0, larger, smaller)
        self.q = body.where(x >= 0, smaller, larger)
        self.m = self._by_label(self.q, self.p)
        self.power = self.m**problem.gamma
        distance = self._by_label(body.op("Max", -x, 0), body.op("Max", x, 0), times=limit_product)
        self.cross_entropy = log1p(e) + distance

    def values(self) -> Value:
        """The loss of every logit, in the logits' shape."""
        return self.problem.checked(limit_product(self._coefficient(), self.power * self.cross_entropy))

    def gradient(self, scale: Value) -> Value:
        """The derivative of every logit's loss times ``scale``."""
        body = self.problem.body
        r = body.where(self.m.equals(0), 1, self.p * self.q / self.m)
        # p - t without the subtraction: -q at t = 1, p at t = 0.
        error = self._by_label(-self.q, self.p)
        sign = self._by_label(self._number(-1), self._number(1))
        slope = error + self.problem.gamma * sign * limit_product(r, self.cross_entropy)
        return self.problem.checked(self._coefficient() * scale * (self.power * slope))

    def count_of_elements(self) -> Value:
        """Logits in rows that are not ignored."""
        return self.problem.count_of_rows() * self.problem.count_of_classes()

    def _coefficient(self) -> Value:
        """``weight * alpha_t``."""
        alpha, weight = self.problem.alpha, self.problem.weight
        alpha_t = self.problem.unless_off(self._by_label(alpha, 1 - alpha))
        return alpha_t if weight is None else weight * alpha_t

    def _by_label(self, positive: Value, negative: Value, times: Product = Value.__mul__) -> Value:
        """``positive*t + negative*(1-t)``: for class indices, one or the other."""
        problem = self.problem
        if problem.variant.index_targets:
            return problem.body.where(problem.hit, positive, negative)
        return times(problem.labels, positive) + times(1 - problem.labels, negative)

    def _number(self, value: float) -> Value:
        return self.problem.body.constant(value, self.problem.real)


class SoftmaxLoss:
    """One loss per row.

    ::

        o_j = 1 - p_j = (sum of the other exponentials) / (sum of all)
        CE_j = -log p_j     h_j = CE_j / o_j  (1 where o_j = 0)
        L       = weight * sum_j t_j * alpha_j * o_j^gamma * CE_j
        c_j     = weight * t_j * alpha_j * o_j^gamma * (1 + gamma*p_j*h_j)
        dL/dx_i = p_i * (sum of the other c_j) - o_i * c_i

    With a class index only the terms of that class are formed.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        body, x = problem.body, problem.logits
        top = body.op("ArgMax", x, dtype=TensorProto.INT64, keepdims=1)
        body.refer(top, "axis", "axis", AttributeProto.INT)
        # The Reshape changes nothing, except that ONNX Runtime 1.17 reports another shape for no rows.
        top = problem.classes.equals(body.op("Reshape", top, problem.row_shape))
        largest = problem.over_classes(body.where(top, x, 0))
        # An infinite logit is no distance from itself; next to another one it has no limit (NaN).
        shifted = body.where(top & x.equals(largest), 0, x - largest)
        e = exp(shifted)
        rest = problem.over_classes(body.where(top, 0, e))
        total = 1 + rest
        # Only the largest exponential can be most of the sum; elsewhere the difference is safe.
        self.o = body.where(top, rest, total - e) / total
        self.p = e / total
        self.cross_entropy = log1p(rest) - shifted

    def values(self) -> Value:
        """The loss of every row, without the class axis."""
        o, cross_entropy = self._of_target(self.o), self._of_target(self.cross_entropy)
        terms = limit_product(self._coefficient(), o**self.problem.gamma * cross_entropy)
        return self.problem.body.op("Squeeze", self.problem.checked(self._sum(terms)), self.problem.axis)

    def gradient(self, scale: Value) -> Value:
        """The derivative of every row's loss times ``scale``."""
        body, gamma = self.problem.body, self.problem.gamma
        o, p, cross_entropy = map(self._of_target, (self.o, self.p, self.cross_entropy))
        h = body.where(o.equals(0), 1, cross_entropy / o)
        coefficient = self._coefficient() * self.problem.per_row(scale)
        c = coefficient * (o**gamma * (1 + gamma * limit_product(p, h)))
        own = body.where(self.problem.hit, c, 0) if self.problem.variant.index_targets else c
        return self.problem.checked(self.p * (self._sum(c) - own) - self.o * own)

    def count_of_elements(self) -> Value:
        """Rows that are not ignored: each has one loss."""
        return self.problem.count_of_rows()

    def _of_target(self, value: Value) -> Value:
        """A class index: the value at that class, one per row. Dense targets: all values."""
        if not self.problem.variant.index_targets:
            return value
        return self.problem.over_classes(self.problem.body.where(self.problem.hit, value, 0))

    def _sum(self, terms: Value) -> Value:
        """The sum over the target's classes."""
        return terms if self.problem.variant.index_targets else self.problem.over_classes(terms)

    def _coefficient(self) -> Value:
        """``weight * t * alpha`` for every term."""
        problem = self.problem
        coefficient = problem.unless_off(problem.alpha)
        if problem.variant.class_alpha:
            coefficient = self._of_target(coefficient)
        if not problem.variant.index_targets:
            coefficient = problem.labels * coefficient
        return coefficient if problem.weight is None else problem.weight * coefficient


def divisor_of(problem: Problem, loss: SigmoidLoss | SoftmaxLoss) -> Value:
    """What a mean is divided by, a float64 scalar; 1 for the other reductions. The normalizer is apart."""
    body = problem.body
    divisors = {
        "elements": loss.count_of_elements(),
        "rows": problem.count_of_rows(),
        "positives": problem.count_of_positives(),
        "weights": loss.count_of_elements() if problem.weight is None else problem.total(problem.weight),
    }
    first = body.integers(0)
    table = [body.op("Unsqueeze", divisors[name], first) for name in NORMALIZATIONS]
    chosen = body.op("Gather", body.op("Concat", *table, axis=0), choice(body, "normalization", NORMALIZATIONS))
    is_mean = choice(body, "reduction", REDUCTIONS).equals(REDUCTIONS.index("mean"))
    return body.where(is_mean, chosen, 1)


def reduced(problem: Problem, values: Value, divisor: Value) -> Value:
    """``values`` summed or not, as the attribute ``reduction`` says, and divided.

    Reducing over an added last axis of length 1 and, for a sum, over all the others gives results of
    different ranks without a branch.
    """
    body = problem.body
    rank = body.op("Size", body.op("Shape", values, dtype=TensorProto.INT64))
    axes = body.op("Range", body.constant(0, TensorProto.INT64), rank + 1, body.constant(1, TensorProto.INT64))
    is_none = choice(body, "reduction", REDUCTIONS).equals(REDUCTIONS.index("none"))
    start = body.op("Unsqueeze", body.where(is_none, rank, 0), body.integers(0))
    axes = body.op("Slice", axes, start, body.integers(_LAST))
    columns = body.op("Unsqueeze", values.cast(TensorProto.DOUBLE), body.integers(-1))
    sums = body.op("ReduceSum", columns, axes, keepdims=0)
    empty = sums.equals(0) & divisor.equals(0)
    return problem.normalized(body.where(empty, 0, sums / divisor)).cast(problem.variant.dtype)
