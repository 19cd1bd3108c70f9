"""What exporters write for a focal loss: the models in this folder.

Run it in an environment of each exporter; see README.md.

python make_models.py torch
python make_models.py keras
"""

import pathlib
import sys

import onnx

FOLDER = pathlib.Path(__file__).resolve().parent

#: reduction, alpha (-1: off), gamma
SETTINGS = (("mean", 0.25, 2.0), ("none", -1, 1.5), ("sum", 0.4, 3.0))


def save(model, exporter, reduction, alpha, gamma):
    """Without what is of the machine: stack traces, and the paths in them."""
    if isinstance(model, (str, pathlib.Path)):
        model = onnx.load(model)
    model.doc_string = model.graph.doc_string = ""
    parts = [model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]
    parts += [part for f in model.functions for part in (f, *f.node, *f.value_info)] + [*model.graph.initializer]
    for part in parts:
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]
    alpha = "off" if alpha < 0 else f"{alpha:g}"
    path = FOLDER / f"{exporter}-{reduction}-{alpha}-{gamma:g}.onnx"
    onnx.save(model, path)
    print(path.name, path.stat().st_size)


def make_torch():
    """torchvision's loss: the exporter of TorchScript, with a dynamic axis, and where there is one that of dynamo."""
    import torch
    import torchvision

    class Loss(torch.nn.Module):
        def __init__(self, reduction, alpha, gamma):
            super().__init__()
            self.options = {"reduction": reduction, "alpha": alpha, "gamma": gamma}

        def forward(self, logits, targets):
            return torchvision.ops.sigmoid_focal_loss(logits, targets, **self.options)

    version = torch.__version__.split("+")[0]
    logits, targets = torch.randn(3, 4), (torch.rand(3, 4) > 0.5).float()
    number = tuple(map(int, version.split(".")[:2]))
    for settings in SETTINGS:
        loss, scratch = Loss(*settings).eval(), FOLDER / "scratch.onnx"
        legacy = {"dynamo": False} if number >= (2, 5) else {}
        names = {"input_names": ["logits", "targets"], "dynamic_axes": {"logits": {0: "n"}, "targets": {0: "n"}}}
        torch.onnx.export(
            loss, (logits, targets), str(scratch), opset_version=13 if number < (2, 0) else None, **names, **legacy
        )
        save(scratch, f"torch-{version}-legacy", *settings)
        scratch.unlink()
        if number < (2, 4):
            continue
        program = torch.onnx.export(loss, (logits, targets), dynamo=True)
        save(program.model_proto, f"torch-{version}-dynamo", *settings)


def make_keras():
    """Keras' loss through tf2onnx, from logits and from probabilities; its own mean is over the last axis."""
    import tensorflow as tf
    import tf2onnx

    keras, version = tf.__version__, tf2onnx.__version__
    for from_logits in (True, False):
        for reduction, name in (("none", "rows"), ("sum_over_batch_size", "mean")):
            for balanced, alpha, gamma in ((True, 0.25, 2.0), (False, -1, 1.5)):
                loss = tf.keras.losses.BinaryFocalCrossentropy(
                    apply_class_balancing=balanced,
                    alpha=alpha,
                    gamma=gamma,
                    from_logits=from_logits,
                    reduction=reduction,
                )
                function = tf.function(lambda x, t: loss(t, x if from_logits else tf.sigmoid(x)))  # noqa: B023
                signature = [tf.TensorSpec([None, 4], tf.float32, name=n) for n in ("logits", "targets")]
                model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=17)
                kind = "logits" if from_logits else "probabilities"
                save(model, f"tf2onnx-{version}-keras-{keras}-{kind}", name, alpha, gamma)


if __name__ == "__main__":
    {"torch": make_torch, "keras": make_keras}[sys.argv[1]]()
