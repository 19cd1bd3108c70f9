"""The operators in plain float64 NumPy, to be read beside ``OPERATORS.md`` and to test others against.

Nothing is shared with the function bodies or the kernels. Inputs are converted to float64 first, so the
result for float32 inputs is what an exact computation on those inputs would round to, to within a few
units of float64. Classes that do not exist raise :class:`IndexError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def focal_loss(logits: ArrayLike, targets: ArrayLike, **options: Any) -> Array:
    """The loss.

    Args:
        logits: any shape.
        targets: class indices (integers, the logits' shape without the class axis) or dense labels
            (the logits' shape).
        options: the fields of :class:`Options`.

    Returns:
        A scalar for ``reduction`` ``"sum"`` and ``"mean"``; for ``"none"`` the logits' shape (sigmoid)
        or the rows' shape (softmax).
    """
    problem = _Problem(logits, targets, Options(**options))
    values, _ = problem.values_and_slopes()
    return problem.reduce(values)


def focal_loss_grad(grad_loss: ArrayLike, logits: ArrayLike, targets: ArrayLike, **options: Any) -> Array:
    """The gradient of ``sum(grad_loss * focal_loss(...))`` with respect to the logits."""
    problem = _Problem(logits, targets, Options(**options))
    _, slopes = problem.values_and_slopes()
    return problem.pull_back(np.asarray(grad_loss, np.float64), slopes)


@dataclass(frozen=True)
class Options:
    """The attributes and the optional inputs of the operators."""

    activation: str = "sigmoid"
    alpha: float | None = None
    gamma: float = 2.0
    reduction: str = "mean"
    normalization: str = "elements"
    axis: int = -1
    ignore_index: int | None = None
    background_index: int | None = None
    class_alpha: ArrayLike | None = None
    weight: ArrayLike | None = None
    normalizer: ArrayLike | None = None


class _Problem:
    """Inputs with the class axis last, and class indices turned into one-hot labels."""

    def __init__(self, logits: ArrayLike, targets: ArrayLike, options: Options) -> None:
        self.options = options
        self.sigmoid = options.activation == "sigmoid"
        self.given_shape = np.shape(logits)
        self.logits = np.moveaxis(np.asarray(logits, np.float64), options.axis, -1)
        *self.row_shape, self.class_count = self.logits.shape
        targets = np.asarray(targets)
        if np.issubdtype(targets.dtype, np.integer):
            self._read_indices(targets.astype(np.int64))
        else:
            self.labels = np.moveaxis(targets.astype(np.float64), options.axis, -1)
            self.counted = np.ones(self.row_shape, bool)
            self.positives = self.labels.sum()
        self.weight = self._read_weight()

    def _read_indices(self, indices: NDArray[np.int64]) -> None:
        options, count = self.options, self.class_count
        self.counted = np.ones(indices.shape, bool)
        if options.ignore_index is not None:
            self.counted = indices != options.ignore_index
        is_class = self.counted & (indices >= 0) & (indices < count)
        allowed = ~self.counted | is_class
        if self.sigmoid:
            background = indices == (count if options.background_index is None else options.background_index)
            is_class &= ~background
            allowed |= background
        if not allowed.all():
            row = int(np.flatnonzero(~allowed)[0])
            raise IndexError(f"target of row {row} is {indices.ravel()[row]}, but there are {count} classes")
        self.labels = ((indices[..., None] == np.arange(count)) & is_class[..., None]).astype(np.float64)
        self.positives = is_class.sum()

    def _read_weight(self) -> Array:
        """Per logit (sigmoid) or per row (softmax); 1 where there is none, 0 in ignored rows."""
        counted = self.counted[..., None] if self.sigmoid else self.counted
        shape = self.logits.shape if self.sigmoid else tuple(self.row_shape)
        weight = np.ones(shape)
        if self.options.weight is not None:
            weight = np.asarray(self.options.weight, np.float64)
            if self.sigmoid:  # broadcasts to the logits as they were given
                weight = np.moveaxis(np.broadcast_to(weight, self.given_shape), self.options.axis, -1)
        return np.where(counted, np.broadcast_to(weight, shape), 0.0)

    def values_and_slopes(self) -> tuple[Array, Array]:
        """Unreduced losses, and their derivatives with respect to the logits."""
        compute = _sigmoid if self.sigmoid else _softmax
        x = np.where(self.counted[..., None], self.logits, 0.0)
        values, slopes = compute(x, self.labels, self._alpha(), float(self.options.gamma))
        weight = self.weight if self.sigmoid else self.weight[..., None]
        return _limit_product(self.weight, values), weight * slopes

    def _alpha(self) -> Array | None:
        """Alpha, or one per class; ``None`` is off."""
        if self.options.class_alpha is not None:
            return np.asarray(self.options.class_alpha, np.float64)
        default = 0.25 if self.sigmoid else -1.0
        alpha = default if self.options.alpha is None else self.options.alpha
        return np.asarray(alpha, np.float64) if alpha >= 0 else None

    def divisor(self) -> np.float64:
        """What a mean is divided by; 1 for the other reductions."""
        if self.options.reduction != "mean":
            return np.float64(1)
        rows = self.counted.sum()
        divisors = {
            "elements": rows * self.class_count if self.sigmoid else rows,
            "rows": rows,
            "positives": max(self.positives, 1),
            "weights": self.weight.sum(),
        }
        return np.float64(divisors[self.options.normalization])

    def normalizer(self) -> np.float64:
        """What everything is divided by in the end."""
        given = self.options.normalizer
        return np.float64(1 if given is None else np.asarray(given, np.float64).item())

    def reduce(self, values: Array) -> Array:
        """Reduced as the options say. Nothing divided by nothing is nothing, and so is an ignored row by anything."""
        if self.options.reduction != "none":
            values = values.sum()
        divisor = self.divisor()
        with np.errstate(divide="ignore", invalid="ignore"):
            result = np.where((values == 0) & (divisor == 0), 0.0, values / divisor) / self.normalizer()
        if self.options.reduction == "none":
            result = np.where(self.counted[..., None] if self.sigmoid else self.counted, result, 0.0)
            result = np.moveaxis(result, -1, self.options.axis) if self.sigmoid else result
        return result

    def pull_back(self, grad_loss: Array, slopes: Array) -> Array:
        """The gradient in the logits' shape."""
        if self.options.reduction == "none":
            grad_loss = np.moveaxis(grad_loss, self.options.axis, -1) if self.sigmoid else grad_loss[..., None]
        divisor = self.divisor()
        if divisor == 0:
            return np.zeros(self.given_shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            grad = grad_loss / divisor / self.normalizer() * slopes
        grad = np.where(self.counted[..., None], grad, 0.0)  # not NaN, whatever it was multiplied by
        return np.moveaxis(grad, -1, self.options.axis)


def _sigmoid(x: Array, t: Array, alpha: Array | None, gamma: float) -> tuple[Array, Array]:
    """Loss and derivative of every logit (Lin et al. 2017, equation 5, with soft labels)."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        e = np.exp(-np.abs(x))
        p = np.where(x >= 0, 1 / (1 + e), e / (1 + e))
        q = np.where(x >= 0, e / (1 + e), 1 / (1 + e))
        cross_entropy = _limit_product(t, np.logaddexp(0, -x)) + _limit_product(1 - t, np.logaddexp(0, x))
        m = p * (1 - t) + q * t
        alpha_t = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
        focus = alpha_t * m**gamma
        r = np.where(m == 0, 1.0, p * q / m)
        slope = p * (1 - t) - q * t + gamma * (1 - 2 * t) * _limit_product(r, cross_entropy)
        return _limit_product(focus, cross_entropy), focus * slope


def _softmax(x: Array, t: Array, alpha: Array | None, gamma: float) -> tuple[Array, Array]:
    """Loss of every row and its derivative with respect to every logit."""
    count = x.shape[-1]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        top = np.arange(count) == np.argmax(x, axis=-1)[..., None]
        largest = np.where(top, x, 0.0).sum(axis=-1, keepdims=True)
        shifted = np.where(top & (x == largest), 0.0, x - largest)
        e = np.exp(shifted)
        # others[..., j] is the sum of the exponentials of all classes but j.
        others = np.stack([np.delete(e, j, axis=-1).sum(axis=-1) for j in range(count)], axis=-1)
        total = e.sum(axis=-1, keepdims=True)
        p, o = e / total, others / total
        cross_entropy = np.where(shifted == 0, np.log1p(others), np.log(total) - shifted)
        factor = t if alpha is None else t * alpha
        loss = _limit_product(factor, o**gamma * cross_entropy).sum(axis=-1)
        h = np.where(o == 0, 1.0, cross_entropy / o)
        c = factor * o**gamma * (1 + gamma * _limit_product(p, h))
        # sum over j of c_j * (p_i - [i == j]), with 1 - p_i as o_i
        return loss, p * (c.sum(axis=-1, keepdims=True) - c) - o * c


def _limit_product(factor: Array, value: Array) -> Array:
    """``factor * value``, 0 where the factor is 0 and the value infinite."""
    with np.errstate(invalid="ignore"):
        return np.where((factor == 0) & np.isinf(value), 0.0, factor * value)
