"""The demo's picture: a photograph with its boxes, and beside it where the loss is. Pillow only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import anchors
import evaluate

SCALE = 1.5
MARGIN, GAP, HEADER, FOOTER = 20, 20, 64, 48
HARDEST_TREES, HARDEST_BACKGROUND = 6, 4
LOWEST = 1e-3  # the colour bar's lower end

PAPER, INK, PALE = (255, 255, 255), (32, 36, 40), (110, 116, 122)
TRUTH, RIGHT, WRONG = (255, 255, 255), (255, 208, 0), (255, 64, 48)
HARD_TREE, HARD_BACKGROUND = (64, 224, 255), (120, 255, 96)
HEAT = np.array(  # black, violet, red, orange, pale yellow
    [[4, 3, 18], [60, 15, 110], [140, 35, 105], [215, 65, 60], [250, 140, 20], [252, 240, 150]], np.float64
)


class Scene(NamedTuple):
    """What is drawn: per-anchor arrays have the order of `anchors.make_anchors`."""

    photo: evaluate.Photo
    anchors: NDArray[np.float64]
    targets: NDArray[np.int64]
    per_anchor: NDArray[np.floating]
    detections: NDArray[np.float64]
    right: NDArray[np.bool_]
    loss: float


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def colour(heat: NDArray[np.floating]) -> NDArray[np.float64]:
    """0 to 1, any shape, to red, green and blue."""
    place = np.clip(heat, 0.0, 1.0) * (len(HEAT) - 1)
    return np.stack([np.interp(place, np.arange(len(HEAT)), HEAT[:, c]) for c in range(3)], axis=-1)


def loss_map(per_anchor: NDArray[np.floating], height: int, width: int) -> NDArray[np.float64]:
    """The largest loss among the anchors centred in each cell of the finest level."""
    rows, columns = height // anchors.STRIDES[0], width // anchors.STRIDES[0]
    result, start = np.zeros((rows, columns)), 0
    for h, w, a in anchors.level_shapes(height, width):
        level = per_anchor[start : start + h * w * a].reshape(h, w, a).max(axis=-1)
        result = np.maximum(result, np.kron(level, np.ones((rows // h, columns // w))))
        start += h * w * a
    return result


def heat_of(loss: NDArray[np.floating], highest: float) -> NDArray[np.float64]:
    """Place on the logarithmic colour bar: 0 at LOWEST and below, 1 at `highest`."""
    return np.clip(np.log(np.maximum(loss, LOWEST) / LOWEST) / np.log(highest / LOWEST), 0.0, 1.0)


def hardest(scene: Scene) -> NDArray[np.int64]:
    """The anchors of largest loss of both kinds, at most one of a kind in the same place."""
    found = []
    for kind, count in ((anchors.TREE, HARDEST_TREES), (anchors.BACKGROUND, HARDEST_BACKGROUND)):
        index = np.flatnonzero((scene.targets == kind) & (scene.per_anchor > LOWEST))
        found.append(index[anchors.nms(scene.anchors[index], scene.per_anchor[index], 0.2, count)])
    return np.concatenate(found)


def draw(scene: Scene) -> Image.Image:
    """The whole picture."""
    height, width = scene.photo.pixels.shape[:2]
    w, h = round(width * SCALE), round(height * SCALE)
    bar = 78
    page = Image.new("RGB", (2 * MARGIN + 2 * w + GAP + bar, HEADER + h + FOOTER), PAPER)
    left, right = (MARGIN, HEADER), (MARGIN + w + GAP, HEADER)
    highest = max(float(scene.per_anchor.max()), 10 * LOWEST)
    page.paste(_boxes(scene, (w, h)), left)
    page.paste(_heat(scene, (w, h), highest), right)
    pen = ImageDraw.Draw(page)
    positives = int(np.sum(scene.targets == anchors.TREE))
    _titles(pen, left, f"{scene.photo.name}: {len(scene.photo.boxes)} trees", "held out of the training")
    _titles(
        pen,
        right,
        f"Where the focal loss is: {scene.loss:.3f} per positive anchor",
        f"{len(scene.anchors)} anchors, {positives} of them positive; colour: the largest loss at each place",
    )
    wrong = int(np.sum(~scene.right))
    _legend(
        pen,
        (left[0], HEADER + h + 14),
        [
            (TRUTH, "box in the data"),
            (RIGHT, f"detection, right ({len(scene.right) - wrong})"),
            (WRONG, f"detection, wrong ({wrong})"),
        ],
    )
    _legend(
        pen,
        (right[0], HEADER + h + 14),
        [(HARD_TREE, "hardest anchors on trees"), (HARD_BACKGROUND, "hardest anchors on background")],
    )
    _colour_bar(page, (right[0] + w + 14, HEADER), h, highest)
    palette = page.quantize(256, Image.Quantize.MAXCOVERAGE)  # 256 colours are a third of the bytes
    return page.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _titles(pen: ImageDraw.ImageDraw, corner: tuple[int, int], title: str, below: str) -> None:
    pen.text((corner[0], 12), title, INK, font(20))
    pen.text((corner[0], 38), below, PALE, font(14))


def _legend(
    pen: ImageDraw.ImageDraw, corner: tuple[int, int], entries: list[tuple[tuple[int, ...], str]]
) -> None:
    x, y = corner
    for shade, text in entries:
        pen.rectangle((x, y, x + 18, y + 18), fill=(84, 92, 88))
        pen.rectangle((x + 3, y + 3, x + 15, y + 15), outline=shade, width=2)
        pen.text((x + 25, y + 1), text, INK, font(14))
        x += 25 + round(pen.textlength(text, font(14))) + 22


def _outline(pen: ImageDraw.ImageDraw, box: NDArray[np.float64], shade: tuple[int, ...], width: int) -> None:
    x0, y0, x1, y1 = (round(float(v) * SCALE) for v in box)
    pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0), width=width + 2)
    pen.rectangle((x0, y0, x1, y1), outline=shade, width=width)


def _boxes(scene: Scene, size: tuple[int, int]) -> Image.Image:
    panel = Image.fromarray(scene.photo.pixels).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(panel)
    for box in scene.photo.boxes:
        _outline(pen, box, TRUTH, 2)
    for box, right in zip(scene.detections, scene.right, strict=True):
        _outline(pen, box, RIGHT if right else WRONG, 2)
    return panel


def _heat(scene: Scene, size: tuple[int, int], highest: float) -> Image.Image:
    photo = Image.fromarray(scene.photo.pixels).resize(size, Image.Resampling.BICUBIC)
    grey = np.asarray(photo.convert("L"), np.float64)[:, :, None] * 0.6
    small = heat_of(loss_map(scene.per_anchor, *scene.photo.pixels.shape[:2]), highest)
    heat = np.asarray(Image.fromarray(small.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    alpha = np.clip(heat * 1.3, 0.0, 0.8)[:, :, None]
    panel = Image.fromarray((grey * (1 - alpha) + colour(heat) * alpha).astype(np.uint8))
    pen = ImageDraw.Draw(panel)
    marked = [(i, HARD_TREE if scene.targets[i] == anchors.TREE else HARD_BACKGROUND) for i in hardest(scene)]
    for i, shade in marked:
        _outline(pen, scene.anchors[i], shade, 2)
    for i, shade in marked:  # the numbers last: no box runs through them
        text = f"{scene.per_anchor[i]:.2f}"
        x0, y0, x1, _ = scene.anchors[i] * SCALE
        wide = pen.textlength(text, font(13))
        x = min(max((x0 + x1 - wide) / 2, 3), size[0] - wide - 3)
        y = y0 - 18 if y0 > 20 else scene.anchors[i][3] * SCALE + 3
        pen.rectangle((x - 3, y, x + wide + 3, y + 16), fill=(0, 0, 0))
        pen.text((x, y), text, shade, font(13))
    return panel


def _colour_bar(page: Image.Image, corner: tuple[int, int], height: int, highest: float) -> None:
    ramp = colour(np.linspace(1.0, 0.0, height)[:, None].repeat(18, axis=1))
    page.paste(Image.fromarray(ramp.astype(np.uint8)), corner)
    pen = ImageDraw.Draw(page)
    x, y = corner
    pen.rectangle((x, y, x + 17, y + height - 1), outline=INK)
    for value in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
        if value <= highest:
            at = y + (height - 1) * (1.0 - float(heat_of(np.asarray(value), highest)))
            pen.line((x + 18, at, x + 22, at), INK)
            pen.text((x + 25, at), f"{value:g}", INK, font(13), anchor="lm")
    pen.text((x + 8, y - 16), "loss", INK, font(13), anchor="mm")
