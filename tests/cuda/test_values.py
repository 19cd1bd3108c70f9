"""What CUDA tensors give through the C ABI, beside plain NumPy in float64 and the CPU's kernels.

On a GPU with FOCAL_LOSS_CUDA=gpu; else the same calls, structs and launches through the stub of the driver, which has
the kernels' source run on the CPU.
"""

import itertools

import ml_dtypes
import numpy as np
import places
import pytest
from focal_loss_onnx import reference
from places import GPU, fl

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype(np.float16), BF16, np.dtype(np.float32), np.dtype(np.float64)]
HOST = fl.Library()

#: The promise for hard labels and gamma in [0, 5], in ULP of the exact value: float32, as on the CPU; the 16-bit types
#: are the float32 result, rounded once.
ULP = {"loss": 8, "grad": 16}
SUM = 1e-6


@pytest.fixture(scope="session")
def device():
    if not GPU:
        import host

        host.run_kernels()
    return fl.Library(memory=places.memory())


def ulps(result, exact):
    """The largest error in units of the last place, where the exact value is a normal number of the type."""
    info = ml_dtypes.finfo(result.dtype)
    normal = (np.abs(exact) >= float(info.tiny)) & (np.abs(exact) <= float(info.max))
    exponent = np.floor(np.log2(np.abs(np.where(normal, exact, 1))))
    unit = 2.0 ** (exponent - info.nmant)
    return np.where(normal, np.abs(result.astype(np.float64) - exact) / unit, 0).max(initial=0)


def bound(kind, dtype):
    return {2: 0.5 + ULP[kind] * 2.0**-10, 4: ULP[kind], 8: ULP[kind] + 4}[dtype.itemsize]


def make(rng, shape, dtype, activation="sigmoid", targets="i64", axis=-1, spread=6):
    rows = np.delete(shape, axis)
    logits = (spread * rng.standard_normal(shape) - 2).astype(dtype)
    if targets == "dense":
        labels = rng.random(shape)
        labels = labels / labels.sum(axis, keepdims=True) if activation == "softmax" else labels
        return logits, labels.astype(dtype)
    known = shape[axis] + (activation == "sigmoid")
    return logits, rng.integers(0, known, rows).astype({"i32": np.int32, "i64": np.int64}[targets])


def exact(logits, targets, grad_loss=1.0, **options):
    """Loss and gradient in float64: plain NumPy, good to gamma * |logit| ULP."""
    wide = lambda array: array if array is None or array.dtype.kind == "i" else np.asarray(array, np.float64)
    given = {name: wide(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    arguments = wide(logits), wide(targets)
    return reference.focal_loss(*arguments, **given), reference.focal_loss_grad(grad_loss, *arguments, **given)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 1.5, 2, 5])
@pytest.mark.parametrize("activation, shape", [("sigmoid", (400, 80)), ("sigmoid", (300, 7)), ("softmax", (300, 80)),
                                               ("softmax", (300, 5)), ("softmax", (40, 1000))])  # fmt: skip
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_element_by_element(device, dtype, activation, shape, gamma):
    logits, targets = make(np.random.default_rng(1), shape, dtype, activation)
    options = dict(activation=activation, reduction="none", gamma=gamma, alpha=0.25 if activation == "sigmoid" else -1)
    ones = np.ones(shape if activation == "sigmoid" else shape[:1])
    if dtype == np.float64:  # the CPU's kernels, which are within 4 ULP of what many more digits give
        loss, grad = HOST.forward_backward(logits, targets, **options)
    else:
        loss, grad = exact(logits, targets, ones, **options)
    got_loss, got_grad = device.forward_backward(logits, targets, **options)
    assert ulps(got_loss, loss) <= bound("loss", dtype)
    assert ulps(got_grad, grad) <= bound("grad", dtype)
    for alone, fused in [(device.forward(logits, targets, **options), got_loss),
                         (device.backward(logits, targets, **options), got_grad)]:  # fmt: skip
        assert alone.tobytes() == fused.tobytes()


EXTRAS = {
    "plain": {},
    "class_alpha": {"class_alpha": lambda rng, shape, softmax: rng.random(shape[-1])},
    "per class": {"weight": lambda rng, shape, softmax: rng.random(() if softmax else shape[-1])},
    "per row": {"weight": lambda rng, shape, softmax: rng.random(shape[:-1] if softmax else (*shape[:-1], 1))},
    "per element": {"weight": lambda rng, shape, softmax: rng.random(shape[:-1] if softmax else shape)},
    "normalizer": {"normalizer": lambda rng, shape, softmax: np.array(2.5)},
    "ignore": {"ignore_index": 1},
    "background": {"background_index": 2},
}


def combinations():
    """All that the header allows."""
    kinds = [("sigmoid", "i32"), ("sigmoid", "dense"), ("softmax", "i64"), ("softmax", "dense")]
    for (activation, targets), reduction, extra in itertools.product(kinds, ["none", "sum", "mean"], EXTRAS):
        if extra in ("ignore", "background") and targets == "dense" or (extra, activation) == ("background", "softmax"):
            continue
        for normalization in ["elements", "rows", "positives", "weights"] if reduction == "mean" else ["elements"]:
            yield activation, targets, reduction, normalization, extra


@pytest.mark.parametrize("activation, targets, reduction, normalization, extra", list(combinations()))
def test_every_combination(device, activation, targets, reduction, normalization, extra):
    rng = np.random.default_rng(2)
    for dtype, shape in itertools.product([np.dtype(np.float32), np.dtype(np.float64)], [(50, 8), (33, 13), (2, 9, 16)]):
        logits, labels = make(rng, shape, dtype, activation, targets)
        if extra == "background":
            labels = np.minimum(labels, shape[-1] - 1)
        softmax = activation == "softmax"
        given = {
            name: np.asarray(value(rng, shape, softmax)).astype(dtype) if callable(value) else value
            for name, value in EXTRAS[extra].items()
        }
        options = dict(activation=activation, reduction=reduction, normalization=normalization, alpha=0.25, gamma=2, **given)
        shape_of_loss = () if reduction != "none" else shape[:-1] if softmax else shape
        grad_loss = rng.standard_normal(shape_of_loss).astype(dtype)
        loss, grad = exact(logits, labels, grad_loss.astype(np.float64), **options)
        got_loss, got_grad = device.forward_backward(logits, labels, grad_loss, **options)
        relative = SUM if dtype == np.float32 else 1e-13
        terms = 1 if reduction != "none" else np.abs(loss)
        np.testing.assert_allclose(got_loss, loss, relative, relative * np.max(terms, initial=0))
        np.testing.assert_allclose(got_grad, grad, 2 * relative, relative * np.abs(grad).max())
        alone = device.forward(logits, labels, **options)
        if reduction == "none":  # a grad_loss for each loss asks for another kernel, which may round its own way
            np.testing.assert_allclose(alone, got_loss, relative)
        else:
            assert got_loss.tobytes() == alone.tobytes()
        assert got_grad.tobytes() == device.backward(logits, labels, grad_loss, **options).tobytes()
        assert got_grad.tobytes() == device.backward(logits, labels, grad_loss, **options).tobytes(), "on every run"


@pytest.mark.parametrize("targets", ["i64", "dense"])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_softmax_divided_by_zero_keeps_the_sign(device, reduction, targets):
    """The terms of both signs are added up before the infinite factor reaches them: as on the CPU."""
    for dtype, classes in itertools.product(FLOATS, [5, 80]):
        logits, labels = make(np.random.default_rng(6), (40, classes), dtype, "softmax", targets)
        options = dict(activation="softmax", reduction=reduction)
        loss, grad = exact(logits, labels, np.ones(40) if reduction == "none" else 1.0, **options)
        infinite = dict(normalizer=np.zeros((), dtype), **options)
        for library in (device, HOST):
            for got, sign in zip(library.forward_backward(logits, labels, **infinite), (loss, grad), strict=True):
                np.testing.assert_array_equal(got.astype(np.float64), np.copysign(np.inf, sign))


LAYOUTS = {
    "every other class": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "every other row": lambda a: np.repeat(a, 2, 0)[::2],
    "backwards": lambda a: np.ascontiguousarray(a[::-1, ..., ::-1])[::-1, ..., ::-1],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "one element on": lambda a: np.concatenate([np.zeros(1, a.dtype), a.ravel()])[1:].reshape(a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_layouts(device, dtype, activation, layout):
    """Close to what the dense tensors give; another kernel may add in another order."""
    rng = np.random.default_rng(3)
    for targets in ("i64", "dense"):
        logits, labels = make(rng, (40, 24), dtype, activation, targets)
        options = dict(activation=activation, reduction="none")
        expected = device.forward_backward(logits, labels, **options)
        for strided in [(LAYOUTS[layout](logits), labels), (logits, LAYOUTS[layout](labels) if labels.ndim > 1 else labels)]:
            for got, wanted in zip(device.forward_backward(*strided, **options), expected, strict=True):
                tolerance = 4 * float(ml_dtypes.finfo(dtype).eps)
                np.testing.assert_allclose(got.astype(float), wanted.astype(float), tolerance,
                                           tolerance * np.abs(wanted.astype(float)).max())  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -2])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_class_axes(device, activation, axis):
    rng = np.random.default_rng(4)
    logits, labels = make(rng, (3, 4, 5, 6), np.float32, activation, axis=axis)
    for reduction, incoming in [("none", np.ones(logits.shape if activation == "sigmoid" else labels.shape)), ("mean", 1.0)]:
        options = dict(activation=activation, axis=axis, reduction=reduction, alpha=0.25)
        for got, wanted in zip(device.forward_backward(logits, labels, **options),
                               exact(logits, labels, incoming, **options), strict=True):  # fmt: skip
            np.testing.assert_allclose(got, wanted, SUM, SUM * np.abs(wanted).max())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("gamma", [0, 0.5, 2, 5])
def test_extreme_logits(device, dtype, gamma):
    """Finite for finite, the limits at infinities, NaN for NaN: as on the CPU."""
    info = ml_dtypes.finfo(dtype)
    values = [0, -0.0, float(info.tiny), float(info.smallest_subnormal), 1, 18, 40, 88, 104, 300, 16301, float(info.max), np.inf]
    with np.errstate(over="ignore"):
        logits = np.array(values + [-v for v in values] + [np.nan], np.float64).astype(dtype)[:, None]
    for label in (0, 1):  # the class, the background
        targets = np.full(len(logits), label)
        options = dict(reduction="none", gamma=gamma)
        for got, wanted in zip(device.forward_backward(logits, targets, **options),
                               HOST.forward_backward(logits, targets, **options), strict=True):  # fmt: skip
            got, wanted = got.astype(np.float64), wanted.astype(np.float64)
            assert (np.isnan(got) == np.isnan(wanted)).all()
            assert (np.isinf(got) == np.isinf(wanted)).all()
            finite = np.isfinite(wanted)
            tolerance = 32 * float(info.eps)
            np.testing.assert_allclose(got[finite], wanted[finite], tolerance, float(info.tiny))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("classes", [8, 5, 80])
def test_a_wrong_class_index_poisons(device, activation, classes):
    """NaN for the loss and for the row's gradient; the other rows' are as ever. Nothing out of bounds is read."""
    rng = np.random.default_rng(5)
    logits, targets = make(rng, (20, classes), np.float32, activation)
    targets = np.minimum(targets, classes - 1)
    for wrong in (-1, classes + (activation == "sigmoid"), 2**40, -(2**63), 2**63 - 1):
        bad = targets.astype(np.int64)
        bad[7] = wrong
        options = dict(activation=activation, reduction="none")
        right = device.forward_backward(logits, targets, **options)
        for got, good in zip(device.forward_backward(logits, bad, **options), right, strict=True):
            assert np.isnan(got[7]).all()
            assert np.delete(got, 7, 0).tobytes() == np.delete(good, 7, 0).tobytes()
        for reduction in ("sum", "mean"):
            loss, grad = device.forward_backward(logits, bad, activation=activation, reduction=reduction)
            assert np.isnan(loss)
            assert np.isnan(grad[7]).all()
        assert not np.isnan(device.forward(logits, bad, ignore_index=wrong, **{**options, "reduction": "sum"}))


def test_ignored_rows_whatever_their_logits(device):
    rng = np.random.default_rng(6)
    logits, targets = make(rng, (30, 16), np.float32)
    targets[::3] = -100
    kept = targets != -100
    spoilt = logits.copy()
    spoilt[::3] = np.nan
    for normalization in ("elements", "rows", "positives"):
        options = dict(ignore_index=-100, normalization=normalization)
        loss, grad = device.forward_backward(spoilt, targets, **options)
        wanted_loss, wanted_grad = exact(logits[kept], targets[kept], normalization=normalization)
        np.testing.assert_allclose(loss, wanted_loss, SUM)
        np.testing.assert_allclose(grad[kept], wanted_grad, 2 * SUM, SUM * np.abs(wanted_grad).max())
        assert not grad[~kept].any()
    everything = np.full(30, -100)
    loss, grad = device.forward_backward(spoilt, everything, ignore_index=-100)
    assert loss == 0 and not grad.any()


@pytest.mark.parametrize("shape", [(0, 80), (3, 0), (0, 0)])
def test_empty(device, shape):
    logits, dense = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for activation, reduction in itertools.product(["sigmoid", "softmax"], ["sum", "mean"]):
        loss = device.forward(logits, dense, activation=activation, reduction=reduction)
        assert loss == 0 and not np.signbit(loss)
    assert device.backward(logits, dense).shape == shape


@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 1000, 20_000] + [300_000] * GPU)
def test_sums_of_many(device, rows):
    """In float32 to 1e-6, however many terms; the same bits each time."""
    rng = np.random.default_rng(rows)
    logits, targets = make(rng, (rows, 80 if rows > 100 else 20), np.float32, spread=1.5)
    wide = logits.astype(np.float64)
    for options in [dict(reduction="sum"), dict(normalization="positives"), dict(reduction="sum", gamma=1.5)]:
        loss, grad = device.forward_backward(logits, targets, **options)
        np.testing.assert_allclose(loss, HOST.forward(wide, targets, **options), SUM)
        assert ulps(grad, HOST.backward(wide, targets, **options)) <= bound("grad", grad.dtype) + 1
        assert loss.tobytes() == device.forward(logits, targets, **options).tobytes()
