"""The CUDA backend against a stub of the driver: what it calls, what it says when a call fails, what it leaves behind.

Kernels do not run here; test_results.py has them run.
"""

import contextlib
import ctypes
import mmap
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import stub
from places import ROOT, fl
from stub import CUDA, DRIVER, MANAGED, StubMemory

CPU = fl.Library()
INVALID_VALUE, OUT_OF_MEMORY, NOT_PERMITTED, ILLEGAL_ADDRESS = 1, 2, 800, 700
LOGITS = np.random.default_rng(0).normal(-2, 3, (100, 80)).astype(np.float32)
TARGETS = np.random.default_rng(1).integers(0, 81, 100)


@pytest.fixture(autouse=True)
def fresh():
    """A context of its own for each test: nothing is loaded into it yet."""
    DRIVER.stub_execute_with(None)
    DRIVER.stub_reset()
    DRIVER.stub_set_current(DRIVER.stub_context(0))
    yield
    DRIVER.stub_reset()


def library(device=0, kind=CUDA):
    return fl.Library(memory=StubMemory(device, kind))


def journal(name=""):
    return [line for line in DRIVER.stub_journal().decode().splitlines() if line.startswith(name)]


def launches():
    """Kernel, blocks, threads, stream of each launch."""
    split = [line.split() for line in journal("cuLaunchKernel focal_loss_")]
    return [(kernel.removeprefix("focal_loss_"), int(gx), int(bx), stream) for _, kernel, gx, _, _, bx, *_, stream in split]


@contextlib.contextmanager
def nothing_left_behind(modules=None):
    """Contexts are popped, memory is freed, the capture mode is restored; modules are as many as before, or `modules`
    more."""
    state = lambda: (DRIVER.stub_current(), DRIVER.stub_depth(), DRIVER.stub_outstanding(), DRIVER.stub_relaxed())
    before, loaded = state(), DRIVER.stub_modules()
    yield
    assert state() == before
    if modules is not None:
        assert DRIVER.stub_modules() == loaded + modules


# What goes wrong before a driver is in use, each time in a process of its own.

PROGRAM = """
    import sys
    sys.path[:0] = [{tests!r}, {python!r}]
    import numpy as np
    import focal_loss_ctypes as fl

    class OnDevice(fl.MainMemory):
        def tensor(self, array):
            return fl.tensor(array, device=(2, 0))

    logits, targets = np.zeros((4, 3), np.float32), np.zeros(4, np.int64)
    before = fl.Library().forward(logits, targets)
    for call in range(2):
        try:
            fl.Library(memory=OnDevice()).forward(logits, targets, reduction="none")
            print("works")
        except fl.Error as error:
            print(error.status, error)
    assert fl.Library().forward(logits, targets) == before, "the CPU's work is not affected"
"""


def outcome(form, settings=""):
    program = textwrap.dedent(PROGRAM.format(tests=str(ROOT / "tests/cuda"), python=str(ROOT / "tests/python")))
    environment = {**os.environ, "LD_LIBRARY_PATH": str(stub.BUILD / form), "STUB_CUDA": settings}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, again = done.stdout.splitlines()
    assert first == again, "the answer stays the same"
    return first


@pytest.mark.parametrize(
    "form, settings, message",
    [
        ("broken", "", "there is no CUDA driver: "),
        ("broken", "", "libcuda.so.1: file too short"),
        ("no-stream-contexts", "", "libcuda.so.1: cuStreamGetCtx is missing; a driver for CUDA 11.8 or newer is needed"),
        ("whole", "version=11040", "the CUDA driver is too old: it serves CUDA 11.4, but 11.8 or newer is needed"),
        ("no-stream-contexts", "version=9000", "the CUDA driver is too old: it serves CUDA 9.0"),
        ("whole", "devices=0", "cuInit: CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)"),
        ("whole", "cuInit=3", "cuInit: CUDA_ERROR_NOT_INITIALIZED (initialization error)"),
        ("whole", "cuInit=12345", "cuInit: error 12345"),
    ],
)
def test_no_usable_driver(form, settings, message):
    status, said = outcome(form, settings).split(" ", 1)
    assert int(status) == fl.CUDA
    assert message in said


def test_a_driver_without_context_ids_serves():
    """cuCtxGetId came with CUDA 12.0. That the memory is no device's is the first thing that this driver minds."""
    status, said = outcome("no-context-ids", "version=11080").split(" ", 1)
    assert int(status) == fl.INVALID_ARGUMENT
    assert "not memory of CUDA device 0" in said


# Calls that fail.

EVERY_CALL = [
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuCtxGetCurrent",
    "cuCtxGetDevice",
    "cuCtxPushCurrent_v2",
    "cuPointerGetAttributes",
    "cuThreadExchangeStreamCaptureMode",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
    "cuMemPoolCreate",
    "cuMemPoolSetAttribute",
    "cuMemAllocFromPoolAsync",
    "cuMemFreeAsync",
    "cuLaunchKernel",
]


@pytest.mark.parametrize("code, status, name", [(INVALID_VALUE, fl.CUDA, "CUDA_ERROR_INVALID_VALUE (invalid argument)"),
                                               (OUT_OF_MEMORY, fl.OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY (out of memory)"),
                                               (54321, fl.CUDA, "error 54321")])  # fmt: skip
@pytest.mark.parametrize("function", EVERY_CALL)
def test_a_call_that_fails(function, code, status, name):
    DRIVER.stub_set(function.encode(), code)
    loaded = function in ("cuMemAllocFromPoolAsync", "cuMemFreeAsync", "cuLaunchKernel")
    if function == "cuMemFreeAsync":  # the stub keeps what it could not free
        check = contextlib.nullcontext()
    else:
        check = nothing_left_behind(modules=int(loaded))
    with check, pytest.raises(fl.Error) as caught:
        library().forward(LOGITS, TARGETS, normalization="positives")
    assert caught.value.status == status
    assert str(caught.value).startswith(f"{function}: {name}")
    if function == "cuMemFreeAsync":
        DRIVER.stub_reset()
        assert DRIVER.stub_current() and DRIVER.stub_depth() == 1
        return
    # Nothing is remembered: once the driver is well again, so is the next call.
    DRIVER.stub_reset()
    with nothing_left_behind():
        library().forward(LOGITS, TARGETS, normalization="positives")
    assert len(launches()) == 3


@pytest.mark.parametrize("skip", [1, 2])
def test_a_later_launch_that_fails(skip):
    DRIVER.stub_set(b"skip", skip)
    DRIVER.stub_set(b"cuLaunchKernel", ILLEGAL_ADDRESS)
    with nothing_left_behind(modules=1), pytest.raises(fl.Error, match="cuLaunchKernel") as caught:
        library().forward(LOGITS, TARGETS, normalization="positives")
    assert caught.value.status == fl.CUDA
    assert len(launches()) == skip and len(journal("cuMemFreeAsync")) == 1


def test_every_function_of_the_driver_is_made_to_fail():
    """The list above holds all that a call calls; those that are left have tests of their own."""
    library().forward(LOGITS, TARGETS, normalization="positives")
    called = {line.split()[0] for line in journal()}
    assert called - set(EVERY_CALL) == {"cuCtxPopCurrent_v2", "cuCtxGetId"}


def test_a_module_that_does_not_compile_says_why():
    DRIVER.stub_set(b"reject_ptx", 1)
    with nothing_left_behind(modules=0), pytest.raises(fl.Error) as caught:
        library().forward(LOGITS, TARGETS)
    assert caught.value.status == fl.CUDA
    assert str(caught.value) == (
        "cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX (a PTX JIT compilation failed): ptxas fatal: told to reject it"
    )


def test_a_device_without_memory_pools():
    DRIVER.stub_set(b"pools", 0)
    try:
        with nothing_left_behind(), pytest.raises(fl.Error, match="memory pools") as caught:
            library().forward(LOGITS, TARGETS)
        assert caught.value.status == fl.CUDA
        with nothing_left_behind():  # what sums nothing needs none
            library().forward(LOGITS, TARGETS, reduction="none")
        assert len(launches()) == 1
    finally:
        DRIVER.stub_set(b"pools", 1)


# Arguments.


def refused(call, *words):
    with nothing_left_behind(), pytest.raises(fl.Error) as caught:
        call()
    assert caught.value.status == fl.INVALID_ARGUMENT
    for word in words:
        assert word in str(caught.value)
    assert not launches()


def test_tensors_in_several_places():
    class Mixed(StubMemory):
        def tensor(self, array):
            view = super().tensor(array)
            if array is TARGETS:
                view.device = fl.Device(*where)
            return view

    for where, words in [
        ((1, 0), ["targets: is on the CPU, but logits are on CUDA device 0"]),
        ((3, 0), ["targets: is on the CPU, but logits are on CUDA device 0"]),
        ((2, 1), ["targets: is on CUDA device 1, but logits are on CUDA device 0"]),
        ((13, 1), ["targets: is on CUDA device 1, but logits are on CUDA device 0"]),
    ]:
        refused(lambda: fl.Library(memory=Mixed()).forward(LOGITS, TARGETS), *words)
        assert not journal()
    where = (13, 0)  # managed memory of the same device is at home there
    fl.Library(memory=Mixed()).forward(LOGITS, TARGETS)


@pytest.mark.parametrize("device", [2, 100, -1, -(2**31)])
def test_a_device_that_is_not_there(device):
    refused(lambda: library(device).forward(LOGITS, TARGETS), f"device_id is {device}", "counts 2")


def test_memory_that_is_not_the_devices():
    class Lying(StubMemory):
        def tensor(self, array):
            view = fl.tensor(array, device=(self.kind, 0))
            if array.size:
                low, high = np.lib.array_utils.byte_bounds(array)
                elsewhere = 1 if array is TARGETS else 0
                DRIVER.stub_memory(low, high - low, elsewhere, managed)
            return view

    managed = 0
    refused(lambda: fl.Library(memory=Lying()).forward(LOGITS, TARGETS), "targets: data is memory of CUDA device 1",
            "device_id is 0")  # fmt: skip
    class Unknown(StubMemory):
        def tensor(self, array):
            return fl.tensor(array, device=(CUDA, 0)) if array is unknown else super().tensor(array)

    # Not from NumPy's allocator, which hands out again what the stub was told of before.
    unknown = np.frombuffer(mmap.mmap(-1, 32000), np.float32).reshape(100, 80)
    refused(lambda: fl.Library(memory=Unknown()).forward(unknown, TARGETS), "logits: data is not memory of CUDA device 0")

    managed = 1  # any device may use what is managed
    fl.Library(memory=Lying()).forward(LOGITS, TARGETS)


# Contexts and streams.


def call(lib, stream=None, **options):
    lib.forward(LOGITS, TARGETS, stream=stream, **options)


def test_the_callers_context_is_used_and_stays():
    context = DRIVER.stub_current()
    with nothing_left_behind(modules=1):
        call(library())
        call(library())
    assert DRIVER.stub_current() == context
    assert len(journal("cuModuleLoadDataEx")) == 1, "loaded once for each context"
    assert not journal("cuDevicePrimaryCtxRetain")


@pytest.mark.parametrize("special", [1, 2])
def test_the_special_streams(special):
    with nothing_left_behind():
        call(library(), special)
    assert all(stream == hex(special) for *_, stream in launches())


def test_the_streams_context_is_used():
    stream = DRIVER.stub_stream(DRIVER.stub_context(0))
    with nothing_left_behind(modules=1):
        call(library(), stream)
    assert [stream for *_, stream in launches()] == [hex(stream)] * 2
    # Also in a thread that has no context.
    DRIVER.stub_reset()
    run_in_a_thread(lambda: call(library(), stream))
    assert len(launches()) == 2 and not journal("cuModuleLoadDataEx")


def run_in_a_thread(body):
    failed = []

    def run():
        try:
            with nothing_left_behind():
                body()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def test_the_primary_context_where_none_is_current():
    run_in_a_thread(lambda: call(library()))
    # And where the current one is of another device.
    with nothing_left_behind():
        call(library(device=1))
    assert sorted(journal("cuCtxPushCurrent_v2")) == ["cuCtxPushCurrent_v2 0", "cuCtxPushCurrent_v2 1"]
    assert len(launches()) == 4
    run_in_a_thread(lambda: call(library(device=1)))
    assert len(journal("cuDevicePrimaryCtxRetain 1")) <= 1, "retained once, and kept"


def test_a_stream_of_another_device():
    stream = DRIVER.stub_stream(DRIVER.stub_primary(1))
    refused(lambda: call(library(), stream), "the stream belongs to CUDA device 1, but the tensors are on CUDA device 0")
    with nothing_left_behind():
        call(library(device=1), stream)


def test_no_stream_at_all():
    nonsense = ctypes.create_string_buffer(64)
    with nothing_left_behind(), pytest.raises(fl.Error, match="cuStreamGetCtx: CUDA_ERROR_INVALID_HANDLE") as caught:
        call(library(), ctypes.addressof(nonsense))
    assert caught.value.status == fl.CUDA


def test_a_context_in_the_place_of_another():
    """A context that was destroyed took its module along; a later one may have its address."""
    context = DRIVER.stub_current()
    call(library())
    DRIVER.stub_replace(context)
    with nothing_left_behind(modules=1):
        call(library())
    assert len(journal("cuModuleLoadDataEx")) == 2


def test_managed_memory():
    with nothing_left_behind():
        call(library(kind=MANAGED))
    assert len(launches()) == 2


def test_many_threads():
    """One of them loads the module, the others wait for it."""
    context = DRIVER.stub_context(0)
    streams = [DRIVER.stub_stream(context) for _ in range(8)]
    failed, outstanding = [], DRIVER.stub_outstanding()

    def work(stream):
        try:
            for _ in range(20):
                call(library(), stream)
            assert DRIVER.stub_depth() == 0
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=[stream]) for stream in streams]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failed
    assert len(journal("cuModuleLoadDataEx")) == 1
    assert len(launches()) == 8 * 20 * 2
    assert DRIVER.stub_outstanding() == outstanding

# CUDA graphs.


def test_a_call_can_be_captured_even_the_first():
    stream = DRIVER.stub_stream(DRIVER.stub_current())
    DRIVER.stub_capture(stream, 1)
    with nothing_left_behind(modules=1):
        call(library(), stream, normalization="positives")
    assert DRIVER.stub_capture(stream, 0), "nothing broke the capture"
    names = [line.split()[0] for line in journal()]
    work = [name for name in names if name in ("cuMemAllocFromPoolAsync", "cuLaunchKernel", "cuMemFreeAsync")]
    assert work == ["cuMemAllocFromPoolAsync", "cuLaunchKernel", "cuLaunchKernel", "cuLaunchKernel", "cuMemFreeAsync"]


def test_nothing_synchronises_and_the_host_reads_nothing():
    """The stub has no function that waits or copies, and the library asks for none that it does not have."""
    names = subprocess.run(["nm", "-D", "--defined-only", str(stub.BUILD / "whole/libcuda.so.1")], check=True,
                           capture_output=True, text=True).stdout  # fmt: skip
    assert "cuLaunchKernel" in names
    for word in ("Synchronize", "Memcpy", "Memset", "EventRecord", "cuMemAlloc_v2"):
        assert word not in names


# What is launched.


class Operand(ctypes.Structure):
    _fields_ = [("address", ctypes.c_uint64), ("class_stride", ctypes.c_int64), ("row_strides", ctypes.c_int64 * 15)]


class Arguments(ctypes.Structure):
    """`focal_loss_problem`; that this is its layout, a unit test of the library compares with the header."""

    _fields_ = (
        [(n, Operand) for n in ("logits", "targets", "weight", "grad_loss", "loss", "grad_logits")]
        + [(n, ctypes.c_uint64) for n in ("class_alpha",)]
        + [("class_alpha_stride", ctypes.c_int64)]
        + [(n, ctypes.c_uint64) for n in ("normalizer", "partials", "count_partials")]
        + [("row_shape", ctypes.c_int64 * 15)]
        + [(n, ctypes.c_int64) for n in ("rows", "classes", "ignore_index", "background_index")]
        + [(n, ctypes.c_double) for n in ("alpha", "gamma", "divisor", "count_factor")]
        + [(n, ctypes.c_int32) for n in ("row_rank", "index_bytes", "has_ignore", "has_background", "reduced", "count",
                                         "row_weights", "rows_innermost")]
        + [(n, ctypes.c_uint32) for n in ("blocks", "count_blocks")]
    )  # fmt: skip


EXECUTOR = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_uint),
                            ctypes.c_uint, ctypes.POINTER(ctypes.c_void_p))  # fmt: skip


def seen(work, memory=None):
    """The launches of a call: (kernel, blocks, threads, arguments)."""
    found = []

    @EXECUTOR
    def note(kernel, grid, block, shared, arguments):
        copy = Arguments.from_buffer_copy(ctypes.string_at(arguments[0], ctypes.sizeof(Arguments)))
        found.append((kernel.decode().removeprefix("focal_loss_"), grid[0], block[0], copy))

    DRIVER.stub_execute_with(ctypes.cast(note, ctypes.c_void_p))
    try:
        work(fl.Library(memory=memory or StubMemory()))
    finally:
        DRIVER.stub_execute_with(None)
    return found


def aligned(shape, dtype=np.float32, offset=0, fill=None):
    """An array whose address is a multiple of 256, and `offset` bytes on."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.zeros(size + 512, np.uint8)
    start = -buffer.ctypes.data % 256 + offset
    return buffer[start : start + size].view(dtype).reshape(shape)


def names(found):
    return [name for name, *_ in found]


def test_the_kernels_that_are_chosen():
    index = np.zeros(100, np.int64)
    for dtype, short in [(np.float32, "f32"), (np.float64, "f64"), (np.float16, "f16")]:
        logits = aligned((100, 80), dtype)
        dense = aligned((100, 80), dtype)
        forward = lambda *given, **options: names(seen(lambda lib: lib.forward(*given, **options)))
        assert forward(logits, index, reduction="sum") == [f"sigmoid_rows_{short}_loss", f"finish_{short}"]
        assert forward(logits, index, weight=np.ones(80, dtype)) == [f"sigmoid_index_{short}_loss", f"finish_{short}"]
        assert forward(logits, dense) == [f"sigmoid_dense_{short}_loss", f"finish_{short}"]
        assert forward(logits, dense, normalization="positives") == [
            f"count_{short}", f"sigmoid_dense_{short}_loss", f"finish_{short}"]  # fmt: skip
        assert forward(aligned((100, 81), dtype), index) == [f"sigmoid_index_{short}_loss", f"finish_{short}"]
        assert forward(logits[:, ::2], index) == [f"sigmoid_strided_{short}", f"finish_{short}"]
        assert forward(logits, dense.T.copy().T) == [f"sigmoid_strided_{short}", f"finish_{short}"]
        misaligned = aligned((100, 80), dtype, offset=np.dtype(dtype).itemsize)
        assert forward(misaligned, index) == [f"sigmoid_strided_{short}", f"finish_{short}"]
        softmax = {"activation": "softmax", "alpha": -1}
        assert forward(logits, index, **softmax) == [f"softmax_warp_{short}", f"finish_{short}"]
        assert forward(logits[:, :4].copy(), index, **softmax) == [f"softmax_thread_{short}", f"finish_{short}"]
        assert forward(aligned((80, 100), dtype), index, axis=0, **softmax) == [f"softmax_thread_{short}", f"finish_{short}"]
        backward = names(seen(lambda lib: lib.backward(logits, index, np.array(2, dtype))))
        assert backward == [f"sigmoid_rows_{short}_grad"]
        both = seen(lambda lib: lib.forward_backward(logits, index, np.array(2, dtype), normalization="positives"))
        assert names(both) == [f"count_{short}", f"sigmoid_rows_{short}_both", f"finish_{short}"]


def test_what_the_kernels_are_told():
    logits, index = aligned((6, 5, 8)), np.zeros((6, 5), np.int32)
    weight, grad_loss = np.ones((5, 1), np.float32), np.array(3, np.float32)
    alpha = np.ones(16, np.float32)[::2]

    ((name, blocks, threads, told),) = seen(
        lambda lib: lib.backward(logits, index, grad_loss, weight=weight, class_alpha=alpha, ignore_index=-1, gamma=1.5,
                                 alpha=0.5, reduction="sum")
    )  # fmt: skip
    assert (name, blocks, threads, told.blocks) == ("sigmoid_strided_f32", 1, 256, 1)
    assert (told.rows, told.classes, told.row_rank) == (30, 8, 2)
    assert list(told.row_shape[:2]) == [6, 5]
    assert list(told.logits.row_strides[:2]) == [40, 8] and told.logits.class_stride == 1
    assert list(told.weight.row_strides[:2]) == [0, 1] and told.weight.class_stride == 0
    assert list(told.targets.row_strides[:2]) == [5, 1] and told.targets.class_stride == 0
    assert (told.class_alpha, told.class_alpha_stride) == (alpha.ctypes.data, 2)
    assert told.grad_loss.address == grad_loss.ctypes.data and not any(told.grad_loss.row_strides)
    assert (told.loss.address, told.normalizer, told.partials) == (0, 0, 0)
    assert (told.index_bytes, told.has_ignore, told.ignore_index) == (4, 1, -1)
    assert (told.has_background, told.background_index) == (1, 8)
    assert (told.alpha, told.gamma, told.reduced, told.count, told.divisor) == (0.5, 1.5, 1, 0, 1)

    # Contiguous rows are one axis, whatever their shape; without them there is none.
    (_, _, _, told), _ = seen(lambda lib: lib.forward(logits, index))
    assert (told.row_rank, told.row_shape[0], told.logits.row_strides[0], told.divisor) == (1, 30, 8, 240)
    (_, _, _, told), _ = seen(lambda lib: lib.forward(logits[0, 0], index[0, 0, ...]))
    assert (told.row_rank, told.rows, told.classes) == (0, 1, 8)

    # Images with channels in front: rows in memory are neighbours.
    nchw = aligned((2, 8, 3, 5))
    (_, _, _, told), _ = seen(lambda lib: lib.forward(nchw, np.zeros((2, 3, 5), np.int64), axis=1))
    assert (told.row_rank, list(told.row_shape[:2]), told.rows_innermost) == (2, [2, 15], 1)
    assert list(told.logits.row_strides[:2]) == [120, 1] and told.logits.class_stride == 15
    assert list(told.targets.row_strides[:2]) == [15, 1]


def test_what_the_mean_divides_by():
    logits, index = aligned((100, 80)), np.zeros(100, np.int64)
    weight = np.ones((100, 1), np.float32)
    NOTHING, ROWS, POSITIVES, WEIGHTS = range(4)

    def told(lib_call):
        found = seen(lib_call)
        counts = [f for f in found if f[0].startswith("count")]
        arguments = found[0][3]
        assert bool(counts) == (arguments.count != NOTHING)
        assert all(f[3].count_blocks == counts[0][1] for f in found) if counts else arguments.count_blocks == 0
        return arguments.count, arguments.divisor, arguments.count_factor

    forward = lambda **options: told(lambda lib: lib.forward(logits, index, **options))
    assert forward(reduction="sum") == (NOTHING, 1, 1)
    assert forward(reduction="none", normalization="positives") == (NOTHING, 1, 1)
    assert forward() == (NOTHING, 8000, 1)
    assert forward(normalization="rows") == (NOTHING, 100, 1)
    assert forward(normalization="weights") == (NOTHING, 8000, 1)
    assert forward(normalization="weights", weight=weight)[0] == WEIGHTS
    assert forward(ignore_index=3) == (ROWS, 1, 80)
    assert forward(ignore_index=3, normalization="rows") == (ROWS, 1, 1)
    assert forward(ignore_index=3, normalization="positives")[0] == POSITIVES
    assert forward(ignore_index=3, activation="softmax") == (ROWS, 1, 1)
    # The gradient of a mean needs the count as well.
    assert told(lambda lib: lib.backward(logits, index, normalization="positives"))[0] == POSITIVES


def test_workspace_is_as_large_as_it_has_to_be():
    index = np.zeros(5000, np.int64)
    for reduction, normalization, finish in [("sum", "elements", 1), ("mean", "positives", 1), ("none", "elements", 0)]:
        DRIVER.stub_reset()
        found = seen(lambda lib: lib.forward(aligned((5000, 80)), index, reduction=reduction, normalization=normalization))
        told = found[0][3]
        assert names(found).count("finish_f32") == finish
        size = 8 * (told.blocks * finish + told.count_blocks)
        allocated = [int(line.split()[1]) for line in journal("cuMemAllocFromPoolAsync")]
        assert allocated == ([size] if size else [])
        if told.count_blocks:
            assert told.count_partials == told.partials + 8 * told.blocks


def test_grids_fill_the_device_and_no_more():
    for rows, blocks in [(1, 1), (25, 1), (26, 2), (5000, 196), (10**5, 132 * 4)]:
        (name, grid, threads, told), _ = seen(lambda lib: lib.forward(aligned((rows, 80)), np.zeros(rows, np.int64)))
        assert (name, grid, threads, told.blocks) == ("sigmoid_rows_f32_loss", blocks, 256, blocks), rows


@pytest.mark.parametrize("shape", [(0, 80), (3, 0), (0, 0)])
def test_nothing_to_do(shape):
    logits, dense = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for reduction in ("sum", "mean"):
        ((name, blocks, _, told),) = seen(lambda lib: lib.forward(logits, dense, reduction=reduction,
                                                                  normalization="positives"))  # fmt: skip
        assert (name, blocks, told.blocks, told.count_blocks, told.count, told.divisor) == ("finish_f32", 1, 0, 0, 0, 0)
    assert seen(lambda lib: lib.forward(logits, dense, reduction="none")) == []
    if shape[0]:  # losses of rows that have no class
        with pytest.raises(fl.Error, match="softmax over no classes") as caught:
            library().forward(logits, dense, activation="softmax", reduction="none")
        assert caught.value.status == fl.UNSUPPORTED
    assert seen(lambda lib: lib.backward(logits, dense)) == []
    assert DRIVER.stub_allocations() == 0
