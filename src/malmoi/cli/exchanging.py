"""The verbs that exchange models, and vectors of texts, with other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from malmoi.cli.options import NewFolder
from malmoi.cli.words import model_argument, say, say_json


def export(
    folder: Annotated[Path, model_argument("The folder of a language model or an adapter.")],
    to: Annotated[
        Literal["hf", "gguf"], Option(help="For transformers and vLLM, or for llama.cpp and Ollama.")
    ],
    out: Annotated[Path, Option(help="The folder to make, or for gguf a file NAME.gguf.")],
    dtype: Annotated[
        Literal["f32", "f16", "bf16", "q8_0", "q4_0"] | None,
        Option(help="The weights' type (q8_0 and q4_0: gguf only); as they are stored unless given."),
    ] = None,
) -> None:
    """Write a model for other programs, and check that it does there what it does here."""
    from malmoi.hub.export import export as write

    say(*write(folder, to, out, dtype))


def import_(
    source: Annotated[
        str, Argument(help="A model's folder, a GGUF file, or on the hub owner/name or owner/name@revision.")
    ],
    out: NewFolder,
    keep_vocab_of: Annotated[
        Path | None,
        Option(help="Texts or rows: leave only what they need of the vocabulary, which makes it smaller."),
    ] = None,
) -> None:
    """Make a folder of your own of a model that others trained, and check that it can be used here."""
    from malmoi.hub.source import import_model

    import_model(source, out, say, keep_vocab_of=keep_vocab_of)


import_.__name__ = "import"  # the verb; the word itself is Python's


def embed(
    folder: Annotated[
        Path,
        model_argument("A language model's folder or GGUF file, or an encoder's folder."),
    ],
    texts: Annotated[list[str], Argument(help="Texts, files with one text a line, or - for standard input.")],
    vector: Annotated[
        str | None, Option(help="Of a language model: mean of the tokens' vectors, or that of the last one.")
    ] = None,
    max_tokens: Annotated[int, Option(min=1, help="Of a text that are read.")] = 512,
    out: Annotated[Path | None, Option(help="A .npy file for all of them; else JSON lines.")] = None,
) -> None:
    """Make vectors of texts, each of length one: the nearer two are, the more alike are the texts."""

    from malmoi.engine.embed import Embedder, save_vectors
    from malmoi.tasks.inputs import lines_of

    lines = [line.rstrip("\r") for text in texts for _, line in lines_of(text) or [("", text)]]
    embedder = Embedder(folder, max_tokens=max_tokens)
    vectors_ND = embedder.vectors(lines, embedder.way_named(vector))
    if out is not None:
        save_vectors(out, vectors_ND)
        say(f"saved {out}: {len(lines)} vectors of {embedder.width} numbers")
        return
    for line, vector_D in zip(lines, vectors_ND.tolist(), strict=True):
        row = {"text": line, "vector": [round(value, 6) for value in vector_D]}
        say_json(row)
