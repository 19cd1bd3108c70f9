"""The operators' CUDA variants in a host whose part is played (fake_host.py), on the stub of the driver."""

import subprocess
import sys

import fake_host
import host as kernels
import numpy as np
import pytest
import stub
from focal_loss_onnx import reference
from places import ROOT
from stub import DRIVER, StubMemory

CPU, CUDA, PLUGIN = "CPUExecutionProvider", "CUDAExecutionProvider", "CudaPluginExecutionProvider"
NAMES = ["SigmoidFocalLoss", "SoftmaxFocalLoss", "SigmoidFocalLossGrad", "SoftmaxFocalLossGrad"]
HOST = fake_host.host()


@pytest.fixture(autouse=True)
def fresh():
    kernels.run_kernels()
    DRIVER.stub_reset()
    DRIVER.stub_set_current(DRIVER.stub_context(0))
    yield
    DRIVER.stub_reset()
    DRIVER.stub_execute_with(None)


def journal(name):
    return [line for line in DRIVER.stub_journal().decode().splitlines() if line.startswith(name)]


def test_every_operator_has_a_variant_for_each_provider():
    variants = {provider: {(o.name, o.types) for o in HOST.operators if o.provider == provider} for provider in (CPU, CUDA, PLUGIN)}
    assert variants[CPU] == variants[CUDA] == variants[PLUGIN]
    assert len(variants[CPU]) == 4 * 4 * 3
    assert len(HOST.operators) == 3 * len(variants[CPU])


@pytest.mark.parametrize("provider", [CUDA, PLUGIN])
@pytest.mark.parametrize("name", NAMES)
def test_values_on_the_hosts_stream(name, provider):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(-1, 3, (12, 16)).astype(np.float32), rng.integers(0, 16, 12)
    weight = rng.random((12, 1) if name.startswith("Sigmoid") else 12).astype(np.float32)
    attributes = {"alpha": 0.25, "gamma": 1.5, "reduction": "mean", "normalization": "positives", "ignore_index": 3}
    operator = HOST.find(name, provider)
    kernel = HOST.make(operator, **attributes)
    assert len(journal("cuModuleLoadDataEx")) == 1, "compiled when the session is made"
    context = DRIVER.stub_current()
    stream = DRIVER.stub_stream(context)
    DRIVER.stub_set_current(None)  # a host's worker thread may have no context
    given = [logits, targets, None, weight]
    options = dict(activation="sigmoid" if name.startswith("Sigmoid") else "softmax", weight=weight, **attributes)
    if name.endswith("Grad"):
        given.insert(0, np.array(2, np.float32))
        expected = reference.focal_loss_grad(2.0, logits, targets, **options)
    else:
        expected = reference.focal_loss(logits, targets, **options)
    outstanding = DRIVER.stub_outstanding()  # tests that make frees fail leave something
    got = HOST.run(operator, kernel, given, StubMemory(), stream)
    np.testing.assert_allclose(got, expected, 2e-6, 1e-6 * np.abs(expected).max())
    launches = journal("cuLaunchKernel focal_loss_")
    assert launches and all(line.endswith(hex(stream)) for line in launches)
    assert len(journal("cuModuleLoadDataEx")) == 1
    assert DRIVER.stub_current() is None and DRIVER.stub_outstanding() == outstanding
    HOST.destroy(operator, kernel)


def test_a_run_can_be_captured():
    operator = HOST.find("SigmoidFocalLoss", CUDA)
    kernel = HOST.make(operator)
    stream = DRIVER.stub_stream(DRIVER.stub_current())
    DRIVER.stub_capture(stream, 1)
    HOST.run(operator, kernel, [np.zeros((4, 8), np.float32), np.zeros(4, np.int64)], StubMemory(), stream)
    assert DRIVER.stub_capture(stream, 0)
    HOST.destroy(operator, kernel)


def test_the_second_device():
    DRIVER.stub_set_current(DRIVER.stub_primary(1))
    operator = HOST.find("SigmoidFocalLoss", CUDA)
    kernel = HOST.make(operator)
    HOST.run(operator, kernel, [np.zeros((4, 8), np.float32), np.zeros(4, np.int64)], StubMemory(1))
    assert set(journal("cuCtxPushCurrent_v2")) == {"cuCtxPushCurrent_v2 1"}
    HOST.destroy(operator, kernel)


@pytest.mark.parametrize("function", ["cuLaunchKernel", "cuMemAllocFromPoolAsync", "cuStreamGetCtx"])
def test_errors_name_the_node(function):
    operator = HOST.find("SigmoidFocalLoss", CUDA)
    kernel = HOST.make(operator)
    stream = DRIVER.stub_stream(DRIVER.stub_current())
    DRIVER.stub_set(function.encode(), 700)
    given = [np.zeros((4, 8), np.float32), np.zeros(4, np.int64)]
    with pytest.raises(fake_host.Failure, match=f"SigmoidFocalLoss node 'node_under_test': {function}: error 700"):
        HOST.run(operator, kernel, given, StubMemory(), stream)
    DRIVER.stub_reset()
    HOST.run(operator, kernel, given, StubMemory(), stream)
    HOST.destroy(operator, kernel)


PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests/cuda")!r})
import fake_host
host = fake_host.host()
host.make(host.find("SigmoidFocalLoss", "CPUExecutionProvider"))
try:
    host.make(host.find("SigmoidFocalLoss", "CUDAExecutionProvider"))
except fake_host.Failure as failure:
    print(failure)
"""


def test_a_node_without_a_driver():
    environment = {"LD_LIBRARY_PATH": str(stub.BUILD / "broken"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SigmoidFocalLoss node 'node_under_test': there is no CUDA driver: ")
    assert "libcuda.so.1: file too short" in done.stdout
