#!/usr/bin/env python3
"""What needs a GPU: the tests, or the benchmark. Fails with "no CUDA device" where there is none.

    python3 tests/cuda/on_gpu.py test|bench

Needs a PyTorch with CUDA, pytest, NumPy, ml_dtypes and onnx, and the library in target/release (or where
FOCAL_LOSS_LIBRARY says); neither Rust nor a network. ONNX Runtime with its CUDA provider is taken from
target/onnxruntime-cuda, where a bundle has it (see bundle/make_bundle.py), else from the environment.
"""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/cuda"
PROVIDER = ROOT / "target/onnxruntime-cuda"
#: What compute-sanitizer looks at: small problems through every kernel. It makes them a hundred times slower.
SANITIZED = "test_class_axes or test_a_wrong_class_index or test_layouts or test_ignored or (test_sums and (33 or 1000))"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def environment():
    """With ONNX Runtime's CUDA provider, and the libraries that it wants from PyTorch's packages."""
    import torch

    variables = dict(os.environ, FOCAL_LOSS_CUDA="gpu", PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1")
    packages = pathlib.Path(torch.__file__).parents[1]
    folders = sorted({str(path.parent) for path in packages.glob("nvidia/**/lib*.so*")})
    variables["LD_LIBRARY_PATH"] = ":".join(folders + [variables.get("LD_LIBRARY_PATH", "")])
    paths = [str(PROVIDER)] * PROVIDER.exists() + [str(ROOT / "onnx/src"), variables.get("PYTHONPATH", "")]
    variables["PYTHONPATH"] = ":".join(filter(None, paths))
    return variables


def tests(variables):
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5"]
    failed = []
    # Each in a process of its own: an error that kills a context is not to fail what comes after.
    for name in ("test_values.py", "test_gpu.py", "test_gpu_onnxruntime.py"):
        print(f"== {name}", flush=True)
        if subprocess.run([*pytest, name], cwd=HERE, env=variables).returncode:
            failed.append(name)
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("== compute-sanitizer is not there: nothing was run under it")
        return failed
    # PyTorch's allocator hands out parts of large blocks; without it every array has its own bounds.
    variables = dict(variables, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    for tool in TOOLS:
        print(f"== compute-sanitizer --tool {tool}", flush=True)
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--kernel-name", "kernel_substring=focal_loss"]
        if subprocess.run([*command, *pytest, "test_values.py", "-k", SANITIZED], cwd=HERE, env=variables).returncode:
            failed.append(tool)
    return failed


def main():
    what = sys.argv[1:]
    if what not in (["test"], ["bench"]):
        sys.exit(__doc__)
    try:
        import torch
    except ImportError:
        sys.exit("no PyTorch: its CUDA build is needed")
    if not torch.cuda.is_available():
        sys.exit("no CUDA device")
    library = pathlib.Path(os.environ.get("FOCAL_LOSS_LIBRARY", ROOT / "target/release/libfocal_loss.so"))
    if not library.exists():
        sys.exit(f"{library} is not there: run `cargo build --release`")
    if what == ["bench"]:
        sys.exit(subprocess.run([sys.executable, "benches/gpu.py"], cwd=ROOT, env=environment()).returncode)
    failed = tests(environment())
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    print("make test-cuda: everything passed")


if __name__ == "__main__":
    main()
