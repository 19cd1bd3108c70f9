"""The command line, as a user calls it."""

import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from focal_loss_onnx import reference
from fuse_models import spelled
from onnx import TensorProto
from operator_models import assert_close, session
from test_package_attach import detector, simple

DATA = pathlib.Path(__file__).resolve().parents[1] / "data" / "fuse"

#: A focal loss for targets 0 and 1, whose probability is clipped.
CLIPPED = spelled("""
    p0 = Sigmoid(x)  p = Clip(p0, 1e-7, 0.9999999)  q = Sub(1, p)  k = Greater(t, 0.5)  pt = Where(k, p, q)  l = Log(pt)
    m = Sub(1, pt)  w = Pow(m, 2)  a = Where(k, 0.25, 0.75)  b = Mul(l, w)  c = Mul(a, b)  loss = Neg(c)""")


def call(*arguments):
    command = [sys.executable, "-m", "focal_loss_onnx", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "detector.onnx"
    onnx.save(simple(), path)
    return path


def test_attach(path, tmp_path):
    out = tmp_path / "with_loss.onnx"
    status, stdout, stderr = call("attach", path, out, "--logits", "cls_logits", "--alpha", 0.5, "--gamma", 1, "--weight",
                                  "--ignore-index", -1, "--per-anchor-loss", "each", "--reduction", "sum")  # fmt: skip
    assert (status, stderr) == (0, "")
    assert [line.split(maxsplit=2) for line in stdout.splitlines()] == [
        ["input", "targets", "int64 [B, N]"],
        ["input", "weight", "float [weight_dim_0, weight_dim_1, weight_dim_2]"],
        ["output", "loss", "float []"],
        ["output", "each", "float [B, N]"],
    ]
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    features = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    targets = np.random.default_rng(1).integers(-1, 4, (2, 5))
    feeds = {"features": features, "targets": targets, "weight": np.full((1, 1, 3), 2, np.float32)}
    loss = session(model).run(["loss"], feeds)[0]
    wanted = 2 * reference.focal_loss(-features, targets, alpha=0.5, gamma=1, ignore_index=-1, reduction="sum")
    assert_close(loss, wanted, TensorProto.FLOAT)


def test_attach_says_that_it_traced(tmp_path):
    path, out = tmp_path / "detector.onnx", tmp_path / "out.onnx"
    nodes = [("Neg", ["x"], ["logits"], {}), ("Sigmoid", ["logits"], ["scores"], {})]
    onnx.save(detector({"x": ["B", "N", 3]}, nodes, {"scores": ["B", "N", 3]}), path)
    status, _, stderr = call("attach", path, out, "--logits", "scores")
    assert status == 0 and out.exists()
    assert stderr.startswith("note: 'scores' is the output of a sigmoid")


def test_inspect(path):
    status, stdout, stderr = call("inspect", path)
    assert (status, stderr) == (0, "")
    assert stdout.splitlines()[0].startswith("cls_logits  float [B, N, 3]  an output of the graph")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attach", "IN", "OUT", "--logits", "cls_logit"], "near: cls_logits"),
        (["attach", "IN", "OUT", "--logits", "cls_logits", "--alpha", "2"], "alpha must be at most 1"),
        (["attach", "missing.onnx", "OUT", "--logits", "x"], "missing.onnx"),
        (["attach", "TEXT", "OUT", "--logits", "x"], "is not an ONNX model"),
        (["inspect", "TEXT"], "is not an ONNX model"),
        (["inspect", "INTEGERS"], "no tensor that looks like classification logits"),
    ],
)
def test_errors_are_one_line_and_status_1(arguments, message, path, tmp_path):
    (tmp_path / "text.onnx").write_text("not a model at all")
    onnx.save(simple(dtype=TensorProto.INT64), tmp_path / "integers.onnx")
    files = {
        "IN": path,
        "OUT": tmp_path / "out.onnx",
        "TEXT": tmp_path / "text.onnx",
        "INTEGERS": tmp_path / "integers.onnx",
    }
    status, stdout, stderr = call(*(files.get(argument, argument) for argument in arguments))
    assert (status, stdout) == (1, "")
    assert stderr.startswith("error: ") and message in stderr and stderr.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()


def test_fuse(tmp_path):
    broken, fixed = DATA / "torch-2.4.1-dynamo-mean-0.25-2.onnx", tmp_path / "fixed.onnx"
    status, stdout, stderr = call("fuse", broken, fixed)
    assert (status, stderr) == (0, "")
    assert stdout.startswith("fused       'mean' = SigmoidFocalLoss('l_logits_', 'l_targets_'): alpha 0.25, gamma 2, ")
    model = onnx.load(fixed)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["SigmoidFocalLoss"]


def test_fuse_writes_nothing_where_there_is_nothing_to_fuse(path, tmp_path):
    out = tmp_path / "fixed.onnx"
    status, stdout, stderr = call("fuse", path, out)
    assert (status, stdout) == (1, "") and not out.exists()
    assert stderr.startswith("error: ") and "has no focal loss that could be replaced" in stderr
    clipped = tmp_path / "clipped.onnx"
    onnx.save(CLIPPED, clipped)
    status, stdout, _ = call("fuse", clipped, out)
    assert status == 1 and stdout.startswith("left alone  'loss' is a focal loss") and not out.exists()
    status, stdout, _ = call("fuse", clipped, out, "--allow-epsilon", "--hard-targets")
    assert status == 0 and stdout.startswith("fused       'loss' = SigmoidFocalLoss('x', 't')") and out.exists()


def test_wrong_usage_is_status_2():
    assert call()[0] == 2
    status, _, stderr = call("attach", "in.onnx", "out.onnx", "--logits", "x", "--reduction", "average")
    assert status == 2 and "invalid choice" in stderr
