"""Function bodies written as expressions.

A :class:`Body` collects standard ONNX operators; a :class:`Value` is the output of one of them and
takes Python's arithmetic, so that ``formulas.py`` reads like the formulas.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper, numpy_helper

#: The element type of a ``Constant`` that takes its value from an attribute of the function.
_ATTRIBUTE_TYPES: dict[int, tuple[str, int]] = {
    AttributeProto.FLOAT: ("value_float", TensorProto.FLOAT),
    AttributeProto.INT: ("value_int", TensorProto.INT64),
    AttributeProto.STRING: ("value_string", TensorProto.STRING),
}


class Value:
    """A tensor in a function body: its name and its element type."""

    def __init__(self, body: Body, name: str, dtype: int) -> None:
        self.body = body
        self.name = name
        self.dtype = dtype

    def _binary(self, op_type: str, other: Operand, dtype: int | None = None) -> Value:
        return self.body.op(op_type, self, other, dtype=dtype)

    def _reflected(self, op_type: str, other: Operand) -> Value:
        return self.body.op(op_type, self.body.constant(other, self.dtype), self)

    def __add__(self, other: Operand) -> Value:
        return self._binary("Add", other)

    def __sub__(self, other: Operand) -> Value:
        return self._binary("Sub", other)

    def __mul__(self, other: Operand) -> Value:
        return self._binary("Mul", other)

    def __truediv__(self, other: Operand) -> Value:
        return self._binary("Div", other)

    def __pow__(self, other: Operand) -> Value:
        return self._binary("Pow", other)

    def __radd__(self, other: float) -> Value:
        return self._reflected("Add", other)

    def __rsub__(self, other: float) -> Value:
        return self._reflected("Sub", other)

    def __rmul__(self, other: float) -> Value:
        return self._reflected("Mul", other)

    def __rtruediv__(self, other: float) -> Value:
        return self._reflected("Div", other)

    def __neg__(self) -> Value:
        return self.body.op("Neg", self)

    def __abs__(self) -> Value:
        return self.body.op("Abs", self)

    def __lt__(self, other: Operand) -> Value:
        return self._binary("Less", other, TensorProto.BOOL)

    def __ge__(self, other: Operand) -> Value:
        return self._binary("GreaterOrEqual", other, TensorProto.BOOL)

    def equals(self, other: Operand) -> Value:
        """Elementwise equality (``==`` stays Python's)."""
        return self._binary("Equal", other, TensorProto.BOOL)

    def is_infinite(self) -> Value:
        """Where the value is plus or minus infinity."""
        return self.body.op("IsInf", self, dtype=TensorProto.BOOL)

    def __and__(self, other: Value) -> Value:
        return self._binary("And", other)

    def __or__(self, other: Value) -> Value:
        return self._binary("Or", other)

    def __invert__(self) -> Value:
        return self.body.op("Not", self)

    def cast(self, dtype: int) -> Value:
        """The value as another element type; itself if it has that type already."""
        return self if dtype == self.dtype else self.body.op("Cast", self, to=dtype, dtype=dtype)


Operand = Value | float | int


class Body:
    """The nodes of a function under construction."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: dict[tuple[Any, ...], Value] = {}

    def input(self, name: str, dtype: int) -> Value:
        """The function's input called ``name``."""
        return Value(self, name, dtype)

    def op(self, op_type: str, *inputs: Operand, dtype: int | None = None, **attributes: Any) -> Value:
        """Append an operator; plain numbers become constants of the first tensor's type.

        Args:
            op_type: an operator of the default domain.
            inputs: its inputs.
            dtype: element type of the output; by default that of the first tensor that is not a condition.
            attributes: the operator's attributes.
        """
        tensors = [v for v in inputs if isinstance(v, Value)]
        data = next((v for v in tensors if v.dtype != TensorProto.BOOL), tensors[0])
        names = [v.name if isinstance(v, Value) else self.constant(v, data.dtype).name for v in inputs]
        output = self._new_name(op_type)
        self._nodes.append(helper.make_node(op_type, names, [output], **attributes))
        return Value(self, output, data.dtype if dtype is None else dtype)

    def where(self, condition: Value, chosen: Operand, otherwise: Operand) -> Value:
        """``chosen`` where the condition holds, ``otherwise`` elsewhere; at least one is a tensor."""
        return self.op("Where", condition, chosen, otherwise)

    def constant(self, value: Any, dtype: int) -> Value:
        """A constant; equal ones are one node."""
        array = np.asarray(value, dtype=helper.tensor_dtype_to_np_dtype(dtype))
        key = (dtype, array.shape, array.tobytes())
        if key not in self._constants:
            output = self._new_name("Constant")
            tensor = numpy_helper.from_array(array)
            self._nodes.append(helper.make_node("Constant", [], [output], value=tensor))
            self._constants[key] = Value(self, output, dtype)
        return self._constants[key]

    def integers(self, *values: int) -> Value:
        """A one-dimensional int64 constant."""
        return self.constant(values, TensorProto.INT64)

    def attribute(self, name: str, kind: AttributeProto.AttributeType) -> Value:
        """The value that the calling node (or the default) gives to the function's attribute ``name``."""
        field, dtype = _ATTRIBUTE_TYPES[kind]
        output = self._new_name(name)
        node = helper.make_node("Constant", [], [output])
        node.attribute.append(AttributeProto(name=field, type=kind, ref_attr_name=name))
        self._nodes.append(node)
        return Value(self, output, dtype)

    def refer(self, value: Value, field: str, attribute: str, kind: AttributeProto.AttributeType) -> Value:
        """Let the attribute ``field`` of the node behind ``value`` be the function's ``attribute``."""
        node = next(n for n in reversed(self._nodes) if value.name in n.output)
        node.attribute.append(AttributeProto(name=field, type=kind, ref_attr_name=attribute))
        return value

    def function(
        self,
        domain: str,
        name: str,
        inputs: list[str],
        result: Value,
        output: str,
        opset: int,
        defaults: dict[str, Any],
        doc: str,
    ) -> FunctionProto:
        """The finished function, without the nodes that its result does not need."""
        nodes = _needed(self._nodes, result.name)
        nodes.append(helper.make_node("Identity", [result.name], [output]))
        return helper.make_function(
            domain,
            name,
            inputs,
            [output],
            nodes,
            [helper.make_opsetid("", opset)],
            attribute_protos=[helper.make_attribute(key, value) for key, value in defaults.items()],
            doc_string=doc,
        )

    def _new_name(self, stem: str) -> str:
        return f"{stem}_{len(self._nodes)}"


def _needed(nodes: list[NodeProto], result: str) -> list[NodeProto]:
    """The nodes that ``result`` depends on, in order."""
    wanted = {result}
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
