"""Writes the model that the other examples run: logits [N, 3] and class indices [N] in, the sum of the focal losses out.

    python examples/make_model.py target/examples/model.onnx

The "detector" is a single Identity; a real one is attached to in the same way.
"""

import sys

import focal_loss_onnx
import onnx
from onnx import TensorProto, helper

detector = helper.make_model(
    helper.make_graph(
        [helper.make_node("Identity", ["features"], ["logits"])],
        "detector",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
    ),
    ir_version=9,
    opset_imports=[helper.make_opsetid("", 17)],
)
# Class 3 of 3 is the background: a row of zeros.
onnx.save(focal_loss_onnx.attach(detector, "logits", alpha=0.25, gamma=2.0, reduction="sum", per_anchor_loss="loss_per_anchor"), sys.argv[1])
