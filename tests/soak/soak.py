#!/usr/bin/env python3
"""One process in which 64 threads call the library through C while 16 threads run shared ONNX Runtime sessions, for
SOAK_SECONDS (600). Every result is compared bit for bit with that of one thread, computed beforehand.

    python tests/soak/soak.py [SECONDS]

It goes in rounds: problems, models and sessions are drawn from the round's number, computed by one thread, then by all
at once. After each the memory in use is measured: once warm, it must not grow. Ends with 1 for a wrong bit, a call that
failed, or growth.
"""

import ctypes
import itertools
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/python"))

from memory import Memory, growth  # noqa: E402
from ort_models import (  # noqa: E402
    DTYPES,
    INDICES,
    OPERATORS,
    OPTIONAL,
    activation,
    is_gradient,
    library_path,
    make_feeds,
    make_model,
    make_session,
    run,
    session_options,
)

CALLERS, RUNNERS = 64, 16
SESSIONS = 8
# From the second quarter of the rounds to the last, in KiB: pages, which come and go with the host's arenas, and what is
# allocated between the rounds, to which Python adds half a MiB when a table of its own grows.
RESIDENT_ALLOWED, ALLOCATED_ALLOWED = 32 * 1024, 2048


def build_callers():
    """callers.cpp as a shared object, against the library that is tested."""
    library = pathlib.Path(library_path()).resolve()
    out = ROOT / "target" / "soak" / "callers.so"
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = "-std=c++17 -O2 -g -Wall -Wextra -pedantic -Werror -shared -fPIC -pthread".split()
    source = pathlib.Path(__file__).with_name("callers.cpp")
    link = [f"-I{ROOT}/include", str(library), f"-Wl,-rpath,{library.parent}"]
    subprocess.run([os.environ.get("CXX", "g++"), *flags, str(source), "-o", str(out), *link], check=True)
    callers = ctypes.CDLL(str(out))
    callers.callers_prepare.argtypes = [ctypes.c_uint64, ctypes.c_int]
    callers.callers_prepare.restype = ctypes.c_size_t
    callers.callers_run.argtypes = [ctypes.c_uint64, ctypes.c_int, ctypes.c_double]
    callers.callers_calls.restype = ctypes.c_uint64
    callers.callers_failure.restype = ctypes.c_char_p
    return callers


class Runs:
    """A model, the sessions that share it, inputs, and what a session of one thread gave for them."""

    def __init__(self, rng):
        self.operator = str(rng.choice(OPERATORS))
        dtype, targets = str(rng.choice(list(DTYPES))), str(rng.choice(["dense", *INDICES]))
        optional = tuple(name for name in OPTIONAL if rng.random() < 0.3)
        attributes = {"gamma": float(rng.choice([0, 0.5, 1.5, 2, 3])), "alpha": float(rng.choice([-1, 0.25, 0.9]))}
        attributes["reduction"] = str(rng.choice(["sum", "mean"] if is_gradient(self.operator) else ["none", "sum", "mean"]))
        attributes["normalization"] = str(rng.choice(["elements", "rows", "positives", "weights"]))
        self.model = make_model(self.operator, dtype, targets, optional, **attributes)
        self.about = f"{self.operator}, {dtype}, {targets} targets, {optional}, {attributes}"
        self.sessions = [make_session(self.model, self.options(rng)) for _ in range(2)]
        sizes = [(1, 80), (7, 3), (0, 5), (300, 91), (int(rng.integers(1, 3000)), int(rng.integers(1, 60)))]
        self.feeds = [
            make_feeds(self.operator, dtype, targets, optional, rows=(rows,), classes=classes, seed=int(rng.integers(1 << 30)))
            for rows, classes in sizes
        ]
        serial = make_session(self.model, session_options(1))
        self.expected = [run(serial, feeds).tobytes() for feeds in self.feeds]

    @staticmethod
    def options(rng):
        options = session_options(int(rng.choice([1, 2, 3, 4])), registrations=int(rng.integers(1, 3)))
        options.enable_cpu_mem_arena = bool(rng.random() < 0.5)
        options.enable_mem_pattern = bool(rng.random() < 0.5)
        options.add_session_config_entry("session.intra_op.allow_spinning", str(rng.integers(2)))
        return options

    def check(self, rng):
        # Now and then a session that comes and goes while the others run.
        fresh = rng.random() < 0.02
        session = make_session(self.model, self.options(rng)) if fresh else self.sessions[rng.integers(len(self.sessions))]
        case = rng.integers(len(self.feeds))
        if activation(self.operator) == "sigmoid" and "int" in str(self.feeds[case]["targets"].dtype) and rng.random() < 0.03:
            self.check_refused(session, self.feeds[case])
        elif run(session, self.feeds[case]).tobytes() != self.expected[case]:
            raise AssertionError(f"other bits: case {case} of {self.about}")

    def check_refused(self, session, feeds):
        wrong = {**feeds, "targets": feeds["targets"] + 100_000}
        if not wrong["targets"].size:
            return
        try:
            run(session, wrong)
        except Exception as error:
            if "100" not in str(error):
                raise
        else:
            raise AssertionError(f"a class index out of range was taken: {self.about}")


class Soak:
    def __init__(self, seconds):
        self.callers = build_callers()
        self.seconds = seconds
        # Four quarters of two rounds, or of one where the machine is slow.
        self.round_seconds = min(10.0, seconds / 8)
        self.counter = itertools.count()
        self.failures = []

    def ort_thread(self, seed, all_runs, end):
        rng = np.random.default_rng(seed)
        try:
            while time.monotonic() < end and not self.failures:
                all_runs[rng.integers(len(all_runs))].check(rng)
                next(self.counter)
        except Exception as error:
            self.failures.append(f"ONNX Runtime: {error}")

    def caller_thread(self, seed):
        if self.callers.callers_run(seed, CALLERS, self.round_seconds):
            self.failures.append(f"C: {self.callers.callers_failure().decode()}")

    def round(self, seed):
        problems = self.callers.callers_prepare(seed, CALLERS)
        if not problems:
            self.failures.append(f"C: {self.callers.callers_failure().decode()}")
            return
        rng = np.random.default_rng(seed)
        all_runs = [Runs(rng) for _ in range(SESSIONS)]
        end = time.monotonic() + self.round_seconds
        threads = [threading.Thread(target=self.caller_thread, args=(seed,))]
        for i in range(RUNNERS):
            threads.append(threading.Thread(target=self.ort_thread, args=([seed, i], all_runs, end)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def run(self):
        began, memory = time.monotonic(), []
        for number in itertools.count():
            self.round(number)
            memory.append(Memory.now())
            elapsed, runs = time.monotonic() - began, int(repr(self.counter)[6:-1])
            print(
                f"{elapsed:6.0f} s, round {number}: {self.callers.callers_calls():,} calls through C, {runs:,} runs of "
                f"sessions; {memory[-1]}",
                flush=True,
            )
            if self.failures:
                sys.exit("soak: " + "\n".join(self.failures))
            if elapsed >= self.seconds and number >= 3:
                break
        quarter = len(memory) // 4
        warm, last = memory[quarter : 2 * quarter], memory[-quarter:]
        grown = growth(warm, last)
        print(f"soak: every bit as expected; from the second quarter of the rounds to the last: {grown}")
        if grown.resident > RESIDENT_ALLOWED or grown.allocated > ALLOCATED_ALLOWED or grown.threads > 0 or grown.files > 0:
            sys.exit("soak: the process has grown")


if __name__ == "__main__":
    Soak(float(sys.argv[1]) if len(sys.argv) > 1 else float(os.environ.get("SOAK_SECONDS", "600"))).run()
