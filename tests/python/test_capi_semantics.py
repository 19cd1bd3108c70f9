"""The C ABI against an independent oracle, over everything that options and tensors can say.

The oracle below is written from the formulas of the contract and shares no code with the library. It works
in float64, and in NumPy's long double (more digits, where the platform has them) for float64 logits. Cases
are drawn at random from fixed seeds. What has to have the same bits (fused and separate calls, numbers of
threads, instruction sets, layouts) is compared bit for bit.
"""

import hashlib
import itertools
import os
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import focal_loss_ctypes as fl

LIBRARY = fl.Library()
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"f16": np.dtype(np.float16), "bf16": BF16, "f32": np.dtype(np.float32), "f64": np.dtype(np.float64)}


# The oracle


def softplus(x):
    return np.logaddexp(0, x)


def log_sigmoid_pair(x):
    """log p and log(1-p) of p = sigmoid(x)."""
    return -softplus(-x), -softplus(x)


def sigmoid_loss(x, t, alpha_t, gamma):
    """Loss and gradient of each element, without weight."""
    p, q = np.exp(-softplus(-x)), np.exp(-softplus(x))
    ce = t * softplus(-x) + (1 - t) * softplus(x)
    m = p * (1 - t) + q * t
    loss = alpha_t * m**gamma * ce
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.where(m > 0, p * q / m, 0)
    r = np.where(t == 1, p, np.where(t == 0, q, r))
    p_minus_t = p * (1 - t) - q * t
    grad = alpha_t * m**gamma * (p_minus_t + gamma * (1 - 2 * t) * r * ce)
    # The largest of the terms that may cancel for soft labels.
    scale = alpha_t * m**gamma * (np.abs(p * (1 - t)) + np.abs(q * t) + gamma * np.abs(1 - 2 * t) * r * ce)
    return loss, grad, scale


def softmax_loss(x, t, alpha, gamma):
    """Loss of each row, gradient of each logit; classes on the last axis, `alpha` for each class."""
    shifted = x - x.max(-1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(-1, keepdims=True)
    log_p = shifted - np.log(total)
    p = e / total
    # 1 - p and -log p without cancellation: the other exponentials.
    classes = x.shape[-1]
    others = np.stack([np.delete(e, k, -1).sum(-1) for k in range(classes)], -1) if classes > 1 else 0 * e
    o = others / total
    minus_log_p = np.where(e > 0.5 * total, np.log1p(others / np.where(e > 0, e, 1)), -log_p)
    terms = t * alpha * o**gamma * minus_log_p
    with np.errstate(divide="ignore", invalid="ignore"):
        h = np.where(o > 0, minus_log_p / o, 1)
    slope = t * alpha * o**gamma * (1 + gamma * p * h)
    grad, scale = np.zeros_like(x), np.zeros_like(x)
    for y in range(classes):
        direction = p.copy()
        direction[..., y] = -o[..., y]
        grad += slope[..., y : y + 1] * direction
        scale += np.abs(slope[..., y : y + 1] * direction)
    return terms.sum(-1), grad, scale


def oracle(logits, targets, grad_loss=None, class_alpha=None, weight=None, normalizer=None, activation="sigmoid",
           alpha=0.25, gamma=2.0, reduction="mean", normalization="elements", axis=-1, ignore_index=None,
           background_index=None, **_):
    """(loss, gradient, the gradient's scale), in more digits than the library has."""
    precision = np.longdouble if logits.dtype == np.float64 else np.float64
    wide = lambda a: None if a is None else np.asarray(a).astype(precision)
    alpha, gamma = precision(alpha), precision(gamma)
    x = np.moveaxis(wide(logits), axis, -1)
    classes = x.shape[-1]
    rows = x.shape[:-1]
    sigmoid = activation == "sigmoid"
    counted = np.ones(rows, bool)
    if targets.dtype.kind == "i":
        background = classes if background_index is None else background_index
        counted = np.ones(rows, bool) if ignore_index is None else targets != ignore_index
        real = counted & ~((targets == background) & sigmoid)
        t = (targets[..., None] == np.arange(classes)) & real[..., None]
        t = t.astype(precision)
        positives = precision(real.sum())
    else:
        t = np.moveaxis(wide(targets), axis, -1)
        positives = t.sum()
    if sigmoid:
        if class_alpha is not None:
            a = wide(class_alpha)
            alpha_t = a * t + (1 - a) * (1 - t)
        else:
            alpha_t = np.ones_like(t) if alpha < 0 else alpha * t + (1 - alpha) * (1 - t)
        loss, grad, scale = sigmoid_loss(x, t, alpha_t, gamma)
        w = np.ones(x.shape, precision)
        if weight is not None:
            w = np.moveaxis(np.broadcast_to(wide(weight), logits.shape), axis, -1)
        mask = np.broadcast_to(counted[..., None], x.shape)
    else:
        a = wide(class_alpha) if class_alpha is not None else np.full(classes, 1 if alpha < 0 else alpha, precision)
        loss, grad, scale = softmax_loss(x, t, a, gamma)
        w = np.ones(rows, precision) if weight is None else np.broadcast_to(wide(weight), rows)
        mask = counted
    loss = np.where(mask, loss * w, 0)
    per_logit = (lambda v: v) if sigmoid else (lambda v: v[..., None])
    factor = np.where(mask, w, 0)
    divisor = precision(1)
    if reduction == "mean":
        divisor = {
            "elements": precision(mask.sum()),
            "rows": precision(counted.sum()),
            "positives": max(positives, precision(1)),
            "weights": np.where(mask, w, 0).sum(),
        }[normalization]
    divisor = divisor * (1 if normalizer is None else wide(normalizer).reshape(()))
    upstream = precision(1) if grad_loss is None else wide(grad_loss)
    if reduction == "none":
        if sigmoid and grad_loss is not None:
            upstream = np.moveaxis(upstream, axis, -1)
        loss, factor = loss / divisor, factor * upstream / divisor
        if sigmoid:
            loss = np.moveaxis(loss, -1, axis)
    else:
        nothing = not mask.any()
        loss = 0.0 if nothing else loss.sum() / divisor
        factor = factor * 0 if nothing else factor * np.reshape(upstream, ()) / divisor
    # Ignored rows may hold NaN.
    grad = np.where(per_logit(factor) == 0, 0, grad) * per_logit(factor)
    scale = np.where(per_logit(factor) == 0, 0, scale) * np.abs(per_logit(factor))
    return loss, np.moveaxis(grad, -1, axis), np.moveaxis(scale, -1, axis)


# Random cases


def scatter(rng, array, output=False):
    """The same values in a buffer with permuted axes, gaps, reversed axes, an offset."""
    if array.ndim == 0:
        buffer = np.zeros(5, array.dtype)
        view = buffer[3:4].reshape(())
        if not output:
            view[...] = array
        return view, buffer
    order = rng.permutation(array.ndim)
    steps = rng.integers(1, 4, array.ndim)
    buffer = np.zeros([array.shape[a] * steps[a] + int(rng.integers(0, 3)) for a in order], array.dtype)
    view = buffer[tuple(slice(None, array.shape[a] * steps[a], int(steps[a])) for a in order)]
    for position in range(array.ndim):
        if rng.random() < 0.4:
            view = np.flip(view, position)
    view = view.transpose(np.argsort(order))
    assert view.shape == array.shape
    if not output:
        view[...] = array
    return view, buffer


def repeat(rng, array):
    """Sometimes the same slice all along an axis: a stride of zero."""
    if array.ndim == 0 or rng.random() < 0.7:
        return array
    axis = int(rng.integers(array.ndim))
    return np.broadcast_to(np.take(array, [0], axis), array.shape) if array.shape[axis] else array


def random_case(rng, dtype, activation, targets, small=True):
    rank = int(rng.integers(1, 5))
    shape = tuple(int(n) for n in rng.integers(1, 7 if small else 9, rank))
    axis = int(rng.integers(-rank, rank))
    position = axis % rank
    if rng.random() < 0.15:
        shape = shape[:position] + (int(rng.integers(60, 140)),) + shape[position + 1 :]
    classes = shape[position]
    rows = shape[:position] + shape[position + 1 :]
    case = dict(activation=activation, axis=axis)
    # Within what float16 holds; large ones saturate, and that has to work too.
    spread = rng.choice([0.5, 3, 12])
    case["logits"] = repeat(rng, (spread * rng.standard_normal(shape)).astype(dtype))
    case["gamma"] = float(rng.choice([0, 0.5, 1, 1.5, 2, 3, 5]))
    case["alpha"] = float(rng.choice([-1, 0, 0.25, 0.6, 1]))
    case["reduction"] = str(rng.choice(["none", "sum", "mean"]))
    case["normalization"] = str(rng.choice(list(fl.NORMALIZATIONS)))
    if targets in ("i32", "i64"):
        index = np.int32 if targets == "i32" else np.int64
        y = rng.integers(0, classes, rows)
        if activation == "sigmoid":
            y = np.where(rng.random(rows) < 0.4, classes, y)
            if rng.random() < 0.4:
                case["background_index"] = int(rng.choice([0, -1, classes + 5, -(2**31)]))
                y = np.where(y == classes, case["background_index"], y)
        if rng.random() < 0.5:
            case["ignore_index"] = int(rng.choice([-1, -100, 255, 0]))
            y = np.where(rng.random(rows) < 0.3, case["ignore_index"], y)
        case["targets"] = repeat(rng, y.astype(index))
    elif targets == "soft":
        t = rng.random(shape)
        if activation == "softmax":
            t = t / t.sum(position, keepdims=True)
        t = np.where(rng.random(shape) < 0.2, 0, t)
        case["targets"] = repeat(rng, t.astype(dtype))
    else:
        own = rng.integers(0, classes + (activation == "sigmoid"), rows)
        t = np.moveaxis(own[..., None] == np.arange(classes), -1, position)
        case["targets"] = repeat(rng, np.ascontiguousarray(t).astype(dtype))
    if rng.random() < 0.4:
        case["class_alpha"] = rng.random(classes).astype(dtype)
    if rng.random() < 0.6:
        full = shape if activation == "sigmoid" else rows
        keep = int(rng.integers(0, len(full) + 1))
        part = [n if rng.random() < 0.6 else 1 for n in full[len(full) - keep :]]
        case["weight"] = rng.uniform(0.25, 4, part).astype(dtype)
    if rng.random() < 0.4:
        case["normalizer"] = rng.uniform(0.5, 20, rng.choice([0, 1, 2]) * (1,)).astype(dtype)
    if rng.random() < 0.5:
        loss_shape = {"sigmoid": shape, "softmax": rows}[activation] if case["reduction"] == "none" else ()
        case["grad_loss"] = repeat(rng, rng.standard_normal(loss_shape).astype(dtype))
    return case


TENSORS = ["logits", "targets", "class_alpha", "weight", "normalizer", "grad_loss"]


def split(case):
    case = dict(case)
    logits, targets, grad_loss = case.pop("logits"), case.pop("targets"), case.pop("grad_loss", None)
    return logits, targets, grad_loss, case


def compute(case, **more):
    """(loss, gradient) by the separate calls; the fused one must agree to the bit."""
    logits, targets, grad_loss, rest = split({**case, **more})
    loss = LIBRARY.forward(logits, targets, **rest)
    grad = LIBRARY.backward(logits, targets, grad_loss=grad_loss, **rest)
    loss2, grad2 = LIBRARY.forward_backward(logits, targets, grad_loss=grad_loss, **rest)
    assert loss.tobytes() == loss2.tobytes(), case
    assert grad.tobytes() == grad2.tobytes(), case
    return loss, grad


def close(actual, wanted, scale, dtype):
    """Within some units in the last place of the scale; below the normal numbers, of the smallest of them."""
    if dtype == np.float64:
        unit, least = 2.0**-53, 2.0**-1022
    else:
        unit, least = 2.0**-24, 2.0**-126
    error = np.abs(actual.astype(np.float64) - wanted).astype(np.float64)
    return (error <= 64 * unit * np.abs(scale) + 64 * unit * least + least * 2.0**-20).all()


def narrow(array, dtype):
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(array).astype(dtype)


def widened(case, dtype):
    return {k: v.astype(dtype) if k in TENSORS and v.dtype.kind != "i" else v for k, v in case.items()}


@pytest.mark.parametrize("targets", ["i32", "i64", "dense", "soft"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_the_oracle(dtype, activation, targets):
    kind = DTYPES[dtype]
    rng = np.random.default_rng([list(DTYPES).index(dtype), len(activation), *targets.encode()])
    covered = set()
    for _ in range(150):
        case = random_case(rng, kind, activation, targets)
        covered.add((case["reduction"], case["normalization"]))
        loss, grad = compute(case)
        if kind.itemsize == 2:
            # The float32 result, rounded once.
            case = widened(case, np.float32)
            wide_loss, wide_grad = compute(case)
            assert loss.tobytes() == narrow(wide_loss, kind).tobytes(), case
            assert grad.tobytes() == narrow(wide_grad, kind).tobytes(), case
            loss, grad = wide_loss, wide_grad
        logits, labels, grad_loss, rest = split(case)
        want_loss, want_grad, scale = oracle(logits, labels, grad_loss, **rest)
        assert close(loss, want_loss, want_loss, kind), (case, loss, want_loss)
        assert close(grad, want_grad, scale, kind), (case, grad, want_grad)
    assert len(covered) == 12


@pytest.mark.parametrize("targets", ["i32", "i64", "dense", "soft"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_have_the_same_bits(dtype, activation, targets):
    """Any strides, in and out: the bits of dense tensors, and no byte beside the view is touched."""
    rng = np.random.default_rng([7, list(DTYPES).index(dtype), len(activation), *targets.encode()])
    for _ in range(60):
        case = random_case(rng, DTYPES[dtype], activation, targets)
        want_loss, want_grad = compute({k: v.copy() if k in TENSORS else v for k, v in case.items()})
        views = dict(case)
        for name in TENSORS:
            if name in case and 0 not in case[name].strides:
                views[name], _ = scatter(rng, case[name])
        logits, labels, grad_loss, rest = split(views)
        options, inputs = LIBRARY._prepare(logits, labels, dict(rest))
        for function in ["forward", "backward", "forward_backward"]:
            outputs, buffers = [], []
            if function != "backward":
                outputs.append(want_loss)
            if function != "forward":
                outputs.append(want_grad)
            arguments = []
            for output in outputs:
                view, buffer = scatter(rng, np.asarray(output), output=True)
                buffer.view(np.uint8)[...] = 0xA5
                arguments.append(view)
                buffers.append(buffer)
            tensors = [fl.tensor(view) for view in arguments]
            if function != "forward":
                tensors.insert(0, None if grad_loss is None else fl.tensor(grad_loss))
            LIBRARY.check(getattr(LIBRARY.lib, f"focal_loss_{function}")(options, inputs, *tensors))
            for view, buffer, wanted in zip(arguments, buffers, outputs):
                assert np.ascontiguousarray(view).tobytes() == wanted.tobytes(), case
                view[...] = 0
                touched = np.count_nonzero(buffer.view(np.uint8) != 0xA5)
                assert touched == view.nbytes, "written beside the view"


LARGE = [
    # Enough for many chunks, whole and broken batches, classes beyond a tile.
    dict(shape=(1, 70_003), axis=-1),
    dict(shape=(1001, 80), axis=-1),
    dict(shape=(2, 91, 23, 17), axis=1),
    dict(shape=(30_001, 3), axis=-1),
    dict(shape=(100, 700), axis=0),
]


def large_cases(dtypes=DTYPES):
    for number, (spec, dtype, activation, targets) in enumerate(
        itertools.product(LARGE, dtypes, ["sigmoid", "softmax"], ["i64", "soft"])
    ):
        rng = np.random.default_rng([99, number])
        shape, axis = spec["shape"], spec["axis"] % len(spec["shape"])
        kind, classes = DTYPES[dtype], spec["shape"][spec["axis"]]
        rows = shape[:axis] + shape[axis + 1 :]
        case = dict(logits=(4 * rng.standard_normal(shape)).astype(kind), axis=axis, activation=activation)
        if targets == "i64":
            y = rng.integers(0, classes, rows)
            y = np.where(rng.random(rows) < 0.9, classes, y) if activation == "sigmoid" else y
            case.update(targets=np.where(rng.random(rows) < 0.05, -1, y), ignore_index=-1)
        else:
            case.update(targets=rng.random(shape).astype(kind))
        case["gamma"] = [2.0, 1.5, 0.5, 0.0][number % 4]
        case["reduction"] = ["mean", "sum", "none"][number % 3]
        case["normalization"] = list(fl.NORMALIZATIONS)[number % 4]
        if number % 2:
            case["weight"] = rng.uniform(0.5, 2, shape if activation == "sigmoid" else rows).astype(kind)
        yield case


def test_threads_have_the_same_bits():
    for case in large_cases(["bf16", "f32", "f64"]):
        wanted = [a.tobytes() for a in compute(case, num_threads=1)]
        for num_threads in [2, 3, 0]:
            assert [a.tobytes() for a in compute(case, num_threads=num_threads)] == wanted, (case, num_threads)


def test_large_sums_are_accurate():
    for case in large_cases(["f32", "f64"]):
        if case["logits"].shape[case["axis"]] > 100 and case["activation"] == "softmax":
            continue  # the oracle is quadratic in the number of classes
        loss, grad = compute(case)
        logits, labels, grad_loss, rest = split(case)
        want_loss, want_grad, scale = oracle(logits, labels, grad_loss, **rest)
        if case["reduction"] != "none":
            limit = 2e-7 if logits.dtype == np.float32 else 1e-14
            assert abs(float(loss) - want_loss) <= limit * abs(want_loss), (case, loss, want_loss)
        assert close(grad, want_grad, scale, logits.dtype), case


def digest():
    """Every bit of many results, as one number."""
    state = hashlib.sha256()
    for case in large_cases():
        for result in compute(case):
            state.update(result.tobytes())
    rng = np.random.default_rng(5)
    for dtype, activation, targets in itertools.product(DTYPES, ["sigmoid", "softmax"], ["i32", "dense", "soft"]):
        for _ in range(40):
            for result in compute(random_case(rng, DTYPES[dtype], activation, targets)):
                state.update(result.tobytes())
    extremes = [0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, np.inf, -np.inf, np.nan, 88, -88, 104, -104, 17]
    extremes = np.array(extremes, np.float32)
    for gamma in [0.0, 0.5, 2.0, 5.0]:
        for label in [0.0, 1.0, 0.5]:
            labels = np.full_like(extremes, label)
            for result in compute(dict(logits=extremes, targets=labels, gamma=gamma, reduction="none")):
                state.update(result.tobytes())
        pairs = np.stack(np.meshgrid(extremes, extremes), -1).reshape(-1, 2)
        y = np.arange(len(pairs)) % 2
        for result in compute(dict(logits=pairs, targets=y, gamma=gamma, reduction="none", activation="softmax")):
            state.update(result.tobytes())
    return state.hexdigest()


def test_instruction_sets_have_the_same_bits():
    """Each in its own process; on a machine with fewer of them the cap reaches the next lower one."""
    here = pathlib.Path(__file__).resolve().parent
    code = "import test_capi_semantics as t; print(t.LIBRARY.lib.focal_loss_cpu_isa().decode(), t.digest())"
    found = {}
    for cap in ["baseline", "avx2", "avx512"]:
        environment = {**os.environ, "FOCAL_LOSS_MAX_ISA": cap}
        environment["PYTHONPATH"] = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
        result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        isa, bits = result.stdout.split()
        print(f"FOCAL_LOSS_MAX_ISA={cap}: {isa} {bits[:16]}")
        order = ["baseline", "avx2", "avx512"]
        assert order.index(isa) <= order.index(cap)
        found.setdefault(isa, set()).add(bits)
    print("instruction sets exercised:", ", ".join(found))
    assert "baseline" in found
    flags = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    for isa, needs in {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl"}}.items():
        if needs <= set(flags.split()):
            assert isa in found, f"this processor has {isa}, but it was not used"
    assert len(set.union(*found.values())) == 1, found


# What focal loss is, and is not


def test_alpha_balances_within_a_row():
    """Not the softmax loss times a constant: the positive has alpha, the negatives of the same row 1 - alpha."""
    x = np.array([[0.3, -1.2, 0.7, 2.0]])
    plain, balanced = (LIBRARY.forward(x, np.array([1]), alpha=a, reduction="none")[0] for a in (-1.0, 0.25))
    assert np.allclose(balanced / plain, [0.75, 0.25, 0.75, 0.75], rtol=1e-15)
    empty = LIBRARY.forward(x, np.array([4]), alpha=0.25, reduction="none")[0]
    assert (empty > 0).all() and (empty[[0, 2, 3]] == balanced[[0, 2, 3]]).all()


def test_class_alpha_is_alpha_for_each_class():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((9, 5)), rng.integers(0, 6, 9)
    same = LIBRARY.forward(x, y, class_alpha=np.full(5, 0.25), alpha=-1.0, reduction="none")
    assert np.array_equal(same, LIBRARY.forward(x, y, alpha=0.25, reduction="none"))


def test_ignored_rows_hold_nothing_back():
    """NaN in an ignored row reaches neither the result, nor the gradient, nor the divisors."""
    rng = np.random.default_rng(4)
    x, y, w = rng.standard_normal((8, 3)), rng.integers(0, 3, 8), rng.uniform(0.5, 2, (8, 1))
    y[[2, 5]] = -1
    kept = y >= 0
    poisoned, heavy = x.copy(), w.copy()
    poisoned[~kept], heavy[~kept] = np.nan, 1e300
    for activation, normalization in itertools.product(["sigmoid", "softmax"], fl.NORMALIZATIONS):
        given = dict(activation=activation, normalization=normalization, ignore_index=-1)
        rows = (lambda a: a) if activation == "sigmoid" else (lambda a: a[:, 0].copy())
        loss, grad = LIBRARY.forward_backward(poisoned, y, weight=rows(heavy), **given)
        want_loss, want_grad = LIBRARY.forward_backward(x[kept], y[kept], weight=rows(w[kept]), **given)
        assert np.isclose(loss, want_loss, rtol=1e-14)
        assert np.allclose(grad[kept], want_grad, rtol=1e-13) and (grad[~kept] == 0).all()


def test_gradients_are_the_slope_of_the_loss():
    """Central differences in float64 of the library's own loss, weighted sums and means included."""
    rng = np.random.default_rng(11)
    for activation, targets in itertools.product(["sigmoid", "softmax"], ["i64", "dense", "soft"]):
        for _ in range(25):
            case = random_case(rng, np.dtype(np.float64), activation, targets)
            case["logits"] = np.clip(np.array(case["logits"]), -6, 6)
            logits, labels, grad_loss, rest = split(case)
            # Scaled by a random direction, so that each gradient counts.
            direction = rng.standard_normal(logits.shape)
            step = 1e-5
            up = 1.0 if grad_loss is None else grad_loss
            value = lambda x: (LIBRARY.forward(x, labels, **rest) * up).sum()
            slope = (value(logits + step * direction) - value(logits - step * direction)) / (2 * step)
            grad = LIBRARY.backward(logits, labels, grad_loss=grad_loss, **rest)
            scale = np.abs(grad * direction).sum()
            assert abs((grad * direction).sum() - slope) <= 2e-6 * max(scale, 1e-3), case


def test_messages_are_per_thread():
    import threading

    seen = []
    with pytest.raises(fl.Error):
        LIBRARY.forward(np.zeros((1, 2)), np.array([0]), gamma=-1.0)
    thread = threading.Thread(target=lambda: seen.append(LIBRARY.lib.focal_loss_last_error_message()))
    thread.start()
    thread.join()
    assert seen == [b""] and b"gamma" in LIBRARY.lib.focal_loss_last_error_message()
