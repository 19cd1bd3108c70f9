#!/usr/bin/env python3
"""Run the operators' tests in several versions of ONNX Runtime, each in an environment of its own under target/.

    python3 tests/python/ort_matrix.py [VERSION ...]     default: 1.17.3 1.23.2 1.24.4 newest
    python3 tests/python/ort_matrix.py all               the newest patch of every minor release from 1.17 on
                                                         that this Python can install, optimisation off and all
"""

import os
import pathlib
import re
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEFAULT = ["1.17.3", "1.23.2", "1.24.4", "newest"]
OLDEST = (1, 17)


def offered(python):
    """The versions of ONNX Runtime that pip would install in this Python 3."""
    command = [sys.executable, "-m", "pip", "index", "versions", "onnxruntime"]
    command += ["--only-binary", ":all:", "--python-version", f"3.{python}"]
    listed = subprocess.run(command, capture_output=True, text=True)
    (line,) = re.findall("^Available versions: (.*)", listed.stdout, re.MULTILINE) or [""]
    # Versions with letters are not releases.
    return [tuple(map(int, name.split("."))) for name in line.split(", ") if re.fullmatch(r"\d+\.\d+\.\d+", name)]


def every_minor():
    """The newest patch of each minor release for this Python; says which are for other Pythons alone."""
    own = sys.version_info.minor
    newest = {version[:2]: version for version in sorted(offered(own)) if version >= OLDEST}
    # A newer release may have left this Python behind.
    anywhere = [version[:2] for python in range(own, own + 4) for version in offered(python)]
    if not newest or not anywhere:
        sys.exit("pip lists no version of ONNX Runtime: is the package index reachable?")
    last = max(anywhere)
    for minor in range(OLDEST[1], last[1] + 1):
        if (OLDEST[0], minor) not in newest:
            print(f"NOT RUN: ONNX Runtime {OLDEST[0]}.{minor} has no wheel for Python 3.{own} here", flush=True)
    return [".".join(map(str, version)) for _, version in sorted(newest.items())]


def environment(version):
    """The Python of an environment that has this version; made once."""
    folder = ROOT / "target" / f"venv-ort-{version}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        print(f"ONNX Runtime {version}: making {folder.relative_to(ROOT)}", flush=True)
        venv.create(folder, with_pip=True)
        runtime = "onnxruntime" if version == "newest" else f"onnxruntime=={version}"
        # Up to 1.18 the wheels are built against NumPy 1.
        numpy = "numpy<2" if version.startswith(("1.17", "1.18")) else "numpy"
        install = [python, "-m", "pip", "install", "--quiet", runtime, numpy, "onnx", "ml_dtypes", "pytest"]
        subprocess.run(install, check=True)
        ready.touch()
    return python


def main(versions):
    everything = versions == ["all"]
    versions = every_minor() if everything else versions or DEFAULT
    tests = sorted(str(path) for path in (ROOT / "tests/python").glob("test_ort_*.py"))
    failed = []
    for version in versions:
        python = environment(version)
        found = subprocess.run(
            [python, "-c", "import onnxruntime; print(onnxruntime.__version__)"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for level in ("off", "all") if everything else ("all",):
            print(f"ONNX Runtime {found}, graph optimisation {level}:", flush=True)
            test = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
            if subprocess.run(test, cwd=ROOT, env={**os.environ, "FOCAL_LOSS_ORT_OPTIMIZATION": level}).returncode:
                failed.append(f"{found} ({level})")
    if failed:
        sys.exit(f"failed in ONNX Runtime {', '.join(failed)}")
    print(f"passed in {len(versions)} versions of ONNX Runtime")


if __name__ == "__main__":
    main(sys.argv[1:])
