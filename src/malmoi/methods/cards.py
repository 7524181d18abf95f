"""The model card of a fitted method, alone or as the winner of a comparison."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from malmoi.core.nouns import Example, Metric
from malmoi.data.arrow import files_of
from malmoi.hub.card import Card, DataFile, data_files, languages_of, this_machine
from malmoi.methods.base import Method
from malmoi.util.units import counted
from malmoi.util.version import VERSION

SAMPLED = 50  # examples, to see their languages


def task_files(paths: Iterable[Path | None], licence: str | None = None) -> tuple[DataFile, ...]:
    """Every file that the paths of a task's examples stand for."""
    found = {str(file): file for path in paths if path for file in files_of(path)}
    return data_files(found, licence)


def method_card(
    method: Method, metrics: Mapping[str, Metric], train: Sequence[Example[Any, Any]], *, measured_on: str,
    data: tuple[DataFile, ...], folder: Path, seconds: float | None, notes: Sequence[str] = (),
) -> Card:  # fmt: skip
    """What README.md of a fitted method's folder says. train: what it has learned from."""
    task, example = method.task, json.dumps(method.task.kind.example)
    settings = method.options.model_dump(mode="json", exclude_none=True)
    base = settings.get("model") if method.needs_model else None
    texts = (json.dumps(task.row(one), ensure_ascii=False, default=str) for one in train[:SAMPLED])
    limits = [f"It does {task.name}, and is as good as measured on texts like those it was fitted to."]
    limits += ["Its answers are made token by token and can be wrong with confidence."] * bool(base)
    return Card(
        f"{method.name} for {task.name}",
        f"A {method.family} model for {task.name}, fitted by malmoi {VERSION} to "
        f"{counted(len(train), 'example')}.",
        task.pipeline or task.kind.pipeline, languages_of(texts), base=Path(base).name if base else "",
        tags=(method.name,), data=data, settings=settings, results=metrics, measured_on=measured_on,
        notes=tuple(notes), limits=tuple(limits), seconds=seconds, machine=this_machine(),
        use=("import malmoi", "", f"print(malmoi.load({folder.name!r}).predict({example}))"),
    )  # fmt: skip
