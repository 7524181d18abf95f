"""A model's folder for other programs: a folder for `transformers`, or a GGUF file for llama.cpp and Ollama.

What is written is run by the program that it is for, where that is installed, before it takes its place.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from malmoi.core.errors import UserError, nearest
from malmoi.hub import gguf, ollama, verify
from malmoi.hub.adapter import base_of, is_adapter
from malmoi.hub.architectures import architecture_of, obstacle
from malmoi.hub.folder import load_model, save_model
from malmoi.hub.gguf_vocab import vocabulary
from malmoi.hub.weights import open_checkpoint
from malmoi.models.config import TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.models.ngram import KneserNey
from malmoi.text.chat import reply_ends
from malmoi.text.tokenizer import Tokenizer
from malmoi.text.tokenizer_files import named_ends
from malmoi.util import files
from malmoi.util.files import CARD, CONFIG

_TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_GENERATION = "generation_config.json"


class Target(NamedTuple):
    """A format to export to. dtypes: of its matrices. write(folder, out, dtype): lines about what it did."""

    dtypes: tuple[str, ...]
    write: Callable[[Path, Path, str], list[str]]


def export(folder: Path, to: str, out: Path, dtype: str | None = None) -> list[str]:
    """Write the model of `folder`, with its adapter merged in, to `out`, which must be new.

    to: "hf" or "gguf". dtype: "f32", "f16", "bf16" or, for gguf, "q8_0" or "q4_0"; None: as it is stored.
    Returns lines that say what was written and compared. Raises UserError where the model cannot be one, or
    does not come out as it is here; then nothing is left at `out`.
    """
    if to not in TARGETS:
        raise UserError(f"unknown format {to!r}; {nearest(to, TARGETS)}")
    target = TARGETS[to]
    if dtype is not None and dtype not in target.dtypes:
        raise UserError(f"{to} has no type {dtype!r}; {nearest(dtype, target.dtypes)}")
    if not files.is_free(out):
        raise UserError(f"{out} is there already; remove it or choose another `out`")
    files.check_folder(out)
    return target.write(folder, out, dtype or _stored(folder))


# ---- transformers


def _export_hf(folder: Path, out: Path, dtype: str) -> list[str]:
    model, tokenizer = _loaded(folder)
    card = files.read_text(folder / CARD) if (folder / CARD).is_file() else ""
    with files.new_folder(out) as made:
        ends = [id for id in _ends(folder, tokenizer) if tokenizer and id != tokenizer.specials.eos]
        save_model(made, model.to(_TORCH[dtype]), tokenizer, card, ends=ends)
        kind = str(_TORCH[dtype]).removeprefix("torch.")
        files.write_json(made / CONFIG, files.read_object(made / CONFIG) | {"torch_dtype": kind})
        again = load_model(made)
        assert isinstance(again.model, LanguageModel)
        checked = verify.in_transformers(made, again.model, again.tokenizer)
    return [f"wrote {out}: {_architecture_name(model)}, {dtype}", checked]


# ---- llama.cpp


def _export_gguf(folder: Path, out: Path, dtype: str) -> list[str]:
    model, tokenizer = _loaded(folder)
    if tokenizer is None:
        raise UserError(f"{folder} has no tokenizer.json, which a GGUF file must hold")
    outside = _outside(model)
    ends = _ends(folder, tokenizer)
    vocab = vocabulary(tokenizer, model.vocab_size, ends)
    lines: list[str] = []
    with _new_gguf(out) as (path, modelfile):
        lines += gguf.write_gguf(path, outside, vocab, dtype, name=folder.resolve().name)
        count, largest = gguf.largest_difference(path, outside)
        lines.append(f"read back {count} tensors, largest difference {largest:.2g}")
        context = gguf.context_of(outside.config)
        lines.append(verify.in_llama_cpp(path, model, tokenizer, context, exact=dtype == "f32"))
        text, note = ollama.modelfile(path.name, tokenizer, ends, context)
        files.write_text(modelfile, text)
    run = f"with Ollama: ollama create NAME -f {_places(out)[1]}"
    return [
        f"wrote {_places(out)[0]}: {outside.config['model_type']}, {dtype}",
        *lines,
        *filter(None, [note]),
        run,
    ]


def _places(out: Path) -> tuple[Path, Path]:
    """Where the file and its Modelfile go: into a folder `out`, or beside a file `out`.gguf."""
    if out.suffix == ".gguf":
        return out, out.with_suffix(".Modelfile")
    return out / "model.gguf", out / "Modelfile"


@contextmanager
def _new_gguf(out: Path) -> Iterator[tuple[Path, Path]]:
    """Where to write both files, which take their places together; after an error there is nothing."""
    places = _places(out)
    if there := [place for place in places if place.exists()]:
        raise UserError(f"{there[0]} is there already; remove it or choose another `out`")
    made_folder = not places[0].parent.exists()
    places[0].parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=places[0].parent, prefix=".export."))
    try:
        written = [temporary / place.name for place in places]
        yield written[0], written[1]
        for path, place in zip(reversed(written), reversed(places), strict=True):  # the model comes last
            files.sync_file(path)
            path.replace(place)
        files.sync_file(places[0].parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made_folder and not places[0].exists():
            shutil.rmtree(places[0].parent, ignore_errors=True)


def _outside(model: LanguageModel) -> gguf.Outside:
    """The model in its Hugging Face form."""
    assert isinstance(model.config, TransformerConfig)
    architecture = architecture_of(model.config)
    assert architecture is not None
    config = architecture.export_config(model.config)
    gguf.family_of(config)
    return gguf.Outside(config, dict(architecture.export_weights(dict(model.state_dict()), model.config)))


# ---- both


def _loaded(folder: Path) -> tuple[LanguageModel, Tokenizer | None]:
    """The model in fp32. Raises UserError for one that is no decoder of other libraries."""
    model, tokenizer = load_model(folder)
    if isinstance(model, KneserNey):
        raise UserError(f"{folder} is an n-gram model, which only malmoi runs; export a Transformer")
    if not isinstance(model.config, TransformerConfig):
        raise UserError(
            f"{folder} is a {model.config.family} model, which only malmoi runs; export a Transformer"
        )
    if why := obstacle(model.config):
        raise UserError(f"{folder} cannot be exported: {why}")
    return model, tokenizer


def _stored(folder: Path) -> str:
    """The type of the weights in the folder, or in an adapter's base; f32 where export has no such type."""
    folder = _whole(folder)
    if not (folder / CONFIG).exists():
        return "f32"  # what is wrong with it is reported where it is loaded
    kind = open_checkpoint(folder).dtype
    return next((name for name, known in _TORCH.items() if known == kind), "f32")


def _whole(folder: Path) -> Path:
    """The folder, or the one with the model that an adapter is for."""
    while is_adapter(folder) and not (folder / CONFIG).exists():
        folder = base_of(folder)
    return folder


def _ends(folder: Path, tokenizer: Tokenizer | None) -> list[int]:
    """The ids that end a reply: by the model's generation config, and by its chat template."""
    return [] if tokenizer is None else reply_ends(tokenizer, named_ends(_whole(folder)))


def _architecture_name(model: LanguageModel) -> str:
    assert isinstance(model.config, TransformerConfig)
    found = architecture_of(model.config)
    return found.model_type if found is not None else "malmoi"


TARGETS = {"hf": Target(tuple(_TORCH), _export_hf), "gguf": Target(tuple(gguf.KINDS), _export_gguf)}
