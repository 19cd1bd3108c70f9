"""The operators compute what plain float64 NumPy computes, for every type of every input."""

import itertools

import numpy as np
import pytest
from ort_models import (
    DTYPES,
    LOSSES,
    OPERATORS,
    OPTIONAL,
    TARGETS,
    activation,
    assert_close,
    is_gradient,
    make_feeds,
    make_model,
    make_session,
    oracle,
    rounded,
    run,
    session_options,
)

REDUCTIONS = [{"reduction": "none"}, {"reduction": "sum"}] + [
    {"reduction": "mean", "normalization": name} for name in ("elements", "rows", "positives", "weights")
]


def check(operator, dtype="float32", targets="int64", optional=(), feeds=None, **attributes):
    """Runs a model of the operator and compares with the oracle; gives the result."""
    feeds = dict(feeds or {})
    if not feeds:
        feeds = make_feeds(operator, dtype, targets, optional, rows=(3, 4), axis=attributes.get("axis", -1))
    if is_gradient(operator) and attributes.get("reduction") == "none":
        shape = oracle(operator[:-4], {k: v for k, v in feeds.items() if k != "grad_loss"}, **attributes).shape
        feeds["grad_loss"] = rounded(np.random.default_rng(9).normal(size=shape), dtype)
    result = run(make_session(make_model(operator, dtype, targets, optional, **attributes)), feeds)
    assert_close(result, oracle(operator, feeds, **attributes), dtype)
    return result


@pytest.mark.parametrize("optional", [(), OPTIONAL], ids=["plain", "all_inputs"])
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_type_and_reduction(operator, dtype, targets, optional):
    for attributes in REDUCTIONS:
        check(operator, dtype, targets, optional, **attributes)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_choice_of_optional_inputs(operator):
    for count in range(len(OPTIONAL) + 1):
        for optional in itertools.combinations(OPTIONAL, count):
            for reduction in ("none", "mean"):
                check(operator, optional=optional, reduction=reduction)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("axis", [-3, -2, -1, 0, 1, 2])
def test_every_class_axis(operator, axis):
    for targets in ("dense", "int64"):
        for reduction in ("none", "mean"):
            check(operator, targets=targets, optional=("class_alpha",), axis=axis, reduction=reduction)


@pytest.mark.parametrize("operator", OPERATORS)
def test_defaults(operator):
    feeds = make_feeds(operator)
    alpha = 0.25 if activation(operator) == "sigmoid" else -1.0
    stated = {"alpha": alpha, "gamma": 2.0, "reduction": "mean", "normalization": "elements", "axis": -1}
    result = check(operator, feeds=feeds)
    assert_close(result, oracle(operator, feeds, **stated), "float32")
    np.testing.assert_array_equal(result, check(operator, feeds=feeds, **stated))


@pytest.mark.parametrize("operator", OPERATORS)
def test_integers_stand_in_for_floats(operator):
    feeds = make_feeds(operator)
    # An integer may be one that no float32 is.
    for alpha, gamma in [(1, 3), (0, 0), (-1, 1), (-(2**63), 2**24 + 1), (1, 2**63 - 1)]:
        as_floats = run(make_session(make_model(operator, alpha=float(alpha), gamma=float(gamma))), feeds)
        as_integers = run(make_session(make_model(operator, alpha=alpha, gamma=gamma)), feeds)
        np.testing.assert_array_equal(as_integers, as_floats)


@pytest.mark.parametrize("targets", ["int32", "int64"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_ignored_rows_count_nowhere(operator, targets):
    feeds = make_feeds(operator, targets=targets)
    feeds["logits"][[1, 4]] = np.nan
    feeds["targets"][[1, 4]] = -100
    for attributes in REDUCTIONS:
        result = check(operator, targets=targets, feeds=feeds, ignore_index=-100, **attributes)
        assert np.isfinite(result).all()
        if result.ndim:
            assert (result[[1, 4]] == 0).all()


def test_everything_ignored_is_zero():
    for operator in OPERATORS:
        feeds = make_feeds(operator)
        feeds["targets"][:] = -1
        for attributes in REDUCTIONS:
            assert (check(operator, feeds=feeds, ignore_index=-1, **attributes) == 0).all()


@pytest.mark.parametrize("operator", ["SigmoidFocalLoss", "SigmoidFocalLossGrad"])
def test_background_is_a_negative_for_every_class(operator):
    feeds = make_feeds(operator)
    feeds["targets"][:] = [0, 5, 5, 4, 2, 5]
    by_default = check(operator, feeds=feeds, normalization="positives")
    feeds["targets"][feeds["targets"] == 5] = -7
    np.testing.assert_array_equal(
        check(operator, feeds=feeds, normalization="positives", background_index=-7), by_default
    )
    feeds["targets"][:] = [0, 0, 1, 4, 2, 0]
    check(operator, feeds=feeds, normalization="positives", background_index=0)


@pytest.mark.parametrize("operator", OPERATORS)
def test_weights_broadcast(operator):
    shapes = [(), (1,), (5,), (6, 1), (6, 5)] if activation(operator) == "sigmoid" else [(), (1,), (6,)]
    for shape in shapes:
        feeds = make_feeds(operator)
        feeds["weight"] = np.random.default_rng(3).random(shape).astype(np.float32)
        check(operator, optional=("weight",), feeds=feeds, normalization="weights")


def test_one_element_of_any_rank_is_a_scalar():
    for operator in OPERATORS:
        feeds = make_feeds(operator, optional=("normalizer",))
        session = make_session(make_model(operator, optional=("normalizer",)))
        expected = run(session, feeds)
        for shape in [(1,), (1, 1)]:
            for name in {"normalizer", "grad_loss"} & feeds.keys():
                feeds[name] = feeds[name].reshape(shape)
            np.testing.assert_array_equal(run(session, feeds), expected)


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0), (2, 0, 5)], ids=str)
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_no_elements(operator, targets, shape):
    if activation(operator) == "softmax" and shape[-1] == 0 and targets != "dense" and np.prod(shape[:-1]):
        return  # a row without classes has no valid index: an error, see test_ort_errors.py
    feeds = {"logits": np.zeros(shape, np.float32)}
    feeds["targets"] = feeds["logits"] if targets == "dense" else np.zeros(shape[:-1], targets)
    for attributes in REDUCTIONS:
        loss_shape = shape if activation(operator) == "sigmoid" else shape[:-1]
        loss_shape = loss_shape if attributes["reduction"] == "none" else ()
        if is_gradient(operator):
            feeds["grad_loss"] = np.ones(loss_shape, np.float32)
        result = run(make_session(make_model(operator, targets=targets, **attributes)), feeds)
        assert result.shape == (shape if is_gradient(operator) else loss_shape)
        assert (result == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_extreme_logits(operator, dtype):
    largest = {"float16": 65504.0, "bfloat16": 3.3e38, "float32": 3.4e38, "float64": 1.7e308}[dtype]
    logits = [[-largest, largest, 0.0], [largest, -largest, -largest], [-largest] * 3, [1e-7, 88.0, -88.0]]
    feeds = {"logits": rounded(logits, dtype), "targets": np.array([0, 0, 1, 2])}
    if is_gradient(operator):
        feeds["grad_loss"] = rounded(np.ones((4, 3) if activation(operator) == "sigmoid" else 4), dtype)
    for gamma in (0.0, 0.5, 2.0):
        model = make_model(operator, dtype, reduction="none", gamma=gamma)
        result = run(make_session(model), feeds)
        if operator == "SoftmaxFocalLoss":  # twice the largest value is infinite
            assert not np.isnan(result).any()
        else:
            assert np.isfinite(result).all()


@pytest.mark.parametrize("operator", LOSSES)
def test_not_a_number_stays_where_it_is(operator):
    feeds = make_feeds(operator)
    clean = run(make_session(make_model(operator, reduction="none")), feeds)
    feeds["logits"][2, 3] = np.nan
    result = run(make_session(make_model(operator, reduction="none")), feeds)
    touched = np.zeros(result.shape, bool)
    touched[(2, 3) if operator == "SigmoidFocalLoss" else 2] = True
    assert np.isnan(result[touched]).all()
    np.testing.assert_array_equal(result[~touched], clean[~touched])
    assert np.isnan(run(make_session(make_model(operator)), feeds))


def test_limits_at_infinity():
    feeds = {"logits": np.array([[-np.inf, np.inf, -np.inf]], np.float32), "targets": np.array([1])}
    result = run(make_session(make_model("SigmoidFocalLoss", reduction="none")), feeds)
    np.testing.assert_array_equal(result, [[0, 0, 0]])
    feeds["targets"][:] = 3
    result = run(make_session(make_model("SigmoidFocalLoss", reduction="none")), feeds)
    np.testing.assert_array_equal(result, [[0, np.inf, 0]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_same_bits_for_any_number_of_threads(operator, dtype):
    """Large enough for several chunks."""
    feeds = make_feeds(operator, dtype, rows=(4000,), classes=80)
    for attributes in ({}, {"reduction": "none"}):
        if is_gradient(operator) and attributes:
            shape = feeds["logits"].shape if activation(operator) == "sigmoid" else (4000,)
            feeds["grad_loss"] = rounded(np.random.default_rng(1).random(shape), dtype)
        model = make_model(operator, dtype, **attributes)
        results = [run(make_session(model, session_options(threads)), feeds) for threads in (1, 2, 5)]
        assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
        assert_close(results[0], oracle(operator, feeds, **attributes), dtype)
