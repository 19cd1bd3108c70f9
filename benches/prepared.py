"""Calls of our C ABI that are one foreign call and nothing else, and the yardsticks in C."""

import ctypes
import functools
import os
import pathlib
import subprocess

import numpy as np
from focal_loss_ctypes import Inputs, Library, Options, Tensor, library_path, tensor
from measure import Entry
from problem import CLASSES, DTYPES, ROOT

#: A loss rounded to the type; float32's is the error allowed to everybody.
TOLERANCE = {"float32": 1e-4, "float16": 1e-3, "bfloat16": 8e-3}


def outputs(problem):
    """Memory for gradients and copies, touched so that the first call does not pay for its pages."""
    return np.full((problem.copies, problem.rows, CLASSES), 1, DTYPES[problem.dtype])


class Prepared:
    """The library with every call checked, and calls with their structs built and outputs allocated beforehand."""

    def __init__(self, threads):
        self.library, self.threads = Library(), threads
        for function in ("forward", "forward_backward"):
            getattr(self.library.lib, f"focal_loss_{function}").restype = self.library.check

    @property
    def isa(self):
        return self.library.lib.focal_loss_cpu_isa().decode()

    @property
    def version(self):
        return self.library.lib.focal_loss_version_string().decode()

    def entry(self, name, problem, into=None, gamma=2.0, dense=False):
        """Forward, or fused with the gradients written ``into`` these outputs."""
        targets = problem.dense if dense else problem.indices
        losses = np.zeros(problem.copies, DTYPES[problem.dtype])
        calls = []
        for copy in range(problem.copies):
            gradient = None if into is None else into[copy]
            function, *given = self.arguments(problem, targets[copy], copy, losses[copy : copy + 1], gradient, gamma)
            calls.append(functools.partial(function, *map(_reference, given)))

        def result():
            calls[0]()
            return losses[0], None if into is None else into[0]

        expected, tolerance = problem.expected(gamma), TOLERANCE[problem.dtype]
        return Entry(name, calls, result, expected, problem.elements, tolerance)

    def arguments(self, problem, targets, copy, loss, gradient, gamma=2.0):
        """The function and its arguments."""
        options = self.library.options(
            activation=problem.activation, alpha=problem.alpha, gamma=gamma, reduction="sum", num_threads=self.threads
        )
        inputs = self.library.inputs(problem.logits[copy], targets)
        if gradient is None:
            return self.library.lib.focal_loss_forward, options, inputs, tensor(loss.reshape(()))
        function = self.library.lib.focal_loss_forward_backward
        return function, options, inputs, None, tensor(loss.reshape(())), tensor(gradient)


def _reference(argument):
    return None if argument is None else ctypes.byref(argument)


def build_helpers():
    """yardsticks.c and latency.c as a library, built for this processor."""
    folder = ROOT / "target/bench"
    folder.mkdir(parents=True, exist_ok=True)
    library, made = folder / "libbench.so", folder / f"libbench.{os.getpid()}.so"
    flags = ["-O3", "-march=native", "-pthread", "-shared", "-fPIC", "-Wall", "-Wextra", f"-I{ROOT / 'include'}"]
    sources = [ROOT / "benches/yardsticks.c", ROOT / "benches/latency.c"]
    link = [library_path(), f"-Wl,-rpath,{pathlib.Path(library_path()).resolve().parent}"]
    subprocess.run([os.environ.get("CC", "gcc"), *flags, *sources, *link, "-o", made], check=True)
    os.replace(made, library)
    helpers = ctypes.CDLL(str(library))
    pointers, floats, size, number = ctypes.POINTER, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    helpers.yardstick_read.argtypes = [floats, size, number]
    helpers.yardstick_read.restype = ctypes.c_float
    for name in ("copy", "stream"):
        getattr(helpers, f"yardstick_{name}").argtypes = [floats, floats, size, number]
    helpers.latency_empty.argtypes = [ctypes.c_void_p, ctypes.c_long]
    loss = [pointers(Options), pointers(Inputs), pointers(Tensor)]
    helpers.latency_forward.argtypes = [*loss, ctypes.c_long]
    helpers.latency_forward_backward.argtypes = [*loss, pointers(Tensor), ctypes.c_long]
    return helpers


def yardsticks(helpers, problem, into, threads):
    """Reading the logits, reading both inputs where targets are dense, and copying the logits in two ways."""

    def read(*arrays):
        parts = [functools.partial(helpers.yardstick_read, array.ctypes.data, array.size, threads) for array in arrays]
        return parts[0] if len(parts) == 1 else lambda: sum(part() for part in parts)

    def copy(function):
        pairs = zip(into, problem.logits, strict=True)
        return [functools.partial(function, a.ctypes.data, b.ctypes.data, b.size, threads) for a, b in pairs]

    def copied(calls):
        into[0] = 0
        calls[0]()
        return None, into[0]

    elements = problem.elements
    reads = [read(x) for x in problem.logits]
    total = problem.logits[0].sum(dtype=np.float64)
    entries = [Entry("read", reads, lambda: (reads[0](), None), (total, None), elements)]
    if problem.dense is not None:
        both = [read(x, t) for x, t in zip(problem.logits, problem.dense, strict=True)]
        total += problem.dense[0].sum(dtype=np.float64)
        entries.append(Entry("read both inputs", both, lambda: (both[0](), None), (total, None), elements))
    copies = {"copy through the cache": helpers.yardstick_copy, "copy past the cache": helpers.yardstick_stream}
    for name, function in copies.items():
        calls = copy(function)
        entries.append(Entry(name, calls, functools.partial(copied, calls), (None, problem.block), elements))
    return entries


def latencies(helpers, prepared, problem):
    """An empty call, and a row's losses and gradients, from C."""
    many = 10_000
    version = ctypes.cast(prepared.library.lib.focal_loss_version_string, ctypes.c_void_p)
    loss, gradient, elements = np.zeros(1, np.float32), outputs(problem)[0], problem.elements
    expected = problem.expected()

    def entry(name, function, *arguments, repeats=many):
        call = functools.partial(function, *map(_reference, arguments), repeats)

        def result():
            loss[0], gradient[:] = 0, 0
            assert call() == 0
            return loss[0], gradient if len(arguments) == 4 else None

        return Entry(name, [call], result, expected, elements, repeats=repeats)

    _, *forward = prepared.arguments(problem, problem.indices[0], 0, loss, None)
    _, options, inputs, _, *results = prepared.arguments(problem, problem.indices[0], 0, loss, gradient)
    empty = functools.partial(helpers.latency_empty, version, many)
    return [
        Entry("empty call", [empty], lambda: (1, None), (1, None), elements, repeats=many),
        entry("a row from C, forward", helpers.latency_forward, *forward),
        entry("a row from C, fused", helpers.latency_forward_backward, options, inputs, *results),
    ]
