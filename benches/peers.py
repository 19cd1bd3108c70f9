#!/usr/bin/env python3
"""Our kernels against what memory can do, PyTorch, torchvision and JAX, and in ONNX Runtime: one run, one table.

    make bench                             everything, into docs/benchmarks.md (minutes)
    python benches/peers.py --short        small sizes, nothing written: that everybody's results agree (seconds)

Results are compared before anything is timed. Peers that are not installed are left out.
"""

import argparse
import math
import os
import pathlib
import shlex
import sys
import time
from dataclasses import dataclass

import numpy as np
import report
from measure import Timer, compare
from problem import CLASSES, ROOT, Problem


@dataclass(frozen=True)
class Row:
    """A line of the table: an entry against another. ``target`` None: for information."""

    what: str
    ours: str
    against: str
    kind: str  # see measure.compare
    target: float | None = None


ROWS = (
    Row("forward, index targets", "forward", "read", "times", 2.5),
    Row("forward+backward, index targets", "fused", "copy", "times", 1.5),
    Row("forward, dense targets", "forward, dense", "read both inputs", "times", 2),
    Row("forward", "forward", "torch compiled forward", "faster", 4),
    Row("forward", "forward", "torch eager forward", "faster", 15),
    Row("forward+backward", "fused", "torch compiled forward+backward", "faster", 10),
    Row("forward+backward", "fused", "torch eager forward+backward", "faster", 30),
    Row("forward, dense targets", "forward, dense", "torch compiled forward", "faster"),
    Row("forward+backward, dense targets", "fused, dense", "torch compiled forward+backward", "faster"),
    Row("forward", "forward", "optax forward", "faster"),
    Row("forward+backward", "fused", "optax forward+backward", "faster"),
    Row("ONNX Runtime operator, loss", "ONNX Runtime operator, loss", "ONNX Runtime function, loss", "faster", 25),
    Row(
        "ONNX Runtime operator, gradient", "ONNX Runtime operator, gradient", "ONNX Runtime function, gradient",
        "faster", 25,
    ),
    Row("forward, gamma 1.5", "forward, gamma 1.5", "forward", "times", 1.6),
    Row("forward+backward, gamma 1.5", "fused, gamma 1.5", "fused", "times", 1.6),
    Row("forward, float16", "forward, float16", "forward", "times", 1),
    Row("forward+backward, float16", "fused, float16", "fused", "times", 1),
    Row("forward, bfloat16", "forward, bfloat16", "forward", "times", 1),
    Row("forward+backward, bfloat16", "fused, bfloat16", "fused", "times", 1),
    Row("softmax, gamma 2, forward", "softmax forward", "torch compiled forward, softmax", "faster", 1),
    Row("softmax, gamma 2, forward+backward", "softmax fused", "torch compiled forward+backward, softmax", "faster", 1),
    Row("softmax, gamma 0, forward", "softmax forward, gamma 0", "torch compiled forward, softmax", "faster", 1),
    Row(
        "softmax, gamma 0, forward+backward", "softmax fused, gamma 0", "torch compiled forward+backward, softmax",
        "faster", 1,
    ),
    Row("1 x 80 from C, forward", "a row from C, forward", "empty call", "more", 1),
    Row("1 x 80 from C, forward+backward", "a row from C, fused", "empty call", "more", 1),
    Row("1 x 80 in ONNX Runtime", "a row in ONNX Runtime, operator", "a row in ONNX Runtime, Identity", "more", 3),
)

#: What the entries of the table are called there.
TITLES = {
    "read": "reading the logits",
    "copy": "copying the logits",
    "read both inputs": "reading logits and targets",
    "torch compiled forward": "torchvision, `torch.compile`",
    "torch compiled forward+backward": "torchvision, `torch.compile`",
    "torch eager forward": "torchvision, eager",
    "torch eager forward+backward": "torchvision, eager",
    "optax forward": "optax, `jax.jit`",
    "optax forward+backward": "optax, `jax.jit`",
    "ONNX Runtime function, loss": "the portable function",
    "ONNX Runtime function, gradient": "the portable function",
    "forward": "our float32, gamma 2",
    "fused": "our float32, gamma 2",
    "torch compiled forward, softmax": "`cross_entropy`, `torch.compile`",
    "torch compiled forward+backward, softmax": "`cross_entropy`, `torch.compile`",
    "a row in ONNX Runtime, Identity": "an Identity node",
}

#: From one size to the next the time per element may rise by as much as the times of one size differ.
FLAT = 1.1


class Bench:
    """Sizes, and the times of all entries: of data from memory, and of one buffer again and again."""

    def __init__(self, threads, short):
        # Before the libraries are loaded: some look for the number of cores only then.
        self.cores = sorted(os.sched_getaffinity(0))[:threads]
        if len(self.cores) < threads:
            sys.exit(f"--threads {threads}: there are {len(self.cores)} cores")
        os.sched_setaffinity(0, self.cores)
        os.environ.update(
            RAYON_NUM_THREADS=str(threads),
            OMP_NUM_THREADS=str(threads),
            JAX_PLATFORMS="cpu",
            TORCHINDUCTOR_COMPILE_THREADS="1",
            TORCHINDUCTOR_CACHE_DIR=str(ROOT / "target/bench/inductor"),
        )
        import others
        import prepared

        self.others, self.prepared = others, prepared
        self.threads, self.short = threads, short
        self.timer = Timer(2, 0) if short else Timer()
        self.rows, self.least_copies = (200, 2) if short else (100_000, 8)
        self.sizes = (1_000, 10_000) if short else (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
        self.largest_for_peers = 10_000_000
        self.ours, self.helpers = prepared.Prepared(threads), prepared.build_helpers()
        self.rotated, self.same, self.elements = {}, {}, {}

    def copies(self, rows, least=1):
        """So many that together they are four times the largest cache; of small ones a few thousand."""
        if self.short:
            return self.least_copies
        return max(least, min(4096, math.ceil(4 * report.largest_cache() / (rows * CLASSES * 4))))

    def problem(self, **given):
        return Problem(self.rows, self.copies(self.rows, self.least_copies), **given)

    def time(self, entries, one_buffer=True):
        for entry in entries:
            entry.check()
            self.elements[entry.name] = entry.elements
        self.rotated.update(self.timer.in_turns(entries))
        if one_buffer:
            for entry in entries:
                entry.calls = entry.calls[:1]
            self.same.update(self.timer.in_turns(entries, ", one buffer"))

    def run(self):
        """What is not in a table of times: ONNX Runtime's threads, and the sizes."""
        began, others = time.monotonic(), report.others_time(self.cores)
        self.sigmoid()
        self.softmax()
        problem = self.problem()
        self.time(self.others.operator_entries(problem, self.threads))
        threads = self.others.concurrency(problem, self.timer)
        row = Problem(1)
        self.time(self.prepared.latencies(self.helpers, self.ours, row), one_buffer=False)
        self.time(self.others.node_entries(row), one_buffer=False)
        points = self.sweep()
        self.disturbance = max(0, report.others_time(self.cores) - others) / (time.monotonic() - began) / self.threads
        if self.disturbance > report.QUIET:
            print(f"other programs had {self.disturbance:.0%} of the cores: measure again", file=sys.stderr)
        return threads, points

    def sigmoid(self):
        problem = self.problem(dense=True)
        into, entry = self.prepared.outputs(problem), self.ours.entry
        entries = [
            *self.prepared.yardsticks(self.helpers, problem, into, self.threads),
            entry("forward", problem),
            entry("fused", problem, into),
            entry("forward, dense", problem, dense=True),
            entry("fused, dense", problem, into, dense=True),
            entry("forward, gamma 1.5", problem, gamma=1.5),
            entry("fused, gamma 1.5", problem, into, gamma=1.5),
        ]
        for dtype in ("float16", "bfloat16"):
            half = self.problem(dtype=dtype)
            entries.append(entry(f"forward, {dtype}", half))
            entries.append(entry(f"fused, {dtype}", half, self.prepared.outputs(half)))
        entries += self.others.torch_entries(problem, self.threads)
        entries += self.others.optax_entries(problem)
        self.time(entries)
        # The better way to copy is the yardstick, be it this for memory and that for the cache.
        self.elements["copy"] = problem.elements
        for times in (self.rotated, self.same):
            times["copy"] = min(times["copy through the cache"], times["copy past the cache"], key=np.min)

    def softmax(self):
        problem = self.problem(activation="softmax")
        into, entry = self.prepared.outputs(problem), self.ours.entry
        theirs = self.others.torch_entries(problem, self.threads)
        for each in theirs:
            each.name += ", softmax"
        self.time(
            [
                entry("softmax forward", problem),
                entry("softmax fused", problem, into),
                entry("softmax forward, gamma 0", problem, gamma=0.0),
                entry("softmax fused, gamma 0", problem, into, gamma=0.0),
                *theirs,
            ]
        )

    def sweep(self):
        """The best time per element, in nanoseconds, for every size: a list of (elements, {name: time})."""
        points = []
        for size in self.sizes:
            rows = round(size / CLASSES)
            peers = size <= self.largest_for_peers
            problem = Problem(rows, self.copies(rows), dense=peers)
            into = self.prepared.outputs(problem)
            entries = [self.ours.entry("forward", problem), self.ours.entry("fused", problem, into)]
            if peers:
                entries += self.others.torch_entries(problem, self.threads)
                entries += self.others.optax_entries(problem)
            for entry in entries:
                entry.check()
            times = self.timer.in_turns(entries, f", {size} elements")
            points.append((problem.elements, {name: values.min() / problem.elements for name, values in times.items()}))
        return points

    def results(self, points):
        """The table's lines."""
        for row in ROWS:
            if row.ours in self.rotated and row.against in self.rotated:
                memory = compare(row.kind, self.rotated[row.ours], self.rotated[row.against])
                cached = None
                if row.ours in self.same:
                    cached = compare(row.kind, self.same[row.ours], self.same[row.against]).best
                title = TITLES.get(row.against, row.against)
                yield report.Result(row.what, title, row.kind, row.target, memory, cached)
        sizes = f"{report.count(self.sizes[0])} to {report.count(self.sizes[-1])} elements"
        for name, what in (("forward", "forward"), ("fused", "forward+backward")):
            times = [point[name] for _, point in points]
            rise = max(after / before for before, after in zip(times, times[1:]))
            title, figure = f"{what}, {sizes}: rise per step", report.exactly(rise)
            yield report.Result(title, "the size before", "times", FLAT, figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads, and cores, for everybody (default: 2)")
    parser.add_argument("--short", action="store_true", help="small sizes, two repetitions; only agreement counts")
    parser.add_argument("--out", type=pathlib.Path, help="the report (default: docs/benchmarks.md; --short: none)")
    given = parser.parse_args()
    bench = Bench(given.threads, given.short)
    threads, points = bench.run()
    results = list(bench.results(points))
    print(report.table(results))
    out = given.out or (None if given.short else ROOT / "docs/benchmarks.md")
    if out:
        options = ["--threads", str(given.threads)] + ["--short"] * given.short
        report.write(out, bench, results, threads, points, shlex.join(["python", "benches/peers.py", *options]))


if __name__ == "__main__":
    main()
