"""A model with the focal loss attached, in ONNX Runtime: with the library, and without it.

    python examples/python/example.py target/examples/model.onnx
"""

import sys

import focal_loss_onnx
import numpy
import onnxruntime

logits = numpy.array([[2.0, -1.0, 0.5], [-3.0, -2.0, -4.0]], dtype=numpy.float32)
targets = numpy.array([0, 3])  # an object of class 0; background (K = 3)

p = 1 / (1 + numpy.exp(-logits.astype(float)))
positive = targets[:, None] == numpy.arange(3)
p_t = numpy.where(positive, p, 1 - p)
expected = numpy.sum(-numpy.where(positive, 0.25, 0.75) * (1 - p_t) ** 2 * numpy.log(p_t))

for with_library in True, False:
    options = onnxruntime.SessionOptions()
    if with_library:
        focal_loss_onnx.register(options)
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    (loss,) = session.run(["loss"], {"features": logits, "targets": targets})
    print(f"{'the library' if with_library else 'the portable function'}: {loss:.9g}, by the textbook {expected:.9g}")
    if not abs(loss - expected) <= 2e-6 * expected:
        sys.exit("the loss is wrong")
