"""Files that programs for labelling open: doccano, Label Studio, and every spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from malmoi.core.errors import UserError
from malmoi.core.nouns import Json
from malmoi.util.files import write_json, write_text

DOCCANO, LABEL_STUDIO, SPREADSHEET = "doccano.jsonl", "label-studio.json", "spreadsheet.csv"
TABLES = (".csv", ".jsonl")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what begins a formula (OWASP, CSV injection)


def check_table(path: Path) -> None:
    """Raises UserError for a name that `write_table` has no format for."""
    if path.suffix.lower() not in TABLES:
        raise UserError(f"`out` {path} must end in {' or '.join(TABLES)}")


def write_table(path: Path, rows: Sequence[Json]) -> None:
    """Rows of the same columns as JSON lines, or as CSV that a spreadsheet opens: UTF-8 with a mark, and '
    before a cell that would be a formula. Raises UserError for a name that ends in neither."""
    check_table(path)
    if path.suffix.lower() == ".jsonl":
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    columns, table = list(rows[0]) if rows else [], io.StringIO()
    writer = csv.writer(table)
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    write_text(path, "\ufeff" + table.getvalue())


def _cell(value: Any) -> Any:
    """A number as it is; text that no spreadsheet takes for a formula; other JSON as its text."""
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.startswith(_FORMULA) else text


def write_label_files(folder: Path, rows: Sequence[Json], texts: Sequence[str], target: str) -> list[Path]:
    """Write what is to be labelled, for each program; returns the files.

    rows: the columns of each input, by the names of the user's files; texts: each input in one text; target:
    the column that people fill in.
    """
    numbered = list(enumerate(zip(rows, texts, strict=True), 1))
    files = [folder / name for name in (DOCCANO, LABEL_STUDIO, SPREADSHEET)]
    write_table(files[0], [{"id": number, "text": text, "label": []} for number, (_, text) in numbered])
    write_json(files[1], [{"id": number, "data": {"text": text, **row}} for number, (row, text) in numbered])
    write_table(files[2], [{"id": number, **row, target: ""} for number, (row, _) in numbered])
    return files
