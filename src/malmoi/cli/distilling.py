"""The command line's verb distill. Verbs only, as in `malmoi.cli.commands`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from malmoi.cli.fitting import AllowSkips, BudgetSeconds, Fields, Licence, TaskName, pairs
from malmoi.cli.words import say
from malmoi.core.errors import UserError


def distill(
    task: TaskName,
    teacher: Annotated[
        str, typer.Option(help="The folder of a fitted method or of a language model, or: remote.")
    ],
    student: Annotated[str, typer.Option(help="The method that learns, for example tfidf.")],
    unlabelled: Annotated[Path, typer.Option(help="Inputs: a text on each line of .txt, or rows.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    train: Annotated[
        Path | None, typer.Option(help="Examples labelled by people, to learn from as well.")
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(help="Examples labelled by people, to measure on; else a part of --train."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="A,B: for a teacher that is asked in words, where no examples tell.")
    ] = None,
    keep_above: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out labels that are less probable.")
    ] = None,
    budget: BudgetSeconds = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=1e-6, help="Of this machine, to show what predictions cost.")
    ] = None,
    currency: Annotated[str, typer.Option(help="Of that price, for example USD or KRW.")] = "",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    fields: Fields = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="teacher.OPTION=VALUE or student.OPTION=VALUE; may be repeated."),
    ] = None,
    allow_skips: AllowSkips = False,
    licence: Licence = None,
) -> None:
    """Let a large model label your texts, and train a small one on that."""
    from malmoi.compare.distill import DistillSettings
    from malmoi.compare.distill import distill as run
    from malmoi.show.comparison_report import present

    if currency and not price_per_hour:
        raise UserError(f"--currency {currency} needs --price-per-hour")
    options: dict[str, dict[str, object]] = {"teacher": {}, "student": {}}
    for name, value in pairs(settings, "--set", typed=True).items():
        who, _, option = name.partition(".")
        if who not in options or not option:
            raise UserError(f"--set {name} is not teacher.OPTION=VALUE or student.OPTION=VALUE")
        options[who][option] = value
    found = run(
        DistillSettings(
            task=task, teacher=teacher, student=student, unlabelled=unlabelled, train=train, test=test,
            teacher_options=options["teacher"], student_options=options["student"],
            labels=tuple(name.strip() for name in labels.split(",")) if labels else (),
            keep_above=keep_above, fields=pairs(fields, "--fields"), budget_seconds=budget,
            price_per_hour=price_per_hour, currency=currency, seed=seed, allow_skips=allow_skips,
            licence=licence,
        ),
        out,
        say,
    )  # fmt: skip
    present(found.comparison)
    if found.student.exists():
        folder = shlex.quote(str(found.student))
        typer.echo(f'the student is in {found.student}; try: malmoi predict {folder} "..."')


VERBS = (distill,)
