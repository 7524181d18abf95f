"""malmoi (말모이): one system for language models, from a bag of words to an LLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from malmoi.engine.handle import Loaded

__version__ = "0.1.0"


def load(folder: str | Path, *, device: str = "cpu") -> Loaded:
    """Open a trained model's folder. Raises UserError with the mend where it is not one."""
    from malmoi.engine.handle import Loaded  # heavy: `malmoi --help` must not wait for torch

    return Loaded(folder, device=device)
