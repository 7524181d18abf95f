"""JSON to rows: an object a line, or the list of objects that a whole file holds, however it is packed.

`.jsonl` files of people hold arrays and indented objects, and `.json` files hold lines: what the first line
is decides, not the name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from malmoi.data.opening import How, Record, chunks, lines, short

# what data sets call the list of their rows, the likeliest first
_ROWS = ("data", "train", "examples", "rows", "items", "records", "instances", "samples", "results")
_PARTS = {"valid", "validation", "val", "dev", "eval", "test"}  # beside "train": not for learning
# lists of objects that a single row may have
_WITHIN = {
    "messages", "conversations", "conversation", "turns", "answers", "entities", "spans", "labels", "label",
    "dialogue", "dialog", "utterances", "annotations", "prompt", "completion", "input", "chosen", "rejected",
    "preferred_output", "non_preferred_output", "choices", "tools", "history", "relations",
}  # fmt: skip
_AHEAD = 20  # lines that show whether a file with a broken first line is one of JSON lines

Number = tuple[int, str]  # of a line, and the line


def read_json(path: Path, how: How) -> Iterator[Record]:
    """The rows of a file of JSON, whatever it is called."""
    numbered = ((at, line) for at, line in enumerate(lines(chunks(path, how)), 1) if line.strip())
    head = list(islice(numbered, _AHEAD))
    values = [_parsed(line) for _, line in head]
    if len(head) == 1 and values[0] is not None:
        return (yield from _rows_of(values[0], path, how))
    if len(head) < 2 or isinstance(values[0], dict | list):
        return (yield from _read_lines(chain(head, numbered), path, how))
    whole = [*head, *numbered]
    try:
        found = json.loads("\n" * (whole[0][0] - 1) + "".join(line for _, line in whole))
    except (ValueError, RecursionError) as error:
        if any(isinstance(value, dict) for value in values):
            return (yield from _read_lines(iter(whole), path, how))
        where = f"{path}:{getattr(error, 'lineno', 1)}"
        return how.error(where, f"expected JSON, found {short(whole[0][1])} ({error})")
    yield from _rows_of(found, path, how)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _read_lines(numbered: Iterator[Number], path: Path, how: How) -> Iterator[Record]:
    for number, line in numbered:
        row = as_row(_parsed(line))
        if row is not None:
            yield Record(row, f"{path}:{number}")
        else:
            how.error(f"{path}:{number}", f'expected {{"{how.field or "name"}": ...}}, found {short(line)}')


def _rows_of(found: Any, path: Path, how: How) -> Iterator[Record]:
    """The rows of a whole file's value, by their numbers."""
    items, left_out = rows_in(found)
    if left_out:
        how.chosen(str(path), f"left out beside the rows: {', '.join(left_out)}")
    for number, item in enumerate(items, 1):
        row = as_row(item)
        if row is not None:
            yield Record(row, f"{path}:{number}")
        else:
            how.error(f"{path}:{number}", f"expected an object, found {short(item)}")


def as_row(value: Any) -> dict[str, Any] | None:
    """The named values of an item: an object, or spaCy's [text, {"entities": ...}]; None of anything else."""
    match value:
        case dict():
            return value
        case [str(text), dict(values)]:
            return {"text": text, **values}
    return None


def rows_in(found: Any) -> tuple[list[Any], list[str]]:
    """The items that a whole file's value holds, and the names of other lists of them beside.

    A list; an object with one, at any depth; an object of rows; or one of columns, as pandas writes them
    ("split", "columns", "index").
    """
    if not isinstance(found, dict):
        return (found if isinstance(found, list) else [found]), []
    if (columns := _columns(found)) is not None:
        names = list(columns)
        return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)], []
    lists = {name: items for name, items in found.items() if name not in _WITHIN and _are_rows(items)}
    if first := next((name for name in _ROWS if name in lists), next(iter(lists)) if len(lists) == 1 else ""):
        return lists[first], [name for name in lists if name != first]
    values = list(found.values())
    if len(values) == 1 and isinstance(values[0], dict) and values[0]:
        return rows_in(values[0])
    if values and not _WITHIN & found.keys() and all(isinstance(value, dict) and value for value in values):
        return values, []
    return [found], []


def _are_rows(items: Any) -> bool:
    return isinstance(items, list) and bool(items) and as_row(items[0]) is not None


def _columns(found: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """The columns of a table that is kept by columns, all as long; None where it is none."""
    match found:
        case {"columns": [*names], "data": [[*_], *_] as rows}:
            return dict(zip(map(str, names), map(list, zip(*rows, strict=False)), strict=False))
    values = list(found.values())
    if values and all(isinstance(it, dict) and it and all(map(str.isdigit, it)) for it in values):
        same = all(it.keys() == values[0].keys() for it in values)
        return {name: list(it.values()) for name, it in found.items()} if same else None
    if len(values) < 2 or not all(isinstance(it, list) and it and len(it) == len(values[0]) for it in values):
        return None
    is_row = any(map(_are_rows, values)) or any(isinstance(it, str) for it in found.get("tokens", ()))
    return None if is_row else dict(found)
