"""From somebody's exported detector to the same graph with its focal loss."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from .damage import names_damage
from .editor import GraphEditor
from .errors import AttachError, TracedToLogitsWarning
from .functions import OLDEST_OPSET, embed_functions
from .graph import default_opset, near_names
from .levels import Logits, merge_levels
from .operators import DOMAIN, LOSSES, OPERATORS, VERSION, InvalidAttribute, Operator, check_attributes
from .probabilities import trace_logits

TARGET_KINDS = ("index", "dense")
INDEX_DTYPES = {"int32": TensorProto.INT32, "int64": TensorProto.INT64}


@dataclass(frozen=True)
class _Names:
    """Names of the graph inputs and outputs that are added; ``None`` is not wanted."""

    targets: str
    weight: str | None
    normalizer: str | None
    loss: str
    per_anchor_loss: str | None
    grad_logits: str | None


@names_damage
def attach(
    model: ModelProto | str | os.PathLike[str],
    logits: str | Sequence[str],
    *,
    activation: str = "sigmoid",
    alpha: float | None = None,
    gamma: float = 2.0,
    reduction: str = "mean",
    normalization: str = "elements",
    ignore_index: int | None = None,
    background_index: int | None = None,
    class_alpha: Iterable[float] | None = None,
    weight: bool | str = False,
    normalizer: bool | str = False,
    target_kind: str = "index",
    index_dtype: str = "int64",
    num_classes: int | None = None,
    layout: str | None = None,
    targets: str = "targets",
    loss: str = "loss",
    per_anchor_loss: bool | str = False,
    grad_logits: bool | str = False,
) -> ModelProto:
    """A copy of a detector that also computes the focal loss of its classification logits.

    The logits are one tensor or several, which are concatenated along the anchors in the order given:
    ``[B, N, K]``, ``[N, K]``, or raw pyramid levels ``[B, A*K, H, W]``, which become
    ``[B, H*W*A, K]`` (torchvision's order: row, column, anchor). Where a name is the output of the
    activation, the logits before it are used, with a :class:`TracedToLogitsWarning`.

    The copy keeps the detector's inputs and outputs and carries the portable function of the operator,
    so ONNX Runtime runs it with and without the library. Its IR version is at least 9.

    Args:
        model: the detector, or the path of its file.
        logits: the name of the logits, or the names of all levels.
        activation: ``"sigmoid"`` (K binary losses per anchor) or ``"softmax"``.
        alpha: weight of the positives; by default 0.25 (sigmoid) or off (softmax); below 0 is off.
        gamma: the focusing exponent.
        reduction: of the loss: ``"none"``, ``"sum"`` or ``"mean"``.
        normalization: what ``"mean"`` divides by: ``"elements"``, ``"rows"``, ``"positives"`` or
            ``"weights"``.
        ignore_index: targets with this value do not count.
        background_index: targets with this value have no object; by default K (sigmoid only).
        class_alpha: alpha per class, in place of ``alpha``; becomes an initializer.
        weight: adds an input of weights, called ``"weight"`` or as given: as many dimensions as the
            logits (sigmoid) or the targets (softmax), each broadcasting.
        normalizer: adds a scalar input that the loss is divided by, called ``"normalizer"`` or as given.
        target_kind: ``"index"`` (class indices ``[B, N]``) or ``"dense"`` (labels ``[B, N, K]`` in the
            logits' type).
        index_dtype: ``"int64"`` or ``"int32"``.
        num_classes: K; needed for raw levels, otherwise only compared with the graph.
        layout: channel order of raw levels: ``"AK"`` (all classes of the first anchor, then the next) or
            ``"KA"`` (all anchors of the first class, then the next).
        targets: name of the added input.
        loss: name of the added output.
        per_anchor_loss: adds an output ``[B, N]``, called ``"per_anchor_loss"`` or as given: the
            unreduced loss, summed over the classes.
        grad_logits: adds the gradient of the loss with respect to the ``[B, N, K]`` logits, called
            ``"grad_logits"`` or as given.

    Raises:
        AttachError: something that was asked for does not fit the model.
        PortableFunctionError: the operator cannot be expressed as a function in this model.
        ModelError: the model is damaged.
    """
    attributes = {
        "alpha": alpha,
        "gamma": gamma,
        "reduction": reduction,
        "normalization": normalization,
        "ignore_index": ignore_index,
        "background_index": background_index,
    }
    operator = _operator(activation, attributes, target_kind)
    index_type = _choose("index_dtype", index_dtype, INDEX_DTYPES)
    names = _Names(
        targets=targets,
        weight=_optional_name(weight, "weight"),
        normalizer=_optional_name(normalizer, "normalizer"),
        loss=loss,
        per_anchor_loss=_optional_name(per_anchor_loss, "per_anchor_loss"),
        grad_logits=_optional_name(grad_logits, "grad_logits"),
    )
    if names.grad_logits and reduction == "none":
        raise AttachError("grad_logits is the gradient of one number; reduction 'none' gives many")

    graph = GraphEditor(onnx.load(os.fspath(model)) if not isinstance(model, ModelProto) else model)
    _check_opset(graph.model)
    _check_new_names(graph, names)
    levels = [logits] if isinstance(logits, str) else list(logits)
    merged = merge_levels(graph, _traced(graph, levels, activation), layout, num_classes)

    row_shape = merged.shape[:-1]
    if target_kind == "dense":
        graph.add_input(names.targets, merged.element_type, merged.shape)
    else:
        graph.add_input(names.targets, index_type, row_shape)
    inputs = [merged.name, names.targets, "", "", ""]
    if class_alpha is not None:
        values = _class_alpha(class_alpha, merged, activation)
        inputs[2] = graph.add_initializer("class_alpha", merged.element_type, values)
    if names.weight:
        rank = len(merged.shape if activation == "sigmoid" else row_shape)
        graph.add_input(names.weight, merged.element_type, [f"{names.weight}_dim_{i}" for i in range(rank)])
        inputs[3] = names.weight
    if names.normalizer:
        graph.add_input(names.normalizer, merged.element_type, ())
        inputs[4] = names.normalizer
    _add_outputs(graph, operator, inputs, attributes, merged, names)
    return embed_functions(graph.model)


def _add_outputs(
    graph: GraphEditor,
    operator: Operator,
    inputs: list[str],
    attributes: dict[str, Any],
    logits: Logits,
    names: _Names,
) -> None:
    """The loss, and on request its gradient and the loss per anchor."""
    if all(entry.domain != DOMAIN for entry in graph.model.opset_import):
        graph.model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    rows = logits.shape[:-1]
    unreduced = logits.shape if operator.activation == "sigmoid" else rows
    reduction = attributes["reduction"]
    graph.add_node(operator.name, inputs, names.loss, domain=DOMAIN, **attributes)
    graph.declare_output(names.loss, logits.element_type, unreduced if reduction == "none" else ())

    if names.per_anchor_loss:
        values = names.loss
        if reduction != "none":
            values = graph.add_node(
                operator.name, inputs, stem="unreduced", domain=DOMAIN, **{**attributes, "reduction": "none"}
            )
            # ONNX Runtime before 1.24 cannot infer it where an optional input before the last is absent.
            graph.declare_value(values, logits.element_type, unreduced)
        if operator.activation == "sigmoid":
            _sum_over_classes(graph, values, logits, names.per_anchor_loss)
        else:
            graph.add_node("Identity", [values], names.per_anchor_loss)
        graph.declare_output(names.per_anchor_loss, logits.element_type, rows)

    if names.grad_logits:
        one = graph.add_scalar("one", logits.element_type, 1.0)
        gradient = OPERATORS[f"{operator.name}Grad"]
        graph.add_node(gradient.name, [one, *inputs], names.grad_logits, domain=DOMAIN, **attributes)
        graph.declare_output(names.grad_logits, logits.element_type, logits.shape)


def _sum_over_classes(graph: GraphEditor, values: str, logits: Logits, output: str) -> None:
    """Sum along the last axis; half precision is summed in float, for which every host has a kernel."""
    axes = graph.add_integers("class_axis", [len(logits.shape) - 1])
    if logits.element_type in (TensorProto.FLOAT, TensorProto.DOUBLE):
        graph.add_node("ReduceSum", [values, axes], output, keepdims=0)
        return
    wide = graph.add_node("Cast", [values], stem="unreduced_float", to=TensorProto.FLOAT)
    sums = graph.add_node("ReduceSum", [wide, axes], stem="per_anchor_float", keepdims=0)
    graph.add_node("Cast", [sums], output, to=logits.element_type)


def _traced(graph: GraphEditor, names: list[str], activation: str) -> list[str]:
    """The logits behind the names, with a warning for every name that is a probability."""
    if not names:
        raise AttachError("no logits are named")
    if len(set(names)) < len(names):
        raise AttachError(f"a tensor is named twice: {', '.join(names)}")
    for name in names:
        if name not in graph.names:
            raise AttachError(_unknown(name, graph.names))
    logits = []
    for name in names:
        traced = trace_logits(graph, name, activation)
        if traced != name:
            warnings.warn(
                f"{name!r} is the output of a {activation}; the loss is computed from the logits before it, {traced!r}",
                TracedToLogitsWarning,
                stacklevel=3,
            )
        logits.append(traced)
    graph.refresh()
    return logits


def _unknown(name: str, names: Iterable[str]) -> str:
    near = near_names(name, names)
    hint = f"; near: {', '.join(near)}" if near else ""
    return f"the model has no tensor named {name!r}{hint} (focal_loss_onnx inspect lists what looks like logits)"


def _operator(activation: str, attributes: dict[str, Any], target_kind: str) -> Operator:
    operator = _choose("activation", activation, LOSSES)
    _choose("target_kind", target_kind, dict.fromkeys(TARGET_KINDS))
    try:
        check_attributes(attributes, operator, target_kind == "index")
    except InvalidAttribute as error:
        raise AttachError(str(error)) from error
    return operator


def _choose(argument: str, value: str, allowed: dict[str, Any]) -> Any:
    if value not in allowed:
        raise AttachError(f"{argument} must be one of {', '.join(allowed)}, not {value!r}")
    return allowed[value]


def _optional_name(wanted: bool | str, default: str) -> str | None:
    if isinstance(wanted, str):
        return wanted
    return default if wanted else None


def _check_opset(model: ModelProto) -> None:
    opset = default_opset(model)
    if opset < OLDEST_OPSET:
        raise AttachError(
            f"the model has opset {opset}; the loss needs {OLDEST_OPSET} or newer: convert it first with "
            f"onnx.version_converter.convert_version(model, {OLDEST_OPSET})"
        )


def _check_new_names(graph: GraphEditor, names: _Names) -> None:
    chosen = [name for name in vars(names).values() if name is not None]
    for index, name in enumerate(chosen):
        if not name:
            raise AttachError("an added input or output needs a name that is not empty")
        if name in graph.names:
            raise AttachError(f"the model already has a tensor named {name!r}; choose another name for what is added")
        if name in chosen[:index]:
            raise AttachError(f"two added inputs or outputs are both named {name!r}")


def _class_alpha(class_alpha: Iterable[float], logits: Logits, activation: str) -> list[float]:
    values = np.asarray(list(class_alpha), dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise AttachError("class_alpha is one number per class")
    largest = {"sigmoid": 1.0, "softmax": np.finfo(np.float64).max}[activation]
    for value in values:
        if not 0 <= value <= largest:
            limit = "in [0, 1]" if activation == "sigmoid" else "finite and not negative"
            raise AttachError(f"class_alpha of every class must be {limit}, not {value}")
    classes = logits.shape[-1]
    if isinstance(classes, int) and len(values) != classes:
        raise AttachError(f"class_alpha has {len(values)} values, but the logits have {classes} classes")
    return values.tolist()
