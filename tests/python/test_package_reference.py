"""The NumPy reference against finite differences, the textbook formula, and limits."""

import itertools

import numpy as np
import pytest
from focal_loss_onnx import reference

GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.7)


def problem(activation, dense, axis, seed):
    rng = np.random.default_rng(seed)
    rows, classes = (3, 4), 5
    logits = np.moveaxis(rng.standard_normal((*rows, classes)) * 3, -1, axis)
    if dense:
        labels = rng.random((*rows, classes))
        targets = np.moveaxis(labels / labels.sum(-1, keepdims=True), -1, axis)
        options = {}
    else:
        targets = rng.integers(0, classes + (activation == "sigmoid"), rows)
        targets[0, 0] = -1
        options = {"ignore_index": -1}
    weight_shape = logits.shape if activation == "sigmoid" else rows
    options.update(
        activation=activation,
        axis=axis,
        class_alpha=rng.random(classes),
        weight=rng.random(weight_shape),
        normalizer=2.5,
    )
    return logits, targets, options


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradients_match_central_differences(activation, dense, axis, gamma):
    logits, targets, options = problem(activation, dense, axis, 1)
    options["gamma"] = gamma
    rng = np.random.default_rng(2)
    for reduction, normalization in [
        ("none", "elements"),
        ("sum", "elements"),
        ("mean", "weights"),
        ("mean", "positives"),
    ]:
        options.update(reduction=reduction, normalization=normalization)
        grad_loss = rng.standard_normal(reference.focal_loss(logits, targets, **options).shape)
        got = reference.focal_loss_grad(grad_loss, logits, targets, **options)

        def value(x, grad_loss=grad_loss):
            return (grad_loss * reference.focal_loss(x, targets, **options)).sum()

        wanted = np.zeros_like(logits)
        h = 1e-5
        for place in np.ndindex(logits.shape):
            step = np.zeros_like(logits)
            step[place] = h
            wanted[place] = (value(logits + step) - value(logits - step)) / (2 * h)
        assert np.allclose(got, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_sigmoid_is_the_published_formula(gamma):
    rng = np.random.default_rng(3)
    x, t = rng.standard_normal((7, 3)) * 2, rng.integers(0, 2, (7, 3)).astype(float)
    p = 1 / (1 + np.exp(-x))
    p_t = np.where(t == 1, p, 1 - p)
    alpha_t = np.where(t == 1, 0.25, 0.75)
    wanted = -alpha_t * (1 - p_t) ** gamma * np.log(p_t)
    assert np.allclose(reference.focal_loss(x, t, gamma=gamma, reduction="none"), wanted, rtol=1e-12)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_softmax_is_the_published_formula(gamma):
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((7, 3)) * 2, rng.integers(0, 3, 7)
    p = (np.exp(x) / np.exp(x).sum(-1, keepdims=True))[np.arange(7), y]
    wanted = -((1 - p) ** gamma) * np.log(p)
    options = {"activation": "softmax", "gamma": gamma, "reduction": "none"}
    assert np.allclose(reference.focal_loss(x, y, **options), wanted, rtol=1e-12)
    one_hot = np.eye(3)[y]
    assert np.allclose(reference.focal_loss(x, one_hot, **options), wanted, rtol=1e-12)


def test_alpha_differs_between_positive_and_negatives():
    """One anchor, three classes, the object is the second."""
    x = np.zeros((1, 3))
    losses = reference.focal_loss(x, np.array([1]), alpha=0.75, reduction="none")
    assert np.allclose(losses / (0.25 * np.log(2)), [[0.25, 0.75, 0.25]])


def test_indices_are_one_hot_labels_and_background_is_none():
    rng = np.random.default_rng(5)
    x = rng.standard_normal((6, 3))
    indices = np.array([0, 1, 2, 3, 3, 0])
    labels = np.vstack([np.eye(3), np.zeros(3)])[indices]
    for normalization in ("elements", "rows", "positives", "weights"):
        options = {"normalization": normalization}
        assert reference.focal_loss(x, indices, **options) == pytest.approx(reference.focal_loss(x, labels, **options))


def test_what_a_mean_divides_by():
    x = np.zeros((4, 3))
    targets = np.array([0, 3, -1, 2])
    weight = np.array([[1.0], [2.0], [100.0], [3.0]])
    total = reference.focal_loss(x, targets, ignore_index=-1, weight=weight, reduction="sum")
    for normalization, divisor in {"elements": 9, "rows": 3, "positives": 2, "weights": 18}.items():
        mean = reference.focal_loss(x, targets, ignore_index=-1, weight=weight, normalization=normalization)
        assert mean == pytest.approx(total / divisor)
    halved = reference.focal_loss(x, targets, ignore_index=-1, weight=weight, reduction="sum", normalizer=[2.0])
    assert halved == pytest.approx(total / 2)


def test_limits():
    inf = np.inf
    labels = np.array([[0.0, 1.0, 1.0, 0.0]])
    losses = reference.focal_loss(np.array([[-inf, inf, -inf, inf]]), labels, reduction="none", alpha=-1)
    assert losses.tolist() == [[0, 0, inf, inf]]
    far = reference.focal_loss(np.array([[-1e308, 1e308, -1e308, 1e308]]), labels, reduction="none", alpha=-1)
    assert far.tolist() == [[0, 0, 1e308, 1e308]]
    losses = reference.focal_loss([[inf, 0.0], [inf, 0.0]], np.array([0, 1]), activation="softmax", reduction="none")
    assert losses.tolist() == [0, inf]


def test_nothing_counted_is_nothing():
    for reduction, normalization in itertools.product(("sum", "mean"), ("elements", "rows", "positives", "weights")):
        options = {"reduction": reduction, "normalization": normalization}
        assert reference.focal_loss(np.zeros((0, 3)), np.zeros(0, int), **options) == 0
        assert reference.focal_loss(np.full((1, 3), np.nan), np.array([9]), ignore_index=9, **options) == 0


def test_a_class_that_does_not_exist():
    with pytest.raises(IndexError, match="row 1 is 4, but there are 3"):
        reference.focal_loss(np.zeros((2, 3)), np.array([0, 4]))
    with pytest.raises(IndexError, match="row 0 is 3"):
        reference.focal_loss(np.zeros((2, 3)), np.array([3, 0]), activation="softmax")
