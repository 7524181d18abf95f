"""What looks after labels: the verb plan, and the check for labels that are probably wrong."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from malmoi.cli.fitting import BudgetSeconds, ModelPath, Seed, TaskName, TrainPath
from malmoi.cli.options import AllowSkips, Delimiter, Encoding, Fields, MethodSettings, task_of, with_files
from malmoi.cli.words import say, say_aside, say_json, with_flags

if TYPE_CHECKING:
    from malmoi.tasks.base import Task


def plan(
    task: TaskName,
    train: TrainPath,
    valid: Annotated[Path | None, Option(help="Examples to measure on; else parts of --train.")] = None,
    unlabelled: Annotated[
        Path | None, Option(help="Inputs to choose from: a text on each line of .txt, or rows.")
    ] = None,
    out: Annotated[Path | None, Option(help="The folder to make, for the plan and what to label.")] = None,
    count: Annotated[int, Option(min=1, help="With --unlabelled: how many to choose.")] = 50,
    methods: Annotated[
        str, Option(help="quick (those without a network), all, or names with commas between.")
    ] = "quick",
    model: ModelPath = None,
    budget: BudgetSeconds = None,
    seed: Seed = 0,
    fields: Fields = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    settings: MethodSettings = None,
    allow_skips: AllowSkips = False,
    as_json: Annotated[
        bool, Option("--json", help="Print the plan as JSON; progress goes to standard error.")
    ] = False,
) -> None:
    """Say what 2x and 4x the labels would bring, and choose what to label next."""
    from malmoi.compare.label_plan import PlanSettings
    from malmoi.compare.next_labels import plan_files
    from malmoi.core.config import pairs
    from malmoi.methods.registry import method_options, quick_methods
    from malmoi.show.plan_report import show_plan

    made = task_of(task, with_files(fields, encoding, delimiter))
    names = ",".join(quick_methods(made)) if methods == "quick" else methods
    options = method_options(made, names, pairs(settings, "set", typed=True), model and str(model))
    found = plan_files(
        made, train, valid, PlanSettings(methods=options, budget_seconds=budget, seed=seed),
        unlabelled=unlabelled, out=out, count=count, allow_skips=allow_skips,
        say=say_aside if as_json else say,
    )  # fmt: skip
    if as_json:
        say_json(found.json, 2)
    else:
        show_plan(found, with_flags)


def check_labels(task: Task[Any, Any], paths: Iterable[Path], out: Path | None) -> None:
    """Show the labels that are probably wrong, and write them to `out`; what cannot be read is left out."""
    from malmoi.data.label_files import check_table, write_table
    from malmoi.methods.suspects import find_suspects
    from malmoi.show.suspects_report import show_suspects

    if out:
        check_table(out)
    found = find_suspects(task, [one for path in paths for one in task.read(path, lambda _: None)], say)
    if out:
        write_table(out, [one.row for one in found.rows])
    show_suspects(found, out, with_flags)
