"""A fitted method's folder: `config.json`, `model.safetensors`, files of its own, a card; whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from malmoi.core.errors import DAMAGE, UserError
from malmoi.core.nouns import FitReport
from malmoi.methods.base import Method, Parts
from malmoi.methods.registry import METHODS, make_method
from malmoi.metrics.confidence import Calibration
from malmoi.tasks import make_task
from malmoi.util import files
from malmoi.util.files import CARD, CONFIG, OWN_PREFIX, WEIGHTS
from malmoi.util.tensor_files import read_tensors, write_tensors

_OURS = {CONFIG, WEIGHTS, CARD, files.MANIFEST}


def save_method(folder: Path, method: Method, report: FitReport = FitReport()) -> None:
    """Write a method's folder, whole or absent. Raises UserError where `folder` holds something else."""
    if not files.is_free(folder) and not is_method(folder):
        raise UserError(f"{folder} exists and is not a method's folder; choose another `out`")
    parts = method.parts()
    assert _OURS.isdisjoint(parts.files)
    with files.new_folder(folder) as temporary:
        write_tensors(temporary / WEIGHTS, parts.tensors)
        for name, content in parts.files.items():
            files.write_bytes(temporary / name, content)
        for name, part in parts.methods.items():
            save_method(temporary / name, part)
        files.write_json(temporary / CONFIG, describe(method, report) | {"config": parts.config})
        files.write_text(temporary / CARD, f"# {method.name} for {method.task.name}\n")


def write_card(folder: Path, card: str) -> None:
    """Put another card into a method's folder, and its hash into the manifest."""
    files.write_text(folder / CARD, card)
    manifest = files.read_object(folder / files.MANIFEST)
    files.write_json(folder / files.MANIFEST, manifest | {CARD: files.sha256(folder / CARD)})


def describe(method: Method, report: FitReport) -> dict[str, Any]:
    """What identifies a method: its type, its task, its options, what fitting found."""
    task = method.task
    return {
        "model_type": f"{OWN_PREFIX}{method.name}",
        "task": {"name": task.name, "version": task.version, "fields": task.columns, "metric": task.metric},
        "options": method.options.model_dump(exclude_unset=True),
        "report": report.facts,
        "calibration": method.calibration and method.calibration.model_dump(),
    }


def is_method(folder: Path) -> bool:
    """Whether `folder` holds a fitted method (and not a language model, or something else)."""
    files.check_readable(folder)
    config = folder / CONFIG
    found = files.read_json(config, files.MOST_OBJECT_BYTES) if config.is_file() else None
    return isinstance(found, dict) and "task" in found


def load_method(folder: Path, options: Mapping[str, Any] | None = None) -> Method:
    """Read a method's folder. options: instead of its own, where they differ in `Method.free` ones only.

    Raises UserError where it is none, damaged, or of another version.
    """
    if not is_method(folder):
        raise UserError(f"{folder} is not a fitted method's folder; make one with: malmoi fit TASK --out DIR")
    if reason := files.damage(folder):
        raise UserError(f"{folder} cannot be opened: {reason}; copy it again or fit it again")
    found = files.read_object(folder / CONFIG, "task", "model_type", "options", "config", "report")
    try:
        task = make_task(found["task"]["name"], found["task"]["fields"])
        task = replace(task, metric=found["task"].get("metric", ""))
        if task.version != found["task"]["version"]:
            raise UserError(
                f"it was made for version {found['task']['version']} of {task.name}; fit it again"
            )
        name = str(found["model_type"]).removeprefix(OWN_PREFIX)
        if name not in METHODS:
            raise UserError(f"unknown model_type {found['model_type']!r}; it needs a newer malmoi")
        method = make_method(name, task, found["options"] if options is None else options)
        extra = {p.name: files.read_bytes(p) for p in folder.iterdir() if p.is_file() and p.name not in _OURS}
        if (known := found.get("calibration")) is not None:
            method.calibration = Calibration.model_validate(known)
        methods = {p.name: load_method(p) for p in folder.iterdir() if p.is_dir() and is_method(p)}
        method.restore(Parts(dict(found["config"]), read_tensors(folder / WEIGHTS), extra, methods))
    except UserError as error:
        raise UserError(f"{folder} cannot be opened: {error}") from None
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} cannot be opened: {reason or type(error).__name__}; copy it again or fit it again"
        ) from None
    return method


def load_report(folder: Path) -> FitReport:
    """What fitting the method in `folder` found."""
    return FitReport(dict(files.read_object(folder / CONFIG, "report")["report"]))
