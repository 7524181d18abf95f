"""The first reading of a data set that is cleaned: a table of what the rules ask of each row, in files.

The files are written in blocks, and a state says where the last whole one ends, so that reading goes on there
after a crash. Shape letters: N rows of the table, L lines of texts.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malmoi.core.nouns import Done, Report
from malmoi.data.cleaning_rules import ROW, TEST_FILE, TRAIN, Cleaning, RowTable
from malmoi.data.cleaning_sources import PartFile, Row
from malmoi.data.languages import LANGUAGES, language_of
from malmoi.data.readers import document_hash
from malmoi.data.sketches import HASHES, Passages, shingle_hashes, signatures, squeezed
from malmoi.data.text_rules import PROSE_RULES, prose_faults
from malmoi.util.files import read_json, write_json

BLOCK_ROWS, BLOCK_CHARACTERS = 8192, 4 << 20  # kept or lost as a whole
LINE = np.dtype([("hash", "<u8"), ("row", "<u4")])
SORTED = 1 << 22  # lines sorted at a time
FILES = {"rows": ROW, "signatures": np.dtype(("<u4", (HASHES,))), "lines": LINE}
STATE = "state.json"
_MOST = np.iinfo(np.uint32).max


class Reading:
    """Reads every row of `sources` once, into files in `folder`.

    as_is: the rules judge texts as they are; what fixes would change is only counted.
    """

    def __init__(
        self, folder: Path, cleaning: Cleaning, sources: Sequence[PartFile], *, as_is: bool = False
    ) -> None:
        self._folder, self._cleaning, self._sources = folder, cleaning, sources
        self._passages, self._as_is = Passages(), as_is
        self._compares = "leaks" in cleaning.drop
        self._counts_lines = "boilerplate" in cleaning.fix
        self._sketches = self._compares or self._counts_lines or "near" in cleaning.drop
        self._judges = not set(PROSE_RULES).isdisjoint(cleaning.drop)
        state = read_json(folder / STATE) if (folder / STATE).exists() else {}
        self._sizes: dict[str, int] = state.get("sizes", dict.fromkeys(FILES, 0))  # entries of each file
        self.changed = Counter[str](state.get("changed", {}))  # rows by fix, personal data by kind
        self.table = self._table()

    def read(self, report: Report, done: Done) -> RowTable:
        """Read all that was not read before; `done` hears how many rows are."""
        with ExitStack() as stack:
            files = {name: stack.enter_context(self._open(name)) for name in FILES}
            role, number, known = TEST_FILE, 0, self._sizes["rows"]
            block, size = list[tuple[int, Row]](), 0
            for at, source in enumerate(self._sources):
                if source.role != role:
                    self._keep(block, files)
                    self._passages.seal()
                    role, block, size = source.role, [], 0
                for row in source.rows(report):
                    if self._compares and role < TRAIN:
                        self._passages.add(number, squeezed(self._fixed(row.input)))
                    if number >= known:
                        block.append((at, row))
                        size += len(row.text)
                    number += 1
                    if len(block) >= BLOCK_ROWS or size >= BLOCK_CHARACTERS:
                        self._keep(block, files)
                        done(number)
                        block, size = [], 0
            self._keep(block, files)
        self.table = self._table()
        return self.table

    def _table(self) -> RowTable:
        """What was read, left in its files."""
        return RowTable(self._array("rows"), self._array("signatures"), self._cleaning)

    def place(self, row: int) -> str:
        """Where a row stands: "file:line"."""
        found = self.table.rows[row]
        return f"{self._sources[found['file']].file}:{found['line']}"

    def common_lines(self, rows_N: NDArray[np.bool_]) -> dict[int, int]:
        """The hashes of lines that are in many of the texts that `rows_N` marks; in how many."""
        found: dict[int, int] = {}
        lines_L, least = self._array("lines"), self._cleaning.limits.boilerplate_documents
        parts = len(lines_L) // SORTED + 1
        for part in range(parts):
            hashes = [
                chunk["hash"][rows_N[chunk["row"]] & (chunk["hash"] % np.uint64(parts) == part)]
                for start in range(0, len(lines_L), SORTED)
                for chunk in [lines_L[start : start + SORTED]]
            ]
            values, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *hashes]), return_counts=True)
            many = counts >= max(2, least)
            found |= zip(values[many].tolist(), counts[many].tolist(), strict=True)
        return found

    def _open(self, name: str) -> Any:
        """A file to add to, without what was written of a block that is not whole."""
        path = self._folder / f"{name}.bin"
        path.touch()
        os.truncate(path, self._sizes[name] * FILES[name].itemsize)
        return path.open("ab")

    def _array(self, name: str) -> Any:
        """A file's entries, left in it."""
        if not self._sizes[name]:
            return np.zeros(0, FILES[name])
        return np.memmap(self._folder / f"{name}.bin", FILES[name].base, "r").reshape(-1, *FILES[name].shape)

    def _keep(self, block: list[tuple[int, Row]], files: dict[str, Any]) -> None:
        """Add rows of one role, with their sources, to the files, then to the state."""
        if not block:
            return
        for name, entries in self._looked_at(block).items():
            files[name].write(entries.tobytes())
            files[name].flush()
            os.fsync(files[name].fileno())
            self._sizes[name] += len(entries)
        write_json(self._folder / STATE, {"sizes": self._sizes, "changed": self.changed})

    def _looked_at(self, block: list[tuple[int, Row]]) -> dict[str, NDArray[Any]]:
        role = self._sources[block[0][0]].role
        changed = self.changed if role != TEST_FILE else Counter[str]()
        texts = [self._fixed(row.text, changed) for _, row in block]
        inputs = [
            text if row.input is row.text else self._fixed(row.input)
            for (_, row), text in zip(block, texts, strict=True)
        ]
        pairs = [
            self._row(row, text, given) for (_, row), text, given in zip(block, texts, inputs, strict=True)
        ]
        rows = np.array(pairs, dtype=ROW)
        rows["file"], rows["role"] = [at for at, _ in block], role
        found = {"rows": rows, "signatures": np.zeros((0, HASHES), np.uint32), "lines": np.zeros(0, LINE)}
        if self._sketches:
            hashes, starts = shingle_hashes([squeezed(text) for text in texts])
            found["signatures"] = signatures(hashes, starts)
            rows["within"] = self._passages.owners_within(hashes, starts, self._cleaning.limits.leak)
        if self._counts_lines:
            found["lines"] = self._lines(texts)
        return found

    def _fixed(self, text: str, changed: Counter[str] | None = None) -> str:
        def hear(name: str, count: int) -> None:
            if changed is not None:
                changed[name] += count

        if self._as_is and changed is None:
            return text
        fixed = self._cleaning.fixed(text, hear)
        return text if self._as_is else fixed

    def _row(self, row: Row, text: str, given: str) -> tuple[int, ...]:
        """The entries of ROW for one row, with zeros for what is known of whole blocks."""
        language = language_of(text)
        faults = prose_faults(text, language, self._cleaning.limits) if self._judges else 0
        line = row.where.rpartition(":")[2]
        return (
            document_hash(text), document_hash(squeezed(given)), document_hash(row.label),
            int(line) if line.isdigit() else 0, 0, faults, min(_MOST, len(row.text)),
            min(_MOST, len(row.text.encode())), -1, 0, LANGUAGES.index(language),
        )  # fmt: skip

    def _lines(self, texts: Sequence[str]) -> NDArray[np.void]:
        first = self._sizes["rows"]
        least = self._cleaning.limits.boilerplate_characters
        pairs = [(one, first + at) for at, text in enumerate(texts) for one in set(line_hashes(text, least))]
        return np.array(pairs, dtype=LINE)


def line_hashes(text: str, least: int) -> Iterable[int]:
    """A hash of each line with at least so many characters, blanks apart; none where it is the only line."""
    lines = [squeezed(line) for line in text.split("\n")]
    long = [document_hash(line) for line in lines if len(line) >= max(1, least)]
    return long if sum(map(bool, lines)) > 1 else []


def without_lines(text: str, known: frozenset[int], least: int, hear: Callable[[int, str], Any]) -> str:
    """The text without the lines of these hashes, which `hear` gets; a text of one line stays."""
    if known.isdisjoint(line_hashes(text, least)):
        return text
    kept: list[str] = []
    for line in text.split("\n"):
        if len(it := squeezed(line)) >= max(1, least) and (number := document_hash(it)) in known:
            hear(number, line.strip())
        else:
            kept.append(line)
    return "\n".join(kept)
