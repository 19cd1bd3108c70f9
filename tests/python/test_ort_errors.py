"""What does not fit is an error with a sentence, and the session lives on."""

import os
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper
from ort_models import (
    LOSSES,
    OPERATORS,
    OPTIONAL,
    ROOT,
    activation,
    is_gradient,
    make_feeds,
    make_model,
    make_session,
    oracle,
    run,
)


def error(body, *parts):
    """The message of the error that ``body`` raises, which holds every one of ``parts``."""
    with pytest.raises(Exception) as caught:  # the host has a class for each of its codes
        body()
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    return caught


TENSOR = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.5])


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("attributes", "parts"),
    [
        ({"alpha": 1.5}, ["alpha", "1.5"]),
        ({"alpha": 2}, ["alpha", "2"]),
        ({"alpha": float("nan")}, ["alpha", "NaN"]),
        ({"alpha": "0.25"}, ["alpha", "float"]),
        ({"alpha": [0.25]}, ["alpha", "float"]),
        ({"alpha": TENSOR}, ["alpha", "float"]),
        ({"gamma": -0.5}, ["gamma", "-0.5"]),
        ({"gamma": float("nan")}, ["gamma", "NaN"]),
        ({"gamma": float("inf")}, ["gamma", "inf"]),
        ({"gamma": "two"}, ["gamma", "float"]),
        ({"gamma": [2, 2]}, ["gamma", "float"]),
        ({"reduction": "avg"}, ["reduction", "avg", "none", "sum", "mean"]),
        ({"reduction": "Mean"}, ["reduction", "Mean", "none", "sum", "mean"]),
        ({"reduction": ""}, ["reduction", "none", "sum", "mean"]),
        ({"reduction": "m" * 1000}, ["reduction", "none", "sum", "mean"]),
        ({"reduction": 1}, ["reduction", "string"]),
        ({"reduction": ["mean", "sum"]}, ["reduction", "string"]),
        ({"normalization": "batch"}, ["normalization", "batch", "elements", "rows", "positives", "weights"]),
        ({"normalization": 0.5}, ["normalization", "string"]),
        ({"axis": 1.0}, ["axis", "int"]),
        ({"axis": "last"}, ["axis", "int"]),
        ({"ignore_index": -100.0}, ["ignore_index", "int"]),
        ({"ignore_index": [1]}, ["ignore_index", "int"]),
        ({"background_index": "none"}, ["background_index", "int"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_attributes_are_checked_when_the_session_is_made(operator, attributes, parts):
    error(lambda: make_session(make_model(operator, **attributes)), f"{operator} node 'node_under_test'", *parts)


@pytest.mark.parametrize("name", ["ignore_index", "background_index"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_special_indices_are_for_index_targets(operator, name):
    error(lambda: make_session(make_model(operator, targets="dense", **{name: 3})), name, operator)


@pytest.mark.parametrize("operator", ["SoftmaxFocalLoss", "SoftmaxFocalLossGrad"])
def test_softmax_has_no_background(operator):
    error(lambda: make_session(make_model(operator, background_index=5)), "background_index", operator)


BAD_SHAPES = [
    ("targets", (7,)),
    ("targets", (6, 5)),
    ("targets", ()),
    ("class_alpha", (4,)),
    ("class_alpha", ()),
    ("class_alpha", (1, 5)),
    ("weight", (4,)),
    ("weight", (2, 6, 5)),
    ("normalizer", (2,)),
    ("grad_loss", (2,)),
]


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize(("name", "shape"), BAD_SHAPES, ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_shapes(operator, name, shape, known):
    """Shapes that the graph states are checked when the session is made; any others when it runs."""
    if name == "grad_loss" and not is_gradient(operator):
        return
    optional = OPTIONAL if name in OPTIONAL else ()
    good = make_feeds(operator, optional=optional)
    bad = {**good, name: np.zeros(shape, good[name].dtype)}
    if known and shape:  # no axes may mean an unknown number of them
        stated = {key: value.shape for key, value in bad.items()}
        error(lambda: make_session(make_model(operator, optional=optional, shapes=stated)), name, "node_under_test")
        return
    session = make_session(make_model(operator, optional=optional))
    expected = run(session, good)
    error(lambda: run(session, bad), f"{operator} node 'node_under_test'", name)
    np.testing.assert_array_equal(run(session, good), expected)


@pytest.mark.parametrize("operator", OPERATORS)
def test_shapes_that_are_stated_and_fit(operator):
    optional = ("weight",)
    feeds = make_feeds(operator, optional=optional)
    stated = {key: value.shape for key, value in feeds.items()}
    session = make_session(make_model(operator, optional=optional, shapes=stated))
    np.testing.assert_allclose(run(session, feeds), oracle(operator, feeds), 1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("axis", [2, -3, 2**62, -(2**63)])
def test_axis_that_is_not_there(operator, axis):
    error(lambda: run(make_session(make_model(operator, axis=axis)), make_feeds(operator)), "axis", str(axis))


@pytest.mark.parametrize("operator", OPERATORS)
def test_logits_without_axes(operator):
    feeds = {"logits": np.array(1.0, np.float32), "targets": np.array(0)}
    if is_gradient(operator):
        feeds["grad_loss"] = np.array(1.0, np.float32)
    error(lambda: run(make_session(make_model(operator)), feeds), "logits", "rank 0")


@pytest.mark.parametrize("operator", OPERATORS)
def test_too_many_axes(operator):
    feeds = make_feeds(operator, rows=(1,) * 16)
    error(lambda: run(make_session(make_model(operator)), feeds), "logits", "rank 17")


@pytest.mark.parametrize("targets", ["int32", "int64"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_class_index_out_of_range(operator, targets):
    session = make_session(make_model(operator, targets=targets))
    good = make_feeds(operator, targets=targets)
    expected = run(session, good)
    for value in (-1, 6 if activation(operator) == "sigmoid" else 5, 2**31 - 1, -(2**31)):
        bad = {**good, "targets": good["targets"].copy()}
        bad["targets"][3] = value
        caught = error(lambda: run(session, bad), f"{operator} node 'node_under_test'", f"{value}", "row 3", "targets")
        assert caught.type.__name__ == "InvalidArgument"
        np.testing.assert_array_equal(run(session, good), expected)


@pytest.mark.parametrize("operator", ["SoftmaxFocalLoss", "SoftmaxFocalLossGrad"])
def test_a_row_without_classes_has_no_index(operator):
    feeds = {"logits": np.zeros((4, 0), np.float32), "targets": np.zeros(4, np.int64)}
    if is_gradient(operator):
        feeds["grad_loss"] = np.array(1, np.float32)
    error(lambda: run(make_session(make_model(operator)), feeds), "row 0")


@pytest.mark.parametrize("operator", LOSSES)
def test_element_types_that_do_not_go_together(operator):
    model = make_model(operator, targets="dense")
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.DOUBLE
    error(lambda: make_session(model), operator)
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.UINT8
    error(lambda: make_session(model), operator)


PANIC = """
import os
import numpy as np
from ort_models import OPERATORS, is_gradient, make_feeds, make_model, make_session, run, session_options

for operator in OPERATORS:
    for rows in (6, 20000):
        for threads in (1, 2):
            session = make_session(make_model(operator), session_options(threads))
            feeds = make_feeds(operator, rows=(rows,))
            expected = run(session, feeds)
            os.environ["FOCAL_LOSS_INJECT_PANIC"] = "1"
            try:
                run(session, feeds)
            except Exception as error:
                assert "internal" in str(error) and f"{operator} node 'node_under_test'" in str(error), error
            else:
                raise AssertionError("no error")
            finally:
                del os.environ["FOCAL_LOSS_INJECT_PANIC"]
            np.testing.assert_array_equal(run(session, feeds), expected)
print("panics became errors")
"""


def test_a_panic_becomes_an_error():
    """In a build of its own that panics on demand, on the calling thread and on the session's."""
    library = os.environ.get("FOCAL_LOSS_PANICKING_LIBRARY")
    if library is None:
        command = ["cargo", "build", "--release", "--features", "inject-panic", "--target-dir", "target/inject"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        library = str(ROOT / "target/inject/release/libfocal_loss.so")
    environment = {**os.environ, "FOCAL_LOSS_LIBRARY": library, "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", PANIC], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "panics became errors" in done.stdout
