"""The benchmark, shortened: whatever is installed here runs and agrees. Times prove nothing in a test."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benches"))

from measure import Entry, Spread, compare  # noqa: E402
from report import Result  # noqa: E402


def test_short(tmp_path):
    out = tmp_path / "benchmarks.md"
    command = [sys.executable, ROOT / "benches/peers.py", "--short", "--threads", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert done.stdout.strip() in text
    for line in (
        "forward, index targets",
        "forward+backward, bfloat16",
        "ONNX Runtime operator, gradient",
        "1 x 80 from C, forward",
        "1 x 80 in ONNX Runtime",
        "forward, 1K to 10K elements",
    ):
        assert re.search(rf"^\| {re.escape(line)}\b.*\d(x| us) ", text, re.MULTILINE), line
    assert str(ROOT) not in text and "nan" not in re.findall(r"\w+", text)


def test_what_does_not_agree_is_not_timed():
    right = (2.0, np.ones((2, 3)))
    Entry("right", [], lambda: (2.00001, np.ones((4, 3))), right, 12).check()
    for wrong in ((2.001, None), (None, np.full((4, 3), 1.001)), (np.nan, None), (None, np.full((4, 3), np.nan))):
        with pytest.raises(AssertionError, match="wrong"):
            Entry("wrong", [], lambda wrong=wrong: wrong, right, 12).check()


def test_figures_and_targets():
    ours, theirs = np.array([2000.0, 4000, 3000]), np.array([8000.0, 8000, 9000])
    assert compare("faster", ours, theirs) == Spread(4, 3, 2.5, 3.5)
    assert compare("times", ours, theirs).best == 0.25
    assert compare("more", ours, theirs).best == -6
    at_least, at_most = (Result("", "", kind, 4, Spread(4, 3, 2, 5)) for kind in ("faster", "times"))
    assert at_least.met and at_most.met
    assert not Result("", "", "faster", 4.1, Spread(4, 5, 5, 5)).met
    assert not Result("", "", "times", 3.9, Spread(4, 3, 3, 3)).met
