"""focal_loss_onnx.numpy: everybody's arrays, where they are, and what goes wrong in a sentence.

Runs with NumPy alone in `make test`, and with PyTorch's and JAX's arrays in `make test-torch`.
"""

import itertools
import os
import threading

import ml_dtypes
import numpy as np
import pytest
from focal_loss_onnx import reference
from focal_loss_onnx.numpy import backward, forward, forward_backward
from focal_loss_onnx.operators import NORMALIZATIONS

try:
    import torch
except ImportError:
    torch = None
try:
    import jax.numpy as jnp
except ImportError:
    jnp = None
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is in the environment of make test-torch")
needs_jax = pytest.mark.skipif(jnp is None, reason="JAX is in the environment of make test-torch")

RANDOM = np.random.default_rng(5)
LOGITS = (3 * RANDOM.standard_normal((4, 6, 5))).astype(np.float32)
INDICES = RANDOM.integers(-1, 6, (4, 6))
DENSE = RANDOM.random(LOGITS.shape).astype(np.float32)
RESULTS = [("none", "elements"), ("sum", "elements"), *(("mean", name) for name in NORMALIZATIONS)]


class Lent:
    """An array that is known by one protocol only."""

    def __init__(self, array, *protocols):
        self.array = array
        for protocol in protocols:
            value = getattr(array, protocol)
            setattr(type(self), protocol, property(lambda self, value=value: value))


def array_interface(array):
    return type("Interface", (Lent,), {})(array, "__array_interface__")


def dlpack(array):
    return type("DLPack", (Lent,), {})(array, "__dlpack__", "__dlpack_device__")


class BeforeDLPack1:
    """A producer that has not heard of `max_version`, and so hands out the older capsule."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, stream=None):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize(("activation", "kind"), list(itertools.product(("sigmoid", "softmax"), ("index", "dense"))))
@pytest.mark.parametrize(("reduction", "normalization"), RESULTS)
def test_against_the_reference(activation, kind, reduction, normalization):
    logits = LOGITS.astype(np.float64)
    rows = logits.shape if activation == "sigmoid" else logits.shape[:-1]
    options = dict(activation=activation, gamma=1.5, reduction=reduction, normalization=normalization)
    options |= dict(class_alpha=RANDOM.random(5), weight=RANDOM.random(rows), normalizer=np.array(1.75))
    targets = DENSE.astype(np.float64)
    if kind == "index":
        targets = INDICES if activation == "sigmoid" else np.where(INDICES == 5, 0, INDICES)
        options["ignore_index"] = -1
    wanted = reference.focal_loss(logits, targets, **options)
    loss = forward(logits, targets, **options)
    assert loss.shape == wanted.shape and loss.dtype == np.float64
    np.testing.assert_allclose(loss, wanted, rtol=1e-12)
    grad_loss = RANDOM.standard_normal(wanted.shape)
    wanted_gradient = reference.focal_loss_grad(grad_loss, logits, targets, **options)
    gradient = backward(logits, targets, grad_loss, **options)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-11, atol=1e-15)
    both = forward_backward(logits, targets, grad_loss, **options)
    assert both[0].tobytes() == loss.tobytes() and both[1].tobytes() == gradient.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_types(dtype):
    logits = LOGITS.astype(dtype)
    loss, gradient = forward_backward(logits, INDICES, ignore_index=-1, reduction="none")
    assert loss.dtype == gradient.dtype == dtype
    exact = reference.focal_loss(logits.astype(np.float64), INDICES, ignore_index=-1, reduction="none")
    np.testing.assert_allclose(loss.astype(np.float64), exact, rtol=2 * float(ml_dtypes.finfo(dtype).eps), atol=1e-7)


@pytest.mark.parametrize("lend", [array_interface, dlpack, BeforeDLPack1])
def test_protocols(lend):
    wanted = forward_backward(LOGITS, INDICES, ignore_index=-1)
    got = forward_backward(lend(LOGITS), lend(INDICES), lend(np.ones((), np.float32)), ignore_index=-1)
    assert [x.tobytes() for x in got] == [x.tobytes() for x in wanted]
    loss, gradient = np.empty((), np.float32), np.empty_like(LOGITS)
    outs = lend(loss), lend(gradient)
    assert forward_backward(LOGITS, INDICES, ignore_index=-1, out=outs) == outs
    assert (loss.tobytes(), gradient.tobytes()) == (wanted[0].tobytes(), wanted[1].tobytes())


def test_nothing_is_copied():
    """An output inside of a larger array is written where it is, and any strides are read as they are."""
    wanted = forward(LOGITS, INDICES, ignore_index=-1, reduction="none")
    wide = np.full((4, 12, 10), np.nan, np.float32)
    out = wide[:, ::2, ::-2]
    assert forward(np.asfortranarray(LOGITS), INDICES, ignore_index=-1, reduction="none", out=out) is out
    assert out.tobytes() == wanted.tobytes() and np.isnan(wide).sum() == wide.size - out.size
    moved = np.moveaxis(LOGITS, -1, 1)
    np.testing.assert_array_equal(forward(moved, INDICES, ignore_index=-1, axis=1), forward(LOGITS, INDICES, ignore_index=-1))
    gradient = backward(LOGITS, INDICES, ignore_index=-1)
    in_place = LOGITS.copy()
    assert backward(in_place, INDICES, ignore_index=-1, out=in_place) is in_place
    assert in_place.tobytes() == gradient.tobytes()


def test_numbers_and_sequences_are_taken_in_the_logits_type():
    alpha, weight = [0.1, 0.2, 0.3, 0.4, 0.5], [[2.0], [1.0], [0.5], [3.0], [1.0], [1.0]]
    given = forward(LOGITS, INDICES, ignore_index=-1, class_alpha=alpha, weight=weight, normalizer=3)
    arrays = dict(class_alpha=np.float32(alpha), weight=np.float32(weight), normalizer=np.float32(3))
    assert given == forward(LOGITS, INDICES, ignore_index=-1, **arrays)
    doubled = backward(LOGITS, INDICES, 2.0, ignore_index=-1)
    np.testing.assert_array_equal(doubled, 2 * backward(LOGITS, INDICES, ignore_index=-1))


def test_defaults():
    row = np.array([[1.5, -0.5, 0.25]])
    assert forward(row, np.array([1])) == pytest.approx(reference.focal_loss(row, np.array([1])), rel=1e-14)
    softmax = reference.focal_loss(row, np.array([1]), activation="softmax", alpha=-1)
    assert forward(row, np.array([1]), activation="softmax") == pytest.approx(softmax, rel=1e-14)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view()
    view = np.ndarray(array.shape, array.dtype, raw.data)
    view[...] = array
    return view


ODD = np.zeros((4, 6, 5), [("x", np.float32), ("y", np.int16)])["x"]


@pytest.mark.parametrize(
    ("error", "sentence", "call"),
    [
        (ValueError, "class index 9 at row 0", lambda: forward(LOGITS, np.full((4, 6), 9))),
        (ValueError, "gamma", lambda: forward(LOGITS, INDICES, gamma=-1)),
        (ValueError, "axis is 3", lambda: forward(LOGITS, INDICES, axis=3, reduction="none", activation="softmax")),
        (ValueError, "targets", lambda: forward(LOGITS, INDICES[:2])),
        (ValueError, "bits 16", lambda: forward(LOGITS, INDICES.astype(np.int16))),
        (ValueError, "code 1, bits 8", lambda: forward(LOGITS, INDICES.astype(np.uint8))),
        (ValueError, "not a floating-point type", lambda: forward(INDICES, INDICES)),
        (ValueError, "17", lambda: forward(np.zeros((1,) * 17, np.float32), np.zeros((1,) * 16, int))),
        (ValueError, "reduction must be one of none, sum, mean", lambda: forward(LOGITS, INDICES, reduction="avg")),
        (ValueError, "must fit 64 bits", lambda: forward(LOGITS, INDICES, ignore_index=2**63)),
        (ValueError, "must fit 32 bits", lambda: forward(LOGITS, INDICES, axis=2**32 - 1)),
        (ValueError, ">f4", lambda: forward(LOGITS.astype(">f4"), INDICES)),
        (ValueError, "code 5", lambda: forward(LOGITS.astype(np.complex64), INDICES)),
        (ValueError, "object", lambda: forward(LOGITS.astype(object), INDICES)),
        (ValueError, "aligned", lambda: forward(unaligned(LOGITS), INDICES, ignore_index=-1)),
        (ValueError, "whole elements", lambda: forward(ODD, INDICES)),
        (ValueError, "out is read-only", lambda: forward(LOGITS, INDICES, reduction="none", out=read_only(LOGITS))),
        (ValueError, "overlap", lambda: forward(LOGITS, INDICES, ignore_index=-1, reduction="none", out=LOGITS)),
        (ValueError, "loss", lambda: forward(LOGITS, INDICES, ignore_index=-1, out=np.empty(3, np.float32))),
        (TypeError, "targets must be an array", lambda: forward(LOGITS, [0, 1])),
        (TypeError, "not NoneType", lambda: forward(None, INDICES)),
        (TypeError, "masked", lambda: forward(np.ma.masked_array(LOGITS, LOGITS > 0), INDICES)),
        (TypeError, "beta", lambda: forward(LOGITS, INDICES, beta=1)),
        (TypeError, "integer", lambda: forward(LOGITS, INDICES, ignore_index=0.5)),
        (TypeError, "gamma|real number", lambda: forward(LOGITS, INDICES, gamma="two")),
    ],
)  # fmt: skip
def test_errors(error, sentence, call):
    with pytest.raises(error, match=sentence):
        call()


def test_a_failed_call_has_written_nothing():
    out = np.full(LOGITS.shape, 7, np.float32)
    with pytest.raises(ValueError, match="class index -1"):
        backward(LOGITS, INDICES, out=out)
    assert (out == 7).all()


def test_threads():
    """Errors are a thread's own, and calls do not disturb each other."""
    wanted = forward_backward(LOGITS, INDICES, ignore_index=-1, reduction="none")
    failures = []

    def work(number):
        for _ in range(50):
            with pytest.raises(ValueError, match=f"class index {number} "):
                forward(LOGITS, np.full((4, 6), number))
            got = forward_backward(LOGITS, INDICES, ignore_index=-1, reduction="none")
            if [x.tobytes() for x in got] != [x.tobytes() for x in wanted]:
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10, 18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_child_after_fork_does_not_wait_for_its_parents_threads():
    logits = np.tile(LOGITS, (400, 5, 1))
    targets = np.zeros(logits.shape[:-1], np.int64)
    wanted = forward(logits, targets).tobytes()  # in the parent: its pool of threads is there now
    child = os.fork()
    if child == 0:
        os._exit(0 if forward(logits, targets).tobytes() == wanted else 1)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        threading.Event().wait(0.02)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hung")
    assert os.waitstatus_to_exitcode(status) == 0


def test_producers_on_a_device_are_told_the_stream():
    """Which is how what was written on other streams is waited for. (The capsules here are of main memory.)"""

    class OnDevice(BeforeDLPack1):
        streams = []

        def __dlpack__(self, stream=None):
            self.streams.append(stream)
            return self.array.__dlpack__()

        def __dlpack_device__(self):
            return 2, 0

    for stream, told in ((None, 1), (0, 1), (77, 77)):
        OnDevice.streams.clear()
        forward(OnDevice(LOGITS), OnDevice(INDICES), ignore_index=-1, stream=stream)
        assert OnDevice.streams == [told, told]


@needs_torch
def test_torch():
    logits, targets = torch.from_numpy(LOGITS.copy()), torch.from_numpy(INDICES)
    out = torch.empty(logits.shape).permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert backward(logits, targets, ignore_index=-1, out=out) is out
    np.testing.assert_array_equal(out.numpy(), backward(LOGITS, INDICES, ignore_index=-1))
    half = forward(logits.bfloat16(), targets, ignore_index=-1)
    assert half.dtype == ml_dtypes.bfloat16
    with pytest.raises(ValueError, match="logits cannot be read where it is: .*detach"):
        forward(logits.requires_grad_(), targets)


@needs_jax
def test_jax():
    logits, targets = jnp.asarray(LOGITS), jnp.asarray(INDICES.astype(np.int32))
    wanted = forward(LOGITS, INDICES, ignore_index=-1, reduction="none")
    np.testing.assert_array_equal(forward(logits, targets, ignore_index=-1, reduction="none"), wanted)
    assert forward(logits.astype(jnp.bfloat16), targets, ignore_index=-1).dtype == ml_dtypes.bfloat16
    with pytest.raises(ValueError, match="out is read-only"):
        forward(logits, targets, ignore_index=-1, reduction="none", out=jnp.zeros_like(logits))
