"""Train the sample detector: a small RetinaNet that finds tree crowns in photographs from the air.

    pip install -r requirements-train.txt ../..
    python train.py                  # about eight minutes on two cores; writes tree_detector.onnx
    python train.py --evaluate       # only average precision: the committed model, an untrained one

The photographs and their boxes come from the PyPI wheel of `deepforest` (MIT; see
photos/ATTRIBUTION.md), which pip downloads into a cache folder. Three pieces of them are held out:
no training crop ever touches one. `--photos` writes those pieces to photos/.
"""

from __future__ import annotations

import argparse
import io
import math
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import anchors
import evaluate
import focal_loss_onnx.torch as focal

WHEEL = "deepforest==2.1.0"
SITES = {  # photographs in the wheel, and how often a training crop is taken from each
    "2019_YELL_2_528000_4978000_image_crop2": 0.55,
    "2019_YELL_2_541000_4977000_image_crop": 0.30,
    "OSBS_029": 0.10,
    "SOAP_061": 0.05,
}
HELD_OUT = {  # name: (photograph, left, top); every piece is PIECE pixels wide and high
    "meadow": ("2019_YELL_2_528000_4978000_image_crop2", 950, 920),
    "slope": ("2019_YELL_2_528000_4978000_image_crop2", 1915, 0),
    "grove": ("2019_YELL_2_541000_4977000_image_crop", 865, 651),
}
PIECE, CROP = 384, 256
MIN_VISIBLE = 0.3  # a box that a crop leaves less than this of is dropped
ALPHA, GAMMA, PRIOR = 0.25, 2.0, 0.01


# The network


def conv(c_in: int, c_out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation (folded away before the export), ReLU."""
    layer = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two convolutions around which the input is carried."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels), conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class TreeDetector(nn.Module):
    """RetinaNet in small: a residual trunk, a two-level feature pyramid, two heads shared by the levels.

    The trunk goes on to stride 32, so that the pyramid sees a tree's surroundings (its shadow).
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 56, 72, 72), width: int = 48) -> None:
        super().__init__()
        w2, w4, w8, w16, w32 = widths
        per_cell = len(anchors.SIZES[0])
        self.stride4 = nn.Sequential(conv(3, w2, 2), conv(w2, w4, 2), Residual(w4))
        self.stride8 = nn.Sequential(conv(w4, w8, 2), Residual(w8))
        self.stride16 = nn.Sequential(conv(w8, w16, 2), conv(w16, w16))
        self.stride32 = conv(w16, w32, 2)
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in (w8, w16, w32))
        self.smooth = nn.ModuleList(conv(width, width) for _ in anchors.STRIDES)
        self.cls_head = self._head(width, per_cell * anchors.NUM_CLASSES)
        self.box_head = self._head(width, per_cell * 4)
        # RetinaNet's start: every anchor a tree with probability PRIOR, so that the loss of the
        # many easy negatives does not swamp the first steps.
        nn.init.constant_(self.cls_head[-1].bias, -math.log((1 - PRIOR) / PRIOR))

    @staticmethod
    def _head(width: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)]
        head = nn.Sequential(*layers, nn.Conv2d(width, outputs, 3, padding=1))
        for layer in head:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        nn.init.normal_(head[-1].weight, std=0.01)
        return head

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image `[B, 3, H, W]`, 0 to 1, to logits `[B, N, 1]` and box deltas `[B, N, 4]`."""
        c8 = self.stride8(self.stride4((image - 0.45) * 4.0))
        c16 = self.stride16(c8)
        p32 = self.lateral[2](self.stride32(c16))
        p16 = self.lateral[1](c16) + F.interpolate(p32, scale_factor=2.0, mode="nearest")
        p8 = self.lateral[0](c8) + F.interpolate(p16, scale_factor=2.0, mode="nearest")
        levels = [smooth(p) for smooth, p in zip(self.smooth, (p8, p16), strict=True)]
        logits = [self._rows(self.cls_head(p), anchors.NUM_CLASSES) for p in levels]
        deltas = [self._rows(self.box_head(p), 4) for p in levels]
        return torch.cat(logits, 1), torch.cat(deltas, 1)

    @staticmethod
    def _rows(x: Tensor, values: int) -> Tensor:
        """`[B, A * values, H, W]` to `[B, H * W * A, values]`, the order of the anchors."""
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)


# The photographs


def fetch_wheel(cache: Path) -> Path:
    """The wheel in the cache folder; pip downloads it the first time."""
    found = sorted(cache.glob("deepforest-*.whl"))
    if not found:
        print(f"downloading {WHEEL} into {cache}", flush=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(cache),
            WHEEL,
        ]
        subprocess.run(command, check=True)
        found = sorted(cache.glob("deepforest-*.whl"))
    return found[-1]


def read_site(wheel: Path, name: str) -> evaluate.Photo:
    """A photograph and its boxes, straight from the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        pixels = np.asarray(
            Image.open(io.BytesIO(archive.read(f"deepforest/data/{name}.png"))).convert("RGB")
        )
        with archive.open(f"deepforest/data/{name}.xml") as voc:
            return evaluate.Photo(name, pixels, evaluate.read_voc(voc))


def cut(photo: evaluate.Photo, left: int, top: int, side: int, name: str) -> evaluate.Photo:
    """A square piece of a photograph. Boxes are cut at its border; slivers are dropped."""
    corner = np.array([left, top, left, top], np.float64)
    moved = photo.boxes - corner
    boxes = np.clip(moved, 0, side)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    whole = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
    return evaluate.Photo(
        name, photo.pixels[top : top + side, left : left + side], boxes[area >= MIN_VISIBLE * whole]
    )


def write_held_out(wheel: Path, folder: Path) -> None:
    """Cut the held-out pieces: NAME.png, and the boxes as NAME.xml (PASCAL VOC)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (site, left, top) in HELD_OUT.items():
        piece = cut(read_site(wheel, site), left, top, PIECE, name)
        Image.fromarray(piece.pixels).save(folder / f"{name}.png", optimize=True)
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = f"{name}.png"
        ElementTree.SubElement(root, "source").text = f"{WHEEL} {site}.png, from ({left}, {top})"
        for box in piece.boxes:
            item = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(item, "name").text = "Tree"
            corners = ElementTree.SubElement(item, "bndbox")
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
                ElementTree.SubElement(corners, key).text = f"{value:g}"
        ElementTree.indent(root)
        ElementTree.ElementTree(root).write(folder / f"{name}.xml", encoding="unicode")
        print(f"{name}: {len(piece.boxes)} trees")


class Crops:
    """Endless random training crops: place, scale, flip, quarter turn, light and colour."""

    def __init__(self, wheel: Path, seed: int) -> None:
        self.sites = [read_site(wheel, name) for name in SITES]
        self.share = np.array(list(SITES.values())) / sum(SITES.values())
        self.random = np.random.default_rng(seed)
        self.anchors = anchors.make_anchors(CROP, CROP)

    def _place(self) -> evaluate.Photo:
        """A square of random size from a random photograph, clear of the held-out pieces."""
        while True:
            site = self.sites[self.random.choice(len(self.sites), p=self.share)]
            height, width = site.pixels.shape[:2]
            side = int(CROP / np.exp(self.random.uniform(np.log(0.75), np.log(1.4))))
            left, top = (int(self.random.integers(0, n - side + 1)) for n in (width, height))
            taken = [(x, y) for name, x, y in HELD_OUT.values() if name == site.name]
            if not any(x - side < left < x + PIECE and y - side < top < y + PIECE for x, y in taken):
                return cut(site, left, top, side, site.name)

    def one(self) -> tuple[Tensor, Tensor, Tensor]:
        """An image `[3, CROP, CROP]`, its anchors' class indices `[N]` and box deltas `[N, 4]`."""
        photo = self._place()
        side = photo.pixels.shape[0]
        image = np.asarray(Image.fromarray(photo.pixels).resize((CROP, CROP), Image.Resampling.BILINEAR))
        boxes = photo.boxes * (CROP / side)
        if self.random.random() < 0.5:  # left for right
            image, boxes = (
                image[:, ::-1],
                np.stack([CROP - boxes[:, 2], boxes[:, 1], CROP - boxes[:, 0], boxes[:, 3]], 1),
            )
        for _ in range(self.random.integers(4)):  # a quarter turn: (x, y) to (y, CROP - x)
            image = np.rot90(image)
            boxes = np.stack([boxes[:, 1], CROP - boxes[:, 2], boxes[:, 3], CROP - boxes[:, 0]], 1)
        light = self.random.uniform(0.75, 1.25) * self.random.uniform(0.9, 1.1, 3)
        pixels = (image / 255.0 - 0.45) * self.random.uniform(0.75, 1.25) + 0.45
        pixels = np.clip(pixels * light, 0.0, 1.0).transpose(2, 0, 1)
        targets, matched = anchors.assign(self.anchors, boxes)
        deltas = np.zeros((len(targets), 4))
        positive = targets == anchors.TREE
        deltas[positive] = anchors.encode(self.anchors[positive], boxes[matched[positive]])
        return torch.from_numpy(pixels).float(), torch.from_numpy(targets), torch.from_numpy(deltas).float()

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        images, targets, deltas = zip(*(self.one() for _ in range(size)), strict=True)
        return torch.stack(images), torch.stack(targets), torch.stack(deltas)


# Training and export


def losses(model: nn.Module, images: Tensor, targets: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss over all anchors but the ignored, and smooth L1 over the positives, both divided by
    the number of positives."""
    logits, predicted = model(images)
    objectness = focal.sigmoid_focal_loss(
        logits, targets, ALPHA, GAMMA, "mean", normalization="positives", ignore_index=anchors.IGNORE
    )
    positive = targets == anchors.TREE
    count = positive.sum().clamp(min=1)
    box = F.smooth_l1_loss(predicted[positive], deltas[positive], beta=0.1, reduction="sum") / count
    return objectness, box


def train(wheel: Path, steps: int, batch: int, seed: int, minutes: float) -> nn.Module:
    """AdamW with a one-cycle learning rate; returns the moving average of the weights."""
    torch.manual_seed(seed)
    model = TreeDetector()
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {steps} steps of {batch} crops",
        flush=True,
    )
    average = deepcopy(model).eval()
    crops = Crops(wheel, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.15)
    start = time.monotonic()
    for step in range(1, steps + 1):
        objectness, box = losses(model, *crops.batch(batch))
        optimizer.zero_grad()
        (objectness + box).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        keep = min(0.99, step / (step + 10))
        for mean, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            mean.copy_(mean.lerp(now, 1 - keep) if mean.is_floating_point() else now)
        elapsed = time.monotonic() - start
        if step % 25 == 0 or step == steps:
            left = elapsed / step * (steps - step)
            print(
                f"step {step:5}  focal {objectness:.3f}  box {box:.3f}  {elapsed:4.0f} s, {left:4.0f} s left",
                flush=True,
            )
        if elapsed > 60 * minutes:
            print(f"stopped at step {step}: {minutes:g} minutes are over")
            break
    return average


def export(model: nn.Module, path: Path) -> None:
    """Write the model as ONNX: batch normalisation folded, weights inside, nothing of this machine."""
    import onnx

    model = deepcopy(model).eval()
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential) and len(module) == 3 and isinstance(module[1], nn.BatchNorm2d):
            module[0] = nn.utils.fusion.fuse_conv_bn_eval(module[0], module[1])
            module[1] = nn.Identity()
    dim = torch.export.Dim
    rows, columns = dim("rows", min=2, max=256), dim("columns", min=2, max=256)
    proto = focal.export(
        model,
        (torch.zeros(2, 3, PIECE, PIECE - anchors.MULTIPLE),),
        opset_version=18,
        input_names=["image"],
        output_names=["cls_logits", "bbox_deltas"],
        dynamic_shapes=({0: dim("batch"), 2: anchors.MULTIPLE * rows, 3: anchors.MULTIPLE * columns},),
        verbose=False,
    )
    proto = tidy(proto)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def tidy(model):  # noqa: ANN001, ANN201 (onnx.ModelProto, imported late)
    """Name the shapes plainly, drop what the exporter notes down (stack traces, paths, versions), and
    mark the file with the IR version of ONNX 1.15, the newest that ONNX Runtime 1.17 reads."""
    model.ir_version = 9
    model.producer_version = ""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name = "tree_detector"
    graph.doc_string = ""
    del graph.metadata_props[:], graph.value_info[:]
    for thing in [*graph.node, *graph.initializer, *graph.input, *graph.output]:
        thing.doc_string = ""
        del thing.metadata_props[:]
    for value, names in (
        (graph.input[0], "batch . height width"),
        (graph.output[0], "batch anchors ."),
        (graph.output[1], "batch anchors ."),
    ):
        for dim, name in zip(value.type.tensor_type.shape.dim, names.split(), strict=True):
            if name != ".":
                dim.dim_param = name
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--evaluate", action="store_true", help="do not train; evaluate --out and an untrained model"
    )
    parser.add_argument("--photos", action="store_true", help="only write the held-out pieces to photos/")
    parser.add_argument(
        "--out", type=Path, default=evaluate.MODEL, help="the model file (default: %(default)s)"
    )
    parser.add_argument(
        "--cache", type=Path, default=evaluate.HERE / ".cache", help="where the wheel is or goes"
    )
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="stop after this long (default: %(default)g)"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.photos:
        write_held_out(fetch_wheel(options.cache), evaluate.PHOTOS)
        return
    if not options.evaluate:
        model = train(fetch_wheel(options.cache), options.steps, options.batch, options.seed, options.minutes)
        export(model, options.out)
        print(f"wrote {options.out}, {options.out.stat().st_size:,} bytes")
    torch.manual_seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        untrained = Path(folder) / "untrained.onnx"
        export(TreeDetector(), untrained)
        evaluate.report(untrained, "untrained")
    evaluate.report(options.out, "trained")


if __name__ == "__main__":
    main()
