"""A module that computes our loss, as an ONNX graph, in ONNX Runtime with and without the library."""

import itertools

import numpy as np
import onnx
import pytest
import torch
from focal_loss_onnx import DOMAIN, PortableFunctionError, add_functions
from focal_loss_onnx.torch import export, sigmoid_focal_loss, softmax_focal_loss, translation_table
from operator_models import session


class Detector(torch.nn.Module):
    """Features `[B, N, 8]` and targets `[B, N]` to logits `[B, N, K]` and a loss."""

    def __init__(self, function, classes=5, **options):
        super().__init__()
        self.head = torch.nn.Linear(8, classes)
        self.function = function
        self.options = options

    def forward(self, features, targets):
        logits = self.head(features)
        return logits, self.function(logits, targets, **self.options)


def inputs(batch, anchors, function=sigmoid_focal_loss, kind="index", dtype=torch.float32):
    generator = torch.Generator().manual_seed(batch * anchors)
    features = 3 * torch.randn(batch, anchors, 8, generator=generator).to(dtype)
    if kind == "dense":
        return features, torch.rand(batch, anchors, 5, generator=generator).to(dtype)
    lowest, highest = -1, 6 if function is sigmoid_focal_loss else 5
    targets = torch.randint(lowest, highest, (batch, anchors), generator=generator)
    return features, targets.to({"index": torch.int64, "int32": torch.int32}[kind])


def exported(module, example):
    both = {0: torch.export.Dim("batch"), 1: torch.export.Dim("anchors")}
    return export(
        module,
        example,
        dynamic_shapes=(both, both),
        input_names=["features", "targets"],
        output_names=["logits", "loss"],
        verbose=False,
    )


def nodes(model):
    return [node for node in model.graph.node if node.domain == DOMAIN]


FUNCTIONS = {"SigmoidFocalLoss": sigmoid_focal_loss, "SoftmaxFocalLoss": softmax_focal_loss}


@pytest.mark.parametrize(("name", "kind", "reduction"), list(itertools.product(FUNCTIONS, ["index", "int32", "dense"], ["none", "mean"])))  # fmt: skip
def test_export(name, kind, reduction, tmp_path):
    function = FUNCTIONS[name]
    options = {"alpha": 0.4, "gamma": 1.5, "reduction": reduction, "normalization": "positives", "normalizer": 1.25}
    options |= {} if kind == "dense" else {"ignore_index": -1}
    module = Detector(function, **options).eval()
    model = exported(module, inputs(2, 3, function, kind))
    onnx.checker.check_model(model, full_check=True)
    (node,) = nodes(model)
    assert node.op_type == name and [f.name for f in model.functions] == [name]
    shapes = [[d.dim_param for d in i.type.tensor_type.shape.dim][:2] for i in (*model.graph.input, model.graph.output[0])]
    assert shapes == [["batch", "anchors"]] * 3
    for library, (batch, anchors) in itertools.product((False, True), ((2, 3), (1, 50), (7, 11))):
        features, targets = inputs(batch, anchors, function, kind)
        feeds = {"features": features.numpy(), "targets": targets.numpy()}
        logits, loss = session(model, library=library).run(None, feeds)
        wanted = function(torch.from_numpy(logits), targets, **options)
        np.testing.assert_allclose(loss, wanted.numpy(), rtol=4e-6, atol=1e-12)


def test_every_argument_becomes_an_attribute_or_an_input():
    options = {
        "alpha": 0.75, "gamma": 3, "reduction": "sum", "ignore_index": -7, "background_index": -1,
        "class_alpha": [0.1, 0.2, 0.3, 0.4, 0.5], "weight": torch.rand(5), "normalization": "weights",
    }  # fmt: skip
    (node,) = nodes(exported(Detector(sigmoid_focal_loss, **options).eval(), inputs(2, 3)))
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {
        "alpha": 0.75, "gamma": 3.0, "reduction": b"sum", "normalization": b"weights", "axis": -1,
        "ignore_index": -7, "background_index": -1,
    }  # fmt: skip
    assert [bool(name) for name in (*node.input, "")][:5] == [True, True, True, True, False]


def test_other_types():
    for dtype, expected in ((torch.float64, onnx.TensorProto.DOUBLE), (torch.bfloat16, onnx.TensorProto.BFLOAT16)):
        module = Detector(sigmoid_focal_loss, reduction="sum", ignore_index=-1).to(dtype).eval()
        model = exported(module, inputs(2, 3, dtype=dtype))
        assert model.graph.output[1].type.tensor_type.elem_type == expected
        if dtype == torch.float64:
            features, targets = inputs(4, 9, dtype=dtype)
            wanted = module(features, targets)[1].item()
            for library in (False, True):
                feeds = {"features": features.numpy(), "targets": targets.numpy()}
                assert session(model, library=library).run(["loss"], feeds)[0] == pytest.approx(wanted, rel=1e-12)


def test_the_plain_exporter_with_the_translation_table(tmp_path):
    module = Detector(sigmoid_focal_loss, reduction="mean", ignore_index=-1).eval()
    both = {0: torch.export.Dim("batch"), 1: torch.export.Dim("anchors")}
    program = torch.onnx.export(
        module, inputs(2, 3), dynamo=True, dynamic_shapes=(both, both), custom_translation_table=translation_table()
    )
    (node,) = nodes(program.model_proto)
    assert node.op_type == "SigmoidFocalLoss"
    features, targets = inputs(3, 20)
    for model, library in ((program.model_proto, True), (add_functions(program.model_proto), False)):
        feeds = dict(zip([i.name for i in model.graph.input], (features.numpy(), targets.numpy()), strict=True))
        loss = session(model, library=library).run(None, feeds)[1]
        assert loss == pytest.approx(module(features, targets)[1].item(), rel=2e-6)


def test_the_file_and_a_program_that_is_exported_already(tmp_path):
    module = Detector(softmax_focal_loss, reduction="sum").eval()
    example = inputs(2, 3)[0], torch.randint(0, 5, (2, 3))
    path = tmp_path / "detector.onnx"
    model = export(torch.export.export(module, example), f=path, verbose=False)
    assert onnx.load(path) == model and len(nodes(model)) == 1


def test_what_logits_below_minus_18_do():
    """torchvision's loss, exported, is not finite in ONNX Runtime where ours is, with the library and without."""
    import torchvision

    logits, targets = torch.tensor([[-20.0, -44.0, -16301.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    wanted = sigmoid_focal_loss(logits, targets, reduction="sum").item()

    class Loss(torch.nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, logits, targets):
            return self.function(logits, targets, reduction="sum")

    loss = Loss(torchvision.ops.sigmoid_focal_loss).eval()
    theirs = torch.onnx.export(loss, (logits, targets), dynamo=True, verbose=False)
    feeds = {"logits": logits.numpy(), "targets": targets.numpy()}
    assert not np.isfinite(session(theirs.model_proto).run(None, feeds)[0])
    ours = export(Loss(sigmoid_focal_loss).eval(), (logits, targets), verbose=False)
    for library in (False, True):
        assert session(ours, library=library).run(None, feeds)[0] == pytest.approx(wanted, rel=2e-6)


def test_two_losses_that_need_different_functions():
    class Two(torch.nn.Module):
        def forward(self, logits, indices, dense):
            return sigmoid_focal_loss(logits, indices), sigmoid_focal_loss(logits, dense)

    with pytest.raises(PortableFunctionError, match="index_targets"):
        export(Two().eval(), (torch.rand(3, 4), torch.tensor([0, 1, 2]), torch.rand(3, 4)), verbose=False)
