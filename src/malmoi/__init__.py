"""malmoi (말모이): one system for language models, from a bag of words to an LLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from malmoi.util.version import VERSION as __version__

if TYPE_CHECKING:
    from malmoi.engine.handle import Loaded
    from malmoi.methods.use import LoadedMethod


__all__ = ["__version__", "load"]


def load(folder: str | Path, *, device: str = "cpu") -> Loaded | LoadedMethod:
    """Open a trained model's folder, a fitted method's, or a comparison's (its winner).

    A language model completes; a method predicts. Raises UserError with the mend where it is none of them.
    """
    # heavy: `malmoi --help` must not wait for torch
    from malmoi.engine.handle import Loaded
    from malmoi.methods.folder import is_method
    from malmoi.methods.use import LoadedMethod, method_folder

    if is_method(method_folder(Path(folder))):
        return LoadedMethod(folder, device=device)
    return Loaded(folder, device=device)
