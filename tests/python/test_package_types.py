"""The package's types hold under mypy's strictest rules, and are right for those who use them."""

import pathlib
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[2]

USE = """
    from typing import assert_type, Any
    import numpy as np
    import numpy.typing as npt
    from focal_loss_onnx.numpy import backward, forward, forward_backward

    x = np.zeros((2, 3), np.float32)
    t = np.zeros(2, np.int64)
    assert_type(forward(x, t), npt.NDArray[Any])
    assert_type(backward(x, t, out=x), np.ndarray[tuple[int, int], np.dtype[np.float32]])
    loss, gradient = forward_backward(x, t, 2.0, reduction="sum", class_alpha=[0.5, 0.5, 0.5], stream=None)
    assert_type(loss, npt.NDArray[Any])
    forward(x, [0, 1])  # error: arg-type
    forward(x, t, gama=2.0)  # error: call-arg
    forward(x, t, gamma="2")  # error: arg-type
"""


def mypy(*arguments):
    done = subprocess.run([sys.executable, "-m", "mypy", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_package():
    status, output = mypy("--cache-dir", "target/mypy")
    assert status == 0, output


def test_its_use(tmp_path):
    path = tmp_path / "use.py"
    path.write_text(textwrap.dedent(USE))
    lines = path.read_text().splitlines()
    status, output = mypy("--cache-dir", "target/mypy-use", "--config-file", "", "--python-version", "3.11", str(path))
    wrong = {number for number, line in enumerate(lines, 1) if "# error" in line}
    reported = {int(line.split(":")[1]) for line in output.splitlines() if ": error:" in line}
    assert status == 1 and reported == wrong, output
