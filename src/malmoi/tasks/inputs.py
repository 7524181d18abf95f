"""What a task is to predict from: one text, a line, or the files of a user who has no targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from malmoi.core.errors import UserError
from malmoi.core.nouns import Finding, Report, Say, silent
from malmoi.data.characters import composed
from malmoi.data.encodings import decoded
from malmoi.data.labelled import RECORD_EXTENSIONS, SKIPPED, read_lines, read_records
from malmoi.data.opening import ENCODING, extension
from malmoi.data.readers import find_files, raise_errors
from malmoi.tasks.base import Task
from malmoi.util.files import denied
from malmoi.util.streams import standard_input
from malmoi.util.units import counted

INPUT_EXTENSIONS = (".txt", *RECORD_EXTENSIONS)
# all but .jsonl, of which a line may be a text
TABLES = tuple(name for name in RECORD_EXTENSIONS if name != ".jsonl")


def inputs_of(task: Task[Any, Any], text: str, context: str | None = None) -> tuple[list[Any], bool]:
    """What a user asks about: `text` itself, or a text or JSON object on each line of the file that it names
    (-: of standard input), or each row of a table; and whether it is lines or rows.

    context: of question answering, a text or the name of its file; what is asked is then a question about it.
    Raises UserError for what is no input of the task, and for a file that has no lines or is missing.
    """
    ask, values = _asker(task, context), _values_of(task, text)
    if values is None:
        return [ask(_json_or_text(text))], False
    inputs: list[Any] = []
    for where, value in values:
        try:
            inputs.append(ask(value))
        except UserError as error:
            raise UserError(str(error), where=where) from None
    return inputs, True


def _values_of(task: Task[Any, Any], text: str) -> list[tuple[str, Any]] | None:
    """The value of each line or row of the file that `text` names, with its place. None: it is a text."""
    if text != "-" and _is_file(text) and extension(Path(text)) in TABLES:
        rows = read_records(Path(text), raise_errors, report_ids=False, fields=task.fields)
        return [(row.where, row.values) for row in rows]
    lines = lines_of(text, task.fields.get(ENCODING, ""))
    return None if lines is None else [(where, _json_or_text(line)) for where, line in lines]


def lines_of(text: str, encoding: str = "") -> list[tuple[str, str]] | None:
    """The lines that are not empty of the file that `text` names (-: of standard input), each with its place.

    None: it is a text. Raises UserError for a file that has no lines or is missing.
    """
    if text != "-" and not _is_file(text):
        return None
    name, content = ("standard input", standard_input()) if text == "-" else (text, Path(text).read_bytes())
    lines = enumerate(decoded(content, name, encoding).split("\n"), 1)
    return [(f"{name}:{number}", line) for number, line in lines if line.strip()]


def read_inputs(
    task: Task[Any, Any], path: Path, *, allow_skips: bool = False, say: Say = silent
) -> list[Any]:
    """The different inputs of a file or folder: a text on each line of .txt, or rows (labels are not read).

    Raises UserError where there are none, or more than 1% of the rows are wrong (unless allow_skips).
    """
    errors: list[Finding] = []
    found: dict[str, Any] = {}
    for file in find_files(path, INPUT_EXTENSIONS):
        for value, where in _values(file, errors.append):
            try:
                one = composed(task.input_from(value))
            except UserError as error:
                errors.append(Finding("error", where, str(error)))
                continue
            if task.key(one).strip():
                found.setdefault(task.key(one), one)
    first = f"{errors[0].where}: {errors[0].message}" if errors else "it is empty"
    if not found:
        raise UserError(f"{path} holds no input for {task.name}; {first}")
    if errors and len(errors) > SKIPPED * (len(found) + len(errors)) and not allow_skips:
        raise UserError(
            f"{path}: {counted(len(errors), 'wrong row')}; the first, {first}; `allow_skips` goes on"
        )
    if errors:
        say(f"{path}: {counted(len(errors), 'row')} left out; the first, {first}")
    return list(found.values())


def _values(file: Path, report: Report) -> Iterable[tuple[Any, str]]:
    if extension(file) == ".txt":
        return ((line, f"{file}:{number}") for number, line in enumerate(read_lines(file, report), 1))
    return ((record.values, record.where) for record in read_records(file, report))


def _asker(task: Task[Any, Any], context: str | None) -> Callable[[Any], Any]:
    """From a value to an input of the task; with `context`, a value is a question about that text."""
    if context is None:
        return task.input_from
    if not task.kind.has_context:
        raise UserError(f"`context` is for question-answering; this folder does {task.name}")
    text = decoded(Path(context).read_bytes(), context) if _is_file(context) else context
    about = {"context": text}
    return lambda value: task.input_from(about | (value if isinstance(value, dict) else {"question": value}))


def _is_file(text: str) -> bool:
    """Whether `text` is a file. Raises UserError for the name of a missing one."""
    try:
        path = Path(text)
        found = path.is_file()
    except PermissionError:
        raise denied(Path(text)) from None
    except (OSError, ValueError):  # a text that is too long for a name, or has a zero in it
        return False
    named = extension(path) in INPUT_EXTENSIONS and not any(map(str.isspace, text))
    if named and not found:
        raise UserError(f"{text} does not exist; give a text, a file with one input a line, or -")
    return found


def _json_or_text(line: str) -> Any:
    """The value where the line is a JSON object or string; else the text itself."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return line.rstrip("\r")
    return found if isinstance(found, dict | str) else line.rstrip("\r")
