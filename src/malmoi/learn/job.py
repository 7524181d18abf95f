"""The harness of every training run: claim, trial, record, resume, signals, log, model folder and card.

What differs between runs is a `Training`: see `malmoi.learn.objectives`.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any, ClassVar, Generic, Self, TypeVar

from malmoi.core.nouns import Budget, Finding, Say, silent
from malmoi.hub.card import Card, DataFile
from malmoi.hub.folder import save_model
from malmoi.learn.cards import finished_card
from malmoi.learn.distributed import Group, join_group
from malmoi.learn.loop import Loop, Objective, StepReport
from malmoi.learn.record import (
    Log,
    Record,
    pace_of,
    read_files,
    same_files,
    same_threads,
    started_run,
    write_record,
)
from malmoi.learn.run_config import AnyRun, LoopSpec
from malmoi.learn.trial import Trial, affordable_steps, try_step
from malmoi.models.language import LanguageModel
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.hardware import keep_heap, pick_device

Part = TypeVar("Part")


class Stopped(KeyboardInterrupt):
    """Training was interrupted; its text says at which step a checkpoint is saved."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run happens. data: the text, where the configuration does not name what is learned from.

    record: of the run to resume; empty where it is new.
    """

    folder: Path
    record: Record
    group: Group
    device: str
    say: Say
    data: Path | None = None

    def same_files(self, data: Iterable[DataFile]) -> bool:
        """Whether these are the files that the run to resume began with; so they are for a new one."""
        return same_files(data, self.record)

    def files(self, names: Iterable[Path], licence: str | None) -> tuple[DataFile, ...]:
        """The files of what is learned from. Raises UserError where the run to resume began with others."""
        return read_files(names, licence, self.record, self.folder)

    def on_device(self, model: LanguageModel) -> LanguageModel:
        """The model, moved to where it trains."""
        return model.to(pick_device(self.device, self.group.local_rank))


@dataclass(kw_only=True)
class Training(ABC, Generic[Part]):
    """A model and what it learns, read and ready; a subclass is one kind of run."""

    Config: ClassVar[type[AnyRun]]  # everything that decides a run, each with its default or given by `set`

    config: Any  # a Config
    model: LanguageModel
    tokenizer: Tokenizer
    objective: Objective[LanguageModel, Part]
    data: tuple[DataFile, ...]
    ends: tuple[int, ...] = ()  # ids that end a reply of the finished model
    findings: Sequence[Finding] = ()  # what of the data is left out

    @classmethod
    @abstractmethod
    def open(cls, config: Any, place: Place) -> Self:
        """Read model and data. Raises UserError for what cannot be learned from."""

    @property
    @abstractmethod
    def prompt_ids(self) -> list[int]:
        """What samples begin with while training goes on."""

    @abstractmethod
    def plan(self, spec: Any) -> dict[str, str]:
        """What will be done, in words: the model, the data, the training."""

    @abstractmethod
    def card(self, loop: Loop[LanguageModel, Part], folder: Path, closing: tuple[str, ...]) -> Card:
        """What README.md says that is of this kind of run only; closing: what `finish` has found."""

    @property
    @abstractmethod
    def sample(self) -> list[str]:
        """Some of what is learned from, to see its languages."""

    def refer(self, loop: Loop[LanguageModel, Part]) -> None:
        """Look at the model as it is before the first step, or a resume, changes it."""
        del loop

    def finish(self, folder: Path, loop: Loop[LanguageModel, Part]) -> tuple[str, ...]:
        """Make the trained model the one to save; lines for people about what was reached."""
        del folder, loop
        return ()


T = TypeVar("T", bound=Training[Any])


@dataclass(slots=True)
class Job(Generic[T]):
    """A prepared run: everything is there but the work."""

    training: T
    folder: Path
    loop: Loop[LanguageModel, Any]
    trial: Trial[LoopSpec]

    @property
    def config(self) -> Any:
        """What was asked for, and what was settled."""
        return self.training.config

    @property
    def model(self) -> LanguageModel:
        return self.loop.model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.training.tokenizer

    @property
    def prompt_ids(self) -> list[int]:
        """What samples begin with."""
        return self.training.prompt_ids

    def run(self, report: Callable[[StepReport], None]) -> tuple[str, ...]:
        """Train, log every step, save the model folder (the first process of the group does).

        Returns lines for people about what was reached. Ctrl-C (or SIGTERM), in any process, ends the step,
        saves a checkpoint and raises Stopped.
        """
        group = self.loop.group
        with group.writing(self.folder):
            with Log(self.folder, self.loop.step) if group.first else nullcontext() as log:

                def both(found: StepReport) -> None:
                    if log is not None:
                        log.write(found)
                    report(found)

                run_loop(self.loop, both)
            self.training.config = self.config.model_copy(update={"train": self.loop.spec})
            closing = self._save() if group.first else ()
        group.leave()
        return closing

    def _save(self) -> tuple[str, ...]:
        """The trained model's folder; lines for people about what was reached."""
        closing = self.training.finish(self.folder, self.loop)
        card = finished_card(
            self.training.card(self.loop, self.folder, closing), self.config, self.training.data,
            self.training.sample, self.loop, self.folder,
        )  # fmt: skip
        save_model(self.folder, self.model, self.tokenizer, card.render(), ends=self.training.ends)
        return closing


def prepare(
    kind: type[T], config: AnyRun, folder: Path, *, resume: bool, say: Say,
    device: str = "auto", dry_run: bool = False, data: Path | None = None,
) -> Job[T] | None:  # fmt: skip
    """Read what is learned from, try a step, write the record; None where the run to resume is finished.

    A dry run leaves no record, so that the same or another command may begin in the folder. Raises UserError
    for a folder that holds another run, or other files, or that another process writes.
    """
    keep_heap()
    group = join_group()
    with group.writing(folder):
        return _prepare(
            kind, config, folder, group, resume=resume, say=say, device=device, dry_run=dry_run, data=data
        )


def _prepare(
    kind: type[T], config: AnyRun, folder: Path, group: Group, *, resume: bool, say: Say, device: str,
    dry_run: bool, data: Path | None,
) -> Job[T] | None:  # fmt: skip
    started = started_run(config, folder, resume=resume, say=say)
    if started is None:
        return None
    config, record = started
    first, end = group.share(config.train.batch)
    place = Place(folder, record, group, device, say if group.first else silent, data)
    same_threads(record, place.say)
    training = kind.open(config, place)
    model, objective = training.model, training.objective
    trial = try_step(model, objective, training.config.train, end - first)
    most, budget = None, Budget(getattr(config, "budget_seconds", None), begun_s=perf_counter())
    if budget.seconds is not None and not record:
        most = affordable_steps(model, objective, trial.spec, budget.seconds, group)
    trial = replace(trial, spec=trial.spec.planned(objective.rows_per_epoch, most and most.steps))
    training.config = training.config.model_copy(update={"train": trial.spec})
    if not record and not dry_run and group.first:
        write_record(folder, training.config, training.data)
    pace = pace_of(folder, budget, most.evaluation_s if most else 0.0, place.say, group)
    loop = Loop(model, objective, trial.spec, folder, group, pace)
    training.refer(loop)
    if record:
        loop.resume(say)
    return Job(training, folder, loop, trial)


def run_loop(loop: Loop[Any, Any], report: Callable[[StepReport], None]) -> None:
    """Train to the end; the first process of the group reports every step.

    Ctrl-C (or SIGTERM), in any process, ends the step, saves a checkpoint and raises Stopped, where the loop
    has a folder for checkpoints.
    """
    group = loop.group
    with _interrupt_between_steps() if loop.checkpoints else nullcontext(()) as interrupted:
        for found in loop.run():
            if group.first:
                report(found)
            if group.any(bool(interrupted)) and not loop.finished:
                loop.save()
                group.leave()
                raise Stopped(f" and saved at step {loop.step}")


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
