"""The verb cascade."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from malmoi.cli.fitting import TaskName
from malmoi.cli.options import AllowSkips, Fields, NewFolder, task_of
from malmoi.cli.words import say, say_aside, say_json


def cascade(
    task: TaskName,
    cheap: Annotated[Path, Option(help="The folder of a fitted method that answers where it is sure.")],
    data: Annotated[Path, Option(help="Labelled examples that neither method has learned from.")],
    out: NewFolder,
    strong: Annotated[
        str | None,
        Option(help="Who gets the rest: a method's folder, a language model, or: remote; else a person."),
    ] = None,
    max_error: Annotated[
        float, Option(help="The share that may be wrong of what the cheap one answers alone.")
    ] = 0.05,
    fields: Fields = None,
    settings: Annotated[
        list[str] | None, Option("--set", help="OPTION=VALUE of a strong one that is asked; may be repeated.")
    ] = None,
    allow_skips: AllowSkips = False,
    as_json: Annotated[
        bool, Option("--json", help="Print what was found as JSON; progress goes to standard error.")
    ] = False,
) -> None:
    """Let a cheap method answer where it is sure, and a strong one the rest, as one model."""
    from malmoi.compare.cascades import build_cascade
    from malmoi.core.config import pairs
    from malmoi.show.cascade_report import show_cascade

    found = build_cascade(
        task_of(task, fields), str(cheap), strong, data, out, max_error,
        options=pairs(settings, "set", typed=True), allow_skips=allow_skips,
        say=say_aside if as_json else say,
    )  # fmt: skip
    if as_json:
        say_json(found.json, 2)
        return
    show_cascade(found)
    typer.echo(f'saved {out}; try: malmoi predict {shlex.quote(str(out))} "..."')
