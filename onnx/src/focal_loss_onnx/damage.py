"""Models that are damaged: one exception, with the words of whoever noticed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import onnx
from onnx import ModelProto

from .errors import ModelError

_Model = TypeVar("_Model")
_Rest = ParamSpec("_Rest")
_Result = TypeVar("_Result")


def names_damage(
    function: Callable[Concatenate[_Model, _Rest], _Result],
) -> Callable[Concatenate[_Model, _Rest], _Result]:
    """What a damaged model makes ``function`` stumble over becomes a :class:`ModelError`.

    The model is looked at only then: the checker refuses models that others run, such as those of a newer IR version.
    """

    @functools.wraps(function)
    def guarded(model: _Model, *arguments: _Rest.args, **options: _Rest.kwargs) -> _Result:
        try:
            return function(model, *arguments, **options)
        except Exception as error:
            if isinstance(error, OSError) or type(error).__module__.startswith(__package__):
                raise
            damage = _damage(model)
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
