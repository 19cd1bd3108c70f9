"""The custom operators under PyTorch's own checks, and under its compiler."""

import itertools

import pytest
import torch
from focal_loss_onnx.torch import operators, sigmoid_focal_loss, softmax_focal_loss

OPTIONAL = {"absent": (None, None, None), "present": (torch.rand(5), torch.rand(5), torch.tensor(3.0))}
CASES = list(itertools.product(["sigmoid", "softmax"], ["none", "sum", "mean"], ["index", "dense"], OPTIONAL))


def arguments(activation, reduction, kind, optional, requires_grad):
    x = torch.randn(6, 4, 5, requires_grad=requires_grad)
    t = torch.randint(0, 5, (6, 4)) if kind == "index" else torch.softmax(torch.randn(6, 4, 5), -1)
    class_alpha, weight, normalizer = OPTIONAL[optional]
    if weight is not None and activation == "softmax":
        weight = weight[:4]
    index = 2 if kind == "index" else None
    return x, t, class_alpha, weight, normalizer, activation, 0.25, 1.5, reduction, "weights", -1, index, None


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_opcheck(case):
    torch.library.opcheck(operators.forward, arguments(*case, requires_grad=False))
    torch.library.opcheck(operators.forward_backward, arguments(*case, requires_grad=True))


def test_opcheck_of_other_layouts():
    x = torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last).requires_grad_()
    tail = (None, None, None, "sigmoid", 0.25, 2.0, "none", "elements", 1, None, None)
    torch.library.opcheck(operators.forward_backward, (x, torch.randint(0, 6, (2, 5, 4)), *tail))
    expanded = torch.randn(1, 5, requires_grad=True).expand(4, 5)
    torch.library.opcheck(operators.forward_backward, (expanded, torch.rand(4, 5), *tail[:-3], -1, None, None))


@pytest.mark.parametrize("name", ["focal_loss::forward", "focal_loss::forward_backward"])
@pytest.mark.parametrize("key", ["CPU", "CUDA", "Meta", "Autograd"])
def test_registrations(name, key):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


def test_the_forward_operator_has_no_gradient():
    x = torch.randn(3, 4, requires_grad=True)
    tail = (None, None, None, "sigmoid", 0.25, 2.0, "sum", "elements", -1, None, None)
    with pytest.raises(RuntimeError, match="no autograd"):
        operators.forward(x, torch.rand(3, 4), *tail).backward()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("function", "reduction"), list(itertools.product([sigmoid_focal_loss, softmax_focal_loss], ["none", "sum", "mean"])))  # fmt: skip
def test_compile_without_graph_breaks(function, reduction, dynamic):
    torch._dynamo.reset()

    def step(features, weights, targets):
        logits = features @ weights
        loss = function(logits, targets, reduction=reduction, normalizer=2.0, class_alpha=[0.1, 0.2, 0.3])
        return (loss * 1.5).sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic)
    weights = torch.randn(7, 3, requires_grad=True)
    for rows in (8, 11):
        features, targets = torch.randn(rows, 7), torch.randint(0, 3, (rows,))
        both = []
        for version in (step, compiled):
            loss = version(features, weights, targets)
            both.append((loss.detach(), *torch.autograd.grad(loss, weights)))
        for eager, fast in zip(*both, strict=True):
            torch.testing.assert_close(fast, eager)
        with torch.no_grad():
            torch.testing.assert_close(compiled(features, weights, targets), both[0][0])


def test_compile_with_dense_targets_and_autocast():
    torch._dynamo.reset()

    def step(features, weights, targets):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return sigmoid_focal_loss(features @ weights, targets, reduction="mean")

    inputs = torch.randn(9, 7), torch.randn(7, 3, requires_grad=True), torch.rand(9, 3)
    eager, fast = step(*inputs), torch.compile(step, fullgraph=True)(*inputs)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, eager, rtol=1e-2, atol=1e-4)


def test_an_error_inside_compiled_code_is_the_librarys():
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, t: sigmoid_focal_loss(x, t, reduction="sum"), fullgraph=True)
    with pytest.raises(ValueError, match="class index 9 at row 1"):
        compiled(torch.randn(3, 4), torch.tensor([0, 9, 1]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("function", [sigmoid_focal_loss, softmax_focal_loss])
def test_cuda(function):
    """On a stream of one's own, with nothing waited for: the same loss and gradient as on the CPU."""
    x, t = torch.randn(1000, 7), torch.randint(0, 7, (1000,))
    results = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).requires_grad_()
        targets = t.to(device)
        stream = torch.cuda.Stream() if device == "cuda" else None
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = function(leaf, targets, reduction="sum")
            loss.backward()
        torch.cuda.synchronize()
        results.append((loss.detach().cpu(), leaf.grad.cpu()))
    for ours, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, wanted, rtol=2e-6, atol=1e-9)
