"""The fuzzers of fuzz/python for a few seeds each, and what they have found. ``make fuzz`` goes on from there."""

import pathlib
import sys

import numpy as np
import onnx
import pytest
from focal_loss_onnx import ModelError, attach, fuse, inspect
from ort_models import DTYPES, assert_close, is_gradient, make_model, make_session, oracle, rounded, run


ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "fuzz/python"))

import fuzz_models  # noqa: E402
import fuzz_operators  # noqa: E402

LOSS = ROOT / "tests/data/fuse/torch-2.4.1-legacy-mean-0.25-2.onnx"


def test_operators():
    results = [fuzz_operators.check(seed) for seed in range(200)]
    assert {"ran", "refused"} == set(results)


def test_ignored_rows_by_a_normalizer_of_zero():
    """Found by fuzzing: the oracle had NaN, 0 / 0. An ignored row is 0 whatever is done to it, and counts for nothing."""
    logits, targets = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32), np.array([1, -1])
    for operator in ("SigmoidFocalLoss", "SoftmaxFocalLoss"):
        for dtype in DTYPES:
            feeds = {"logits": logits, "targets": targets, "normalizer": np.zeros((), np.float32)}
            feeds = {name: value if value.dtype.kind == "i" else rounded(value, dtype) for name, value in feeds.items()}
            for name, reduction in [(operator, "none"), (f"{operator}Grad", "mean")]:
                given = {**({"grad_loss": rounded(1.0, dtype)} if is_gradient(name) else {}), **feeds}
                options = {"ignore_index": -1, "reduction": reduction}
                model = make_model(name, dtype, optional=("normalizer",), **options)
                result = run(make_session(model), given)
                assert np.isinf(result[0]).all()
                assert (result[1] == 0).all()
                assert_close(result, oracle(name, given, **options), dtype)


def test_damaged_models():
    models = fuzz_models.bases()
    results = {fuzz_models.check(seed, base_models=models) for seed in range(100)}
    assert {"attach: refused", "fuse: done", "inspect: done"} <= results


def damaged(change):
    model = onnx.load(LOSS)
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"]
    change(model, [*model.graph.initializer, *(t for t in constants if t.dims == [] and t.raw_data)])
    return model


def _unknown_type(model, constants):
    for constant in constants:
        constant.data_type = 99


def _too_few_bytes(model, constants):
    constants[0].raw_data = constants[0].raw_data[:3]


def _too_many_elements(model, constants):
    constants[0].dims.append(7)


@pytest.mark.parametrize("change", [_unknown_type, _too_few_bytes, _too_many_elements])
def test_damage_is_named(change):
    """Found by fuzzing: these were a KeyError and ValueErrors of NumPy's."""
    with pytest.raises(ModelError, match="damaged"):
        fuse(damaged(change))


def test_nodes_without_operands():
    """Found by fuzzing: this was an IndexError."""
    model = fuzz_models.bases()[0]
    for node in model.graph.node:
        del node.input[:]
    with pytest.raises(ModelError, match="damaged"):
        inspect(model)


def test_moves_in_a_circle():
    """Found by fuzzing: attach() went round for ever."""
    model = fuzz_models.bases()[0]
    for node in model.graph.node:
        if node.op_type == "Transpose":
            node.input[0] = node.output[0]
    with pytest.raises(ModelError, match="made from itself"):
        attach(model, "moved")


@pytest.mark.parametrize("function", [inspect, fuse, lambda path: attach(path, "x")])
def test_a_file_that_is_no_model(function, tmp_path):
    path = tmp_path / "no.onnx"
    path.write_bytes(b"\x08\x99\xff\xff\xff not a model")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        function(path)
