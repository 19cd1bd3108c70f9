"""One model with the library and without it: the kernel there, the model's own function here, by one contract."""

import itertools

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper
from ort_models import (
    DTYPES,
    OPERATORS,
    OPTIMIZATION,
    OPTIONAL,
    TARGETS,
    PortableFunctionError,
    add_functions,
    is_gradient,
    make_feeds,
    make_model,
    make_session,
    oracle,
    rounded,
    run,
)

REDUCTIONS = [{"reduction": "none"}, {"reduction": "sum"}] + [
    {"reduction": "mean", "normalization": name} for name in ("elements", "rows", "positives", "weights")
]

#: Relative to the value, and in the softmax's gradient to the largest; the type's smallest number.
ALLOWED = {"float16": (2e-3, 1.2e-7), "bfloat16": (1.6e-2, 1e-38), "float32": (8e-6, 1e-38), "float64": (4e-14, 1e-300)}


def without_library():
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = OPTIMIZATION
    return options


def both(model, feeds):
    """What the kernel and the function give, of one shape and type."""
    kernel, function = run(make_session(model), feeds), run(make_session(model, without_library()), feeds)
    assert (kernel.shape, kernel.dtype) == (function.shape, function.dtype)
    return kernel, function


def assert_agree(operator, dtype, feeds, results, **attributes):
    expected = oracle(operator, feeds, **attributes)
    relative, smallest = ALLOWED[dtype]
    allowed = relative * (np.abs(expected) + 0.05 * np.abs(expected).max(initial=0)) + smallest
    for result in results:
        assert result.shape == expected.shape
        assert (np.abs(result.astype(np.float64) - expected) <= allowed).all(), attributes


def unreduced(operator, feeds, dtype, **attributes):
    """The feeds, with a ``grad_loss`` for each element where the loss is not reduced."""
    if is_gradient(operator) and attributes["reduction"] == "none":
        shape = oracle(operator[:-4], {k: v for k, v in feeds.items() if k != "grad_loss"}, **attributes).shape
        return {**feeds, "grad_loss": rounded(np.random.default_rng(9).normal(size=shape), dtype)}
    return feeds


#: Each type of each input; optional inputs with empty names. Sessions with functions are slow to make, so that a case
#: has one reduction; `test_operator_vs_function.py` has all, in one version of the host.
CASES = list(enumerate(itertools.product(OPERATORS, DTYPES, TARGETS, [(), ("weight",), OPTIONAL])))


@pytest.mark.parametrize(("number", "case"), CASES, ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "")
def test_library_absent(number, case):
    operator, dtype, targets, optional = case
    attributes = {**REDUCTIONS[number % len(REDUCTIONS)], "gamma": 1.5, "axis": 1}
    feeds = make_feeds(operator, dtype, targets, optional, rows=(3, 4), axis=1)
    if targets != "dense":
        attributes["ignore_index"] = -100
        feeds["targets"][1, 2] = -100
        feeds["logits"][1, :, 2] = np.nan
    feeds = unreduced(operator, feeds, dtype, **attributes)
    bare = make_model(operator, dtype, targets, optional, **attributes)
    kernel, function = both(add_functions(bare), feeds)
    assert_agree(operator, dtype, feeds, (kernel, function), **attributes)
    # With the library it was the kernel: a model without the function has the same bits.
    assert kernel.tobytes() == run(make_session(bare), feeds).tobytes()


@pytest.mark.parametrize("operator", OPERATORS)
def test_library_absent_and_no_elements(operator):
    for attributes in REDUCTIONS:
        feeds = unreduced(operator, make_feeds(operator, rows=(0, 3)), "float32", **attributes)
        for result in both(add_functions(make_model(operator, **attributes)), feeds):
            assert result.shape == oracle(operator, feeds, **attributes).shape
            assert (result == 0).all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_library_absent_and_a_class_that_is_not_there(operator):
    """An error of the kernel; the function has none to give, and gives NaN."""
    feeds = make_feeds(operator)
    feeds["targets"][3] = 77
    model = add_functions(make_model(operator))
    with pytest.raises(Exception, match="77"):
        run(make_session(model), feeds)
    result = run(make_session(model, without_library()), feeds)
    assert np.isnan(result[3] if is_gradient(operator) else result).all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_neither_library_nor_function(operator):
    with pytest.raises(Exception, match=operator):
        make_session(make_model(operator), without_library())


@pytest.mark.parametrize("operator", OPERATORS)
def test_integers_for_floats_are_refused_where_a_function_is_written(operator):
    """A function's attribute has one type; the kernel alone takes either (test_ort_values.py)."""
    for attribute in ({"gamma": 2}, {"alpha": 0}):
        with pytest.raises(PortableFunctionError, match=f"{next(iter(attribute))} is INT, but must be FLOAT"):
            add_functions(make_model(operator, **attribute))


@pytest.mark.parametrize("operator", OPERATORS)
def test_integers_for_floats_that_come_later(operator):
    """Where the model was changed behind its function's back: the right numbers, or the host's error."""
    feeds = make_feeds(operator)
    model = add_functions(make_model(operator, gamma=2.0))
    (node,) = (node for node in model.graph.node if node.op_type == operator)
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("gamma", 3))
    assert_agree(operator, "float32", feeds, [run(make_session(model), feeds)], gamma=3.0)
    try:
        session = make_session(model, without_library())
    except Exception as error:
        assert "gamma" in str(error) or operator in str(error) or "value_float" in str(error), error
    else:
        assert_agree(operator, "float32", feeds, [run(session, feeds)], gamma=3.0)
