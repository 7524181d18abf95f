"""Clean a data set of any size: look at every row once, decide, then write what stays and list what goes.

The first reading keeps some 50 bytes and a signature of 512 of each row, in files of a hidden folder beside
`out`, so that the same command goes on after a crash; the second one writes, the same bytes however often it
was stopped. Memory does not grow with the texts: about 100 bytes a row, and half a byte for each character of
the texts that others are kept apart from.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from malmoi.core.errors import UserError
from malmoi.core.nouns import Done, Finding, Say, silent
from malmoi.data.cleaning_rules import DROPS, TEST, TEST_FILE, TRAIN, VALID, Cleaning, Matches, RowTable, find
from malmoi.data.cleaning_sources import WRITTEN, PartFile, Row
from malmoi.data.cleaning_table import FILES, STATE, Reading, without_lines
from malmoi.data.languages import LANGUAGES
from malmoi.data.opening import short
from malmoi.data.readers import TEXT_EXTENSIONS
from malmoi.data.sketches import MADE_BY
from malmoi.util.files import check_folder, read_json, sha256, sync_file, write_json
from malmoi.util.locks import hold
from malmoi.util.progress import pause_s
from malmoi.util.units import counted

EXCERPT = 200  # characters of a dropped text in the list
SHOWN_LINES = 100  # of the boilerplate, in the summary
PARTS = {TEST_FILE: "test files", TEST: "test", VALID: "valid", TRAIN: "train"}
_SETTINGS, _DATA, _LIST, _SUMMARY = "settings.json", "data", "dropped.jsonl", "dropped.json"  # of the work


@dataclass
class Totals:
    """How much there is."""

    rows: int = 0
    characters: int = 0
    bytes: int = 0  # of the texts, as UTF-8
    languages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LANGUAGES, 0))

    def add(self, text: str, language: str) -> None:
        """Count one row more."""
        self.rows += 1
        self.characters += len(text)
        self.bytes += len(text.encode())
        self.languages[language] += 1


@dataclass
class Cleaned:
    """What was done, or, where nothing was written (`after` is None), would be found.

    parts: rows of the test files and of each part. dropped: rows by the rule that each is dropped for; first:
    the place of the first of them, and why. changed: rows by the fix, or pieces of personal data by kind.
    lines: the commonest boilerplate lines, with the number of texts that have them. files: what was written:
    the data, the list of dropped rows, this summary.
    """

    before: Totals
    after: Totals | None = None
    parts: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def clean(
    sources: Sequence[PartFile], cleaning: Cleaning, out: Path | None = None, *, say: Say = silent
) -> Cleaned:
    """Do what `cleaning` names, into `out` (a folder, or a file where there is one source).

    Without `out` nothing is written, and where nothing is named every rule says what it would find, each for
    itself. Raises UserError for rows that cannot be read, unless "unreadable" is dropped, where there is
    something at `out` already, and where leaks are to be dropped but nothing is kept apart, or the reverse.
    """
    _check_leaks(sources, cleaning)
    if out is None or not cleaning.acts:
        asked = cleaning if cleaning.acts else cleaning.every_rule()
        with tempfile.TemporaryDirectory() as folder:
            return _Run(sources, asked, Path(folder), say, alone=not cleaning.acts).look()
    places = Places.of(out, sources)
    with hold(places.work):
        _begin(places.work, sources, cleaning, say)
        run = _Run(sources, cleaning, places.work, say)
        found = run.write(run.look())
        found.files = tuple(map(str, (places.data, places.dropped, places.summary)))
        write_json(places.work / _SUMMARY, read_json(places.work / _SETTINGS) | asdict(found))
        places.put()
        shutil.rmtree(places.work)
    return found


def _check_leaks(sources: Sequence[PartFile], cleaning: Cleaning) -> None:
    roles = {source.role for source in sources}
    if "leaks" in cleaning.drop and len(roles) < 2:
        raise UserError(
            "`drop` leaks has nothing to compare with",
            fix="give `test`, or a folder of files named train and valid",
        )
    if cleaning.acts and TEST_FILE in roles and "leaks" not in cleaning.drop:
        raise UserError("`test` does nothing without `drop` leaks", fix="name that, too")


@dataclass(frozen=True)
class Places:
    """Where the results go: the data, the list of dropped rows, the summary; and where they are made."""

    data: Path
    dropped: Path
    summary: Path
    work: Path
    is_file: bool

    @classmethod
    def of(cls, out: Path, sources: Sequence[PartFile]) -> Places:
        """The places for `out`. Raises UserError where it is in use, or no file that can hold the sources."""
        names = [source.name for source in sources if source.role != TEST_FILE]
        suffix = out.suffix.lower()
        is_file = suffix in (WRITTEN, *TEXT_EXTENSIONS)
        if out.exists():
            raise UserError(f"{out} is there already; choose another `out`")
        if is_file and (len(names) > 1 or Path(names[0]).suffix.lower() != suffix):
            what = f"rows are written as {WRITTEN}" if len(names) == 1 else "there are several files"
            raise UserError(f"{out} cannot hold the data, for {what}; name a folder as `out`")
        check_folder(out.parent)
        beside = out.with_suffix("") if is_file else out
        dropped, summary = (beside.with_name(f"{beside.name}.{name}") for name in (_LIST, _SUMMARY))
        return cls(out, dropped, summary, out.with_name(f".{out.name}.cleaning"), is_file)

    def put(self) -> None:
        """Move what was made to its places, the data last: where they are, all is whole."""
        made = self.work / _DATA
        if self.is_file:
            made = next(made.iterdir(), None) or self._empty(made)
        for path in (*made.rglob("*"), self.work / _LIST, self.work / _SUMMARY):
            if path.is_file():
                sync_file(path)
        for path, place in (
            (self.work / _LIST, self.dropped),
            (self.work / _SUMMARY, self.summary),
            (made, self.data),
        ):
            os.replace(path, place)
        sync_file(self.data.parent)

    def _empty(self, folder: Path) -> Path:
        (folder / self.data.name).touch()
        return folder / self.data.name


def _begin(work: Path, sources: Sequence[PartFile], cleaning: Cleaning, say: Say) -> None:
    """Keep what an earlier run has done, where it was asked the same of the same files."""
    files = [[str(one.file), one.role, one.name, sha256(one.file)] for one in sources]
    asked = {"cleaning": cleaning.model_dump(mode="json"), "sources": files, "signatures": MADE_BY}
    if (work / _SETTINGS).exists() and read_json(work / _SETTINGS) == json.loads(json.dumps(asked)):
        say("going on where this command was stopped")
        return
    for name in (_SETTINGS, STATE, *(f"{name}.bin" for name in FILES)):
        (work / name).unlink(missing_ok=True)
    write_json(work / _SETTINGS, asked)


class _Run:
    """One run over the sources; `look`, then `write`.

    alone: each rule judges all rows as they are, and not those that are left by the others.
    """

    def __init__(
        self, sources: Sequence[PartFile], cleaning: Cleaning, work: Path, say: Say, *, alone: bool = False
    ) -> None:
        self._sources, self._cleaning, self._work, self._alone = sources, cleaning, work, alone
        self._reading = Reading(work, cleaning, sources, as_is=alone)
        self._done = _progress(say)
        self._found: dict[str, Matches] = {}
        self._lines: dict[int, int] = {}

    def look(self) -> Cleaned:
        """The first reading, and what each rule finds."""
        unreadable: list[Finding] = []

        def report(finding: Finding) -> None:
            if finding.level == "error" and not unreadable:
                self._allow(finding)
            unreadable.extend([finding] * (finding.level == "error"))

        table = self._reading.read(report, self._done)
        kept = self._decide(table)
        found = Cleaned(_totals(table), parts=_parts(table), changed=dict(self._reading.changed))
        if "unreadable" in self._cleaning.drop:
            found.dropped["unreadable"] = len(unreadable)
            if unreadable:
                found.first["unreadable"] = f"{unreadable[0].where}: {unreadable[0].message}"
        found.dropped |= {name: len(it) for name, it in self._found.items()}
        found.first |= {name: self._first(it) for name, it in self._found.items() if len(it)}
        if "boilerplate" in self._cleaning.fix:
            self._lines = self._reading.common_lines(_distinct(table, kept))
            found.changed["boilerplate"] = len(self._lines)
        return found

    def _allow(self, finding: Finding) -> None:
        if "unreadable" not in self._cleaning.drop:
            raise UserError(
                finding.message, where=finding.where, fix="`drop` unreadable leaves out such rows"
            )

    def _decide(self, table: RowTable) -> NDArray[np.bool_]:
        """Ask the rules; returns which rows are left."""
        kept = np.ones(len(table), dtype=bool)
        for name in DROPS:
            if name in self._cleaning.drop and name != "unreadable":
                found = find(name, table, np.flatnonzero(kept | self._alone))
                self._found[name] = found
                kept[found.ids_F] = False
        return kept | self._alone

    def _first(self, found: Matches) -> str:
        row, place = int(found.ids_F[0]), self._reading.place
        return f"{place(row)}" + f" ({found.why(row, place)})" * (found.other_F is not None)

    def write(self, found: Cleaned) -> Cleaned:
        """The second reading: write what is left, and list what is not; `found` with what came of it."""
        shutil.rmtree(self._work / _DATA, ignore_errors=True)
        with (self._work / _LIST).open("w", encoding="utf-8", newline="") as listed:
            writing = _Writing(self._cleaning, self._found, self._reading, self._lines, listed)
            for source in self._sources:
                if source.role == TEST_FILE:
                    writing.number += sum(1 for _ in source.rows(silent))
                else:
                    writing.write(source, self._work / _DATA / source.name, self._done)
        found.after, found.lines = writing.after, writing.lines()
        if writing.emptied:
            found.dropped["empty"] += writing.emptied
        return found


class _Writing:
    """Writes what is left of one source after another, and lists what is not."""

    def __init__(
        self, cleaning: Cleaning, found: dict[str, Matches], reading: Reading, lines: dict[int, int],
        listed: TextIO,
    ) -> None:  # fmt: skip
        self._cleaning, self._found, self._listed = cleaning, list(found.items()), listed
        self._place = reading.place
        self._counts, self._known, self._removed = lines, frozenset(lines), dict[int, str]()
        self._language_N = reading.table.rows["language"]
        self._reason_N = np.zeros(len(reading.table), dtype=np.uint8)  # 1 + the place in _found; 0: it stays
        for at, (_, it) in enumerate(self._found, 1):
            self._reason_N[it.ids_F] = at
        self.after, self.emptied, self.number = Totals(), 0, 0

    def lines(self) -> dict[str, int]:
        """The commonest of the lines that were taken out, with how many texts have them."""
        ordered = sorted(self._removed, key=lambda line: (-self._counts[line], self._removed[line]))
        return {self._removed[line]: self._counts[line] for line in ordered[:SHOWN_LINES]}

    def write(self, source: PartFile, path: Path, done: Done) -> None:
        """What is left of one source, to `path`; there is no file where nothing is left of a plain text."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            for row in source.rows(self._hear):
                text = self._text(row.text)
                if self._stays(row, text):
                    file.write(row.written(text, self._text))
                self.number += 1
                done(self.number)
        if path.suffix in TEXT_EXTENSIONS and not path.stat().st_size:
            path.unlink()

    def _hear(self, finding: Finding) -> None:
        if finding.level == "error":
            self._list(finding.where, "unreadable", finding.message, "")

    def _stays(self, row: Row, text: str) -> bool:
        """Whether a row stays, whose text becomes `text`; it is counted, or listed."""
        if reason := int(self._reason_N[self.number]):
            name, found = self._found[reason - 1]
            self._list(row.where, name, found.why(self.number, self._place), text)
            return False
        if "empty" in self._cleaning.drop and not text.strip():
            self._list(row.where, "empty", "nothing is left of it", self._cleaning.fixed(row.text))
            self.emptied += 1
            return False
        self.after.add(text, LANGUAGES[self._language_N[self.number]])
        return True

    def _text(self, text: str) -> str:
        fixed = self._cleaning.fixed(text)
        if not self._known:
            return fixed
        least = self._cleaning.limits.boilerplate_characters
        return without_lines(fixed, self._known, least, self._removed.setdefault)

    def _list(self, where: str, rule: str, why: str, text: str) -> None:
        entry = {"where": where, "rule": rule, "why": why, "text": short(text, EXCERPT)}
        self._listed.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _distinct(table: RowTable, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The rows that are left, less those that repeat others: what only repeats share is no boilerplate."""
    found = kept.copy()
    for name in ("exact", "near"):
        found[find(name, table, np.flatnonzero(found)).ids_F] = False
    return found & (table.rows["role"] != TEST_FILE)


def _totals(table: RowTable) -> Totals:
    rows = table.rows[table.rows["role"] != TEST_FILE]
    languages = np.bincount(rows["language"], minlength=len(LANGUAGES)).tolist()
    characters, num_bytes = (int(rows[name].sum(dtype=np.int64)) for name in ("characters", "bytes"))
    return Totals(len(rows), characters, num_bytes, dict(zip(LANGUAGES, languages, strict=True)))


def _parts(table: RowTable) -> dict[str, int]:
    counts = np.bincount(table.rows["role"], minlength=len(PARTS)).tolist()
    return {PARTS[role]: count for role, count in enumerate(counts) if count}


def _progress(say: Say) -> Done:
    """Says how many rows are read, now and then."""
    said_s, every_s = time.monotonic(), pause_s()

    def done(number: int) -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= every_s:
            said_s = time.monotonic()
            say(f"{counted(number, 'row')} done")

    return done
