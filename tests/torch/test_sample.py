"""The sample detector's training script: its loss, its steps and its export."""

import pathlib
import sys

import numpy as np
import onnx
import pytest
import torch
import torchvision
from focal_loss_onnx import attach
from operator_models import session

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "onnx/sample"))

import anchors  # noqa: E402
import train  # noqa: E402


def batch(size=96, seed=0):
    """Random images with a box each, and their anchors' targets."""
    random = np.random.default_rng(seed)
    boxes = np.array([[10.0, 12.0, 40.0, 44.0], [50.0, 40.0, 80.0, 76.0]])
    grid = anchors.make_anchors(size, size)
    images, targets, deltas = [], [], []
    for box in boxes:
        classes, matched = anchors.assign(grid, box[None])
        offsets = np.zeros((len(classes), 4))
        positive = classes == anchors.TREE
        offsets[positive] = anchors.encode(grid[positive], box[None][matched[positive]])
        images.append(random.random((3, size, size)))
        targets.append(classes)
        deltas.append(offsets)
    return tuple(torch.from_numpy(np.stack(values)) for values in (np.float32(images), targets, np.float32(deltas)))


def test_the_loss_is_retinanets():
    images, targets, deltas = batch()
    assert (targets == anchors.IGNORE).any() and (targets == anchors.TREE).any()
    torch.manual_seed(0)
    model = train.TreeDetector().eval()
    logits = model(images)[0]
    counted = targets != anchors.IGNORE
    labels = (targets[counted] == anchors.TREE).float()
    wanted = torchvision.ops.sigmoid_focal_loss(logits[counted][:, 0], labels, train.ALPHA, train.GAMMA, "sum") / labels.sum()
    objectness, box = train.losses(model, images, targets, deltas)
    assert objectness.item() == pytest.approx(wanted.item(), rel=1e-5)
    ours = torch.autograd.grad(objectness + box, model.cls_head[-1].weight, retain_graph=True)[0]
    theirs = torch.autograd.grad(wanted, model.cls_head[-1].weight)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_a_few_steps_lower_it():
    torch.manual_seed(0)
    model, data = train.TreeDetector(), batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(30):
        objectness, box = train.losses(model, *data)
        optimizer.zero_grad()
        (objectness + box).backward()
        optimizer.step()
        history.append(objectness.item())
    assert history[-1] < history[0] / 2


def test_the_exported_graph_evaluates_the_training_loss(tmp_path):
    torch.manual_seed(0)
    model = train.TreeDetector().eval()
    train.export(model, tmp_path / "detector.onnx")
    detector = onnx.load(tmp_path / "detector.onnx")
    assert detector.ir_version == 9 and not detector.functions
    attached = attach(
        detector,
        "cls_logits",
        alpha=train.ALPHA,
        gamma=train.GAMMA,
        normalization="positives",
        ignore_index=anchors.IGNORE,
    )
    for size in (96, 160):
        images, targets, deltas = batch(size)
        wanted = train.losses(model, images, targets, deltas)[0].item()
        for library in (False, True):
            feeds = {"image": images.numpy(), "targets": targets.numpy()}
            assert session(attached, library=library).run(["loss"], feeds)[0] == pytest.approx(wanted, rel=1e-4)
