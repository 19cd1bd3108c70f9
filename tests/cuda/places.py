"""Where the tensors of a test are: on a real CUDA device, or in main memory that the stub passes off as one.

`FOCAL_LOSS_CUDA=gpu` asks for the former; there PyTorch allocates. With the stub, the kernels' own source runs on the
CPU, compiled as C++ (see host.py).
"""

import ctypes
import os
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
for folder in (ROOT / "tests/python", ROOT / "onnx/src"):
    sys.path.insert(0, str(folder))
import focal_loss_ctypes as fl  # noqa: E402

GPU = os.environ.get("FOCAL_LOSS_CUDA") == "gpu"


class GpuMemory:
    """Copies of NumPy's arrays on a device: bytes, strides and alignment as they were."""

    def __init__(self, device=0):
        self.device = device

    def tensor(self, array):
        import torch

        low, high = np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data,) * 2
        # PyTorch's memory starts at multiples of 512, NumPy's arrays do not: what is misaligned stays so.
        offset = low % 256
        buffer = torch.empty(offset + high - low, dtype=torch.uint8, device=f"cuda:{self.device}")
        content = (ctypes.c_uint8 * (high - low)).from_address(low)
        buffer[offset:] = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
        view = fl.tensor(array, buffer.data_ptr() + offset + array.ctypes.data - low, (2, self.device))
        view.copied = buffer, offset, array.ctypes.data - low
        return view

    def read(self, view):
        array, (buffer, offset, start) = view.keep[0], view.copied
        content = buffer[offset:].cpu().numpy().tobytes()
        return np.ndarray(array.shape, array.dtype, content, start, array.strides) if array.size else array


def memory(device=0):
    if GPU:
        return GpuMemory(device)
    import stub

    return stub.StubMemory(device)
