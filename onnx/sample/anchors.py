"""Anchors, their assignment to boxes, and what turns a detector's output back into boxes.

NumPy only. Boxes are float arrays `[..., 4]` of `x0, y0, x1, y1` in pixels; `x1` and `y1` lie
outside the box, so its width is `x1 - x0`. The order of the anchors is the order of the network's
outputs: level by level, the finest first; in a level row by row, cell by cell, then by size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STRIDES: tuple[int, ...] = (8, 16)
"""Pixels between neighbouring cells of each pyramid level."""

SIZES: tuple[tuple[float, ...], ...] = ((16.0, 22.6, 32.0), (45.3, 64.0, 90.5))
"""Sides of the square anchors at every cell of each level; a factor of sqrt(2) from one to the next."""

MULTIPLE = 32
"""The network halves an image five times: its height and width are multiples of this."""

NUM_CLASSES = 1
TREE, BACKGROUND, IGNORE = 0, NUM_CLASSES, -1
"""Targets. Background is K, as in detectron2 and mmdetection and by default in focal_loss."""

POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.4
"""RetinaNet's thresholds (Lin et al. 2017, section 4)."""


def make_anchors(height: int, width: int) -> Floats:
    """The anchors `[N, 4]` of an image of this size."""
    if height % MULTIPLE or width % MULTIPLE or height <= 0 or width <= 0:
        raise ValueError(f"an image of {width}x{height} pixels: both have to be multiples of {MULTIPLE}")
    levels = []
    for stride, sizes in zip(STRIDES, SIZES, strict=True):
        y, x = np.mgrid[stride / 2 : height : stride, stride / 2 : width : stride]
        centre = np.stack([x, y, x, y], axis=-1)[:, :, None, :]  # [h, w, 1, 4]
        half = np.asarray(sizes)[:, None] / 2 * np.array([-1.0, -1.0, 1.0, 1.0])  # [A, 4]
        levels.append((centre + half).reshape(-1, 4))
    return np.concatenate(levels)


def level_shapes(height: int, width: int) -> list[tuple[int, int, int]]:
    """Rows, columns and anchors per cell of each level, in the order of the anchors."""
    return [(height // s, width // s, len(a)) for s, a in zip(STRIDES, SIZES, strict=True)]


def iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union of every box of `a` `[N, 4]` with every box of `b` `[M, 4]`: `[N, M]`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0.0, None), axis=-1)
    union = _area(a)[:, None] + _area(b)[None, :] - inter
    return inter / np.maximum(union, 1e-9)


def _area(boxes: Floats) -> Floats:
    return np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)


def assign(
    anchors: Floats,
    boxes: Floats,
    *,
    positive_iou: float = POSITIVE_IOU,
    negative_iou: float = NEGATIVE_IOU,
    low_quality_matches: bool = False,
) -> tuple[Ints, Ints]:
    """RetinaNet's rule: which anchor is a tree, which is background, which is left out.

    An anchor belongs to the box that it overlaps most. Its target is `TREE` where that overlap is
    at least `positive_iou`, `BACKGROUND` where it is below `negative_iou`, and `IGNORE` in between.

    `low_quality_matches` adds what the paper does not have but torchvision and detectron2 do: each
    box also takes the one anchor that overlaps it most (the first of equals), however little that
    is, so that no box goes without. Where two boxes want the same anchor, the larger overlap wins.

    Returns the targets `[N]` and, for each anchor, the index of its box (-1 where it is no tree).
    """
    targets = np.full(len(anchors), BACKGROUND, np.int64)
    matched = np.full(len(anchors), -1, np.int64)
    if len(boxes) == 0:
        return targets, matched
    overlap = iou(anchors, boxes)
    best = overlap.max(axis=1)
    targets[best >= negative_iou] = IGNORE
    positive = best >= positive_iou
    targets[positive] = TREE
    matched[positive] = overlap.argmax(axis=1)[positive]
    if low_quality_matches:
        favourite = overlap.argmax(axis=0)
        reached = overlap[favourite, np.arange(len(boxes))]
        for box in np.argsort(reached, kind="stable"):  # the largest overlap comes last, and stays
            if reached[box] > 0.0:
                targets[favourite[box]] = TREE
                matched[favourite[box]] = box
    return targets, matched


def encode(anchors: Floats, boxes: Floats) -> Floats:
    """The deltas that take each anchor to its box: shift in anchor sides, log of the growth."""
    side = anchors[:, 2:] - anchors[:, :2]
    shift = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / (2 * side)
    grow = np.log((boxes[:, 2:] - boxes[:, :2]) / side)
    return np.concatenate([shift, grow], axis=1)


def decode(anchors: Floats, deltas: Floats, height: int, width: int) -> Floats:
    """The boxes that the deltas stand for, cut at the image's border; the inverse of `encode`."""
    side = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[:, :2] * side
    half = side * np.exp(np.clip(deltas[:, 2:], -4.0, 4.0)) / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return np.clip(boxes, 0.0, [width, height, width, height])


def sigmoid(x: NDArray[np.floating]) -> Floats:
    """`1 / (1 + exp(-x))` in float64, without overflow on either side."""
    x = np.asarray(x, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def nms(boxes: Floats, scores: Floats, max_iou: float = 0.4, limit: int = 300) -> Ints:
    """Greedy non-maximum suppression: indices of the boxes kept, the best first."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while order.size and len(kept) < limit:
        kept.append(int(order[0]))
        overlap = iou(boxes[order[:1]], boxes[order[1:]])[0]
        order = order[1:][overlap <= max_iou]
    return np.asarray(kept, np.int64)


def detections(
    logits: NDArray[np.floating], deltas: Floats, height: int, width: int, min_score: float = 0.05
) -> tuple[Floats, Floats]:
    """The network's output for one image, `[N, 1]` and `[N, 4]`, as boxes and scores, best first."""
    scores = sigmoid(logits.reshape(-1))
    likely = scores >= min_score
    boxes = decode(make_anchors(height, width)[likely], np.asarray(deltas, np.float64)[likely], height, width)
    kept = nms(boxes, scores[likely])
    return boxes[kept], scores[likely][kept]


def match_detections(boxes: Floats, truth: Floats, min_iou: float = 0.5) -> NDArray[np.bool_]:
    """Which detections, given best first, are right: each takes the free true box it overlaps most,
    if by at least `min_iou`."""
    right = np.zeros(len(boxes), bool)
    if len(truth) == 0:
        return right
    overlap = iou(boxes, truth)
    for i in range(len(boxes)):
        j = int(overlap[i].argmax())
        if overlap[i, j] >= min_iou:
            right[i] = True
            overlap[:, j] = -1.0
    return right


def average_precision(scores: Floats, right: NDArray[np.bool_], num_truth: int) -> float:
    """Area under the precision-recall curve, every point of it (PASCAL VOC 2010 and later)."""
    if num_truth == 0 or len(scores) == 0:
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # never rises with recall
    recall = np.concatenate([[0.0], hits / num_truth])
    return float(np.sum(np.diff(recall) * precision))
