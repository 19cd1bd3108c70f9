"""Where the other tests' helpers are, and Keras on PyTorch."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))
os.environ.setdefault("KERAS_BACKEND", "torch")
