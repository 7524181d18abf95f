"""What a server has: language models and task models by name, from folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmoi.core.errors import UserError
from malmoi.engine.engine import PREFIX_BYTES, Engine
from malmoi.engine.loaded import Loaded
from malmoi.engine.score import bits_per_byte
from malmoi.hub.folder import is_model, is_ngram
from malmoi.methods.folder import is_method
from malmoi.methods.use import COMPARISON, LoadedMethod, method_folder
from malmoi.tasks.base import Task
from malmoi.text.chat import ChatFormat, chat_template
from malmoi.world import documents

NUM_DOCUMENTS = 24  # of the sample world, English and Korean by turns; about 10 kB


@dataclass(frozen=True, slots=True)
class LanguageEntry:
    """A model that completes, and chats where it has a template (`form`). created: Unix time."""

    name: str
    folder: Path
    model: Loaded
    engine: Engine
    form: ChatFormat | None
    created: int


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A fitted method, which does one task. created: Unix time."""

    name: str
    folder: Path
    task: Task[Any, Any]
    method: LoadedMethod
    created: int


Entry = LanguageEntry | TaskEntry
Catalogue = dict[str, Entry]


def open_catalogue(
    folders: Sequence[Path], *, dtype: str | None = None, quantize: str | None = None, max_rows: int = 16
) -> Catalogue:
    """Load trained models, fitted methods and the winners of comparisons; each is named after its folder.

    Of a folder that is none of these, but has some inside (as a demo's has), all are loaded.
    dtype and quantize: of the language models but n-grams (see `malmoi.engine.loaded:Loaded`). max_rows:
    samples that one of them runs at once. Raises UserError for a folder that is none of them or is named
    twice.
    """
    if not folders:
        raise UserError("there is nothing to serve; name at least one folder")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a folder is named twice; name each once")
    inside = dict.fromkeys(found for folder in folders for found in _models_in(folder))
    found = [_entry(name, folder, dtype, quantize, max_rows) for name, folder in _named(list(inside)).items()]
    return {entry.name: entry for entry in found}


def languages(catalogue: Catalogue) -> list[LanguageEntry]:
    """The language models, in the order of the folders."""
    return [entry for entry in catalogue.values() if isinstance(entry, LanguageEntry)]


def tasks(catalogue: Catalogue) -> list[TaskEntry]:
    """The task models, in the order of the folders."""
    return [entry for entry in catalogue.values() if isinstance(entry, TaskEntry)]


def quantization_loss(entry: LanguageEntry) -> tuple[float, float]:
    """Bits per byte of a quantized model's folder as it is, and of the model; on documents of the world."""
    texts = [one.text for one in documents(NUM_DOCUMENTS, split="valid")]
    exact = Engine(Loaded(entry.folder).model, entry.model.tokenizer)
    return bits_per_byte(exact, texts), bits_per_byte(entry.engine, texts)


def quantization_lines(catalogue: Catalogue) -> list[str]:
    """What 8 bits cost each language model; counts stay as they are."""
    losses = {one.name: quantization_loss(one) for one in languages(catalogue) if not is_ngram(one.folder)}
    return [
        f"{name} in 8 bits: {before:.4f} bits per byte become {after:.4f} ({after / before - 1:+.2%}) "
        "on the sample world's text"
        for name, (before, after) in losses.items()
    ]


def _models_in(folder: Path, deeper: int = 2) -> list[Path]:
    """The folder itself where it is a model, a method or a comparison; else those inside it, if any."""
    if is_model(folder) or (folder / COMPARISON).exists():
        return [folder]
    inside = sorted(it for it in folder.glob("[!.]*") if it.is_dir() or is_model(it)) if deeper else []
    found = [model for path in inside for model in _models_in(path, deeper - 1)]
    return found if found or deeper < 2 else [folder]  # which loading will refuse, and say why


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Each folder by the shortest end of its path that no other has."""
    parts = [folder.resolve().parts for folder in folders]
    named: dict[str, Path] = {}
    for folder, own in zip(folders, parts, strict=True):
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        named["/".join(own[-length:])] = folder
    return named


def _entry(name: str, folder: Path, dtype: str | None, quantize: str | None, max_rows: int) -> Entry:
    if is_method(method_folder(folder)):
        method = LoadedMethod(folder)
        return TaskEntry(name, folder, method.task, method, _created(method.folder))
    model = Loaded(folder) if is_ngram(folder) else Loaded(folder, dtype=dtype, quantize=quantize)
    form = ChatFormat.of(model.tokenizer) if chat_template(model.tokenizer) else None
    engine = Engine(model.model, model.tokenizer, max_rows=max_rows, prefix_bytes=PREFIX_BYTES)
    return LanguageEntry(name, folder, model, engine, form, _created(folder))


def _created(folder: Path) -> int:
    return int(folder.stat().st_mtime)
