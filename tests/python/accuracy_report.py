#!/usr/bin/env python3
"""How exact the losses and gradients are, in ULP, beside torch's: writes docs/accuracy.md and docs/accuracy.svg.

`make accuracy` runs it where torch, torchvision and matplotlib are; the words are in accuracy_report.md.in. With
--short it takes fewer points, needs none of the three and writes nothing. Either way it fails where a promised bound
does not hold.
"""

import argparse
import datetime
import math
import pathlib
import sys
import time

import ml_dtypes
import mpmath
import numpy as np
from focal_loss_ctypes import ROOT, Library

sys.path.insert(0, str(ROOT / "tests/data"))
from make_float64_vectors import sigmoid as definition  # noqa: E402  (in 400 digits)

GAMMAS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0]
ALPHA = 0.25
LOSS_ULP, GRAD_ULP = 8, 16
STEP, SHORT_STEP = 4273, 99991  # primes, so that every bit of the mantissa varies
BFLOAT16 = ml_dtypes.bfloat16
START = time.perf_counter()
ours = Library()


def progress(*words):
    print(f"{time.perf_counter() - START:6.1f} s:", *words, flush=True)


# --- The exact values -------------------------------------------------------------------------------------------------


def focal(z, gamma):
    """m^gamma * CE and its derivative for logits that point away from the truth, in float64. Nothing here cancels."""
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(z))
        m, right = np.where(z >= 0, 1, e) / (1 + e), np.where(z >= 0, e, 1) / (1 + e)
        ce = np.maximum(z, 0) + np.log1p(e)
        return m**gamma * ce, m**gamma * (m + gamma * right * ce)


def exact_sigmoid(x, t, gamma, alpha=ALPHA):
    """Loss and gradient for hard labels t."""
    away, alpha_t = np.where(t == 1, -1.0, 1.0), np.where(t == 1, alpha, 1 - alpha)
    loss, slope = focal(away * np.asarray(x, np.float64), gamma)
    return alpha_t * loss, alpha_t * away * slope


def exact_softmax(x, y, gamma):
    """Loss and gradient of rows: the binary loss of the other classes' logsumexp against the true class's logit."""
    rows, x = np.arange(len(x)), x.astype(np.float64)
    others = x.copy()
    others[rows, y] = -np.inf
    top = others.max(1, keepdims=True)
    share = np.exp(others - top)
    loss, slope = focal(np.log(share.sum(1)) + top[:, 0] - x[rows, y], gamma)
    share /= share.sum(1, keepdims=True)
    share[rows, y] = -1
    return loss, slope[:, None] * share


# --- What is measured -------------------------------------------------------------------------------------------------


def our_sigmoid(x, t, gamma, alpha=ALPHA):
    given = dict(alpha=alpha, gamma=gamma, reduction="none")
    return [a[:, 0] for a in ours.forward_backward(x[:, None], t.astype(x.dtype)[:, None], **given)]


def our_softmax(x, y, gamma):
    return ours.forward_backward(x, y, activation="softmax", alpha=-1.0, gamma=gamma, reduction="none")


class Torch:
    """The usual ways in PyTorch; gradients through autograd."""

    def __init__(self):
        import torch
        import torchvision

        self.torch, self.focal_loss = torch, torchvision.ops.sigmoid_focal_loss
        capability = torch.backends.cpu.get_cpu_capability()
        self.version = f"PyTorch {torch.__version__} ({capability} on the CPU), torchvision {torchvision.__version__}"

    def tensor(self, array):
        if array.dtype == BFLOAT16:
            return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def both(self, logits, loss_of):
        leaf = self.tensor(logits).requires_grad_()
        loss = loss_of(leaf)
        loss.sum().backward()
        return [a.detach().double().numpy() for a in (loss, leaf.grad)]

    def sigmoid(self, x, t, gamma, alpha=ALPHA):
        return self.both(x, lambda leaf: self.focal_loss(leaf, self.tensor(t.astype(x.dtype)), alpha, gamma))

    def softmax(self, x, y, gamma):
        def loss_of(leaf):
            ce = self.torch.nn.functional.cross_entropy(leaf, self.tensor(y), reduction="none")
            return (1 - self.torch.exp(-ce)) ** gamma * ce

        return self.both(x, loss_of)

    def sum(self, x, t, gamma):
        return self.focal_loss(self.tensor(x), self.tensor(t), ALPHA, gamma, reduction="sum").item()


def ulps(got, exact, dtype, spacing_at=None):
    """Errors in units of dtype's spacing at the exact value, where that is a normal number of dtype."""
    info, at = ml_dtypes.finfo(dtype), np.abs(exact if spacing_at is None else spacing_at)
    where = at >= float(info.smallest_normal)
    got, exact, at = (np.asarray(a, np.float64)[where] for a in (got, exact, at))
    with np.errstate(invalid="ignore"):
        return np.abs(got - exact) / np.ldexp(1.0, np.frexp(at)[1] - 1 - int(info.nmant))


def bounded(worst, bound, what):
    if not worst <= bound:  # so that NaN fails
        raise SystemExit(f"accuracy: {what}: {worst}, but {bound} is promised")


def number(value):
    return f"{value:.2f}" if value < 1000 else f"{value:.1e}".replace("e+0", "e").replace("e+", "e")


def percent(flags):
    return f"{100 * flags.mean():.2g} %" if flags.any() else "0"


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def columns(name):
    return [f"{name}: max", "mean"] + (["median", "zero", "NaN or inf"] if name != "ours" else [])


def judge(mine, theirs, exact, bound, what):
    """Cells for `columns`: ours, checked against its bound, and theirs where there are any."""
    errors = ulps(mine, exact, mine.dtype)
    bounded(errors.max(), bound, what)
    bounded(np.count_nonzero(~np.isfinite(mine)), 0, f"{what}: results that are not finite")  # everything exact is
    cells = [number(errors.max()), number(errors.mean())]
    if theirs is not None:
        bad = ~np.isfinite(theirs)
        normal = np.abs(exact) >= float(ml_dtypes.finfo(mine.dtype).smallest_normal)
        errors = ulps(theirs[~bad], exact[~bad], mine.dtype)
        cells += [number(f(errors)) for f in (np.max, np.mean, np.median)]
        cells += [percent(theirs[normal] == 0), percent(bad)]
    return cells


# --- The document's sections ------------------------------------------------------------------------------------------


def check_oracle(points):
    """The worst relative disagreement of exact_sigmoid with the definition in 400 digits."""
    draw, worst = np.random.default_rng(2017), 0.0
    for x in np.concatenate([draw.choice(points, 200), draw.uniform(-40, 40, 200).astype(np.float32)]):
        t, gamma = draw.choice([0.0, 1.0]), draw.choice(GAMMAS)
        for got, exact in zip(exact_sigmoid(x, t, gamma), definition(float(x), t, ALPHA, gamma)):
            if abs(exact) >= 2.0**-126:
                worst = max(worst, float(abs(mpmath.mpf(float(got)) / exact - 1)))
    if not worst < 1e-12:
        raise SystemExit(f"accuracy: the float64 formulas are wrong by {worst}")
    return worst


def sweep(points, torch):
    x, t = np.tile(points, 2), np.repeat(np.float32([0, 1]), len(points))
    losses, gradients = [], []
    for gamma in GAMMAS:
        progress(f"{len(x)} logits in float32, gamma {gamma:g}")
        theirs = torch.sigmoid(x, t, gamma) if torch else (None, None)
        results = zip((losses, gradients), our_sigmoid(x, t, gamma), theirs, exact_sigmoid(x, t, gamma))
        for (rows, mine, other, exact), bound in zip(results, (LOSS_ULP, GRAD_ULP)):
            rows.append([f"{gamma:g}", *judge(mine, other, exact, bound, f"gamma {gamma:g}")])
    head = ["gamma", *columns("ours"), *columns("torchvision")]
    return table(head, losses), table(head, gradients)


def softmax(rows, torch):
    draw, lines = np.random.default_rng(2017), []
    for classes, spread in ((2, 60), (7, 5), (80, 12), (65, 150)):
        progress(f"softmax of {classes} classes")
        x = draw.uniform(-spread / 2, spread / 2, (rows, classes)).astype(np.float32)
        y = draw.integers(0, classes, rows)
        for gamma in (0.5, 2.0, 5.0):
            theirs = torch.softmax(x, y, gamma) if torch else (None, None)
            results = zip(our_softmax(x, y, gamma), theirs, exact_softmax(x, y, gamma))
            for (mine, other, exact), bound, name in zip(results, (LOSS_ULP, GRAD_ULP), ("loss", "gradient")):
                cells = judge(mine, other, exact, bound, f"softmax, {classes} classes, gamma {gamma:g}")
                lines.append([f"{classes}", f"±{spread / 2:g}", f"{gamma:g}", name, *cells])
    return table(["classes", "logits", "gamma", "", *columns("ours"), *columns("torch")], lines)


def half_types(torch):
    """Every finite float16 and bfloat16: ours is the float32 result rounded once."""
    lines = []
    for dtype in (np.dtype(np.float16), np.dtype(BFLOAT16)):
        progress(dtype.name)
        x = np.arange(2**16, dtype=np.uint32).astype(np.uint16).view(dtype)
        x = np.tile(x[np.isfinite(x.astype(np.float32))], 2)
        t = np.repeat(np.float32([0, 1]), len(x) // 2)
        for name, which in (("loss", 0), ("gradient", 1)):
            mismatches, mine, theirs, exact = 0, [], [], []
            for gamma in GAMMAS:
                mine.append(our_sigmoid(x, t, gamma)[which])
                once = our_sigmoid(x.astype(np.float32), t, gamma)[which].astype(dtype)
                mismatches += np.count_nonzero(mine[-1].view(np.uint16) != once.view(np.uint16))
                exact.append(exact_sigmoid(x, t, gamma)[which])
                theirs.append(torch.sigmoid(x, t, gamma)[which] if torch else None)
            bounded(mismatches, 0, f"{dtype.name} results that are not the float32 result rounded once")
            theirs = np.concatenate(theirs) if torch else None
            cells = judge(np.concatenate(mine), theirs, np.concatenate(exact), 0.51, f"{dtype.name} {name}")
            lines.append([f"{dtype.name}, {name}", mismatches, *cells])
    return table(["", "not float32 rounded once", *columns("ours"), *columns("torchvision")], lines)


def float64(torch):
    """The vectors of tests/data, whose exact values have 400 digits; a gradient's ULP are its largest term's."""
    progress("float64")
    vectors = np.loadtxt(ROOT / "tests/data/sigmoid.csv", delimiter=",")
    results = {"ours": ([], []), **({"torchvision": ([], [])} if torch else {})}
    for alpha, gamma in np.unique(vectors[:, 2:4], axis=0):
        x, t, *_, loss, grad, largest = vectors[(vectors[:, 2:4] == (alpha, gamma)).all(1)].T.copy()
        for name, (losses, grads) in results.items():
            got = (our_sigmoid if name == "ours" else torch.sigmoid)(x, t, gamma, alpha)
            losses.append(ulps(got[0], loss, np.float64))
            grads.append(ulps(got[1], grad, np.float64, largest))
    lines = []
    for name, both in results.items():
        losses, grads = map(np.concatenate, both)
        if name == "ours":
            bounded(losses.max(), LOSS_ULP, "float64 loss")
            bounded(grads.max(), GRAD_ULP, "float64 gradient")
        bad = ~np.isfinite(grads)
        lines.append([name, number(losses.max()), number(grads[~bad].max()), percent(bad)])
    return table(["", "loss: max", "gradient: max", "NaN or inf"], lines)


def sums(rows, torch):
    """Like a detector's first epochs: nearly all of it easy background, an object in every hundredth anchor."""
    draw = np.random.default_rng(2017)
    x = draw.normal(-4, 1, (rows, 80)).astype(np.float32)
    y = np.where(draw.random(rows) < 0.01, draw.integers(0, 80, rows), 80)
    t = np.eye(81, dtype=np.float32)[y][:, :80].copy()
    lines = []
    for gamma in GAMMAS:
        progress(f"the sum of {x.size} losses, gamma {gamma:g}")
        exact = math.fsum(exact_sigmoid(x, t, gamma)[0].ravel())
        mine = float(ours.forward(x, y, alpha=ALPHA, gamma=gamma, reduction="sum"))
        error = abs(mine / exact - 1)
        bounded(error / 2e-7, 1, "sums, where a unit is 2e-7,")
        theirs = [f"{abs(torch.sum(x, t, gamma) / exact - 1):.1e}"] if torch else []
        lines.append([f"{gamma:g}", f"{exact:.9g}", f"{error:.1e}", *theirs])
    return table(["gamma", "exact sum", "ours: relative error", "torchvision: relative error"], lines)


def plot(torch, path):
    """The worst error in each bin of logits, for label 0 and gamma 2."""
    from matplotlib import pyplot

    progress("plot")
    pyplot.rcParams.update({"svg.hashsalt": "accuracy", "font.size": 9})
    x, bins = np.linspace(-30, 30, 240_000, dtype=np.float32), 240
    t = np.zeros_like(x)
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    ways = ("torchvision", torch.sigmoid, "tab:orange"), ("this library", our_sigmoid, "tab:blue")
    for axis, which, title in zip(axes, (0, 1), ("loss", "gradient")):
        exact = exact_sigmoid(x, t, 2.0)[which]
        for name, way, colour in ways:
            errors = np.full(x.shape, np.nan)
            errors[np.abs(exact) >= 2.0**-126] = ulps(way(x, t, 2.0)[which], exact, np.float32)
            axis.step(x[:: len(x) // bins], errors.reshape(bins, -1).max(1), where="post", color=colour, label=name)
        axis.axhline(2.0**23, color="grey", linewidth=0.8, linestyle=":")
        axis.set(title=title, xlabel="logit, label 0, gamma 2", yscale="log", ylim=(0.3, 1e8))
    axes[0].text(29, 2.0**23 * 1.3, "as large as the value", color="grey", ha="right")
    axes[0].set_ylabel("largest error in ULP")
    axes[1].legend(loc="upper right")
    figure.savefig(path, metadata={"Date": None})


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="check our bounds on fewer points; no torch, no document")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs", help="the folder to write to")
    given = parser.parse_args(arguments)
    torch = None if given.short else Torch()
    step, grid, rows = (SHORT_STEP, 20_000, 10_000) if given.short else (STEP, 400_000, 100_000)

    positive = np.arange(0, 0x7F800000, step, dtype=np.uint32).view(np.float32)
    points = np.concatenate([positive, -positive, np.linspace(-40, 40, grid, dtype=np.float32)])
    disagreement = check_oracle(points)
    losses, gradients = sweep(points, torch)
    sections = dict(sums=sums(rows, torch), half=half_types(torch), float64=float64(torch))
    sections["softmax"] = softmax(rows // 5, torch)
    if given.short:
        print(losses, gradients, *sections.values(), sep="\n")
        return
    given.out.mkdir(exist_ok=True)
    plot(torch, given.out / "accuracy.svg")
    facts = dict(date=datetime.date.today(), version=ours.lib.focal_loss_version_string().decode(), torch=torch.version)
    facts.update(isa=ours.lib.focal_loss_cpu_isa().decode(), numpy=np.__version__, step=f"{STEP:,}", alpha=ALPHA)
    facts.update(grid=f"{grid:,}", points=f"{len(points):,}", loss_ulp=LOSS_ULP, grad_ulp=GRAD_ULP)
    facts.update(anchors=f"{rows:,}", rows=f"{rows // 5:,}")
    facts.update(disagreement=disagreement, losses=losses, gradients=gradients, **sections)
    words = pathlib.Path(__file__).with_suffix(".md.in").read_text()
    (given.out / "accuracy.md").write_text(words.format(**facts))
    progress("wrote", given.out / "accuracy.md")


if __name__ == "__main__":
    main()
