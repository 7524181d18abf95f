"""The rows of a data set as cleaning sees them, and how one is written again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from malmoi.core.errors import UserError
from malmoi.core.nouns import Finding, Json, Report
from malmoi.data import arrow
from malmoi.data.cleaning_rules import TEST, TEST_FILE, TRAIN, VALID
from malmoi.data.opening import Errors, How, Record, chunks, extension, lines
from malmoi.data.readers import RECORD_READERS, TEXT_EXTENSIONS, find_files, read_each, read_rows, role_of

ROLES = {"test": TEST, "valid": VALID, "train": TRAIN, "": TRAIN}
WRITTEN = ".jsonl"  # as what rows of other formats than plain text are written


class Row(NamedTuple):
    """A document or a labelled row.

    values: as it stands in its file; of a plain text: "". text: what the rules look at; input: what of it
    must not be in another part; label: what rows that repeat one another have in common. field: the only one
    that is to be changed, else every text of the row is, but `labels`.
    """

    values: Json | str
    where: str
    text: str
    input: str
    label: str = ""
    field: str = ""
    labels: frozenset[str] = frozenset()

    def written(self, text: str, fix: Callable[[str], str]) -> str:
        """The row as the cleaned file has it; text: what `fix` makes of its own."""
        if isinstance(self.values, str):
            return text
        values = self.values | {self.field: text} if self.field else self._changed(self.values, fix)
        return json.dumps(values, ensure_ascii=False, default=str) + "\n"

    def _changed(self, value: Any, fix: Callable[[str], str]) -> Any:
        if isinstance(value, str):
            return value if value in self.labels else fix(value)
        if isinstance(value, dict):
            return {key: self._changed(inner, fix) for key, inner in value.items()}
        return [self._changed(inner, fix) for inner in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class PartFile:
    """One file. role: what it is kept apart from; name: of the cleaned file within `out`."""

    file: Path
    role: int
    name: str
    read: Callable[[Path, Report], Iterator[Row]]

    def rows(self, report: Report) -> Iterator[Row]:
        """Its rows in order; what cannot be read goes to `report`."""
        return read_each([self.file], lambda file: self.read(file, report), report)


def text_sources(path: Path, tests: Sequence[Path], *, field: str, errors: Errors) -> list[PartFile]:
    """The files of a text, in the order in which cleaning reads them. Raises UserError for none."""
    found = part_sources(path, find_files(path), lambda file, report: _documents(file, field, errors, report))
    files = [file for test in tests for file in find_files(test)]
    read = lambda file, report: _protected(file, field, errors, report)  # noqa: E731
    return [*(PartFile(file, TEST_FILE, "", read) for file in files), *found]


def part_sources(
    path: Path, files: Sequence[Path], read: Callable[[Path, Report], Iterator[Row]]
) -> list[PartFile]:
    """The files as parts: test before valid before train, so that each is kept apart from those before it."""
    path = arrow.local(path)
    root = path if path.is_dir() else path.parent
    names = [str(file.relative_to(root)) for file in files]
    written = [_written_name(name) for name in names]
    found: list[PartFile] = []
    for file, name, out in zip(files, names, written, strict=True):
        role = ROLES[role_of(Path(name))] if path.is_dir() else TRAIN
        found.append(PartFile(file, role, out if written.count(out) == 1 else name + WRITTEN, read))
    return sorted(found, key=lambda source: source.role)


def _written_name(name: str) -> str:
    packed, plain = Path(name), Path(name)
    if extension(packed) != packed.suffix.lower():
        plain = packed.with_suffix("")
    return str(plain if extension(packed) in TEXT_EXTENSIONS else plain.with_suffix(WRITTEN))


class _Strict(How):
    """Stops at bytes that are not UTF-8, whatever is done with rows that cannot be read."""

    def lossy(self, where: str, message: str, joint: str = "; ") -> None:
        if self.errors == "strict":
            raise UserError(f"{message}{joint}`errors` replace goes on", where=where)


def _documents(file: Path, field: str, errors: Errors, report: Report) -> Iterator[Row]:
    how = _Strict(errors, field, report)
    if extension(file) in TEXT_EXTENSIONS:
        for row in read_rows([file], errors=errors, field=field, report=_stop_at_lost(report, errors)):
            yield Row("", row.where, row.text, row.text)
        return
    for values, where in _records(file, how):
        text = values.get(field)
        if isinstance(text, str):
            text = how.without_surrogates(text, where)
            yield Row(values, where, text, text, field=field)
        elif field in values:
            list(how.row(text, where))  # which reports what it is
        else:
            how.missing(values, where)


def _records(file: Path, how: How) -> Iterator[Record]:
    """The rows of a file with all of their columns, whichever is wanted."""
    whole = replace(how, field="") if extension(file) in arrow.EXTENSIONS else how
    return RECORD_READERS[extension(file)](file, whole)


def _stop_at_lost(report: Report, errors: Errors) -> Report:
    """A plain text has no rows to leave out: what cannot be read of it stops the reading."""

    def heard(finding: Finding) -> None:
        if finding.level == "error" and errors == "strict":
            raise UserError(finding.message, where=finding.where)
        report(finding)

    return heard


def _protected(file: Path, field: str, errors: Errors, report: Report) -> Iterator[Row]:
    """The texts of a test file: each line of a plain text; the field of a row, or else every text in it."""
    how = _Strict(errors, field, report)
    if extension(file) in TEXT_EXTENSIONS:
        for number, line in enumerate(lines(chunks(file, how)), 1):
            yield Row("", f"{file}:{number}", line.strip(), line.strip())
        return
    for values, where in _records(file, replace(how, field="")):
        for text in [values[field]] if isinstance(values.get(field), str) else _texts_in(values):
            yield Row("", where, text, text)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(inner)
