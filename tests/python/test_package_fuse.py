"""fuse(): every way of spelling a focal loss that we know, and nothing that is not one.

What it replaces is compared with :mod:`focal_loss_onnx.reference`, and, in float64, with the graph as it was.
"""

import itertools
import pathlib
import random
import re

import numpy as np
import onnx
import pytest
from focal_loss_onnx import DOMAIN, FuseError, attach, fuse, reference, search
from focal_loss_onnx.trial import SigmoidFocalLoss
from fuse_models import ALPHA, ALPHA_HARD, CROSS_ENTROPY, CROSS_ENTROPY_HARD, MISS, MISS_HARD, POWER, spelled
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from operator_models import DTYPES, session

DATA = pathlib.Path(__file__).resolve().parents[1] / "data" / "fuse"
MODELS = sorted(DATA.glob("*.onnx"))

TORCHVISION = CROSS_ENTROPY["log of sigmoid"] + MISS["one minus p_t"] + POWER[2.0]["pow"]
QUARTER = ALPHA[0.25]["arithmetic"]


def operators(model):
    return [node for node in model.graph.node if node.domain == DOMAIN]


def data(dtype=np.float64, shape=(6, 4), seed=0, hard=False):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * 3).astype(dtype)
    t = (rng.random(shape) < 0.3).astype(dtype)
    return x, t if hard else np.where(rng.random(shape) < 0.5, t, rng.random(shape)).astype(dtype)


def evaluated(model, feeds):
    """By onnx's own evaluator, which has every standard operator for every type, and ours in NumPy."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for function in [f for f in model.functions if f.domain == DOMAIN]:
        model.functions.remove(function)
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model, new_ops=[SigmoidFocalLoss]).run(None, feeds)


def check(model, alpha, gamma, reduction="none", scale=1.0, hard=False, **options):
    """Fuse; the operator has these attributes, and computes what the reference and the graph before do."""
    before = onnx.ModelProto()
    before.CopyFrom(model)
    fused, report = fuse(model, **options)
    assert model == before, "the given model was changed"
    assert len(report.fused) == 1, str(report)
    onnx.checker.check_model(fused, full_check=True)
    found = report.fused[0]
    assert (found.alpha, found.gamma) == (None if alpha is None else pytest.approx(alpha, rel=1e-7), gamma), str(report)
    assert (found.reduction, found.scale) == (reduction, pytest.approx(scale, rel=1e-7)), str(report)
    (node,) = operators(fused)
    kinds = {info.name: info.type.tensor_type.elem_type for info in fused.graph.input}
    numpy_type, relative, _ = DTYPES[kinds["x"]]
    x, t = data(numpy_type, hard=hard)
    got = session(fused).run(["loss"], {"x": x, "t": t})[0]
    wanted = scale * reference.focal_loss(x, t, alpha=-1 if alpha is None else alpha, gamma=gamma, reduction=reduction)
    np.testing.assert_allclose(got.reshape(wanted.shape), wanted, rtol=4 * relative + 2e-7, atol=1e-7)
    was = evaluated(model, {"x": x, "t": t})[0]
    assert got.shape == was.shape
    attributes = 5e-7  # alpha and gamma are float32
    np.testing.assert_allclose(got, was, rtol=64 * relative + attributes, atol=64 * relative)
    return fused, report


def combinations(*parts):
    """One element of each, and the names."""
    for chosen in itertools.product(*(part.items() for part in parts)):
        yield [name for name, _ in chosen], [value for _, value in chosen]


def by_value(table):
    return {(value, name): text for value, spellings in table.items() for name, text in spellings.items()}


EVERY = list(combinations(CROSS_ENTROPY, MISS, by_value(POWER), by_value(ALPHA)))
EVERY_HARD = [
    (names, texts)
    for names, texts in combinations(
        {**CROSS_ENTROPY, **CROSS_ENTROPY_HARD},
        {**MISS, **MISS_HARD},
        by_value(POWER),
        by_value({**ALPHA, **ALPHA_HARD}),
    )
    if {names[0], names[1], names[3][1]} & {*CROSS_ENTROPY_HARD, *MISS_HARD, "where"}
]


def label(value):
    """The names of a spelling; its texts need none."""
    if any("=" in part for part in value if isinstance(part, str)):
        return "-"
    return "; ".join(name if isinstance(name, str) else f"{name[0]} {name[1]}" for name in value)


@pytest.mark.parametrize(("names", "texts"), random.Random(1).sample(EVERY, 32), ids=label)
def test_every_spelling(names, texts):
    (_, _, (gamma, _), (alpha, _)) = names
    check(spelled("".join(f" {text} " for text in texts), dtype=TensorProto.DOUBLE), alpha, gamma)


@pytest.mark.parametrize(("names", "texts"), random.Random(2).sample(EVERY_HARD, 20), ids=label)
def test_spellings_for_targets_of_0_and_1(names, texts):
    (_, _, (gamma, _), (alpha, _)) = names
    model = spelled("".join(f" {text} " for text in texts), dtype=TensorProto.DOUBLE)
    same, report = fuse(model)
    if not report.fused:
        assert "for targets 0 and 1 only" in str(report) and "--hard-targets" in str(report)
        assert same == model
        check(model, alpha, gamma, hard=True, hard_targets=True)
    else:
        (found,) = report.fused
        if found.targets == "t":  # alpha alone is spelled for 0 and 1, and is left where it is
            assert names[3][1] == "where" and found.alpha is None
        else:  # everything depends on a condition alone
            assert found.targets in ("k1", "m0", "l0")
        check(model, alpha, gamma, hard=True, hard_targets=True)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
@pytest.mark.parametrize("scalar", ["", "[1]", "[1, 1]"])
def test_types_and_constants_of_any_rank(dtype, scalar):
    check(spelled(TORCHVISION + QUARTER, dtype=dtype, scalar=scalar), 0.25, 2.0)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_what_exporters_write(path):
    """See tests/data/fuse/README.md. The name says what is in the file."""
    assert len(MODELS) >= 12
    model = onnx.load(path)
    before = {info.name: info for info in (*model.graph.input, *model.graph.output)}
    exporter, reduction, alpha, gamma = path.stem.rsplit("-", 3)
    fused, report = fuse(path)
    assert len(report.fused) == 1 and not report.left_alone, str(report)
    found = report.fused[0]
    assert (found.alpha, found.gamma) == (None if alpha == "off" else float(np.float32(alpha)), float(gamma))
    assert {info.name: info for info in (*fused.graph.input, *fused.graph.output)} == before
    onnx.checker.check_model(fused, full_check=True)
    if exporter.startswith("torch"):
        assert len(fused.graph.node) == 1 and not fused.graph.initializer and found.reduction == reduction
    x, t = data(np.float32, (3, 4))
    names = sorted(info.name for info in fused.graph.input)
    assert "logits" in names[0] and "targets" in names[1]
    for library in (False, True):
        got = session(fused, library=library).run(None, dict(zip(names, (x, t))))[0]
        wanted = reference.focal_loss(
            x, t, alpha=-1 if alpha == "off" else float(alpha), gamma=float(gamma), reduction="none"
        )
        wanted = {"none": wanted, "rows": wanted.mean(-1), "sum": wanted.sum(), "mean": wanted.mean()}[reduction]
        np.testing.assert_allclose(got, wanted, rtol=4e-6)
        far = np.array([[-16301, 16301, -40, 40]] * 3, np.float32)  # where what was exported is NaN
        assert np.isfinite(session(fused, library=library).run(None, dict(zip(names, (far, t))))[0]).all()


REDUCTIONS = {
    "mean": ("loss = ReduceMean<keepdims = 0>(each)", 17, ""),
    "mean of named axes": ("loss = ReduceMean<axes = [0, 1], keepdims = 0>(each)", 17, ""),
    "mean of axes from the end": ("loss = ReduceMean<axes = [-1, -2]>(each)", 17, "[1, 1]"),
    "mean, axes as an input": (
        "axes = Constant<value_ints = [0, 1]>()  loss = ReduceMean<keepdims = 0>(each, axes)",
        18,
        "",
    ),
    "mean, no axes, squeezed": ("k = ReduceMean(each)  loss = Squeeze(k)", 18, ""),
    "mean of means": ("k = ReduceMean<axes = [1], keepdims = 0>(each)  loss = ReduceMean<keepdims = 0>(k)", 17, ""),
    "mean of kept means": (
        "k = ReduceMean<axes = [-1]>(each)  loss = ReduceMean<axes = [0], keepdims = 0>(k)",
        17,
        "[1]",
    ),
    "sum": ("loss = ReduceSum<keepdims = 0>(each)", 17, ""),
    "sum, reshaped": ("k = ReduceSum(each)  s = Constant<value_ints = [-1]>()  loss = Reshape(k, s)", 17, "[1]"),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    text, opset, shape = REDUCTIONS[name]
    body = TORCHVISION + QUARTER.replace("loss =", "each =") + " " + text
    fused, _ = check(spelled(body, opset=opset, output=shape), 0.25, 2.0, name[:4].strip(" ,"))
    assert [node.op_type for node in fused.graph.node][1:] == (["Constant", "Reshape"] if shape else [])


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("loss = ReduceMean<axes = [1], keepdims = 0>(each)", "[N]"),
        ("k = ReduceMean<axes = [1], keepdims = 0>(each)  loss = ReduceSum<keepdims = 0>(k)", ""),
        ("loss = ReduceMax<keepdims = 0>(each)", ""),
        ("k = ReduceSum<keepdims = 0>(each)  n = ReduceSum<keepdims = 0>(t)  loss = Div(k, n)", ""),
        ("axes = Constant<value_ints = [0]>()  loss = ReduceSum<keepdims = 0>(each, axes)", "[K]"),
        ("loss = ReduceSum<noop_with_empty_axes = 1>(each)", "[N, K]"),
    ],
)
def test_other_reductions_stay(text, shape):
    model = spelled(TORCHVISION + QUARTER.replace("loss =", "each =") + " " + text, output=shape)
    fused, report = fuse(model)
    kind = "sum" if "Div" in text else "none"
    assert [found.reduction for found in report.fused] == [kind]
    x, t = data(np.float32)
    got, was = (session(m).run(None, {"x": x, "t": t})[0] for m in (fused, model))
    assert got.shape == was.shape
    np.testing.assert_allclose(got, was, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "alpha", "scale"),
    [
        ("l = Mul(ce, w)  l5 = Neg(l)  k = ReduceMean<keepdims = 0>(l5)  loss = Neg(k)", None, -1.0),
        ("l2 = Sub(1, t)  l3 = Mul(l2, 3)  l4 = Add(t, l3)  l5 = Mul(l4, ce)  loss = Mul(w, l5)", 0.25, 4.0),
        ("l1 = Mul(ce, 0.25)  loss = Mul(w, l1)", None, 0.25),
    ],
)  # fmt: skip
def test_factors(text, alpha, scale):
    """What alpha cannot express is a factor, and one in front of everything balances nothing."""
    model = spelled(TORCHVISION + " " + text, output="" if "Reduce" in text else "[N, K]")
    fused, report = fuse(model)
    (found,) = report.fused
    assert found.alpha == alpha
    assert found.scale == 1 or found.scale == scale
    x, t = data(np.float32)
    got, was = (session(m).run(None, {"x": x, "t": t})[0] for m in (fused, model))
    np.testing.assert_allclose(got, was, rtol=1e-4, atol=1e-7)
    assert ("balances nothing" in str(report)) == (scale == 0.25)


def test_inside_a_larger_model():
    """Logits of a layer and a temperature, smoothed labels, a mask, and another output that reads a probability."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        larger (float[N, 8] features, float[N, 4] given, float[N, 1] mask, float[8, 4] weights, float[4] bias)
            => (float loss, float[N, 4] score)
        <float half = {0.5}, float one = {1}, float two = {2}, float quarter = {0.25}, float rest = {0.75},
         float keep = {0.9}, float floor = {0.05}> {
            h = MatMul(features, weights)  b = Add(h, bias)  x = Div(b, half)
            t1 = Mul(given, keep)  t = Add(t1, floor)
            p = Sigmoid(x)  lp = Log(p)  q = Sub(one, p)  lq = Log(q)  u = Sub(one, t)
            a = Mul(t, lp)  c = Mul(u, lq)  d = Add(a, c)  ce = Neg(d)
            e = Mul(p, t)  f = Mul(q, u)  pt = Add(e, f)  m = Sub(one, pt)  w = Pow(m, two)
            at1 = Mul(t, quarter)  at2 = Mul(u, rest)  at = Add(at1, at2)
            l1 = Mul(ce, w)  each = Mul(at, l1)
            masked = Mul(each, mask)  loss = ReduceSum<keepdims = 0>(masked)
            score = Identity(p)
        }"""
    )
    fused, report = fuse(model)
    (found,) = report.fused
    assert (found.logits, found.targets, found.output, found.reduction) == ("x", "t", "each", "none")
    kinds = [node.op_type for node in fused.graph.node]
    assert kinds == [
        "MatMul",
        "Add",
        "Div",
        "Mul",
        "Add",
        "Sigmoid",
        "SigmoidFocalLoss",
        "Mul",
        "ReduceSum",
        "Identity",
    ]
    assert {i.name for i in fused.graph.initializer} == {"half", "keep", "floor"}
    onnx.checker.check_model(fused, full_check=True)
    rng = np.random.default_rng(0)
    feeds = {
        i.name: rng.random([d.dim_value or 6 for d in i.type.tensor_type.shape.dim]).astype(np.float32)
        for i in model.graph.input
    }
    for got, was in zip(session(fused).run(None, feeds), session(model).run(None, feeds)):
        np.testing.assert_allclose(got, was, rtol=1e-5)
    assert fuse(fused)[1].fused == () and len(fuse(fused)[0].functions) == 1


def test_two_losses_and_one_that_there_is_already():
    one = TORCHVISION + QUARTER
    names = sorted(set(re.findall(r"(\w+) =", one)), key=len, reverse=True)
    other = one.replace("0.25", "0.5").replace("0.75", "0.5")
    for name in names:
        other = re.sub(rf"\b{name}\b", f"{name}_2", other)
    model = spelled(one + other, outputs="float[N, K] loss_2")
    fused, report = fuse(model)
    assert [found.alpha for found in report.fused] == [0.25, 0.5] and len(fused.functions) == 1
    with_index = attach(spelled(one), "x", loss="attached")
    _, report = fuse(with_index)
    assert not report.fused and "needs another function" in str(report)


def test_functions_are_inlined():
    inner = spelled(TORCHVISION + QUARTER)
    constants = [
        helper.make_node("Constant", [], [i.name], value=i) for i in inner.graph.initializer
    ]  # fmt: skip
    function = helper.make_function(
        "somebody", "Loss", ["x", "t"], ["loss"], [*constants, *inner.graph.node], [helper.make_opsetid("", 17)]
    )
    graph = helper.make_graph(
        [helper.make_node("Loss", ["x", "t"], ["loss"], domain="somebody")], "g", inner.graph.input, inner.graph.output
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("somebody", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=8)
    fused, _ = check(model, 0.25, 2.0)
    assert [f.domain for f in fused.functions] == [DOMAIN]
    plain = spelled("loss = Mul(x, t)")
    plain.functions.append(function)
    plain.opset_import.append(imports[1])
    assert fuse(plain)[0] == plain


def test_targets_that_the_graph_shows_to_be_hard():
    """By a cast condition, or one-hot: no flag is needed."""
    hard = (
        CROSS_ENTROPY_HARD["of p_t"]
        + " "
        + MISS_HARD["distance"]
        + " "
        + POWER[2.0]["pow"]
        + " "
        + ALPHA_HARD[0.25]["where"]
    )
    numbers = """<float c0 = {0.5}, float c1 = {1}, float c2 = {2}, float c3 = {0}, float c4 = {0.25},
        float c5 = {0.75}, float[2] values = {0, 1}, int64 depth = {4}>"""
    body = hard
    for number, name in (("0.25", "c4"), ("0.75", "c5"), ("0.5", "c0"), ("1", "c1"), ("2", "c2"), ("0", "c3")):
        body = re.sub(rf"(?<=[(,\s]){re.escape(number)}(?=\s*[,)])", name, body)
    for given, made in (
        ("int64[N] given", "t = OneHot<axis = -1>(given, depth, values)"),
        ("bool[N, 4] given", "t = Cast<to = 1>(given)"),
        ("float[N, 4] given", "above = Greater(given, c0)  t0 = Cast<to = 1>(above)  t = Identity(t0)"),
    ):
        text = f"""<ir_version: 8, opset_import: ["": 17]>
            hard (float[N, 4] x, {given}) => (float[N, 4] loss) {numbers} {{ {made} {body} }}"""
        model = onnx.parser.parse_model(text)
        onnx.checker.check_model(model, full_check=True)
        fused, report = fuse(model)
        assert [(found.alpha, found.gamma) for found in report.fused] == [(0.25, 2.0)], str(report)
        kind = {"i": np.int64, "b": np.bool_, "f": np.float32}[given[0]]
        values = (
            np.random.default_rng(0)
            .integers(0, 4 if kind == np.int64 else 2, 6 if kind == np.int64 else (6, 4))
            .astype(kind)
        )
        feeds = {"x": data(np.float32)[0], "given": values}
        np.testing.assert_allclose(*(session(m).run(None, feeds)[0] for m in (fused, model)), rtol=1e-4, atol=1e-7)
    text = text.replace("t = Identity(t0)", "t = Identity(given)")  # and where it does not
    assert not fuse(onnx.parser.parse_model(text))[1].fused


EPSILONS = {
    "clipped probability": "p1 = Sigmoid(x)  p2 = Max(p1, 1e-7)  p = Min(p2, 0.9999999)",
    "shifted probability": "p0 = Sigmoid(x)  p = Add(p0, 1e-8)",
}


@pytest.mark.parametrize("name", EPSILONS)
def test_an_epsilon_is_named_and_left_alone_unless_allowed(name):
    text = EPSILONS[name] + """ q = Sub(1, p)  lp = Log(p)  lq = Log(q)  u = Sub(1, t)  a = Mul(t, lp)
        b = Mul(u, lq)  c = Add(a, b)
        ce = Neg(c)""" + MISS["directly"] + POWER[2.0]["pow"] + " " + QUARTER  # fmt: skip
    model = spelled(text)
    same, report = fuse(model)
    assert same == model and not report.fused
    assert "but for an epsilon or a bound: at logit" in str(report) and "--allow-epsilon" in str(report)
    _, report = check(model, 0.25, 2.0, allow_epsilon=True)
    assert "the epsilon or bound is gone" in str(report)


def test_a_logarithm_bounded_at_minus_100_is_not_the_same():
    """torch.nn.functional.binary_cross_entropy."""
    text = (
        """p = Sigmoid(x)  q = Sub(1, p)  lp0 = Log(p)  lq0 = Log(q)  lp = Max(lp0, -100)  lq = Max(lq0, -100)
        u = Sub(1, t)  a = Mul(t, lp)  b = Mul(u, lq)  c = Add(a, b)  ce = Neg(c)"""
        + MISS["directly"]
        + POWER[2.0]["pow"]
    )
    model = spelled(text + " " + QUARTER)
    assert "at logit 120 and target 0 it is 75, the focal loss 90" in str(fuse(model)[1])
    check(model, 0.25, 2.0, allow_epsilon=True)


SOFTMAX = {
    "one-hot": """p = Softmax<axis = -1>(x)  l = Log(p)  a = Mul(t, l)  q = Sub(1, p)  w = Pow(q, 2)  b = Mul(w, a)
        c = Mul(b, -0.25)  loss = ReduceSum<keepdims = 0>(c)""",
    "one-hot, summed first": """p = Softmax<axis = -1>(x)  a = Mul(t, p)  k = Constant<value_ints = [-1]>()
        pt = ReduceSum<keepdims = 0>(a, k)
        l = Log(pt)  ce = Neg(l)  q = Sub(1, pt)  w = Pow(q, 2)  b = Mul(w, ce)  c = Mul(b, 0.25)
        loss = ReduceMean<keepdims = 0>(c)""",
    "log softmax": """l = LogSoftmax<axis = -1>(x)  p = Exp(l)  q = Sub(1, p)  w = Mul(q, q)  a = Mul(l, w)
        b = Mul(a, t)
        n = Neg(b)  c = Mul(n, 0.25)  loss = ReduceMean<keepdims = 0>(c)""",
    "cross entropy": """z = ArgMax<axis = -1, keepdims = 0>(t)
        ce = SoftmaxCrossEntropyLoss<reduction = "none">(x, z)  n = Neg(ce)
        pt = Exp(n)  q = Sub(1, pt)  w = Pow(q, 2)  a = Mul(w, ce)  b = Mul(a, 0.25)
        loss = ReduceMean<keepdims = 0>(b)""",
    "gathered": """z = ArgMax<axis = -1>(t)  l = LogSoftmax<axis = -1>(x)  g = GatherElements<axis = -1>(l, z)
        pt = Exp(g)
        q = Sub(1, pt)  w = Pow(q, 2)  a = Mul(w, g)  b = Mul(a, -0.25)  loss = ReduceMean<keepdims = 0>(b)""",
}  # fmt: skip


@pytest.mark.parametrize("name", SOFTMAX)
def test_the_wrong_softmax_version_is_named_and_left_alone(name):
    model = spelled(SOFTMAX[name], output="")
    same, report = fuse(model, hard_targets=True, allow_epsilon=True)
    assert same == model and not report.fused
    (left,) = report.left_alone
    assert "softmax" in str(left).lower() and "gamma 2" in str(left)
    assert "not the published loss" in str(left)
    assert "constant alpha 0.25 scales everything alike and balances nothing" in str(left)


def test_a_threshold_that_the_type_cannot_tell():
    """PyTorch's softplus is x from 20 on."""
    text = """ s = Softplus(x)  k = Greater(x, 20)  sp = Where(k, x, s)  a2 = Mul(x, t)  ce = Sub(sp, a2) """
    text += MISS["directly"] + POWER[2.0]["pow"] + " " + QUARTER
    check(spelled(text), 0.25, 2.0)
    assert "but for an epsilon or a bound" in str(fuse(spelled(text, dtype=TensorProto.DOUBLE))[1])


def test_a_hole_between_two_thresholds_is_seen():
    text = (
        TORCHVISION
        + " h1 = Greater(p1, 0.6)  h2 = Less(p1, 0.63)  h = And(h1, h2)  z = Where(h, 0, ce)  loss = Mul(z, w)"
    )
    assert not fuse(spelled(text))[1].fused


NOT_FOCAL = {
    "binary cross entropy": CROSS_ENTROPY["stable"].replace("ce =", "loss ="),
    "asymmetric": """p = Sigmoid(x)  q = Sub(1, p)  lp = Log(p)  lq = Log(q)  u = Sub(1, t)  w1 = Pow(q, 1)
        w2 = Pow(p, 4)
        a = Mul(t, lp)  b = Mul(u, lq)  c = Mul(a, w1)  d = Mul(b, w2)  e = Add(c, d)  loss = Neg(e)""",
    "quality": """p = Sigmoid(x)  d = Sub(t, p)  w = Mul(d, d)  a = Softplus(x)  b = Mul(x, t)  ce = Sub(a, b)
        loss = Mul(w, ce)""",
    "another probability": CROSS_ENTROPY["softplus"] + """ y = Mul(x, 2)  p = Sigmoid(y)  m1 = Mul(p, t)
        m2 = Mul(m1, 2)
        m3 = Add(p, t)  m = Sub(m3, m2)  w = Mul(m, m)  loss = Mul(w, ce)""",
    "hard examples only": TORCHVISION + " h = Greater(m, 0.3)  z = Where(h, ce, 0)  loss = Mul(z, w)",
    "mish": "a = Softplus(x)  b = Tanh(a)  c = Mul(x, b)  loss = Add(c, t)",
    "entropy": "p = Sigmoid(x)  q = Sub(1, p)  a = Log(p)  b = Log(q)  c = Mul(p, a)  d = Mul(q, b)  e = Add(c, d)"
    "  loss = Mul(e, t)",
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_FOCAL)
@pytest.mark.parametrize("generous", [False, True])
def test_what_is_no_focal_loss_is_left_alone(name, generous):
    model = spelled(NOT_FOCAL[name])
    same, report = fuse(model, hard_targets=generous and name != "quality", allow_epsilon=generous)
    assert not report.fused and same == model, str(report)


def test_a_mask_of_targets_stays():
    """Targets of -1 are ignored by somebody's Where: the loss inside is replaced, the Where is not."""
    text = TORCHVISION + QUARTER.replace("loss =", "each =") + " i = Equal(t, -1)  loss = Where(i, 0, each)"
    fused, report = fuse(spelled(text))
    assert [found.output for found in report.fused] == ["each"]
    assert [node.op_type for node in fused.graph.node] == ["SigmoidFocalLoss", "Equal", "Where"]


def test_probabilities_without_logits_are_named():
    text = (
        """q = Sub(1, x)  lp = Log(x)  lq = Log(q)  u = Sub(1, t)  a = Mul(t, lp)  b = Mul(u, lq)  c = Add(a, b)
            ce = Neg(c)
        d = Mul(x, t)  e = Mul(q, u)  pt = Add(d, e)  m = Sub(1, pt) """
        + POWER[2.0]["pow"]
        + " "
        + QUARTER
    )
    _, report = fuse(spelled(text))
    assert not report.fused and "of the probabilities 'x', and the logits are not in the graph" in str(report)


def test_shapes_that_broadcast_are_left_alone():
    for shapes in ("float[N, 4] x, float[N, 1] t", "float[4] x, float[N, 4] t", "float[N, 1] x, float[N, 4] t"):
        text = spelled(TORCHVISION + QUARTER)
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17]> g (' + shapes + ") => (float[N, 4] loss) "
            "<float one = {1}, float half = {0.5}, float rest = {0.75}> {"
            " a = Softplus(x)  b = Mul(x, t)  ce = Sub(a, b)  p = Sigmoid(x)  c = Mul(p, t)  d = Add(c, c)"
            "  e = Add(p, t)"
            " m = Sub(e, d)  w = Mul(m, m)  l1 = Mul(t, half)  l4 = Sub(rest, l1)  l5 = Mul(l4, w)"
            "  loss = Mul(ce, l5) }"
        )
        assert not fuse(model)[1].fused, shapes
        assert fuse(text)[1].fused


def test_an_alpha_per_class_stays_where_it_is():
    model = spelled(TORCHVISION + " l5 = Mul(w, ce)  loss = Mul(l5, alphas)", inputs="float[K] alphas")
    fused, report = fuse(model)
    assert [found.alpha for found in report.fused] == [None]
    assert [node.op_type for node in fused.graph.node] == ["SigmoidFocalLoss", "Mul"]


def test_a_default_of_an_input_is_no_constant():
    """Somebody may pass another gamma."""
    model = spelled(TORCHVISION + QUARTER)
    (two,) = [i for i in model.graph.initializer if onnx.numpy_helper.to_array(i) == 2]
    model.graph.input.append(helper.make_tensor_value_info(two.name, TensorProto.FLOAT, []))
    assert not fuse(model)[1].fused


def test_what_a_subgraph_reads_is_kept():
    model = spelled(TORCHVISION + QUARTER, inputs="bool choice")
    model.graph.output.append(helper.make_tensor_value_info("chosen", TensorProto.FLOAT, ["N", "K"]))
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("then", "else")]
    branches = [
        helper.make_graph([helper.make_node("Identity", [source], [info.name])], info.name, [], [info])
        for source, info in zip(("m", "p1"), results)
    ]
    model.graph.node.append(
        helper.make_node("If", ["choice"], ["chosen"], then_branch=branches[0], else_branch=branches[1])
    )
    fused, report = fuse(model)
    assert len(report.fused) == 1
    onnx.checker.check_model(fused, full_check=True)
    x, t = data(np.float32)
    for choice in (True, False):
        feeds = {"x": x, "t": t, "choice": np.array(choice)}
        for got, was in zip(session(fused).run(None, feeds), session(model).run(None, feeds)):
            np.testing.assert_allclose(got, was, rtol=1e-4, atol=1e-7)


def test_an_old_opset_is_refused():
    model = spelled(TORCHVISION + QUARTER, opset=12)
    with pytest.raises(FuseError, match="opset 12 .*convert_version"):
        fuse(model)


def test_without_onnxruntime_the_reference_of_onnx_tries_it(monkeypatch):
    from focal_loss_onnx import trial

    def absent(model):
        raise ImportError("onnxruntime")

    monkeypatch.setattr(trial, "_onnxruntime", absent)
    _, report = fuse(spelled(TORCHVISION + QUARTER))
    assert "in onnx.reference" in str(report)


def test_a_wrong_recognition_would_be_caught(monkeypatch):
    right = search.alpha_and_scale
    monkeypatch.setattr(search, "alpha_and_scale", lambda *arguments: (right(*arguments)[0] + 0.01, 1.0))
    with pytest.raises(FuseError, match="'loss' was recognised, but"):
        fuse(spelled(TORCHVISION + QUARTER))


def test_damaged_graphs_are_left_alone():
    """A circle, a constant without a value, a cast to nothing, a Where on numbers, an operand too many."""
    for change in (
        lambda g: g.node[0].input.__setitem__(0, "loss"),
        lambda g: (
            g.node.append(helper.make_node("Constant", [], ["nothing"])),
            g.node[2].input.__setitem__(0, "nothing"),
        ),
        lambda g: g.node.insert(0, helper.make_node("Cast", ["t"], ["u1"])),
        lambda g: g.node.append(helper.make_node("Where", ["x", "p1", "t"], ["w"])),
        lambda g: g.node[0].input.append("t"),
        lambda g: g.node[3].ClearField("input"),
        lambda g: g.ClearField("initializer"),
    ):
        model = spelled(TORCHVISION + QUARTER)
        change(model.graph)
        assert not fuse(model)[1].fused


def mutated(model, rng):
    """The model with one thing changed at random: a constant, an operator, an operand, their order."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    node = rng.choice([n for n in model.graph.node if n.input])
    kind = rng.randrange(4)
    if kind == 0:
        constant = rng.choice(model.graph.initializer)
        value = onnx.numpy_helper.to_array(constant)
        changed = np.asarray(value * rng.choice([0.5, 1.01, 2, -1]) + rng.choice([0, 1e-3, 0.1]), value.dtype)
        constant.CopyFrom(onnx.numpy_helper.from_array(changed, constant.name))
    elif kind == 1 and len(node.input) == 2:
        node.op_type = rng.choice(["Add", "Sub", "Mul", "Div", "Max", "Min"])
    elif kind == 2 and len(node.input) == 1:
        node.op_type = rng.choice(["Neg", "Abs", "Exp", "Log", "Sigmoid", "Softplus", "Relu", "Sqrt"])
    elif len(node.input) == 2:
        before = list(model.graph.node)[: list(model.graph.node).index(node)]
        made = ["x", "t", *(o for n in before for o in n.output)]
        node.input[rng.randrange(2)] = rng.choice(made)
    return model


@pytest.mark.parametrize("seed", range(4))
def test_never_a_wrong_one(seed):
    """Whatever is changed in a graph: what is replaced computes the same, and something is always replaced and left."""
    rng = random.Random(seed)
    counts = {True: 0, False: 0}
    for _ in range(25):
        _, texts = rng.choice(EVERY)
        model = mutated(spelled("".join(f" {text} " for text in texts), dtype=TensorProto.DOUBLE), rng)
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception:  # a condition where there should be a number
            continue
        fused, report = fuse(model)
        counts[bool(report.fused)] += 1
        if report.fused:
            x, t = data(seed=seed, shape=(50, 4))
            got, was = (evaluated(m, {"x": x, "t": t})[0] for m in (fused, model))
            finite = np.isfinite(was)
            np.testing.assert_allclose(got[finite], was[finite], rtol=1e-6, atol=1e-9)
    assert counts[True] and counts[False], counts
