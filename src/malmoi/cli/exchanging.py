"""The verbs that exchange models with other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from malmoi.cli.options import NewFolder
from malmoi.cli.words import say


def export(
    folder: Annotated[Path, Argument(help="The folder of a language model or an adapter.")],
    to: Annotated[
        Literal["hf", "gguf"], Option(help="For transformers and vLLM, or for llama.cpp and Ollama.")
    ],
    out: Annotated[Path, Option(help="The folder to make, or for gguf a file NAME.gguf.")],
    dtype: Annotated[
        Literal["f32", "f16", "bf16", "q8_0"] | None,
        Option(help="The weights' type (q8_0: gguf only); as they are stored unless given."),
    ] = None,
) -> None:
    """Write a model for other programs, and check that it does there what it does here."""
    from malmoi.hub.export import export as write

    say(*write(folder, to, out, dtype))


def import_(
    source: Annotated[
        str, Argument(help="A model's folder, or on the hub owner/name or owner/name@revision.")
    ],
    out: NewFolder,
) -> None:
    """Make a folder of your own of a model that others trained, and check that it can be used here."""
    from malmoi.hub.source import import_model

    import_model(source, out, say)


import_.__name__ = "import"  # the verb; the word itself is Python's
