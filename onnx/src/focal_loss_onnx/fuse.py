"""From a focal loss that somebody spelled out in standard operators to the operator.

What a graph computes elementwise is looked at as real functions, whatever way it is spelled (:mod:`.search`, with
:mod:`.elementwise` and :mod:`.recognition`); what is recognised is replaced (:mod:`.rewrite`), and run before and after
(:mod:`.trial`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import onnx
import onnx.inliner
from onnx import ModelProto

from .damage import names_damage
from .errors import FuseError
from .functions import OLDEST_OPSET
from .graph import default_opset
from .operators import DOMAIN
from .rewrite import FusedLoss, Rewriter
from .search import LeftAlone, Search

__all__ = ["FuseReport", "FusedLoss", "LeftAlone", "fuse"]


@dataclass(frozen=True)
class FuseReport:
    """What :func:`fuse` found."""

    fused: tuple[FusedLoss, ...] = ()
    left_alone: tuple[LeftAlone, ...] = ()

    def __str__(self) -> str:
        lines = [f"fused       {found}" for found in self.fused]
        return "\n".join([*lines, *(f"left alone  {found}" for found in self.left_alone)])


@names_damage
def fuse(
    model: ModelProto | str | os.PathLike[str], *, allow_epsilon: bool = False, hard_targets: bool = False
) -> tuple[ModelProto, FuseReport]:
    """A copy of a model whose spelled-out focal losses are our operator, and what was found.

    A loss is replaced only if it is, as a function of real numbers, the operator's: at logits up to 120 on both sides,
    at hard and soft targets, and at targets outside [0, 1]. ``alpha``, ``gamma`` and the reduction are
    lifted out of the graph's constants; a reduction that is not over everything stays. The replaced nodes and the new
    ones are then run on the same random inputs (where a runtime, or ``onnx.reference``, can run them).

    Inputs, outputs and names stay; nodes that nothing needs any more go. The copy carries the operator's portable
    function; where something was replaced, the model's other functions are inlined.

    Args:
        model: the model, or the path of its file.
        allow_epsilon: replace, too, what is a focal loss but for an epsilon or a bound that keeps its logarithm
            finite, which the operator does not need. The report says from where on the numbers differ.
        hard_targets: all targets are 0 or 1. Some spellings are the focal loss for these alone. Needless where the
            graph itself shows it (``OneHot``, a cast condition).

    Raises:
        FuseError: the model's opset is too old, or what was recognised did not come out equal.
        PortableFunctionError: the operator cannot be expressed as a function in this model.
        ModelError: the model is damaged.
    """
    given = onnx.load(os.fspath(model)) if not isinstance(model, ModelProto) else model
    copy = ModelProto()
    copy.CopyFrom(given)
    search = Search(_inlined(copy), allow_epsilon, hard_targets)
    plans = search.plans()
    if not plans:
        return copy, FuseReport(left_alone=tuple(search.left_alone))
    opset = default_opset(given)
    if opset < OLDEST_OPSET:
        raise FuseError(
            f"{plans[0].region.output!r} is a focal loss, but the model has opset {opset} and the operator's function "
            f"needs {OLDEST_OPSET} or newer: convert it first with "
            f"onnx.version_converter.convert_version(model, {OLDEST_OPSET})"
        )
    rewriter = Rewriter(search.graph)
    fused = tuple(rewriter.replace(plan) for plan in plans)
    return rewriter.finish(), FuseReport(fused, tuple(search.left_alone))


def _inlined(model: ModelProto) -> ModelProto:
    """The model without functions but our own."""
    ours = [(f.domain, f.name) for f in model.functions if f.domain == DOMAIN]
    if len(ours) == len(model.functions):
        return model
    return onnx.inliner.inline_selected_functions(model, ours, exclude=True)
