"""Replacing what was found in a model by the operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper

from .editor import GraphEditor
from .elementwise import Elementwise, all_inputs, attribute, names_read
from .functions import embed_functions
from .operators import DOMAIN, VERSION
from .search import OPERATOR, Plan
from .trial import Trial, try_both

_REDUCTIONS: Mapping[str, str] = {"ReduceMean": "mean", "ReduceSum": "sum"}


@dataclass(frozen=True)
class FusedLoss:
    """A focal loss that was replaced.

    Attributes:
        output: the tensor that the operator computes now, under the name it had.
        logits: the operator's logits.
        targets: the operator's dense targets.
        alpha: its alpha; ``None`` is off.
        gamma: its gamma.
        reduction: its reduction.
        scale: what its result is multiplied by.
        trial: the replaced nodes and the operator's function, run on the same random inputs; ``None`` if no runtime
            could run the replaced nodes.
        notes: what else is worth knowing.
    """

    output: str
    logits: str
    targets: str
    alpha: float | None
    gamma: float
    reduction: str
    scale: float
    trial: Trial | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        scale = "" if self.scale == 1 else f"{self.scale:g} * "
        alpha = "off" if self.alpha is None else f"{self.alpha:g}"
        call = f"{scale}{OPERATOR.name}({self.logits!r}, {self.targets!r})"
        text = f"{self.output!r} = {call}: alpha {alpha}, gamma {self.gamma:g}, reduction {self.reduction}"
        trial = "no runtime here could run the replaced nodes" if self.trial is None else str(self.trial)
        return "; ".join([text, trial, *self.notes])


class Rewriter:
    """Replaces regions in a model."""

    def __init__(self, graph: Elementwise) -> None:
        self.graph = graph
        self.editor = GraphEditor(graph.model)
        self.before = graph.model
        self.readers = Counter(names_read(graph.model.graph))
        self.reader: dict[str, NodeProto] = {name: node for node in graph.model.graph.node for name in all_inputs(node)}
        self.new_nodes: dict[str, list[NodeProto]] = {}
        self.maybe_dead: set[str] = set()

    def replace(self, plan: Plan) -> FusedLoss:
        """Plan the new nodes and try them."""
        region = plan.region
        result, reduction, ones, tail = self._reduction(region.output)
        nodes = self._nodes(plan, result, reduction, ones)
        self.new_nodes[result] = nodes
        self.maybe_dead.update([*region.inside, *region.constants, *tail, result])
        trial = try_both(
            self.before, self.graph, plan.logits, plan.targets, result, nodes,
            near=plan.near, soft=plan.soft, logits_only_output=region.output,
        )  # fmt: skip
        return FusedLoss(
            result, plan.logits, plan.targets, None if plan.alpha < 0 else plan.alpha, plan.gamma, reduction,
            plan.scale, trial, tuple(plan.notes),
        )  # fmt: skip

    def _nodes(self, plan: Plan, result: str, reduction: str, ones: int) -> list[NodeProto]:
        kind = self.graph.tensor(plan.logits).element_type
        fresh, nodes = self.editor.fresh_name, []

        def add(op_type: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
            nodes.append(
                helper.make_node(op_type, inputs, [output], name=f"{output}/{op_type}", domain=domain, **attributes)
            )
            return output

        targets = plan.targets
        if self.graph.tensor(targets).element_type != kind:
            targets = add("Cast", [targets], fresh("targets"), to=kind)
        steps = ["scale"] * (plan.scale != 1) + ["reshape"] * (ones > 0)
        value = add(
            OPERATOR.name, [plan.logits, targets], fresh("loss") if steps else result, DOMAIN,
            alpha=plan.alpha, gamma=plan.gamma, reduction=reduction,
        )  # fmt: skip
        for step in steps:
            output = result if step == steps[-1] else fresh(step)
            if step == "scale":
                number = add(
                    "Constant", [], fresh("factor"), value=helper.make_tensor("factor", kind, [], [plan.scale])
                )
                value = add("Mul", [value, number], output)
            else:
                shape = add("Constant", [], fresh("shape"), value_ints=[1] * ones)
                value = add("Reshape", [value, shape], output)
        return nodes

    def _reduction(self, name: str) -> tuple[str, str, int, list[str]]:
        """Follow a tensor to where it is reduced over everything.

        Returns the reduced tensor, the reduction, how many axes of length 1 it has kept, and the tensors on the way.
        """
        shape = self.graph.tensor(name).shape
        best: tuple[str, str, int, list[str]] = name, "none", 0, []
        if shape is None:
            return best
        axes: list[int | None] = [*range(len(shape))]  # None: reduced, and kept with length 1
        kinds: set[str] = set()
        path: list[str] = []
        while self.readers[name] == 1 and name in self.reader:
            node = self.reader[name]
            after = self._axes_after(node, axes)
            if after is None or node.input[0] != name:
                break
            if node.op_type in _REDUCTIONS:
                kinds.add(_REDUCTIONS[node.op_type])
            axes, path = after, [*path, name]
            name = node.output[0]
            if len(kinds) > 1:
                break
            if kinds and all(axis is None for axis in axes):
                best = name, next(iter(kinds)), len(axes), path
        return best

    def _axes_after(self, node: NodeProto, axes: list[int | None]) -> list[int | None] | None:
        """What a node leaves of a tensor's axes; ``None`` if that is not known, or not only a reduction."""
        if node.domain or len(node.output) != 1:
            return None
        if node.op_type == "Identity":
            return axes
        given = self._axes_of(node, len(axes))
        if node.op_type in _REDUCTIONS and given is not None:
            if not given and attribute(node, "noop_with_empty_axes", 0):
                return None
            chosen = given or list(range(len(axes)))
            if attribute(node, "keepdims", 1):
                return [None if i in chosen else axis for i, axis in enumerate(axes)]
            return [axis for i, axis in enumerate(axes) if i not in chosen]
        if node.op_type == "Squeeze" and given is not None:
            chosen = given or list(range(len(axes)))
            if all(axes[i] is None for i in chosen):
                return [axis for i, axis in enumerate(axes) if i not in chosen]
        if node.op_type == "Reshape" and all(axis is None for axis in axes):
            shape = self.graph.array(node.input[1])
            return None if shape is None or shape.ndim != 1 else [None] * len(shape)
        return None

    def _axes_of(self, node: NodeProto, rank: int) -> list[int] | None:
        """The axes that a node names, as an attribute or an input; none is an empty list."""
        axes = attribute(node, "axes")
        if len(node.input) > 1 and node.input[1]:
            axes = self.graph.array(node.input[1])
            if axes is None:
                return None
        return [int(axis) % rank for axis in np.asarray([] if axes is None else axes).reshape(-1)] if rank else []

    def finish(self) -> ModelProto:
        """The model with everything replaced."""
        model = self.editor.model
        nodes: list[NodeProto] = []
        for node in model.graph.node:
            replaced = [name for name in node.output if name in self.new_nodes]
            nodes.extend(self.new_nodes[replaced[0]] if replaced else [node])
        nodes = self._alive(nodes, {output.name for output in model.graph.output})
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
        self._forget(model)
        if all(entry.domain != DOMAIN for entry in model.opset_import):
            model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
        return embed_functions(model)

    def _alive(self, nodes: list[NodeProto], outputs: set[str]) -> list[NodeProto]:
        """Without the replaced nodes that nobody reads, and the shapes and constants that only they read."""
        shapes = {name for node in nodes if node.op_type in ("Shape", "Constant") for name in node.output}
        dying = self.maybe_dead | {i for n in self.maybe_dead & set(self.graph.producers)
                                   for i in self.graph.producers[n].input if i in shapes}  # fmt: skip
        while True:
            used = outputs | {name for node in nodes for name in all_inputs(node)}
            kept = [
                node for node in nodes if not node.output or not dying.issuperset(node.output) or used & {*node.output}
            ]
            if len(kept) == len(nodes):
                return nodes
            nodes = kept

    def _forget(self, model: ModelProto) -> None:
        """Initializers and stated types of what is gone."""
        graph = model.graph
        used = set(names_read(graph)) | {info.name for info in graph.input}
        made = used | {name for node in graph.node for name in node.output}
        unused = [i for i in graph.initializer if i.name in self.readers and i.name not in used]
        for initializer in unused:
            graph.initializer.remove(initializer)
        stated = [info for info in graph.value_info if info.name not in made]
        for info in stated:
            graph.value_info.remove(info)
