"""Every method by name. A new one is a class and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from malmoi.methods.base import Method
from malmoi.methods.neural import GRU, LSTM, RNN, TransformerMethod
from malmoi.methods.traditional import TRADITIONAL
from malmoi.models.config import StrictModel
from malmoi.tasks.base import Task
from malmoi.util.errors import UserError, nearest

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (*TRADITIONAL, RNN, GRU, LSTM, TransformerMethod)
}
ON_REQUEST = {"rnn", "gru"}  # left out of "all": an LSTM stands for the recurrent family


def methods_for(task: Task[Any, Any], *, all_known: bool = False) -> list[str]:
    """The names of the methods that can do a task, the simplest first; all_known: those on request too."""
    return [
        name
        for name, method in METHODS.items()
        if method.suits(task) and (all_known or name not in ON_REQUEST)
    ]


def make_method(name: str, task: Task[Any, Any], options: Mapping[str, Any] | None = None) -> Method:
    """A method to fit. Raises UserError, with the nearest valid name, for a wrong name or option."""
    known = methods_for(task, all_known=True)
    if name not in known:
        raise UserError(f"no method {name!r} for {task.name}; {nearest(name, known)}")
    try:
        return METHODS[name](task, options)
    except ValidationError as error:
        raise UserError(_option_error(error, name, METHODS[name].options_for(task))) from None


def method_options(
    task: Task[Any, Any], names: str, settings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The methods named ("all", or with commas between), each with its options out of METHOD.OPTION=VALUE.

    Raises UserError for an unknown method or option, and for an option of a method that is not named.
    """
    wanted = methods_for(task) if names == "all" else [name.strip() for name in names.split(",")]
    found: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for setting, value in settings.items():
        name, _, option = setting.partition(".")
        if name not in found or not option:
            raise UserError(f"--set {setting} is not METHOD.OPTION=VALUE for one of {', '.join(found)}")
        found[name][option] = value
    for name, options in found.items():
        make_method(name, task, options)
    return found


def _option_error(error: ValidationError, name: str, options: type[StrictModel]) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "options"
    if first["type"] == "extra_forbidden":
        return f"{name} has no option {where!r}; {nearest(where, options.model_fields)}"
    return f"{name}: {where}: {first['msg'].removeprefix('Value error, ')}"
