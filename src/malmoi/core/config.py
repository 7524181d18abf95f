"""Typed configurations: an unknown key is an error, and `a.b=c` changes one value."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from malmoi.core.errors import UserError
from malmoi.core.nouns import Json


class StrictModel(BaseModel):
    """A frozen pydantic model in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def as_setting(path: str, value: str) -> str:
    """The `a.b=c` that gives `path` this text, whatever it holds."""
    return f"{path}={json.dumps(value, ensure_ascii=False)}"


def apply_setting(value: Json, setting: str) -> None:
    """Put `a.b=c` into nested keys; c is YAML. Raises UserError for anything else."""
    path, equals, text = setting.partition("=")
    if not equals:
        raise UserError(f"`set` {setting!r} is not of the form a.b=c, for example train.steps=200")
    *parents, last = path.split(".")
    if path.split(".")[0] in ("name", "size"):
        raise UserError(f"`set` {path} is not possible", fix="name a recipe and a `size`")
    for parent in parents:
        value = value.setdefault(parent, {})
        if not isinstance(value, dict):
            fix = "known places are model, train, data"
            raise UserError(f"{parent!r} holds no keys", where=f"`set` {path}", fix=fix)
    try:
        value[last] = _value(text)
    except yaml.YAMLError as error:
        what = f"{text!r} is not a YAML value ({str(error).splitlines()[0]})"
        raise UserError(what, where=f"`set` {path}") from None


def _value(text: str) -> Any:
    """YAML in one line: a list or a mapping has brackets, so that `Question:` and `- so` are texts."""
    first = text.lstrip()[:1]
    if first == '"':
        with suppress(ValueError):
            return json.loads(text)  # any character may stand in JSON's quotes; YAML refuses some
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        if first in ("[", "{", '"', "'"):
            raise
        return text
    return text if isinstance(found, dict | list) and first not in ("[", "{") else found


def pairs(settings: list[str] | None, option: str, *, typed: bool = False) -> dict[str, Any]:
    """a=b as {a: b}; typed: b is read as YAML, so that numbers are numbers, else commas part several.

    option: what gave them, for the UserError where they are wrong.
    """
    found: dict[str, Any] = {}
    for setting in (part for one in settings or () for part in ([one] if typed else one.split(","))):
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UserError(f"`{option}` {setting!r} is not of the form a=b")
        try:
            found[name.strip()] = _value(value) if typed else value.strip()
        except yaml.YAMLError:
            raise UserError(f"`{option}` {name}: {value!r} is not a YAML value") from None
    return found


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return found
