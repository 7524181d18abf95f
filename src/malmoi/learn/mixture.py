"""What a model is tuned on: conversations, and tasks' own examples asked and answered, in any mixture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from malmoi.core.errors import UserError, nearest
from malmoi.core.nouns import Example, Finding, Message
from malmoi.data.batches import mixed
from malmoi.data.conversations import Conversation, read_conversations
from malmoi.data.labelled import SKIPPED, raise_when_many
from malmoi.tasks import SMALL_TALK, TASKS, make_task, sampled_tasks
from malmoi.tasks.base import Task
from malmoi.tasks.chat import Chat
from malmoi.tasks.checks import labels_in
from malmoi.text.chat import ChatFormat, ChatRow
from malmoi.world import Split

Row = TypeVar("Row")
HELD_OUT, MOST_HELD_OUT = 0.05, 500  # rows for validation where no file is given for it
_WEIGHTED = re.compile(r"(.+)@(\d*\.?\d+)")


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder to learn from, `weight` times an epoch; task: whose examples it holds, if a task's."""

    path: Path
    task: str = ""
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Source:
        """[TASK=]PATH[@WEIGHT]. Raises UserError for an unknown task, and for a weight of 0."""
        found = None if Path(text).exists() else _WEIGHTED.fullmatch(text)
        named, weight = (found[1], float(found[2])) if found else (text, 1.0)
        if weight == 0:
            raise UserError(f"{text}: a weight of 0 leaves it out; leave it out of the command")
        task, equals, path = named.partition("=")
        if not equals or Path(named).exists():
            return cls(Path(named), "", weight)
        if task not in TASKS:
            raise UserError(f"{text}: no task {task!r}; {nearest(task, TASKS)}")
        return cls(Path(path), task, weight)


def sources(folder: Path, split: Split, weights: Mapping[str, float] | None = None) -> list[str]:
    """What `malmoi.tasks:write_rows` wrote, each as `Source.parse` takes it; weights: of tasks, else 1."""
    tasks = [
        f"{task}={folder / task / split}.jsonl@{(weights or {}).get(task, 1)}" for task in sampled_tasks()
    ]
    return [*tasks, f"{folder / SMALL_TALK / split}.jsonl"]


class Rendered(NamedTuple):
    """A conversation, the ids that it is learned as, and what keeps it on one side of a split with others."""

    row: ChatRow
    conversation: Conversation
    group: str


@dataclass(frozen=True, slots=True)
class Mixture:
    """Rows to learn and how often an epoch has each, and what to judge by."""

    train: list[ChatRow]
    weights: list[float]
    valid: list[Rendered]
    findings: list[Finding]


def conversation_of(task: Task[Any, Any], example: Example[Any, Any], variant: int = 0) -> Conversation:
    """A task's example as a user asks for it and an assistant answers."""
    answer = task.answer(example.target, example.input)
    asked = task.prompt(example.input, variant=variant)
    return Conversation((*asked, Message("assistant", answer)), example.source)


def make_mixture(
    train: Sequence[Source], valid: Sequence[Source], form: ChatFormat, seed: int, context: int,
    *, fields: Mapping[str, str] | None = None, allow_skips: bool = False,
) -> Mixture:  # fmt: skip
    """Read, render, hold out (where there is no `valid`).

    Raises UserError where nothing is left to learn, or more than 1% of a source's rows cannot be used.
    """
    if any(source.weight != 1 for source in valid):
        raise UserError("`valid` takes no weight: what is judged by is seen once")
    reader = _Reader(form, context, seed, _known(fields or {}, (*train, *valid)), allow_skips=allow_skips)
    rows: list[ChatRow] = []
    weights: list[float] = []
    judged: list[Rendered] = []
    for number, source in enumerate(train):
        found = reader.read(source, number)
        kept = [] if valid else held_out(found, seed, lambda one: one.group)
        chosen = set(map(id, kept))
        learned = [one.row for one in found if id(one) not in chosen]
        judged, rows, weights = judged + kept, rows + learned, weights + [source.weight] * len(learned)
    for number, source in enumerate(valid):
        judged += reader.read(source, number, judging=True)
    if not rows or not judged:
        raise UserError("there is too little to learn from and to judge by; give more conversations")
    return Mixture(rows, weights, judged, reader.findings)


class _Reader:
    """Reads sources in order; validation asks with the labels that training has shown."""

    def __init__(
        self, form: ChatFormat, context: int, seed: int, fields: Mapping[str, str], *, allow_skips: bool
    ) -> None:
        self.form, self.context, self.seed, self.fields = form, context, seed, fields
        self.allow_skips = allow_skips
        self.findings: list[Finding] = []
        self.labels: dict[str, set[str]] = {}

    def read(self, source: Source, number: int, *, judging: bool = False) -> list[Rendered]:
        """All of a source that can be used; the rest are findings. Raises UserError where that is much."""
        groups: Iterable[str]
        if source.task:
            conversations, groups = self._examples(source, number, judging=judging)
        else:
            found: list[Finding] = []
            conversations = read_conversations(source.path, found.append)
            raise_when_many(found, len(conversations), source.path, Chat.name, allow_skips=self.allow_skips)
            self.findings += found
            groups = (Chat().group(one.messages) for one in conversations)
        return self._rendered(list(zip(conversations, groups, strict=True)), source.path)

    def _examples(
        self, source: Source, number: int, *, judging: bool
    ) -> tuple[list[Conversation], list[str]]:
        """A task's examples and their groups, without those that are the beginning of the next."""
        roles = TASKS[source.task].roles
        task = make_task(source.task, {role: name for role, name in self.fields.items() if role in roles})
        examples = task.load(source.path, allow_skips=self.allow_skips, report=self.findings.append)
        shown, own = self.labels.setdefault(task.name, set()), set(labels_in(examples, task.kind))
        task = task.with_labels(sorted(shown if judging and shown else own))
        if not judging:
            shown |= own
        variants = np.random.default_rng(mixed(self.seed, number)).integers(1 << 16, size=len(examples))
        found = [conversation_of(task, *pair) for pair in zip(examples, variants.tolist(), strict=True)]
        whole = [not _begins(one, after) for one, after in zip_longest(found, found[1:])]
        groups = [task.group(example.input) for example in examples]
        return list(compress(found, whole)), list(compress(groups, whole))

    def _rendered(self, conversations: Sequence[tuple[Conversation, str]], path: Path) -> list[Rendered]:
        found: list[Rendered] = []
        wrong: list[Finding] = []
        for one, group in conversations:
            try:
                found += (Rendered(row, one, group) for row in self._rows(one))
            except UserError as error:
                wrong.append(Finding("error", one.source, str(error)))
        if len(wrong) > SKIPPED * len(conversations) and not self.allow_skips:
            raise UserError(
                f"{wrong[0].where}: {wrong[0].message}; {len(wrong)} of {len(conversations)} of {path} "
                "cannot be used; `allow_skips` goes on without them"
            )
        self.findings += wrong
        return found

    def _rows(self, one: Conversation) -> list[ChatRow]:
        """Raises UserError for one that is too long, or has nothing to learn."""
        rows = self.form.training_rows(one.messages)
        if (longest := max(len(row.ids) for row in rows)) > self.context + 1:
            raise UserError(f"the conversation takes {longest} tokens, and train.context is {self.context}")
        if not any(any(row.trained[1:]) for row in rows):
            raise UserError("there is nothing in the conversation to learn: the assistant says nothing")
        return rows


def _known(fields: Mapping[str, str], sources: Sequence[Source]) -> Mapping[str, str]:
    """The fields. Raises UserError for a role that no task among the sources has."""
    roles = sorted({role for source in sources if source.task for role in TASKS[source.task].roles})
    for role in fields:
        if not roles:
            raise UserError(f"`fields` {role}: conversations have no fields; name a task: `data` TASK=PATH")
        if role not in roles:
            raise UserError(f"no task here has a field {role!r}; {nearest(role, roles)}")
    return fields


def _begins(one: Conversation, other: Conversation | None) -> bool:
    """Whether the other one goes on from where this one ends: then it teaches all that this one does."""
    length = len(one.messages)
    return other is not None and length < len(other.messages) and one.messages == other.messages[:length]


def held_out(found: Sequence[Row], seed: int, group: Callable[[Row], object] = id) -> list[Row]:
    """A few of the rows, in order, to judge by; those of one group are in it together, or not at all."""
    groups: dict[object, list[int]] = {}
    for at, row in enumerate(found):
        groups.setdefault(group(row), []).append(at)
    if len(groups) < 2:
        return []
    wanted = min(MOST_HELD_OUT, max(1, round(HELD_OUT * len(found))))
    sets, chosen = list(groups.values()), list[int]()
    for at in np.random.default_rng(seed).permutation(len(sets)):
        chosen += sets[at] if len(chosen) + len(sets[at]) <= wanted else []
    return [found[i] for i in sorted(chosen or min(sets, key=len))]
