"""Files to labelled rows: named values (.jsonl, .json, .csv, .tsv, .parquet) or tagged tokens (CoNLL).

Reading goes on past every bad row. What is wrong is a `Finding`; a bad row is never half used.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from malmoi.core.errors import UserError
from malmoi.core.nouns import BadRow, Finding, Report
from malmoi.data.json_rows import read_json
from malmoi.data.opening import How, Record, chunks, extension, lines, short
from malmoi.data.readers import RECORD_READERS, find_files, read_each
from malmoi.util.units import counted

RECORD_EXTENSIONS = (*RECORD_READERS, ".json")
CONLL_EXTENSIONS = (".conll", ".bio", ".iob", ".txt", ".tsv")
SKIPPED = 0.01  # the share of bad rows from which on a set is refused

DOCUMENT = "-DOCSTART-"  # the first column of a line that begins one
CAUSES = 3  # that a line names
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\S+:\d+|[\d,.]+|found .*")  # what differs where the cause is one
_LOST = re.compile("[\ud800-\udfff\ufffd]")
_SPACE = " \r\n"  # between columns; a token may be, or hold, any other white space
_TAG = re.compile("O|[A-Z]-.+")


class Tagged(NamedTuple):
    """One token, its tag, the "file:line" it stands on, and where its document begins, if a line says so."""

    token: str
    tag: str
    where: str
    document: str = ""


def read_records(path: Path, report: Report, *, report_ids: bool = True) -> Iterator[Record]:
    """The rows of a file or folder, each a dict of values with its "file:line" (for .json: item number).

    A .json file holds a list of objects, or one object with such a list under "data", or JSON lines. Rows in
    which characters were lost are reported and skipped. report_ids: report an "id" that comes again.
    """
    how, seen = How(None, "", report), dict[str, str]()  # where each id stood first
    files = find_files(path, RECORD_EXTENSIONS)
    readers = RECORD_READERS | {".json": read_json}
    for record in read_each(files, lambda file: readers[extension(file)](file, how), report):
        if _LOST.search(json.dumps(record.values, ensure_ascii=False, default=str)):
            how.error(record.where, "characters were lost in a decoding; save the file as UTF-8")
            continue
        id = record.values.get("id")
        if report_ids and id not in (None, ""):
            at = seen.setdefault(str(id), record.where)
            if at != record.where:
                report(Finding("warning", record.where, f"the id {id!r} stands at {at} already"))
        yield record


def read_lines(path: Path, report: Report) -> Iterator[str]:
    """The lines of a file, less the space around them."""
    how = How(None, "", report)
    return read_each([path], lambda file: map(str.strip, lines(chunks(file, how))), report)


def read_conll(path: Path, report: Report) -> Iterator[list[Tagged]]:
    """The sentences of a file or folder, a token and its tag on each line, a blank line after each sentence.

    Columns stand between tabs or else spaces; the first is the token, the last the tag. A -DOCSTART- line
    begins a document; comments ("# ...") are left out. A sentence with a line of one column is reported and
    skipped.
    """
    how = How(None, "", report)
    return read_each(find_files(path, CONLL_EXTENSIONS), lambda file: _sentences(file, how), report)


def _sentences(file: Path, how: How) -> Iterator[list[Tagged]]:
    """The sentences of one file."""
    found = [*lines(chunks(file, how)), ""]
    document = f"{file}:1" if any(line.startswith(DOCUMENT) for line in found) else ""
    sentence: list[Tagged] = []
    broken = False
    for number, line in enumerate(found, 1):
        columns = _columns(line)
        if not columns or columns[0] == DOCUMENT:
            if sentence and not broken:
                yield sentence
            sentence, broken = [], False
            document = f"{file}:{number}" if columns else document
        elif len(columns) > 1 and columns[0] and _LOST.search(columns[0]) is None:
            if columns[0][0] != "#" or _TAG.fullmatch(columns[-1]):
                sentence.append(Tagged(columns[0], columns[-1], f"{file}:{number}", document))
        else:
            broken = True
            how.error(f"{file}:{number}", f"expected a token and a tag, found {short(line)!r}")


def _columns(line: str) -> list[str]:
    """The cells of a line, none for a blank one."""
    if not line.strip(_SPACE + "\t"):
        return []
    line = line.strip(_SPACE)
    return [cell.strip(_SPACE) for cell in line.split("\t")] if "\t" in line else re.split(" +", line)


def raise_when_many(
    findings: Sequence[Finding], num_examples: int, path: Path, task_name: str, *, allow_skips: bool
) -> None:
    """UserError where there is no example or more than 1% of the rows are wrong (unless allow_skips)."""
    errors = [finding for finding in findings if finding.level == "error"]
    first = f"; the first, {errors[0].where}: {errors[0].message}" if errors else ""
    command = f"malmoi data check --task {task_name} {path} lists all"
    if not num_examples:
        raise UserError(f"{path} holds no example for {task_name}{first or '; it is empty'}; {command}")
    num_rows = num_examples + len(errors)
    if len(errors) > SKIPPED * num_rows and not allow_skips:
        raise UserError(
            f"{path}: {len(errors)} of {num_rows} rows are wrong{first}; {command}; `allow_skips` goes on"
        )


def lines_about(findings: Sequence[Finding], task_name: str) -> list[str]:
    """What people see of findings before work starts: how the data were read, then the rest in one line."""
    wrong = [finding for finding in findings if finding.level != "read"]
    return [*how_read(findings), *([_summary(wrong, task_name)] if wrong else [])]


def how_read(findings: Iterable[Finding]) -> list[str]:
    """A line for each way in which files were read, with the first of the files."""
    files: dict[str, list[str]] = {}
    for finding in findings:
        if finding.level == "read":
            files.setdefault(finding.message, []).append(finding.where)
    return [
        f"{first} and {counted(len(others), 'file')} more: {how}" if others else f"{first}: {how}"
        for how, (first, *others) in files.items()
    ]


def _summary(findings: Sequence[Finding], task_name: str) -> str:
    """One line about findings: how many of each level, the first of the worst, how to see all."""
    counts = Counter(finding.level for finding in findings)
    levels = {"error": " (bad rows are left out)", "warning": "", "note": ""}
    counted_levels = ", ".join(
        f"{counted(counts[level], level)}{more}" for level, more in levels.items() if counts[level]
    )
    causes = sorted(by_cause(findings), key=lambda alike: list(levels).index(alike[0].level))
    named = [f"{alike[0].where}: {alike[0].message}{_and_more(len(alike) - 1)}" for alike in causes[:CAUSES]]
    left = f"; {counted(len(causes) - CAUSES, 'cause')} more" if len(causes) > CAUSES else ""
    first = f"the first, {'; and '.join(named)}{left}"
    return f"data: {counted_levels}; {first}; malmoi data check --task {task_name} lists all"


def _and_more(count: int) -> str:
    return f" (and {count:,} more like it)" if count else ""


def by_cause(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings of one level that differ in places, numbers and what they quote at most, together."""
    causes: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        causes.setdefault((finding.level, _QUOTED.sub("", finding.message)), []).append(finding)
    return list(causes.values())


def attempts(rows: Iterable[Any], make: Callable[[Any], Iterable[Any]], report: Report) -> Iterator[Any]:
    """What `make` makes of each row; a row that raises BadRow is reported, at its `where`, and skipped."""
    for row in rows:
        try:
            yield from make(row)
        except BadRow as error:
            report(Finding("error", error.where or row.where, str(error)))
