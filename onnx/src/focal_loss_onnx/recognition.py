"""Whether a function of a logit and a target is the focal loss, and of which alpha and gamma.

The functions are given as real functions (see :mod:`.elementwise`). Where the loss is::

    f(x, t) = (a*t + b*(1-t)) * m^gamma * CE,     m = p*(1-t) + (1-p)*t,     CE = softplus(x) - x*t

``a``, ``b`` and ``gamma`` follow from four values: ``f(x, 1) / CE`` is ``a * (1-p)^gamma``. What they are then has to
hold at many other points: far on both sides, at soft targets, and at targets outside [0, 1], where somebody may have
put a meaning ("ignore") that the formula does not have. It has to hold to 20 digits, but for what the graph's own type
could not tell: a rounding error of ``CE`` as a difference of numbers as large as ``x``. So PyTorch's softplus, which is
``x`` from 20 on, is the softplus in float32, and is not in float64.
"""

from __future__ import annotations

import decimal
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

from .elementwise import CONTEXT, Number

Loss = Callable[[Decimal, Decimal], Number]

_ONE = Decimal(1)
_HARD = (Decimal(0), Decimal(1))

#: Equal is equal to 20 digits of 90 (but see above); "but for an epsilon" is equal to this where logits are moderate.
_EXACT, _NEAR = Decimal("1e-20"), Decimal("2e-3")
_MODERATE = Decimal(5)

#: Targets outside [0, 1] that are used as marks.
_MARKS = tuple(map(Decimal, (-1, -2, -100, 2, 255)))

#: Larger exponents are no focusing that anybody means, and are noise in what is solved for.
_LARGEST_GAMMA = 50


@dataclass(frozen=True)
class Parameters:
    """Of ``(a*t + b*(1-t)) * m^gamma * CE``."""

    a: Decimal
    b: Decimal
    gamma: Decimal

    def __call__(self, x: Decimal, t: Decimal) -> Decimal:
        """The loss, within :data:`~focal_loss_onnx.elementwise.CONTEXT`."""
        factor, cross_entropy = self.parts(x, t)
        return factor * cross_entropy

    def parts(self, x: Decimal, t: Decimal) -> tuple[Decimal, Decimal]:
        """The loss as the cross entropy and what it is multiplied by."""
        p, q, softplus = _of_logit(x)
        cross_entropy = softplus - x * t
        m = p * (1 - t) + q * t
        power = _ONE if not self.gamma else m**self.gamma
        return (self.a * t + self.b * (1 - t)) * power, cross_entropy


@lru_cache(4096)
def _of_logit(x: Decimal) -> tuple[Decimal, Decimal, Decimal]:
    """``sigmoid(x)``, ``sigmoid(-x)`` and ``softplus(x)``, within the context, which is always the same."""
    e = x.exp()
    return e / (_ONE + e), _ONE / (_ONE + e), (_ONE + e).ln()


@dataclass(frozen=True)
class Recognition:
    """What a function was found to be.

    ``hard`` and ``soft`` say for which targets it is the focal loss of ``parameters``. ``only_near`` is true where it
    is so for moderate logits only, or nearly; ``difference`` then shows a value where it is not.
    """

    parameters: Parameters
    hard: bool
    soft: bool
    only_near: bool
    difference: str = ""

    def holds(self, hard_targets: bool) -> bool:
        """Whether it is the focal loss for the targets that there are."""
        return not self.only_near and (self.hard if hard_targets else self.soft)


def recognise(
    function: Loss, compared: Iterable[Decimal] = (), hard_targets: bool = False, rounding: float = 0.0
) -> Recognition | None:
    """What ``function`` is; ``None`` if it is nothing like a focal loss.

    Args:
        function: of a logit and a target, evaluated within the decimal context of :mod:`.elementwise`.
        compared: constants that the function compares something with, at which it is looked at, too.
        hard_targets: whether targets are known to be 0 or 1.
        rounding: the rounding error of the type that the graph computes in.
    """
    with decimal.localcontext(CONTEXT):
        parameters = _solve(function)
        if parameters is None:
            return None
        constants = [c for c in compared if abs(c) <= 120]
        logits = [*_logits(), *_around(constants)]
        unseen = Decimal(rounding)
        difference = _difference(function, parameters, ((x, t) for x in logits for t in _HARD), unseen=unseen)
        if difference:
            return _nearly(function, parameters, difference)
        found = Recognition(parameters, hard=True, soft=False, only_near=False)
        if hard_targets:
            return found
        soft = [*_soft_targets(len(logits)), *(c for c in constants if 0 < c < 1)]
        marks = {*_MARKS, *(c for c in constants if not 0 <= c <= 1)}
        points = [*zip(logits, soft, strict=False)]
        points += [(x, t) for x in logits[::8] for t in (*marks, *soft[:8], *soft[len(logits) :])]
        difference = _difference(function, parameters, points, unseen=unseen)
        if difference:
            return replace(found, difference=difference)
        return replace(found, soft=True)


def _solve(function: Loss) -> Parameters | None:
    """The parameters that four values ask for; other points will tell whether they are right."""
    sides = []
    for t in _HARD:
        sign = 1 - 2 * t  # the loss at (x, 0) is that at (-x, 1), but for a and b
        sides.append(_solve_side(lambda z, t=t, sign=sign: function(sign * z, t)))  # type: ignore[misc]
    (b, gamma_b), (a, gamma_a) = (side or (None, None) for side in sides)
    if a is None or b is None:
        return None
    gamma = gamma_b if gamma_a is None else gamma_a
    if gamma is None or not abs(gamma) <= _LARGEST_GAMMA:
        return None
    return Parameters(a, b, gamma)


def _solve_side(negative: Callable[[Decimal], Number]) -> tuple[Decimal, Decimal | None] | None:
    """``c`` and ``gamma`` of ``c * p^gamma * softplus(x)``; no gamma where it is 0 everywhere."""
    values = []
    for x in (Decimal("-1.25"), Decimal("0.75")):
        value = negative(x)
        if not isinstance(value, Decimal) or not value.is_finite():
            return None
        values.append((value / (_ONE + x.exp()).ln(), _ONE / (_ONE + (-x).exp())))
    (first, p_first), (second, p_second) = values
    if first == 0 and second == 0:
        return Decimal(0), None
    if first * second <= 0:
        return None
    gamma = (first / second).ln() / (p_first / p_second).ln()
    if abs(gamma - round(gamma)) < _EXACT:
        gamma = Decimal(round(gamma))  # so that it can be taken of a negative number
    return first / p_first**gamma, gamma


def _nearly(function: Loss, parameters: Parameters, difference: str) -> Recognition | None:
    """The same again, but for an epsilon: rounded parameters have to hold for moderate logits."""
    rounded = Parameters(*(round(value, 5) for value in (parameters.a, parameters.b, parameters.gamma)))
    if abs(rounded.gamma - round(rounded.gamma, 2)) < _NEAR:
        rounded = replace(rounded, gamma=round(rounded.gamma, 2))
    moderate = [x for x in _logits() if abs(x) < _MODERATE]
    if _difference(function, rounded, ((x, t) for x in moderate for t in _HARD), _NEAR):
        return None
    soft = _soft_targets(len(moderate))
    points = [(x, t) for x, t in zip(moderate, soft, strict=True)]
    return Recognition(
        rounded,
        hard=True,
        soft=not _difference(function, rounded, points, _NEAR),
        only_near=True,
        difference=_largest_difference(function, rounded) or difference,
    )


def _difference(
    function: Loss,
    parameters: Parameters,
    points: Iterable[tuple[Decimal, Decimal]],
    allowed: Decimal = _EXACT,
    unseen: Decimal = Decimal(0),
) -> str:
    """The first point where both are finite and differ, in words."""
    for x, t in points:
        value, (factor, cross_entropy) = function(x, t), parameters.parts(x, t)
        wanted = factor * cross_entropy
        if not isinstance(value, Decimal):
            return "it is not a number"
        if value.is_finite() and wanted.is_finite():
            if abs(value - wanted) > allowed * abs(wanted) + unseen * abs(factor) * (1 + abs(x)):
                return _at(x, t, value, wanted)
    return ""


def _largest_difference(function: Loss, parameters: Parameters) -> str:
    """The largest difference at a few logits on the wrong side."""
    largest, found = Decimal(0), ""
    for x in (Decimal(10), Decimal(20), Decimal(40), Decimal(120)):
        for sign, t in zip((1, -1), _HARD, strict=True):
            value, wanted = function(sign * x, t), parameters(sign * x, t)
            if (
                isinstance(value, Decimal)
                and value.is_finite()
                and abs(value - wanted) > max(largest, _NEAR * abs(wanted))
            ):
                largest, found = abs(value - wanted), _at(sign * x, t, value, wanted)
        if found:
            break
    return found


def _at(x: Decimal, t: Decimal, value: Decimal, wanted: Decimal) -> str:
    place = f"at logit {float(x):.4g} and target {float(t):.4g}"
    return f"{place} it is {float(value):.6g}, the focal loss {float(wanted):.6g}"


def _logits() -> list[Decimal]:
    """Logits on every scale, in every twelfth of its range, the same ones each time."""
    rng = random.Random(20170807)
    found = [Decimal((rng.random() + i) / 6 - 1) * scale for scale in (1, 8, 30, 120) for i in range(12)]
    return sorted([*found, Decimal(0)], key=lambda x: rng.random())


def _around(constants: Iterable[Decimal]) -> list[Decimal]:
    """Logits near the constants, and near those whose sigmoid is a constant: on both sides of a threshold."""
    found = []
    for c in constants:
        found += [c, c - Decimal("0.01"), c + Decimal("0.01")]
        if 0 < c < 1:
            logit = (c / (1 - c)).ln()
            found += [sign * (logit + step) for sign in (1, -1) for step in (Decimal("-0.01"), Decimal("0.01"))]
    return found


def _soft_targets(count: int) -> list[Decimal]:
    rng = random.Random(1708)
    return [Decimal(rng.random()) for _ in range(count)]


def softmax_form(function: Callable[[Decimal], Number]) -> tuple[Decimal, Decimal] | None:
    """``alpha`` and ``gamma`` if ``function`` is ``-alpha * (1-p)^gamma * log(p)`` of a probability, or nearly."""
    with decimal.localcontext(CONTEXT):
        values = []
        for p in (Decimal("0.3"), Decimal("0.65")):
            value = function(p)
            if not isinstance(value, Decimal) or not value.is_finite() or value <= 0:
                return None
            values.append((value / -p.ln(), 1 - p))
        (first, m_first), (second, m_second) = values
        gamma = (first / second).ln() / (m_first / m_second).ln()
        if not Decimal("0.01") < gamma < _LARGEST_GAMMA:
            return None
        alpha = first / m_first**gamma
        for p in map(Decimal, ("0.05", "0.12", "0.45", "0.8", "0.93")):
            value, wanted = function(p), -alpha * (1 - p) ** gamma * p.ln()
            if not isinstance(value, Decimal) or not abs(value - wanted) <= _NEAR * wanted:
                return None
        return round(alpha, 5), round(gamma, 3)
