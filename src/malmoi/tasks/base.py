"""What a task is: its data, its words and its scores. Text and character offsets only, no token, no model.

A method learns from `Example`s and answers with targets; `malmoi.tasks.kinds` says what they are.
"""

# ruff: noqa: ARG002  (a method of every task takes the same arguments)
from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from malmoi.core.errors import UserError, nearest
from malmoi.core.nouns import BadRow, Example, Examples, Finding, Message, Metric, Report
from malmoi.data.characters import READ_COMPOSED, composed
from malmoi.data.labelled import attempts, raise_when_many, read_records
from malmoi.data.opening import DELIMITER, ENCODING, Record, named, short
from malmoi.data.splits import Splits, split_examples
from malmoi.metrics.adequacy import ADEQUACY, Adequacy
from malmoi.metrics.statistics import Statistic
from malmoi.tasks.checks import check_examples, labels_in, unseen_labels
from malmoi.tasks.kinds import Box, Kind, Relation
from malmoi.world import Document

X = TypeVar("X")
Y = TypeVar("Y")
Found = Sequence[Any | None]  # predictions
Nats = Sequence[float] | None
Scores = dict[str, Statistic]
MOST_OF_ALL = 0.8  # of the labels in training: what one label may be where the primary metric says enough
GROUP = "group"  # in `fields` of every task: the column that says which rows belong together; beside it,
# ENCODING and DELIMITER say how the user's files are written


@dataclass(frozen=True, eq=False)
class Task(ABC, Generic[X, Y]):
    """One task. `fields` names the columns or keys of the user's files where they differ from the usual.

    labels: of a task with a label set, for asking and for reading replies; see `with_labels`. metric: what
    methods are ordered by, and choose by: the primary one, unless `for_training` has put the balanced one in
    its place. wordings: ways
    to ask in English, and in Korean, with {input} and {labels}; a method asks in the first, tuning in all of
    them. title, about: what people read of the task; boxes, result, pipeline: instead of its kind's. Raises
    UserError for a field that the task does not have.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    metric: str = ""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    kind: ClassVar[Kind]
    primary: ClassVar[str]  # the metric, unless one label outnumbers the others
    balanced: ClassVar[str] = ""  # where it does: a metric to which every label counts the same; "": none
    relation: ClassVar[Relation] = "any"
    taught: ClassVar[bool] = True  # whether the sample world's model and the demo have it
    title: ClassVar[str] = ""
    about: ClassVar[str] = ""
    boxes: ClassVar[tuple[Box, ...]] = ()
    result: ClassVar[str] = ""
    pipeline: ClassVar[str] = ""
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # what `fields` may name -> other usual names of it
    wordings: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (("{input}",), ("{input}",))

    def __post_init__(self) -> None:
        for role in self.fields:
            if role not in (known := (*self.roles, GROUP, ENCODING, DELIMITER)):
                raise UserError(f"{self.name} has no field {role!r}; {nearest(role, known)}")
        object.__setattr__(self, "metric", self.metric or self.primary)

    def with_labels(self, labels: Iterable[str]) -> Self:
        """This task, asking for these labels."""
        return replace(self, labels=tuple(labels))

    def for_training(self, train: Examples) -> tuple[Self, str]:
        """This task as these examples want it measured, and why, in a line for people.

        Where one label is more than MOST_OF_ALL of all that are given, always saying it scores well in the
        primary metric, and the balanced one takes its place; otherwise nothing changes, and the line is ''.
        """
        counts = Counter(label for example in train for label in self.kind.labels(example.target))
        label, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
        if not self.balanced or count <= MOST_OF_ALL * counts.total():
            return self, ""
        words, usual = (name.replace("_", " ") for name in (self.balanced, self.primary))
        share = f"{label!r} is {count / counts.total():.0%} of the labels in training"
        return replace(self, metric=self.balanced), (
            f"measured by {words}: {share}, and {usual} is high for saying nothing else"
        )

    # ---- data

    def read(self, path: Path, report: Report) -> list[Example[X, Y]]:
        """The examples of a file or folder, each with its place; what is wrong goes to `report`, skipped."""
        rows = read_records(path, report, texts=True, fields=self.fields)
        return list(attempts(rows, lambda row: self.grouped(row, report), report))

    def grouped(self, record: Record, report: Report) -> Iterator[Example[X, Y]]:
        """`examples`, with the group that the row names, where `fields` says which column it is."""
        found = (self.tidied(example, report) for example in self.examples(record, report))
        if (column := self.fields.get(GROUP)) is None:
            return found
        if (group := record.values.get(column)) in (None, ""):
            raise BadRow(f'no "{column}" to group by among {", ".join(record.values) or "no fields"}')
        return (replace(example, group=str(group)) for example in found)

    def tidied(self, example: Example[X, Y], report: Report) -> Example[X, Y]:
        """The example with its letters composed (NFC), which is reported: where some are and some are not,
        a model takes what people cannot tell apart for different words."""
        found = self.composed(example)
        if found is not example:
            report(Finding("warning", example.source, READ_COMPOSED))
        return found

    def composed(self, example: Example[X, Y]) -> Example[X, Y]:
        """The example with its letters composed."""
        return composed(example)

    def restored(self, target: Y | None, value: X) -> Y | None:
        """A prediction for the composed input, as it stands in the input itself."""
        return target

    def examples(self, record: Record, report: Report) -> Iterator[Example[X, Y]]:
        """The examples of one row. Raises BadRow for one that cannot be used."""
        raise NotImplementedError

    def row(self, example: Example[X, Y]) -> dict[str, Any]:
        """The inverse of `examples`: a row, with the names of `fields`; here for two texts."""
        before, after = self.roles
        return {self.named(before): example.input, self.named(after): example.target}

    def named(self, role: str) -> str:
        """What a row calls `role`."""
        return self.fields.get(role, role)

    @property
    def columns(self) -> dict[str, str]:
        """`fields`, less what they say of how files are written: other files are written in other ways."""
        return {role: name for role, name in self.fields.items() if role not in (ENCODING, DELIMITER)}

    def find(self, values: Mapping[str, Any], role: str) -> Any:
        """What a row has for `role`, under the name in `fields` or a usual one, or None."""
        names = [self.fields[role]] if role in self.fields else [role, *self.roles[role]]
        found = next((values[name] for name in names if values.get(name) is not None), None)
        return values.get(named(values, names)) if found is None else found

    def find_input(self, values: Mapping[str, Any], role: str) -> Any:
        """The same for what is to be predicted from, which may have our name whatever `fields` says."""
        found = self.find(values, role)
        return values.get(role) if found is None else found

    def value(self, values: Mapping[str, Any], role: str) -> Any:
        """The same, but raises BadRow where there is none."""
        found = self.find(values, role)
        if found is None:
            name = self.fields.get(role, role)
            if name in values:
                raise BadRow(f'"{name}" is empty (null)')
            fix = f"say which one it is: `fields` {role}=NAME"
            raise BadRow(f'no "{name}" among {", ".join(values) or "no fields"}; {fix}')
        return found

    def text(self, values: Mapping[str, Any], role: str) -> str:
        """A text with something in it. Raises BadRow for anything else."""
        found = self.value(values, role)
        if not isinstance(found, str) or not found.strip():
            raise BadRow(f'"{role}" must be a text, found {short(found) or "an empty one"}')
        return found

    def load(
        self, path: Path, *, allow_skips: bool = False, report: Report = lambda _: None
    ) -> list[Example[X, Y]]:
        """The examples of a file or folder; `report` hears what is wrong with the few rows left out.

        Raises UserError where there are none, or where more than 1% are wrong (unless allow_skips): the
        line names the first one and the command that lists them all.
        """
        findings: list[Finding] = []
        examples = self.read(path, findings.append)
        raise_when_many(findings, len(examples), path, self.name, allow_skips=allow_skips)
        for finding in findings:
            report(finding)
        if (column := self.fields.get(GROUP)) and not all(example.group for example in examples):
            raise UserError(f"{path} has no columns, and so no {column!r} to group by")
        return examples

    def split(
        self,
        train: Sequence[Example[X, Y]],
        valid: Sequence[Example[X, Y]] | None = None,
        test: Sequence[Example[X, Y]] | None = None,
        seed: int = 0,
    ) -> Splits:
        """The parts to learn from, to choose by, to report on (see `malmoi.data.splits:split_examples`).

        The notes also warn of labels that only the other parts have.
        """
        labels = self.kind.labels if self.kind.is_choice or self.kind.is_set else None
        found = split_examples(
            train, valid, test, key=self.key, group=self.group_of, labels=labels, seed=seed
        )
        known = labels_in(found.train, self.kind)
        unseen = [
            line
            for part, use in ((found.test, "the report"), (found.valid, "the choices"))
            for line in unseen_labels(known, part, self.kind, use)
        ]
        return replace(found, notes=(*found.notes, *unseen))

    def check(self, parts: Mapping[str, Sequence[Example[X, Y]]]) -> list[Finding]:
        """What is wrong across examples: conflicts, leaks between the parts ("train", "valid", "test")."""
        return check_examples(parts, self.key, self.kind)

    def check_files(self, paths: Mapping[str, Path]) -> list[Finding]:
        """All that is wrong in the files of the parts, past every bad row. UserError where there are none."""
        findings: list[Finding] = []
        parts = {part: self.read(path, findings.append) for part, path in paths.items()}
        for part, path in paths.items():
            if not parts[part]:
                findings.append(Finding("error", str(path), f"holds no example for {self.name}"))
        return findings + self.check(parts)

    def input_from(self, value: Any) -> X:
        """The input in one line of text or one JSON object. Raises UserError for one of another form."""
        role = next(iter(self.roles))
        found = self.find_input(value, role) if isinstance(value, dict) else value
        if not isinstance(found, str):
            raise UserError(f'{self.name} takes a text or {{"{role}": TEXT}}, found {short(value)}')
        return cast(X, found)

    def input_json(self, value: X) -> Any:
        """The inverse of `input_from`: JSON that stands for an input."""
        return value

    def to_json(self, target: Y | None, value: X) -> Any:
        """A prediction for the input `value` as JSON, for people and programs."""
        return target

    def from_json(self, value: Any) -> Y | None:
        """The inverse of `to_json`."""
        return value

    def key(self, value: X) -> str:
        """What tells inputs apart, for duplicates, leaks and splits."""
        return str(value)

    def subject(self, value: X) -> str:
        """The text that an answer is about."""
        return self.key(value)

    def group(self, value: X) -> str:
        """Inputs of one group stay on one side of a split; equal wherever `key` is."""
        return self.key(value)

    def group_of(self, example: Example[X, Y]) -> str:
        """The same for an example: the group that the user names, else its document, else the input's."""
        return example.group or example.document or self.group(example.input)

    # ---- the sample world

    def samples(self, document: Document) -> Iterator[dict[str, Any]]:
        """The rows that a document of the sample world gives, as a user's file has them; here none."""
        return iter(())

    def tries(self, document: Document) -> Iterator[Any]:
        """What to try the task on, as `input_from` takes it; here the samples' inputs."""
        rows = (Record(row, document.id) for row in self.samples(document))
        return (self.input_json(it.input) for row in rows for it in self.examples(row, lambda _: None))

    # ---- words

    def prompt(self, value: X, shots: Sequence[Example[X, Y]] = (), *, variant: int = 0) -> list[Message]:
        """How to ask a chat model, after `shots` solved examples; in Korean where the input is Korean."""
        asked = [(self.ask(shot.input, variant), self.answer(shot.target, shot.input)) for shot in shots]
        turns = [
            turn for ask, answer in asked for turn in (Message("user", ask), Message("assistant", answer))
        ]
        return [*turns, Message("user", self.ask(value, variant))]

    def ask(self, value: X, variant: int = 0) -> str:
        """What the user says to have the task done for one input; variant: in which of the wordings."""
        wording = self.wording(variant, korean=is_korean(self.key(value)))
        return wording.format(input=value, labels=", ".join(self.labels) or "...")

    def wording(self, variant: int, *, korean: bool) -> str:
        """One of the wordings."""
        wordings = self.wordings[korean]
        return wordings[variant % len(wordings)]

    def answer(self, target: Y, value: X) -> str:
        """The reply that `parse` reads back as `target` of the input `value`; here for texts."""
        return cast(str, target)

    def parse(self, reply: str, value: X) -> Y | None:
        """The target in a model's reply; None where it is none, which counts as wrong; here for texts."""
        return cast(Y, reply.strip()) or None

    # ---- scores

    def is_right(self, prediction: Y | None, example: Example[X, Y]) -> bool:
        """Whether a prediction is right as a whole."""
        return prediction in example.references

    @abstractmethod
    def statistics(self, predictions: Found, examples: Examples, log_likelihoods: Nats = None) -> Scores:
        """Every metric that can be computed, by name. log_likelihoods: nats of each example's target."""

    def adequacy(self, train: Examples, examples: Examples) -> Adequacy | None:
        """What measures whether texts belong to the inputs of `examples`, learned from `train`; None where
        answers are no texts, or texts that go on, and where `train` is too small."""
        if not self.kind.is_text or self.kind.goes_on or not examples:
            return None
        pairs = [(self.subject(one.input), one.target) for one in train]
        inputs = [self.subject(one.input) for one in examples]
        references = [one.references for one in examples]
        return Adequacy.learn(pairs, inputs, references, [self.group_of(one) for one in examples])

    def score(
        self, predictions: Found, examples: Examples, log_likelihoods: Nats = None, train: Examples = ()
    ) -> dict[str, Metric]:
        """`statistics`, each summed into a value with its interval; the task's metric first. With `train`
        also `adequacy`."""
        found = self.statistics(predictions, examples, log_likelihoods)
        if adequacy := self.adequacy(train, examples):
            found = found | {ADEQUACY: adequacy.statistic(predictions)}
        ordered = sorted(found, key=lambda name: name != self.metric)
        return {name: found[name].metric() for name in ordered}


_HANGUL = re.compile("[가-힣ㄱ-ㆎᄀ-ᇿ]")


def is_korean(text: str) -> bool:
    """Whether most letters are Hangul."""
    return 2 * len(_HANGUL.findall(text)) > sum(map(str.isalpha, text))
