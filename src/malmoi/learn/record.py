"""What a run was begun with: `run.json`, written before the work, and what a resume makes of it."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from malmoi.core.config import flat
from malmoi.core.errors import UserError
from malmoi.core.nouns import Say
from malmoi.hub.card import DataFile
from malmoi.learn.run_config import AnyRun
from malmoi.util import files
from malmoi.util.files import WEIGHTS
from malmoi.util.version import VERSION

Config = TypeVar("Config", bound=AnyRun)
# what a run decides where it is not asked for
_SETTLED = ("micro_batch", "dtype", "lr", "steps", "eval_every", "checkpoint_every", "warmup_steps")
SOURCE = "source.json"  # beside token files: what they were made from


def describe(config: AnyRun, hashes: dict[str, str]) -> dict[str, object]:
    """What reproduces a run: configuration, versions, hashes of the text."""
    versions = {"malmoi": VERSION, "torch": torch.__version__, "python": platform.python_version()}
    return {
        "config": config.model_dump(mode="json"), "versions": versions, "data": hashes,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def started_run(
    config: Config, folder: Path, *, resume: bool, say: Say
) -> tuple[Config, dict[str, Any]] | None:
    """The configuration to use and the record of the run to resume (empty: a fresh run). None: finished."""
    record = folder / files.RUN_RECORD
    if record.exists() and not resume:
        raise UserError(f"{folder} already holds a run; go on with `resume` or choose another `out`")
    if record.exists():
        found = files.read_object(record, "config", "data")
        config = _recorded(config, found, say)
        return None if (folder / WEIGHTS).exists() else (config, found)
    if (folder / WEIGHTS).exists():
        raise UserError(f"{folder} already holds a model; choose another `out`")
    if not _unused(folder) and not (folder / "tokens" / SOURCE).exists():
        raise UserError(f"{folder} holds files that are not a run's; choose a new folder for `out`")
    if resume:
        say(f"{folder} has no run to resume, so this one starts fresh")
    return config, {}


def _unused(folder: Path) -> bool:
    """Whether nothing is there but what a run leaves that is killed while it writes its first file."""
    return not folder.is_dir() or all(
        path.name == "tokens" and path.is_dir() and not any(path.glob("[!.]*"))
        for path in folder.glob("[!.]*")
    )


def same_files(read: Iterable[DataFile], record: dict[str, Any], folder: Path) -> dict[str, str]:
    """The SHA-256 of each file, by its name. Raises UserError where the run to resume began with others."""
    hashes = {file.name: file.sha256 for file in read}
    if record and record["data"] != hashes:
        raise UserError(f"the data of {folder} have changed since it began; tune again with another `out`")
    return hashes


def _recorded(asked: Config, record: dict[str, Any], say: Say) -> Config:
    """The recorded configuration; anything else asked for is an error, for a resume must be exact.

    Only the micro-batch may change, for a machine with less memory; the result then differs by rounding.
    """
    try:
        recorded = type(asked).model_validate(record["config"])
    except ValidationError:
        raise UserError("the folder holds another kind of run; choose another `out`") from None
    if (rows := asked.train.micro_batch) not in (None, recorded.train.micro_batch):
        say("another micro-batch than before: the result will differ from an unbroken run's by rounding")
        recorded = recorded.model_copy(
            update={"train": recorded.train.model_copy(update={"micro_batch": rows})}
        )
    left_open = [
        name for name in _SETTLED
        if name not in asked.train.model_fields_set or getattr(asked.train, name) in (None, "auto")
    ]  # fmt: skip
    chosen = {name: getattr(recorded.train, name) for name in left_open}
    same = asked.model_copy(update={"train": asked.train.model_copy(update=chosen)})
    if same != recorded:
        old, new = flat(recorded.model_dump()), flat(same.model_dump())
        differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        raise UserError(
            f"the run to resume has other settings: {', '.join(differing)}; "
            f"give the same ones, or another `out` for a new run"
        )
    return recorded
