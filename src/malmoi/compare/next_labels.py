"""A learning curve's forecast for the user's files, and the inputs to label next as files to label in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from malmoi.compare.label_plan import LabelPlan, PlanSettings, make_plan
from malmoi.core.errors import UserError
from malmoi.core.nouns import Budget, Examples, Json, Say, Work, silent
from malmoi.data.label_files import write_label_files
from malmoi.methods.next_texts import next_inputs
from malmoi.methods.registry import make_method
from malmoi.methods.use import load
from malmoi.tasks.base import Task
from malmoi.tasks.inputs import read_inputs
from malmoi.util.files import is_free, write_json
from malmoi.util.units import counted

PLAN = "plan.json"


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, the inputs to label next (as files have them, the most useful first), how they were chosen."""

    plan: LabelPlan
    chosen: tuple[Json, ...] = ()
    chosen_by: str = ""
    files: tuple[Path, ...] = ()

    @property
    def json(self) -> Json:
        """Everything, for programs."""
        chosen = {"by": self.chosen_by, "inputs": self.chosen, "files": [str(path) for path in self.files]}
        return asdict(self.plan) | {"next": chosen if self.chosen else None}


def plan_files(
    task: Task[Any, Any], train: Path, valid: Path | None, settings: PlanSettings, *,
    unlabelled: Path | None = None, out: Path | None = None, count: int = 50, allow_skips: bool = False,
    say: Say = silent,
) -> Planned:  # fmt: skip
    """Plan for files; with `unlabelled`, also choose `count` of its inputs to label, and write them to `out`.

    Raises UserError for data that cannot be, and before any work where `out` holds something or is missing.
    """
    if unlabelled and not out:
        raise UserError("`unlabelled` needs `out`, the folder for what to label")
    if unlabelled and task.kind.goes_on:
        fix = "leave `unlabelled` out"
        raise UserError(f"{task.name} learns from plain text, so there is nothing to label", fix=fix)
    if out and not is_free(out):
        raise UserError(f"{out} exists; choose another `out`")
    parts = load(task, {"train": train, "valid": valid}, allow_skips=allow_skips, say=say)
    inputs = read_inputs(task, unlabelled, allow_skips=allow_skips, say=say) if unlabelled else []
    found = Planned(make_plan(task, parts["train"], parts.get("valid"), settings, say))
    if unlabelled and out:
        found = _with_next(found, task, parts["train"], inputs, settings, out, count, say)
    if out:
        write_json(out / PLAN, found.json)
    return found


def _with_next(
    found: Planned, task: Task[Any, Any], train: Examples, inputs: Sequence[Any], settings: PlanSettings,
    out: Path, count: int, say: Say,
) -> Planned:  # fmt: skip
    """The plan with the inputs to label next, written for each program for labelling."""
    known = {task.key(example.input) for example in train}
    new = [value for value in inputs if task.key(value) not in known]
    if not new:
        raise UserError("`unlabelled`: every input is a training example already; give others")
    best = next(family.name for family in found.plan.families if not family.error)
    method = make_method(best, task, settings.methods[best])
    splits = task.split(train, seed=settings.seed)
    say(f"{best} learns from all labels, to choose among {counted(len(new), 'input')}")
    method.fit(splits.train, splits.valid, Work(Budget(settings.budget_seconds)))
    unsure = method.unsureness(new)
    texts = [task.key(value) for value in new]
    chosen = [new[at] for at in next_inputs(texts, unsure, count, settings.seed)]
    by = (
        "unlike each other" if unsure is None else f"{best} is unsure of them, and they are unlike each other"
    )
    rows = [blank_row(task, value) for value in chosen]
    files = write_label_files(
        out, rows, [task.key(value) for value in chosen], task.named(list(task.roles)[-1])
    )
    return replace(found, chosen=tuple(rows), chosen_by=by, files=tuple(files))


def blank_row(task: Task[Any, Any], value: Any) -> Json:
    """The columns of an input as the user's files name them, without the target."""
    found = task.input_json(value)
    columns = found if isinstance(found, dict) else {next(iter(task.roles)): found}
    return {task.named(role): it for role, it in columns.items()}
