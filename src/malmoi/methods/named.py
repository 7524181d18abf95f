"""What answers, by its name in a command: a fitted method, or a language model that is asked in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from malmoi.core.errors import UserError
from malmoi.core.nouns import Examples, FitReport
from malmoi.hub.folder import is_model
from malmoi.hub.shipped import model_path
from malmoi.methods.base import Method
from malmoi.methods.folder import is_method, load_method, load_report
from malmoi.methods.registry import make_method
from malmoi.methods.use import COMPARISON, method_folder
from malmoi.tasks.base import Task
from malmoi.util.files import MANIFEST, sha256


def answering(
    role: str, name: str, task: Task[Any, Any], options: Mapping[str, Any], examples: Examples
) -> tuple[Method, FitReport, Any]:
    """What answers in the `role` of a command: the fitted method in the folder `name`, or the language model
    there, or "remote", which are asked in words; with its report and what tells it apart.

    examples: what those that are asked may know. Raises UserError where it is neither, or cannot do the task.
    """
    remote = name == "remote"
    folder = Path(name) if remote else model_path(name)
    if not remote and (is_method(folder) or (folder / COMPARISON).exists()):
        return _fitted(role, method_folder(folder), task, options)
    if not remote and not is_model(folder):
        raise UserError(f"`{role}` {name} is neither the folder of a method or a model, nor 'remote'")
    if task.kind.fewest_labels and not (examples or task.labels):
        raise UserError(f"the {role} must know the labels of {task.name}: give `labels` A,B or `train`")
    asked = {} if remote else {"model": name, "shots": 0}
    method = make_method("remote" if remote else "prompted", task, {**asked, **options})
    report = method.fit(examples, ())
    return method, report, method.parts().config


def _fitted(
    role: str, folder: Path, task: Task[Any, Any], options: Mapping[str, Any]
) -> tuple[Method, FitReport, str]:
    if options or task.labels:
        raise UserError(f"`{role}` {folder} is fitted, so it takes no `set` {role}... and no `labels`")
    method = load_method(folder)
    if method.task.name != task.name:
        raise UserError(f"`{role}` {folder} does {method.task.name}, not {task.name}; name another")
    return method, load_report(folder), sha256(folder / MANIFEST)
