"""Graphs that spell out a loss in standard operators, from a few lines of text.

A line is ``name = Op(operand, ...)`` in the text format of ONNX, except that numbers may stand among the operands: they
become scalar initializers of the graph's type.
"""

import re

import numpy as np
import onnx
from onnx import TensorProto, helper

_NUMBER = re.compile(r"(?<=[(,\s])-?\d+(?:\.\d+)?(?:e-?\d+)?(?=\s*[,)])")


def spelled(
    body, *, dtype=TensorProto.FLOAT, opset=17, shape="[N, K]", output="[N, K]", inputs="", outputs="", scalar=""
):
    """A model of inputs ``x`` (logits) and ``t`` (targets) with the output ``loss``, and of more if they are named.

    ``scalar`` is the shape that the numbers have: by default none.
    """
    numbers = {}

    def named(match):
        return numbers.setdefault(match.group(), f"number_{len(numbers)}")

    # Attributes, in angle brackets, keep their numbers.
    parts = [part if part.startswith("<") else _NUMBER.sub(named, part) for part in re.split(r"(<[^>]*>)", body)]
    arguments = ", ".join(filter(None, [f"float{shape} x", f"float{shape} t", inputs]))
    results = ", ".join(filter(None, [f"float{output} loss", outputs]))
    constants = ", ".join(f"float{scalar} {name} = {{{value}}}" for value, name in numbers.items())
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}]>\nspelled ({arguments}) => ({results})\n'
        f"<{constants}>\n{{\n{''.join(parts)}\n}}"
    )
    model = onnx.parser.parse_model(text)
    for info in (*model.graph.input, *model.graph.output):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = dtype
    for initializer, value in zip(model.graph.initializer, numbers):  # with all the digits that the type has
        array = np.full([*initializer.dims], float(value), helper.tensor_dtype_to_np_dtype(dtype))
        initializer.CopyFrom(onnx.numpy_helper.from_array(array, initializer.name))
    onnx.checker.check_model(model, full_check=True)
    return model


#: What a loss is made of, in several spellings each: those that are so for every target, and those for 0 and 1 only.
CROSS_ENTROPY = {
    "log of sigmoid": """
        p1 = Sigmoid(x)  a1 = Log(p1)  q1 = Sub(1, p1)  a2 = Log(q1)  u1 = Sub(1, t)
        a3 = Mul(t, a1)  a4 = Mul(a2, u1)  a5 = Add(a4, a3)  ce = Neg(a5)""",
    "softplus": "a1 = Softplus(x)  a2 = Mul(x, t)  ce = Sub(a1, a2)",
    "two softplus": """
        a1 = Neg(x)  a2 = Softplus(a1)  a3 = Softplus(x)  u1 = Sub(1, t)  a4 = Mul(t, a2)  a5 = Mul(u1, a3)
        ce = Add(a4, a5)""",
    "logsigmoid": "u1 = Sub(1, t)  a1 = Mul(u1, x)  a2 = Sigmoid(x)  a3 = Log(a2)  ce = Sub(a1, a3)",
    "stable": """
        a1 = Relu(x)  a2 = Mul(x, t)  a3 = Sub(a1, a2)  a4 = Abs(x)  a5 = Neg(a4)  a6 = Exp(a5)  a7 = Add(a6, 1)
        a8 = Log(a7)  ce = Add(a8, a3)""",
    "clamped from below": """
        a1 = Neg(x)  a2 = Max(a1, 0)  a3 = Neg(a2)  a4 = Exp(a3)  a5 = Sub(a3, x)  a6 = Exp(a5)  a7 = Add(a4, a6)
        a8 = Log(a7)  u1 = Sub(1, t)  a9 = Mul(u1, x)  b1 = Add(a9, a2)  ce = Add(b1, a8)""",
}
CROSS_ENTROPY_HARD = {
    "of p_t": "k1 = Greater(t, 0.5)  a1 = Sigmoid(x)  a2 = Sub(1, a1)  a3 = Where(k1, a1, a2)  a4 = Log(a3)"
    "  ce = Neg(a4)",
    "of a signed logit": "a1 = Mul(t, 2)  a2 = Sub(1, a1)  a3 = Mul(a2, x)  ce = Softplus(a3)",
}
MISS = {
    "one minus p_t": """
        m1 = Sigmoid(x)  m2 = Mul(m1, t)  m3 = Sub(1, m1)  m4 = Sub(1, t)  m5 = Mul(m3, m4)  m6 = Add(m2, m5)
        m = Sub(1, m6)""",
    "directly": "m1 = Sigmoid(x)  m2 = Neg(x)  m3 = Sigmoid(m2)  m4 = Sub(1, t)  m5 = Mul(t, m3)  m6 = Mul(m4, m1)"
    "  m = Add(m5, m6)",
    "multiplied out": "m1 = Sigmoid(x)  m2 = Mul(m1, t)  m3 = Mul(m2, 2)  m4 = Add(m1, t)  m = Sub(m4, m3)",
    "by division": """
        m1 = Neg(x)  m2 = Exp(m1)  m3 = Add(1, m2)  m4 = Reciprocal(m3)  m5 = Div(1, m3)  m6 = Sub(m5, t)
        m7 = Mul(m4, t)
        m8 = Mul(t, m5)  m9 = Add(m7, m8)  n1 = Sub(t, m9)  m = Add(m5, n1)""",
}
MISS_HARD = {
    "where": "m0 = Equal(t, 1)  m1 = Sigmoid(x)  m2 = Sub(1, m1)  m = Where(m0, m2, m1)",
    "distance": "m1 = Sigmoid(x)  m2 = Sub(t, m1)  m = Abs(m2)",
    "from the cross entropy": "m1 = Neg(ce)  m2 = Exp(m1)  m = Sub(1, m2)",
}
#: By gamma.
POWER = {
    2.0: {"pow": "w = Pow(m, 2)", "square": "w = Mul(m, m)"},
    1.5: {"pow": "w = Pow(m, 1.5)", "root": "r1 = Sqrt(m)  w = Mul(r1, m)"},
    1.0: {"itself": "w = Identity(m)", "pow": "w = Pow(m, 1)"},
    3.0: {"cube": "r1 = Mul(m, m)  w = Mul(m, r1)", "logarithm": "r1 = Log(m)  r2 = Mul(3, r1)  w = Exp(r2)"},
    0.5: {"root": "w = Sqrt(m)"},
}
#: By alpha; the result is ``loss`` without a reduction. None is off.
ALPHA = {
    0.25: {
        "arithmetic": "l1 = Mul(t, 0.25)  l2 = Sub(1, t)  l3 = Mul(0.75, l2)  l4 = Add(l1, l3)  l5 = Mul(w, ce)"
        "  loss = Mul(l4, l5)",
        "multiplied out": "l1 = Mul(t, 0.5)  l4 = Sub(0.75, l1)  l5 = Mul(l4, w)  loss = Mul(ce, l5)",
    },
    0.9: {
        "arithmetic": "l1 = Mul(t, 0.9)  l2 = Sub(1, t)  l3 = Mul(l2, 0.1)  l4 = Add(l3, l1)  l5 = Mul(ce, w)"
        "  loss = Mul(l5, l4)"
    },
    None: {"off": "loss = Mul(ce, w)", "off, commuted": "loss = Mul(w, ce)"},
}
ALPHA_HARD = {0.25: {"where": "l0 = Greater(t, 0)  l4 = Where(l0, 0.25, 0.75)  l5 = Mul(l4, ce)  loss = Mul(l5, w)"}}
