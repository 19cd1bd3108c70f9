"""Portable model-local functions: what each operator means, carried along by the model.

ONNX Runtime runs the kernel of the ``focal_loss`` library where it is registered, and these functions
where it is not. They use operators of the default domain only.

One function serves every node of its name in a model, so ``alpha``, ``gamma``, ``reduction``,
``normalization``, ``axis`` and the two special indices are attributes of the function. What changes the
types or the number of inputs (the element type, the kind of targets, which optional inputs are there) is
fixed when the function is made: see :class:`~focal_loss_onnx.formulas.Variant`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, helper

from .body import Body
from .formulas import ABSENT_INDEX, Variant, result_of
from .graph import Tensor, default_opset, element_type_name, known_tensors
from .operators import (
    ARITHMETIC_TYPE,
    DOMAIN,
    INDEX_TYPES,
    OPERATORS,
    OPTIONAL_INPUTS,
    VERSION,
    InvalidAttribute,
    Operator,
    check_attributes,
)

#: The oldest opset of the default domain whose operators the bodies can use: ``ReduceSum``,
#: ``Squeeze`` and ``Unsqueeze`` take their axes as an input from here on.
OLDEST_OPSET = 13

#: IR version that introduced default values for the attributes of functions.
FUNCTION_IR_VERSION = 9

#: Attributes of these names are absent unless the node has them; the value stands for that.
_INDEX_ATTRIBUTES = ("ignore_index", "background_index")


class PortableFunctionError(ValueError):
    """The operator cannot be expressed as a model-local function here; the message says why."""


def portable_function(variant: Variant, opset: int) -> FunctionProto:
    """The model-local function of an operator.

    Args:
        variant: the operator, the element type, the kind of targets and the optional inputs.
        opset: version of the default domain; it must be the model's.

    Raises:
        PortableFunctionError: the opset is not supported.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise PortableFunctionError(
            f"the function bodies can be written for opset {OLDEST_OPSET} to {newest} (the newest that the "
            f"installed onnx {onnx.__version__} knows), but the model has opset {opset}"
        )
    operator = variant.operator
    body = Body()
    result = result_of(body, variant)
    return body.function(
        DOMAIN,
        operator.name,
        list(operator.inputs),
        result,
        operator.output,
        opset,
        _defaults(variant),
        _describe(variant),
    )


def add_functions(model: ModelProto) -> ModelProto:
    """A copy of ``model`` that carries the function of every ``focal_loss`` operator it uses.

    Functions of that domain which are already there are written anew. The IR version is raised to
    9 where it is lower, since default values of function attributes need it.

    Raises:
        PortableFunctionError: a node cannot be expressed, or two nodes of one operator need different
            functions.
    """
    model = _copy(model)
    return embed_functions(model)


def embed_functions(model: ModelProto) -> ModelProto:
    """:func:`add_functions` in place."""
    for function in model.functions:
        for node in function.node:
            if node.domain == DOMAIN and function.domain != DOMAIN:
                raise PortableFunctionError(
                    f"{node.op_type} is used inside the function {function.name!r}, where the types of its "
                    "inputs are not known; inline that function first (onnx.inliner)"
                )
    nodes = list(nodes_of_domain(model.graph))
    tensors = known_tensors(model) if nodes else {}
    variants: dict[str, tuple[Variant, NodeProto]] = {}
    for node in nodes:
        variant = variant_of(node, tensors)
        first, first_node = variants.setdefault(node.op_type, (variant, node))
        if first != variant:
            raise PortableFunctionError(_conflict(first, first_node, variant, node))

    opset = default_opset(model)
    functions = [portable_function(variant, opset) for variant, _ in variants.values()]
    names = {f.name for f in functions}
    kept = [f for f in model.functions if f.domain != DOMAIN or f.name not in names]
    del model.functions[:]
    model.functions.extend([*kept, *functions])
    if functions:
        model.ir_version = max(model.ir_version, FUNCTION_IR_VERSION)
        if all(entry.domain != DOMAIN for entry in model.opset_import):
            model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    return model


def variant_of(node: NodeProto, tensors: dict[str, Tensor]) -> Variant:
    """The function that a node needs.

    Args:
        node: a node of the domain ``focal_loss``.
        tensors: what is known of the model's tensors, by name.

    Raises:
        PortableFunctionError: the node is not one of the operators, an attribute has a value that they
            do not accept, or an input's type is unknown.
    """
    label = f"{node.op_type} node {node.name!r}" if node.name else f"{node.op_type} node"
    operator = OPERATORS.get(node.op_type)
    if operator is None:
        raise PortableFunctionError(f"{DOMAIN} has no operator {node.op_type!r}; it has {', '.join(OPERATORS)}")
    inputs = dict(zip(operator.inputs, node.input, strict=False))
    logits = _element_type(label, "logits", inputs, tensors)
    if logits not in ARITHMETIC_TYPE:
        raise PortableFunctionError(f"{label}: logits cannot be {element_type_name(logits)}")
    targets = _element_type(label, "targets", inputs, tensors)
    if targets not in INDEX_TYPES and targets != logits:
        raise PortableFunctionError(
            f"{label}: targets are {element_type_name(targets)}; they must be int32 or int64 class indices, "
            f"or dense in the logits' type {element_type_name(logits)}"
        )
    index_targets = targets in INDEX_TYPES
    _check_node(label, node, operator, index_targets)
    present = {name: bool(inputs.get(name)) for name in OPTIONAL_INPUTS}
    return Variant(operator, logits, index_targets, **present)


def _element_type(label: str, name: str, inputs: dict[str, str], tensors: dict[str, Tensor]) -> int:
    tensor = tensors.get(inputs.get(name, ""))
    if tensor is None or not tensor.element_type:
        raise PortableFunctionError(
            f"{label}: the element type of its {name} {inputs.get(name, '')!r} is unknown, and a function "
            "body is written for one type; give the model a value_info for it"
        )
    return tensor.element_type


def _check_node(label: str, node: NodeProto, operator: Operator, index_targets: bool) -> None:
    kinds = {attribute.name: attribute.kind for attribute in operator.attributes}
    values = {}
    for attribute in node.attribute:
        kind = kinds.get(attribute.name, attribute.type)
        if attribute.type != kind:
            given, wanted = AttributeProto.AttributeType.Name(attribute.type), AttributeProto.AttributeType.Name(kind)
            raise PortableFunctionError(f"{label}: attribute {attribute.name} is {given}, but must be {wanted}")
        value = helper.get_attribute_value(attribute)
        values[attribute.name] = value.decode() if isinstance(value, bytes) else value
    try:
        check_attributes(values, operator, index_targets)
    except InvalidAttribute as error:
        raise PortableFunctionError(f"{label}: {error}") from error
    for name in _INDEX_ATTRIBUTES:
        if values.get(name) == ABSENT_INDEX:
            raise PortableFunctionError(
                f"{label}: {name} cannot be -2^63, which the function takes to mean that there is none "
                "(a function has no way of asking whether an attribute is present)"
            )


def _defaults(variant: Variant) -> dict[str, float | int | str | None]:
    """Default values of the function's attributes."""
    defaults = {}
    for attribute in variant.operator.attributes:
        if attribute.name not in _INDEX_ATTRIBUTES:
            defaults[attribute.name] = attribute.default
        elif variant.index_targets:
            defaults[attribute.name] = ABSENT_INDEX
    return defaults


def _describe(variant: Variant) -> str:
    targets = "class index" if variant.index_targets else "dense"
    optional = [name for name in OPTIONAL_INPUTS if getattr(variant, name)]
    inputs = f" and {', '.join(optional)}" if optional else ""
    return (
        f"{variant.operator.name} for {element_type_name(variant.dtype)} logits with {targets} targets{inputs}, "
        "in standard operators. Written by focal_loss_onnx."
    )


def _conflict(first: Variant, first_node: NodeProto, second: Variant, second_node: NodeProto) -> str:
    differing = [f.name for f in fields(Variant) if getattr(first, f.name) != getattr(second, f.name)]
    names = " and ".join(repr(n.name or n.output[0]) for n in (first_node, second_node))
    return (
        f"the {first.operator.name} nodes {names} need different function bodies (they differ in "
        f"{', '.join(differing)}), but a model has one function of that name; give both the same inputs and types"
    )


def nodes_of_domain(graph: GraphProto) -> Iterator[NodeProto]:
    """Nodes of the domain in the graph and in its subgraphs."""
    for node in graph.node:
        if node.domain == DOMAIN:
            yield node
        for attribute in node.attribute:
            for subgraph in _subgraphs(attribute):
                yield from nodes_of_domain(subgraph)


def _subgraphs(attribute: AttributeProto) -> Sequence[GraphProto]:
    return [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy
