"""Bad input through the C ABI: a status, a sentence that names the argument, nothing written, and the next call works.

`Call` builds a good call with every struct open to change. Every test below breaks one thing in it.
"""

import ctypes
import os
import pathlib
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest

import focal_loss_ctypes as fl
from focal_loss_ctypes import INTERNAL, INVALID_ARGUMENT, OK, UNSUPPORTED

LIBRARY = fl.Library()
LIB = LIBRARY.lib
BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [np.dtype(np.float16), BF16, np.dtype(np.float32), np.dtype(np.float64)]
INTEGERS = [np.dtype(np.int32), np.dtype(np.int64)]
REQUIRED = ["logits", "targets"]
OPTIONAL = ["class_alpha", "weight", "normalizer"]
OUTPUTS = ["loss", "grad_logits"]
ALL = REQUIRED + OPTIONAL + ["grad_loss"] + OUTPUTS
FUNCTIONS = {
    "focal_loss_forward": ["loss"],
    "focal_loss_backward": ["grad_loss", "grad_logits"],
    "focal_loss_forward_backward": ["grad_loss", "loss", "grad_logits"],
}
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def functions_with(*names):
    """The functions that take every one of the tensors."""
    return [f for f, own in FUNCTIONS.items() if all(n in own or n in REQUIRED + OPTIONAL for n in names)]


def sentinel(shape, dtype):
    """An output: a view into a buffer of 0xA5 that is a little longer at both ends."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    buffer = np.full((count + 16) * dtype.itemsize, 0xA5, np.uint8).view(dtype)
    return buffer[8 : 8 + count].reshape(shape), buffer


class Call:
    """A call that would succeed: all tensors given, outputs full of a pattern, structs open to change."""

    def __init__(self, shape=(2, 3), targets="i64", dtype=np.float32, seed=0, tensors=ALL, **options):
        rng = np.random.default_rng(seed)
        dtype = np.dtype(dtype)
        options = {"reduction": "none", **options}
        self.options = LIBRARY.options(**options)
        axis = self.options.axis % len(shape)
        rows = shape[:axis] + shape[axis + 1 :]
        softmax = self.options.activation == fl.ACTIVATIONS["softmax"]
        logits = (3 * rng.standard_normal(shape)).astype(dtype)
        loss_shape = LIBRARY.loss_shape(logits, self.options)
        if targets == "dense":
            labels = rng.random(shape)
            labels = labels / labels.sum(axis, keepdims=True) if softmax else labels
            labels = labels.astype(dtype)
        else:
            labels = rng.integers(0, max(1, shape[axis]), rows).astype({"i32": np.int32, "i64": np.int64}[targets])
        self.arrays = {
            "logits": logits,
            "targets": labels,
            "class_alpha": rng.random(shape[axis]).astype(dtype),
            "weight": rng.random(rows if softmax else shape).astype(dtype),
            "normalizer": np.asarray(2, dtype),
            "grad_loss": rng.standard_normal(loss_shape).astype(dtype),
        }
        self.arrays = {name: array for name, array in self.arrays.items() if name in tensors}
        self.buffers = list(self.arrays.values())
        for name, output_shape in (("loss", loss_shape), ("grad_logits", shape)):
            self.arrays[name], buffer = sentinel(output_shape, dtype)
            self.buffers.append(buffer)
        self.tensors = {name: fl.tensor(array) for name, array in self.arrays.items()}
        self.inputs = fl.Inputs(ctypes.sizeof(fl.Inputs))
        self.keep = []

    def set(self, name, array, owner=None):
        """Puts another array in the place of a tensor; `owner` is the memory to watch, if not its own."""
        self.arrays[name] = array
        self.tensors[name] = fl.tensor(array)
        self.buffers.append(array if owner is None else owner)
        return self

    def int64s(self, *values):
        self.keep.append((ctypes.c_int64 * max(1, len(values)))(*values))
        return self.keep[-1]

    def __call__(self, function):
        def pointer(name):
            return ctypes.pointer(self.tensors[name]) if self.tensors.get(name) is not None else None

        for name in REQUIRED + OPTIONAL:
            # Through an own instance each time, so that absent ones are NULL.
            setattr(self.inputs, name, pointer(name) or ctypes.POINTER(fl.Tensor)())
        options = self.options if self.options is None else ctypes.pointer(self.options)
        inputs = self.inputs if self.inputs is None else ctypes.pointer(self.inputs)
        return getattr(LIB, function)(options, inputs, *(pointer(name) for name in FUNCTIONS[function]))

    def bytes(self):
        return [np.ascontiguousarray(buffer).tobytes() for buffer in self.buffers]


def message():
    return LIB.focal_loss_last_error_message().decode()


def refused(call, status, *words, functions=FUNCTIONS):
    """Each function refuses, says why, and has written nothing; a good call works afterwards."""
    assert functions
    for function in functions:
        before = call.bytes()
        got = call(function)
        said = message()
        assert got == status, (function, got, said)
        assert said.strip(), function
        for word in words:
            assert str(word) in said, (function, said)
        assert call.bytes() == before, f"{function} has written although it failed: {said}"
    works(Call())


def works(call, functions=FUNCTIONS):
    for function in functions:
        assert call(function) == OK, (function, message())
        assert message() == ""


@pytest.mark.parametrize("targets", ["i32", "i64", "dense"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_good_call_is_good(dtype, activation, targets):
    call = Call(dtype=dtype, activation=activation, targets=targets)
    works(call)
    for name in OUTPUTS:
        assert np.isfinite(call.arrays[name].astype(np.float64)).all()
    for buffer in call.buffers[-2:]:
        edges = np.concatenate([buffer[:8], buffer[-8:]]).view(np.uint8)
        assert (edges == 0xA5).all()


# NULL anything


@pytest.mark.parametrize("function", FUNCTIONS)
def test_null_structs(function):
    call = Call()
    for position, name in enumerate(["options", "inputs"]):
        arguments = [ctypes.pointer(call.options), ctypes.pointer(call.inputs)]
        arguments += [ctypes.pointer(call.tensors[n]) for n in FUNCTIONS[function]]
        call(function)  # sets the pointers in `inputs`
        arguments[position] = None
        fresh = Call()
        before = fresh.bytes()
        assert getattr(LIB, function)(*arguments) == INVALID_ARGUMENT
        assert name in message()
        assert fresh.bytes() == before
    assert getattr(LIB, function)(*[None] * (2 + len(FUNCTIONS[function]))) == INVALID_ARGUMENT
    assert message()
    works(Call())


@pytest.mark.parametrize("name", ALL)
def test_null_tensors(name):
    call = Call()
    call.tensors[name] = None
    if name in REQUIRED + OUTPUTS:
        refused(call, INVALID_ARGUMENT, name, "NULL", functions=functions_with(name))
    else:
        works(call)


@pytest.mark.parametrize("name", ALL)
def test_null_data(name):
    call = Call()
    call.tensors[name].data = None
    refused(call, INVALID_ARGUMENT, name, "NULL", functions=functions_with(name))
    call.tensors[name].byte_offset = 64
    refused(call, INVALID_ARGUMENT, name, functions=functions_with(name))


@pytest.mark.parametrize("name", ALL)
def test_null_shape(name):
    call = Call()
    if call.tensors[name].ndim == 0:
        call.tensors[name].ndim = 1
    call.tensors[name].shape = ctypes.POINTER(ctypes.c_int64)()
    refused(call, INVALID_ARGUMENT, name, "shape", functions=functions_with(name))


def test_null_shape_and_strides_of_a_scalar_are_fine():
    call = Call(reduction="mean")
    for name in ["normalizer", "loss", "grad_loss"]:
        assert call.tensors[name].ndim == 0
        call.tensors[name].shape = call.tensors[name].strides = ctypes.POINTER(ctypes.c_int64)()
    works(call)


def test_null_strides_are_row_major():
    want = Call()
    works(want)
    call = Call()
    for name in ALL:
        call.tensors[name].strides = ctypes.POINTER(ctypes.c_int64)()
    works(call)
    for name in OUTPUTS:
        assert call.arrays[name].tobytes() == want.arrays[name].tobytes()


# struct_size and the structs' own addresses


@pytest.mark.parametrize("size", [0, 1, 3, 7, 8, 9, 15, 20, 28, 52, 68, 84, 87, 89, 96, 1 << 20, 2**63, 2**64 - 1])
def test_wrong_options_size(size):
    call = Call()
    call.options.struct_size = size
    refused(call, INVALID_ARGUMENT, "options", "struct_size")


@pytest.mark.parametrize("size", [0, 1, 4, 7, 8, 9, 12, 17, 20, 44, 47, 49, 56, 1 << 20, 2**63, 2**64 - 1])
def test_wrong_inputs_size(size):
    call = Call()
    call.inputs.struct_size = size
    refused(call, INVALID_ARGUMENT, "inputs", "struct_size")


def test_shorter_inputs_lack_required_tensors():
    call = Call()
    call.inputs.struct_size = fl.Inputs.targets.offset
    refused(call, INVALID_ARGUMENT, "targets")
    call.inputs.struct_size = fl.Inputs.class_alpha.offset
    works(call)


def test_unaligned_structs():
    call = Call()
    for name in ALL:
        original = call.tensors[name]
        space = (ctypes.c_char * (ctypes.sizeof(fl.Tensor) + 16))()
        address = (ctypes.addressof(space) + 7) // 8 * 8 + 1
        ctypes.memmove(address, ctypes.addressof(original), ctypes.sizeof(fl.Tensor))
        call.tensors[name] = fl.Tensor.from_address(address)
        refused(call, INVALID_ARGUMENT, name, "aligned", functions=functions_with(name))
        call.tensors[name] = original
    for name in ["options", "inputs"]:
        original = getattr(call, name)
        space = (ctypes.c_char * (ctypes.sizeof(original) + 16))()
        address = (ctypes.addressof(space) + 7) // 8 * 8 + 2
        ctypes.memmove(address, ctypes.addressof(original), ctypes.sizeof(original))
        setattr(call, name, type(original).from_address(address))
        refused(call, INVALID_ARGUMENT, name, "aligned")
        setattr(call, name, original)


# Ranks, shapes, strides


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("ndim", [-1, 17, 1000, INT32_MIN, INT32_MAX])
def test_absurd_rank(name, ndim):
    call = Call()
    call.tensors[name].ndim = ndim
    refused(call, INVALID_ARGUMENT, name, "ndim", ndim, functions=functions_with(name))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("axis", [0, -1])
def test_rank_zero_logits(activation, axis):
    call = Call(activation=activation)
    call.options.axis = axis
    for name in ["logits", "targets", "grad_logits", "loss", "weight", "grad_loss"]:
        call.tensors[name].ndim = 0
    refused(call, INVALID_ARGUMENT, "logits", "rank 0")


def test_rank_sixteen_works():
    shape = (2,) * 14 + (1, 3)
    works(Call(shape=shape))
    works(Call(shape=shape, activation="softmax"))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [-1, INT64_MIN])
def test_negative_sizes(name, size):
    call = Call()
    tensor = call.tensors[name]
    tensor.ndim = max(1, tensor.ndim)
    tensor.shape = call.int64s(*[size] * tensor.ndim)
    refused(call, INVALID_ARGUMENT, name, "negative", functions=functions_with(name))
    tensor.shape = call.int64s(*([2] * (tensor.ndim - 1) + [size]))
    refused(call, INVALID_ARGUMENT, name, "negative", functions=functions_with(name))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "shape",
    [(INT64_MAX,), (2**62, 2), (2**61, 1), (2**32, 2**32), (2**40, 2**40, 0), (2**21, 2**21, 2**21, 2)],
    ids=str,
)
def test_overflowing_shapes(name, shape):
    call = Call()
    call.tensors[name].ndim = len(shape)
    call.tensors[name].shape = call.int64s(*shape)
    call.tensors[name].strides = ctypes.POINTER(ctypes.c_int64)()
    refused(call, INVALID_ARGUMENT, name, "overflow", functions=functions_with(name))
    # With strides of zero nothing leaves the memory, but the count overflows all the same.
    call.tensors[name].strides = call.int64s(*[0] * len(shape))
    refused(call, INVALID_ARGUMENT, name, "overflow", functions=functions_with(name))


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("class_alpha", "normalizer", "targets")])
@pytest.mark.parametrize(
    "strides", [(INT64_MAX, 1), (INT64_MIN, 1), (2**61, 1), (1, -(2**61)), (2**60, 2**60)], ids=str
)
def test_overflowing_strides(name, strides):
    call = Call()
    call.tensors[name].strides = call.int64s(*strides)
    refused(call, INVALID_ARGUMENT, name, "overflow", functions=functions_with(name))


@pytest.mark.parametrize("name", ["class_alpha", "targets"])
@pytest.mark.parametrize("stride", [INT64_MAX, INT64_MIN, 2**62, -(2**61)])
def test_overflowing_strides_of_vectors(name, stride):
    call = Call()
    call.tensors[name].strides = call.int64s(stride)
    refused(call, INVALID_ARGUMENT, name, "overflow", functions=functions_with(name))


def test_strides_of_axes_with_one_element_do_not_matter():
    call = Call(shape=(1, 3))
    for name in ["logits", "weight", "grad_loss", "loss", "grad_logits"]:
        call.tensors[name].strides = call.int64s(INT64_MIN, 1)
    call.tensors["targets"].strides = call.int64s(INT64_MAX)
    works(call)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("offset", [2**64 - 1, 2**64 - 8])
def test_overflowing_byte_offset(name, offset):
    call = Call()
    call.tensors[name].byte_offset = offset
    refused(call, INVALID_ARGUMENT, name, functions=functions_with(name))


def test_addresses_that_wrap_around():
    call = Call()
    call.tensors["logits"].data = 2**64 - 8
    refused(call, INVALID_ARGUMENT, "logits")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("by", ["data", "byte_offset"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_misaligned_data(name, by, dtype):
    call = Call(dtype=dtype)
    size = call.arrays[name].dtype.itemsize
    for shift in {1, size // 2, size - 1} - {0}:
        if by == "data":
            call.tensors[name].data = call.arrays[name].ctypes.data + shift
        else:
            call.tensors[name].byte_offset = shift
        refused(call, INVALID_ARGUMENT, name, "aligned", functions=functions_with(name))


# Types and devices


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "code, bits, lanes",
    [(1, 8, 1), (0, 8, 1), (0, 16, 1), (1, 32, 1), (2, 8, 1), (2, 0, 1), (2, 128, 1), (3, 64, 1), (4, 32, 1),
     (5, 64, 1), (6, 8, 1), (7, 8, 1), (17, 4, 1), (255, 255, 1), (2, 32, 0), (2, 32, 2), (2, 64, 65535), (0, 64, 4)],
)
def test_unknown_dtypes(name, code, bits, lanes):
    call = Call()
    call.tensors[name].dtype = fl.DType(code, bits, lanes)
    refused(call, UNSUPPORTED, name, "dtype", functions=functions_with(name))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_logits(dtype):
    call = Call()
    call.set("logits", np.zeros((2, 3), dtype))
    refused(call, INVALID_ARGUMENT, "logits", dtype.name)


@pytest.mark.parametrize("name", [n for n in ALL if n != "logits"])
@pytest.mark.parametrize("targets", ["i64", "dense"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes_that_do_not_match(name, targets, dtype):
    if name == "targets" and targets != "dense":
        return
    for other in FLOATS + INTEGERS:
        if other == dtype or (name == "targets" and other in INTEGERS):
            continue
        call = Call(dtype=dtype, targets=targets)
        call.set(name, np.zeros(call.arrays[name].shape, other))
        refused(call, INVALID_ARGUMENT, name, functions=functions_with(name))


@pytest.mark.parametrize("name", ALL)
def test_devices(name):
    for device in [2, 13]:  # one tensor on CUDA device 5, the others in main memory
        call = Call()
        call.tensors[name].device = fl.Device(device, 5)
        refused(call, INVALID_ARGUMENT, name, "CUDA device 5", "the CPU", functions=functions_with(name))
    for device in [0, -1, 4, 7, 8, 9, 10, 12, 14, 17, INT32_MIN, INT32_MAX]:
        call = Call()
        call.tensors[name].device.device_type = device
        refused(call, UNSUPPORTED, name, "device_type", device, functions=functions_with(name))
    call = Call()
    call.tensors[name].device.device_type = 3  # pinned main memory is main memory
    works(call)


# Options


@pytest.mark.parametrize(
    "field, values",
    [
        ("activation", [-1, 2, 3, INT32_MIN, INT32_MAX]),
        ("reduction", [-1, 3, 4, INT32_MIN, INT32_MAX]),
        ("normalization", [-1, 4, 5, INT32_MIN, INT32_MAX]),
        ("num_threads", [-1, -2, INT32_MIN]),
        ("axis", [2, 3, -3, INT32_MIN, INT32_MAX]),
        ("alpha", [np.nextafter(1.0, 2.0), 1.5, 100.0, float("inf"), float("nan"), -float("nan")]),
        ("gamma", [-1e-300, -5e-324, -1.0, float("inf"), -float("inf"), float("nan")]),
    ],
)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_options_out_of_range(field, values, activation):
    for value in values:
        call = Call(activation=activation)
        setattr(call.options, field, value)
        refused(call, INVALID_ARGUMENT, field)


@pytest.mark.parametrize(
    "field, values",
    [
        ("alpha", [-float("inf"), -1e300, -1e-300, -0.0, 0.0, 1.0]),
        ("gamma", [0.0, -0.0, 5e-324, 1.0, 1e300, float(np.finfo(np.float64).max)]),
        ("num_threads", [0, 1, 2, 1000, INT32_MAX]),
        ("has_ignore_index", [0, 1, -1, INT32_MAX]),
        ("has_background_index", [0, 1, -1, INT32_MIN]),
        ("axis", [-1, 1]),
    ],
)
def test_options_at_the_edge_of_their_range(field, values):
    for value in values:
        call = Call()
        call.options.ignore_index = 0
        call.options.background_index = 1
        setattr(call.options, field, value)
        works(call)


def test_background_index_with_softmax():
    for index in [0, 3, -1, INT64_MIN]:
        for targets in ["i32", "i64", "dense"]:
            call = Call(activation="softmax", targets=targets, background_index=index)
            refused(call, INVALID_ARGUMENT, "background_index")


@pytest.mark.parametrize("name", ["ignore_index", "background_index"])
def test_special_indices_with_dense_targets(name):
    call = Call(targets="dense", **{name: 0})
    refused(call, INVALID_ARGUMENT, name, "dense")


# Class indices


BAD_INDICES = [-1, 4, 100, -100, INT32_MIN, INT32_MAX]


@pytest.mark.parametrize("targets", ["i32", "i64"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_class_index_out_of_range(activation, targets, reduction):
    bad = list(BAD_INDICES)
    if targets == "i64":
        # Values whose low halves would be valid.
        bad += [2**32, 2**32 + 1, -(2**32), INT64_MIN, INT64_MAX]
    if activation == "softmax":
        bad += [3]
    for row in range(2):
        for value in bad:
            call = Call(activation=activation, targets=targets, reduction=reduction)
            call.arrays["targets"][row] = value
            refused(call, INVALID_ARGUMENT, "targets", f"row {row} ", f"{value} ")


@pytest.mark.parametrize("targets", ["i32", "i64"])
def test_the_first_bad_row_is_named(targets):
    call = Call(shape=(3, 4, 5, 2), axis=1, targets=targets)
    flat = call.arrays["targets"].reshape(-1)
    flat[[7, 11, 29]] = [-3, 99, 77]
    refused(call, INVALID_ARGUMENT, "targets", "row 7 ", "-3 ")
    # Rows are counted in row-major order, however the indices lie in memory.
    for strides in [(1, 3, 15), (20, 4, -2), (-10, 2, 1)]:
        values = flat.reshape(3, 5, 2)
        buffer = np.zeros(200, values.dtype)
        view = np.lib.stride_tricks.as_strided(
            buffer[100:], values.shape, [s * values.itemsize for s in strides], writeable=True
        )
        view[...] = values
        assert (view == values).all()
        call.set("targets", view, buffer)
        refused(call, INVALID_ARGUMENT, "targets", "row 7 ", "-3 ")


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_first_bad_row_among_many_threads(activation):
    rows = 300_000
    for bad in [[rows - 1], [299_998, 140_001, 140_002], [270_000, 5]]:
        call = Call(shape=(rows, 1), targets="i32", activation=activation)
        call.arrays["targets"][bad] = [-5 - b for b in bad]
        refused(call, INVALID_ARGUMENT, f"row {min(bad)} ", f"{-5 - min(bad)} ")


def test_special_indices_make_room_and_take_it():
    call = Call(ignore_index=-100)
    call.arrays["targets"][:] = [-100, 3]
    works(call)
    call = Call(background_index=-1)
    call.arrays["targets"][:] = [0, 3]  # K is no background any more
    refused(call, INVALID_ARGUMENT, "row 1 ", "3 ")
    call.arrays["targets"][:] = [0, -1]
    works(call)
    call = Call(activation="softmax", ignore_index=255)
    call.arrays["targets"][:] = [255, 2]
    works(call)


@pytest.mark.parametrize("shape", [(2,), (3,), (1, 2), (2, 1), (2, 3), (2, 2), (), (0,)], ids=str)
def test_class_indices_of_the_wrong_shape(shape):
    call = Call()
    call.set("targets", np.zeros(shape, np.int64))
    works(call) if shape == (2,) else refused(call, INVALID_ARGUMENT, "targets", "shape")


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (2,), (3,), (6,), (1, 2, 3), (2, 1), (1, 3), (), (0, 3)], ids=str)
def test_dense_targets_of_the_wrong_shape(shape):
    call = Call(targets="dense")
    call.set("targets", np.zeros(shape, np.float32))
    works(call) if shape == (2, 3) else refused(call, INVALID_ARGUMENT, "targets", "shape")


# Shapes of the optional inputs and the outputs


@pytest.mark.parametrize(
    "activation, good, bad",
    [
        (
            "sigmoid",
            [(), (1,), (3,), (2, 1), (1, 3), (2, 3), (1, 1)],
            [(2,), (4,), (3, 1), (2, 2), (3, 2), (1, 2, 3), (0,), (2, 0)],
        ),
        ("softmax", [(), (1,), (2,)], [(3,), (2, 1), (1, 2), (2, 3), (1, 1), (0,)]),
    ],
    ids=["sigmoid", "softmax"],
)
def test_weight_shapes(activation, good, bad):
    for shape in good + bad:
        call = Call(activation=activation)
        call.set("weight", np.ones(shape, np.float32))
        works(call) if shape in good else refused(call, INVALID_ARGUMENT, "weight", "shape")


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_class_alpha_shapes(activation):
    for shape in [(), (1,), (2,), (4,), (1, 3), (3, 1), (2, 3), (0,)]:
        call = Call(activation=activation)
        call.set("class_alpha", np.ones(shape, np.float32))
        refused(call, INVALID_ARGUMENT, "class_alpha", "shape")


def test_normalizer_shapes():
    for shape in [(), (1,), (1, 1, 1)]:
        works(Call().set("normalizer", np.ones(shape, np.float32)))
    for shape in [(2,), (0,), (1, 2), (2, 3)]:
        refused(Call().set("normalizer", np.ones(shape, np.float32)), INVALID_ARGUMENT, "normalizer", "one element")


@pytest.mark.parametrize("name", ["loss", "grad_loss"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_loss_shapes(name, activation, reduction):
    good = {("none", "sigmoid"): [(2, 3)], ("none", "softmax"): [(2,)]}.get((reduction, activation), [(), (1,), (1, 1)])
    for shape in [(), (1,), (1, 1), (2,), (3,), (2, 3), (3, 2), (6,), (2, 1), (2, 3, 1), (0,), (0, 3)]:
        call = Call(activation=activation, reduction=reduction)
        call.set(name, np.ones(shape, np.float32))
        if shape in good:
            works(call)
        else:
            refused(call, INVALID_ARGUMENT, f"{name}: shape", functions=functions_with(name))


def test_grad_logits_shapes():
    for shape in [(), (2,), (3,), (6,), (3, 2), (1, 2, 3), (2, 3, 1), (2, 4), (2, 0)]:
        call = Call().set("grad_logits", np.ones(shape, np.float32))
        refused(call, INVALID_ARGUMENT, "grad_logits: shape", functions=functions_with("grad_logits"))


# Overlap


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize(
    "strides", [(0, 1), (1, 0), (0, 0), (1, 1), (2, 1), (3, 0), (1, -1), (-2, 1), (-2, 2)], ids=str
)
def test_outputs_that_overlap_themselves(name, strides):
    call = Call(shape=(3, 3))
    buffer = np.full(64, 7, np.float32)
    view = np.lib.stride_tricks.as_strided(buffer[32:], (3, 3), [4 * s for s in strides], writeable=True)
    call.set(name, view, buffer)
    refused(call, INVALID_ARGUMENT, name, "overlap", functions=functions_with(name))


def shared_memory(call, output, other, shift=0):
    """The output in the memory of another tensor, `shift` bytes on."""
    room = np.full(4096, 0x11, np.uint8)
    given = call.arrays[other]
    room[1024 : 1024 + given.nbytes] = np.ascontiguousarray(given).view(np.uint8).reshape(-1)
    call.set(other, room[1024 : 1024 + given.nbytes].view(given.dtype).reshape(given.shape), room)
    out = call.arrays[output]
    start = 1024 + shift
    call.set(output, room[start : start + out.nbytes].view(out.dtype).reshape(out.shape), room)
    return call


@pytest.mark.parametrize("other", [n for n in ALL if n not in OUTPUTS])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_outputs_in_the_memory_of_inputs(activation, output, other):
    for reduction in ["none", "mean"]:
        for targets in ["i64", "dense"]:
            call = Call(shape=(4, 3), activation=activation, reduction=reduction, targets=targets)
            size, own = call.arrays[other].nbytes, call.arrays[output].nbytes
            for shift in sorted({0, 4, size - 4, -4, 4 - own}):
                if not -own < shift < size or (output, other, shift) == ("grad_logits", "logits", 0):
                    continue
                call = Call(shape=(4, 3), activation=activation, reduction=reduction, targets=targets)
                shared_memory(call, output, other, shift)
                refused(call, INVALID_ARGUMENT, output, other, "overlap", functions=functions_with(output, other))
            for shift in [size, -own]:  # side by side
                call = Call(shape=(4, 3), activation=activation, reduction=reduction, targets=targets)
                if (-own if shift < 0 else shift) % call.arrays[output].itemsize == 0:
                    works(shared_memory(call, output, other, shift), functions_with(output, other))


def test_outputs_in_each_others_memory():
    for reduction in ["none", "sum"]:
        for shift in [0, 4, 20]:
            call = shared_memory(Call(reduction=reduction), "loss", "grad_logits", shift)
            refused(call, INVALID_ARGUMENT, "loss", "grad_logits", functions=["focal_loss_forward_backward"])
            works(call, ["focal_loss_forward", "focal_loss_backward"])
    works(shared_memory(Call(), "loss", "grad_logits", 24))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_interleaved_columns_do_not_overlap(activation):
    want = Call(shape=(5, 4), activation=activation)
    works(want)
    call = Call(shape=(5, 4), activation=activation)
    buffer = np.full((5, 16), 3, np.float32)
    names = ["logits", "weight", "grad_logits"] + (["loss"] if activation == "sigmoid" else [])
    names = [n for n in names if call.arrays[n].shape == (5, 4)]
    for column, name in enumerate(names):
        view = buffer[:, column::4]
        view[...] = call.arrays[name]
        call.set(name, view, buffer)
    untouched = buffer[:, len(names) :: 4].copy()
    works(call)
    for name in OUTPUTS:
        assert np.ascontiguousarray(call.arrays[name]).tobytes() == want.arrays[name].tobytes()
    assert np.array_equal(buffer[:, len(names) :: 4], untouched)
    # Column blocks side by side in one matrix.
    buffer = np.full((5, 8), 3, np.float32)
    call = Call(shape=(5, 4), activation=activation)
    buffer[:, :4] = call.arrays["logits"]
    call.set("logits", buffer[:, :4], buffer).set("grad_logits", buffer[:, 4:], buffer)
    works(call)
    call.set("grad_logits", buffer[:, 3:7], buffer)
    refused(call, INVALID_ARGUMENT, "grad_logits", "logits", functions=functions_with("grad_logits"))


SHAPES = [(2, 3), (300, 90), (40_000, 2), (7, 200, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("targets", ["i64", "dense"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_gradient_in_place(activation, targets, shape):
    for dtype in FLOATS:
        for order in "CF":
            for function in functions_with("grad_logits"):
                axis = 1
                want = Call(shape=shape, dtype=dtype, activation=activation, targets=targets, axis=axis)
                works(want, [function])
                call = Call(shape=shape, dtype=dtype, activation=activation, targets=targets, axis=axis)
                memory = np.array(call.arrays["logits"], order=order)
                call.set("logits", memory)
                call.set("grad_logits", memory)
                works(call, [function])
                assert np.ascontiguousarray(memory).tobytes() == want.arrays["grad_logits"].tobytes()
                if function == "focal_loss_forward_backward":
                    assert call.arrays["loss"].tobytes() == want.arrays["loss"].tobytes()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_gradient_nearly_in_place(activation):
    buffer = np.linspace(-3, 3, 24, dtype=np.float32)
    for logits, grad in [
        (buffer[:9].reshape(3, 3), buffer[1:10].reshape(3, 3)),
        (buffer[1:10].reshape(3, 3), buffer[:9].reshape(3, 3)),
        (buffer[:9].reshape(3, 3), buffer[:9].reshape(3, 3).T),
        (buffer[:9].reshape(3, 3), buffer[8::-1].reshape(3, 3)),
        (buffer[:9].reshape(3, 3), buffer[:18:2].reshape(3, 3)),
    ]:
        call = Call(shape=(3, 3), activation=activation)
        call.set("logits", logits, buffer).set("grad_logits", grad, buffer)
        refused(call, INVALID_ARGUMENT, "grad_logits", "logits", functions=functions_with("grad_logits"))
    repeated = np.broadcast_to(buffer[:3], (3, 3))
    call = Call(shape=(3, 3), activation=activation).set("logits", repeated, buffer)
    call.set("grad_logits", repeated, buffer)
    refused(call, INVALID_ARGUMENT, "grad_logits", functions=functions_with("grad_logits"))


# Zero elements


@pytest.mark.parametrize("targets", ["i32", "i64", "dense"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("shape", [(0, 3), (0, 4, 3), (4, 0, 3), (0, 0, 3), (4, 0), (0, 0), (0,)], ids=str)
def test_zero_elements(shape, activation, targets):
    for null in [False, True]:
        for reduction in ["none", "sum", "mean"]:
            for normalization in fl.NORMALIZATIONS:
                given = dict(activation=activation, reduction=reduction, normalization=normalization, targets=targets)
                call = Call(shape=shape, **given)
                if call.arrays["targets"].size and targets != "dense":
                    # No classes: every row is background (index K = 0), or ignored.
                    call.arrays["targets"][...] = 0
                    if activation == "softmax":
                        call.options.has_ignore_index = 1
                for tensor in call.tensors.values():
                    if null and 0 in tensor.shape[: tensor.ndim]:
                        tensor.data = None
                before = call.buffers[-2].tobytes(), call.buffers[-1].tobytes()
                works(call)
                if reduction != "none":
                    assert call.arrays["loss"].tobytes() == bytes(4), call.arrays["loss"]
                elif call.arrays["loss"].size == 0:
                    assert (call.buffers[-2].tobytes(), call.buffers[-1].tobytes()) == before
                else:
                    assert (call.arrays["loss"] == 0).all()  # rows of a softmax without classes


def test_no_classes_leave_no_valid_index():
    call = Call(shape=(4, 0), activation="softmax")
    call.arrays["targets"][...] = 0
    refused(call, INVALID_ARGUMENT, "targets", "row 0 ")


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_everything_ignored_is_zero(activation):
    for normalization in fl.NORMALIZATIONS:
        call = Call(activation=activation, reduction="mean", normalization=normalization, ignore_index=-1)
        call.arrays["targets"][:] = -1
        call.arrays["logits"][:] = np.nan
        works(call)
        assert call.arrays["loss"] == 0 and (call.arrays["grad_logits"] == 0).all()


# NaN and infinities


def results(logits, targets, dtype=np.float32, **options):
    logits, targets = np.asarray(logits, dtype), np.asarray(targets)
    targets = targets.astype(dtype) if targets.dtype.kind == "f" else targets
    loss, grad = LIBRARY.forward_backward(logits, targets, reduction="none", **options)
    total = LIBRARY.forward(logits, targets, reduction="sum", **options)
    return loss.astype(np.float64), grad.astype(np.float64), float(total)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_sigmoid_limits_at_infinity(gamma, dtype):
    inf = np.inf
    x = [inf, -inf, inf, -inf]
    t = [1.0, 0.0, 0.0, 1.0]
    loss, grad, total = results(x, t, dtype, gamma=gamma)
    assert loss.tolist() == [0, 0, inf, inf]
    assert grad.tolist() == [0, 0, 0.75, -0.25]
    assert total == inf
    loss, grad, _ = results(x[:2], t[:2], dtype, gamma=gamma)
    assert (loss == 0).all() and (grad == 0).all()
    # The same by class index, where a background row has only zeros.
    loss, grad, _ = results([[inf, -inf], [-inf, inf]], np.array([0, 2]), dtype, gamma=gamma)
    assert loss.tolist() == [[0, 0], [0, inf]]
    assert grad.tolist() == [[0, 0], [0, 0.75]]
    # A soft label loses without bound on both sides.
    loss, _, _ = results([inf, -inf], [0.5, 0.5], dtype, gamma=gamma)
    assert loss.tolist() == [inf, inf]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_softmax_limits_at_infinity(dtype):
    inf = np.inf
    x = [[inf, 0, 0], [-inf, 0, 0], [0, -inf, 0], [-inf, -inf, 0]]
    loss, grad, total = results(x, np.array([0, 0, 0, 2]), dtype, activation="softmax", alpha=-1)
    half = float(LIBRARY.forward(np.zeros((1, 2), dtype), np.array([0]), activation="softmax", alpha=-1))
    assert loss.tolist() == [0, inf, half, 0]
    assert total == inf
    # (1 + gamma * p * -log p / o) -> 1 as p -> 0
    assert grad[[0, 1, 3]].tolist() == [[0, 0, 0], [-1, 0.5, 0.5], [0, 0, 0]]
    assert grad[2, 1] == 0 and grad[2, 0] == -grad[2, 2] < 0
    one_hot = np.eye(3)[[0, 0, 0, 2]]
    dense = results(x, one_hot, dtype, activation="softmax", alpha=-1)
    assert dense[0].tolist() == loss.tolist() and dense[1].tolist() == grad.tolist()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nan_stays_where_it_is(dtype):
    x = np.array([[1, np.nan, -1], [2, 0, 1], [np.nan, np.nan, np.nan]])
    y = np.array([0, 1, -1])
    loss, grad, total = results(x, y, dtype, ignore_index=-1)
    mask = np.zeros((3, 3), bool)
    mask[0, 1] = True
    assert np.array_equal(np.isnan(loss), mask) and np.array_equal(np.isnan(grad), mask)
    assert np.isnan(total)
    assert (loss[2] == 0).all() and (grad[2] == 0).all()
    loss, grad, total = results(x, y, dtype, activation="softmax", ignore_index=-1)
    assert np.isnan(loss).tolist() == [True, False, False] and np.isnan(total)
    assert np.isnan(grad[0]).all() and not np.isnan(grad[1:]).any()
    assert loss[2] == 0 and (grad[2] == 0).all()
    # The ignored row's NaN counts nowhere.
    _, _, total = results(x[1:], y[1:], dtype, ignore_index=-1)
    assert np.isfinite(total)
    # A NaN label is a NaN loss.
    loss, grad, _ = results([1.0, 2.0, 3.0], [0.0, np.nan, 1.0], dtype)
    assert np.isnan(loss).tolist() == np.isnan(grad).tolist() == [False, True, False]
    loss, _, _ = results([[1.0, 2.0], [3.0, 4.0]], [[0.0, np.nan], [1.0, 0.0]], dtype, activation="softmax")
    assert np.isnan(loss).tolist() == [True, False]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0, 5.0, 100.0, 1e6])
def test_finite_logits_give_finite_results(gamma, dtype):
    top = float(ml_dtypes.finfo(dtype).max)
    tiny = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    x = np.array([0.0, -0.0, tiny, -tiny, 1.0, -1.0, 80.0, -80.0, 1e4, -1e4, top / 2, -top / 2, top, -top])
    for t in [0.0, 1.0, 0.5, 1e-3]:
        loss, grad, _ = results(x, np.full(x.shape, t), dtype, gamma=gamma)
        assert np.isfinite(loss).all() and np.isfinite(grad).all() and (loss >= 0).all()
    pairs = np.stack(np.meshgrid(x, x), -1).reshape(-1, 2)
    for y in [0, 1]:
        loss, grad, _ = results(pairs, np.full(len(pairs), y), dtype, gamma=gamma, activation="softmax")
        assert np.isfinite(grad).all() and (loss >= 0).all()
        # Twice the largest value is no number of the type.
        near = np.abs(pairs[:, 0] / 2 - pairs[:, 1] / 2) <= top / 2
        assert np.isfinite(loss[near]).all()


# A panic inside


PANIC = textwrap.dedent(
    """
    import os
    import numpy as np
    import test_capi_bad_input as t

    for shape in [(2, 3), (40_000, 3)]:
        for activation in ["sigmoid", "softmax"]:
            for reduction in ["none", "mean"]:
                for num_threads in [0, 1, 2]:
                    call = t.Call(shape=shape, activation=activation, reduction=reduction, num_threads=num_threads)
                    for function in t.FUNCTIONS:
                        os.environ["FOCAL_LOSS_INJECT_PANIC"] = "1"
                        before = call.bytes()
                        status = call(function)
                        assert status == t.INTERNAL, (status, t.message())
                        assert "internal" in t.message() and "injected" in t.message(), t.message()
                        assert call.bytes() == before
                        del os.environ["FOCAL_LOSS_INJECT_PANIC"]
                        assert call(function) == t.OK, t.message()
                        assert t.message() == ""
    print("survived")
    """
)


def test_injected_panic():
    """A build that panics on request answers INTERNAL, and works again when it no longer does."""
    command = ["cargo", "build", "--release", "--features", "inject-panic", "--target-dir", "target/inject"]
    subprocess.run(command, cwd=fl.ROOT, check=True)
    library = fl.ROOT / "target/inject/release/libfocal_loss.so"
    here = str(pathlib.Path(__file__).resolve().parent)
    environment = {**os.environ, "FOCAL_LOSS_LIBRARY": str(library)}
    environment.pop("FOCAL_LOSS_INJECT_PANIC", None)
    environment["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run([sys.executable, "-c", PANIC], env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and "survived" in result.stdout, result.stdout + result.stderr[-4000:]


def test_the_ordinary_build_has_no_such_switch(monkeypatch):
    if "FOCAL_LOSS_LIBRARY" in os.environ and "inject" in os.environ["FOCAL_LOSS_LIBRARY"]:
        pytest.skip("this is the build with the switch")
    monkeypatch.setenv("FOCAL_LOSS_INJECT_PANIC", "1")
    assert INTERNAL not in {Call()(function) for function in FUNCTIONS}
