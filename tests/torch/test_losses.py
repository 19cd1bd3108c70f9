"""The PyTorch losses: torchvision's results, everything beyond them, and their gradients."""

import itertools

import numpy as np
import pytest
import torch
import torchvision
from focal_loss_onnx import reference
from focal_loss_onnx.operators import NORMALIZATIONS
from focal_loss_onnx.torch import sigmoid_focal_loss, softmax_focal_loss

LOSSES = {"sigmoid": sigmoid_focal_loss, "softmax": softmax_focal_loss}
RESULTS = [("none", "elements"), ("sum", "elements"), *(("mean", name) for name in NORMALIZATIONS)]


def logits(*shape, dtype=torch.float32, seed=0, scale=4.0):
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def labels(*shape, seed=1):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.2).float()


def results(function, x, *arguments, **options):
    """The loss, and the gradient of its sum with random weights."""
    leaf = x.detach().clone().requires_grad_()
    loss = function(leaf, *arguments, **options)
    upstream = torch.rand(loss.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(loss.dtype)
    (gradient,) = torch.autograd.grad(loss, leaf, upstream)
    return loss.detach(), gradient


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("alpha", [0.25, 0.9, -1])
@pytest.mark.parametrize("gamma", [0, 1.5, 2])
def test_torchvision(reduction, alpha, gamma):
    """Positional arguments as in torchvision; against its results in float64, and no further off than its float32."""
    x, t = logits(50, 9), labels(50, 9)
    arguments = (alpha, gamma, reduction)
    exact = results(torchvision.ops.sigmoid_focal_loss, x.double(), t.double(), *arguments)
    for ours, theirs, wanted in zip(
        results(sigmoid_focal_loss, x, t, *arguments),
        results(torchvision.ops.sigmoid_focal_loss, x, t, *arguments),
        exact,
        strict=True,
    ):
        assert ours.dtype == torch.float32 and ours.shape == wanted.shape
        torch.testing.assert_close(ours.double(), wanted, rtol=2e-6, atol=1e-30)
        assert (ours - wanted).norm() <= (theirs - wanted).norm() + 1e-7 * wanted.norm()
    double = results(sigmoid_focal_loss, x.double(), t.double(), *arguments)
    for ours, wanted in zip(double, exact, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-18)


def test_the_defaults_are_torchvisions():
    x, t = logits(5, 4), labels(5, 4)
    torch.testing.assert_close(sigmoid_focal_loss(x, t), torchvision.ops.sigmoid_focal_loss(x, t))
    assert sigmoid_focal_loss(x, t).shape == x.shape


@pytest.mark.parametrize("activation", LOSSES)
@pytest.mark.parametrize(("reduction", "normalization"), RESULTS)
@pytest.mark.parametrize("axis", [-1, 1])
def test_everything_beyond(activation, reduction, normalization, axis):
    rng = np.random.default_rng(3)
    x = logits(3, 5, 6, dtype=torch.float64)
    k = x.shape[axis]
    rows = [n for i, n in enumerate(x.shape) if i != axis % 3]
    t = torch.from_numpy(rng.integers(-1, k + (activation == "sigmoid"), rows))
    options = {
        "ignore_index": -1,
        "reduction": reduction,
        "normalization": normalization,
        "axis": axis,
        "class_alpha": torch.from_numpy(rng.random(k)),
        "weight": torch.from_numpy(rng.random(x.shape if activation == "sigmoid" else rows)),
        "normalizer": torch.tensor(7.5, dtype=torch.float64),
    }
    if activation == "sigmoid":
        options["background_index"] = k
    loss, gradient = results(LOSSES[activation], x, t, gamma=1.5, **options)
    plain = {name: value.numpy() if torch.is_tensor(value) else value for name, value in options.items()}
    plain |= {"activation": activation, "gamma": 1.5}
    wanted = reference.focal_loss(x.numpy(), t.numpy(), **plain)
    np.testing.assert_allclose(loss.numpy(), wanted, rtol=1e-12)
    upstream = torch.rand(loss.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = reference.focal_loss_grad(upstream.numpy(), x.numpy(), t.numpy(), **plain)
    np.testing.assert_allclose(gradient.numpy(), wanted, rtol=1e-11, atol=1e-15)


def test_python_numbers_and_integer_labels():
    x, t = logits(6, 3), labels(6, 3)
    kinds = [t, t.bool(), t.long(), t.to(torch.uint8)]
    assert len({sigmoid_focal_loss(x, kind, reduction="sum").item() for kind in kinds}) == 1
    given = sigmoid_focal_loss(x, t, reduction="sum", class_alpha=[0.1, 0.2, 0.3], normalizer=4)
    wanted = sigmoid_focal_loss(x, t, reduction="sum", class_alpha=torch.tensor([0.1, 0.2, 0.3])) / 4
    torch.testing.assert_close(given, wanted)


@pytest.mark.parametrize(("activation", "kind", "reduction"), list(itertools.product(LOSSES, ["index", "dense"], ["none", "sum", "mean"])))  # fmt: skip
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_gradcheck(activation, kind, reduction, gamma):
    x = logits(4, 3, dtype=torch.float64, scale=1).requires_grad_()
    t = torch.tensor([0, 2, 1, -100])
    options = {"ignore_index": -100}
    if kind == "dense":
        t, options = torch.softmax(logits(4, 3, dtype=torch.float64, seed=9), -1), {}
    function = LOSSES[activation]
    assert torch.autograd.gradcheck(lambda x: function(x, t, 0.25, gamma, reduction, **options), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x, t = logits(40, 7, dtype=dtype), labels(40, 7)
    step = torch.finfo(dtype).eps
    for reduction in ("none", "mean"):
        loss, gradient = results(sigmoid_focal_loss, x, t.to(dtype), reduction=reduction)
        assert loss.dtype == gradient.dtype == dtype
        wanted, wanted_gradient = results(sigmoid_focal_loss, x.double(), t.double(), reduction=reduction)
        torch.testing.assert_close(loss.double(), wanted, rtol=step, atol=1e-7)
        torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=2 * step, atol=1e-7)


def test_scaled_float16_gradients_survive():
    """As a gradient scaler has it: what would underflow unscaled is there when it is scaled."""
    x = torch.full((1000, 10), -3.0, dtype=torch.float16, requires_grad=True)
    (1024 * sigmoid_focal_loss(x, torch.zeros_like(x), reduction="mean").float()).backward()
    wide = x.detach().double().requires_grad_()
    (1024 * sigmoid_focal_loss(wide, torch.zeros_like(wide), reduction="mean")).backward()
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-3, atol=0)


def test_types_are_promoted_as_by_pytorchs_operators():
    half, single = logits(4, 3, dtype=torch.float16), labels(4, 3)
    assert sigmoid_focal_loss(half, single).dtype == torch.float32
    assert sigmoid_focal_loss(half, single.half(), weight=torch.tensor(2.0)).dtype == torch.float16
    assert sigmoid_focal_loss(half, single.half(), weight=torch.ones(3)).dtype == torch.float32
    many = sigmoid_focal_loss(half, torch.zeros(4, dtype=torch.int64), reduction="sum", normalizer=1e6)
    assert many.dtype == torch.float16 and many > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    """A loss is computed in float32 under autocast, as PyTorch's own are."""
    x, weights = logits(20, 8).requires_grad_(), logits(8, 8, seed=4)
    t = labels(20, 8)
    with torch.autocast("cpu", dtype=dtype):
        y = torch.nn.functional.linear(x, weights)
        loss = sigmoid_focal_loss(y, t, reduction="sum")
    assert (y.dtype, loss.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(loss, sigmoid_focal_loss(y.detach().float(), t, reduction="sum"))
    loss.backward()
    assert x.grad.dtype == torch.float32 and x.grad.abs().sum() > 0
    with torch.autocast("cpu", dtype=dtype):
        assert sigmoid_focal_loss(x.double(), t).dtype == torch.float64


def test_finite_where_torchvision_is_and_beyond():
    x = torch.tensor([[-16301.0, 16301.0, -3e38, 3e38, -torch.inf]])
    loss, gradient = results(sigmoid_focal_loss, x, torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0]]))
    assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()
    assert loss.tolist() == [[4075.25, pytest.approx(0.75 * 16301), 0, 0, 0]]


def test_strides_are_kept():
    """Logits of a convolution are read where they are, and the gradient has their layout."""
    levels = logits(2, 6, 5, 4).to(memory_format=torch.channels_last).requires_grad_()
    x = levels.permute(0, 2, 3, 1)
    t = torch.randint(0, 7, (2, 5, 4))
    (gradient,) = torch.autograd.grad(sigmoid_focal_loss(x, t, reduction="sum"), levels)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    along = sigmoid_focal_loss(levels, t, reduction="sum", axis=1)
    assert along.item() == pytest.approx(sigmoid_focal_loss(x.contiguous(), t, reduction="sum").item(), rel=1e-6)


def test_one_pass_in_training(monkeypatch):
    """The library is called once for a loss and its gradient, and not for a gradient that nobody asked for."""
    from focal_loss_onnx import binding

    calls, call = [], binding.call
    monkeypatch.setattr(binding, "call", lambda name, *rest: (calls.append(name), call(name, *rest))[1])
    x, t = logits(10, 3).requires_grad_(), labels(10, 3)
    sigmoid_focal_loss(x, t, reduction="sum").backward()
    assert calls == ["forward_backward"]
    with torch.no_grad():
        sigmoid_focal_loss(x, t)
    sigmoid_focal_loss(x.detach(), t)
    assert calls == ["forward_backward", "forward", "forward"]


def test_backward_twice():
    """The gradient is handed on as it is, and still nobody's accumulation gets into the next one."""
    x, t = logits(10, 3).requires_grad_(), labels(10, 3)
    loss = sigmoid_focal_loss(x, t, reduction="sum")
    loss.backward()
    once = x.grad.clone()
    x.grad = None
    loss = sigmoid_focal_loss(x, t, reduction="sum")
    for times in range(1, 5):
        loss.backward(retain_graph=True)
        torch.testing.assert_close(x.grad, times * once)


def test_threads_are_pytorchs(monkeypatch):
    from focal_loss_onnx import binding

    seen, options = [], binding.options
    monkeypatch.setattr(binding, "options", lambda **given: (seen.append(given["num_threads"]), options(**given))[1])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        sigmoid_focal_loss(logits(2, 3), labels(2, 3))
    finally:
        torch.set_num_threads(before)
    assert seen == [3]


def test_empty():
    x = torch.empty(0, 5, requires_grad=True)
    for function, t in ((sigmoid_focal_loss, torch.empty(0, 5)), (softmax_focal_loss, torch.empty(0, dtype=torch.int64))):
        loss = function(x, t, reduction="mean")
        assert loss.item() == 0
        loss.backward()
    assert sigmoid_focal_loss(x, torch.empty(0, 5)).shape == (0, 5)


@pytest.mark.parametrize(
    ("error", "sentence", "call"),
    [
        (ValueError, "reduction must be one of", lambda x, t: sigmoid_focal_loss(x, t, reduction="avg")),
        (ValueError, "normalization must be one of", lambda x, t: sigmoid_focal_loss(x, t, normalization="anchors")),
        (ValueError, "class index 3", lambda x, t: softmax_focal_loss(x, torch.full((4,), 3))),
        (ValueError, "gamma", lambda x, t: sigmoid_focal_loss(x, t, gamma=-1)),
        (ValueError, "background_index", lambda x, t: sigmoid_focal_loss(x, t, background_index=0)),
        (ValueError, "targets", lambda x, t: sigmoid_focal_loss(x, t[:2])),
        (ValueError, "axis", lambda x, t: sigmoid_focal_loss(x, t, axis=5)),
        (ValueError, "floating-point", lambda x, t: sigmoid_focal_loss(t.long(), t.long())),
        (ValueError, "complex", lambda x, t: sigmoid_focal_loss(x.to(torch.complex64), t)),
        (ValueError, "targets requires a gradient", lambda x, t: sigmoid_focal_loss(x, t.requires_grad_())),
        (ValueError, "weight requires a gradient", lambda x, t: softmax_focal_loss(x, t, weight=x.sum(1))),
        (TypeError, "background_index", lambda x, t: softmax_focal_loss(x, t, background_index=3)),
    ],
)  # fmt: skip
def test_errors(error, sentence, call):
    with pytest.raises(error, match=sentence):
        call(logits(4, 3).requires_grad_(), labels(4, 3))


def test_no_derivative_in_forward_mode():
    x, t = logits(4, 3), labels(4, 3)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: sigmoid_focal_loss(x, t), (x,), (t,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, t)
        with pytest.raises(NotImplementedError, match="forward-mode"):
            sigmoid_focal_loss(dual, t)
        sigmoid_focal_loss(x, t)


def test_functional_transforms():
    """A loss for each of a batch is computed one by one; a functional gradient is refused, never wrong."""
    x, t = logits(4, 3), labels(4, 3)
    each = torch.func.vmap(lambda x, t: sigmoid_focal_loss(x, t, reduction="sum"))(x, t)
    torch.testing.assert_close(each, sigmoid_focal_loss(x, t).sum(1))
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda x: sigmoid_focal_loss(x, t, reduction="sum"))(x)


def test_checkpointing():
    x, t = logits(4, 3).requires_grad_(), labels(4, 3)
    function = torch.utils.checkpoint.checkpoint(sigmoid_focal_loss, x, t, reduction="sum", use_reentrant=False)
    (gradient,) = torch.autograd.grad(function, x)
    torch.testing.assert_close(gradient, torch.autograd.grad(sigmoid_focal_loss(x, t, reduction="sum"), x)[0])


def test_no_second_derivative():
    x = logits(4, 3).requires_grad_()
    with pytest.raises(NotImplementedError, match="create_graph=True"):
        torch.autograd.grad(sigmoid_focal_loss(x, labels(4, 3), reduction="sum"), x, create_graph=True)
