"""A language model as a judge: whose text does better what was asked.

A judge may prefer what stands first (Zheng et al. 2023; Wang et al. 2023), so every pair of texts is asked
about twice, the second time with the texts exchanged. Only where both answers name the same text is it
preferred; all else is a tie. A model on this machine chooses between "1" and "2" by their likelihood.
"""

# ruff: noqa: ARG002  (a method of every task takes the same arguments)
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from malmoi.compare.settings import ComparisonSettings, Material, sample
from malmoi.compare.verdict import MethodRow, Verdict
from malmoi.core.errors import UserError
from malmoi.core.nouns import Done, Metric, Say, silent
from malmoi.hub.folder import is_model, model_path
from malmoi.methods.base import Method
from malmoi.methods.registry import make_method
from malmoi.metrics.statistics import Ints, accuracy, mean
from malmoi.tasks.base import Examples, Found, Nats, Scores, Task, is_korean
from malmoi.tasks.kinds import LABEL
from malmoi.util.files import read_json, write_json
from malmoi.util.progress import Progress, pause_s

Pair = tuple[str | None, str | None]  # what was answered of two texts in both orders
JUDGED = "judged.json"  # in a comparison's folder
REMOTE = "remote"
FIRST, SECOND = "1", "2"
QUESTION = """Request:
{}

Reply 1:
{}

Reply 2:
{}

Which reply does better what the request asks? Answer with 1 or 2 only."""
KOREAN_QUESTION = """요청:
{}

답 1:
{}

답 2:
{}

어느 답이 요청에 더 잘 맞습니까? 1 또는 2로만 답하세요."""
TEXT_LENGTHS = (4000, 2000, 1000, 500, 250, 120)  # characters of each text: the most that the judge can read
# by the answers in both orders; all else is a tie
POINTS: dict[Pair, float] = {(FIRST, SECOND): 1.0, (SECOND, FIRST): 0.0}
PORTION = 16  # questions between two times that the answers are kept
REPLY_TOKENS = 8  # of a remote judge
NOTHING = "-"  # in place of a text that did not come
WAVERING = 0.5  # of the pairs: a judge that contradicts itself more often is not worth much


class Better(Task[str, str]):
    """Which of two texts does better what was asked: the input is the whole question."""

    name = "better"
    kind = LABEL
    primary = "accuracy"

    def parse(self, reply: str, value: str) -> str | None:
        """The number that the reply names first."""
        return next((sign for sign in reply if sign in (FIRST, SECOND)), None)

    def statistics(self, predictions: Found, examples: Examples, log_likelihoods: Nats = None) -> Scores:
        """accuracy."""
        return {"accuracy": accuracy(predictions, [example.target for example in examples])}


@dataclass(frozen=True, slots=True)
class HeadToHead:
    """How a method fares against another. wins: the share of examples that it wins, a tie being half of one.

    asked: pairs of texts that are not the same; inconsistent: those whose answer changed with the order;
    unanswered: those without two answers, which are ties, too. first: answers that named the first text.
    """

    name: str
    against: str
    wins: Metric
    won: int
    lost: int
    ties: int
    asked: int
    first: int
    inconsistent: int
    unanswered: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said on `number` of the `total` test examples."""

    judge: str
    number: int
    total: int
    preferences: list[HeadToHead]

    @property
    def first(self) -> float:
        """The share of questions whose answer named the text that stood first."""
        asked = sum(one.asked for one in self.preferences)
        return sum(one.first for one in self.preferences) / max(1, 2 * asked)

    @property
    def inconsistent(self) -> float:
        """The share of pairs of which the answer changed with the order."""
        asked = sum(one.asked for one in self.preferences)
        return sum(one.inconsistent for one in self.preferences) / max(1, asked)

    @property
    def words(self) -> str:
        """In a sentence or two."""
        best = self.preferences[0].against
        better = [one for one in self.preferences if one.wins.interval and one.wins.interval[0] > 0.5]
        worse = [one for one in self.preferences if one.wins.interval and one.wins.interval[1] < 0.5]
        found = [f"prefers {_named(better)} to {best}"] if better else []
        found += [f"prefers {best} to {_named(worse)}"] if worse else []
        said = " and ".join(found) or f"tells no method from {best}"
        text = f"The judge ({self.judge}, {self.number} of {self.total} test examples) {said}."
        if self.inconsistent > WAVERING:
            share = f"{self.inconsistent:.0%} of the pairs"
            text += f" The order changed its mind in {share}: trust it little."
        return text


def _named(preferences: Sequence[HeadToHead]) -> str:
    return ", ".join(f"{one.name} (wins {one.wins.value:.0%})" for one in preferences)


@dataclass(frozen=True, slots=True)
class Judge:
    """Asks a method that does the task `Better`. memory: a file of what was answered before, by question."""

    name: str
    method: Method
    memory: Path

    def answers(self, questions: Sequence[str], done: Done = silent) -> list[str | None]:
        """FIRST or SECOND for each, None where there is no answer. Raises UserError as the method."""
        known: dict[str, str] = read_json(self.memory) if self.memory.exists() else {}
        keys = [self._key(question) for question in questions]
        missing = [(key, it) for key, it in zip(keys, questions, strict=True) if key not in known]
        for start in range(0, len(missing), PORTION):
            done(len(questions) - len(missing) + start)
            part = missing[start : start + PORTION]
            found = self.method.predict([question for _, question in part]).values
            known |= {key: it for (key, _), it in zip(part, found, strict=True) if it is not None}
            write_json(self.memory, known)
        return [known.get(key) for key in keys]

    def _key(self, question: str) -> str:
        options = self.method.options.model_dump(mode="json")
        kept = {name: it for name, it in options.items() if name not in self.method.free}
        return hashlib.sha256(json.dumps([self.method.name, kept, question]).encode()).hexdigest()

    def question(self, request: str, first: str, second: str) -> str:
        """With as much of the texts as the judge can read. Raises UserError where that is next to nothing."""
        asked = KOREAN_QUESTION if is_korean(request) else QUESTION
        for most in TEXT_LENGTHS:
            texts = (text if len(text) <= most else f"{text[:most]}…" for text in (request, first, second))
            if not self.method.cut_note([found := asked.format(*texts)]):
                return found
        raise UserError(f"`judge` {self.name} has too short a context to compare texts; name another")


def make_judge(settings: ComparisonSettings, task: Task[Any, Any], out: Path) -> Judge | None:
    """The judge that is asked for, not yet opened. Raises UserError where it or the task is none."""
    if (named := settings.judge) is None:
        if settings.judge_options:
            raise UserError(
                f"`set` judge.{next(iter(settings.judge_options))} needs a judge; name one: `judge`"
            )
        return None
    if not task.kind.is_text or task.kind.goes_on:
        raise UserError(f"`judge` compares texts that answer something; {task.name} has none")
    asked, memory = Better().with_labels((FIRST, SECOND)), out / JUDGED
    if named != REMOTE:
        path = model_path(named)
        if not is_model(path):
            raise UserError(f"`judge` {named} is neither a language model's folder or file, nor 'remote'")
        options = {"model": str(path), "shots": 0, "calibrate": False} | settings.judge_options
        return Judge(path.name, make_method("prompted", asked, options), memory)
    known = next((it for name, it in settings.methods.items() if name.partition(":")[0] == REMOTE), {})
    options = {"max_new_tokens": REPLY_TOKENS, **known, "shots": 0} | settings.judge_options
    if not {"base_url", "model"} <= options.keys():
        raise UserError("`judge` remote needs `set` judge.base_url=ADDRESS and `set` judge.model=NAME")
    return Judge(str(options["model"]), make_method(REMOTE, asked, options), memory)


def judge_texts(
    judge: Judge, verdict: Verdict, material: Material, settings: ComparisonSettings, say: Say
) -> Judgement | None:
    """Every other method against the best one; None where there is none. Raises UserError as the judge."""
    if len(verdict.ranking) < 2:
        return None
    total = len(material.test)
    numbers = sample(range(total), min(total, settings.judge_limit), settings.seed)
    best, *others = verdict.ranking
    say(f"{judge.name} judges the texts of {len(numbers)} of {total} test examples, each pair in both orders")
    judge.method.fit((), ())
    found = [_against(row, best, judge, material, numbers, say) for row in others]
    return Judgement(judge.name, len(numbers), total, found)


def _against(
    row: MethodRow, best: MethodRow, judge: Judge, material: Material, numbers: Sequence[int], say: Say
) -> HeadToHead:
    """By the examples for which the two say different things."""
    apart = [number for number in numbers if row.predictions[number] != best.predictions[number]]
    texts = [[one.predictions[number] or NOTHING for one in (row, best)] for number in apart]
    questions = [
        judge.question(_request(material, number), *both)
        for number, (ours, theirs) in zip(apart, texts, strict=True)
        for both in ((ours, theirs), (theirs, ours))
    ]
    done = Progress(len(questions), "question", lambda line: say(f"{row.name}: {line}"), pause_s())
    answers = judge.answers(questions, done)
    pairs = dict(zip(apart, zip(answers[::2], answers[1::2], strict=True), strict=True))
    return head_to_head(row.name, best.name, pairs, numbers, material.groups_E)


def head_to_head(
    name: str, against: str, pairs: Mapping[int, Pair], numbers: Sequence[int], groups_E: Ints | None = None
) -> HeadToHead:
    """From the answers by example, the method's text first and then second; examples without any are ties."""
    values_E = np.array([POINTS.get(pairs.get(number, (None, None)), 0.5) for number in numbers])
    if groups_E is not None:
        groups_E = np.unique(groups_E[list(numbers)], return_inverse=True)[1]
    wins = replace(mean(values_E, signature="a tie is half"), groups_E=groups_E).metric()
    won, lost = (int((values_E == value).sum()) for value in (1.0, 0.0))
    return HeadToHead(
        name, against, wins, won, lost, len(numbers) - won - lost, len(pairs),
        first=sum(pair.count(FIRST) for pair in pairs.values()),
        inconsistent=sum(pair[0] == pair[1] is not None for pair in pairs.values()),
        unanswered=sum(None in pair for pair in pairs.values()),
    )  # fmt: skip


def _request(material: Material, number: int) -> str:
    """What was asked, in the words that a language model is asked in; of a conversation all turns."""
    messages = material.task.prompt(material.test[number].input)
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{it.role}: {it.content}" for it in messages)
