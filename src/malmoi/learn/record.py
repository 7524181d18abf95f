"""What a run leaves beside its model: `run.json`, written before the work, and `metrics.jsonl`, its log.

A resume begins with both.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from pydantic import ValidationError

from malmoi.core.config import flat
from malmoi.core.errors import UserError
from malmoi.core.nouns import Budget, Say, silent
from malmoi.data.arrow import files_of
from malmoi.hub.card import DataFile, data_files
from malmoi.learn.distributed import ALONE, Group
from malmoi.learn.loop import StepReport
from malmoi.learn.pace import Change, Pace
from malmoi.learn.run_config import AnyRun
from malmoi.learn.trial import Affordable
from malmoi.util import files
from malmoi.util.files import WEIGHTS
from malmoi.util.version import VERSION

Record = dict[str, Any]
Config = TypeVar("Config", bound=AnyRun)
# what a run decides where it is not asked for
_SETTLED = ("micro_batch", "dtype", "lr", "steps", "eval_every", "checkpoint_every", "warmup_steps")
METRICS = "metrics.jsonl"  # a run's log, a line a step
SOURCE = "source.json"  # beside token files: what they were made from


def write_record(folder: Path, config: AnyRun, data: Iterable[DataFile]) -> None:
    """Write what reproduces a run: configuration, versions, hashes of what it learned from."""
    versions = {"malmoi": VERSION, "torch": torch.__version__, "python": platform.python_version()}
    files.write_json(folder / files.RUN_RECORD, {
        "config": config.model_dump(mode="json"), "versions": versions, "data": _hashes(data),
        "threads": torch.get_num_threads(),
    })  # fmt: skip


def started_run(config: Config, folder: Path, *, resume: bool, say: Say) -> tuple[Config, Record] | None:
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


def read_files(
    names: Iterable[Path], licence: str | None, record: Record, folder: Path
) -> tuple[DataFile, ...]:
    """The files that paths of data stand for. Raises UserError where the run to resume began with others."""
    read = data_files({str(file): file for name in names for file in files_of(name)}, licence)
    if not same_files(read, record):
        raise UserError(f"the data of {folder} have changed since it began; tune again with another `out`")
    return read


def same_files(read: Iterable[DataFile], record: Record) -> bool:
    """Whether these are the files that the run to resume began with; so they are for a new one."""
    return not record or record["data"] == _hashes(read)


def _hashes(data: Iterable[DataFile]) -> dict[str, str]:
    return {file.name: file.sha256 for file in data}


def _recorded(asked: Config, record: Record, say: Say) -> Config:
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


def same_threads(record: Record, say: Say) -> None:
    """As many threads as the run to resume began with, for sums depend on it in their last bits.

    Not more than there are now: somebody may have asked for so many.
    """
    before, now = record.get("threads", torch.get_num_threads()), torch.get_num_threads()
    if before < now:
        say(f"threads: {before}, as when the run began")
        torch.set_num_threads(before)
    elif before > now:
        say(f"threads: {now} instead of {before}, so the result differs from an unbroken run's by rounding")


def pace_of(folder: Path | None, budget: Budget, evaluation_s: float, say: Say, group: Group = ALONE) -> Pace:
    """How a run keeps to its time; changes of its plan are in the record in `folder`, where there is one."""
    path = folder and folder / files.RUN_RECORD

    def keep(changes: list[Change]) -> None:
        if not group.first:
            return
        at, steps = changes[-1]
        say(
            f"the time is over: stopped at step {at}" if at == steps
            else f"steps have become slower: {steps} in all, so that the time is kept"
        )  # fmt: skip
        if path is not None:
            files.write_json(path, files.read_json(path) | {"changes": changes})

    found = files.read_json(path).get("changes", []) if path is not None and path.exists() else []
    changes = [(int(step), int(steps)) for step, steps in found]
    return Pace(budget.end_s, evaluation_s, changes, keep, budget.stop_s)


def recorded(
    folder: Path | None, asked: Record, plan: Callable[[], Affordable], group: Group = ALONE,
    say: Say = silent,
) -> Affordable:  # fmt: skip
    """How many steps the unfinished work in `folder` was planned for, or else those of `plan`, noted there.

    Raises UserError where it is another work than what is `asked`.
    """
    if folder is None:
        return plan()
    path = folder / files.RUN_RECORD
    if path.exists():
        found = files.read_object(path, "asked", "steps")
        if found["asked"] != asked:
            raise UserError(f"{folder} holds an unfinished fit of other data or options; remove it")
        same_threads(found, say)
        planned = Affordable(int(found["steps"]))
    else:
        found, planned = {}, plan()
    group.wait()  # until all have looked
    if group.first:
        threads = {"threads": torch.get_num_threads()}
        files.write_json(path, threads | found | {"asked": asked, "steps": planned.steps})
    return planned


class Log:
    """metrics.jsonl always, TensorBoard's files where it is installed."""

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / METRICS
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step]
        files.write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = _tensorboard(folder / "tensorboard", step)

    def write(self, report: StepReport) -> None:
        values = asdict(report)
        values |= values.pop("measures")
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, report.step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # needs the optional `tensorboard`
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _lines(path: Path) -> list[str]:
    """Whole lines only: a killed run may have left a part of one."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]
