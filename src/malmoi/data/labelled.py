"""Files to labelled rows: named values (.jsonl, .json, .csv, .tsv, .parquet) or tagged tokens (CoNLL).

Reading goes on past every bad row. What is wrong is a `Finding`; a bad row is never half used.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from malmoi.core.errors import UserError
from malmoi.core.nouns import BadRow, Finding, Report
from malmoi.data import bilingual
from malmoi.data.json_rows import read_json
from malmoi.data.opening import DELIMITER, ENCODING, How, Record, chunks, extension, lines, short
from malmoi.data.readers import RECORD_READERS, find_files, read_each, role_of
from malmoi.data.table_rows import read_table
from malmoi.util.units import counted

RECORD_EXTENSIONS = (*RECORD_READERS, ".json", *bilingual.EXTENSIONS)
PLAIN = ".txt"  # of fastText, or a table with tabs
CONLL_EXTENSIONS = (".conll", ".bio", ".iob", ".iob2", ".txt", ".tsv")
SKIPPED = 0.01  # the share of bad rows from which on a set is refused

DOCUMENT = "-DOCSTART-"  # the first column of a line that begins one
_LABEL = "__label__"  # before a label, in fastText's files
_UNLABELLED = {"unsup", "unlabeled", "unlabelled", "unsupervised"}  # folders of texts without a class
CAUSES = 3  # that a line names
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\S+:\d+|[\d,.]+|found .*")  # what differs where the cause is one
_LOST = re.compile("[\ud800-\udfff\ufffd]")
_TAG = re.compile("[Oo]|[A-Za-z][-_].+|.+[-_][A-Za-z]")


class Tagged(NamedTuple):
    """One token, its tag, the "file:line" it stands on, and where its document begins, if a line says so."""

    token: str
    tag: str
    where: str
    document: str = ""


def read_records(
    path: Path, report: Report, *, report_ids: bool = True, texts: bool = False,
    fields: Mapping[str, str] | None = None,
) -> Iterator[Record]:  # fmt: skip
    """The rows of a file or folder, each a dict of values with its "file:line" (for JSON: item number).

    Rows in which characters were lost are reported and skipped. report_ids: report an "id" that comes again.
    texts: read .txt too, of fastText or with tabs, if there is nothing else. fields: the user's, of which
    `encoding` and `delimiter` say how to read; one that is a path, "data.review", is a column, too.
    """
    given = fields or {}
    how = How(None, "", report, given.get(ENCODING, ""), given.get(DELIMITER, ""))
    seen = dict[str, str]()  # where each id stood first
    paths = [name for name in given.values() if "." in name.strip(".")]
    files = find_files(path, (*RECORD_EXTENSIONS, PLAIN) if texts else RECORD_EXTENSIONS)
    files = [file for file in files if extension(file) != PLAIN] or files
    for record in read_each(files, lambda file: _READERS[extension(file)](file, how), report):
        if _LOST.search(json.dumps(record.values, ensure_ascii=False, default=str)):
            how.error(record.where, "characters were lost in a decoding; save the file as UTF-8")
            continue
        id = record.values.get("id")
        if report_ids and id not in (None, ""):
            at = seen.setdefault(str(id), record.where)
            if at != record.where:
                report(Finding("warning", record.where, f"the id {id!r} stands at {at} already"))
        yield Record(_unpacked(record.values, paths), record.where)


def _unpacked(values: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """A row with what stands at these paths, and with the languages of the hub's {"translation": {...}}."""
    inner = values.get("translation")
    if isinstance(inner, dict):
        values = inner | {name: it for name, it in values.items() if it is not inner}
    found = {path: it for path in paths if path not in values and (it := _at(values, path)) is not None}
    return values | found if found else values


def _at(values: Any, path: str) -> Any:
    """What stands at a path such as data.review or turns.0.text, or None."""
    for name in path.split("."):
        if isinstance(values, list) and name.isdecimal() and int(name) < len(values):
            values = values[int(name)]
        else:
            values = values.get(name) if isinstance(values, dict) else None
    return values


def _read_text(path: Path, how: How) -> Iterator[Record]:
    """The rows of a .txt file: fastText's, or a table's."""
    first = next((line for line in lines(chunks(path, how)) if line.strip()), "")
    if first.lstrip().startswith(_LABEL):
        return (yield from _read_fasttext(path, how))
    if how.delimiter or any(mark in first for mark in "\t,;|"):
        return (yield from read_table(path, how, "\t"))
    wanted = f"{_LABEL}NAME and a text, or cells with tabs between"
    how.error(f"{path}:1", f"expected lines of {wanted}, found {short(first)!r}")


def _read_fasttext(path: Path, how: How) -> Iterator[Record]:
    """A text and its label on each line; several labels are a list."""
    for number, line in enumerate(lines(chunks(path, how)), 1):
        words = line.split(" ")
        labels = [word.strip().removeprefix(_LABEL) for word in words if word.startswith(_LABEL)]
        text = " ".join(word for word in words if not word.startswith(_LABEL)).strip()
        if labels and text:
            yield Record(
                {"text": text, "label": labels[0] if len(labels) == 1 else labels}, f"{path}:{number}"
            )
        elif line.strip():
            how.error(f"{path}:{number}", f"expected {_LABEL}NAME and a text, found {short(line)!r}")


def class_folders(path: Path) -> list[Path]:
    """The .txt files of a folder in which each lies in a folder named as its class; none where it is no such.

    Of folders train and test, at the top, only train counts; so does no class of what has no label.
    """
    if not path.is_dir():
        return []
    files = [file for file in find_files(path, (*RECORD_EXTENSIONS, PLAIN)) if file.parent != path]
    if any(extension(file) != PLAIN for file in files):
        return []
    files = [file for file in files if file.parent.name.lower() not in _UNLABELLED]
    train = [file for file in files if role_of(file.relative_to(path)) == "train"]
    found = train or files
    return found if len({file.parent for file in found}) > 1 else []


def read_class_folders(files: Sequence[Path], report: Report) -> Iterator[Record]:
    """A row for each of `class_folders`."""
    how = How(None, "", report)

    def read(file: Path) -> Iterator[Record]:
        yield Record({"text": "".join(chunks(file, how)), "label": file.parent.name}, f"{file}:1")

    return read_each(files, read, report)


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
    """The cells of a line, none for a blank one. Only spaces and tabs part them: a no-break space is in a
    token, and a space before the tag may be the token, where each is a character."""
    line = line.strip("\r\n")
    if not line.strip():
        return []
    if "\t" in line:
        first, *others = line.split("\t")
        return [first.strip(" ") or first[:1], *(cell.strip() for cell in others)]
    space = [" "] if line.startswith("  ") else []
    return space + re.split(" +", line.strip(" "))


_READERS: dict[str, Callable[[Path, How], Iterator[Record]]] = {
    **RECORD_READERS,
    ".json": read_json,
    PLAIN: _read_text,
    **dict.fromkeys(bilingual.EXTENSIONS, bilingual.read_memory),
}


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
