"""The C ABI through ctypes, for tests: every struct spelled out as the header has it."""

import ctypes
import os
import pathlib

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
ACTIVATIONS = {"sigmoid": 0, "softmax": 1}
REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
NORMALIZATIONS = {"elements": 0, "rows": 1, "positives": 2, "weights": 3}
OK, INVALID_ARGUMENT, UNSUPPORTED, OUT_OF_MEMORY, CUDA, INTERNAL = range(6)


def library_path():
    path = pathlib.Path(os.environ.get("FOCAL_LOSS_LIBRARY", ROOT / "target/release/libfocal_loss.so"))
    if not path.exists():
        raise RuntimeError(f"{path} is not there: run `cargo build --release`, or set FOCAL_LOSS_LIBRARY")
    return str(path)


class Device(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


class DType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("dtype", DType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Options(ctypes.Structure):
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
    _fields_ = [("struct_size", ctypes.c_size_t)] + [
        (name, ctypes.POINTER(Tensor)) for name in ("logits", "targets", "class_alpha", "weight", "normalizer")
    ]


def load(path=None):
    lib = ctypes.CDLL(path or library_path())
    pointers = ctypes.POINTER
    lib.focal_loss_options_init.argtypes = [pointers(Options)]
    lib.focal_loss_options_init.restype = None
    lib.focal_loss_forward.argtypes = [pointers(Options), pointers(Inputs), pointers(Tensor)]
    lib.focal_loss_backward.argtypes = [pointers(Options), pointers(Inputs), pointers(Tensor), pointers(Tensor)]
    lib.focal_loss_forward_backward.argtypes = [
        pointers(Options), pointers(Inputs), pointers(Tensor), pointers(Tensor), pointers(Tensor)
    ]
    for name in ("last_error_message", "version_string", "cpu_isa"):
        getattr(lib, f"focal_loss_{name}").restype = ctypes.c_char_p
    return lib


def tensor(array, data=None, device=(1, 0)):
    """A view of a NumPy array (bfloat16 as ml_dtypes has it), or of its copy at an address on a device; keeps what it
    points to alive."""
    kinds = {"f": 2, "i": 0}
    code = 4 if array.dtype.name == "bfloat16" else kinds[array.dtype.kind]
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    strides = (ctypes.c_int64 * array.ndim)(*(s // array.itemsize for s in array.strides))
    result = Tensor(
        data or array.ctypes.data, Device(*device), array.ndim, DType(code, array.itemsize * 8, 1), shape, strides, 0
    )
    result.keep = (array, shape, strides)
    return result


class Error(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class MainMemory:
    """Where a library's tensors are; tests/cuda has others."""

    def tensor(self, array):
        """The view that is handed to the library."""
        return tensor(array)

    def read(self, view):
        """The array behind a view that was written."""
        return view.keep[0]


class Library:
    def __init__(self, path=None, memory=None):
        self.lib = load(path)
        self.memory = memory or MainMemory()

    def options(self, **given):
        options = Options()
        self.lib.focal_loss_options_init(options)
        tables = {"activation": ACTIVATIONS, "reduction": REDUCTIONS, "normalization": NORMALIZATIONS}
        for name, value in given.items():
            if value is None:
                continue
            if name in ("ignore_index", "background_index"):
                setattr(options, f"has_{name}", 1)
            if isinstance(value, str):
                value = tables[name][value]
            setattr(options, name, value)
        return options

    def check(self, status):
        if status != OK:
            raise Error(status, self.lib.focal_loss_last_error_message().decode())

    def inputs(self, logits, targets, class_alpha=None, weight=None, normalizer=None):
        inputs = Inputs(ctypes.sizeof(Inputs))
        inputs.keep = []
        given = dict(logits=logits, targets=targets, class_alpha=class_alpha, weight=weight, normalizer=normalizer)
        for name, array in given.items():
            if array is not None:
                view = self.memory.tensor(array)
                inputs.keep.append(view)
                setattr(inputs, name, ctypes.pointer(view))
        return inputs

    def loss_shape(self, logits, options):
        if options.reduction != REDUCTIONS["none"]:
            return ()
        if options.activation == ACTIVATIONS["sigmoid"]:
            return logits.shape
        axis = options.axis % logits.ndim
        return logits.shape[:axis] + logits.shape[axis + 1 :]

    TENSORS = ("class_alpha", "weight", "normalizer")

    def _prepare(self, logits, targets, given):
        tensors = {name: given.pop(name) for name in self.TENSORS if name in given}
        return self.options(**given), self.inputs(logits, targets, **tensors)

    def _output(self, shape, logits):
        return self.memory.tensor(np.empty(shape, logits.dtype))

    def forward(self, logits, targets, **given):
        options, inputs = self._prepare(logits, targets, given)
        loss = self._output(self.loss_shape(logits, options), logits)
        self.check(self.lib.focal_loss_forward(options, inputs, loss))
        return self.memory.read(loss)

    def backward(self, logits, targets, grad_loss=None, **given):
        options, inputs = self._prepare(logits, targets, given)
        grad = self._output(logits.shape, logits)
        incoming = None if grad_loss is None else self.memory.tensor(grad_loss)
        self.check(self.lib.focal_loss_backward(options, inputs, incoming, grad))
        return self.memory.read(grad)

    def forward_backward(self, logits, targets, grad_loss=None, **given):
        options, inputs = self._prepare(logits, targets, given)
        loss = self._output(self.loss_shape(logits, options), logits)
        grad = self._output(logits.shape, logits)
        incoming = None if grad_loss is None else self.memory.tensor(grad_loss)
        self.check(self.lib.focal_loss_forward_backward(options, inputs, incoming, loss, grad))
        return self.memory.read(loss), self.memory.read(grad)
