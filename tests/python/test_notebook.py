"""docs/focal-loss.ipynb runs from top to bottom, and the outputs that it is committed with are those of its cells."""

import pathlib
import subprocess
import sys

import nbformat

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


def test_it_runs():
    done = subprocess.run(
        [sys.executable, DOCS / "run_notebook.py", "--check"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_can_be_read_without_running_it():
    """Every cell has run, in order, without an error; pictures are there, and nothing of anybody's machine."""
    notebook = nbformat.read(DOCS / "focal-loss.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    pictures = [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]
    assert len(pictures) >= 8
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    assert not [text for text in texts if "/home/" in text or "/root/" in text or "/tmp/" in text]
