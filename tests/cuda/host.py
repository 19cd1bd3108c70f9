"""The kernels' source compiled as C++ for this machine (host_kernels.cpp), in the place of a GPU behind the stub."""

import ctypes
import functools
import subprocess

from places import ROOT


@functools.cache
def library():
    subprocess.run(["make", "--no-print-directory", "-s", "-C", str(ROOT / "tests/cuda")], check=True)
    lib = ctypes.CDLL(str(ROOT / "target/cuda-host/libkernels.so"))
    lib.host_set_noise.argtypes = [ctypes.c_uint]
    return lib


def run_kernels():
    import stub

    stub.DRIVER.stub_execute_with(ctypes.cast(library().host_execute, ctypes.c_void_p))
