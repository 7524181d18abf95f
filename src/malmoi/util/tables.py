"""Tables whose entries are loaded when they are asked for, because what they stand for brings PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def entry(found: Any) -> Any:
    """What stands at "module:name"; anything else is its own entry, as those that a test or a user adds."""
    if not isinstance(found, str):
        return found
    module, _, name = found.partition(":")
    return getattr(import_module(module), name)
