"""The kernels' formulas with the largest errors that the documentation of the GPU's approximations allows put in.

They run on the CPU behind the stub, where `2^x` and `1/x` are right to half a ULP; `host_set_noise` makes them off by up
to 2 and 1 ULP, in another way for each seed. What stays within the bounds here does so on any GPU.
"""

import csv
import subprocess
import sys

import host
import ml_dtypes
import numpy as np
import places
import pytest
from places import ROOT, fl

SEEDS = [0, 1, 2, 3]
#: In ULP of the exact value, for gamma up to 2 and up to 5. The CPU's bounds are 8 and 16. What 2^x may be off by, 2^-22
#: of itself, is up to 4 ULP of a result; it counts once for the power, and for its base by gamma / 2 besides.
ULP = {2: {"loss": 9, "grad": 12}, 5: {"loss": 16, "grad": 16}}


@pytest.fixture(scope="module")
def device():
    host.run_kernels()
    yield fl.Library(memory=places.memory())
    host.library().host_set_noise(0)


def ulps(got, exact):
    normal = np.abs(exact) >= float(np.finfo(np.float32).tiny)
    unit = 2.0 ** (np.floor(np.log2(np.where(normal, np.abs(exact), 1))) - 23)
    return np.where(normal, np.abs(got.astype(np.float64) - exact) / unit, 0)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 1.5, 2, 3, 5])
def test_hard_labels_within_ulps(device, gamma):
    """Against the CPU's float64, which other tests hold to a few ULP of its own."""
    near = np.linspace(-8, 8, 40_001)
    far = np.concatenate([np.geomspace(1e-30, 110, 5_000), -np.geomspace(1e-30, 110, 5_000)])
    logits = np.concatenate([near, far]).astype(np.float32)
    logits = np.resize(logits, (-(-len(logits) // 8), 8))
    exact = fl.Library()
    bound, worst = ULP[2 if gamma <= 2 else 5], {}
    for label in range(9):  # the positive in each place, and none
        if label not in (0, 5, 8):
            continue
        targets = np.full(len(logits), label)
        options = dict(reduction="none", gamma=gamma, alpha=-1)
        wanted = exact.forward_backward(logits.astype(np.float64), targets, **options)
        for seed in SEEDS:
            host.library().host_set_noise(seed)
            got = device.forward_backward(logits, targets, **options)
            for name, a, b in zip(("loss", "grad"), got, wanted, strict=True):
                worst[name] = max(worst.get(name, 0), ulps(a, b).max())
    print(f"gamma {gamma}: loss {worst['loss']:.1f}, gradient {worst['grad']:.1f} ULP")
    for name, limit in bound.items():
        assert worst[name] <= limit, (name, worst)


def test_the_float64_vectors(device):
    """tests/data/sigmoid.csv: logit, label, alpha, gamma, loss, gradient, the largest of the gradient's terms."""
    host.library().host_set_noise(1)
    with open(ROOT / "tests/data/sigmoid.csv") as file:
        rows = [[float(cell) for cell in row] for row in csv.reader(file) if row]
    by_options = {}
    for x, t, alpha, gamma, loss, grad, term in rows:
        by_options.setdefault((alpha, gamma), []).append((x, t, loss, grad, term))
    checked = 0
    for (alpha, gamma), group in by_options.items():
        x, t, loss, grad, term = np.array(group).T
        # Those that float32 holds exactly; f64 takes all.
        for dtype, bound in [(np.float32, 16), (np.float64, 64)]:
            exactly = (x.astype(dtype) == x) & (t.astype(dtype) == t)
            if not exactly.any():
                continue
            got = device.forward_backward(
                x[exactly, None].astype(dtype), t[exactly, None].astype(dtype), alpha=alpha, gamma=gamma, reduction="none")
            eps = np.finfo(dtype).eps
            tiny = float(np.finfo(dtype).tiny)
            for values, wanted, scale in [(got[0], loss, loss), (got[1], grad, term)]:
                error = np.abs(values[:, 0].astype(np.float64) - wanted[exactly])
                assert (error <= bound * eps * np.abs(scale[exactly]) + tiny).all(), (alpha, gamma, dtype)
            checked += exactly.sum()
    assert checked > 2000


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=str)
def test_sixteen_bits_are_the_float32_result_rounded_once(device, dtype):
    """But for results that lie within 2^-17 of half way between two numbers of the type."""
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    logits = every[np.isfinite(every.astype(np.float32))]
    logits = logits[: len(logits) // 8 * 8].reshape(-1, 8)
    exact = fl.Library()
    host.library().host_set_noise(1)
    for label, gamma in [(0, 2.0), (8, 2.0), (3, 1.5), (8, 0.0), (8, 5.0)]:
        targets = np.full(len(logits), label)
        options = dict(reduction="none", gamma=gamma)
        wanted = exact.forward_backward(logits.astype(np.float64), targets, **options)
        for got, value in zip(device.forward_backward(logits, targets, **options), wanted, strict=True):
            with np.errstate(over="ignore"):
                low, high = (value * (1 - 2.0**-17)).astype(dtype), (value * (1 + 2.0**-17)).astype(dtype)
            assert ((got == low) | (got == high)).all()


@pytest.mark.parametrize("activation, targets", [("sigmoid", "i64"), ("sigmoid", "dense"), ("softmax", "i64"), ("softmax", "dense")])
@pytest.mark.parametrize("shape", [(70, 80), (70, 5), (9, 130)])
def test_the_gradient_may_take_the_logits_memory(device, activation, targets, shape):
    host.library().host_set_noise(0)
    rng = np.random.default_rng(8)
    logits = (4 * rng.standard_normal(shape)).astype(np.float32)
    labels = rng.random(shape).astype(np.float32) if targets == "dense" else rng.integers(0, shape[1], shape[0])
    options = device.options(activation=activation)
    for view in (lambda a: a, lambda a: a[::-1, ::-1]):
        memory = logits.copy()
        wanted = device.backward(view(logits), labels, activation=activation)
        inputs = device.inputs(view(memory), labels)
        device.check(device.lib.focal_loss_backward(options, inputs, None, device.memory.tensor(view(memory))))
        assert view(memory).tobytes() == wanted.tobytes()


def test_the_coefficients_are_what_their_script_prints():
    script = ROOT / "src/math/coefficients.py"
    printed = subprocess.run([sys.executable, script, "cuda"], capture_output=True, text=True, check=True).stdout
    assert printed == (ROOT / "src/cuda/kernels/coefficients.h").read_text()
