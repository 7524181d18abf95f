"""A training run from outside: its log, and how it stops between two steps."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from malmoi.core.errors import UserError
from malmoi.learn.distributed import Group
from malmoi.learn.trainer import StepReport, Trainer
from malmoi.util import files
from malmoi.util.locks import hold

METRICS = "metrics.jsonl"


class Stopped(KeyboardInterrupt):
    """Training was interrupted, and a checkpoint of its last step is saved."""


def run_training(trainer: Trainer[Any], folder: Path, report: Callable[[StepReport], None]) -> None:
    """Train to the end and log every step (the first process of the group does).

    Ctrl-C (or SIGTERM), in any process, ends the step, saves a checkpoint and raises Stopped.
    """
    group = trainer.group
    with ExitStack() as stack:
        interrupted = stack.enter_context(_interrupt_between_steps())
        log = stack.enter_context(_Log(folder, trainer.step)) if group.first else None
        for found in trainer.run():
            if log is not None:
                log.write(found)
                report(found)
            if group.any(bool(interrupted)) and found.step < trainer.spec.steps:
                trainer.save()
                group.leave()
                raise Stopped


class _Log:
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

    def __enter__(self) -> _Log:
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


@contextmanager
def writing(folder: Path, group: Group) -> Iterator[None]:
    """Keep other runs from the folder while the block runs: the first process of the group holds its lock.

    Raises UserError, in every process of the group, where another run holds it.
    """
    with ExitStack() as stack:
        refused: UserError | None = None
        try:
            if group.first:
                stack.enter_context(hold(folder))
        except UserError as error:
            refused = error
        if group.any(refused is not None):
            raise refused or UserError(f"{folder} is not free; the first process says why")
        yield


@contextmanager
def _interrupt_between_steps() -> Iterator[list[int]]:
    """Yield a list that is empty until a signal asks to stop; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        del frame

    wanted = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(number, ask) for number in wanted]
    except ValueError:  # not the main thread: nobody can send this thread a signal
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in zip(wanted, before, strict=True):
            signal.signal(number, handler)


def _lines(path: Path) -> list[str]:
    """Whole lines only: a killed run may have left a part of one."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]
