"""The C ABI of the shared library, through ctypes: what the NumPy and the PyTorch functions stand on.

The structs are those of ``include/focal_loss.h``, which explains them. ctypes releases the interpreter's lock
while the library works.
"""

from __future__ import annotations

import ctypes
import operator
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from .library import library_path
from .operators import ACTIVATIONS, NORMALIZATIONS, REDUCTIONS

CPU, CUDA, CUDA_HOST = 1, 2, 3

#: DLPack's codes of the kinds of numbers.
INT, FLOAT, BFLOAT = 0, 2, 4

#: What a status is raised as; anything else is a ``RuntimeError``.
_EXCEPTIONS: dict[int, type[Exception]] = {1: ValueError, 2: ValueError, 3: MemoryError}

#: The library's pool of threads is the parent's: a child after ``fork()`` works alone.
_forked = False


class Device(ctypes.Structure):
    """``focal_loss_device``."""

    _fields_ = [("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


class DType(ctypes.Structure):
    """``focal_loss_dtype``."""

    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class Tensor(ctypes.Structure):
    """``focal_loss_tensor``, which is DLPack's ``DLTensor``; ``owner`` keeps what it points to alive."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("dtype", DType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]
    owner: object


class Options(ctypes.Structure):
    """``focal_loss_options``."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("activation", ctypes.c_int32),
        ("alpha", ctypes.c_double),
        ("gamma", ctypes.c_double),
        ("reduction", ctypes.c_int32),
        ("normalization", ctypes.c_int32),
        ("axis", ctypes.c_int32),
        ("has_ignore_index", ctypes.c_int32),
        ("ignore_index", ctypes.c_int64),
        ("has_background_index", ctypes.c_int32),
        ("background_index", ctypes.c_int64),
        ("num_threads", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
    ]


class Inputs(ctypes.Structure):
    """``focal_loss_inputs``."""

    _fields_ = [("struct_size", ctypes.c_size_t)] + [
        (name, ctypes.POINTER(Tensor)) for name in ("logits", "targets", "class_alpha", "weight", "normalizer")
    ]


def tensor(
    data: int, device: tuple[int, int], dtype: tuple[int, int], shape: Sequence[int], strides: Sequence[int], owner: object
) -> Tensor:
    """A view of somebody's memory.

    Args:
        data: its address.
        device: type and number.
        dtype: code and bits.
        shape: sizes.
        strides: steps in elements.
        owner: kept alive with the view.
    """
    integers = ctypes.c_int64 * len(shape)
    view = Tensor(data, Device(*device), len(shape), DType(*dtype, 1), integers(*shape), integers(*strides), 0)
    view.owner = owner
    return view


def options(
    *,
    activation: str,
    alpha: float | None,
    gamma: float,
    reduction: str,
    normalization: str,
    axis: int,
    ignore_index: int | None,
    background_index: int | None,
    num_threads: int = 0,
    stream: int | None = None,
) -> Options:
    """Checked by name and by width; what they mean is checked by the library.

    ``alpha=None`` is the operators' default: 0.25 for sigmoid, off for softmax.
    """
    made = Options()
    _library().focal_loss_options_init(ctypes.byref(made))
    made.struct_size = ctypes.sizeof(Options)
    made.activation = _choose("activation", activation, ACTIVATIONS)
    made.alpha = (0.25 if activation == "sigmoid" else -1.0) if alpha is None else alpha
    made.gamma = gamma
    made.reduction = _choose("reduction", reduction, REDUCTIONS)
    made.normalization = _choose("normalization", normalization, NORMALIZATIONS)
    made.axis = _integer("axis", axis, 32)
    if ignore_index is not None:
        made.has_ignore_index, made.ignore_index = 1, _integer("ignore_index", ignore_index, 64)
    if background_index is not None:
        made.has_background_index, made.background_index = 1, _integer("background_index", background_index, 64)
    made.num_threads = 1 if _forked else _integer("num_threads", num_threads, 32)
    made.stream = stream
    return made


def inputs(tensors: Mapping[str, Tensor | None]) -> Inputs:
    """The tensors that a call reads, by name; absent where ``None``."""
    made = Inputs(ctypes.sizeof(Inputs))
    for name, value in tensors.items():
        if value is not None:
            setattr(made, name, ctypes.pointer(value))
    return made


def call(function: str, options: Options, inputs: Inputs, *tensors: Tensor | None) -> None:
    """``focal_loss_<function>``.

    Raises:
        ValueError: an argument breaks the contract, or is not supported; the library's own sentence.
        MemoryError: memory could not be had.
        RuntimeError: CUDA failed, or the library has a bug.
    """
    library = _library()
    arguments = [None if t is None else ctypes.byref(t) for t in tensors]
    status = getattr(library, f"focal_loss_{function}")(ctypes.byref(options), ctypes.byref(inputs), *arguments)
    if status:
        raise _EXCEPTIONS.get(status, RuntimeError)(library.focal_loss_last_error_message().decode())


def loss_shape(logits: Sequence[int], activation: str, reduction: str, axis: int) -> tuple[int, ...]:
    """The shape of the loss; an axis that the logits do not have is left for the library to refuse."""
    if reduction != "none":
        return ()
    if activation == "sigmoid" or not -len(logits) <= axis < len(logits):
        return tuple(logits)
    axis %= len(logits)
    return (*logits[:axis], *logits[axis + 1 :])


@cache
def _library() -> Any:
    """The loaded library."""
    library = ctypes.CDLL(library_path())
    library.focal_loss_options_init.restype = None
    library.focal_loss_last_error_message.restype = ctypes.c_char_p
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_work_alone)
    return library


def _work_alone() -> None:
    global _forked
    _forked = True


def _choose(name: str, value: str, allowed: Sequence[str]) -> int:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return allowed.index(value)


def _integer(name: str, value: int, bits: int) -> int:
    """ctypes would cut off what does not fit, and call another class than was asked for."""
    value = operator.index(value)
    if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
        raise ValueError(f"{name} must fit {bits} bits, not {value}")
    return value
