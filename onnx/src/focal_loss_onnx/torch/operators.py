"""The library as PyTorch's custom operators ``focal_loss::forward`` and ``focal_loss::forward_backward``.

The second is for training: it computes the gradient together with the loss, as if the gradient that will arrive at the
loss were ones, and the backward pass multiplies by the one that does arrive. So the logits are read once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import binding

_ARGUMENTS = (
    "Tensor logits, Tensor targets, Tensor? class_alpha, Tensor? weight, Tensor? normalizer, "
    "str activation, float alpha, float gamma, str reduction, str normalization, int axis, "
    "int? ignore_index, int? background_index"
)
_TENSORS = ("logits", "targets", "class_alpha", "weight", "normalizer")
_OPTIONS = ("activation", "alpha", "gamma", "reduction", "normalization", "axis", "ignore_index", "background_index")

_DTYPES = {
    torch.float16: (binding.FLOAT, 16),
    torch.bfloat16: (binding.BFLOAT, 16),
    torch.float32: (binding.FLOAT, 32),
    torch.float64: (binding.FLOAT, 64),
    torch.int8: (binding.INT, 8),
    torch.int16: (binding.INT, 16),
    torch.int32: (binding.INT, 32),
    torch.int64: (binding.INT, 64),
}
_DEVICE_TYPES = {"cpu": binding.CPU, "cuda": binding.CUDA}


@torch.library.custom_op(
    "focal_loss::forward", mutates_args=(), device_types=("cpu", "cuda"), schema=f"({_ARGUMENTS}) -> Tensor"
)
def forward(*arguments: Any) -> Tensor:
    """The loss."""
    loss = _new_loss(*arguments)
    _compute("forward", arguments, loss)
    return loss


@torch.library.custom_op(
    "focal_loss::forward_backward",
    mutates_args=(),
    device_types=("cpu", "cuda"),
    schema=f"({_ARGUMENTS}) -> (Tensor loss, Tensor grad_logits)",
)
def forward_backward(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient with respect to the logits for a ``grad_loss`` of ones."""
    loss, gradient = _new_loss(*arguments), torch.empty_like(arguments[0])
    _compute("forward_backward", arguments, None, loss, gradient)
    return loss, gradient


def _new_loss(logits: Tensor, *arguments: Any) -> Tensor:
    options = dict(zip(_OPTIONS, arguments[len(_TENSORS) - 1 :], strict=True))
    shape = binding.loss_shape(logits.shape, options["activation"], options["reduction"], options["axis"])
    return logits.new_empty(shape)


forward.register_fake(_new_loss)
forward_backward.register_fake(lambda logits, *arguments: (_new_loss(logits, *arguments), torch.empty_like(logits)))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    options = dict(zip(_OPTIONS, inputs[len(_TENSORS) :], strict=True))
    # With one loss per row, what arrives at a loss goes to all logits of the row.
    per_row = options["activation"] == "softmax" and options["reduction"] == "none"
    ctx.class_axis = options["axis"] if per_row else None
    gradient = output[1]
    ctx.mark_non_differentiable(gradient)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(gradient)


def _backward(ctx: Any, grad_loss: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    absent = (None,) * (len(_TENSORS) + len(_OPTIONS) - 1)
    if grad_loss is None:
        return (None, *absent)
    if torch.is_grad_enabled():
        raise NotImplementedError("the focal loss has no second derivative: create_graph=True cannot pass through it")
    if ctx.class_axis is not None:
        grad_loss = grad_loss.unsqueeze(ctx.class_axis)
    (gradient,) = ctx.saved_tensors
    return (gradient if _is_one(grad_loss) else gradient * grad_loss, *absent)


forward_backward.register_autograd(_backward, setup_context=_setup_context)


def _is_one(grad_loss: Tensor) -> bool:
    """Whether this is certainly 1 throughout, as after ``loss.backward()``: that spares a pass over memory.

    Looked at only where that costs nothing: one number, in main memory, not being traced.
    """
    known = type(grad_loss) is Tensor and grad_loss.device.type == "cpu" and not torch.compiler.is_compiling()
    if not known or grad_loss.numel() == 0 or any(grad_loss.stride()):
        return False
    return grad_loss[(0,) * grad_loss.dim()].item() == 1


def _compute(function: str, arguments: tuple[Any, ...], *outputs: Tensor | None) -> None:
    tensors = dict(zip(_TENSORS, arguments[: len(_TENSORS)], strict=True))
    options = dict(zip(_OPTIONS, arguments[len(_TENSORS) :], strict=True))
    logits: Tensor = tensors["logits"]
    if logits.device.type == "cuda":
        options["stream"] = torch.cuda.current_stream(logits.device).cuda_stream
    else:
        options["num_threads"] = torch.get_num_threads()
    inputs = binding.inputs({name: _view(name, value) for name, value in tensors.items()})
    binding.call(function, binding.options(**options), inputs, *(_view("an output", value) for value in outputs))


def _view(name: str, tensor: Tensor | None) -> binding.Tensor | None:
    if tensor is None:
        return None
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name}: {tensor.dtype} is not a type of this library")
    if tensor.device.type not in _DEVICE_TYPES:
        raise ValueError(f"{name} is on {tensor.device}; the library works on CPU and CUDA devices")
    device = _DEVICE_TYPES[tensor.device.type], tensor.device.index or 0
    return binding.tensor(
        tensor.data_ptr(), device, _DTYPES[tensor.dtype], tensor.shape, tensor.stride(), owner=tensor
    )
