"""On a GPU: the operators under ONNX Runtime's CUDA provider, on its stream, in its CUDA graphs, in a real detector."""

import json
import pathlib
import sys
import threading

import numpy as np
import onnxruntime as ort
import pytest
from places import ROOT

sys.path.insert(0, str(ROOT / "onnx/sample"))
import anchors  # noqa: E402
import evaluate  # noqa: E402
import focal_loss_onnx  # noqa: E402
import ort_models as models  # noqa: E402

CUDA = "CUDAExecutionProvider"


def session(model, profile=None, **provider_options):
    options = models.session_options()
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    providers = [(CUDA, provider_options), "CPUExecutionProvider"]
    made = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    assert CUDA in made.get_providers(), "ONNX Runtime could not load its CUDA provider"
    return made


def test_the_node_is_the_cuda_providers(tmp_path):
    for operator in models.OPERATORS:
        made = session(models.make_model(operator), profile=tmp_path / operator)
        models.run(made, models.make_feeds(operator))
        assert [event["args"]["provider"] for event in ours(made)] == [CUDA]


@pytest.mark.parametrize("targets", models.TARGETS)
@pytest.mark.parametrize("dtype", models.DTYPES)
@pytest.mark.parametrize("operator", models.OPERATORS)
def test_every_operator_and_type(operator, dtype, targets):
    for optional in [(), ("class_alpha", "weight", "normalizer"), ("weight",)]:
        feeds = models.make_feeds(operator, dtype, targets, optional, rows=(40,), classes=16)
        got = models.run(session(models.make_model(operator, dtype, targets, optional)), feeds)
        models.assert_close(got, models.oracle(operator, feeds), dtype)


@pytest.mark.parametrize("operator", models.LOSSES)
def test_a_wrong_class_index_is_nan(operator):
    feeds = models.make_feeds(operator)
    feeds["targets"][2] = -7
    assert np.isnan(models.run(session(models.make_model(operator)), feeds))


def bound(made, feeds, result_shape=()):
    """Inputs and output on the device, which is what a CUDA graph asks for."""
    binding = made.io_binding()
    held = {name: ort.OrtValue.ortvalue_from_numpy(value, "cuda", 0) for name, value in feeds.items()}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    result = ort.OrtValue.ortvalue_from_shape_and_type(result_shape, np.float32, "cuda", 0)
    binding.bind_ortvalue_output("result", result)
    return binding, held, result


def test_cuda_graph():
    operator = "SigmoidFocalLoss"
    model = models.make_model(operator, normalization="positives", output=[])
    made = session(model, enable_cuda_graph="1")
    feeds = models.make_feeds(operator, rows=(500,), classes=80)
    binding, held, result = bound(made, feeds)
    for seed in range(4):  # the first run captures, the others replay
        feeds = models.make_feeds(operator, rows=(500,), classes=80, seed=seed)
        for name, value in feeds.items():
            held[name].update_inplace(value)
        made.run_with_iobinding(binding)
        expected = models.oracle(operator, feeds, normalization="positives")
        np.testing.assert_allclose(result.numpy(), expected, 1e-6)


def test_runs_at_once():
    operator = "SigmoidFocalLoss"
    made = session(models.make_model(operator, normalization="positives"))
    feeds = [models.make_feeds(operator, rows=(500,), classes=80, seed=seed) for seed in range(8)]
    expected = [models.run(made, feed) for feed in feeds]
    failed = []

    def work(i):
        for _ in range(30):
            if models.run(made, feeds[i]).tobytes() != expected[i].tobytes():
                failed.append(i)

    threads = [threading.Thread(target=work, args=[i]) for i in range(len(feeds))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failed


SETTINGS = dict(alpha=0.25, gamma=2.0, normalization="positives", ignore_index=anchors.IGNORE,
                background_index=anchors.BACKGROUND)  # fmt: skip


@pytest.mark.parametrize("photo", evaluate.held_out(), ids=lambda photo: photo.name)
def test_the_sample_detector(photo, tmp_path):
    """A detector with its loss, all on the GPU: our kernel runs under the CUDA provider, and is right for the logits
    that the detector gave there."""
    model = focal_loss_onnx.attach(str(ROOT / "onnx/sample/tree_detector.onnx"), "cls_logits",
                                   per_anchor_loss="loss_per_anchor", **SETTINGS)  # fmt: skip
    grid = anchors.make_anchors(*photo.pixels.shape[:2])
    targets = anchors.assign(grid, photo.boxes)[0][None]
    made = session(model, profile=tmp_path / "profile")
    logits, loss, per_anchor = made.run(["cls_logits", "loss", "loss_per_anchor"], {"image": photo.tensor(), "targets": targets})
    assert all(event["args"]["provider"] == CUDA for event in ours(made))
    exact = focal_loss_onnx.reference.focal_loss(logits, targets, **SETTINGS)
    np.testing.assert_allclose(loss, exact, 1e-6)
    each = focal_loss_onnx.reference.focal_loss(logits, targets, **{**SETTINGS, "reduction": "none"})
    np.testing.assert_allclose(per_anchor.reshape(-1), each.reshape(-1), 2e-6, 1e-30)


def ours(made):
    """The kernels of ours that a session with a profile ran."""
    events = json.loads(pathlib.Path(made.end_profiling()).read_text())
    found = [e for e in events if e.get("cat") == "Node" and "FocalLoss" in e.get("args", {}).get("op_name", "")
             and "provider" in e["args"]]  # fmt: skip
    assert found
    return found
