"""Focal loss on arrays: NumPy's own, and everything else that speaks DLPack or the array interface.

    >>> import numpy as np
    >>> from focal_loss_onnx.numpy import forward, forward_backward
    >>> logits = np.array([[2.0, -1.0, 0.5], [-3.0, -2.0, -4.0]], np.float32)
    >>> targets = np.array([0, 3])  # an object of class 0; background
    >>> loss, gradient = forward_backward(logits, targets, normalization="positives")

Arrays are read where they are, whatever their strides, and never copied: NumPy, PyTorch, JAX and CuPy arrays, and any
other with ``__dlpack__`` or ``__array_interface__``.

==============  =======================================================================================
``logits``      float16, bfloat16, float32 or float64; any shape of rank 1 to 16
``targets``     class indices (int32, int64; the logits' shape without the class axis), or dense labels
                (the logits' type and shape)
``grad_loss``   the gradient with respect to the loss: the loss's type and shape; by default ones
``out``         where results go, of the right type and shape; by default a new NumPy array. Needed for
                arrays on a CUDA device
==============  =======================================================================================

The loss has the logits' type: no axes for ``"sum"`` and ``"mean"``, else the logits' shape (sigmoid) or that shape
without the class axis (softmax). A gradient is as the logits are, and may be written over them (``out=logits``). What
is computed, and how exactly, is in ``include/focal_loss.h``; :class:`LossOptions` has the options.

Errors: ``ValueError`` with the library's own sentence where an argument breaks the contract (also for an array that
its owner does not lend, and for an ``out`` that is read-only), ``TypeError`` for what is not an array at all,
``MemoryError``, and ``RuntimeError`` where CUDA fails.

Functions may be called from any number of threads; they release the interpreter's lock. Results have the same bits
for every number of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, overload

import numpy as np
import numpy.typing as npt

from . import binding
from .operators import OPTIONAL_INPUTS

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Array", "LossOptions", "backward", "forward", "forward_backward"]

#: NumPy's letters for the kinds of numbers, as DLPack's codes.
_CODES = {"i": binding.INT, "u": 1, "f": binding.FLOAT, "c": 5, "b": 6}
_FLOATS: dict[tuple[int, int], Any] = {
    (binding.FLOAT, 16): np.float16,
    (binding.FLOAT, 32): np.float32,
    (binding.FLOAT, 64): np.float64,
}

#: Of a ``DLManagedTensorVersioned``: where its flags are, where its ``DLTensor`` is, and the flag of what is read-only.
_FLAGS_OFFSET, _TENSOR_OFFSET, _READ_ONLY = 24, 32, 1
_LEGACY_DEFAULT_STREAM = 1


class SupportsDLPack(Protocol):
    """An array of any library that exports DLPack."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...
    def __dlpack_device__(self) -> tuple[Any, int]: ...


class SupportsArrayInterface(Protocol):
    """An object that exports NumPy's array interface."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Array = npt.NDArray[Any] | SupportsDLPack | SupportsArrayInterface
Out = TypeVar("Out", bound=Array)
Out2 = TypeVar("Out2", bound=Array)


class LossOptions(TypedDict, total=False):
    """What to compute: the keyword arguments of every function here.

    * ``activation``: ``"sigmoid"`` (the default: K binary losses per row) or ``"softmax"`` (one loss per row).
    * ``alpha``: the weight of positives in [0, 1]; below 0 is off. By default 0.25 for sigmoid, off for softmax,
      where it is a plain factor.
    * ``gamma``: the focusing exponent, by default 2.
    * ``reduction``: ``"none"``, ``"sum"`` or ``"mean"`` (the default).
    * ``normalization``: what ``"mean"`` divides by: ``"elements"`` (the default), ``"rows"``, ``"positives"`` or
      ``"weights"``.
    * ``axis``: the class axis, by default the last.
    * ``ignore_index``: class indices of this value do not count.
    * ``background_index``: class indices of this value are rows without an object; by default K. Sigmoid only.
    * ``class_alpha``: alpha per class, shape ``[K]``, in place of ``alpha``.
    * ``weight``: broadcasts to the logits (sigmoid) or the rows (softmax).
    * ``normalizer``: one number that every result is divided by.
    * ``num_threads``: the most threads to use; 0, the default, is all.
    * ``stream``: the CUDA stream to work on, as a number; by default the legacy default stream.

    ``class_alpha``, ``weight`` and ``normalizer`` are arrays of the logits' type, or Python numbers and sequences.
    """

    activation: str
    alpha: float | None
    gamma: float
    reduction: str
    normalization: str
    axis: int
    ignore_index: int | None
    background_index: int | None
    class_alpha: Array | Sequence[float] | None
    weight: Array | Sequence[Any] | float | None
    normalizer: Array | float | None
    num_threads: int
    stream: int | None


@overload
def forward(logits: Array, targets: Array, *, out: None = None, **options: Unpack[LossOptions]) -> npt.NDArray[Any]: ...
@overload
def forward(logits: Array, targets: Array, *, out: Out, **options: Unpack[LossOptions]) -> Out: ...
def forward(logits: Array, targets: Array, *, out: Any = None, **options: Unpack[LossOptions]) -> Any:
    """The loss. See the module for arrays and errors, :class:`LossOptions` for the options."""
    call = _Call(logits, targets, **options)
    loss = call.new_loss() if out is None else out
    call.run("forward", call.output("out", loss))
    return loss


@overload
def backward(
    logits: Array,
    targets: Array,
    grad_loss: Array | float | None = None,
    *,
    out: None = None,
    **options: Unpack[LossOptions],
) -> npt.NDArray[Any]: ...
@overload
def backward(
    logits: Array, targets: Array, grad_loss: Array | float | None = None, *, out: Out, **options: Unpack[LossOptions]
) -> Out: ...
def backward(
    logits: Array,
    targets: Array,
    grad_loss: Array | float | None = None,
    *,
    out: Any = None,
    **options: Unpack[LossOptions],
) -> Any:
    """The gradient with respect to the logits. See the module for arrays and errors."""
    call = _Call(logits, targets, **options)
    gradient = call.new_gradient() if out is None else out
    call.run("backward", call.optional("grad_loss", grad_loss), call.output("out", gradient))
    return gradient


@overload
def forward_backward(
    logits: Array,
    targets: Array,
    grad_loss: Array | float | None = None,
    *,
    out: None = None,
    **options: Unpack[LossOptions],
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]: ...
@overload
def forward_backward(
    logits: Array,
    targets: Array,
    grad_loss: Array | float | None = None,
    *,
    out: tuple[Out, Out2],
    **options: Unpack[LossOptions],
) -> tuple[Out, Out2]: ...
def forward_backward(
    logits: Array,
    targets: Array,
    grad_loss: Array | float | None = None,
    *,
    out: Any = None,
    **options: Unpack[LossOptions],
) -> Any:
    """The loss and the gradient in one pass over the logits: the same bits as the two calls.

    ``out`` is a pair: where the loss and where the gradient goes.
    """
    call = _Call(logits, targets, **options)
    loss, gradient = (call.new_loss(), call.new_gradient()) if out is None else out
    outputs = call.output("the loss's out", loss), call.output("the gradient's out", gradient)
    call.run("forward_backward", call.optional("grad_loss", grad_loss), *outputs)
    return loss, gradient


class _Call:
    """The views and options of one call."""

    def __init__(self, logits: Array, targets: Array, **given: Any) -> None:
        optional = {name: given.pop(name, None) for name in OPTIONAL_INPUTS}
        chosen = {**_DEFAULTS, **given}
        self.stream = chosen["stream"]
        self.options = binding.options(**chosen)
        self.logits = self._view("logits", logits)
        self.shape = tuple(self.logits.shape[: self.logits.ndim]) if self.logits.ndim else ()
        self.loss_shape = binding.loss_shape(self.shape, chosen["activation"], chosen["reduction"], chosen["axis"])
        tensors = {name: self.optional(name, value) for name, value in optional.items()}
        self.inputs = binding.inputs({"logits": self.logits, "targets": self._view("targets", targets), **tensors})

    def run(self, function: str, *tensors: binding.Tensor | None) -> None:
        binding.call(function, self.options, self.inputs, *tensors)

    def optional(self, name: str, value: Any) -> binding.Tensor | None:
        """A view of what may be absent, or may be Python numbers."""
        if value is None:
            return None
        if isinstance(value, (bool, int, float, list, tuple)):
            value = np.asarray(value, self._dtype(f"{name} has to be an array"))
        return self._view(name, value)

    def output(self, name: str, value: Any) -> binding.Tensor:
        return self._view(name, value, writable=True)

    def new_loss(self) -> npt.NDArray[Any]:
        return np.empty(self.loss_shape, self._dtype("give `out`"))

    def new_gradient(self) -> npt.NDArray[Any]:
        return np.empty(self.shape, self._dtype("give `out`"))

    def _dtype(self, remedy: str) -> Any:
        """The logits' type in NumPy, for an array made here; ``remedy`` is for what NumPy cannot make."""
        if self.logits.device.device_type not in (binding.CPU, binding.CUDA_HOST):
            raise ValueError(f"the logits are on a device, where NumPy has no arrays: {remedy}")
        kind = self.logits.dtype.code, self.logits.dtype.bits
        if kind == (binding.BFLOAT, 16):
            try:
                from ml_dtypes import bfloat16
            except ImportError:
                raise ValueError(f"NumPy has bfloat16 from the package ml_dtypes only: install it, or {remedy}") from None
            return bfloat16
        # For any other type the library has a sentence.
        return _FLOATS.get(kind, np.float32)

    def _view(self, name: str, value: Any, writable: bool = False) -> binding.Tensor:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array, and its mask would not be seen: mark rows with ignore_index")
        if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
            return _of_dlpack(name, value, self.stream, writable)
        if isinstance(value, np.ndarray) or hasattr(value, "__array_interface__"):
            return _of_numpy(name, np.asarray(value), writable)
        raise TypeError(f"{name} must be an array with __dlpack__ or __array_interface__, not {type(value).__name__}")


_DEFAULTS = {
    "activation": "sigmoid",
    "alpha": None,
    "gamma": 2.0,
    "reduction": "mean",
    "normalization": "elements",
    "axis": -1,
    "ignore_index": None,
    "background_index": None,
    "num_threads": 0,
    "stream": None,
}


def _of_numpy(name: str, array: npt.NDArray[Any], writable: bool) -> binding.Tensor:
    """Not through DLPack, in which older NumPy lends no read-only array, and none lends bfloat16."""
    if writable and not array.flags.writeable:
        raise ValueError(f"{name} is read-only")
    kind = array.dtype
    code = binding.BFLOAT if kind.name == "bfloat16" else _CODES.get(kind.kind)
    if code is None or not kind.isnative:
        raise ValueError(f"{name} has the type {kind}, which the library does not have")
    if any(step % kind.itemsize for step in array.strides):
        raise ValueError(f"{name} has strides {array.strides} that are not whole elements of {kind.itemsize} bytes")
    strides = [step // kind.itemsize for step in array.strides]
    return binding.tensor(
        array.ctypes.data, (binding.CPU, 0), (code, kind.itemsize * 8), array.shape, strides, owner=array
    )


def _of_dlpack(name: str, array: Any, stream: int | None, writable: bool) -> binding.Tensor:
    """The capsule is only looked into, not consumed: its owner frees what is in it when the view goes."""
    if writable and type(array).__module__.startswith("jax"):  # whose exports do not say that they are read-only
        raise ValueError(f"{name} is read-only, as all of JAX's arrays are")
    arguments = {}
    if array.__dlpack_device__()[0] == binding.CUDA:
        arguments["stream"] = stream or _LEGACY_DEFAULT_STREAM
    try:
        try:
            capsule = array.__dlpack__(max_version=(1, 0), **arguments)
        except TypeError:  # from before DLPack 1.0
            capsule = array.__dlpack__(**arguments)
    except BufferError as error:
        raise ValueError(f"{name} cannot be read where it is: {error}") from error
    versioned = _is_valid(capsule, b"dltensor_versioned")
    address = _pointer(capsule, b"dltensor_versioned" if versioned else b"dltensor")
    if versioned:
        flags = ctypes.c_uint64.from_address(address + _FLAGS_OFFSET).value
        if writable and flags & _READ_ONLY:
            raise ValueError(f"{name} is read-only")
        address += _TENSOR_OFFSET
    view = binding.Tensor.from_address(address)
    view.owner = capsule
    return view


def _capsule_function(name: str, result: Any) -> Any:
    prototype = ctypes.PYFUNCTYPE(result, ctypes.py_object, ctypes.c_char_p)
    return prototype((name, ctypes.pythonapi))


_is_valid = _capsule_function("PyCapsule_IsValid", ctypes.c_int)
_pointer = _capsule_function("PyCapsule_GetPointer", ctypes.c_void_p)
