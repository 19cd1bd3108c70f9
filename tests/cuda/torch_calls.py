"""The C ABI on PyTorch's tensors, as DLPack hands them over: nothing is copied, the work is queued on PyTorch's stream."""

import ctypes

import places  # noqa: F401  (finds the modules below)
import focal_loss_ctypes as fl
import torch

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class View:
    """The `DLTensor` behind a tensor; lives as long as this does."""

    def __init__(self, tensor):
        self.capsule = torch.utils.dlpack.to_dlpack(tensor)
        # A DLManagedTensor starts with its DLTensor.
        self.pointer = ctypes.cast(_pointer(self.capsule, b"dltensor"), ctypes.POINTER(fl.Tensor))


class Call:
    """A call whose structs are made once, so that it costs little to repeat: what is timed, captured, replayed."""

    def __init__(self, library, logits, targets, grad_loss=None, loss=None, grad_logits=None, stream=None, **given):
        self.library, self.stream = library, stream
        tensors = {name: given.pop(name) for name in ("class_alpha", "weight", "normalizer") if name in given}
        self.options = library.options(**given)
        tensors.update(logits=logits, targets=targets, grad_loss=grad_loss, loss=loss, grad_logits=grad_logits)
        self.tensors = tensors
        self.views = {name: View(tensor) for name, tensor in tensors.items() if tensor is not None}
        pointer = lambda name: self.views[name].pointer if name in self.views else None
        self.inputs = fl.Inputs(ctypes.sizeof(fl.Inputs))
        for name in ("logits", "targets", "class_alpha", "weight", "normalizer"):
            if name in self.views:
                setattr(self.inputs, name, pointer(name))
        lib = library.lib
        both = (pointer("grad_loss"), pointer("loss"), pointer("grad_logits"))
        if loss is not None and grad_logits is not None:
            self.function, self.arguments = lib.focal_loss_forward_backward, both
        elif loss is not None:
            self.function, self.arguments = lib.focal_loss_forward, both[1:2]
        else:
            self.function, self.arguments = lib.focal_loss_backward, (both[0], both[2])

    def __call__(self):
        stream = self.stream or torch.cuda.current_stream(self.tensors["logits"].device)
        self.options.stream = stream.cuda_stream
        status = self.function(self.options, self.inputs, *self.arguments)
        if status:
            self.library.check(status)
