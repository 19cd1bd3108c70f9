"""Run docs/focal-loss.ipynb from top to bottom.

    python docs/run_notebook.py            write its outputs into it: `make notebook`
    python docs/run_notebook.py --check    only run it, and see that its outputs belong to its cells

The notebook is its own source: one file that reads well where it lies, with its outputs. The hash of the cells in its
metadata says which cells the outputs are of.
"""

import argparse
import hashlib
import pathlib
import sys
import time

import nbformat
from nbclient import NotebookClient

PATH = pathlib.Path(__file__).with_name("focal-loss.ipynb")
KEY = "cells_of_outputs"
SECONDS = 120
MOST_BYTES = 1_500_000


def hash_of(notebook: nbformat.NotebookNode) -> str:
    """Of the cells, without their outputs."""
    text = "\0".join(f"{cell.cell_type}\0{cell.source}" for cell in notebook.cells)
    return hashlib.sha256(text.encode()).hexdigest()


def run(notebook: nbformat.NotebookNode) -> float:
    """Every cell in a fresh kernel; the seconds that took. A cell that fails raises."""
    start = time.perf_counter()
    NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": PATH.parent}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
    return time.perf_counter() - start


def write(notebook: nbformat.NotebookNode) -> None:
    """With its outputs, and nothing of the machine."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        KEY: hash_of(notebook),
    }
    nbformat.validate(notebook)
    nbformat.write(notebook, PATH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    notebook = nbformat.read(PATH, as_version=4)
    if check and notebook.metadata.get(KEY) != hash_of(notebook):
        sys.exit(f"{PATH.name} was changed after it was run: `make notebook` writes its outputs anew")
    seconds = run(notebook)
    if not check:
        write(notebook)
    print(f"{PATH.name}: {seconds:.0f} s, {PATH.stat().st_size / 1e6:.2f} MB")
    if seconds > SECONDS or PATH.stat().st_size > MOST_BYTES:
        sys.exit(f"{PATH.name} has {SECONDS} seconds and {MOST_BYTES / 1e6} MB")


if __name__ == "__main__":
    main()
