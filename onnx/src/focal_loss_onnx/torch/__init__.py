"""Focal loss for PyTorch, on the CPU and on CUDA devices, and its way into an ONNX graph.

    from focal_loss_onnx.torch import sigmoid_focal_loss     # in place of torchvision.ops

* :func:`sigmoid_focal_loss` and :func:`softmax_focal_loss` train: one pass over the logits computes loss and gradient.
* :func:`export` writes a module that uses them as an ONNX model; :func:`translation_table` is for those who call
  ``torch.onnx.export`` themselves.

Needs PyTorch 2.7 or newer; :func:`export` needs ``onnxscript`` too.
"""

from .export import export, translation_table
from .losses import sigmoid_focal_loss, softmax_focal_loss

__all__ = ["export", "sigmoid_focal_loss", "softmax_focal_loss", "translation_table"]
