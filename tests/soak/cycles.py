#!/usr/bin/env python3
"""What comes must go: thousands of sessions of ONNX Runtime, registrations and loadings of the library, each used once
and destroyed. Nothing may be left over: no memory, no thread, no file.

    python tests/soak/cycles.py [CYCLES]        default: SOAK_CYCLES, or 10,000

Each kind runs in a process of its own. ONNX Runtime's own leaks are known from sessions without the library.
"""

import ctypes
import os
import pathlib
import subprocess
import sys
from itertools import pairwise

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/python"))

from memory import Memory, growth  # noqa: E402

# Pages, from the second quarter of the measurements to the last, in KiB.
RESIDENT_ALLOWED = 4096
MEASUREMENTS = 20


def bytes_allowed(cycles):
    """What a cycle may leave allocated beyond what the host leaves: less than a kernel, which is 250 bytes."""
    return 64 + 30_000 / cycles


def control():
    """Sessions of a model in standard operators, without the library."""
    import numpy as np
    from onnx import TensorProto, helper
    from ort_models import make_session, ort, run

    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Sigmoid", ["logits"], ["result"])], "control", [logits], [result])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    feeds = {"logits": np.zeros((6, 5), np.float32)}

    def cycle():
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 2
        run(make_session(model, options), feeds)

    return cycle


def _of_sessions(options_of_cycle):
    from ort_models import make_feeds, make_model, make_session, run

    # Larger than a chunk, so that the session's threads are used.
    model, feeds = make_model("SigmoidFocalLoss"), make_feeds("SigmoidFocalLoss", rows=(1000,), classes=80)
    expected = run(make_session(model, options_of_cycle()), feeds)

    def cycle():
        result = run(make_session(model, options_of_cycle()), feeds)
        assert result.tobytes() == expected.tobytes(), f"{result} is not {expected}"

    return cycle


def sessions():
    """Sessions with options that the library was registered with once."""
    from ort_models import session_options

    options = session_options(2)
    return _of_sessions(lambda: options)


def registrations():
    """Options, the library registered with them, and a session: the host loads the library and unloads it."""
    from ort_models import session_options

    return _of_sessions(lambda: session_options(2))


def loads():
    """dlopen, a call, a failing call, dlclose. The library stays in memory (`-z nodelete`): its threads must not be
    left without their code."""
    from focal_loss_ctypes import Device, DType, Inputs, Options, Tensor, library_path

    system = ctypes.CDLL(None)
    system.dlopen.restype = system.dlsym.restype = ctypes.c_void_p
    system.dlsym.argtypes, system.dlclose.argtypes = [ctypes.c_void_p, ctypes.c_char_p], [ctypes.c_void_p]
    pointers = [ctypes.POINTER(kind) for kind in (Options, Inputs, Tensor)]
    initialise, forward = ctypes.CFUNCTYPE(None, pointers[0]), ctypes.CFUNCTYPE(ctypes.c_int32, *pointers)
    path = library_path().encode()
    rows, classes = 2000, 80
    logits = (ctypes.c_float * (rows * classes))(*(i % 23 - 15 for i in range(rows * classes)))
    labels = (ctypes.c_int64 * rows)(*(i % (classes + 1) for i in range(rows)))
    shape, loss = (ctypes.c_int64 * 2)(rows, classes), ctypes.c_float()
    kinds = {"x": (logits, 2, DType(2, 32, 1)), "t": (labels, 1, DType(0, 64, 1)), "l": (loss, 0, DType(2, 32, 1))}
    x, t, result = (
        Tensor(ctypes.addressof(memory), Device(1, 0), rank, dtype, shape, None, 0) for memory, rank, dtype in kinds.values()
    )
    inputs = Inputs(ctypes.sizeof(Inputs), ctypes.pointer(x), ctypes.pointer(t))
    inputs.keep = kinds, shape
    seen = set()

    def cycle():
        handle = system.dlopen(path, os.RTLD_NOW | os.RTLD_LOCAL)
        assert handle, f"{path} cannot be loaded"
        options = Options()
        initialise(system.dlsym(handle, b"focal_loss_options_init"))(options)
        call = forward(system.dlsym(handle, b"focal_loss_forward"))
        assert call(options, inputs, result) == 0
        seen.add(loss.value)
        assert len(seen) == 1, seen
        options.gamma = -1
        assert call(options, inputs, result) == 1
        assert system.dlclose(handle) == 0

    return cycle


KINDS = {kind.__name__: kind for kind in (control, sessions, registrations, loads)}


def measure(kind, cycles):
    """Prints the bytes and the KiB that grew, threads and files."""
    cycle = KINDS[kind]()
    memory, per_measurement = [], max(cycles // MEASUREMENTS, 1)
    for _ in range(MEASUREMENTS):
        for _ in range(per_measurement):
            cycle()
        memory.append(Memory.now())
    # The middle step, since a leak is in each, and a table of Python's that grows in one.
    steps = sorted(after.allocated - before.allocated for before, after in pairwise(memory[MEASUREMENTS // 4 :]))
    quarter = MEASUREMENTS // 4
    grown = growth(memory[quarter : 2 * quarter], memory[-quarter:])
    print(steps[len(steps) // 2] * 1024 / per_measurement, grown.resident, grown.threads, grown.files)
    print(f"last: {memory[-1]}", file=sys.stderr)


def main(cycles):
    failed, host = [], 0.0
    for kind in KINDS:
        command = [sys.executable, __file__, kind, str(cycles)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"cycles: {kind} ended with {done.returncode}")
        allocated, resident, threads, files = map(float, done.stdout.split())
        print(
            f"{cycles:,} {kind}: {allocated:.1f} bytes left over by each, {resident:+,.0f} KiB resident, {threads:+.0f} threads, "
            f"{files:+.0f} files",
            flush=True,
        )
        if kind == "control":
            host = max(allocated, 0)
        elif allocated > host + bytes_allowed(cycles) or resident > RESIDENT_ALLOWED + host * cycles / 1024 or threads or files:
            failed.append(kind)
    if failed:
        sys.exit(f"cycles: something is left over by {', '.join(failed)}")
    print("cycles: nothing is left over")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(sys.argv[1], int(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else int(os.environ.get("SOAK_CYCLES", "10000")))
