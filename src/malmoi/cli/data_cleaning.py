"""The verb data clean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from malmoi.cli.options import Errors, Fields, task_of
from malmoi.cli.words import say, stoppable, with_flags
from malmoi.core.errors import UserError

Names = list[str] | None


def clean(
    path: Annotated[Path, Argument(help="A text, or a task's examples: a file or a folder of parts.")],
    out: Annotated[
        Path | None,
        Option(
            help="The folder to make, or a .jsonl or .txt of one file; what is dropped is listed beside it."
        ),
    ] = None,
    fix: Annotated[
        Names, Option(help="What to change, with commas between: nfc, invisible, boilerplate.")
    ] = None,
    drop: Annotated[
        Names,
        Option(
            help="What to leave out: exact, near, leaks, conflicts, language, gopher, c4, empty, unreadable."
        ),
    ] = None,
    redact: Annotated[Names, Option(help="Personal data to hide: email, phone, rrn, card, url.")] = None,
    test: Annotated[
        list[Path] | None,
        Option(help="Texts that must not be in it: rows, or one on each line of a .txt; may be repeated."),
    ] = None,
    languages: Annotated[str, Option(help="That --drop language keeps: ko, en, other.")] = "ko,en",
    task: Annotated[str | None, Option(help="The rows are labelled examples of this task.")] = None,
    field: Annotated[str, Option(help="The field or column that holds the text.")] = "text",
    fields: Fields = None,
    settings: Annotated[Names, Option("--set", help="LIMIT=VALUE of a rule; may be repeated.")] = None,
    errors: Errors = "strict",
) -> None:
    """Drop, fix and redact what you name; without a name say what each rule would find."""
    from malmoi.core.config import pairs
    from malmoi.data.cleaning import clean as cleaned
    from malmoi.data.cleaning_rules import Cleaning
    from malmoi.data.cleaning_sources import text_sources
    from malmoi.show.cleaning_report import show_cleaning
    from malmoi.tasks.example_rows import check_cleaning, example_sources

    named = {"fix": _parted(fix), "drop": _parted(drop), "redact": _parted(redact)}
    cleaning = Cleaning.of(**named, languages=_parted([languages]), limits=pairs(settings, "set", typed=True))
    if task:
        made = task_of(task, fields)
        check_cleaning(made, cleaning)
        sources = example_sources(made, path, test or ())
    elif "conflicts" in cleaning.drop:
        raise UserError("`drop` conflicts is about labels; name their task with `task`")
    else:
        sources = text_sources(path, test or (), field=field, errors=errors)
    with stoppable("the same command goes on"):
        found = cleaned(sources, cleaning, out, say=say)
    show_cleaning(found, cleaning, with_flags)


def _parted(given: Names) -> list[str]:
    return [name.strip() for one in given or () for name in one.split(",") if name.strip()]
