"""Running replaced nodes and new ones on the same random inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from . import reference
from .elementwise import Elementwise
from .errors import FuseError
from .functions import embed_functions
from .operators import DOMAIN, VERSION

Run = Callable[[dict[str, Any]], list[Any]]

_NUMPY: dict[int, Any] = {
    TensorProto.FLOAT16: np.float16,
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.BOOL: np.bool_,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
}

#: Logits are tried on this scale: beyond, the replaced nodes themselves are no measure any more.
_SCALE: dict[int, float] = {TensorProto.FLOAT16: 3.0, TensorProto.FLOAT: 6.0, TensorProto.DOUBLE: 12.0}
_FAR = 120.0

_MOST_ELEMENTS = 1 << 20
_LENGTHS = (5, 7, 3, 2)


@dataclass(frozen=True)
class Trial:
    """Both were run.

    Attributes:
        runtime: what ran them.
        count: how many losses were compared, or went into the reduced losses that were.
        largest: their largest difference, relative to the loss (to the largest one, where nothing is reduced).
        not_finite: of the losses at logits up to 120 on both sides, the part for which the replaced nodes do not give a
            finite number; ``None`` if that could not be run.
    """

    runtime: str
    count: int
    largest: float
    not_finite: float | None

    def __str__(self) -> str:
        text = f"{self.count} losses within {self.largest:.1e} in {self.runtime}"
        if not self.not_finite:
            return text
        return f"{text}; before, {100 * self.not_finite:.0f}% of losses at logits up to {_FAR:g} were not finite"


def try_both(
    model: ModelProto,
    graph: Elementwise,
    logits: str,
    targets: str,
    result: str,
    new_nodes: list[NodeProto],
    *,
    near: bool,
    soft: bool,
    logits_only_output: str,
) -> Trial | None:
    """Run the nodes between logits, targets and ``result``, and the new ones; ``None`` if the former cannot be run.

    Raises:
        FuseError: where the former are finite, they differ by more than rounding explains.
    """
    kind = graph.tensor(logits).element_type
    if kind not in _SCALE or graph.tensor(targets).element_type not in _NUMPY:
        return None  # NumPy has no such arrays
    old_nodes, sources = _between(graph, result, (logits, targets))
    old = _part(model, graph, old_nodes, (logits, targets, *sources), [result])
    new = _part(model, graph, new_nodes, (logits, targets), [result])
    started = next(_started(old), None)
    if started is None:
        return None
    runtime, run_old, start_new = started
    try:
        run_new = start_new(new)
    except Exception as error:  # noqa: BLE001 (runtimes' errors have no common class)
        raise FuseError(f"{runtime} does not load the operator in the place of {result!r}: {error}") from error
    rng = np.random.default_rng(0)
    count, largest = 0, 0.0
    for _ in range(3):
        feeds = _feeds(graph, rng, logits, targets, sources, 1.5 if near else _SCALE[kind], soft)
        count += feeds[logits].size
        before = np.asarray(run_old(feeds)[0], np.float64)
        after = np.asarray(run_new({name: feeds[name] for name in (logits, targets)})[0], np.float64)
        if before.shape != after.shape:
            raise FuseError(f"{result!r} would have the shape {after.shape} in place of {before.shape}")
        finite = np.isfinite(before)
        if not finite.any():
            continue
        difference = np.abs(before - after)[finite].max() / max(np.abs(before[finite]).max(), np.finfo(np.float64).tiny)
        largest = max(largest, float(difference))
    allowed = 2e-3 if near else _allowed(kind)
    if not largest <= allowed:
        raise FuseError(
            f"{result!r} was recognised, but {runtime} computes {largest:.1e} from it (more than {allowed:.1e})"
        )
    return Trial(runtime, count, largest, _not_finite(model, graph, logits, targets, logits_only_output, soft))


def _allowed(kind: int) -> float:
    """``1 - p`` is right to a rounding error of 1: so is a loss, relative to the largest."""
    return 64.0 * float(np.finfo(_NUMPY[kind]).eps) + 1e-7  # alpha and gamma are float32


def _not_finite(
    model: ModelProto, graph: Elementwise, logits: str, targets: str, output: str, soft: bool
) -> float | None:
    nodes, sources = _between(graph, output, (logits, targets))
    part = _part(model, graph, nodes, (logits, targets, *sources), [output])
    for _, run, _ in _started(part):
        feeds = _feeds(graph, np.random.default_rng(1), logits, targets, sources, None, soft)
        with np.errstate(all="ignore"):
            values = np.asarray(run(feeds)[0], np.float64)
        return float(np.mean(~np.isfinite(values))) if values.size else None
    return None


def _between(graph: Elementwise, result: str, cut: tuple[str, ...]) -> tuple[list[NodeProto], list[str]]:
    """The nodes that make ``result`` of a cut, and tensors of which they need the shape only."""
    needed, queue, sources = {result}, [result], []
    nodes = []
    for name in queue:
        node = graph.producers.get(name)
        if name in cut or node is None:
            continue
        nodes.append(node)
        for operand in filter(None, node.input):
            if operand in needed:
                continue
            needed.add(operand)
            if node.op_type == "Shape" and operand not in cut:
                sources.append(operand)
            else:
                queue.append(operand)
    sources = [name for name in sources if name not in {o for node in nodes for o in node.output}]
    order = {name: index for index, name in enumerate(graph.order)}
    return sorted(nodes, key=lambda node: order[node.output[0]]), sources


def _part(
    model: ModelProto, graph: Elementwise, nodes: list[NodeProto], inputs: tuple[str, ...], outputs: list[str]
) -> ModelProto:
    """A model of some of a model's nodes, or of others with the same inputs."""
    nodes = [part for node in nodes for part in _loadable(node)]
    names = {name for node in nodes for name in node.input} - set(inputs)
    part = helper.make_model(
        helper.make_graph(
            nodes,
            "part",
            [_info(graph, name) for name in inputs],
            [_info(graph, name) for name in outputs],
            [i for i in model.graph.initializer if i.name in names],
        ),
        opset_imports=[*model.opset_import],
        ir_version=max(8, min(model.ir_version, 10)),
    )
    if all(entry.domain != DOMAIN for entry in part.opset_import):
        part.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    return part


def _loadable(node: NodeProto) -> list[NodeProto]:
    """A node in operators that ONNX has."""
    if node.op_type != "Log1p":
        return [node]
    (x,), (y,) = node.input, node.output
    one = helper.make_node("Softplus", [f"{y}/log"], [y])  # log(1 + exp(log(x)))
    return [helper.make_node("Log", [x], [f"{y}/log"]), one]


def _info(graph: Elementwise, name: str) -> Any:
    tensor = graph.tensor(name)
    shape = None if tensor.shape is None else [None] * len(tensor.shape)
    return helper.make_tensor_value_info(name, tensor.element_type, shape)


def _feeds(
    graph: Elementwise,
    rng: np.random.Generator,
    logits: str,
    targets: str,
    sources: list[str],
    scale: float | None,
    soft: bool,
) -> dict[str, Any]:
    """Random inputs; at logits up to :data:`_FAR` if no scale is given."""
    shape = _lengths(graph, logits)
    kind = _NUMPY[graph.tensor(logits).element_type]
    x = rng.uniform(-_FAR, _FAR, shape) if scale is None else np.clip(rng.standard_normal(shape), -2, 2) * scale / 2
    t = (rng.random(shape) < 0.3).astype(np.float64)
    target_kind = _NUMPY[graph.tensor(targets).element_type]
    if soft and np.issubdtype(target_kind, np.floating):
        t = np.where(rng.random(shape) < 0.5, t, rng.random(shape))
    feeds = {logits: x.astype(kind), targets: t.astype(target_kind)}
    for name in sources:
        feeds[name] = np.zeros(shape, _NUMPY.get(graph.tensor(name).element_type, np.float32))
    return feeds


def _lengths(graph: Elementwise, name: str) -> tuple[int, ...]:
    """A shape that a tensor can have, not too large: constants of the whole shape are there for small ones only."""
    stated = graph.tensor(name).shape
    stated = (None, None) if stated is None else stated
    shape = tuple(d if isinstance(d, int) else _LENGTHS[i % len(_LENGTHS)] for i, d in enumerate(stated))
    if np.prod(shape, dtype=float) <= _MOST_ELEMENTS:
        return shape
    return tuple(min(length, 16) for length in shape)


def _started(model: ModelProto) -> Iterator[tuple[str, Run, Callable[[ModelProto], Run]]]:
    """The runtimes that load a model: their name, the model loaded, and how to load one with our operator."""
    for runtime, start, start_new in (
        ("ONNX Runtime", _onnxruntime, lambda new: _onnxruntime(embed_functions(new))),
        ("onnx.reference", _reference, _reference),
    ):
        try:
            run = start(model)
        except Exception:  # noqa: BLE001, S112 (not installed, or it does not know an operator)
            continue
        yield runtime, run, start_new


def _onnxruntime(model: ModelProto) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def _reference(model: ModelProto) -> Run:
    """With our operator in NumPy: this evaluator runs no function whose last inputs are left out."""
    evaluator = ReferenceEvaluator(model, new_ops=[SigmoidFocalLoss])

    def run(feeds: dict[str, Any]) -> list[Any]:
        with np.errstate(all="ignore"):
            return list(evaluator.run(None, feeds))

    return run


class SigmoidFocalLoss(OpRun):
    """The operator for ``onnx.reference``, as far as fuse() uses it."""

    op_domain = DOMAIN

    def _run(self, logits: Any, targets: Any, alpha: float, gamma: float, reduction: str) -> tuple[Any]:
        loss = reference.focal_loss(logits, targets, alpha=float(alpha), gamma=float(gamma), reduction=reduction)
        return (loss.astype(logits.dtype),)
