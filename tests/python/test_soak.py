"""`make soak`, shortened: the whole of it takes ten minutes, and 10,000 cycles of each kind."""

import pathlib
import subprocess
import sys

SOAK = pathlib.Path(__file__).resolve().parents[1] / "soak"


def test_threads_and_sessions_in_one_process():
    subprocess.run([sys.executable, SOAK / "soak.py", "10"], check=True)


def test_cycles_leave_nothing():
    subprocess.run([sys.executable, SOAK / "cycles.py", "300"], check=True)
