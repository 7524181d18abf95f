"""A run's text: its tokenizer and token files, made in the run's folder or taken from there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmoi.core.nouns import Say
from malmoi.data.readers import Corpus, open_corpus
from malmoi.data.shards import TokenFile, write_shards
from malmoi.hub.card import DataFile, data_files
from malmoi.learn.record import SOURCE
from malmoi.learn.run_config import RunConfig
from malmoi.text.tokenizer import TOKENIZER_FILE, Tokenizer, train_tokenizer
from malmoi.util import files


@dataclass(frozen=True, slots=True)
class Text:
    """A corpus as tokens, with the tokenizer that cut it."""

    tokenizer: Tokenizer
    train: TokenFile
    valid: TokenFile
    data: tuple[DataFile, ...]

    @property
    def sample(self) -> list[str]:
        """Some of it, to see its languages."""
        return [self.tokenizer.decode(part.ids[:4096].tolist()) for part in (self.valid, self.train)]


def prepare_text(config: RunConfig, data: Path, folder: Path, say: Say, *, begun: bool = False) -> Text:
    """Tokenizer and token files in `folder`, made unless they are there.

    Where training has `begun` on those that are there they stay; else they stay only if the same text and
    settings made them.
    """
    corpus = open_corpus(
        data, valid=Path(config.data.valid) if config.data.valid else None,
        errors=config.data.errors, field=config.data.field,
    )  # fmt: skip
    if corpus.note:
        say(corpus.note)
    known = data_files(corpus.files, config.licence)
    hashes = {file.name: file.sha256 for file in known}
    if not begun:
        _keep_only_tokens_of(folder, {
            "tokenizer": config.tokenizer.model_dump(), "data": config.data.model_dump(), "files": hashes
        })  # fmt: skip
    tokenizer = _tokenizer(config, corpus, folder)
    if tokenizer.note:
        say(tokenizer.note)
    train, valid = (_tokens(corpus, part, tokenizer, folder) for part in ("train", "valid"))
    return Text(tokenizer, train, valid, known)


def _keep_only_tokens_of(folder: Path, source: dict[str, Any]) -> None:
    """Remove what an earlier preparation made from another source; note this one."""
    note = folder / "tokens" / SOURCE
    if note.exists() and files.read_json(note) == source:
        return
    shutil.rmtree(folder / "tokens", ignore_errors=True)
    (folder / TOKENIZER_FILE).unlink(missing_ok=True)
    files.write_json(note, source)


def _tokenizer(config: RunConfig, corpus: Corpus, folder: Path) -> Tokenizer:
    if (folder / TOKENIZER_FILE).exists():
        return Tokenizer.load(folder)
    spec = config.tokenizer
    tokenizer = (
        Tokenizer.load(Path(spec.path)) if spec.path
        else train_tokenizer(corpus.train(), spec.kind, spec.vocab_size)
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    return tokenizer


def _tokens(corpus: Corpus, part: str, tokenizer: Tokenizer, folder: Path) -> TokenFile:
    place = folder / "tokens" / part
    if (place / files.MANIFEST).exists():
        return TokenFile.open(place)
    return write_shards(corpus.train() if part == "train" else corpus.valid(), tokenizer, place)
