"""Where the shared library with the kernels is, and how a session gets it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Names this library before anything else is looked at.
ENVIRONMENT_VARIABLE = "FOCAL_LOSS_LIBRARY"

_FILE_NAMES = {"win32": "focal_loss.dll", "darwin": "libfocal_loss.dylib"}
FILE_NAME = _FILE_NAMES.get(sys.platform, "libfocal_loss.so")


class LibraryNotFound(FileNotFoundError):
    """The shared library is not built, or not where it is looked for."""


def library_path() -> str:
    """Path of the ``focal_loss`` shared library.

    Looked for in this order: the file that the environment variable ``FOCAL_LOSS_LIBRARY`` names; beside
    this package; ``target/release`` of the checkout that holds this package (an editable install) or the
    current directory.

    Raises:
        LibraryNotFound: it is in none of these places.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise LibraryNotFound(f"{ENVIRONMENT_VARIABLE} names {named}, which is not a file")
        return str(Path(named).resolve())
    for candidate in _candidates():
        if candidate.is_file():
            return str(candidate)
    raise LibraryNotFound(
        f"{FILE_NAME} was not found beside {__package__} nor in target/release of a focal-loss checkout: "
        f"run `cargo build --release` there, or set {ENVIRONMENT_VARIABLE} to the file"
    )


def register(session_options: Any) -> None:
    """Make the kernels known to sessions created with these ``onnxruntime.SessionOptions``.

    Without it ONNX Runtime runs the portable functions that the model carries.
    """
    session_options.register_custom_ops_library(library_path())


def _candidates() -> Iterator[Path]:
    package = Path(__file__).resolve().parent
    yield package / FILE_NAME
    for start in (package, Path.cwd().resolve()):
        for directory in (start, *start.parents):
            if (directory / "Cargo.toml").is_file():
                yield directory / "target" / "release" / FILE_NAME
