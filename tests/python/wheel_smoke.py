"""What the installed wheel does in an environment that has nothing but what the wheel asks for; see wheel.py."""

import ctypes
import importlib.metadata
import importlib.util
import pathlib
import subprocess
import sys
import sysconfig

import numpy as np
import onnx
from focal_loss_onnx import __version__, attach, library_path, reference
from focal_loss_onnx.numpy import forward, forward_backward
from onnx import TensorProto, helper

site = pathlib.Path(sysconfig.get_path("purelib")).resolve()
library = pathlib.Path(library_path())
assert library.parent == site / "focal_loss_onnx", f"{library} is not the wheel's library"
versions = ctypes.CDLL(str(library)).focal_loss_version_string
versions.restype = ctypes.c_char_p
assert importlib.metadata.version("focal-loss-onnx") == __version__ == versions().decode()
for absent in ("torch", "onnxruntime"):
    assert importlib.util.find_spec(absent) is None, f"{absent} came along"

random = np.random.default_rng(0)
logits = (4 * random.standard_normal((200, 7))).astype(np.float32)
targets = random.integers(0, 8, 200)
for activation, indices in (("sigmoid", targets), ("softmax", targets % 7)):
    wanted = reference.focal_loss(logits, indices, activation=activation, alpha=0.25, gamma=1.5, reduction="sum")
    loss, gradient = forward_backward(
        logits, indices, activation=activation, alpha=0.25, gamma=1.5, reduction="sum"
    )
    np.testing.assert_allclose(loss, wanted, rtol=2e-6)
    assert np.isfinite(gradient).all()
try:
    forward(logits, targets + 1)
except ValueError as error:
    assert "class index 8" in str(error), error
else:
    raise AssertionError("a wrong class index went through")

info = helper.make_tensor_value_info("cls_logits", TensorProto.FLOAT, ["B", "N", 7])
source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "N", 7])
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["cls_logits"])], "detector", [source], [info])
detector = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
onnx.checker.check_model(attach(detector, "cls_logits"))
onnx.save(detector, "detector.onnx")
program = pathlib.Path(sys.executable).parent / "focal-loss-onnx"
subprocess.run([program, "attach", "detector.onnx", "out.onnx", "--logits", "cls_logits"], check=True, stdout=subprocess.PIPE)
print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}, onnx {onnx.__version__}: the wheel of {__version__} works")
