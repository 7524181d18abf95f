"""Options that verbs of several files have, as types, and the task that two of them make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from malmoi.core.errors import UserError

if TYPE_CHECKING:
    from malmoi.tasks.base import Task

Fields = Annotated[
    list[str] | None,
    Option("--fields", help="ROLE=COLUMN, where your columns have other names; may be repeated."),
]
Encoding = Annotated[
    str | None,
    Option("--encoding", help="Of files that are not UTF-8 and have no byte-order mark, for example cp949."),
]
Delimiter = Annotated[
    str | None,
    Option("--delimiter", help="Between the cells of a table, where its first lines mislead; tab for a tab."),
]
MethodSettings = Annotated[list[str] | None, Option("--set", help="METHOD.OPTION=VALUE; may be repeated.")]
AnyField = Annotated[str | None, Option(help='The field or column that holds the text, if not "text".')]
Errors = Annotated[
    Literal["strict", "replace"], Option(help="Bytes that are not UTF-8: stop, or replace and go on.")
]
NewFolder = Annotated[Path, Option(help="The folder to make.")]
AllowSkips = Annotated[bool, Option("--allow-skips", help="Go on where more than 1% of the rows are wrong.")]
Licence = Annotated[
    str | None,
    Option(help="Of the data, for the model card; without it a LICENSE beside the data is looked for."),
]


def with_files(fields: list[str] | None, encoding: str | None, delimiter: str | None) -> list[str]:
    """The fields, and among them how the files are written. Raises UserError."""
    from malmoi.data.encodings import known_encoding

    found = [*(fields or ())]
    if encoding:
        found.append(f"encoding={known_encoding(encoding)}")
    if delimiter:
        mark = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
        if len(mark) != 1:
            raise UserError(f"`delimiter` {delimiter} must be one character, or: tab")
        found.append(f"delimiter={mark}")
    return found


def task_of(name: str, fields: list[str] | None) -> Task[Any, Any]:
    """The task, with the user's names of its fields. Raises UserError."""
    from malmoi.core.config import pairs
    from malmoi.tasks import make_task

    return make_task(name, pairs(fields, "fields"))
