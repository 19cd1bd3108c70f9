"""Timing in turns: every entry once, then every entry again, so that a slow moment of the machine is everybody's."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


#: Seconds in which the threads of whoever was before go to sleep. OpenMP's spin for some milliseconds after their work,
#: and take the processor from whoever is next.
PAUSE = 0.02


@dataclass
class Entry:
    """Something to time: the same call on one copy of the data after the other.

    ``result`` makes the call on the first copy and gives its loss and gradient, or None for one that it has not;
    ``expected`` is the right loss and the gradient of the rows that repeat.
    """

    name: str
    calls: Sequence[Callable[[], object]]
    result: Callable[[], tuple]
    expected: tuple
    elements: int
    tolerance: float = 1e-4
    repeats: int = 1  # what one of the calls does so many times

    def check(self):
        loss, gradient = self.result()
        right_loss, right_gradient = self.expected
        if loss is not None:
            error = abs(float(loss) / right_loss - 1)
            assert error <= self.tolerance, f"{self.name}: loss {float(loss)}, expected {right_loss}"
        if gradient is not None:
            # As a whole: the others' gradients of easy negatives have few right digits, since they subtract from 1.
            wrong, right = 0.0, 0.0
            for start in range(0, len(gradient), len(right_gradient)):
                part = np.asarray(gradient[start : start + len(right_gradient)], np.float64)
                wrong += np.square(part - right_gradient[: len(part)]).sum()
                right += np.square(right_gradient[: len(part)]).sum()
            error = math.sqrt(wrong / right)
            assert error <= self.tolerance, f"{self.name}: the gradient is wrong by {error:.1e} of its length"
        assert loss is not None or gradient is not None


@dataclass
class Timer:
    """Quick calls are repeated until they have taken ``shortest`` seconds."""

    repetitions: int = 15
    shortest: float = 0.002

    def in_turns(self, entries, label=""):
        """Nanoseconds per call, one number for each repetition, by the entries' names."""
        counts = {entry.name: self._count(entry) for entry in entries}
        times = {entry.name: [] for entry in entries}
        for repetition in range(self.repetitions):
            for entry in entries:
                times[entry.name].append(_time(entry, repetition * (counts[entry.name] + 1), counts[entry.name]))
        for entry in entries:
            best = min(times[entry.name])
            line = f"{entry.name}{label}: {best / 1e3:.4g} us, {best / entry.elements:.4g} ns per element"
            print(line, file=sys.stderr, flush=True)
        return {name: np.array(values) for name, values in times.items()}

    def _count(self, entry):
        _time(entry, 0, 1)
        return max(1, math.ceil(self.shortest * 1e9 / (_time(entry, 1, 1) * entry.repeats)))


def _time(entry, start, count):
    """After one call that wakes the threads up, which is no part of it."""
    time.sleep(PAUSE)
    first, *calls = (entry.calls[(start + i) % len(entry.calls)] for i in range(count + 1))
    first()
    begin = time.perf_counter_ns()
    for call in calls:
        call()
    return (time.perf_counter_ns() - begin) / (count * entry.repeats)


@dataclass(frozen=True)
class Spread:
    """A figure: of the best times, and median and quartiles over the repetitions, each compared with its own turn."""

    best: float
    median: float
    low: float
    high: float


def compare(kind, ours, theirs):
    """``times``: ours / theirs. ``faster``: theirs / ours. ``more``: ours - theirs in microseconds."""
    figure = {
        "times": lambda a, b: a / b,
        "faster": lambda a, b: b / a,
        "more": lambda a, b: (a - b) / 1e3,
    }[kind]
    low, median, high = np.quantile(figure(ours, theirs), [0.25, 0.5, 0.75])
    return Spread(float(figure(ours.min(), theirs.min())), float(median), float(low), float(high))
