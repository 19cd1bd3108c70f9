"""A result has the same bits through ONNX Runtime and through the C ABI, whoever's threads computed it."""

import ml_dtypes
import numpy as np
import pytest
from focal_loss_ctypes import Library
from ort_models import DTYPES, INDICES, OPERATORS, activation, is_gradient, make_feeds, make_model, make_session, run, session_options

LIBRARY = Library()

#: Attributes, optional inputs, class axis.
SETTINGS = [
    (dict(), (), -1),
    (dict(reduction="sum", gamma=0.5, alpha=0.75), ("weight",), 1),
    (dict(reduction="none", gamma=1.5), ("class_alpha", "normalizer"), 0),
    (dict(normalization="positives", alpha=-1.0), ("class_alpha", "weight", "normalizer"), -1),
    (dict(normalization="weights"), ("weight",), -1),
    (dict(normalization="rows", gamma=0.0), ("normalizer",), 1),
]


@pytest.mark.parametrize("targets", ["dense", *INDICES])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_bits_of_the_c_abi(operator, dtype, targets):
    storage = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(DTYPES[dtype][1])
    for seed, (attributes, optional, axis) in enumerate(SETTINGS):
        # The second size is enough for several chunks.
        for rows in ((7, 5), (201, 40)):
            feeds = make_feeds(operator, dtype, targets, optional, rows=rows, classes=9, axis=axis, seed=seed)
            if is_gradient(operator) and attributes.get("reduction") == "none":
                loss_shape = feeds["logits"].shape if activation(operator) == "sigmoid" else rows
                feeds["grad_loss"] = np.full(loss_shape, feeds["grad_loss"])
            model = make_model(operator, dtype, targets, optional, axis=axis, **attributes)
            given = {n: a if n == "targets" and targets in INDICES else a.astype(storage) for n, a in feeds.items()}
            options = {"alpha": 0.25 if activation(operator) == "sigmoid" else -1.0, "axis": axis, **attributes}
            compute = LIBRARY.backward if is_gradient(operator) else LIBRARY.forward
            expected = compute(**given, activation=activation(operator), **options)
            for threads in (1, 2):
                got = run(make_session(model, session_options(threads)), feeds)
                assert got.shape == expected.shape
                assert got.tobytes() == expected.astype(got.dtype).tobytes(), (attributes, optional, rows, threads)
