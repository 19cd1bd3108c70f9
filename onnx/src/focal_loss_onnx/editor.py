"""Adding to a graph: nodes at its end, inputs, outputs and initializers, without name clashes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from onnx import ModelProto, NodeProto, helper

from .graph import Dimension, Tensor, all_names, known_tensors, producers


class GraphEditor:
    """The main graph of a copy of a model, with what is known of its tensors."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.names = all_names(self.model)
        self.producers = producers(self.model)
        self.tensors = known_tensors(self.model)

    def add_node(
        self,
        op_type: str,
        inputs: Sequence[str],
        output: str | None = None,
        *,
        stem: str = "",
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node with one output; returns the output's name.

        Args:
            op_type: the operator.
            inputs: names of its inputs.
            output: name of its output; by default a fresh one.
            stem: what a fresh name is made from; by default the operator.
            domain: the operator's domain.
            attributes: its attributes; those that are ``None`` are left out.
        """
        output = self.fresh_name(stem or op_type) if output is None else self._take(output)
        attributes = {name: value for name, value in attributes.items() if value is not None}
        inputs = list(inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        name = f"{output}/{op_type}"
        self._append(helper.make_node(op_type, inputs, [output], name=name, domain=domain, **attributes))
        return output

    def add_copy(self, node: NodeProto, first_input: str) -> str:
        """Append a copy of a node of one output that reads something else first; returns its output."""
        copy = NodeProto()
        copy.CopyFrom(node)
        output = self.fresh_name(f"{node.output[0]}_logits")
        copy.name = f"{output}/{node.op_type}"
        copy.input[0] = first_input
        copy.output[0] = output
        self._append(copy)
        return output

    def add_integers(self, stem: str, values: Sequence[int]) -> str:
        """Append a constant of int64 values; returns its name."""
        return self.add_node("Constant", [], stem=stem, value_ints=list(values))

    def add_initializer(self, stem: str, element_type: int, values: Sequence[float]) -> str:
        """Add a one-dimensional initializer; returns its name."""
        name = self.fresh_name(stem)
        self.model.graph.initializer.append(helper.make_tensor(name, element_type, [len(values)], values))
        return name

    def add_scalar(self, stem: str, element_type: int, value: float) -> str:
        """Add a scalar initializer; returns its name."""
        name = self.fresh_name(stem)
        self.model.graph.initializer.append(helper.make_tensor(name, element_type, [], [value]))
        return name

    def add_input(self, name: str, element_type: int, shape: Iterable[Dimension]) -> None:
        """Add a graph input."""
        info = helper.make_tensor_value_info(self._take(name), element_type, list(shape))
        self.model.graph.input.append(info)

    def declare_output(self, name: str, element_type: int, shape: Iterable[Dimension]) -> None:
        """Make a tensor that some node computes an output of the graph."""
        self.model.graph.output.append(helper.make_tensor_value_info(name, element_type, list(shape)))

    def declare_value(self, name: str, element_type: int, shape: Iterable[Dimension]) -> None:
        """State the type of an intermediate tensor."""
        self.model.graph.value_info.append(helper.make_tensor_value_info(name, element_type, list(shape)))

    def refresh(self) -> None:
        """Infer again what is known of the tensors, after nodes were added."""
        self.tensors = known_tensors(self.model)

    def tensor(self, name: str) -> Tensor:
        """What is known of a tensor."""
        return self.tensors.get(name, Tensor(name, 0, None))

    def fresh_name(self, stem: str) -> str:
        """A name that the graph does not have, in the namespace ``focal_loss/``."""
        stem = stem if stem.startswith("focal_loss/") else f"focal_loss/{stem}"
        name, count = stem, 1
        while name in self.names:
            count += 1
            name = f"{stem}_{count}"
        return self._take(name)

    def _take(self, name: str) -> str:
        if name in self.names:
            raise ValueError(f"the graph already has a tensor named {name!r}")
        self.names.add(name)
        return name

    def _append(self, node: NodeProto) -> None:
        self.model.graph.node.append(node)
        for output in node.output:
            self.producers[output] = node
