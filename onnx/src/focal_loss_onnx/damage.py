"""Models that are damaged: one exception, with the words of whoever noticed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import onnx
from onnx import ModelProto

from .errors import ModelError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def names_damage(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """What a damaged model makes ``function`` stumble over becomes a :class:`ModelError`.

    ``model`` is its first argument. It is looked at only then: the checker refuses models that others run, such as those
    of a newer IR version.
    """

    @functools.wraps(function)
    def guarded(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        try:
            return function(*arguments, **options)
        except Exception as error:
            if isinstance(error, OSError) or type(error).__module__.startswith(__package__):
                raise
            damage = _damage(arguments[0] if arguments else options.get("model"))
            if damage is None:
                raise
            raise ModelError(damage) from error

    return guarded


def _damage(model: object) -> str | None:
    """What is wrong with a model, or with the file of this path; ``None`` where nothing is found."""
    try:
        loaded = model if isinstance(model, ModelProto) else onnx.load(model)  # type: ignore[arg-type]
    except Exception as error:  # protobuf has several for it
        return f"{model} is not an ONNX model: {_words(error)}"
    try:
        onnx.checker.check_model(loaded, full_check=True)
    except Exception as error:  # the checker's, shape inference's, and what broken sizes end in
        return f"the model is damaged: {_words(error)}"
    return None


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
