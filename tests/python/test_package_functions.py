"""The portable functions against the NumPy reference, with no library registered."""

import numpy as np
import onnx
import pytest
from focal_loss_onnx import DOMAIN, OPERATORS, PortableFunctionError, add_functions, portable_function, reference
from focal_loss_onnx.formulas import Variant
from onnx import TensorProto, helper
from operator_models import (
    DTYPES,
    LEVELS,
    all_cases,
    assert_close,
    case_id,
    make_case,
    newest_opset,
    operator_model,
    rounded,
    session,
)


@pytest.mark.parametrize("parameters", list(all_cases()), ids=case_id)
def test_every_combination_equals_the_reference(parameters):
    case = make_case(*parameters)
    model = case.model()
    onnx.checker.check_model(model, full_check=True)
    for level in LEVELS:
        got = case.outputs(model, level)
        for key, wanted in case.wanted.items():
            assert_close(got[key], wanted, case.dtype, f"{case.operator} {key} {level}")


@pytest.mark.parametrize("opset", range(13, newest_opset() + 1))
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_opset(operator, opset):
    kind = OPERATORS[operator]
    case = make_case(kind.activation, kind.is_gradient, TensorProto.FLOAT, "int64", ("weight",))
    model = case.model(opset)
    onnx.checker.check_model(model, full_check=True)
    got = case.outputs(model)
    for key, wanted in case.wanted.items():
        assert_close(got[key], wanted, case.dtype, key)


def test_uses_standard_operators_only():
    for operator in OPERATORS.values():
        function = portable_function(Variant(operator, TensorProto.FLOAT, True, True, True, True), 17)
        assert {node.domain for node in function.node} == {""}
        assert [(entry.domain, entry.version) for entry in function.opset_import] == [("", 17)]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_alpha_and_gamma_are_shared_attributes(activation, alpha, gamma):
    for gradient in (False, True):
        case = make_case(activation, gradient, TensorProto.FLOAT, "int64", (), alpha=alpha, gamma=gamma)
        got = case.outputs(case.model())
        for key, wanted in case.wanted.items():
            assert_close(got[key], wanted, case.dtype, key)


def one_node(operator, feeds, attributes, dtype, rank):
    model = operator_model(operator, dtype, feeds, {"y": attributes}, ranks={"y": rank})
    return session(model).run(["y"], feeds)[0]


def test_defaults_of_absent_attributes():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((6, 3)).astype(np.float32)
    for operator, targets in (("SigmoidFocalLoss", [0, 1, 2, 3, 3, 0]), ("SoftmaxFocalLoss", [0, 1, 2, 0, 1, 2])):
        targets = np.array(targets)
        got = one_node(operator, {"logits": logits, "targets": targets}, {}, TensorProto.FLOAT, 0)
        wanted = reference.focal_loss(logits, targets, activation=OPERATORS[operator].activation)
        assert_close(got, wanted, TensorProto.FLOAT)


def test_background_and_ignored_indices():
    logits = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)
    targets = np.array([0, 1, 2, -1, 7, 1])
    for attributes in (
        {"background_index": -1, "ignore_index": 7},
        {"background_index": 7, "ignore_index": -1},
        {"background_index": -1, "ignore_index": 7, "normalization": "positives"},
    ):
        got = one_node("SigmoidFocalLoss", {"logits": logits, "targets": targets}, attributes, TensorProto.FLOAT, 0)
        assert_close(got, reference.focal_loss(logits, targets, **attributes), TensorProto.FLOAT, str(attributes))
    # A real class as background; and where both are the same value, ignored wins.
    targets = np.array([0, 1, 2, 0, 1, 1])
    for attributes in ({"background_index": 0}, {"background_index": 0, "ignore_index": 0}):
        attributes = {**attributes, "normalization": "positives"}
        got = one_node("SigmoidFocalLoss", {"logits": logits, "targets": targets}, attributes, TensorProto.FLOAT, 0)
        assert_close(got, reference.focal_loss(logits, targets, **attributes), TensorProto.FLOAT, str(attributes))


@pytest.mark.parametrize("operator", ["SigmoidFocalLoss", "SoftmaxFocalLoss"])
def test_a_class_that_does_not_exist_gives_nan(operator):
    logits = np.zeros((3, 2), np.float32)
    for bad in (-1, 3, 2**40):
        feeds = {"logits": logits, "targets": np.array([0, bad, 1])}
        losses = one_node(
            operator,
            feeds,
            {"reduction": "none"},
            TensorProto.FLOAT,
            {"sigmoid": 2, "softmax": 1}[OPERATORS[operator].activation],
        )
        rows = losses.reshape(3, -1)
        assert np.isnan(rows[1]).all() and np.isfinite(rows[[0, 2]]).all()
        assert np.isnan(one_node(operator, feeds, {}, TensorProto.FLOAT, 0))
        feeds = {"grad_loss": np.array(1, np.float32), **feeds}
        grad = one_node(f"{operator}Grad", feeds, {}, TensorProto.FLOAT, 2)
        assert np.isnan(grad[1]).all() and np.isfinite(grad[[0, 2]]).all()


@pytest.mark.parametrize("weight_shape", [(4,), (5, 1), (5, 4), (3, 5, 4), (1, 1, 1), ()])
def test_weights_broadcast(weight_shape):
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((3, 5, 4)).astype(np.float32)
    weight = np.asarray(rng.random(weight_shape), np.float32)
    targets = rng.integers(0, 5, (3, 5))
    feeds = {"logits": logits, "targets": targets, "weight": weight}
    for result in ({"reduction": "none"}, {"normalization": "weights"}):
        rank = 3 if result.get("reduction") == "none" else 0
        got = one_node("SigmoidFocalLoss", feeds, result, TensorProto.FLOAT, rank)
        assert_close(got, reference.focal_loss(logits, targets, weight=weight, **result), TensorProto.FLOAT)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (0, 5, 3)])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("target_kind", ["int64", "dense"])
def test_an_empty_input_is_no_loss(shape, activation, target_kind):
    for gradient in (False, True):
        case = make_case(activation, gradient, TensorProto.FLOAT, target_kind, (), rows=shape[:-1], classes=shape[-1])
        for level in LEVELS:
            for key, value in case.outputs(case.model(), level).items():
                assert value.shape == case.wanted[key].shape and (value == 0).all(), key


def test_all_ignored_is_no_loss():
    logits = np.full((2, 3), np.nan, np.float32)
    feeds = {"logits": logits, "targets": np.array([9, 9]), "weight": np.full((2, 1), np.nan, np.float32)}
    for reduction in ("sum", "mean"):
        for normalization in ("elements", "rows", "positives", "weights"):
            attributes = {"ignore_index": 9, "reduction": reduction, "normalization": normalization}
            assert one_node("SigmoidFocalLoss", feeds, attributes, TensorProto.FLOAT, 0) == 0
            softmax = {**feeds, "weight": feeds["weight"][:, 0]}
            assert one_node("SoftmaxFocalLoss", softmax, attributes, TensorProto.FLOAT, 0) == 0
            grad = one_node(
                "SigmoidFocalLossGrad",
                {"grad_loss": np.array(1, np.float32), **feeds},
                attributes,
                TensorProto.FLOAT,
                2,
            )
            assert (grad == 0).all()


EXTREMES = [0.0, 1.0, 18.0, 74.0, 88.0, 103.0, 104.0, 745.0, 16301.0, 65504.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_extreme_logits_of_the_sigmoid(dtype, gamma):
    largest = {TensorProto.DOUBLE: 1.7e308, TensorProto.FLOAT16: 65504.0}.get(dtype, 3.38e38)
    values = [v for v in (*EXTREMES, largest, np.inf) if v <= 16301 or v in (65504.0, largest, np.inf)]
    case_logits = np.array([[v, v, -v, -v] for v in values])
    with np.errstate(over="ignore"):
        case_logits = np.asarray(case_logits, DTYPES[dtype][0])
    labels = np.tile(np.asarray([0, 1, 0, 1], DTYPES[dtype][0]), (len(values), 1))
    feeds = {"logits": rounded(case_logits, dtype), "targets": rounded(labels, dtype)}
    attributes = {"reduction": "none", "gamma": gamma, "alpha": -1.0}
    losses = one_node("SigmoidFocalLoss", feeds, attributes, dtype, 2)
    wanted = reference.focal_loss(feeds["logits"], feeds["targets"], **attributes)
    assert not np.isnan(losses).any()
    assert np.isfinite(losses[:-1]).all()
    assert_close(losses, wanted, dtype)
    feeds = {"grad_loss": np.ones_like(feeds["logits"]), **feeds}
    grad = one_node("SigmoidFocalLossGrad", feeds, attributes, dtype, 2)
    assert np.isfinite(grad).all()
    wanted = reference.focal_loss_grad(1.0 + 0 * losses[:-1], feeds["logits"][:-1], feeds["targets"][:-1], **attributes)
    assert_close(grad[:-1], wanted, dtype)


def test_infinite_logits_where_the_limit_is_zero():
    inf = np.inf
    logits = np.array([[inf, -inf], [inf, -inf]], np.float32)
    labels = np.array([[1, 0], [0, 1]], np.float32)
    weight = np.array([[1.0], [0.0]], np.float32)
    feeds = {"logits": logits, "targets": labels, "weight": weight}
    losses = one_node("SigmoidFocalLoss", feeds, {"reduction": "none"}, TensorProto.FLOAT, 2)
    assert (losses == 0).all()
    feeds.pop("weight")
    losses = one_node("SigmoidFocalLoss", feeds, {"reduction": "none", "alpha": 1.0}, TensorProto.FLOAT, 2)
    assert losses.tolist() == [[0, 0], [0, inf]]


def test_nan_logits_stay_nan():
    logits = np.array([[np.nan, 1.0], [1.0, 2.0]], np.float32)
    feeds = {"logits": logits, "targets": np.array([0, 1])}
    losses = one_node("SigmoidFocalLoss", feeds, {"reduction": "none"}, TensorProto.FLOAT, 2)
    assert np.isnan(losses).tolist() == [[True, False], [False, False]]
    losses = one_node("SoftmaxFocalLoss", feeds, {"reduction": "none"}, TensorProto.FLOAT, 1)
    assert np.isnan(losses).tolist() == [True, False]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_extreme_logits_of_the_softmax(gamma):
    rows = np.array(
        [
            [0, 0, 0],
            [88, 0, -88],
            [-16301, -16300, 0],
            [1e38, -1e38, 0],
            [1e38, 1e38, 0],
            [20, 19.999, -400],
            [60, -60, 40],
        ],
        np.float32,
    )
    attributes = {"reduction": "none", "gamma": gamma}
    for label in range(3):
        targets = np.full(len(rows), label)
        losses = one_node("SoftmaxFocalLoss", {"logits": rows, "targets": targets}, attributes, TensorProto.FLOAT, 1)
        wanted = reference.focal_loss(rows, targets, activation="softmax", **attributes)
        assert_close(losses, wanted, TensorProto.FLOAT)
        # Small losses are exact too, not only small beside the others.
        normal = wanted > 1e-30
        assert np.allclose(losses[normal], wanted[normal], rtol=1e-5, atol=0)
        feeds = {"grad_loss": np.ones(len(rows), np.float32), "logits": rows, "targets": targets}
        grad = one_node("SoftmaxFocalLossGrad", feeds, attributes, TensorProto.FLOAT, 2)
        wanted = reference.focal_loss_grad(np.ones(len(rows)), rows, targets, activation="softmax", **attributes)
        assert_close(grad, wanted, TensorProto.FLOAT)


def test_a_confident_softmax_keeps_its_tiny_loss():
    logits = np.array([[40.0, 0.0, 1.0]], np.float32)
    got = one_node(
        "SoftmaxFocalLoss", {"logits": logits, "targets": np.array([0])}, {"gamma": 0.0}, TensorProto.FLOAT, 0
    )
    assert got == pytest.approx(np.exp(-40.0) + np.exp(-39.0), rel=1e-6)


def refused(match, feeds, attributes, operator="SigmoidFocalLoss", opset=17):
    with pytest.raises(PortableFunctionError, match=match):
        operator_model(operator, TensorProto.FLOAT, feeds, attributes, opset, ranks={"y": 0})


def test_refusals_say_why():
    logits = np.zeros((2, 3), np.float32)
    index = {"logits": logits, "targets": np.zeros(2, np.int64)}
    dense = {"logits": logits, "targets": logits}
    refused("opset 13 to .* has opset 12", index, {"y": {}}, opset=12)
    refused("ignore_index is for class indices", dense, {"y": {"ignore_index": 1}})
    refused("a softmax always names a class", index, {"y": {"background_index": 1}}, operator="SoftmaxFocalLoss")
    refused("alpha must be at most 1", index, {"y": {"alpha": 1.5}})
    refused("alpha must be at most 1", index, {"y": {"alpha": float("nan")}})
    refused("gamma must be finite", index, {"y": {"gamma": -1.0}})
    refused("gamma must be finite", index, {"y": {"gamma": float("inf")}})
    refused("reduction must be one of none, sum, mean, not 'average'", index, {"y": {"reduction": "average"}})
    refused("cannot be -2\\^63", index, {"y": {"ignore_index": -(2**63)}})
    refused("gamma is INT, but must be FLOAT", index, {"y": {"gamma": 2}})
    refused("no attribute 'beta'", index, {"y": {"beta": 1.0}})
    refused("targets are float16", {"logits": logits, "targets": logits.astype(np.float16)}, {"y": {}})
    refused("logits cannot be int32", {"logits": logits.astype(np.int32), "targets": logits}, {"y": {}})


def test_nodes_that_need_different_functions_are_refused():
    info = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3]),
        helper.make_tensor_value_info("i", TensorProto.INT64, [2]),
        helper.make_tensor_value_info("t", TensorProto.FLOAT, [2, 3]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in "ab"]
    nodes = [
        helper.make_node("SigmoidFocalLoss", ["x", "i"], ["a"], domain=DOMAIN),
        helper.make_node("SigmoidFocalLoss", ["x", "t"], ["b"], domain=DOMAIN),
    ]
    graph = helper.make_graph(nodes, "g", info, outputs)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    with pytest.raises(PortableFunctionError, match="'a' and 'b' need different .*index_targets"):
        add_functions(helper.make_model(graph, opset_imports=imports))


def test_the_model_is_copied_and_an_old_function_replaced():
    case = make_case("sigmoid", False, TensorProto.FLOAT, "int64", ())
    model = case.model()
    before = model.SerializeToString()
    again = add_functions(model)
    assert model.SerializeToString() == before
    assert len(again.functions) == 1 and again.ir_version >= 9
