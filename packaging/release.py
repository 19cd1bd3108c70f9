#!/usr/bin/env python3
"""Make what is released, and try it as those get it who download it.

    python3 packaging/release.py build           into target/release-files: wheel, tarball, SHA256SUMS
    python3 packaging/release.py verify          in a folder outside of the checkout, with nothing of the checkout's
    python3 packaging/release.py build verify

The tarball has what `make install` installs, linked against glibc 2.28 as the wheel's library is, with licences and
documents; it works wherever it is unpacked. The same commit and compiler give the same tarball.
"""

import ast
import gzip
import hashlib
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = ROOT / "target" / "release-files"
MACHINE = platform.machine()
TRIPLE = f"{MACHINE}-unknown-linux-gnu"
VERSION = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
NAME = f"focal-loss-{VERSION}-{MACHINE}-linux-gnu"
DOCUMENTS = ["README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE-MIT", "LICENSE-APACHE", "LICENSE-THIRD-PARTY"]


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


def pinned(name):
    """A constant of the wheel's build: one zig and one glibc for both."""
    text = (ROOT / "onnx" / "packaging" / "library_backend.py").read_text()
    return ast.literal_eval(re.search(rf"^{name} = (.*)$", text, re.MULTILINE)[1])


def build():
    if subprocess.check_output(["git", "status", "--porcelain"], cwd=ROOT):
        sys.exit("release: there are changes that are not committed")
    if not re.search(rf"^## .*\b{re.escape(VERSION)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE):
        sys.exit(f"release: CHANGELOG.md has no section for {VERSION}")
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir(parents=True)
    run(sys.executable, ROOT / "tests" / "python" / "wheel.py", "build")
    (wheel,) = (ROOT / "target" / "wheel").glob("*.whl")
    shutil.copy(wheel, FILES)
    pack(stage(), FILES / f"{NAME}.tar.gz")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(FILES.iterdir())]
    (FILES / "SHA256SUMS").write_text("".join(sums))
    print("".join(sums), end="")


def stage():
    """The folder that becomes the tarball."""
    folder = ROOT / "target" / "release-stage"
    shutil.rmtree(folder, ignore_errors=True)
    environment = {**os.environ, **zig_as_linker(), "CARGO_TARGET_DIR": str(ROOT / "target" / "release-build")}
    environment["PATH"] = os.pathsep.join([str(ROOT / "target" / "tools" / "bin"), environment["PATH"]])
    # Where things were built is nobody's business.
    home = os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo")
    environment["RUSTFLAGS"] = f"--remap-path-prefix={ROOT}=focal-loss --remap-path-prefix={home}=cargo"
    where = ["--prefix", "/usr/local", "--libdir", "/usr/local/lib", "--destdir", folder]
    run("cargo", "cinstall", "--release", "--locked", "--target", TRIPLE, *where, cwd=ROOT, env=environment)
    tree = folder / "usr" / "local"
    description = tree / "lib" / "pkgconfig" / "focal_loss.pc"
    description.write_text(re.sub("^prefix=.*$", "prefix=${pcfiledir}/../..", description.read_text(), flags=re.MULTILINE))
    for document in DOCUMENTS:
        shutil.copy(ROOT / document, tree)
    (tree / "docs").mkdir()
    for document in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.txt"), ROOT / "onnx" / "OPERATORS.md"]:
        shutil.copy(document, tree / "docs")
    return tree


def zig_as_linker():
    """What makes cargo link against the glibc of the wheel, by the linker of the wheel."""
    folder = ROOT / "target" / "venv-zig"
    pins = pinned("ZIG")
    ready = folder / f".ready-{'-'.join(pins)}"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins)
        ready.touch()
    linker = folder / "bin" / "focal-loss-linker"
    glibc = "{}.{}".format(*pinned("GLIBC"))
    linker.write_text(f'#!/bin/sh\nexec cargo-zigbuild zig cc -- -target {MACHINE}-linux-gnu.{glibc} "$@"\n')
    linker.chmod(0o755)
    return {
        f"CARGO_TARGET_{TRIPLE.upper().replace('-', '_')}_LINKER": str(linker),
        "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]),
    }


def pack(tree, archive):
    """A tarball in which nothing depends on who made it, or when."""
    time = int(subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=ROOT))

    def plain(entry):
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = time
        entry.mode = 0o755 if entry.isdir() or ".so" in entry.name else 0o644
        return entry

    with open(archive, "wb") as file, gzip.GzipFile("", "wb", mtime=time, fileobj=file) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(tree.rglob("*")):
                tar.add(path, pathlib.Path(NAME, path.relative_to(tree)), recursive=False, filter=plain)


def verify():
    missing = [tool for tool in ("gcc", "g++", "pkg-config", "cmake", "readelf", "sha256sum") if not shutil.which(tool)]
    if missing:
        sys.exit(f"release: NOT VERIFIED: not found: {', '.join(missing)} (Debian: apt-get install cmake pkg-config binutils)")
    with tempfile.TemporaryDirectory(prefix="focal-loss-release-") as temporary:
        clean = pathlib.Path(temporary)
        for path in FILES.iterdir():
            shutil.copy(path, clean)
        shutil.copytree(ROOT / "tests" / "install" / "outside", clean / "outside")
        shutil.copy(ROOT / "tests" / "python" / "wheel_smoke.py", clean)
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", temporary), "LC_ALL": "C"}
        environment |= {key: value for key, value in os.environ.items() if key.startswith("PIP_") or key.endswith("_proxy")}

        def here(*command, **options):
            return run(*command, cwd=clean, env=environment, **options)

        here("sha256sum", "--check", "--strict", "SHA256SUMS")
        listed = (clean / "SHA256SUMS").read_text()
        (wheel,) = clean.glob("*.whl")
        assert wheel.name in listed and f"{NAME}.tar.gz" in listed, listed
        here("tar", "xzf", f"{NAME}.tar.gz")
        tree = clean / NAME
        check_tree(tree)
        programs(clean, tree, environment, here)
        here(sys.executable, "-m", "venv", "venv")
        here("venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel.name)
        here("venv/bin/python", "wheel_smoke.py")
    print("release: verified in a clean folder")


def check_tree(tree):
    """Everything that belongs there is, and the library runs on the oldest glibc that is promised."""
    library = tree / "lib" / f"libfocal_loss.so.{VERSION}"
    expected = [*DOCUMENTS, "docs/abi.md", "include/focal_loss.h", "include/focal_loss.hpp", "lib/libfocal_loss.a"]
    expected += ["lib/libfocal_loss.so", "lib/libfocal_loss.so.0", "share/cmake/focal_loss/focal_loss-config.cmake"]
    absent = [name for name in expected if not (tree / name).is_file()]
    assert not absent, f"the tarball lacks {absent}"
    dynamic = subprocess.check_output(["readelf", "--wide", "--dynamic", "--dyn-syms", library], text=True)
    assert "[libfocal_loss.so.0]" in dynamic, dynamic
    needs = max(tuple(map(int, found)) for found in re.findall(r"@GLIBC_(\d+)\.(\d+)", dynamic))
    assert needs <= pinned("GLIBC"), f"the library needs glibc {needs}"
    print("{}: needs glibc {}.{}".format(library.name, *needs))


def programs(clean, tree, environment, here):
    """C and C++ programs by pkg-config and by CMake."""
    environment["PKG_CONFIG_PATH"] = str(tree / "lib" / "pkgconfig")
    flags = here("pkg-config", "--cflags", "--libs", "focal_loss", capture_output=True, text=True).stdout.split()
    here("gcc", "-std=c99", "outside/program.c", *flags, "-lm", "-o", "by_pkg_config_c")
    here("g++", "-std=c++17", "outside/program.cpp", "outside/unit.cpp", *flags, "-o", "by_pkg_config_cpp")
    here("cmake", "-S", "outside", "-B", "by_cmake", f"-DCMAKE_PREFIX_PATH={tree}", stdout=subprocess.DEVNULL)
    here("cmake", "--build", "by_cmake", stdout=subprocess.DEVNULL)
    environment["LD_LIBRARY_PATH"] = str(tree / "lib")
    for program in ("by_pkg_config_c", "by_pkg_config_cpp", "by_cmake/shared_c", "by_cmake/static_cpp"):
        print(f"  {program}: ", end="", flush=True)
        here(clean / program)
    del environment["LD_LIBRARY_PATH"]


if __name__ == "__main__":
    commands = {"build": build, "verify": verify}
    if not sys.argv[1:] or not set(sys.argv[1:]) <= set(commands):
        sys.exit(__doc__)
    for command in sys.argv[1:]:
        commands[command]()
