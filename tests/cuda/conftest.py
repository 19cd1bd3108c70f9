"""`FOCAL_LOSS_CUDA=gpu` runs what needs a GPU, and fails without one; otherwise the stub of the driver serves."""

import pytest
from places import GPU

ON_A_GPU = ["test_values.py", "test_gpu.py", "test_gpu_onnxruntime.py"]
WITH_THE_STUB = ["test_values.py", "test_kernels.py", "test_driver.py"]


def pytest_ignore_collect(collection_path):
    if collection_path.name.startswith("test_") and collection_path.suffix == ".py":
        return collection_path.name not in (ON_A_GPU if GPU else WITH_THE_STUB)
    return None


def pytest_sessionstart(session):
    if GPU:
        import torch

        if not torch.cuda.is_available():
            pytest.exit("no CUDA device", returncode=1)
        print(f"on {torch.cuda.get_device_name()}")
