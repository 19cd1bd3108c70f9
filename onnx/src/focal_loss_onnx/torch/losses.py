"""The losses: torchvision's signature and results, and what the library has beyond that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..operators import NORMALIZATIONS, REDUCTIONS
from . import operators


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2,
    reduction: str = "none",
    *,
    ignore_index: int | None = None,
    background_index: int | None = None,
    class_alpha: Tensor | Sequence[float] | None = None,
    weight: Tensor | None = None,
    normalization: str = "elements",
    normalizer: Tensor | float | None = None,
    axis: int = -1,
) -> Tensor:
    """Focal loss over K independent sigmoids: ``torchvision.ops.sigmoid_focal_loss``, in one pass over the logits.

    Args:
        inputs: logits of any shape.
        targets: dense labels in [0, 1], the logits' shape (soft labels allowed; integers and booleans of that shape
            are taken as 0 and 1). Or class indices, int32 or int64, the logits' shape without the class axis.
        alpha: weight of the positives in [0, 1]; below 0 is off.
        gamma: the focusing exponent.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        ignore_index: class indices of this value do not count: loss 0, gradient 0.
        background_index: class indices of this value are rows without an object; by default K.
        class_alpha: alpha per class, shape ``[K]``, in place of ``alpha``. On a CUDA device give a tensor: a sequence
            has to be copied there.
        weight: broadcasts to the logits.
        normalization: what ``"mean"`` divides by: ``"elements"``, ``"rows"``, ``"positives"`` (never below 1) or
            ``"weights"``.
        normalizer: one number that the result is divided by, whatever the reduction.
        axis: the class axis.

    Returns:
        The loss: the logits' shape, or no axes for ``"sum"`` and ``"mean"``. Its type is what PyTorch promotes
        floating-point logits, dense targets, ``class_alpha`` and ``weight`` to; float32 under autocast.

    Only the logits have a gradient, and only a first derivative, by ``backward()`` and ``torch.autograd.grad``. float16 is computed through float32 copies, since
    unscaled gradients and the number of elements do not fit it. Works under ``torch.compile`` without graph breaks.
    A wrong class index is an error on the CPU, and NaN on a CUDA device.

    Raises:
        ValueError: an argument breaks the contract; with the library's own sentence where that finds out.
        NotImplementedError: for a second derivative (``create_graph=True``) or one in forward mode.
    """
    tensors = (inputs, targets, class_alpha, weight, normalizer)
    return _focal_loss(
        tensors, "sigmoid", alpha, gamma, reduction, normalization, axis, ignore_index, background_index
    )


def softmax_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = -1,
    gamma: float = 2,
    reduction: str = "none",
    *,
    ignore_index: int | None = None,
    class_alpha: Tensor | Sequence[float] | None = None,
    weight: Tensor | None = None,
    normalization: str = "elements",
    normalizer: Tensor | float | None = None,
    axis: int = -1,
) -> Tensor:
    """Focal loss over one softmax: one loss per row over K exclusive classes.

    Args:
        inputs: logits of any shape.
        targets: class indices, the logits' shape without the class axis; or dense, a distribution over the class
            axis, the logits' shape.
        alpha: a plain factor, which balances nothing; below 0, the default, is off. To balance, use ``class_alpha``.
        class_alpha: a factor per class, shape ``[K]``.
        weight: broadcasts to the rows: the logits' shape without the class axis.
        axis: the class axis; cross entropy over ``[N, C, d1, ...]`` has it at 1.

    The other arguments, and what is returned and raised, are as for :func:`sigmoid_focal_loss`. With ``"none"`` the
    loss has one element per row.
    """
    tensors = (inputs, targets, class_alpha, weight, normalizer)
    return _focal_loss(tensors, "softmax", alpha, gamma, reduction, normalization, axis, ignore_index, None)


_Tensors = tuple[
    Tensor, Tensor, Tensor | Sequence[float] | None, Tensor | None, Tensor | float | None
]  # inputs, targets, class_alpha, weight, normalizer


def _focal_loss(
    tensors: _Tensors,
    activation: str,
    alpha: float,
    gamma: float,
    reduction: str,
    normalization: str,
    axis: int,
    ignore_index: int | None,
    background_index: int | None,
) -> Tensor:
    inputs, targets, class_alpha, weight, normalizer = tensors
    for name, value, allowed in (
        ("reduction", reduction, REDUCTIONS),
        ("normalization", normalization, NORMALIZATIONS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    # An exported graph has the loss alone, whatever the parameters behind its logits require.
    training = torch.is_grad_enabled() and inputs.requires_grad and not torch.compiler.is_exporting()
    if torch.is_grad_enabled():
        for name, tensor in zip(("targets", "class_alpha", "weight", "normalizer"), tensors[1:], strict=True):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                raise ValueError(f"{name} requires a gradient, but only the logits have one: detach() it")

    # Custom operators would drop a tangent without a word.
    if forward_ad.unpack_dual(inputs).tangent is not None:
        raise NotImplementedError("the focal loss has no forward-mode derivative: use reverse mode")

    dtype = inputs.dtype
    for tensor in (targets, class_alpha, weight):
        # As in PyTorch's own operators, a number does not widen a tensor.
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dim() > 0:
            dtype = torch.promote_types(dtype, tensor.dtype)
    device = inputs.device.type
    autocast = torch.is_autocast_enabled(device) and dtype in (torch.float16, torch.bfloat16)
    arithmetic = torch.float32 if autocast or dtype == torch.float16 else dtype

    if targets.is_floating_point() or targets.dim() == inputs.dim():
        targets = targets.to(arithmetic)
    if class_alpha is not None and not isinstance(class_alpha, Tensor):
        class_alpha = torch.tensor(class_alpha, dtype=arithmetic, device=inputs.device)
    if normalizer is not None and not isinstance(normalizer, Tensor):
        normalizer = torch.full((), normalizer, dtype=arithmetic, device=inputs.device)
    arguments = (
        inputs.to(arithmetic),
        targets,
        None if class_alpha is None else class_alpha.to(arithmetic),
        None if weight is None else weight.to(arithmetic),
        None if normalizer is None else normalizer.to(arithmetic),
        activation,
        float(alpha),
        float(gamma),
        reduction,
        normalization,
        axis,
        ignore_index,
        background_index,
    )
    loss = operators.forward_backward(*arguments)[0] if training else operators.forward(*arguments)
    return loss if autocast else loss.to(dtype)
