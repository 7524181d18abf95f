"""What the readers and writers of outside architectures share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from malmoi.models.config import TransformerConfig
from malmoi.util.errors import UserError

Json = dict[str, Any]

# What every architecture can say, whatever its value.
_SIZES = frozenset({
    "family", "vocab_size", "context", "layers", "width", "heads", "kv_heads", "head_width", "ff_width",
    "tied", "norm_eps", "dropout",
})  # fmt: skip


def choices(config: TransformerConfig, fixed: Mapping[str, Any], free: Collection[str]) -> list[str]:
    """The choices of `config` that an architecture cannot express, each as "name = value".

    fixed: the choices that it makes. free: those that it leaves to a model. All others are at their defaults,
    so that a choice which is new here is in no architecture until one says so.
    """
    allowed = {name: field.default for name, field in TransformerConfig.model_fields.items()} | dict(fixed)
    return [
        f"{name} = {getattr(config, name)}" for name, value in allowed.items()
        if name not in _SIZES and name not in free and getattr(config, name) != value
    ]  # fmt: skip


def require(found: Json, name: str, *known: Any, file: str = "config.json") -> None:
    """Raise UserError where an outside config asks for a value that would otherwise be ignored."""
    if name in found and found[name] not in known:
        allowed = " or ".join(map(repr, known))
        raise UserError(f"{file} has {name} = {found[name]!r}; only {allowed} is supported here")


def first_fault(error: ValidationError) -> str:
    """What a config's check found first, in a line: where, and what is wrong there."""
    first = error.errors()[0]
    where = [".".join(map(str, first["loc"]))] if first["loc"] else []
    return ": ".join([*where, first["msg"].removeprefix("Value error, ")])
