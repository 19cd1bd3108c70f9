"""The command line: ``python -m focal_loss_onnx attach|fuse|inspect``.

Exit status: 0 done, 1 it cannot be done (one line on stderr says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from .attach import INDEX_DTYPES, TARGET_KINDS, attach
from .errors import AttachError, FuseError, ModelError
from .functions import PortableFunctionError
from .fuse import fuse
from .graph import known_tensors
from .inspection import inspect
from .levels import LAYOUTS
from .operators import ACTIVATIONS, NORMALIZATIONS, REDUCTIONS

#: A protobuf message cannot be larger; a model beyond this keeps its weights in a file beside it.
_LARGEST_MESSAGE = 2**31 - 1

#: The options of attach() that the command takes over, with their defaults.
_ATTACH_DEFAULTS = {name: p.default for name, p in signature(attach).parameters.items() if p.kind is p.KEYWORD_ONLY}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (AttachError, FuseError, ModelError, PortableFunctionError, OSError) as error:
        return _fail(str(error))
    except (DecodeError, onnx.checker.ValidationError) as error:
        return _fail(f"{options.model} is not an ONNX model: {error}")


def _attach(options: argparse.Namespace) -> int:
    arguments = {name: value for name, value in vars(options).items() if name in _ATTACH_DEFAULTS}
    model = onnx.load(options.model)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        result = attach(model, options.logits, **arguments)
    for note in notes:
        print(f"note: {note.message}", file=sys.stderr)
    _save(result, options.output)
    _report_additions(model, result)
    return 0


def _report_additions(model: ModelProto, result: ModelProto) -> None:
    tensors = known_tensors(result)
    for kind in ("input", "output"):
        before = {info.name for info in getattr(model.graph, kind)}
        for info in getattr(result.graph, kind):
            if info.name not in before:
                print(f"{kind:6}  {info.name}  {tensors[info.name]}")


def _save(model: ModelProto, path: Path) -> None:
    if model.ByteSize() <= _LARGEST_MESSAGE:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")


def _inspect(options: argparse.Namespace) -> int:
    candidates = inspect(options.model)
    if not candidates:
        return _fail(f"{options.model} has no tensor that looks like classification logits")
    names = max(len(c.tensor.name) for c in candidates)
    types = max(len(str(c.tensor)) for c in candidates)
    for candidate in candidates:
        tensor = candidate.tensor
        print(f"{tensor.name:{names}}  {tensor!s:{types}}  {'; '.join(candidate.reasons)}")
    return 0


def _fuse(options: argparse.Namespace) -> int:
    model, report = fuse(options.model, allow_epsilon=options.allow_epsilon, hard_targets=options.hard_targets)
    if report.fused or report.left_alone:
        print(report)
    if not report.fused:
        return _fail(f"{options.model} has no focal loss that could be replaced; {options.output} is not written")
    _save(model, options.output)
    return 0


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="focal_loss_onnx", description="Focal loss for ONNX detectors.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("inspect", help="list the tensors that look like classification logits")
    command.set_defaults(command=_inspect)
    command.add_argument("model", type=Path, metavar="IN.onnx")

    command = commands.add_parser("fuse", help="replace a focal loss that is spelled out in standard operators")
    command.set_defaults(command=_fuse)
    command.add_argument("model", type=Path, metavar="IN.onnx")
    command.add_argument("output", type=Path, metavar="OUT.onnx")
    command.add_argument("--allow-epsilon", action="store_true", help="also one that clips or shifts its probabilities")
    command.add_argument("--hard-targets", action="store_true", help="all targets are 0 or 1")

    command = commands.add_parser("attach", help="add the focal loss to a detector")
    command.set_defaults(command=_attach)
    command.add_argument("model", type=Path, metavar="IN.onnx")
    command.add_argument("output", type=Path, metavar="OUT.onnx")

    def option(flag: str, **settings: Any) -> None:
        name = flag.lstrip("-").replace("-", "_")
        command.add_argument(flag, default=_ATTACH_DEFAULTS[name], **settings)

    def added(flag: str, name: str, text: str) -> None:
        option(flag, nargs="?", const=True, metavar="NAME", help=f"{text} (named {name} unless given)")

    command.add_argument("--logits", nargs="+", required=True, metavar="NAME", help="the logits, or all levels of them")
    option("--activation", choices=ACTIVATIONS, help="%(default)s unless given")
    option("--alpha", type=float, help="weight of positives: 0.25 (sigmoid) or off; below 0 is off")
    option("--gamma", type=float, help="focusing exponent, %(default)s")
    option("--reduction", choices=REDUCTIONS, help="of the loss, %(default)s")
    option("--normalization", choices=NORMALIZATIONS, help="what the mean divides by, %(default)s")
    option("--ignore-index", type=int, metavar="I", help="targets that do not count")
    option("--background-index", type=int, metavar="I", help="targets without an object: K unless given")
    option("--class-alpha", type=float, nargs="+", metavar="A", help="alpha per class, in place of --alpha")
    added("--weight", "weight", "add an input of weights")
    added("--normalizer", "normalizer", "add an input that the loss is divided by")
    option("--target-kind", choices=TARGET_KINDS, help="class indices or dense labels, %(default)s")
    option("--index-dtype", choices=tuple(INDEX_DTYPES), help="type of class indices, %(default)s")
    option("--num-classes", type=int, metavar="K", help="needed for raw levels [B, A*K, H, W]")
    option("--layout", choices=LAYOUTS, help="channel order of raw levels, slowest first")
    option("--targets", metavar="NAME", help="name of the added input, %(default)s")
    option("--loss", metavar="NAME", help="name of the added output, %(default)s")
    added("--per-anchor-loss", "per_anchor_loss", "add an output with the loss per anchor")
    added("--grad-logits", "grad_logits", "add an output with the gradient of the loss")
    return parser


if __name__ == "__main__":
    sys.exit(main())
