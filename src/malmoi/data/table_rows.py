"""Tables to rows: what separates the cells, whether quotes are text, and workbooks of spreadsheets.

A table's first lines say how it is written where its name cannot: `.csv` of Excel has semicolons in half of
the world, and a `.tsv` is quoted by some programs and by others not.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, time
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import python_calamine as calamine

from malmoi.data.arrow import Unreadable
from malmoi.data.opening import WORKBOOKS, How, Record, chunks, extension, lines, open_bytes

TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}  # by the end of the name: what separates cells
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
SHOWN = 1000  # lines that show how a table is written
AGREE = 0.9  # of these, so many must have as many cells as the header
_EXCELS = re.compile(r"sep=(.)\s*", re.DOTALL)  # the first line that Excel itself writes and hides

Row = tuple[int, list[str]]  # the line on which it begins, and its cells


def read_cells(path: Path, how: How, usual: str = "") -> Iterator[Row]:
    """The rows of a table with the lines on which they begin, the header too; usual: what separates cells."""
    csv.field_size_limit(2**31 - 1)  # the default refuses a cell of more than 128 KiB
    source = lines(chunks(path, how))
    shown = list(islice(source, SHOWN))
    usual = how.delimiter or usual or TABLES.get(extension(path), ",")
    excels = _EXCELS.fullmatch(shown[0]) if shown else None
    delimiter = usual if how.delimiter else excels[1] if excels else _delimiter(shown, usual)
    if delimiter != usual:
        names = [_NAMES.get(one, repr(one)) for one in (delimiter, usual)]
        how.note(f"{path}:1", f"cells are separated by {names[0]}, not by {names[1]}")
    skipped = int(excels is not None)
    dialect = _dialect(shown[skipped:], delimiter)
    return _rows(csv.reader(chain(shown[skipped:], source), strict=True, **dialect), skipped, path, how)


def read_table(path: Path, how: How, usual: str = "") -> Iterator[Record]:
    """The rows of a table below its header."""
    rows = read_cells(path, how, usual)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    if how.field and how.field not in header:
        return how.missing(header, f"{path}:1")
    yield from named_rows(header, rows, path, how)


def named_rows(header: Sequence[str], rows: Iterator[Row], path: Path, how: How) -> Iterator[Record]:
    """Rows with the names of their cells; those with more or fewer cells are reported and skipped."""
    for line, cells in rows:
        where = f"{path}:{line}"
        if len(cells) == len(header):
            yield Record(dict(zip(header, cells, strict=True)), where)
        elif cells:
            how.error(where, f"expected {len(header)} cells as in the header, found {len(cells)}")


def _rows(table: Any, skipped: int, path: Path, how: How) -> Iterator[Row]:
    while True:
        line = table.line_num + 1 + skipped
        try:
            yield line, next(table)
        except StopIteration:
            return
        except csv.Error as error:
            end = (
                f", which ends on line {table.line_num + skipped}" if table.line_num + skipped > line else ""
            )
            how.error(f"{path}:{line}", f"broken row{end} ({error})")


def _delimiter(shown: Sequence[str], usual: str) -> str:
    """What separates cells: the usual, unless only another one cuts the header and almost all rows alike."""
    if not shown or usual in shown[0]:
        return usual
    for other in (one for one in _NAMES if one in shown[0]):
        with suppress(csv.Error):
            widths = [len(row) for row in csv.reader(shown, delimiter=other) if row]
            if widths[0] > 1 and widths.count(widths[0]) >= AGREE * len(widths):
                return other
    return usual


def _dialect(shown: Sequence[str], delimiter: str) -> dict[str, Any]:
    """How csv reads it. By its definition (text/tab-separated-values, IANA) a cell of a .tsv holds no tab and
    nothing is quoted; many programs quote all the same."""
    if delimiter != "\t" or _is_quoted(shown):
        return {"delimiter": delimiter}
    return {"delimiter": delimiter, "quoting": csv.QUOTE_NONE}


def _is_quoted(shown: Sequence[str]) -> bool:
    """Whether the quotes of a table with tabs stand around cells: each that begins a cell has one that ends
    it, and there is a sign of it: a doubled quote within, a tab or a line end, or the whole header quoted."""
    cells = [cell for line in shown for cell in line.rstrip("\r\n").split("\t")]
    if not any(cell.startswith('"') for cell in cells):
        return False
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(shown, delimiter="\t", strict=True))
    except csv.Error as error:
        if "unexpected end" not in str(error) or len(shown) < SHOWN:  # else the last cell goes on below
            return False
    if any(len(row) not in (0, len(rows[0])) for row in rows):
        return False
    if any("\n" in cell or "\t" in cell for row in rows for cell in row):
        return True
    quoted = [len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells]
    doubled = any('""' in cell[1:-1] for cell, is_quoted in zip(cells, quoted, strict=True) if is_quoted)
    return doubled or all(quoted[: len(rows[0])])


def read_workbook(path: Path, how: How) -> Iterator[Record]:
    """The rows below the header of the first sheet that has some, of Excel, LibreOffice and the like."""
    try:
        with open_bytes(path) as file:
            book = calamine.CalamineWorkbook.from_filelike(file)
            sheets = {name: book.get_sheet_by_name(name).to_python() for name in book.sheet_names}
    except calamine.CalamineError as error:
        raise Unreadable(f"is no readable workbook ({error}); save it again as .xlsx or .csv") from None
    name, *others = [name for name, rows in sheets.items() if any(map(any, rows))] or [""]
    if others:
        how.note(str(path), f"read is the sheet {name!r}; left out: {', '.join(others)}")
    filled = [(at, row) for at, row in enumerate(sheets.get(name, []), 1) if any(cell != "" for cell in row)]
    header = [str(cell).strip() for cell in filled[0][1]] if filled else []
    if how.field and how.field not in header:
        return how.missing(header, f"{path}:1")
    for at, row in filled[1:]:
        yield Record(
            {key: _value(cell) for key, cell in zip(header, row, strict=True) if key}, f"{path}:{at}"
        )


def _value(cell: Any) -> Any:
    """A cell as JSON: whole numbers without a point, dates as ISO 8601 writes them."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell.isoformat() if isinstance(cell, date | time) else cell


TABLE_READERS = {name: partial(read_table, usual=delimiter) for name, delimiter in TABLES.items()}
TABLE_READERS |= dict.fromkeys(WORKBOOKS, read_workbook)
