"""From a PyTorch module with a focal loss in it to an ONNX model with our operator and its portable function."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import ModelProto, helper
from onnx.defs import OpSchema

from ..functions import add_functions
from ..graph import element_type_name
from ..operators import ARITHMETIC_TYPE, DOMAIN, INDEX_TYPES, LOSSES, OPTIONAL_INPUTS, VERSION, Operator


def export(
    model: torch.nn.Module | torch.export.ExportedProgram,
    args: tuple[Any, ...] = (),
    f: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ModelProto:
    """An ONNX model of a module that computes a focal loss with this package.

    The loss becomes the operator of the domain ``focal_loss``, and the model carries its portable function, so that
    ONNX Runtime runs it with and without the library.

    Args:
        model: what ``torch.onnx.export`` takes.
        args: example inputs.
        f: where to write the model; nowhere if ``None``.
        options: passed to ``torch.onnx.export``: ``dynamic_shapes``, ``input_names``, ``opset_version`` ...

    Raises:
        PortableFunctionError: two losses of one kind in the model need different functions.
    """
    table = {**translation_table(), **options.pop("custom_translation_table", {})}
    program = torch.onnx.export(model, args, dynamo=True, custom_translation_table=table, **options)
    assert program is not None  # only the exporter that dynamo replaced returns nothing
    exported = add_functions(program.model_proto)
    if f is not None:
        onnx.save(exported, os.fspath(f))
    return exported


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For ``torch.onnx.export(..., dynamo=True, custom_translation_table=...)``.

    That gives a model with the operator; :func:`focal_loss_onnx.add_functions` attaches the portable function.
    """
    from onnxscript.values import Op, Opset

    opset = Opset(DOMAIN, VERSION)
    made = {operator.name: Op(opset, operator.name, _schema(operator)) for operator in LOSSES.values()}

    # The exporter reads from the annotations which arguments become attributes.
    def forward(
        logits: Any,
        targets: Any,
        class_alpha: Any,
        weight: Any,
        normalizer: Any,
        activation: str,
        alpha: float,
        gamma: float,
        reduction: str,
        normalization: str,
        axis: int,
        ignore_index: int | None = None,
        background_index: int | None = None,
    ) -> Any:
        attributes: dict[str, Any] = {
            "alpha": alpha,
            "gamma": gamma,
            "reduction": reduction,
            "normalization": normalization,
            "axis": axis,
            "ignore_index": ignore_index,
            "background_index": background_index,
        }
        given = {name: value for name, value in attributes.items() if value is not None}
        return made[LOSSES[activation].name](logits, targets, class_alpha, weight, normalizer, **given)

    return {torch.ops.focal_loss.forward.default: forward}


def _schema(operator: Operator) -> OpSchema:
    """What the exporter has to know of an operator's inputs, output and attributes."""
    floats = [_type_string(kind) for kind in ARITHMETIC_TYPE]
    types = {"T": floats, "Targets": [*floats, *(_type_string(kind) for kind in INDEX_TYPES)]}
    single, optional = OpSchema.FormalParameterOption.Single, OpSchema.FormalParameterOption.Optional
    return OpSchema(
        operator.name,
        DOMAIN,
        VERSION,
        inputs=[
            OpSchema.FormalParameter(
                name,
                "Targets" if name == "targets" else "T",
                param_option=optional if name in OPTIONAL_INPUTS else single,
            )
            for name in operator.inputs
        ],
        outputs=[OpSchema.FormalParameter(operator.output, "T")],
        type_constraints=[(name, kinds, "") for name, kinds in types.items()],
        attributes=[
            OpSchema.Attribute(a.name, OpSchema.AttrType.INT, required=False)  # an index, absent unless given
            if a.default is None
            else OpSchema.Attribute(a.name, helper.make_attribute(a.name, a.default))
            for a in operator.attributes
        ],
    )


def _type_string(element_type: int) -> str:
    return f"tensor({element_type_name(element_type)})"
