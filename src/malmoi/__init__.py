"""malmoi (말모이): one system for language models, from a bag of words to an LLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from malmoi.util.threads import wait_shortly
from malmoi.util.version import VERSION as __version__

if TYPE_CHECKING:
    from malmoi.engine.loaded import Loaded
    from malmoi.methods.use import LoadedMethod


__all__ = ["__version__", "load"]

wait_shortly()


def load(
    folder: str | Path, *, device: str = "cpu", dtype: str | None = None, quantize: str | None = None
) -> Loaded | LoadedMethod:
    """Open a trained model's folder, a fitted method's, or a comparison's (its winner); or "malmoi-noru".

    A language model completes; a method predicts. dtype (fp32, bf16, fp16) and quantize (int8, int4) are for
    language models; without either it is fp32, and a GGUF file as it is. Raises UserError with the fix where
    it is none of them.
    """
    # heavy: `malmoi --help` must not wait for either, nor a method without a network for PyTorch
    from malmoi.core.errors import UserError
    from malmoi.hub.shipped import model_path
    from malmoi.util.hardware import without_collecting

    folder = model_path(folder)
    with without_collecting():
        from malmoi.methods.folder import is_method
        from malmoi.methods.use import LoadedMethod, method_folder

        if is_method(method_folder(folder)):
            if quantize or dtype not in (None, "fp32"):
                raise UserError(
                    f"{folder} is a method for one task; dtype and quantize are for language models"
                )
            return LoadedMethod(folder, device=device)
        from malmoi.engine.loaded import Loaded

        return Loaded(folder, device=device, dtype=dtype, quantize=quantize)
