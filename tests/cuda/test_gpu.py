"""On a GPU: PyTorch's tensors through DLPack, streams, CUDA graphs, several devices, errors."""

import math
import threading

import numpy as np
import pytest
import torch
from places import fl
from torch_calls import Call

LIBRARY = fl.Library()
ROWS, CLASSES = 5000, 80


def problem(seed=0, rows=ROWS, dtype=torch.float32, device="cuda"):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, CLASSES, generator=generator) - 4).to(dtype)
    targets = torch.where(torch.rand(rows, generator=generator) < 0.02, torch.randint(CLASSES, (rows,), generator=generator), CLASSES)
    return logits.to(device), targets.to(device)


def reference(logits, targets, **options):
    """What the CPU gives for the same numbers in float64."""
    wide = logits.detach().cpu().double().numpy()
    return LIBRARY.forward_backward(wide, targets.cpu().numpy(), **options)


def outputs(logits):
    return torch.full((), torch.nan, dtype=logits.dtype, device=logits.device), torch.full_like(logits, torch.nan)


def check(loss, grad, logits, targets, **options):
    wanted_loss, wanted_grad = reference(logits, targets, **options)
    assert math.isclose(loss.item(), wanted_loss, rel_tol=1e-6)
    np.testing.assert_allclose(grad.cpu().double().numpy(), wanted_grad, 4e-6, 1e-30)


def test_tensors_of_pytorch():
    logits, targets = problem()
    loss, grad = outputs(logits)
    Call(LIBRARY, logits, targets, loss=loss, grad_logits=grad, normalization="positives")()
    check(loss, grad, logits, targets, normalization="positives")


def test_a_gradient_in_the_logits_own_memory():
    logits, targets = problem()
    before = logits.clone()
    Call(LIBRARY, logits, targets, grad_logits=logits, reduction="sum")()
    _, wanted = reference(before, targets, reduction="sum")
    np.testing.assert_allclose(logits.cpu().numpy(), wanted, 4e-6, 1e-30)


def test_the_values_of_scalars_on_the_device_count_when_the_work_runs():
    """Nothing is read when the call is made: the normalizer is still being computed then."""
    logits, targets = problem()
    loss, grad = outputs(logits)
    normalizer, grad_loss = torch.ones((), device="cuda"), torch.ones((), device="cuda")
    call = Call(LIBRARY, logits, targets, grad_loss, loss, grad, normalizer=normalizer, reduction="sum")
    torch.cuda._sleep(50_000_000)
    normalizer.fill_(4)
    grad_loss.fill_(3)
    call()
    wanted_loss, wanted_grad = reference(logits, targets, reduction="sum")
    assert math.isclose(loss.item(), wanted_loss / 4, rel_tol=1e-6)
    np.testing.assert_allclose(grad.cpu().numpy(), wanted_grad * 3 / 4, 4e-6, 1e-30)


def test_a_call_does_not_wait():
    logits, targets = problem()
    loss, grad = outputs(logits)
    call = Call(LIBRARY, logits, targets, loss=loss, grad_logits=grad, normalization="positives")
    call()
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    call()
    assert not torch.cuda.current_stream().query(), "the stream is still busy with what came before"
    torch.cuda.synchronize()


def test_the_order_of_the_stream_is_kept():
    stream = torch.cuda.Stream()
    logits, targets = problem()
    wrong = logits.clone().zero_()
    loss, grad = outputs(logits)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        wrong.copy_(logits)
        Call(LIBRARY, wrong, targets, loss=loss, grad_logits=grad)()
        wrong.zero_()
    stream.synchronize()
    check(loss, grad, logits, targets)


def test_two_streams_at_once():
    """Workspace of one call is not another's: every result is that of the call by itself, bit for bit."""
    problems = [problem(seed) for seed in range(2)]
    alone = []
    for logits, targets in problems:
        results = outputs(logits)
        Call(LIBRARY, logits, targets, loss=results[0], grad_logits=results[1], normalization="positives")()
        alone.append(results)
    streams = [torch.cuda.Stream() for _ in problems]
    rounds = 50
    many = [[outputs(logits) for _ in range(rounds)] for logits, _ in problems]
    torch.cuda.synchronize()
    failed = []

    def work(i):
        try:
            for loss, grad in many[i]:
                Call(LIBRARY, *problems[i], loss=loss, grad_logits=grad, stream=streams[i], normalization="positives")()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=[i]) for i in range(len(problems))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failed
    torch.cuda.synchronize()
    for results, (loss, grad) in zip(many, alone, strict=True):
        for other_loss, other_grad in results:
            assert torch.equal(other_loss, loss) and torch.equal(other_grad, grad)


@pytest.mark.parametrize("first", [True, False])
def test_capture_and_replay(first):
    """As a CUDA graph: the same bits, and the values that are in memory when it is replayed."""
    logits, targets = problem(3)
    loss, grad = outputs(logits)
    call = Call(LIBRARY, logits, targets, loss=loss, grad_logits=grad, normalization="positives", gamma=1.5)
    if not first:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    for seed in (3, 4):
        new_logits, new_targets = problem(seed)
        logits.copy_(new_logits)
        targets.copy_(new_targets)
        for _ in range(3):
            loss.fill_(torch.nan)
            grad.fill_(torch.nan)
            graph.replay()
            check(loss, grad, logits, targets, normalization="positives", gamma=1.5)
    direct_loss, direct_grad = outputs(logits)
    Call(LIBRARY, logits, targets, loss=direct_loss, grad_logits=direct_grad, normalization="positives", gamma=1.5)()
    assert torch.equal(loss, direct_loss) and torch.equal(grad, direct_grad)


def test_managed_and_special_streams():
    logits, targets = problem()
    loss, grad = outputs(logits)
    for special in (1, 2):

        class Stream:
            cuda_stream = special

        loss.fill_(torch.nan)
        torch.cuda.synchronize()
        Call(LIBRARY, logits, targets, loss=loss, grad_logits=grad, stream=Stream)()
        torch.cuda.synchronize()
        check(loss, grad, logits, targets)


def test_a_thread_without_a_context():
    logits, targets = problem()
    loss, grad = outputs(logits)
    torch.cuda.synchronize()
    call = Call(LIBRARY, logits, targets, loss=loss, grad_logits=grad)
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    check(loss, grad, logits, targets)


def refused(call, status, words):
    with pytest.raises(fl.Error, match=words) as caught:
        call()
    assert caught.value.status == status
    torch.cuda.synchronize()  # the context lives


def test_errors_leave_the_context_alone():
    logits, targets = problem()
    loss, grad = outputs(logits)
    call = lambda *given, **more: Call(LIBRARY, *given, **more)
    refused(call(logits, targets.cpu(), loss=loss), fl.INVALID_ARGUMENT, "targets: is on the CPU, but logits are on CUDA")
    refused(call(logits, targets[1:], loss=loss), fl.INVALID_ARGUMENT, "targets: class indices have shape")
    good = call(logits, targets, loss=loss, grad_logits=grad)
    host = np.zeros((ROWS, CLASSES), np.float32)
    view = good.views["logits"].pointer.contents
    address, view.data = view.data, host.ctypes.data
    refused(good, fl.INVALID_ARGUMENT, "logits: data is not memory of CUDA device 0")
    view.data = address
    view.device.device_id = 99
    refused(good, fl.INVALID_ARGUMENT, "")
    view.device.device_id = 0
    good()
    check(loss, grad, logits, targets)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_second_device():
    logits, targets = problem(device="cuda:1")
    loss, grad = outputs(logits)
    Call(LIBRARY, logits, targets, loss=loss, grad_logits=grad)()  # while the first one is current
    torch.cuda.synchronize(1)
    check(loss, grad, logits, targets)
    wrong = Call(LIBRARY, logits, targets, loss=loss, grad_logits=grad, stream=torch.cuda.Stream(0))
    refused(wrong, fl.INVALID_ARGUMENT, "the stream belongs to CUDA device 0")


def test_more_than_two_to_the_31_elements():
    rows = 2**31 // CLASSES + 3
    logits, targets = problem(rows=1000, dtype=torch.float16)
    many = lambda tensor: tensor.repeat(rows // 1000 + 1, *[1] * (tensor.dim() - 1))[:rows]
    big_logits, big_targets = many(logits), many(targets)
    loss, grad = torch.full((), torch.nan, device="cuda", dtype=torch.float16), torch.empty_like(big_logits)
    options = dict(normalization="rows", reduction="mean")
    Call(LIBRARY, big_logits, big_targets, loss=loss, grad_logits=grad, **options)()
    wanted, _ = reference(logits, targets, **options)
    assert math.isclose(loss.item(), wanted, rel_tol=2e-3)
    assert torch.equal(grad[:1000], grad[1000:2000])
    last = rows // 1000 * 1000
    assert torch.equal(grad[last:], grad[: rows - last])
