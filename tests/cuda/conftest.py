"""`FOCAL_LOSS_CUDA=gpu` runs what needs a GPU, and fails without one; otherwise the stub of the driver serves."""

import pytest
from places import GPU

ON_A_GPU = ["test_values.py", "test_gpu.py", "test_gpu_onnxruntime.py"]
NEEDS_A_GPU = ON_A_GPU[1:]


def pytest_ignore_collect(collection_path):
    name = collection_path.name
    if name.startswith("test_") and collection_path.suffix == ".py":
        return name not in ON_A_GPU if GPU else name in NEEDS_A_GPU
    return None


def pytest_sessionstart(session):
    if GPU:
        import torch

        if not torch.cuda.is_available():
            pytest.exit("no CUDA device", returncode=1)
        print(f"on {torch.cuda.get_device_name()}")
