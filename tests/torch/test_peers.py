"""Both columns of the table in docs/peers.md, row by row, on the same random numbers."""

import pathlib
import re
import types

import fvcore.nn
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
import torchvision
from focal_loss_onnx.torch import sigmoid_focal_loss, softmax_focal_loss

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = {"torchvision", "detectron2", "mmdetection", "Keras", "optax", "apex"}


def rows():
    """The table's library, and the two pieces of code."""
    lines = [line.split(" | ") for line in (ROOT / "docs/peers.md").read_text().splitlines() if line.startswith("| ")]
    return [(line[0].strip("| "), line[1].strip("`"), line[2].strip("`")) for line in lines[1:]]


def plain_focal_loss(x, t, alpha, gamma):
    """Lin et al. 2017, equation 5, element by element, in float64."""
    x, t = x.double(), t.double()
    p = torch.sigmoid(x)
    wrong = p * (1 - t) + (1 - p) * t
    return (alpha * t + (1 - alpha) * (1 - t)) * wrong**gamma * F.binary_cross_entropy_with_logits(x, t, reduction="none")


class MMDetection:
    """mmdet.models.losses.FocalLoss, as documented: class K is background, and of `avg_factor` the mean is made."""

    def __init__(self, gamma=2.0, alpha=0.25, loss_weight=1.0):
        self.gamma, self.alpha, self.loss_weight = gamma, alpha, loss_weight

    def __call__(self, x, labels, weight=None, avg_factor=None):
        dense = F.one_hot(labels, x.shape[1] + 1)[:, :-1]
        loss = plain_focal_loss(x, dense, self.alpha, self.gamma)
        if weight is not None:
            loss = loss * weight.reshape(-1, 1)
        mean = loss.mean() if avg_factor is None else loss.sum() / (avg_factor + np.finfo(np.float32).eps)
        return self.loss_weight * mean


def mmcv_softmax_focal_loss(x, labels, gamma, alpha, weight, reduction):
    """mmcv.ops.softmax_focal_loss, as documented; the mean divides by the number of rows."""
    assert reduction == "mean"
    p = torch.softmax(x.double(), -1).gather(1, labels[:, None])[:, 0]
    loss = -alpha * (1 - p) ** gamma * torch.log(p)
    return (loss if weight is None else loss * weight.double()[labels]).sum() / len(x)


def apex_focal_loss(x, labels, positives, real_classes, alpha, gamma, label_smoothing):
    """apex.contrib.focal_loss.focal_loss, as documented: -1 is background, -2 ignored, the last classes may be padding."""
    assert label_smoothing == 0
    dense = torch.zeros(x.shape[0], x.shape[1] + 1)
    dense[torch.arange(len(x)), labels.clamp(min=-1)] = 1  # -1 lands in the column that is cut off
    loss = plain_focal_loss(x[:, :real_classes], dense[:, :real_classes], alpha, gamma)
    return loss[labels != -2].sum() / positives


class Optax:
    """optax on the same numbers."""

    @staticmethod
    def sigmoid_focal_loss(x, t, **options):
        return optax.losses.sigmoid_focal_loss(jnp.asarray(x.numpy()), jnp.asarray(t.numpy()), **options)


def numbers():
    generator = torch.Generator().manual_seed(11)
    n, k = 60, 8
    x = 2 * torch.randn(n, k, generator=generator)
    y = torch.randint(0, k, (n,), generator=generator)
    draw = torch.rand(n, generator=generator)
    with_background = torch.where(draw < 0.5, k, y)
    return {
        "K": k,
        "x": x,
        "t": (torch.rand(n, k, generator=generator) < 0.2).float(),
        "y": y,
        "c": torch.where(draw > 0.9, -1, with_background),
        "c_mmdet": with_background,
        "c_apex": torch.where(draw > 0.9, -2, torch.where(draw < 0.5, -1, y)),
        "c_padded": torch.where(draw > 0.9, -2, torch.where((draw < 0.5) | (y == k - 1), -1, y)),
        "w": torch.rand(n, generator=generator),
        "v": torch.rand(k, generator=generator),
        "a": torch.rand(k, generator=generator).tolist(),
        "n": 17.5,
        "alpha": 0.3,
        "gamma": 1.5,
        "reduction": "mean",
    }


@pytest.mark.parametrize(("library", "theirs", "ours"), rows(), ids=lambda text: re.sub(r"\W+", "-", text)[:40])
def test_row(library, theirs, ours):
    names = {
        **numbers(),
        "torchvision": torchvision,
        "fvcore": fvcore,
        "keras": keras,
        "optax": types.SimpleNamespace(losses=Optax),
        "mmdet": types.SimpleNamespace(FocalLoss=MMDetection),
        "mmcv": types.SimpleNamespace(softmax_focal_loss=mmcv_softmax_focal_loss),
        "apex": types.SimpleNamespace(focal_loss=apex_focal_loss),
        "one_hot": F.one_hot,
        "sigmoid": torch.sigmoid,
        "max": max,
    }
    wanted = np.asarray(eval(theirs, {}, names), np.float64)
    got = np.asarray(eval(ours, {"sigmoid_focal_loss": sigmoid_focal_loss, "softmax_focal_loss": softmax_focal_loss}, names))
    assert got.shape == wanted.shape and got.dtype == np.float32
    # The peers' float32 is what is inexact here.
    np.testing.assert_allclose(got, wanted, rtol=5e-5, atol=1e-7)


def test_every_peer_is_there():
    assert {library for library, _, _ in rows()} == PEERS


def test_where_numbers_cannot_be_the_same():
    x, t = torch.tensor([[-30.0]], requires_grad=True), torch.tensor([[1.0]])
    loss = keras.losses.BinaryFocalCrossentropy(from_logits=True)(t, x)
    assert loss.item() == pytest.approx(-np.log(1e-7), rel=1e-3)
    (gradient,) = torch.autograd.grad(loss, x)
    assert abs(gradient.item()) < 1e-9
    ours = sigmoid_focal_loss(x, t, alpha=-1, reduction="mean")
    assert ours.item() == pytest.approx(30, rel=1e-5)
    assert torch.autograd.grad(ours, x)[0].item() == pytest.approx(-1, rel=1e-5)

    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, -1, 3, -1, 2])
    counted = labels >= 0
    mmcv = mmcv_softmax_focal_loss(logits[counted], labels[counted], 2.0, 0.25, None, "mean") * counted.sum() / len(labels)
    ours = softmax_focal_loss(logits, labels, 0.25, reduction="sum", ignore_index=-1, normalizer=len(labels))
    assert ours.item() == pytest.approx(mmcv.item(), rel=1e-5)
