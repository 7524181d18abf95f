"""A cascade of two methods, and what it brings: how many answers alone, how good, for how much less."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from malmoi.core.errors import UserError
from malmoi.core.nouns import Examples, FitReport, Json, Metric, Say, silent
from malmoi.methods.base import Method
from malmoi.methods.cascade import Cascade
from malmoi.methods.folder import save_method, write_card
from malmoi.methods.named import answering
from malmoi.methods.registry import make_method
from malmoi.methods.use import load, method_card, task_files
from malmoi.metrics.promise import Promise, promise
from malmoi.metrics.statistics import accuracy
from malmoi.tasks.base import Task
from malmoi.util.files import is_free
from malmoi.util.locks import hold
from malmoi.util.units import counted

ERRORS = (0.01, 0.02, 0.03, 0.05, 0.1)  # what could be promised instead
MOST_ALONE = 500  # examples that the strong method is asked about, to see how good it is alone


@dataclass(frozen=True, slots=True)
class Side:
    """One way to answer: the share of right answers, and seconds a prediction, in batches. None: unknown."""

    right: Metric | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class CascadeReport:
    """What was built. others: what could be promised of other errors, each by itself; None: nothing."""

    promise: Promise
    others: dict[float, Promise | None]
    cheap: Side
    strong: Side
    both: Side
    names: tuple[str, str]

    @property
    def json(self) -> Json:
        """For programs; `saved_seconds` is for a million predictions."""
        share = self.promise.answered / self.promise.count
        return asdict(self) | {"share_answered": share, "saved_seconds": self.saved_s}

    @property
    def saved_s(self) -> float | None:
        """By a million predictions, against asking the strong method about all."""
        if self.strong.seconds is None or self.both.seconds is None:
            return None
        return 1e6 * (self.strong.seconds - self.both.seconds)


def build_cascade(
    task: Task[Any, Any], cheap: str, strong: str | None, data: Path, out: Path, max_error: float, *,
    options: Json | None = None, allow_skips: bool = False, say: Say = silent,
) -> CascadeReport:  # fmt: skip
    """Save a cascade as `out`, its bound shown by labelled examples that neither method has learned from.

    cheap: a fitted method's folder. strong: one, or a language model, or "remote"; None: a person. Raises
    UserError.
    """
    with hold(out):
        if not is_free(out):
            raise UserError(f"{out} exists; choose another `out`")
        examples = load(task, {"test": data}, allow_skips=allow_skips, say=say)["test"]
        made = make_method("cascade", task, {"cheap": cheap, "strong": strong or "", "max_error": max_error})
        assert isinstance(made, Cascade)
        made.cheap = answering("cheap", cheap, task, {}, ())[0]
        made.strong = answering("strong", strong, task, options or {}, examples)[0] if strong else None
        found = _learned(made, task, examples, say)
        learned = {"train": len(examples), "valid": 0}
        facts = {"learned_from": learned, "promise": asdict(found.promise)}
        save_method(out, made, FitReport(facts))
        card = method_card(
            made, {}, examples, measured_on="", folder=out, data=task_files((data,)), seconds=None,
            notes=[promised(found)],
        )  # fmt: skip
        write_card(out, card.render())
        return found


def promised(report: CascadeReport) -> str:
    """The promise as a sentence."""
    found, (cheap, strong) = report.promise, report.names
    share, error = found.answered / found.count, found.wrong / max(1, found.answered)
    return (
        f"{cheap} answers {share:.0%} alone, and at most {found.most:.1%} of these answers are wrong, with "
        f"95% confidence ({error:.1%} of {counted(found.answered, 'example')} were); {strong} gets the rest"
    )


def _learned(made: Cascade, task: Task[Any, Any], examples: Examples, say: Say) -> CascadeReport:
    inputs = [example.input for example in examples]
    say(f"asking {made.cheap.name} about {counted(len(inputs), 'example')}")
    start_s = time.perf_counter()
    found = made.cheap.predict_with_confidence(inputs)
    cheap_s = (time.perf_counter() - start_s) / len(inputs)
    shown = made.learn_bound(found, examples)
    sure, calibration = found.confidences, made.cheap.calibration
    assert sure is not None
    assert calibration is not None
    right = [*map(task.is_right, found.values, examples)]
    alone = [one >= made.bound for one in sure]
    strong, both = _with_strong(made.strong, task, examples, right, alone, cheap_s, say)
    return CascadeReport(
        shown, {most: promise(sure, right, calibration.levels, most) for most in ERRORS},
        Side(_share(right), cheap_s), strong, both,
        (made.cheap.name, made.strong.name if made.strong else "a person"),
    )  # fmt: skip


def _with_strong(
    strong: Method | None, task: Task[Any, Any], examples: Examples, right: Sequence[bool],
    alone: Sequence[bool], cheap_s: float, say: Say,
) -> tuple[Side, Side]:  # fmt: skip
    """The strong method by itself, on the first MOST_ALONE examples, and the cascade, on all of them."""
    if strong is None:
        return Side(None, None), Side(None, None)
    asked = [at for at, by_itself in enumerate(alone) if at < MOST_ALONE or not by_itself]
    say(f"asking {strong.name} about {counted(len(asked), 'example')}")
    start_s = time.perf_counter()
    answers = strong.predict([examples[at].input for at in asked]).values
    strong_s = (time.perf_counter() - start_s) / len(asked)
    by_strong = {at: task.is_right(answer, examples[at]) for at, answer in zip(asked, answers, strict=True)}
    joint = [right[at] if by_itself else by_strong[at] for at, by_itself in enumerate(alone)]
    first = [by_strong[at] for at in range(min(MOST_ALONE, len(alone)))]
    passed = 1 - sum(alone) / len(alone)
    return Side(_share(first), strong_s), Side(_share(joint), cheap_s + passed * strong_s)


def _share(right: Sequence[bool]) -> Metric:
    return accuracy(right, [True] * len(right)).metric()
