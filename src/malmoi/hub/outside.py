"""What the readers and writers of outside architectures share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from malmoi.models.config import TransformerConfig
from malmoi.util.errors import UserError

Json = dict[str, Any]


def differing(config: TransformerConfig, fixed: Mapping[str, Any]) -> list[str]:
    """The choices of `config` that are not as `fixed` says, each as "name = value"."""
    return [
        f"{name} = {getattr(config, name)}" for name, value in fixed.items() if getattr(config, name) != value
    ]


def require(found: Json, name: str, *known: Any, file: str = "config.json") -> None:
    """Raise UserError where an outside config asks for a value that would otherwise be ignored."""
    if name in found and found[name] not in known:
        allowed = " or ".join(map(repr, known))
        raise UserError(f"{file} has {name} = {found[name]!r}; only {allowed} is supported here")
