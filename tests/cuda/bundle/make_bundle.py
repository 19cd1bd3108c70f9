#!/usr/bin/env python3
"""Write target/focal-loss-cuda.run: all that `make test-cuda` and `make bench-cuda` need on a machine with a GPU.

    make cuda-bundle                                    here, with Rust and a package registry; minutes
    sh focal-loss-cuda.run [test|bench] [FOLDER]        there, with neither; a report of the benchmark goes to FOLDER

The file is a shell script followed by an archive: the library, the tests, the Python package and the sample detector,
and ONNX Runtime with its CUDA provider, slimmed (slim_provider.py) for one architecture. There, Python has PyTorch
with CUDA, pytest, NumPy, ml_dtypes and onnx. `--without-onnxruntime` leaves ONNX Runtime out, which takes seconds.
"""

import lzma
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import slim_provider

ROOT = pathlib.Path(__file__).resolve().parents[3]
RESULT = ROOT / "target/focal-loss-cuda.run"
MOST = 60 << 20

ONNXRUNTIME = "onnxruntime-gpu==1.30.0"
PYTHON = "3.12"
#: Hopper; the test machine's.
ARCHITECTURE = 90
#: Kernels that no detector and none of our models runs.
DROPPED = "flash|fmha|cutlass|moe|Moe|[aA]ttention|fpA_intB|llm|MatMulFloat|masked_multihead|FusedQKV|fused_multihead"
UNUSED = re.compile(r"onnxruntime/(transformers|tools|quantization|datasets|backend)/|tensorrt|ThirdPartyNotices")

TRACKED = ("Makefile", "LICENSE-MIT", "LICENSE-APACHE", "include", "onnx", "tests/python", "tests/cuda", "benches")
LIBRARY = "target/release/libfocal_loss.so"

SCRIPT = """#!/bin/sh
# focal-loss on a GPU: sh {name} [test|bench] [FOLDER]
set -eu
what=${{1:-test}}
folder=${{2:-.}}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tail -c +{offset} "$0" | python3 -c 'import sys, tarfile
tarfile.open(fileobj=sys.stdin.buffer, mode="r|xz").extractall(sys.argv[1], filter="data")' "$work"
status=0
python3 "$work/focal-loss/tests/cuda/on_gpu.py" "$what" || status=$?
report="$work/focal-loss/docs/benchmarks-cuda.md"
if [ -f "$report" ]; then mkdir -p "$folder" && cp "$report" "$folder"; fi
exit $status
"""


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z", *TRACKED], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and not name.endswith("demo.png")]


def onnxruntime(folder):
    """ONNX Runtime with its slimmed CUDA provider, unpacked."""
    wheels = folder / "wheels"
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", wheels,
                "--python-version", PYTHON, "--implementation", "cp"]  # fmt: skip
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 27)]
    subprocess.run([*download, *platforms, ONNXRUNTIME], check=True)
    (wheel,) = wheels.iterdir()
    unpacked = folder / "onnxruntime-cuda"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked, [name for name in archive.namelist() if not UNUSED.search(name)])
    wheel.unlink()
    provider = unpacked / "onnxruntime/capi/libonnxruntime_providers_cuda.so"
    slimmed, kept = slim_provider.slim(provider.read_bytes(), ARCHITECTURE, re.compile(DROPPED.encode()))
    assert kept, f"{ONNXRUNTIME} has nothing for sm_{ARCHITECTURE}"
    provider.write_bytes(slimmed)
    return unpacked


def main():
    with_onnxruntime = sys.argv[1:] != ["--without-onnxruntime"]
    library = ROOT / LIBRARY
    assert library.exists(), f"{library} is not there: run `cargo build --release`"
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        members = {path.relative_to(ROOT): path for path in tracked()}
        stripped = folder / library.name
        shutil.copy(library, stripped)
        subprocess.run(["strip", "--strip-unneeded", stripped], check=True)
        members[pathlib.Path(LIBRARY)] = stripped
        if with_onnxruntime:
            unpacked = onnxruntime(folder)
            for path in sorted(path for path in unpacked.rglob("*") if path.is_file()):
                members[pathlib.Path("target/onnxruntime-cuda") / path.relative_to(unpacked)] = path
        archive = folder / "archive.tar"
        with tarfile.open(archive, "w") as tar:
            for name, path in members.items():
                tar.add(path, pathlib.Path("focal-loss") / name)
        print(f"{archive.stat().st_size / 1e6:.0f} MB; compressing takes a few minutes", flush=True)
        # Runs of zeros go with any setting; the rest gains from a window over the whole.
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 512 << 20}]
        packed = lzma.compress(archive.read_bytes(), format=lzma.FORMAT_XZ, filters=filters)
    head = SCRIPT.format(name=RESULT.name, offset=0)
    # The number of digits of the offset is a part of the offset.
    while len(head) + 1 != int(re.search(r"tail -c \+(\d+)", head).group(1)):
        head = SCRIPT.format(name=RESULT.name, offset=len(head) + 1)
    RESULT.write_bytes(head.encode() + packed)
    size = RESULT.stat().st_size
    print(f"{RESULT.relative_to(ROOT)}: {size / 2**20:.1f} MiB, {len(members)} files")
    if size > MOST:
        sys.exit(f"that is above {MOST >> 20} MiB")


if __name__ == "__main__":
    main()
