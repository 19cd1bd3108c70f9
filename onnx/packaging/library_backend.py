"""How pip builds the wheel: hatchling, and a hook that builds the shared library with cargo and puts it in.

Python reaches the library through its C ABI, so one wheel serves every Python: ``py3-none-PLATFORM``. (maturin makes
such a wheel only around a cffi module, which would be a dependency; setuptools takes a library for an extension module
of one Python.)

On Linux the library is linked by zig against the symbols of glibc 2.28, whatever the machine's own glibc is, and so the
wheel is manylinux_2_28. zig and the cargo command that uses it come from PyPI, for wheels only: an editable install
uses the library of ``target/release``.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import hatchling.build
from hatchling.build import build_editable, build_sdist, build_wheel, get_requires_for_build_editable
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_wheel",
]

GLIBC = (2, 28)
ZIG = ["cargo-zigbuild==0.24.0", "ziglang==0.17.1"]
FILE_NAMES = {"linux": "libfocal_loss.so", "darwin": "libfocal_loss.dylib", "win32": "focal_loss.dll"}


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What pip installs before it builds a wheel."""
    return [*hatchling.build.get_requires_for_build_wheel(config_settings), *(ZIG if _on_glibc() else [])]


class LibraryHook(BuildHookInterface):
    """Adds the shared library to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        library, tag = build_library(Path(self.root))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{tag}"
        build_data["force_include"][str(library)] = f"focal_loss_onnx/{library.name}"


def build_library(root: Path) -> tuple[Path, str]:
    """Runs cargo; returns the library and the platform's part of the wheel's tag."""
    target = root / "target"
    arguments = ["--release", "--locked", "--lib", "--manifest-path", str(root / "Cargo.toml"), "--target-dir", str(target)]
    if _on_glibc():
        machine = platform.machine()
        triple = f"{machine}-unknown-linux-gnu"
        command = ["cargo-zigbuild", "zigbuild", *arguments, "--target", "{}.{}.{}".format(triple, *GLIBC)]
        folder, tag = target / triple / "release", "manylinux_{}_{}_{}".format(*GLIBC, machine)
    else:
        command = ["cargo", "build", *arguments]
        folder, tag = target / "release", sysconfig.get_platform().replace("-", "_").replace(".", "_")
    # Where pip does not isolate the build, its scripts need not be on the path.
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": os.pathsep.join([str(scripts), os.environ.get("PATH", os.defpath)])}
    try:
        subprocess.run(command, check=True, env=environment)
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} was not found: building this package needs Rust (see README.md)") from error
    return folder / FILE_NAMES[sys.platform], tag


def _on_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
