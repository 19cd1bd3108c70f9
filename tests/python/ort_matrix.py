#!/usr/bin/env python3
"""Run the operators' tests in several versions of ONNX Runtime, each in an environment of its own under target/.

    python3 tests/python/ort_matrix.py [VERSION ...]     default: 1.17.3 1.23.2 1.24.4 newest
"""

import pathlib
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEFAULT = ["1.17.3", "1.23.2", "1.24.4", "newest"]


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
    failed = []
    for version in versions or DEFAULT:
        python = environment(version)
        found = subprocess.run(
            [python, "-c", "import onnxruntime; print(onnxruntime.__version__)"], check=True, capture_output=True, text=True
        ).stdout.strip()
        print(f"ONNX Runtime {found}:", flush=True)
        tests = sorted(str(path) for path in (ROOT / "tests/python").glob("test_ort_*.py"))
        test = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        if subprocess.run(test, cwd=ROOT).returncode:
            failed.append(found)
    if failed:
        sys.exit(f"failed in ONNX Runtime {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
