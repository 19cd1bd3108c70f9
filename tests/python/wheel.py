#!/usr/bin/env python3
"""Build the wheel and try it as its users get it.

    python3 tests/python/wheel.py build          into target/wheel
    python3 tests/python/wheel.py test           what is there: its name, its symbols, and wheel_smoke.py in every Python
    python3 tests/python/wheel.py build test

Pythons from 3.10 on are looked for on the path and among pyenv's versions; at least one has to be there.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "target" / "wheel"
TAG = "py3-none-manylinux_2_28_x86_64"
TOOLS = ["build==1.6.1", "auditwheel==6.8.2"]
OLDEST = (3, 10)


def tools():
    """The Python of an environment with what builds and audits wheels."""
    folder = ROOT / "target" / "venv-wheel"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *TOOLS], check=True)
        ready.touch()
    return python


def build():
    shutil.rmtree(FOLDER, ignore_errors=True)
    subprocess.run([tools(), "-m", "build", "--wheel", "--outdir", FOLDER, ROOT], check=True)


def the_wheel():
    wheels = list(FOLDER.glob("*.whl"))
    if len(wheels) != 1:
        sys.exit(f"{FOLDER} holds {len(wheels)} wheels, not one: run `make wheel`")
    return wheels[0]


def check(wheel):
    """Its name, what is in it, and that auditwheel agrees with both."""
    assert wheel.name.endswith(f"-{TAG}.whl"), wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert {"focal_loss_onnx/libfocal_loss.so", "focal_loss_onnx/py.typed"} <= set(names), names
    needed = [line for line in re.findall("^Requires-Dist: (.*)$", metadata, re.MULTILINE) if "extra ==" not in line]
    assert sorted(re.split(r"[<>=~! ]", line)[0] for line in needed) == ["numpy", "onnx"], needed
    audit = subprocess.run([tools(), "-m", "auditwheel", "show", wheel], check=True, capture_output=True, text=True).stdout
    said = re.search(r'consistent\s+with the following platform tag: "([^"]+)"', audit)
    assert said and TAG.endswith(said[1]), audit
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {said[1]} says auditwheel", flush=True)


def pythons():
    """One interpreter for each version of Python, oldest first."""
    found = {}
    folders = [pathlib.Path(folder) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    folders += sorted(pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv")).glob("versions/*/bin"))
    for folder in folders:
        for path in folder.glob("python3.*"):
            name = re.fullmatch(r"python3\.(\d+)", path.name)
            # Asked for its version, since pyenv puts scripts of these names on the path for versions it does not have.
            question = [path, "-c", "import sys, venv, ensurepip; print(*sys.version_info[:2])"]
            if not name or (3, int(name[1])) < OLDEST or (3, int(name[1])) in found:
                continue
            answer = subprocess.run(question, capture_output=True, text=True)
            if answer.returncode == 0 and answer.stdout.split() == ["3", name[1]]:
                found[3, int(name[1])] = path
    return dict(sorted(found.items()))


def test():
    wheel = the_wheel()
    check(wheel)
    interpreters = pythons()
    if not interpreters:
        sys.exit("no Python from 3.10 on with venv was found")
    # What could lead to the checkout's own library or package.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FOCAL_LOSS_LIBRARY")}
    for (major, minor), interpreter in interpreters.items():
        folder = ROOT / "target" / f"venv-wheel-{major}.{minor}"
        subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
        python = folder / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], check=True)
        subprocess.run([python, ROOT / "tests/python/wheel_smoke.py"], check=True, cwd=folder, env=environment)


if __name__ == "__main__":
    commands = {"build": build, "test": test}
    if not sys.argv[1:] or not set(sys.argv[1:]) <= set(commands):
        sys.exit(__doc__)
    for command in sys.argv[1:]:
        commands[command]()
