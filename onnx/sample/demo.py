"""Focal loss inside a real detection graph, on three photographs that the detector never saw.

    python demo.py [--out target/demo]

`make demo` prepares what this needs: requirements.txt, the package `focal_loss_onnx`, the library.
For each photograph it assigns the detector's anchors to the boxes, has ONNX Runtime evaluate the
loss that `focal_loss_onnx.attach` put into the graph, once with our operator and once with the
function of the same meaning that the model carries along, compares both with NumPy in float64, and
draws where the loss is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    import focal_loss_onnx
    import onnx
    import onnxruntime
except ImportError as error:
    sys.exit(f"{error}. Run `make demo` in the repository's root, or by hand:\n"
             "  pip install -r onnx/sample/requirements.txt .")  # fmt: skip

import anchors
import evaluate
import picture

ALPHA, GAMMA = 0.25, 2.0
SETTINGS = {
    "alpha": ALPHA,
    "gamma": GAMMA,
    "reduction": "mean",
    "normalization": "positives",
    "ignore_index": anchors.IGNORE,
    "background_index": anchors.BACKGROUND,
}
SHOWN_SCORE = 0.3
"""Detections from this score on are drawn and counted; average precision uses all."""


def reference_per_anchor(logits: NDArray[np.floating], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """The loss of each anchor in float64: Lin et al. 2017, equation 5, in a form that cannot overflow.

    `logits` is `[N]` (one class), `targets` `[N]` class indices; an ignored anchor's loss is 0.
    """
    x = np.asarray(logits, np.float64)
    t = (targets == anchors.TREE).astype(np.float64)
    cross_entropy = np.logaddexp(0.0, x) - x * t  # softplus(x) - x t
    p = anchors.sigmoid(x)
    miss = p * (1 - t) + anchors.sigmoid(-x) * t  # 1 - p_t, without subtracting from 1
    alpha_t = ALPHA * t + (1 - ALPHA) * (1 - t)
    return np.where(targets == anchors.IGNORE, 0.0, alpha_t * miss**GAMMA * cross_entropy)


def reference(logits: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """The loss of all anchors, divided by the number of positives."""
    return float(reference_per_anchor(logits, targets).sum() / max(1, np.sum(targets == anchors.TREE)))


class Graphs(NamedTuple):
    """Sessions of one model: with our library registered, and without."""

    operator: onnxruntime.InferenceSession
    function: onnxruntime.InferenceSession


def open_both(model: onnx.ModelProto) -> Graphs:
    """The same bytes in two sessions: our kernel runs where the library is registered, the function
    that the model carries where it is not."""
    data = model.SerializeToString()
    sessions = []
    for registered in (True, False):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if registered:
            register(options)
        sessions.append(onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]))
    return Graphs(*sessions)


def register(options: onnxruntime.SessionOptions) -> None:
    """`focal_loss_onnx.register`, which loads the library; what to do about it if that fails."""
    try:
        focal_loss_onnx.register(options)
    except Exception as error:  # noqa: BLE001 (ONNX Runtime's errors have no common class of their own)
        sys.exit(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the library: {error}\n"
            "Build it again: `cargo build --release` in the repository's root, or `make demo`."
        )


def loss_only() -> onnx.ModelProto:
    """A graph that is nothing but the loss, with the logits as its input: to time the loss alone."""
    helper, float32, shape = onnx.helper, onnx.TensorProto.FLOAT, ["batch", "anchors", anchors.NUM_CLASSES]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["given"], ["cls_logits"])],
        "loss_only",
        [helper.make_tensor_value_info("given", float32, shape)],
        [helper.make_tensor_value_info("cls_logits", float32, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return focal_loss_onnx.attach(model, "cls_logits", **SETTINGS)


def best_time(call: Callable[[], Any], budget: float = 0.25) -> float:
    """Seconds of the fastest of at least five calls, as many as fit into the budget."""
    best, start, calls = float("inf"), time.perf_counter(), 0
    while calls < 5 or time.perf_counter() - start < budget:
        before = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - before)
        calls += 1
    return best


class Progress:
    """One line that says what is being done, overwritten on a terminal and otherwise left out."""

    def __init__(self) -> None:
        self.shown = 0

    def __call__(self, text: str = "") -> None:
        if sys.stderr.isatty():
            print("\r" + text.ljust(self.shown), end="" if text else "\r", file=sys.stderr, flush=True)
            self.shown = len(text)


def show(photo: evaluate.Photo, detector: Graphs, loss: Graphs, out: Path, progress: Progress) -> None:
    """Everything about one photograph: the table on the terminal, the picture in the folder."""
    progress(f"{photo.name}: assigning anchors to {len(photo.boxes)} boxes ...")
    height, width = photo.pixels.shape[:2]
    grid = anchors.make_anchors(height, width)
    targets, matched = anchors.assign(grid, photo.boxes)
    feed = {"image": photo.tensor(), "targets": targets[None]}

    progress(f"{photo.name}: running the detector and its loss ...")
    names = ["cls_logits", "bbox_deltas", "loss", "loss_per_anchor"]
    logits, deltas, by_operator, per_anchor = detector.operator.run(names, feed)
    by_function = detector.function.run(["loss"], feed)[0]
    flat = logits.reshape(-1)
    expected = reference(flat, targets)
    alone = {"given": logits, "targets": targets[None]}

    rows = []
    for label, value, whole, part in (
        ("our operator", by_operator, detector.operator, loss.operator),
        ("portable function", by_function, detector.function, loss.function),
        ("NumPy, float64", expected, None, None),
    ):
        progress(f"{photo.name}: timing, {label} ...")
        if whole is None:
            times = (best_time(lambda: reference(flat, targets)), None)
        else:
            times = (
                best_time(lambda part=part: part.run(["loss"], alone)),
                best_time(lambda whole=whole: whole.run(["loss"], feed)),
            )
        rows.append((label, float(np.asarray(value).reshape(())), *times))

    progress(f"{photo.name}: drawing ...")
    boxes, scores = anchors.detections(flat, deltas[0], height, width)
    right = anchors.match_detections(boxes, photo.boxes)
    precision = anchors.average_precision(scores, right, len(photo.boxes))
    shown = scores >= SHOWN_SCORE
    path = out / f"{photo.name}.png"
    picture.draw(
        picture.Scene(photo, grid, targets, per_anchor.reshape(-1), boxes[shown], right[shown], expected)
    ).save(path, optimize=True)
    progress()

    positive, ignored = (int(np.sum(targets == t)) for t in (anchors.TREE, anchors.IGNORE))
    print(f"\n{photo.name}: {width} x {height} pixels, {len(photo.boxes)} trees")
    print(
        f"  anchors     {len(grid)}: {positive} positive (for {len(np.unique(matched[matched >= 0]))} of the trees), "
        f"{ignored} ignored, {len(grid) - positive - ignored} background"
    )
    print(
        f"  detections  {shown.sum()} with score >= {SHOWN_SCORE}: {right[shown].sum()} right "
        f"(recall {right[shown].sum() / len(photo.boxes):.2f}), AP50 {precision:.2f}"
    )
    print(
        f"  {'focal loss per positive':<24}{'value':<20}{'difference':>10}{'loss alone':>13}{'with detector':>15}"
    )
    for label, value, alone_time, whole_time in rows:
        difference = "" if value is rows[-1][1] else f"{abs(value - expected) / expected:.1e}"
        whole_text = "" if whole_time is None else f"{whole_time * 1e3:.1f} ms"
        print(f"    {label:<22}{value:<20.9f}{difference:>10}{alone_time * 1e6:>10.0f} us{whole_text:>15}")
    gap = np.max(np.abs(per_anchor.reshape(-1) - reference_per_anchor(flat, targets)))
    print(f"  per anchor  largest difference from float64 {gap:.1e}, largest loss {per_anchor.max():.3f}")
    print(f"  picture     {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = evaluate.HERE.parents[1] / "target" / "demo"
    parser.add_argument(
        "--out", type=Path, default=default, help="folder of the pictures (default: target/demo)"
    )
    parser.add_argument("--model", type=Path, default=evaluate.MODEL, help="detector (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        library = focal_loss_onnx.library_path()
    except OSError as error:
        sys.exit(
            f"{error}\nBuild the library first: `cargo build --release` in the repository's root, or `make demo`."
        )

    progress = Progress()
    progress("attaching the loss, opening the sessions ...")
    attached = focal_loss_onnx.attach(
        onnx.load(options.model), "cls_logits", **SETTINGS, per_anchor_loss="loss_per_anchor"
    )
    detector, loss = open_both(attached), open_both(loss_only())
    progress()
    print(f"ONNX Runtime {onnxruntime.__version__}, library {library}")
    print(
        f"detector {options.model.name}, focal loss with alpha {ALPHA:g}, gamma {GAMMA:g}, {anchors.NUM_CLASSES} class"
    )
    for photo in evaluate.held_out():
        show(photo, detector, loss, options.out, progress)


if __name__ == "__main__":
    main()
