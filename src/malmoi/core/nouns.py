"""The nouns that cross layers, without PyTorch. Read this file first.

Text is cut into tokens, tokens are grouped into batches, a model turns a batch into logits, training
turns logits into a loss, generation turns them into more tokens, and metrics say how good the result is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

X = TypeVar("X")  # the input of a task
Y = TypeVar("Y")  # its target
Json = dict[str, Any]
Say = Callable[[str], None]  # hears lines for people while work is done
Done = Callable[[int], None]  # hears, now and then, how many are done


def silent(_: Any) -> None:
    """A `Say`, a `Done` or a `Report` that nobody hears."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Messages: TypeAlias = tuple[Message, ...]


def turns_error(messages: Sequence[Message], *, ends_with: Literal["user", "assistant"]) -> str:
    """What is wrong with the order of turns, or ''. Right: one of the system or none, then user and
    assistant by turns."""
    turns = list(messages[messages[0].role == "system" :]) if messages else []
    if not turns:
        return "it has no turn of the user"
    for at, message in enumerate(messages):
        if not message.content.strip():
            return f"turn {at + 1} ({message.role}) is empty"
        if at and message.role == "system":
            return f"turn {at + 1} is the system's; only the first may be"
    if turns[0].role != "user":
        return "the assistant speaks before the user"
    for at, (before, after) in enumerate(pairwise(turns), len(messages) - len(turns) + 2):
        if before.role == after.role:
            return f"turns {at - 1} and {at} are both the {after.role}'s"
    return "" if turns[-1].role == ends_with else f"the last turn is not the {ends_with}'s"


@dataclass(frozen=True, slots=True)
class Question:
    """The input of question answering: the answer stands somewhere in `context`."""

    question: str
    context: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`context[start : start + len(text)] == text`; a start of -1: only the text is known."""

    text: str
    start: int = -1


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """`input[start:end]` is a name of the kind `label`, in characters."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Example(Generic[X, Y]):
    """One labelled example of a task: what goes in, what should come out, where it was read.

    others: further targets that are as right as `target` (the reference answers of a question). group: what
    the user says that it belongs to, such as a document or an author, else "". document: what stands for the
    text that it is a piece of, where the file says which that is, else "".
    """

    input: X
    target: Y
    source: str = ""  # "file:line", for error messages
    others: tuple[Y, ...] = ()
    group: str = ""
    document: str = ""

    @property
    def references(self) -> tuple[Y, ...]:
        """All right targets, `target` first."""
        return (self.target, *self.others)


Examples: TypeAlias = Sequence[Example[Any, Any]]


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured number with its uncertainty and what exactly was computed."""

    value: float
    interval: tuple[float, float] | None = None  # 95% bootstrap interval
    higher_is_better: bool = True
    signature: str = ""

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.4f}"
        return f"{self.value:.4f} [{self.interval[0]:.4f}, {self.interval[1]:.4f}]"


@dataclass(frozen=True, slots=True)
class Result:
    """What one method reached: its metrics and what it cost."""

    name: str
    metrics: dict[str, Metric]
    costs: dict[str, float] = field(default_factory=dict)  # unit in the key: seconds, bytes, tokens_per_s


Level = Literal["error", "warning", "note", "read"]  # read: how the data were read, shown before work starts
OVERLAP = 0.25  # of the windows that a long text is read in
LATE = 0.2  # of a budget's seconds: by so much a fit may exceed it at most


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about the data: how bad it is, where ("file:line"), and what."""

    level: Level
    where: str
    message: str


Report: TypeAlias = Callable[[Finding], None]


class BadRow(Exception):
    """What is wrong with a row that cannot be used, and where, if not where the row begins."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a fit may take. steps wins: a recorded run is replayed, whatever the machine's speed.

    Without both, the spec's epochs decide, and methods without steps try all of their settings.
    """

    seconds: float | None = None
    steps: int | None = None
    warm_up_steps: int | None = None  # of masked-token pre-training, where there is any
    begun_s: float | None = None  # by time.perf_counter

    @property
    def left_s(self) -> float | None:
        """Of `seconds`; all of them before it has begun."""
        if self.seconds is None or self.begun_s is None:
            return self.seconds
        return self.seconds - (time.perf_counter() - self.begun_s)

    @property
    def end_s(self) -> float:
        """When it is over, by time.perf_counter: never where it is of no time, or the steps are given."""
        left_s = self.left_s if self.steps is None else None
        return math.inf if left_s is None else time.perf_counter() + left_s

    @property
    def stop_s(self) -> float:
        """When nothing more may begin, by time.perf_counter: plans end before, as well as they foresee."""
        return self.end_s + LATE * (self.seconds or 0.0)


@dataclass(frozen=True, slots=True)
class Work:
    """What a fit may spend, and who hears of it.

    folder: where a long fit keeps checkpoints; one that was stopped goes on from there.
    """

    budget: Budget = Budget()
    say: Say = silent
    folder: Path | None = None

    def begin(self) -> Work:
        """From here on the budget's time runs: what comes before the first step counts, too."""
        return replace(self, budget=replace(self.budget, begun_s=time.perf_counter()))

    def share(self, share: float, stage: str) -> Work:
        """A first stage of it, which may take a share of the time."""
        seconds = self.budget.seconds and self.budget.seconds * share
        budget = Budget(seconds, self.budget.warm_up_steps)
        return replace(self, budget=budget, folder=self.folder and self.folder / stage)


def with_note(facts: Json, *notes: str | None) -> Json:
    """The facts of a report, with these notes after its own; without a note where all are empty."""
    found = dict.fromkeys(filter(None, (facts.get("note"), *notes)))
    return {name: it for name, it in facts.items() if name != "note"} | (
        {"note": "; ".join(found)} if found else {}
    )


@dataclass(frozen=True, slots=True)
class FitReport:
    """What fitting a method found worth recording. facts: JSON, such as steps, a curve, chosen constants."""

    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """A line for people about what predictions will suffer from, or ''."""
        return self.facts.get("note", "")

    @property
    def best(self) -> float | None:
        """Of what learns in steps, which its seed draws: the best that validation saw (more is better).

        None: the method has no such steps, and so another seed would change nothing.
        """
        return self.facts.get("fit", {}).get("best")


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a method answers: one value for each input, None where there is none.

    note: a line for people about what they suffered from (requests that failed), or ''. facts: what it took
    to get them, by name, as JSON. confidences: how probable it is that each is right, where that was asked
    for and is known; probabilities: of the labels, where the answer is one of them. passed_on: of a cascade,
    which ones its first method has left to the second.
    """

    values: list[Any | None]
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    confidences: list[float] | None = None
    probabilities: list[dict[str, float]] | None = None
    passed_on: list[bool] | None = None

    def at_least(self, least: float) -> Predictions:
        """Without the answers of a lower confidence. They must have one."""
        assert self.confidences is not None
        pairs = zip(self.values, self.confidences, strict=True)
        return replace(self, values=[value if sure >= least else None for value, sure in pairs])
