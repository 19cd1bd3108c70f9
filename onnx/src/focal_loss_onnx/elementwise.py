"""Elementwise parts of a graph, computed as real numbers.

A :class:`Region` is what standard elementwise operators make of two tensors, its cut. It is evaluated in decimal
arithmetic of so many digits that nothing is left of rounding: whether a region *is* some function is then a question
about real numbers, whatever way it is spelled.
"""

from __future__ import annotations

import decimal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .errors import ModelError
from .graph import Tensor, known_tensors, producers
from .operators import ARITHMETIC_TYPE

#: With logits up to 120, ``1 - sigmoid`` is down to 1e-52, and keeps 38 digits.
CONTEXT = decimal.Context(prec=90, Emin=-(10**9), Emax=10**9, traps=[])

Number = Decimal | bool
Function = Callable[..., Number]

_FLOATS = frozenset({*ARITHMETIC_TYPE})
_ZERO, _ONE = Decimal(0), Decimal(1)

#: A cone is not followed further back than this many tensors; no loss is spelled longer.
_LARGEST_CONE = 160

#: Which part of a large initializer could be one number is not looked into.
_LARGEST_UNIFORM = 1 << 24


def _read(tensor: TensorProto) -> Any:
    """A tensor's values. The checker does not count its bytes."""
    try:
        return numpy_helper.to_array(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the model is damaged: the values of {tensor.name!r} cannot be read: {error}") from error


def _sigmoid(x: Decimal) -> Decimal:
    return _ONE / (_ONE + (-x).exp())


def _power(base: Decimal, exponent: Decimal) -> Decimal:
    return _ONE if exponent == 0 else base**exponent


def _is_nan(value: Number) -> bool:
    return isinstance(value, Decimal) and value.is_nan()


def _extreme(pick: Callable[..., Any]) -> Function:
    """``max`` or ``min``, NaN where an operand is."""
    return lambda *values: next((v for v in values if _is_nan(v)), None) or pick(values)


def _sign(x: Decimal) -> Decimal:
    return x if x.is_nan() else Decimal((x > 0) - (x < 0))


#: Operators of the default domain without attributes that matter, as functions of numbers. ONNX has no ``Log1p``:
#: tf2onnx leaves TensorFlow's in the graph, which no runtime loads then.
_FUNCTIONS: dict[str, Function] = {
    "Abs": abs,
    "Add": lambda a, b: a + b,
    "And": lambda a, b: a and b,
    "CastLike": lambda a, _: a,
    "Div": lambda a, b: a / b,
    "Equal": lambda a, b: a == b,
    "Exp": Decimal.exp,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "Identity": lambda a: a,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "Log": Decimal.ln,
    "Log1p": lambda a: (_ONE + a).ln(),
    "Max": _extreme(max),
    "Mean": lambda *values: sum(values) / len(values),
    "Min": _extreme(min),
    "Mul": lambda a, b: a * b,
    "Neg": lambda a: -a,
    "Not": lambda a: not a,
    "Or": lambda a, b: a or b,
    "Pow": _power,
    "Reciprocal": lambda a: _ONE / a,
    "Relu": lambda a: _extreme(max)(a, _ZERO),
    "Sigmoid": _sigmoid,
    "Sign": _sign,
    "Softplus": lambda x: (_ONE + x.exp()).ln(),
    "Sqrt": Decimal.sqrt,
    "Sub": lambda a, b: a - b,
    "Sum": lambda *values: sum(values, _ZERO),
    "Where": lambda condition, a, b: a if condition else b,
    "Xor": lambda a, b: a != b,
}

#: Operators with a comparison inside: their constants are values to look at closely.
_COMPARING = frozenset({"Clip", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min"})


def function_of(node: NodeProto) -> Function | None:
    """What a node computes of each element; ``None`` if it is not elementwise, or not known here."""
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return None
    if node.op_type == "Cast":
        return _cast(attribute(node, "to", 0))
    if node.op_type == "Clip":
        return _clip(node)
    return _FUNCTIONS.get(node.op_type) if all(node.input) else None


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _cast(to: int) -> Function | None:
    if to in _FLOATS:  # between floats nothing happens to a real number
        return lambda a: Decimal(int(a)) if isinstance(a, bool) else a
    if to == TensorProto.BOOL:
        return lambda a: a if isinstance(a, bool) else a != 0
    if to in (TensorProto.INT32, TensorProto.INT64):
        return lambda a: Decimal(int(a))
    return None


def _clip(node: NodeProto) -> Function:
    """Bounds are inputs since opset 11, attributes before."""
    low, high = attribute(node, "min"), attribute(node, "max")
    given = [bool(name) for name in (*node.input, "", "")][1:3]

    def clip(x: Decimal, *bounds: Decimal) -> Number:
        present = iter(bounds)
        lower = next(present) if given[0] else None if low is None else Decimal(low)
        upper = next(present) if given[1] else None if high is None else Decimal(high)
        x = x if lower is None else _extreme(max)(x, lower)  # type: ignore[assignment]
        return x if upper is None else _extreme(min)(x, upper)

    return clip


def all_inputs(node: NodeProto) -> Iterator[str]:
    """What a node reads, its subgraphs included (with names that are the subgraphs' own)."""
    yield from filter(None, node.input)
    for item in node.attribute:
        for graph in [item.g] if item.type == AttributeProto.GRAPH else item.graphs:
            yield from names_read(graph)


def names_read(graph: GraphProto) -> Iterator[str]:
    """Every name that is read in a graph: by its nodes, and as its outputs."""
    for node in graph.node:
        yield from all_inputs(node)
    for output in graph.output:
        yield output.name


@dataclass(frozen=True)
class Constant:
    """A tensor of one number: its value, its shape, or the tensor that it has its shape from."""

    value: Number
    shape: tuple[int, ...] = ()
    shape_of: str | None = None


class Elementwise:
    """The main graph of a model, by tensor: constants, and which tensors are made elementwise."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.tensors = known_tensors(_inferable(model))
        self.producers = producers(model)
        self.order = [name for node in model.graph.node for name in node.output if name]
        inputs = {info.name for info in model.graph.input}  # an initializer among them is only a default
        self.initializers = {i.name: i for i in model.graph.initializer if i.name not in inputs}
        self._constants: dict[str, Constant | None] = {}

    def tensor(self, name: str) -> Tensor:
        return self.tensors.get(name, Tensor(name, 0, None))

    def array(self, name: str) -> Any:
        """The value of an initializer or ``Constant``; ``None`` for other tensors."""
        if name in self.initializers:
            return _read(self.initializers[name])
        node = self.producers.get(name)
        if node is None or node.op_type != "Constant" or node.domain:
            return None
        found = next(iter(node.attribute), AttributeProto())
        if found.name == "value":
            return _read(found.t)
        if found.name in ("value_float", "value_floats"):
            return np.asarray(helper.get_attribute_value(found), np.float32)
        if found.name in ("value_int", "value_ints"):
            return np.asarray(helper.get_attribute_value(found), np.int64)
        return None

    def constant(self, name: str) -> Constant | None:
        """The one number that a tensor is made of, if it is constant and uniform."""
        if name not in self._constants:
            self._constants[name] = self._find_constant(name)
        return self._constants[name]

    def _find_constant(self, name: str) -> Constant | None:
        initializer = self.initializers.get(name)
        if initializer is not None and np.prod(initializer.dims, dtype=float) > _LARGEST_UNIFORM:
            return None
        node = self.producers.get(name)
        if node is not None and node.op_type in ("ConstantOfShape", "Expand") and not node.domain:
            return self._filled(node)
        array = self.array(name)
        if array is None or not array.size or array.dtype.kind in "OSU":
            return None
        values = array.astype(bool) if array.dtype == bool else array.astype(np.float64)
        first = values.flat[0]
        if array.size > 1 and not (values == first).all():
            return None
        return Constant(bool(first) if array.dtype == bool else Decimal(float(first)), array.shape)

    def _filled(self, node: NodeProto) -> Constant | None:
        """One number, expanded to the shape of some tensor or to a constant shape."""
        if node.op_type == "Expand":
            source = self.constant(node.input[0])
            value = None if source is None or source.shape_of else source.value
        else:
            fill = attribute(node, "value")
            array = np.zeros(1, np.float32) if fill is None else numpy_helper.to_array(fill)
            value = bool(array.flat[0]) if array.dtype == bool else Decimal(float(array.flat[0]))
        if value is None:
            return None
        name = node.input[-1]
        shape = self.array(name)
        if shape is not None:
            return Constant(value, tuple(int(d) for d in shape.reshape(-1)))
        maker = self.producers.get(name)
        if maker is not None and maker.op_type == "Shape" and not maker.domain and not maker.attribute:
            return Constant(value, shape_of=maker.input[0])
        return None

    @cached_property
    def operands(self) -> dict[str, tuple[str, ...]]:
        """For every tensor that is made elementwise: what of."""
        found = {}
        times = Counter([*self.order, *self.initializers, *(info.name for info in self.model.graph.input)])
        for name, node in self.producers.items():
            if times[name] > 1:  # by a damaged graph
                continue
            output = self.tensor(name).element_type
            integers = output not in _FLOATS and output not in (0, TensorProto.BOOL)  # whose division is another
            if function_of(node) and not (integers and node.op_type not in ("Cast", "Identity")):
                found[name] = tuple(filter(None, node.input))
        return found


def _inferable(model: ModelProto) -> ModelProto:
    """The model with operators in the place of those that ONNX does not have, for types and shapes."""
    if all(node.op_type != "Log1p" for node in model.graph.node):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if node.op_type == "Log1p":
            node.op_type = "Log"
    return copy


class Cone:
    """What a tensor is computed from, as far back as it is elementwise: a directed graph without constants."""

    def __init__(self, graph: Elementwise, output: str) -> None:
        self.graph = graph
        self.output = output
        self.constants: set[str] = set()
        self.operators: set[str] = set()
        self.names = self._sorted()

    def _sorted(self) -> list[str]:
        """Tensors that vary, each after everything that reads it."""
        reached, queue = {self.output}, [self.output]
        self.operands: dict[str, list[str]] = {}
        for name in queue:  # which grows
            varying: list[str] = []
            inside = name in self.graph.operands and len(queue) < _LARGEST_CONE
            for operand in self.graph.operands[name] if inside else ():
                if self.graph.constant(operand) is not None:
                    self.constants.add(operand)
                    continue
                varying.append(operand)
                if operand not in reached:
                    reached.add(operand)
                    queue.append(operand)
            if inside:
                self.operators.add(self.graph.producers[name].op_type)
            self.operands[name] = varying
        order = _topological(self.output, self.operands)
        if len(order) < len(self.operands):  # a graph that reads what it makes later, in a circle
            self.operands = {self.output: []}
            return [self.output]
        return order

    @cached_property
    def fixed(self) -> set[str]:
        """Tensors that are computed of constants alone."""
        found: set[str] = set()
        for name in reversed(self.names):
            operands = self.operands[name]
            if name in self.graph.operands and self._is_inside(name) and all(o in found for o in operands):
                found.add(name)
        return found

    def _is_inside(self, name: str) -> bool:
        """Whether the operands of a tensor were followed."""
        return bool(self.operands[name]) or all(
            self.graph.constant(o) is not None for o in self.graph.operands.get(name, ("",))
        )

    def cuts(self) -> Iterator[tuple[str, str]]:
        """Pairs of tensors that everything else is computed from, those nearest to the inputs first.

        A pair is a cut if every path from the output to where the cone ends leads through one of them. Paths are
        counted: of those that avoid the first tensor, all must lead through the second.
        """
        names = [name for name in self.names if name not in self.fixed]
        for first in reversed(names):
            down = self._paths_down(names, first)
            total = down[self.output]
            if not total:  # a function of `first` alone
                continue
            up = dict.fromkeys(names, 0)
            up[self.output] = 1
            for name in names:
                for operand in self._varying(name):
                    up[operand] += up[name] if name != first else 0
            for second in reversed(names):
                if second != self.output and second != first and up[second] * down[second] == total:
                    yield first, second

    def _varying(self, name: str) -> list[str]:
        return [o for o in self.operands[name] if o not in self.fixed]

    def _paths_down(self, names: list[str], avoided: str) -> dict[str, int]:
        """The number of paths from each tensor to where the cone ends that avoid one tensor."""
        down: dict[str, int] = {}
        for name in reversed(names):
            operands = self._varying(name)
            down[name] = 0 if name == avoided else sum(down[o] for o in operands) if operands else 1
        return down

    def leaves(self) -> list[str]:
        """The tensors where the cone ends."""
        return [name for name in self.names if name not in self.fixed and not self._varying(name)]

    def region(self, *cut: str) -> Region:
        """The part of the cone above a cut."""
        inside: list[str] = []
        reached, queue = {self.output}, [self.output]
        for name in queue:
            for operand in self.operands[name] if name not in cut else ():
                if operand not in reached:
                    reached.add(operand)
                    queue.append(operand)
        inside = [name for name in reversed(self.names) if name in reached and name not in cut]
        return Region(self.graph, self.output, cut, inside)


def _topological(output: str, operands: Mapping[str, Sequence[str]]) -> list[str]:
    readers = dict.fromkeys(operands, 0)
    for name in operands:
        for operand in operands[name]:
            readers[operand] += 1
    order = [] if readers[output] else [output]
    for name in order:  # which grows
        for operand in operands[name]:
            readers[operand] -= 1
            if not readers[operand]:
                order.append(operand)
    return order


def _applied(function: Function, operands: list[Number]) -> Number:
    """NaN where there is a condition in the place of a number, or an operand too many."""
    try:
        return function(*operands)
    except (TypeError, AttributeError, ValueError, OverflowError):
        return Decimal("NaN")


class Region:
    """What elementwise operators make of a cut: tensors ``inside``, each after its operands."""

    def __init__(self, graph: Elementwise, output: str, cut: tuple[str, ...], inside: list[str]) -> None:
        self.graph = graph
        self.output = output
        self.cut = cut
        self.inside = inside
        steps = []
        self._fixed: dict[str, Number] = {}
        self.constants: dict[str, Constant] = {}
        for name in inside:
            node = graph.producers[name]
            operands = graph.operands[name]
            function = function_of(node)
            assert function is not None
            for operand in operands:
                constant = None if operand in cut else graph.constant(operand)
                if constant is not None:
                    self.constants[operand] = constant
                    self._fixed[operand] = constant.value
            steps.append((name, function, operands))
        self._steps = []
        with decimal.localcontext(CONTEXT):
            for name, function, operands in steps:
                if name not in cut and all(o in self._fixed for o in operands):
                    self._fixed[name] = _applied(function, [self._fixed[o] for o in operands])
                else:
                    self._steps.append((name, function, operands))

    def __call__(self, *values: Number) -> Number:
        """The output for one element of each tensor of the cut; within :data:`CONTEXT`."""
        found = dict(self._fixed)
        found.update(zip(self.cut, values, strict=True))
        for name, function, operands in self._steps:
            found[name] = _applied(function, [found[o] for o in operands])
        return found[self.output]

    def compared(self) -> set[Decimal]:
        """Constants that something inside is compared with."""
        found: set[Decimal] = set()
        for name in self.inside:
            node = self.graph.producers[name]
            if node.op_type in _COMPARING:
                values = [self._fixed.get(o) for o in node.input]
                values += [Decimal(a.f) for a in node.attribute if a.type == AttributeProto.FLOAT]
                found.update(v for v in values if isinstance(v, Decimal) and v.is_finite())
        return found
