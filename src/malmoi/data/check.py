"""What is in a corpus and what is wrong with it, before hours of training are spent on it.

Reading goes on past every bad row. Repeated documents waste training; documents of the validation part that
are in the training part as well make every measured loss too good.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from malmoi.core.errors import UserError
from malmoi.core.nouns import Finding, Level
from malmoi.data.characters import DECOMPOSED, INVISIBLE, composed, counted_signs
from malmoi.data.duplicates import first_equal, near_before, near_originals
from malmoi.data.opening import Errors, encoding_of
from malmoi.data.readers import Corpus, Part, document_hash, open_corpus, read_documents
from malmoi.data.sketches import HASHES, NEAR, Ids, Signatures, shingle_hashes, signatures, squeezed
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.units import counted

LOST = "\ufffd"  # what a decoding writes for what it cannot read
BLOCK_ROWS, BLOCK_CHARACTERS = 8192, 4 << 20  # sketched at a time
PERCENTILES = (5, 25, 50, 75, 95, 100)


Places = list[tuple[str, str]]  # of a document that repeats another, and of that one
Findings = dict[Finding, None]  # an ordered set: a file with a part held out is read once for each part


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
    near_duplicates: int  # documents that nearly equal an earlier one of the same part
    overlap_exact: int  # validation documents that are training documents as well
    overlap_near: int  # validation documents that nearly equal a training document
    num_long: int | None  # documents of more tokens than the context; None without a tokenizer
    note: str  # how the text was split into train and valid
    findings: tuple[Finding, ...]


class _Signatures:
    """The signatures of the documents that stream by, in a file without a name."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as this is)
        self._block, self._size = list[str](), 0

    def add(self, text: str) -> None:
        self._block.append(squeezed(text))
        self._size += len(text)
        if len(self._block) >= BLOCK_ROWS or self._size >= BLOCK_CHARACTERS:
            self._write()

    def _write(self) -> None:
        self._file.write(signatures(*shingle_hashes(self._block)).tobytes())
        self._block, self._size = [], 0

    def rows(self) -> Signatures:
        """One row for each document, left in the file."""
        self._write()
        self._file.flush()
        if not self._file.tell():
            return np.zeros((0, HASHES), np.uint32)
        return np.memmap(self._file, np.uint32, "r").reshape(-1, HASHES)


@dataclass
class _Seen:
    """What is kept of the documents of one part while they stream by."""

    signatures: _Signatures
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    files: dict[str, int] = field(default_factory=dict)
    file_of: array[int] = field(default_factory=lambda: array("L"))
    line_of: array[int] = field(default_factory=lambda: array("Q"))
    characters: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    num_long: int = 0

    def add(self, text: str, where: str, tokenizer: Tokenizer | None, context: int | None) -> None:
        num_bytes = len(text.encode())
        self.hashes.append(document_hash(text))
        self.lengths.append(len(text))
        self.characters.update(text)
        self.num_bytes += num_bytes
        self.signatures.add(text)
        file, _, line = where.rpartition(":")
        self.file_of.append(self.files.setdefault(file, len(self.files)))
        self.line_of.append(int(line))
        # No tokenizer here makes more tokens than bytes, which spares the short documents; 1 is for eos.
        if tokenizer and context and num_bytes + 1 > context:
            self.num_long += len(tokenizer.encode(text)) + 1 > context

    def place(self, document: int) -> str:
        return f"{list(self.files)[self.file_of[document]]}:{self.line_of[document]}"


def corpus_stats(
    path: Path, *, valid: Path | None = None, errors: Errors = "strict", field: str = "text",
    tokenizer: Tokenizer | None = None, context: int | None = None,
) -> CorpusStats:  # fmt: skip
    """Read all of a corpus once and measure it; what is wrong is in `findings`, in the order of reading.

    Raises UserError only where there are no files or too little text to split (as `open_corpus` does).
    """
    findings: Findings = {}

    def report(finding: Finding) -> None:
        findings[finding] = None

    try:
        corpus = open_corpus(path, valid=valid, errors=errors, field=field, report=report)
    except UserError:  # too little text is left: what was wrong with the rest is the cause
        for cause in (found for found in findings if found.level == "error"):
            raise UserError(cause.message, where=cause.where) from None
        raise
    unseen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    sketches = _Signatures()  # of train, then of valid
    parts: dict[Part, _Seen] = {"train": _Seen(sketches), "valid": _Seen(sketches)}
    for part, seen in parts.items():
        for text, where in corpus.rows(part, report):
            seen.add(text, where, tokenizer, context)
            _check_characters(text, where, findings)
            if signs := _unseen_in(text):
                unseen[where] += signs  # both parts may have some of one document
    for where, signs in unseen.items():
        findings.update(dict.fromkeys(_unseen_findings(where, signs)))
    return _stats(corpus, parts["train"], parts["valid"], findings, context if tokenizer else None)


def preview(
    path: Path, tokenizer: Tokenizer, count: int, *, num_tokens: int = 64, errors: Errors = "strict",
    field: str = "text",
) -> list[list[tuple[str, bool]]]:  # fmt: skip
    """The first tokens of the first `count` documents as training sees them: (piece, is it trained).

    Pre-training predicts every token, the first from the end of the document before.
    """
    texts = islice(read_documents(path, errors=errors, field=field), count)
    return [
        [(tokenizer.token_text(id), True) for id in ids[:num_tokens]]
        for text in texts
        for ids in [[*tokenizer.encode(text[: 64 * num_tokens]), tokenizer.specials.eos]]
    ]


def _check_characters(text: str, where: str, findings: Findings) -> None:
    lost = counted(text.count(LOST), "character")
    for characters, place, message in (
        (LOST, where, f"{lost} lost in a decoding, now or before (U+FFFD)"),
        ("\0", where, "holds zero characters; it may be UTF-16 or no text at all: save it as UTF-8"),
        (
            "\r\n", where.rpartition(":")[0],
            "lines end as on Windows (\\r\\n), so a model learns to write \\r; save the file with \\n",
        ),
    ):  # fmt: skip
        if characters in text:
            findings[Finding("warning", place, message)] = None


def _unseen_in(text: str) -> Counter[str]:
    """How many characters of a text nobody sees: invisible ones, and marks of decomposed letters."""
    found = Counter(INVISIBLE.findall(text.replace("\0", "")))
    if (whole := composed(text)) is not text:
        found[DECOMPOSED] = max(1, len(text) - len(whole))
    return found


def _unseen_findings(where: str, unseen: Counter[str]) -> Iterator[Finding]:
    if marks := unseen.pop(DECOMPOSED, 0):
        message = f"{DECOMPOSED}: {counted(marks, 'mark')}; write the text again in NFC"
        yield Finding("warning", where, message)
    if unseen:
        yield Finding("note", where, f"invisible characters: {counted_signs(unseen)}")


def _stats(
    corpus: Corpus, train: _Seen, valid: _Seen, findings: Findings, context: int | None
) -> CorpusStats:
    lengths = np.array(train.lengths + valid.lengths)
    repeats, leaks, near, near_leaks = _repeats(train, valid)
    num_long = train.num_long + valid.num_long if context else None
    path = str(corpus.path)

    def find(level: Level, noun: str, message: str, pairs: Places) -> None:
        if pairs:
            line = f"{counted(len(pairs), noun)} {message}: {pairs[0][0]} as {pairs[0][1]}"
            findings[Finding(level, path, line)] = None

    find("warning", "document", "found in the same part already; drop the repeats", repeats)
    find("warning", "document", "nearly equal to one before in the same part", near)
    find("error", "validation document", "found in training too; drop from one of the two", leaks)
    find("warning", "validation document", "nearly equal to a training document", near_leaks)
    if num_long:
        message = f"{counted(num_long, 'document')} of more than {context} tokens, learned in parts of it"
        findings[Finding("note", path, message)] = None
    if not len(lengths):
        findings[Finding("error", path, "no document could be read")] = None
    return CorpusStats(
        num_documents=len(lengths),
        num_characters=int(lengths.sum()),
        num_bytes=train.num_bytes + valid.num_bytes,
        length_percentiles={p: int(np.percentile(lengths, p)) for p in PERCENTILES if len(lengths)},
        scripts=_scripts(train.characters + valid.characters),
        encodings=dict(Counter(encoding_of(file) for file in corpus.files.values())),
        exact_duplicates=len(repeats),
        near_duplicates=len(near),
        overlap_exact=len(leaks),
        overlap_near=len(near_leaks),
        num_long=num_long,
        note=corpus.note,
        findings=tuple(findings),
    )


def _scripts(characters: Counter[str]) -> dict[str, float]:
    counts = {"Hangul": 0, "Latin": 0, "other": 0}
    for letter, count in characters.items():
        if letter.isalpha():
            counts[_script(letter)] += count
    return {script: count / max(1, sum(counts.values())) for script, count in counts.items()}


def _script(letter: str) -> str:
    if "가" <= letter <= "힣" or "\u1100" <= letter <= "\u11ff" or "\u3131" <= letter <= "\u318e":
        return "Hangul"
    return "Latin" if letter < "\u0250" or "\u1e00" <= letter <= "\u1eff" else "other"


def _repeats(train: _Seen, valid: _Seen) -> tuple[Places, Places, Places, Places]:
    """The documents that equal one before, in their part and (those of valid) in train; then those that
    nearly equal one. Shape letter: N documents, those of train first."""
    hashes_N = np.array(train.hashes + valid.hashes, dtype=np.uint64)
    rows, num_train = np.arange(len(hashes_N)), len(train.hashes)
    roles_N = (rows >= num_train).astype(np.uint8)
    first, anywhere = first_equal(hashes_N ^ roles_N), first_equal(hashes_N)
    leaks = (rows >= num_train) & (anywhere < num_train)

    def place(row: int) -> str:
        return train.place(row) if row < num_train else valid.place(row - num_train)

    def places(originals: Ids, copies: Ids) -> Places:
        pairs = zip(originals.tolist(), copies.tolist(), strict=True)
        return [(place(copy), place(original)) for original, copy in pairs]

    signatures, different = train.signatures.rows(), rows[first == rows]  # from others of their part
    within = near_originals(signatures, different, NEAR, roles_N[different].astype(np.uint64)).pairs_P2
    across = near_before(signatures, different, NEAR, roles_N[different]).pairs_P2
    near = [it[hashes_N[it[:, 0]] != hashes_N[it[:, 1]]].T for it in (within, across)]
    return (
        places(first[first != rows], rows[first != rows]), places(anywhere[leaks], rows[leaks]),
        places(*near[0]), places(*near[1]),
    )  # fmt: skip
