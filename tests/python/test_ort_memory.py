"""Every allocation that the library makes in ONNX Runtime fails in turn, by itself and with all that follow.

Each time in a process of its own, from the registration to the second run. The process goes on; the operator gives the
same bits, or the host an exception; and with memory everything works again.
"""

import ctypes
import os
import platform
import subprocess
import sys
import sysconfig

import pytest
from ort_models import OPERATORS, ROOT, is_gradient, library_path, make_feeds, make_model, make_session, run

ROWS, CLASSES = 1024, 80  # three chunks of work
BUILD = ROOT / "target" / "failing"


def results(model, feeds):
    session = make_session(model)
    return b"".join(run(session, feeds).tobytes() for _ in range(2))


def in_child(body):
    """What ``body`` returns in a child, as bytes; the child must end with 0."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writing, body())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the process ended with status {status}"
    return said


def fail_each(operator, dtype, **attributes):
    """Prints how many allocations failed, and how many times the answer was that there is no memory."""
    shim = ctypes.CDLL(None)
    shim.failing_stop.restype = ctypes.c_long
    shim.failing_start.argtypes = [ctypes.c_long, ctypes.c_int]
    # As the host would do it: once it is loaded, it can be found.
    library = ctypes.CDLL(library_path())
    assert library.focal_loss_version_string
    model = make_model(operator, dtype, **attributes)
    feeds = make_feeds(operator, dtype, rows=(ROWS,), classes=CLASSES)

    def expected():
        try:
            return results(model, feeds)[:4096]
        except Exception as error:  # the host has a class for each of its codes
            return str(error).encode()

    wanted = in_child(expected)

    def attempt(number, everything):
        def body():
            assert shim.failing_start(number, everything)
            try:
                said = results(model, feeds)[:4096]
            except Exception as error:
                said = str(error).encode()
            failed = shim.failing_stop()
            without_memory = b"memory could not be had" in said
            assert without_memory or said == wanted, (said[:300], wanted[:300])
            assert failed or not without_memory
            assert expected() == wanted
            return b"%d %d" % (failed, without_memory)

        return map(int, in_child(body).split())

    total, answered = 0, 0
    for everything in (0, 1):
        for number in range(1, 10_000):
            failed, without_memory = attempt(number, everything)
            total += failed
            answered += without_memory
            if not failed:
                break
    print(total, answered)


@pytest.fixture(scope="module")
def shim():
    if platform.libc_ver()[0] != "glibc" or "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("allocations can be made to fail with glibc alone, and without AddressSanitizer")
    BUILD.mkdir(parents=True, exist_ok=True)
    built = BUILD / f"failing-{sysconfig.get_platform()}.so"
    source = ROOT / "tests" / "python" / "failing.c"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", source, "-o", built], check=True)
    return built


def fail_each_in_a_process(shim, call):
    command = [sys.executable, "-c", f"import test_ort_memory as t; t.{call}"]
    environment = {**os.environ, "LD_PRELOAD": str(shim), "FOCAL_LOSS_MAX_ISA": "avx512"}
    done = subprocess.run(command, cwd=ROOT / "tests" / "python", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    failed, answered = map(int, done.stdout.split()[-2:])
    print(f"{call}: {failed} allocations failed, {answered} times the answer was a lack of memory")
    return failed, answered


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_without_memory(shim, operator):
    dtype = "float64" if is_gradient(operator) else "float32"
    failed, _ = fail_each_in_a_process(shim, f"fail_each({operator!r}, {dtype!r}, reduction='sum')")
    assert failed > 10


def test_an_error_without_memory(shim):
    """A message that there is no memory for; the reserve has no room for one of this length."""
    failed, answered = fail_each_in_a_process(shim, "fail_each('SigmoidFocalLoss', 'float32', reduction='m' * 100_000)")
    assert failed > 10 and answered > 0
