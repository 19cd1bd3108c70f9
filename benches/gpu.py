#!/usr/bin/env python3
"""Our kernels on a CUDA device against a copy of the same bytes, PyTorch and our own CPU: one run, one table.

    make bench-cuda            everything, into docs/benchmarks-cuda.md (a few minutes)

Times are the device's, between two events, with the work queued ahead of it so that the host's part does not count;
buffers rotate through more memory than caches hold; results are compared before anything is timed. A copy's bytes are
those that it reads and those that it writes, so the copy that an entry is held against is of half the entry's bytes.
"""

import math
import pathlib
import platform
import sys
import time
from dataclasses import dataclass

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests/cuda"), str(ROOT / "tests/python")]

try:
    import torch
except ImportError:
    sys.exit("no PyTorch: `make bench-cuda` needs one with CUDA")
if not torch.cuda.is_available():
    sys.exit("no CUDA device")

import focal_loss_ctypes as fl  # noqa: E402
from measure import compare  # noqa: E402
from torch_calls import Call  # noqa: E402

LIBRARY = fl.Library()
CLASSES = 80
LARGE, SMALL = 1_000_000, 100_000
#: More than any cache, so that nothing is still there when its turn comes again.
ROTATED_BYTES = 2 << 30
REPETITIONS = 21
AHEAD = 60_000_000  # cycles that the device sleeps while the host queues


@dataclass(frozen=True)
class Row:
    """A line of the table: an entry against others, of which the times are added. ``target`` None: for information."""

    what: str
    ours: str
    against: tuple
    kind: str  # see measure.compare
    target: float | None = None


ROWS = (
    Row("1M x 80 float32, forward", "forward", ("copy of forward's bytes",), "faster", 0.85),
    Row("1M x 80 float32, forward + backward", "fused", ("copy of fused's bytes",), "faster", 0.85),
    Row("forward", "forward", ("compiled forward",), "faster", 1.8),
    Row("forward + backward", "fused", ("compiled forward + backward",), "faster", 2.3),
    Row("forward", "forward", ("eager forward",), "faster", 8),
    Row("forward + backward", "fused", ("eager forward + backward",), "faster", 8),
    Row("float16, forward", "forward, float16", ("forward",), "faster", 1.5),
    Row("float16, forward + backward", "fused, float16", ("fused",), "faster", 1.5),
    Row("bfloat16, forward", "forward, bfloat16", ("forward",), "faster"),
    Row("bfloat16, forward + backward", "fused, bfloat16", ("fused",), "faster"),
    Row("100k x 80, forward", "forward, 100k", ("copy of 100k forward's bytes", "two launches"), "times", 1.3),
    Row("100k x 80, forward + backward", "fused, 100k", ("copy of 100k fused's bytes", "two launches"), "times", 1.3),
    Row("dense targets, forward", "forward, dense", ("copy of dense forward's bytes",), "faster"),
    Row("dense targets, forward + backward", "fused, dense", ("copy of dense fused's bytes",), "faster"),
    Row("gamma 1.5, forward", "forward, gamma 1.5", ("forward",), "times"),
    Row("mean over positives, forward", "forward, mean over positives", ("forward",), "times"),
    Row("softmax, forward", "softmax forward", ("cross_entropy forward",), "faster"),
    Row("softmax, forward + backward", "softmax fused", ("cross_entropy forward + backward",), "faster"),
)


class Data:
    """Copies of one problem, as many as it takes to leave the caches."""

    def __init__(self, rows, dtype=torch.float32, dense=False):
        generator = torch.Generator("cuda").manual_seed(rows)
        make = lambda: (torch.randn(rows, CLASSES, device="cuda", generator=generator) - 4).to(dtype)
        size = rows * CLASSES * dtype.itemsize * (2 + dense)
        self.copies = max(2, math.ceil(ROTATED_BYTES / size))
        self.rows, self.dtype = rows, dtype
        positive = torch.rand(rows, device="cuda", generator=generator) < 0.005
        index = torch.randint(CLASSES, (rows,), device="cuda", generator=generator)
        self.index = torch.where(positive, index, CLASSES).to(torch.int32)
        self.logits = [make() for _ in range(self.copies)]
        self.grads = [torch.empty_like(logits) for logits in self.logits]
        self.loss = torch.zeros((), dtype=dtype, device="cuda")
        one_hot = torch.nn.functional.one_hot(self.index.long(), CLASSES + 1)[:, :CLASSES].to(dtype) if dense else None
        self.dense = [one_hot.clone() for _ in range(self.copies)] if dense else None

    def calls(self, loss=True, grad=False, dense=False, **options):
        options = {"reduction": "sum", **options}
        return [
            Call(LIBRARY, self.logits[i], self.dense[i] if dense else self.index, loss=self.loss if loss else None,
                 grad_logits=self.grads[i] if grad else None, **options)
            for i in range(self.copies)
        ]  # fmt: skip

    def bytes(self, grad=False, dense=False):
        matrix = self.rows * CLASSES * self.dtype.itemsize
        return matrix * (1 + grad + dense) + (0 if dense else 4 * self.rows)

    def copy(self, size):
        """Moves `size` bytes in all."""
        half = size // 2
        def mover(i):
            source = self.logits[i].view(-1).view(torch.uint8)
            target = self.grads[i].view(-1).view(torch.uint8)
            # What is moved is a matrix at most; more of it is moved in several parts.
            parts = [(min(half - start, source.numel())) for start in range(0, half, source.numel())]
            def move():
                for part in parts:
                    target[:part].copy_(source[:part])
            return move
        return [mover(i) for i in range(self.copies)]

    def check(self, calls, grad=False, **options):
        """Against float64 on the CPU, which is right to the last bits."""
        options = {"reduction": "sum", **options}
        calls[0]()
        wide = self.logits[0].double().cpu().numpy()
        loss, gradient = LIBRARY.forward_backward(wide, self.index.cpu().numpy(), **options)
        tolerance = 1e-6 if self.dtype == torch.float32 else 4 * torch.finfo(self.dtype).eps
        assert math.isclose(self.loss.item(), loss, rel_tol=tolerance), (self.loss.item(), loss)
        if grad:
            np.testing.assert_allclose(self.grads[0].double().cpu().numpy(), gradient, max(tolerance, 4e-6), 1e-7)


def focal_loss(logits, targets, alpha=0.25, gamma=2.0):
    """torchvision's `sigmoid_focal_loss`, operation by operation, added up."""
    probability = torch.sigmoid(logits)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = probability * targets + (1 - probability) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (alpha_t * (cross_entropy * (1 - p_t) ** gamma)).sum()


def forward_backward(function):
    def run(logits, targets):
        logits = logits.detach().requires_grad_()
        return torch.autograd.grad(function(logits, targets), logits)
    return run


def peers(data, function, targets, name):
    """Entries of a loss of PyTorch's, forward and forward + backward."""
    loss = [lambda i=i: function(data.logits[i], targets[i]) for i in range(data.copies)]
    both = [lambda i=i, run=forward_backward(function): run(data.logits[i], targets[i]) for i in range(data.copies)]
    return {f"{name} forward": loss, f"{name} forward + backward": both}


def entries():
    """Calls by name; built one after the other, since not all data fits at once."""
    data = Data(LARGE, dense=True)
    forward, fused = data.calls(), data.calls(grad=True)
    data.check(forward)
    data.check(fused, grad=True)
    compiled = torch.compile(focal_loss)
    for name in (focal_loss, compiled):
        value = name(data.logits[0], data.dense[0]).item()
        forward[0]()
        assert math.isclose(value, data.loss.item(), rel_tol=1e-4), "PyTorch agrees"
    group = {"forward": forward, "fused": fused}
    group["copy of forward's bytes"] = data.copy(data.bytes())
    group["copy of fused's bytes"] = data.copy(data.bytes(grad=True))
    group.update(peers(data, compiled, data.dense, "compiled"))
    group.update(peers(data, focal_loss, data.dense, "eager"))
    group["forward, dense"] = data.calls(dense=True)
    group["fused, dense"] = data.calls(grad=True, dense=True)
    group["copy of dense forward's bytes"] = data.copy(data.bytes(dense=True))
    group["copy of dense fused's bytes"] = data.copy(data.bytes(grad=True, dense=True))
    group["forward, gamma 1.5"] = data.calls(gamma=1.5)
    group["forward, mean over positives"] = data.calls(reduction="mean", normalization="positives")
    halves = {}
    for dtype in (torch.float16, torch.bfloat16):
        half = Data(LARGE, dtype)
        halves[dtype] = half
        name = str(dtype).removeprefix("torch.")
        group[f"forward, {name}"] = half.calls()
        group[f"fused, {name}"] = half.calls(grad=True)
    labels = data.index.long().clamp(max=CLASSES - 1)
    cross_entropy = torch.compile(lambda x, t: torch.nn.functional.cross_entropy(x, t, reduction="sum"))
    group.update(peers(data, cross_entropy, [labels] * data.copies, "cross_entropy"))
    soft = Data.__new__(Data)
    soft.__dict__.update(data.__dict__, index=labels.to(torch.int32))
    group["softmax forward"] = soft.calls(activation="softmax", alpha=-1.0)
    group["softmax fused"] = soft.calls(grad=True, activation="softmax", alpha=-1.0)
    small = Data(SMALL)
    group["forward, 100k"], group["fused, 100k"] = small.calls(), small.calls(grad=True)
    small.check(group["fused, 100k"], grad=True)
    group["copy of 100k forward's bytes"] = small.copy(small.bytes())
    group["copy of 100k fused's bytes"] = small.copy(small.bytes(grad=True))
    tiny = torch.zeros(1, device="cuda")
    group["two launches"] = [lambda: (tiny.add_(1), tiny.add_(1))]
    return group


def time_in_turns(group):
    """Microseconds per call on the device, one number for each repetition, by name."""
    times = {name: [] for name in group}
    for calls in group.values():
        for call in calls[:2] * 2:  # compiles what is compiled at the first call
            call()
    torch.cuda.synchronize()
    for repetition in range(REPETITIONS):
        for name, calls in group.items():
            count = 40 if "100k" in name or name == "two launches" else 10
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(AHEAD)
            calls[repetition % len(calls)]()
            begin.record()
            for i in range(count):
                calls[(repetition + 1 + i) % len(calls)]()
            end.record()
            queued = not begin.query()
            torch.cuda.synchronize()
            if not queued:
                print(f"{name}: the host was slower than the device", file=sys.stderr)
            times[name].append(begin.elapsed_time(end) * 1e3 / count)
        print(f"repetition {repetition + 1} of {REPETITIONS}", end="\r", file=sys.stderr, flush=True)
    return {name: np.array(values) for name, values in times.items()}


def on_the_cpu():
    """Microseconds of our own CPU kernels, forward, on the same machine."""
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((LARGE, CLASSES), np.float32)) - 4
    targets = np.full(LARGE, CLASSES)
    best = math.inf
    for _ in range(5):
        begin = time.perf_counter()
        LIBRARY.forward(logits, targets, reduction="sum")
        best = min(best, time.perf_counter() - begin)
    return best * 1e6


def report(times, cpu):
    device = torch.cuda.get_device_properties(0)
    lines = [
        "# On the GPU", "",
        "Written by `make bench-cuda`; see the head of `benches/gpu.py` for what is measured and how. Each figure is of",
        "the best times; median and quartiles are over the repetitions, each compared within its own turn.", "",
        f"{device.name}, {device.multi_processor_count} multiprocessors; PyTorch {torch.__version__}, CUDA {torch.version.cuda}; "
        f"focal-loss {LIBRARY.lib.focal_loss_version_string().decode()}; host {platform.machine()}, Python {platform.python_version()}; "
        f"{time.strftime('%Y-%m-%d')}.", "",
        "| what | ours | against | figure | target | median (quartiles) |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    missed = []
    for row in ROWS:
        theirs = sum(times[name] for name in row.against)
        spread = compare(row.kind, times[row.ours], theirs)
        target, met = "", True
        if row.target is not None:
            met = spread.median >= row.target if row.kind == "faster" else spread.median <= row.target
            target = f"{'at least' if row.kind == 'faster' else 'at most'} {row.target:g}x" + ("" if met else ", missed")
        missed += [] if met else [row.what]
        lines.append(
            f"| {row.what} | {times[row.ours].min():.1f} us | {' + '.join(row.against)}: {theirs.min():.1f} us "
            f"| {spread.best:.2f}x | {target} | {spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f}) |"
        )
    gigabytes = Data.bytes(type("Shape", (), dict(rows=LARGE, dtype=torch.float32))(), True) / 1e9
    lines += ["", f"Forward + backward moves {gigabytes / (times['fused'].min() * 1e-6):.0f} GB/s, the copy of as many bytes "
              f"{gigabytes / (times[ROWS[1].against[0]].min() * 1e-6):.0f} GB/s. Our CPU kernels take "
              f"{cpu / 1e3:.1f} ms for the forward, {cpu / times['forward'].min():.0f} times as long.", ""]  # fmt: skip
    return "\n".join(lines), missed


def main():
    times = time_in_turns(entries())
    text, missed = report(times, on_the_cpu())
    path = ROOT / "docs/benchmarks-cuda.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    print(text)
    print(f"written to {path}; targets missed: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
