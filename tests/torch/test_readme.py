"""The READMEs' PyTorch programs do what they say."""

import pathlib
import re

import numpy as np
import onnx
import pytest
import torch
from operator_models import session

ROOT = pathlib.Path(__file__).resolve().parents[2]


def program(path, language, containing):
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)
    (text,) = [text for text in found if containing in text]
    return text


def test_ten_lines_of_pytorch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    exec(program("README.md", "pytorch", "class Loss"), names)
    logits, classes = names["logits"], names["classes"]
    np.testing.assert_allclose(names["gradient"], logits.grad.numpy(), rtol=1e-6)
    feeds = {i.name: x for i, x in zip(names["model"].graph.input, (logits.detach().numpy(), classes.numpy()), strict=True)}
    for library in (False, True):
        (loss,) = session(onnx.load("loss.onnx"), library=library).run(None, feeds)
        assert loss == pytest.approx(float(names["loss"]), rel=4e-6)


def test_the_packages_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Module(torch.nn.Module):
        def forward(self, features, targets):
            from focal_loss_onnx.torch import sigmoid_focal_loss

            return sigmoid_focal_loss(features, targets, reduction="sum")

    names = {
        "torch": torch,
        "logits": torch.randn(6, 3),
        "labels": torch.rand(6, 3),
        "classes": torch.tensor([0, 3, -1, 2, 1, 3]),
        "world_size_average": 2.5,
        "module": Module().eval(),
        "features": torch.randn(2, 5, 3),
    }
    exec(program("onnx/README.md", "python", "import sigmoid_focal_loss, softmax_focal_loss"), names)
    assert names["loss"] > 0
    names["targets"] = torch.randint(0, 4, (2, 5))
    exec(program("onnx/README.md", "python", "import export"), names)
    assert [f.name for f in onnx.load("with_loss.onnx").functions] == ["SigmoidFocalLoss"]
    names["inputs"] = names["features"], names["targets"]
    exec(program("onnx/README.md", "python", "translation_table()"), names)
    assert [f.name for f in names["model"].functions] == ["SigmoidFocalLoss"]
    names["targets"], names["logits"] = np.array([0, 3, -1]), np.ones((3, 3), np.float32)
    exec(program("onnx/README.md", "python", "forward_backward(logits"), names)
    assert names["gradient"].shape == (3, 3)
