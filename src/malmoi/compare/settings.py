"""What a comparison is asked to do, and the data that it compares on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, nan
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from malmoi.compare.verdict import OF_100
from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Examples, Finding
from malmoi.data.splits import FEWEST
from malmoi.metrics.adequacy import ADEQUACY, Adequacy
from malmoi.metrics.confidence import CALIBRATION_ERROR, calibration_error
from malmoi.metrics.statistics import Ints, Statistic
from malmoi.tasks import make_task
from malmoi.tasks.base import Task
from malmoi.util.units import counted

T = TypeVar("T")


class ComparisonSettings(StrictModel):
    """One comparison. methods: name -> options. good_enough: a metric and the value that suffices; without it
    what is at most `margin` worse than the best is good enough, on the metric's own scale. metric: to judge
    by, else that of the task (see `malmoi.tasks.base:Task.for_training`).

    price_per_hour: of the machine, in `currency` (any label); without it costs are seconds.
    """

    task: str
    train: Path
    valid: Path | None = None
    test: Path | None = None
    fields: dict[str, str] = Field(default_factory=dict)
    methods: dict[str, dict[str, Any]]
    metric: str | None = None
    good_enough: tuple[str, float] | None = None
    margin: PositiveFloat | None = None  # None: `malmoi.compare.verdict:MARGIN` of the scale
    budget_seconds: PositiveFloat | None = None  # for each method's training
    budgets: dict[str, PositiveFloat] = Field(default_factory=dict)  # of methods that have another one
    price_per_hour: PositiveFloat | None = None
    currency: str = ""
    licence: str | None = None  # of the data, for the winner's card; None: a LICENSE beside them says it
    curve: bool = False  # also train on 10% and 30% of the training examples
    shots_curve: tuple[NonNegativeInt, ...] = ()  # also measure prompted methods with these numbers of shots
    test_limit: PositiveInt | None = None  # measure on at most this many examples, drawn by the seed
    measure_seconds: PositiveFloat = 10.0  # that timing one prediction at a time may take, for each method
    judge: str | None = None  # a language model that says whose texts are better: its folder, or "remote"
    judge_options: dict[str, Any] = Field(default_factory=dict)  # of `prompted` or `remote`
    judge_limit: PositiveInt = 100  # test examples that it is asked about
    seed: int = 0
    seeds: PositiveInt = 1  # train what depends on its seed so many times, each with another one
    allow_skips: bool = False  # go on where more than 1% of the rows are wrong


def check_currency(currency: str, price_per_hour: float | None) -> None:
    """Raises UserError for a currency without a price."""
    if currency and not price_per_hour:
        raise UserError(f"`currency` {currency} needs `price_per_hour`")


def parse_good_enough(text: str) -> tuple[str, float]:
    """`accuracy=0.85` or `accuracy=85%` as a pair; `chrf=50%` is 50. Raises UserError."""
    name, _, number = (part.strip() for part in text.partition("="))
    try:
        return name, _value(number, name)
    except ValueError:
        raise UserError(f"`good_enough` {text!r} is not METRIC=VALUE; for example accuracy=0.85") from None


def parse_margin(text: str, metric: str) -> float:
    """`0.03` or `3%` of that metric; `3` or `3%` of chrF. Raises UserError."""
    try:
        found = _value(text.strip(), metric)
    except ValueError:
        found = nan
    if not 0 < found < inf:
        raise UserError(f"`margin` {text!r} is not a number above 0; for example 0.03 or 3%")
    return found


def _value(number: str, metric: str) -> float:
    scale = 100 if number.endswith("%") and metric not in OF_100 else 1
    return float(number.removesuffix("%")) / scale


def parse_shots(text: str) -> tuple[int, ...]:
    """`0,1,2,4` in order, each once. Raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UserError(f"`shots_curve` {text!r} is not numbers with commas between; for example 0,1,2,4,8")
    return tuple(sorted(set(map(int, parts))))


@dataclass(frozen=True)
class Material:
    """The data of a comparison: to learn from, to choose by (valid) and to report on (test)."""

    task: Task[Any, Any]
    parts: dict[str, Examples]  # train, valid, test
    notes: list[str]
    findings: list[Finding]

    @property
    def test(self) -> Examples:
        """What every figure is about."""
        return self.parts["test"]

    @property
    def texts(self) -> list[str]:
        """The right answers, where they are texts, which a language model can give a likelihood to."""
        return [one.target for one in self.test] if self.task.kind.is_text else []

    @property
    def few_documents(self) -> int:
        """How many documents the test examples are from, where these are too few to be what chance draws."""
        found = {self.task.group_of(one) for one in self.test}
        known = {one.document for one in self.test if not one.group} - {""}
        return len(known) if len(found) < FEWEST else 0

    @property
    def groups_E(self) -> Ints | None:
        """A number for each test example, equal where examples belong together; None where each is alone."""
        few = self.few_documents
        groups = [self.task.group(one.input) if few else self.task.group_of(one) for one in self.test]
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        found_E = np.array([numbers[group] for group in groups], np.int64)
        return found_E if len(numbers) < len(groups) else None

    @cached_property
    def adequacy(self) -> Adequacy | None:
        """Whether texts belong to the test inputs, learned from the training part; see `Task.adequacy`."""
        return self.task.adequacy(self.parts["train"], self.test)

    def statistics(
        self, predictions: Sequence[Any], log_likelihoods: Sequence[float] | None = None,
        confidences: Sequence[float] | None = None,
    ) -> dict[str, Statistic]:  # fmt: skip
        """Every metric of predictions for the test examples."""
        found = self.task.statistics(predictions, self.test, log_likelihoods)
        if confidences:
            right = [*map(self.task.is_right, predictions, self.test)]
            found = found | {CALIBRATION_ERROR: calibration_error(confidences, right)}
        if self.adequacy:
            found = found | {ADEQUACY: self.adequacy.statistic(predictions)}
        return {name: replace(one, groups_E=self.groups_E) for name, one in found.items()}

    @property
    def right_adequacy(self) -> Statistic | None:
        """What the right answers themselves reach."""
        return self.adequacy and replace(self.adequacy.right, groups_E=self.groups_E)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each part's content, whatever files it came from."""
        rows = {name: [(one.input, one.references) for one in part] for name, part in self.parts.items()}
        return {name: hashlib.sha256(repr(part).encode()).hexdigest() for name, part in rows.items()}


def load_material(settings: ComparisonSettings) -> Material:
    """Read, split and check the data: a function of the settings. Raises UserError."""
    task, findings = make_task(settings.task, settings.fields), list[Finding]()
    paths = (settings.train, settings.valid, settings.test)
    skips, report = settings.allow_skips, findings.append
    train, *others = [task.load(path, allow_skips=skips, report=report) if path else None for path in paths]
    found = task.split(train or [], *others, seed=settings.seed)
    test, notes = found.test, list(found.notes)
    if settings.test_limit and settings.test_limit < len(test):
        notes.append(f"measured on {settings.test_limit:,} of {len(test):,} test examples, drawn by the seed")
        test = sample(test, settings.test_limit, settings.seed)
    task, why = task.for_training(found.train)
    if why and not (settings.metric or settings.good_enough):
        notes.append(why)
    parts: dict[str, Examples] = {"train": found.train, "valid": found.valid, "test": test}
    material = Material(task, parts, notes, findings + task.check(parts))
    if few := material.few_documents:
        of = f"report: of {counted(few, 'document')} only"
        notes.append(f"{of}; intervals are of more text of the same, not of other documents")
    return material


def sample(examples: Sequence[T], count: int, seed: int) -> list[T]:
    """`count` examples in their order; a smaller sample of the same seed is a part of a larger one."""
    order = random.Random(seed).sample(range(len(examples)), len(examples))
    return [examples[number] for number in sorted(order[:count])]
