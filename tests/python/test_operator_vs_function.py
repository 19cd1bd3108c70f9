"""The kernel against the portable function: the same model with and without the library.

Needs the library (``cargo build --release``, or ``FOCAL_LOSS_LIBRARY``) and fails without it. Only
``FOCAL_LOSS_SKIP_LIBRARY_TESTS=1`` leaves these tests out.
"""

import os

import numpy as np
import pytest
from focal_loss_onnx import attach, library_path, reference
from onnx import TensorProto
from operator_models import DTYPES, all_cases, assert_close, case_id, make_case, operator_model, session
from test_package_attach import simple

SKIP = "FOCAL_LOSS_SKIP_LIBRARY_TESTS"
pytestmark = pytest.mark.skipif(os.environ.get(SKIP) == "1", reason=f"{SKIP}=1")


@pytest.fixture(scope="module", autouse=True)
def library():
    """Fails, rather than skips, where the library is not built."""
    return library_path()


@pytest.mark.parametrize("parameters", list(all_cases()), ids=case_id)
def test_kernel_and_function_agree(parameters):
    case = make_case(*parameters)
    model = case.model()
    by_kernel = case.outputs(model, library=True)
    by_function = case.outputs(model, library=False)
    for key, wanted in case.wanted.items():
        assert_close(by_kernel[key], wanted, case.dtype, f"kernel and reference, {key}")
        assert_close(by_kernel[key], by_function[key], case.dtype, f"kernel and function, {key}")


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.7, 1.0])
def test_alpha_and_gamma(activation, gradient, gamma, alpha):
    case = make_case(activation, gradient, TensorProto.FLOAT, "int64", (), alpha=alpha, gamma=gamma)
    model = case.model()
    by_kernel, by_function = case.outputs(model, library=True), case.outputs(model)
    for key, wanted in case.wanted.items():
        assert_close(by_kernel[key], wanted, case.dtype, key)
        assert_close(by_kernel[key], by_function[key], case.dtype, key)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("rows", [(0,), (2, 0), (0, 5)])
@pytest.mark.parametrize("target_kind", ["int64", "dense"])
def test_empty_inputs(activation, gradient, rows, target_kind):
    case = make_case(activation, gradient, TensorProto.FLOAT, target_kind, (), rows=rows, axis=-1)
    model = case.model()
    by_kernel, by_function = case.outputs(model, library=True), case.outputs(model)
    for key, wanted in case.wanted.items():
        for got in (by_kernel[key], by_function[key]):
            assert got.shape == wanted.shape and (got == 0).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != TensorProto.BFLOAT16])
def test_extreme_logits(dtype, gamma):
    """Far from zero, both keep what is there; only numbers below the normal range may differ."""
    numpy_type = DTYPES[dtype][0]
    largest = np.finfo(numpy_type).max
    points = [0.0, 1.0, 17.0, 60.0, 16301.0, largest, np.inf]
    logits = np.array([[sign * x] * 2 for x in points for sign in (1, -1)], numpy_type)
    labels = np.tile(np.array([0, 1], numpy_type), (len(logits), 1))
    feeds = {"logits": logits, "targets": labels}
    attributes = {"y": {"reduction": "none", "gamma": gamma, "alpha": -1.0}}
    model = operator_model("SigmoidFocalLoss", dtype, feeds, attributes, ranks={"y": 2})
    by_kernel = session(model, library=True).run(["y"], feeds)[0]
    by_function = session(model).run(["y"], feeds)[0]
    wanted = reference.focal_loss(logits, labels, gamma=gamma, alpha=-1, reduction="none")
    assert_close(by_kernel, wanted, dtype)
    assert_close(by_kernel, by_function, dtype)


@pytest.mark.parametrize("options", [{}, {"weight": True}, {"normalizer": True}, {"class_alpha": [0.5, 0.25, 0.1]}])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_attached_models(activation, options):
    model = attach(simple(), "cls_logits", activation=activation, per_anchor_loss=True, grad_logits=True, **options)
    rng = np.random.default_rng(0)
    feeds = {
        "features": rng.standard_normal((2, 5, 3)).astype(np.float32),
        "targets": rng.integers(0, 3, (2, 5)),
        "weight": rng.random((2, 5, 3)[: 3 if activation == "sigmoid" else 2]).astype(np.float32),
        "normalizer": np.array(3, np.float32),
    }
    feeds = {info.name: feeds[info.name] for info in model.graph.input}
    by_kernel, by_function = (session(model, library=with_it).run(None, feeds) for with_it in (True, False))
    for one, other in zip(by_kernel, by_function):
        assert_close(one, other, TensorProto.FLOAT)
