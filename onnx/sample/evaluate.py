"""Average precision of the sample detector on the three held-out photographs.

    python evaluate.py [MODEL.onnx ...]

Needs onnxruntime, numpy and pillow.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import anchors

HERE = Path(__file__).resolve().parent
MODEL = HERE / "tree_detector.onnx"
PHOTOS = HERE / "photos"


class Photo(NamedTuple):
    """A photograph `[H, W, 3]`, uint8, and the boxes `[M, 4]` of its trees."""

    name: str
    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float64]

    def tensor(self) -> NDArray[np.float32]:
        """As the detector takes it: `[1, 3, H, W]`, 0 to 1."""
        return np.ascontiguousarray(self.pixels.transpose(2, 0, 1)[None], np.float32) / np.float32(255)


def read_voc(path: Path) -> NDArray[np.float64]:
    """The boxes `[M, 4]` of a PASCAL VOC file."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    boxes = [
        [float(box.findtext(c, "nan")) for c in corners] for box in ElementTree.parse(path).iter("bndbox")
    ]
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def read_photo(image: Path) -> Photo:
    """A photograph with the boxes in the VOC file beside it."""
    return Photo(
        image.stem, np.asarray(Image.open(image).convert("RGB")), read_voc(image.with_suffix(".xml"))
    )


def held_out(folder: Path = PHOTOS) -> list[Photo]:
    """The photographs that the detector was not trained on."""
    return [read_photo(path) for path in sorted(folder.glob("*.png"))]


def evaluate(session: Any, photos: list[Photo]) -> tuple[list[float], float]:
    """Average precision at IoU 0.5: of each photograph, and of all their detections together."""
    single, all_scores, all_right = [], [], []
    for photo in photos:
        logits, deltas = session.run(["cls_logits", "bbox_deltas"], {"image": photo.tensor()})
        boxes, scores = anchors.detections(logits[0], deltas[0], *photo.pixels.shape[:2])
        right = anchors.match_detections(boxes, photo.boxes)
        single.append(anchors.average_precision(scores, right, len(photo.boxes)))
        all_scores.append(scores)
        all_right.append(right)
    trees = sum(len(photo.boxes) for photo in photos)
    return single, anchors.average_precision(np.concatenate(all_scores), np.concatenate(all_right), trees)


def report(model: Path, label: str) -> float:
    """Evaluate a model file and print a line per photograph."""
    import onnxruntime

    photos = held_out()
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    single, pooled = evaluate(session, photos)
    for photo, ap in zip(photos, single, strict=True):
        print(f"{label:<20} {photo.name:<10} {len(photo.boxes):>4} trees   AP50 {ap:.3f}")
    print(f"{label:<20} {'all':<10} {sum(len(p.boxes) for p in photos):>4} trees   AP50 {pooled:.3f}")
    return pooled


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, default=[MODEL])
    for path in parser.parse_args().models:
        report(path, path.stem)
