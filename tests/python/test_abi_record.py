"""docs/abi.txt is compared with the header by tests/c/abi.py: that it sees every kind of change."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADER = ROOT / "include" / "focal_loss.h"
LIBRARY = pathlib.Path(os.environ.get("FOCAL_LOSS_LIBRARY", ROOT / "target" / "release" / "libfocal_loss.so"))


def compare(header):
    command = [sys.executable, ROOT / "tests" / "c" / "abi.py", header, LIBRARY]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_record_holds():
    done = compare(HEADER)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "old, new, verdict",
    [
        ("int32_t axis;", "int32_t axes;", "broken"),
        ("int32_t axis;", "int64_t axis;", "broken"),
        ("uint64_t byte_offset;", "int64_t byte_offset;", "broken"),
        ("    uint8_t code;", "    uint8_t bits_;\n    uint8_t code;", "broken"),
        ("REDUCTION_SUM = 1", "REDUCTION_SUM = 3", "broken"),
        ("DEVICE_TYPE_CUDA_HOST = 3", "DEVICE_TYPE_PINNED = 3", "broken"),
        ("const char *focal_loss_cpu_isa", "char *focal_loss_cpu_isa", "broken"),
        # Into the padding, where no size changes.
        ("int32_t num_threads;", "int32_t num_threads;\n    int32_t more;", "grown"),
        ("void *stream;", "void *stream;\n    double more;", "grown"),
        ("FOCAL_LOSS_STATUS_INTERNAL = 5,", "FOCAL_LOSS_STATUS_INTERNAL = 5,\n    FOCAL_LOSS_STATUS_MORE = 6,", "grown"),
    ],
)
def test_a_change_is_seen(tmp_path, old, new, verdict):
    text = HEADER.read_text()
    assert text.count(old) >= 1
    changed = tmp_path / "focal_loss.h"
    changed.write_text(text.replace(old, new))
    done = compare(changed)
    assert done.returncode == 1 and f"the ABI {'is broken' if verdict == 'broken' else 'has grown'}" in done.stderr, done.stderr
