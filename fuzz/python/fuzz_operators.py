"""Random attributes and shapes for the operators in ONNX Runtime: the oracle's numbers, or an error with a sentence.

``python fuzz/python/fuzz_operators.py SECONDS [FIRST_SEED]`` prints each seed that fails; a crash of the process is found
by the seed in ``target/fuzz/operators.seed``.
"""

import pathlib
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/python"), str(ROOT / "fuzz/python")]

import onnxruntime as ort  # noqa: E402
from choices import Choices  # noqa: E402
from ort_models import (  # noqa: E402
    DTYPES,
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
    run,
    session_options,
)

LEVELS = (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
BROKEN = {
    "alpha": [1.5, float("nan"), float("inf"), -float("inf"), "0.25", [0.25], 1],
    "gamma": [-1.0, float("nan"), float("inf"), "2", [2.0], 3],
    "reduction": ["", "average", "Mean", "\u00fc" * 300, 1, 0.5],
    "normalization": ["", "batch", 2, ["elements"]],
    "axis": [5, -6, 2**62, -(2**63), 1.0, "0", 1],
    "ignore_index": [2**63 - 1, -(2**63), 0, 1.0, "x"],
    "background_index": [2**63 - 1, -(2**63), 0, 1, 1.0, "x"],
    "no_such_attribute": [1, 2.0, "x"],
}
SIZES = [0, 1, 2, 3, 7, 16, 17, 33]


def draw(choices):
    """A model that must run, with its inputs: what :func:`ort_models.make_model` and ``make_feeds`` take."""
    operator, dtype = choices.pick(OPERATORS), choices.pick(DTYPES)
    targets = choices.pick(TARGETS)
    optional = tuple(name for name in OPTIONAL if choices.one_in(3))
    rank = choices.below(4)
    rows = tuple(choices.pick(SIZES) for _ in range(rank))
    classes = 1 + choices.below(20)
    axis = choices.below(2 * (rank + 1)) - rank - 1
    attributes = {"axis": axis}
    if choices.one_in(2):
        attributes["alpha"] = choices.pick([-1.0, 0.0, 0.25, 0.75, 1.0])
    if choices.one_in(2):
        attributes["gamma"] = choices.pick([0.0, 0.5, 1.0, 1.5, 2.0, 5.0])
    if choices.one_in(2):
        allowed = ["sum", "mean"] if is_gradient(operator) else ["none", "sum", "mean"]
        attributes["reduction"] = choices.pick(allowed)
    if choices.one_in(2):
        attributes["normalization"] = choices.pick(["elements", "rows", "positives", "weights"])
    if targets != "dense" and choices.one_in(3):
        attributes["ignore_index"] = choices.pick([-100, -1, 0, classes])
    if targets != "dense" and activation(operator) == "sigmoid" and choices.one_in(3):
        attributes["background_index"] = classes
    made = {"operator": operator, "dtype": dtype, "targets": targets, "optional": optional}
    seed = choices.below(1 << 16)
    feeds = make_feeds(**made, rows=rows, classes=classes, axis=axis, seed=seed)
    if "normalizer" in feeds and choices.one_in(4):
        feeds["normalizer"] = np.zeros_like(feeds["normalizer"])
    return made, attributes, feeds


def damage(choices, made, attributes, feeds):
    """Attributes or inputs that may not fit."""
    attributes, feeds = dict(attributes), dict(feeds)
    for _ in range(1 + choices.below(2)):
        if choices.one_in(2):
            name = choices.pick(BROKEN)
            attributes[name] = choices.pick(BROKEN[name])
            continue
        name = choices.pick(feeds)
        values = feeds[name]
        way = choices.below(5)
        if way == 0 and values.ndim:
            shape = list(values.shape)
            shape[choices.below(values.ndim)] = choices.pick([*SIZES, 40])
            feeds[name] = np.resize(values, shape) if values.size else np.zeros(shape, values.dtype)
        elif way == 1:
            feeds[name] = values[..., None]
        elif way == 2:
            feeds[name] = np.full((), choices.below(2), values.dtype)
        elif way == 3 and name == "targets" and values.size and values.dtype.kind == "i":
            feeds[name] = values.copy()
            feeds[name].flat[choices.below(values.size)] = choices.pick([-1, 99, 2**31 - 1, -(2**31)])
        else:
            feeds[name] = values.reshape((1,) * choices.pick([1, 2, 17]) + values.shape)
    return attributes, feeds


def check(seed, choices=None):
    """One model; ``"ran"`` or ``"refused"``, and an AssertionError for anything else."""
    choices = choices or Choices(seed)
    made, good_attributes, good_feeds = draw(choices)
    attributes, feeds = good_attributes, good_feeds
    damaged = choices.one_in(2)
    if damaged:
        attributes, feeds = damage(choices, made, attributes, feeds)
    shapes = {name: value.shape for name, value in feeds.items()} if choices.one_in(3) else None
    options = session_options(threads=1 + choices.below(2))
    options.graph_optimization_level = choices.pick(LEVELS)
    told = f"seed {seed}: {made} {attributes} { {name: value.shape for name, value in feeds.items()} }"
    try:
        session = make_session(make_model(**made, shapes=shapes, **attributes), options)
        result = run(session, feeds)
    except Exception as error:  # the host has a class for each of its codes
        assert damaged, f"refused: {error}\n{told}"
        assert "onnxruntime" in type(error).__module__ or isinstance(error, (ValueError, TypeError)), f"{error!r}\n{told}"
        assert str(error).strip() and "internal error" not in str(error), f"{error!r}\n{told}"
        return "refused"
    by_zero = not feeds.get("normalizer", np.ones(())).any()
    if not feeds["logits"].size:  # the oracle wants classes
        assert np.isnan(result).all() if by_zero else not result.any(), told
        return "ran"
    if by_zero and activation(made["operator"]) == "sigmoid" and attributes.get("alpha") in (0.0, 1.0):
        return "ran"  # NaN for soft labels: docs/reliability.md, "Open"
    attributes.pop("no_such_attribute", None)  # the host does not look at what no operator has
    if "grad_loss" in feeds and attributes.get("reduction", "mean") != "none":
        feeds = {**feeds, "grad_loss": feeds["grad_loss"].reshape(())}  # one element of any shape; NumPy would broadcast
    try:
        expected = oracle(made["operator"], feeds, **attributes)
    except Exception as error:
        raise AssertionError(f"ran, but the oracle says {error!r}\n{told}") from error
    try:
        assert_close(result, expected, made["dtype"])
    except AssertionError as error:
        raise AssertionError(f"{error}\n{told}") from None
    return "ran"


def main(seconds, seed=0):
    note = ROOT / "target/fuzz/operators.seed"
    note.parent.mkdir(parents=True, exist_ok=True)
    end, done, failed = time.monotonic() + seconds, {"ran": 0, "refused": 0}, 0
    while time.monotonic() < end:
        note.write_text(f"{seed}\n")
        try:
            done[check(seed)] += 1
        except AssertionError as error:
            failed += 1
            print(f"FAILED {error}", flush=True)
        seed += 1
    print(f"operators: {sum(done.values()) + failed} executions, {done['ran']} ran as the oracle says, "
          f"{done['refused']} refused, {failed} failed")  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
