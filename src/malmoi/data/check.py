"""What is in a corpus and what is wrong with it, before hours of training are spent on it.

Reading goes on past every bad row. Repeated documents waste training; documents of the validation part that
are in the training part as well make every measured loss too good.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from malmoi.data.readers import (
    Corpus,
    Errors,
    Level,
    Part,
    document_hash,
    encoding_of,
    open_corpus,
    pass_over,
    read_documents,
)
from malmoi.text.tokenizer import Tokenizer

COMPARED = 20_000  # documents of each part compared for near-duplicates
COMPARED_CHARACTERS = 20_000  # of each of them
SHINGLE = 5  # characters
BANDS, BAND_ROWS = 16, 8
NEAR = 0.8  # Jaccard similarity of the shingles from which on two documents are near-duplicates
PERCENTILES = (5, 25, 50, 75, 95, 100)


@dataclass(frozen=True)
class Finding:
    """One thing to know about the data: how bad it is, where ("file:line"), and what."""

    level: Literal["error", "warning", "note"]
    where: str
    message: str


@dataclass(frozen=True)
class CorpusStats:
    """Measures of a corpus, train and valid together unless they say otherwise."""

    num_documents: int
    num_characters: int
    num_bytes: int  # as UTF-8
    length_percentiles: dict[int, int]  # percentile -> characters of a document
    scripts: dict[str, float]  # Hangul, Latin, other -> share of all letters
    encodings: dict[str, int]  # encoding -> files
    exact_duplicates: int  # documents that equal an earlier one of the same part
    near_duplicates: int  # documents compared that nearly equal an earlier one of the same part
    overlap_exact: int  # validation documents that are training documents as well
    overlap_near: int  # validation documents compared that nearly equal a training document
    num_compared: int  # documents compared for near-duplicates
    num_long: int | None  # documents of more tokens than the context; None without a tokenizer
    note: str  # how train and valid were told apart
    findings: tuple[Finding, ...]


@dataclass
class _Seen:
    """What is kept of the documents of one part while they stream by."""

    hashes: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    places: list[str] = field(default_factory=list)  # of the first COMPARED documents, as the next
    signatures: list[np.ndarray] = field(default_factory=list)
    characters: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    num_long: int = 0

    def add(self, text: str, where: str, tokenizer: Tokenizer | None, context: int | None) -> None:
        num_bytes = len(text.encode())
        self.hashes.append(document_hash(text))
        self.lengths.append(len(text))
        self.characters.update(text)
        self.num_bytes += num_bytes
        if len(self.places) < COMPARED:
            self.places.append(where)
            self.signatures.append(minhash(text[:COMPARED_CHARACTERS]))
        # No tokenizer here makes more tokens than bytes, which spares the short documents; 1 is for eos.
        if tokenizer and context and num_bytes + 1 > context:
            self.num_long += len(tokenizer.encode(text)) + 1 > context

    def place(self, document: int) -> str:
        return self.places[document] if document < len(self.places) else f"document {document + 1}"


def corpus_stats(
    path: Path,
    *,
    valid: Path | None = None,
    errors: Errors = "strict",
    field: str = "text",
    tokenizer: Tokenizer | None = None,
    context: int | None = None,
) -> CorpusStats:
    """Read all of a corpus once and measure it; what is wrong is in `findings`, in the order of reading.

    Near-duplicates are looked for among the first COMPARED documents of each part. Raises UserError only where
    there are no files or too little text to split (as `open_corpus` does).
    """
    corpus = open_corpus(path, valid=valid, errors=errors, field=field, report=pass_over)
    findings: list[Finding] = []

    def report(level: Level, where: str, message: str) -> None:
        findings.append(Finding(level, where, message))

    parts: dict[Part, _Seen] = {"train": _Seen(), "valid": _Seen()}
    for part, seen in parts.items():
        for text, where in corpus.rows(part, report):
            seen.add(text, where, tokenizer, context)
            _check_characters(text, where, findings)
    return _stats(corpus, parts["train"], parts["valid"], findings, context if tokenizer else None)


def check_corpus(
    path: Path,
    *,
    valid: Path | None = None,
    errors: Errors = "strict",
    field: str = "text",
    tokenizer: Tokenizer | None = None,
    context: int | None = None,
) -> list[Finding]:
    """The findings of `corpus_stats`: every bad row with its file and line, then duplicates and leaks."""
    stats = corpus_stats(path, valid=valid, errors=errors, field=field, tokenizer=tokenizer, context=context)
    return list(stats.findings)


def preview(path: Path, tokenizer: Tokenizer, count: int, *, num_tokens: int = 64) -> list[list[tuple[str, bool]]]:
    """The first tokens of the first `count` documents as training sees them: (piece, is it trained).

    Every token is something to predict but the first, which has no context.
    """
    return [
        [(tokenizer.token_text(id), position > 0) for position, id in enumerate(ids[:num_tokens])]
        for text in islice(read_documents(path), count)
        for ids in [[*tokenizer.encode(text[: 64 * num_tokens]), tokenizer.specials.eos]]
    ]


def _check_characters(text: str, where: str, findings: list[Finding]) -> None:
    if "\ufffd" in text:
        message = f"{text.count(chr(0xFFFD))} characters were lost when the text was decoded (U+FFFD); read it anew"
        findings.append(Finding("warning", where, message))
    if "\0" in text:
        message = "holds zero bytes; it may be UTF-16 or not text at all, so save it as UTF-8"
        findings.append(Finding("warning", where, message))
    if "\r\n" in text:
        message = "lines end as on Windows (\\r\\n), so a model learns to write \\r; save them with \\n"
        findings.append(Finding("warning", where, message))


def _stats(
    corpus: Corpus, train: _Seen, valid: _Seen, findings: list[Finding], context: int | None
) -> CorpusStats:
    lengths = np.concatenate([train.lengths, valid.lengths])
    num_compared = len(train.places) + len(valid.places)
    near, overlap_near = _near_duplicates(train, valid, findings)
    stats = CorpusStats(
        num_documents=len(lengths),
        num_characters=int(lengths.sum()),
        num_bytes=train.num_bytes + valid.num_bytes,
        length_percentiles={p: int(np.percentile(lengths, p)) for p in PERCENTILES if len(lengths)},
        scripts=_scripts(train.characters + valid.characters),
        encodings=dict(Counter(encoding_of(file) for file in corpus.files)),
        exact_duplicates=sum(_exact_duplicates(seen, findings) for seen in (train, valid)),
        near_duplicates=near,
        overlap_exact=_exact_overlap(train, valid, findings),
        overlap_near=overlap_near,
        num_compared=num_compared,
        num_long=train.num_long + valid.num_long if context else None,
        note=corpus.note,
        findings=(),
    )
    return stats
