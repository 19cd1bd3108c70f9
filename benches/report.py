"""The table, docs/benchmarks.md and its plot."""

import datetime
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sys
from dataclasses import dataclass

from measure import PAUSE, Spread
from problem import CLASSES

#: Who shares the cores with others measures them too, and flatters us: OpenMP's threads, which are the peers', wait for
#: the one that has no core until the kernel gives it one.
QUIET = 0.03
PACKAGES = ("torch", "torchvision", "jax", "optax", "onnxruntime", "onnx", "numpy")


@dataclass(frozen=True)
class Result:
    """A line: a figure from memory, with its spread, and the best one with the same buffer each time."""

    what: str
    against: str
    kind: str
    target: float | None
    memory: Spread
    cached: float | None = None

    @property
    def met(self):
        return self.memory.best >= self.target if self.kind == "faster" else self.memory.best <= self.target

    @property
    def target_in_words(self):
        if self.target is None:
            return ""
        figure = {"times": "at most {}x", "faster": "at least {}x", "more": "at most {} us more"}[self.kind]
        return figure.format(f"{self.target:g}")

    @property
    def verdict(self):
        if self.target is None:
            return ""
        return "met" if self.met else "**missed**"


def exactly(figure):
    """A figure without a spread."""
    return Spread(figure, figure, figure, figure)


def table(results):
    header = ("what", "against", "best times", "median (quartiles)", "one buffer", "target", "")
    return markdown(
        header,
        [
            (
                each.what,
                each.against,
                in_words(each.kind, each.memory.best),
                spread(each.memory),
                "" if each.cached is None else in_words(each.kind, each.cached),
                each.target_in_words,
                each.verdict,
            )
            for each in results
        ],
    )


def in_words(kind, figure):
    return {"times": "{}x the time", "faster": "{}x as fast", "more": "{} us more"}[kind].format(digits(figure))


def spread(figure):
    if figure.low == figure.high:
        return ""
    return f"{digits(figure.median)} ({digits(figure.low)} to {digits(figure.high)})"


def digits(figure):
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"


def markdown(header, rows):
    """A table with its columns aligned, for a terminal as well."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in [header, *rows]]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def write(out, bench, results, threads, points, command):
    out.parent.mkdir(parents=True, exist_ok=True)
    plot_path = out.with_suffix(".svg")
    has_plot = plot(plot_path, points)
    wanted = [each for each in results if each.target is not None]
    missed = [each for each in wanted if not each.met]
    summary = f"{len(wanted) - len(missed)} of {len(wanted)} targets are met."
    if missed:
        summary += " Missed:\n\n" + "\n".join(f"* {each.what}, against {each.against}" for each in missed)
    copies, rows = bench.copies(bench.rows, bench.least_copies), f"{bench.rows:,}"
    if bench.disturbance > QUIET:
        summary = f"**Not to be trusted: other programs had {bench.disturbance:.0%} of the cores.** {summary}"
    text = f"""# Benchmarks

Made by `make bench` (`{command}`) on {datetime.date.today().isoformat()}; do not edit.

{summary}

{table(results)}

## How it was measured

Everything in one run, in turns: every entry once, then every entry again, {bench.timer.repetitions} times, so that a
slow moment of the machine is everybody's. "Best times" compares the best of either side, and a target is judged by it;
then come the median and the quartiles of the comparisons within a turn. Before each timed call are a pause of
{PAUSE * 1e3:.0f} ms, in which the threads of whoever was before go to sleep, and one call that is not timed, which
wakes its own. Before anything is timed, its loss is compared with the float64 reference to a relative error of 1e-4
(float16 1e-3, bfloat16 8e-3), and its gradient, as one vector, to the same.

The data are {rows} x {CLASSES} float32 logits like a trained detector's (normal, mean -4, standard deviation 1), an
object in every 200th row, all others background; alpha 0.25, gamma 2, summed. For softmax the logits are normal with
standard deviation 2 and the classes random; cross entropy is gamma 0, so gamma 2 is more work than the peer does. We
take class indices; torchvision and optax need dense targets, which are made beforehand. Our outputs are allocated
beforehand too; the peers allocate theirs in the call, as they do. Our call from Python is one foreign call.

* "Best times" and the median are of data from memory: each call takes the next of {copies} copies of logits, targets
  and outputs, which together are several times the cache.
* "One buffer" is the same copy each time: what fits into the cache is there. (One copy of the logits has
  {bench.rows * CLASSES * 4 / 2**20:.1f} MiB.)
* Reading is a sum and copying a copy, in C, vectorised, on the same threads; copying is the faster of a copy through
  the cache and one whose stores go past it.
* 1 x {CLASSES} from C is a loop in C, less the same loop over `focal_loss_version_string`. In ONNX Runtime it is a call
  with bound inputs and outputs, less that of one Identity node with the same inputs.

## The machine

{machine(bench)}

## Times

{absolute(bench)}

## ONNX Runtime's threads

Without spinning, {rows} x {CLASSES}: a call in a session with `intra_op_num_threads` 1 and 2, how many processors it
kept busy, and the throughput of eight calls at once in the session with one, relative to one after the other.

{concurrency(threads)}

## Sizes

Nanoseconds per element; small sizes contain what a call from Python costs.

{sizes(points)}
"""
    if has_plot:
        text += f"\n![Time per element against size]({plot_path.name})\n"
    out.write_text(text)
    print(f"written: {out}", file=sys.stderr)


def absolute(bench):
    rows = []
    for name, times in bench.rotated.items():
        best = times.min()
        same = bench.same.get(name)
        elements = bench.elements[name]
        per_element = f"{best / elements:.3f}" if elements > CLASSES else ""
        rows.append((name, duration(best), per_element, "" if same is None else duration(same.min())))
    return markdown(("", "best time", "ns per element", "one buffer"), rows)


def duration(nanoseconds):
    for unit, size in (("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{digits(nanoseconds / size)} {unit}"
    return f"{digits(nanoseconds)} ns"


def concurrency(threads):
    header = ("", "1 thread", "2 threads", "busy with 1", "busy with 2", "eight at once")
    rows = [
        (name, duration(one * 1e9), duration(two * 1e9), f"{busy_one:.2f}", f"{busy_two:.2f}", f"{scale:.2f}x")
        for name, one, two, busy_one, busy_two, scale in threads
    ]
    return markdown(header, rows)


def sizes(points):
    names = list(dict.fromkeys(name for _, times in points for name in times))
    rows = [
        (f"{elements:,}", *(f"{times[name]:.3f}" if name in times else "" for name in names))
        for elements, times in points
    ]
    return markdown(("elements", *names), rows)


def count(number):
    for unit, size in (("M", 1_000_000), ("K", 1_000)):
        if number >= size:
            return f"{number // size}{unit}"
    return str(number)


def machine(bench):
    bytes_read = bench.rows * CLASSES * 4
    read, copied = bytes_read / bench.rotated["read"].min(), 2 * bytes_read / bench.rotated["copy"].min()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES if importlib.util.find_spec(name)]
    lines = [
        f"{processor()}, {bench.threads} cores used; caches: {', '.join(caches())}",
        f"memory, by the yardsticks: {read:.1f} GB/s read; {copied:.1f} GB/s copied (read and written)",
        f"instruction set of our kernels: {bench.ours.isa}",
        f"focal-loss {bench.ours.version}; Python {platform.python_version()}, {', '.join(versions)}",
        f"{platform.system()}; other programs had {bench.disturbance:.1%} of the cores' time meanwhile",
    ]
    return "\n".join(f"* {line}" for line in lines)


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def others_time(cores):
    """Seconds in which these cores worked for anybody else since the machine started; differences mean something."""
    used = os.times()
    busy = 0
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in {f"cpu{core}" for core in cores}:
            user, nice, system, _idle, _wait, interrupt, soft_interrupt, stolen, *_ = map(int, ticks)
            busy += user + nice + system + interrupt + soft_interrupt + stolen
    return busy / os.sysconf("SC_CLK_TCK") - sum(used[:4])


def caches():
    """Of the first core, such as "L1 data 32K"."""
    found = []
    for folder in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        found.append(f"L{level} {kind.lower()} {size}" if kind != "Unified" else f"L{level} {size}")
    return found


def largest_cache():
    """In bytes."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [cache.split()[-1] for cache in caches()]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes), default=2**25)


def plot(path, points):
    """Time per element against size, forward and with the backward; False where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib not installed: no plot", file=sys.stderr)
        return False
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "focal-loss"})
    from matplotlib import pyplot

    lines = {
        "focal-loss": ("forward", "fused"),
        "torchvision, torch.compile": ("torch compiled forward", "torch compiled forward+backward"),
        "torchvision, eager": ("torch eager forward", "torch eager forward+backward"),
        "optax, jax.jit": ("optax forward", "optax forward+backward"),
    }
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for which, (axis, title) in enumerate(zip(axes, ("forward", "forward+backward"))):
        for label, names in lines.items():
            known = [(elements, times[names[which]]) for elements, times in points if names[which] in times]
            if known:
                axis.loglog(*zip(*known), marker="o", label=label)
        axis.set(title=title, xlabel="elements")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ns per element")
    axes[1].legend()
    figure.savefig(path, metadata={"Date": None})
    return True
