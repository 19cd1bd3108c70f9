"""Losses written in PyTorch by hand, exported by both of its exporters, and repaired."""

import io

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
import torchvision
from focal_loss_onnx import fuse, reference
from operator_models import session


def torchvisions(x, t):
    return torchvision.ops.sigmoid_focal_loss(x, t, 0.25, 2.0, "mean")


def with_logsigmoid(x, t):
    p = torch.sigmoid(x)
    positive = -0.25 * t * F.logsigmoid(x)
    negative = -0.75 * (1 - t) * F.logsigmoid(-x)
    return ((positive + negative) * torch.abs(t - p) ** 2).mean()


def with_softplus(x, t):
    cross_entropy = F.softplus(x) - x * t
    p = x.sigmoid()
    return ((t * 0.25 + (1 - t) * 0.75) * (p + t - 2 * p * t).square() * cross_entropy).mean()


def with_exp(x, t):
    """fvcore's idea of p_t for hard labels."""
    cross_entropy = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    return (torch.where(t > 0, 0.25, 0.75) * (1 - torch.exp(-cross_entropy)) ** 2 * cross_entropy).mean()


def with_a_clamp(x, t):
    p = torch.sigmoid(x).clamp(1e-6, 1 - 1e-6)
    p_t = p * t + (1 - p) * (1 - t)
    return ((0.25 * t + 0.75 * (1 - t)) * (1 - p_t) ** 2 * F.binary_cross_entropy(p, t, reduction="none")).mean()


def popular(x, t):
    """What tutorials call focal loss."""
    cross_entropy = F.cross_entropy(x, t.argmax(-1), reduction="none")
    return (0.25 * (1 - torch.exp(-cross_entropy)) ** 2 * cross_entropy).mean()


class Detector(torch.nn.Module):
    """A layer, its logits, and their loss."""

    def __init__(self, loss):
        super().__init__()
        self.head = torch.nn.Linear(8, 4)
        self.loss = loss

    def forward(self, features, targets):
        logits = self.head(features)
        return logits, torch.sigmoid(logits), self.loss(logits, targets)


def exported(loss, dynamo, dtype=torch.float32):
    torch.manual_seed(0)
    module = Detector(loss).to(dtype).eval()
    features, targets = 4 * torch.randn(5, 8).to(dtype), (torch.rand(5, 4) > 0.5).to(dtype)
    names = {"input_names": ["features", "targets"], "output_names": ["logits", "scores", "loss"], "verbose": False}
    if dynamo:
        n = {0: torch.export.Dim("n")}
        model = torch.onnx.export(module, (features, targets), dynamo=True, dynamic_shapes=(n, n), **names).model_proto
    else:
        file = io.BytesIO()
        axes = {"features": {0: "n"}, "targets": {0: "n"}}
        torch.onnx.export(module, (features, targets), file, dynamo=False, dynamic_axes=axes, **names)
        model = onnx.load_from_string(file.getvalue())
    return module, model


@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
@pytest.mark.parametrize("loss", [torchvisions, with_logsigmoid, with_softplus, with_exp, with_a_clamp])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_losses_written_by_hand(loss, dynamo, dtype):
    if loss is with_a_clamp and not dynamo:
        pytest.skip("the legacy exporter has no binary_cross_entropy")
    module, model = exported(loss, dynamo, dtype)
    options = {"hard_targets": loss in (with_logsigmoid, with_exp), "allow_epsilon": loss is with_a_clamp}
    if loss is with_softplus and dynamo and dtype == torch.float64:
        options["allow_epsilon"] = True  # torch's softplus is x from 20 on, which float64 can tell from the softplus
    if any(options.values()):
        _, report = fuse(model)
        assert not report.fused and report.left_alone
    fused, report = fuse(model, **options)
    (found,) = report.fused
    assert (found.alpha, found.gamma, found.scale) == (0.25, 2.0, 1.0), str(report)
    assert found.reduction == "mean" and found.output == "loss" and found.logits == "logits"
    features = 2 * torch.randn(9, 8).to(dtype)
    targets = (torch.rand(9, 4) > 0.5).to(dtype)
    feeds = {"features": features.numpy(), "targets": targets.numpy()}
    for library in (False, True):
        logits, scores, got = session(fused, library=library).run(["logits", "scores", "loss"], feeds)
        np.testing.assert_allclose(got, reference.focal_loss(logits, targets.numpy(), alpha=0.25, gamma=2.0), rtol=4e-6)
        np.testing.assert_allclose(got, module(features, targets)[2].item(), rtol=2e-4)
        np.testing.assert_allclose(scores, torch.sigmoid(torch.from_numpy(logits)), rtol=1e-5)


@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
def test_the_popular_version_is_named_and_left_alone(dynamo):
    _, model = exported(popular, dynamo)
    same, report = fuse(model, hard_targets=True, allow_epsilon=True)
    assert same == model and not report.fused
    assert "not the published loss" in str(report) and "constant alpha 0.25" in str(report), str(report)
