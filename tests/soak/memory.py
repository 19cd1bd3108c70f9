"""What a process holds: memory, threads, files. For tests of growth, on Linux."""

import ctypes
import gc
import os
import pathlib
from dataclasses import dataclass


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


_libc = ctypes.CDLL(None)
# glibc 2.33 and newer.
_mallinfo2 = getattr(_libc, "mallinfo2", None)
if _mallinfo2:
    _mallinfo2.restype = _Mallinfo2


@dataclass
class Memory:
    #: KiB: pages of the process, and what it has allocated and not freed (0 where the C library cannot say).
    resident: float
    allocated: float
    threads: int
    files: int

    @classmethod
    def now(cls):
        """After everything that can be given back was given back."""
        gc.collect()
        _libc.malloc_trim(0)
        status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
        heap = _mallinfo2() if _mallinfo2 else _Mallinfo2()
        return cls(
            int(status["VmRSS"].split()[0]),
            (heap.uordblks + heap.hblkhd) / 1024,
            int(status["Threads"]),
            len(os.listdir("/proc/self/fd")),
        )

    def __str__(self):
        return f"{self.resident:,.0f} KiB resident, {self.allocated:,.1f} allocated, {self.threads} threads, {self.files} files"


def growth(before, after):
    """From the middle of some measurements to the middle of others."""
    def middle(measurements, name):
        return sorted(getattr(one, name) for one in measurements)[len(measurements) // 2]

    return Memory(*(middle(after, name) - middle(before, name) for name in Memory.__dataclass_fields__))
