"""The stub of the CUDA driver in this process, and NumPy's memory passed off as a device's.

`make -C tests/cuda/driver` builds it. Whoever imports this first has the stub as the process's driver: the dynamic
linker takes `libcuda.so.1` for the one that is there.
"""

import ctypes
import os

import numpy as np
from places import ROOT, fl

BUILD = ROOT / "target/cuda-stub"
CUDA, MANAGED = 2, 13


def load(form="whole"):
    lib = ctypes.CDLL(str(BUILD / form / "libcuda.so.1"), os.RTLD_GLOBAL | os.RTLD_NOW)
    handle, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
    for name, result, *arguments in [
        ("stub_set", None, ctypes.c_char_p, ctypes.c_int64),
        ("stub_reset", None),
        ("stub_journal", ctypes.c_char_p),
        ("stub_context", handle, number),
        ("stub_primary", handle, number),
        ("stub_set_current", None, handle),
        ("stub_current", handle),
        ("stub_depth", number),
        ("stub_replace", None, handle),
        ("stub_stream", handle, handle),
        ("stub_capture", number, handle, number),
        ("stub_memory", None, handle, size, number, number),
        ("stub_outstanding", size),
        ("stub_allocations", size),
        ("stub_relaxed", number),
        ("stub_modules", number),
        ("stub_execute_with", None, handle),
    ]:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


DRIVER = load()


class StubMemory:
    """NumPy's memory, which the stub is told is a device's."""

    def __init__(self, device=0, kind=CUDA):
        self.device, self.kind = device, kind

    def tensor(self, array):
        low, high = np.lib.array_utils.byte_bounds(array)
        if array.size:
            DRIVER.stub_memory(low, high - low, self.device, self.kind == MANAGED)
        return fl.tensor(array, device=(self.kind, self.device))

    def read(self, view):
        return view.keep[0]
