"""How a language model is asked to do a task, and how its answer is read: the same in tuning and in use.

A label is chosen by its likelihood. Entities and answers are spelled under a constraint, so that they are
parts of the input; with a tokenizer that is not byte-level, what is no part of it is dropped afterwards.
Other texts are free. Replies are greedy.

Shape letters: N inputs, L labels, F content-free inputs.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Entity, Examples, Message
from malmoi.engine.constraints import Grammar, entity_list, substring
from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling
from malmoi.hub.folder import load_model
from malmoi.inside.sources import NextToken, ReadText, Source
from malmoi.methods.base import Method, two_or_more
from malmoi.methods.llm.format import Format, PlainText, Turns, shortened, tidied, without_oldest
from malmoi.methods.neural.continuations import scored
from malmoi.models.language import LanguageModel
from malmoi.models.state import Scorer
from malmoi.tasks.base import Task
from malmoi.tasks.checks import labels_in
from malmoi.text.chat import ChatFormat
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.hardware import pick_device

MAX_ROWS = 32  # prompts that are answered at the same time
CONTINUED_TOKENS = 64  # of a text that goes on
# of a reply, where no examples tell how long replies are
REPLY_TOKENS = {"label": 16, "tags": 512, "span": 64, "text": 512, "continuation": 256}
USUAL = 98  # percent of the answers: the few longest ones do not decide how long replies may be
CONTENT_FREE = ("N/A", "", "[MASK]")  # Zhao et al. 2021
_PLACEHOLDERS = ("placeholder", "자리표시")  # what is asked about in English, in Korean

Floats = NDArray[np.float64]
Pick = Callable[[Any], Examples]


class Manner(StrictModel):
    """What is settled about the asking before the first question; saved with a method.

    template: None for plain text. goes_on: a text is simply continued, nothing is asked.
    """

    template: str | None
    goes_on: bool
    labels: tuple[str, ...]
    one_line: bool
    reply_tokens: int

    @classmethod
    def learn(
        cls, task: Task[Any, Any], train: Examples, tokenizer: Tokenizer, template: str | None,
        *, goes_on: bool, reply_tokens: int | None, context: int | None,
    ) -> Self:  # fmt: skip
        """From training examples; a reply may be a little longer than the long ones of their answers.

        Without examples, labels are those that the task knows. Half of the context is for the prompt in any
        case. Raises UserError where the labels leave nothing to decide.
        """
        labels = known_labels(task, train)
        answers = [task.answer(example.target, example.input) for example in train]
        told = labels if task.kind == "label" else answers
        lengths = [len(ids) for ids in tokenizer.encode_batch(told)] or [REPLY_TOKENS[task.kind]]
        usual = float(np.percentile(lengths, 100 if task.kind == "label" else USUAL))
        wanted = reply_tokens or (CONTINUED_TOKENS if task.kind == "continuation" else int(usual * 1.25) + 8)
        return cls(
            template=template, goes_on=goes_on, labels=labels,
            one_line=not any("\n" in answer.strip() for answer in answers),
            reply_tokens=min(wanted, max(1, (context or sys.maxsize) // 2)),
        )  # fmt: skip


def known_labels(task: Task[Any, Any], examples: Examples) -> tuple[str, ...]:
    """The labels in the examples, else those that the task knows. Raises UserError for too few of them."""
    labels = labels_in(examples, task.kind) or sorted(set(task.labels))
    if task.kind == "tags" and not labels:
        raise UserError("no example has an entity; give some that have")
    return tuple(two_or_more(labels) if task.kind == "label" else labels)


class Asked(NamedTuple):
    """A prompt that fits. value: the input as the model sees it; dropped: exchanges left out before it."""

    ids: list[int]
    value: Any
    dropped: int = 0


class Asker:
    """Asks one model to do one task. pick: the solved examples to show before an input."""

    def __init__(
        self, scorer: Scorer, tokenizer: Tokenizer, task: Task[Any, Any], manner: Manner,
        pick: Pick = lambda _: (),
    ) -> None:  # fmt: skip
        """Raises UserError where the context cannot hold a question."""
        self.scorer, self.tokenizer, self.manner, self.pick = scorer, tokenizer, manner, pick
        self.engine = Engine(scorer, tokenizer, max_rows=MAX_ROWS)
        self.format: Format = (
            PlainText(tokenizer, manner.one_line) if manner.template is None
            else Turns(ChatFormat(tokenizer, manner.template))
        )  # fmt: skip
        self.most = (scorer.context or sys.maxsize) - manner.reply_tokens  # tokens of a prompt
        self.task = copy(task)  # with labels of its own
        self.task.labels = manner.labels
        if manner.labels and self._labels_tokens() > self.most // 2:
            self.task.labels = ()
        self.free_scores = cache(self._free_scores)

    def _labels_tokens(self) -> int:
        """What listing the labels in a question takes."""
        bare = copy(self.task)
        bare.labels = ()
        listed, unlisted = (self.format.prompt_ids(tidied(it.prompt(""))) for it in (self.task, bare))
        return len(listed) - len(unlisted)

    @property
    def constrains(self) -> bool:
        """Whether replies are held to parts of the input."""
        return self.task.kind in ("tags", "span") and self.tokenizer.is_byte_level

    def note(self, values: Sequence[Any]) -> str:
        """What of the asking is not as one might think, counted over `values`, in a line; or ''."""
        found: list[str] = []
        if self.manner.labels and not self.task.labels:
            found.append(f"the {len(self.manner.labels)} labels are not listed in the question: too long")
        if self.task.kind in ("tags", "span") and not self.constrains:
            kind = self.tokenizer.kind
            found.append(f"replies are free, not held to the input: its {kind} tokenizer is not byte-level")
        asked = [self.ask(value) for value in values]
        dropped = sum(one.dropped > 0 for one in asked)
        cut = sum(one.value != value for one, value in zip(asked, values, strict=True))
        if dropped or cut:
            found.append(
                f"to fit into {self.most} tokens, {dropped} of {len(values)} prompts lost their oldest shots "
                f"or turns, and {cut} a part of their input"
            )
        return "; ".join(found)

    # ---- prompts

    def ask(self, value: Any) -> Asked:
        """The prompt of an input. Raises UserError where not even the question without it fits."""
        if self.manner.goes_on:
            return self._begun(value)
        messages = tidied(self.task.prompt(value, self.pick(value)))
        ids, dropped = self._fitted(messages)
        return Asked(ids, value, dropped) if len(ids) <= self.most else self._cut(value, dropped)

    def _begun(self, text: str) -> Asked:
        """The text itself, or as much of its end as fits."""
        ids = self.tokenizer.encode(text)
        kept = ids[max(0, len(ids) - self.most + 1) :]
        seen = text if len(kept) == len(ids) else self.tokenizer.decode(kept)
        return Asked([self.tokenizer.start, *kept], seen)

    def _fitted(self, messages: list[Message]) -> tuple[list[int], int]:
        """The ids, and how many of the oldest exchanges were left out for them to fit; more may be needed."""
        dropped = 0
        while len(ids := self.format.prompt_ids(messages)) > self.most and len(messages) > 2:
            messages, dropped = without_oldest(messages), dropped + 1
        return ids, dropped

    def _ids(self, value: Any) -> list[int]:
        """The question alone."""
        messages = tidied(self.task.prompt(value))
        return self.format.prompt_ids([*(it for it in messages if it.role == "system"), messages[-1]])

    def _cut(self, value: Any, dropped: int) -> Asked:
        """As many characters of each text of the input as fit."""
        lengths = range(len(self.task.key(value)) + 1)
        most = bisect_right(lengths, self.most, key=lambda n: len(self._ids(shortened(value, n)))) - 1
        if most < 0:
            raise UserError(
                f"the model's context of {self.scorer.context} tokens cannot hold a question of "
                f"{self.task.name} and a reply of {self.manner.reply_tokens}; use one with a longer context"
            )
        seen = shortened(value, most)
        return Asked(self._ids(seen), seen, dropped)

    # ---- answers

    def answers(self, values: Sequence[Any]) -> list[Any | None]:
        """A target for each input, where the reply is one."""
        asked = [self.ask(value) for value in values]
        params = [self._sampling(one.value) for one in asked]
        replies = self.engine.generate([one.ids for one in asked], params)
        return [self._read(reply.text, value) for reply, value in zip(replies, values, strict=True)]

    def _sampling(self, value: Any) -> Sampling:
        stop = () if self.manner.goes_on else self.format.stop
        constraint = self._constraint(value) if self.constrains else None
        return Sampling(max_tokens=self.manner.reply_tokens, temperature=0, stop=stop, constraint=constraint)

    def _constraint(self, value: Any) -> Grammar | None:
        if self.task.kind == "tags":
            return entity_list(value, self.manner.labels)
        end = "".join(self.format.stop)
        return substring(value.context, end) if value.context else None

    def _read(self, reply: str, value: Any) -> Any | None:
        if self.task.kind == "continuation":
            return self.task.parse(reply, value)
        found = self.task.parse(reply.strip(), value)
        if self.task.kind == "tags":
            return self._known(found if found is not None else self.task.parse(closed(reply), value))
        return None if isinstance(found, Answer) and found.start < 0 else found

    def _known(self, entities: Sequence[Entity] | None) -> Any | None:
        return None if entities is None else tuple(it for it in entities if it.label in self.manner.labels)

    # ---- likelihoods

    def label_scores(self, values: Sequence[str]) -> Floats:
        """Log-likelihoods_NL (nats) of each label and that the reply ends after it."""
        return self._scores([self.ask(value).ids for value in values])

    def _free_scores(self, korean: bool) -> Floats:
        """Log-likelihoods_FL of the labels where the question is about nothing."""
        about = _PLACEHOLDERS[korean]
        *before, asked = tidied(self.task.prompt(about, self.pick(about)))
        texts = [asked.content.replace(about, free) for free in CONTENT_FREE]
        return self._scores([self._fitted([*before, Message("user", text)])[0] for text in texts])

    def _scores(self, prompts: Sequence[list[int]]) -> Floats:
        labels = self.tokenizer.encode_batch(self.manner.labels)
        choices = [[*ids, *self.format.end_ids] for ids in labels]
        found = self.engine.score_choices(prompts, [choices] * len(prompts))
        return np.array(found, dtype=np.float64).reshape(len(prompts), len(choices))

    def log_likelihood(self, values: Sequence[Any], targets: Sequence[str]) -> list[float]:
        """Nats of each target after its prompt, and that the reply ends there (but not that a text does)."""
        ends = [] if self.task.kind == "continuation" else self.format.end_ids
        pairs = [
            (self.ask(value).ids, [*ids, *ends])
            for value, ids in zip(values, self.tokenizer.encode_batch(targets), strict=True)
        ]
        return scored(self.engine, pairs, self.scorer.context)


def closed(reply: str) -> str:
    """A JSON list that was cut, ended after its last whole object."""
    return f"{reply[: reply.rfind('}') + 1]}]"


def softmax(scores_NL: Floats) -> Floats:
    """Probabilities_NL."""
    return np.exp(scores_NL - np.logaddexp.reduce(scores_NL, axis=1, keepdims=True))


def calibrated(scores_NL: Floats, free_FL: Floats) -> Floats:
    """Probabilities_NL, each divided by what the label gets where there is nothing to judge (Zhao et al.
    2021): the mean over content-free inputs. Scores are log-likelihoods."""
    bias_L = np.log(np.maximum(softmax(free_FL).mean(0), np.finfo(np.float64).tiny))
    return softmax(scores_NL - bias_L)


class LanguageMethod(Method):
    """A method that has its `asker` after `fit` or `restore`."""

    kinds = frozenset({"label", "tags", "span", "text", "continuation"})
    needs_model = True
    asker: Asker

    def to(self, device: str) -> Self:
        if isinstance(self.asker.scorer, LanguageModel):
            self.asker.scorer.to(device)
        return self

    def predict(self, inputs: Sequence[Any]) -> list[Any | None]:
        if self.task.kind == "label":
            return [max(found, key=found.__getitem__) for found in self.probabilities(inputs) or ()]
        return self.asker.answers(inputs)

    def probabilities(self, inputs: Sequence[Any]) -> list[dict[str, float]] | None:
        if self.task.kind != "label":
            return None
        rows = self.label_probabilities(inputs).tolist() if inputs else []
        return [dict(zip(self.asker.manner.labels, row, strict=True)) for row in rows]

    def label_probabilities(self, inputs: Sequence[str]) -> Floats:
        """Probabilities_NL."""
        return softmax(self.asker.label_scores(inputs))

    def insides(self, value: Any) -> tuple[Source, ...]:
        text = ReadText.of(value, self.asker.tokenizer)
        return text, NextToken(self.asker.scorer, self.asker.tokenizer, text.text)

    @property
    def network(self) -> nn.Module | None:
        return self.asker.scorer if isinstance(self.asker.scorer, nn.Module) else None

    def log_likelihood(self, inputs: Sequence[Any], targets: Sequence[str]) -> list[float] | None:
        if self.task.kind not in ("text", "continuation"):
            return None
        return self.asker.log_likelihood(inputs, targets)


def open_model(folder: Path) -> tuple[Scorer, Tokenizer]:
    """A language model on this machine's device. Raises UserError where there is none, or no tokenizer."""
    model, tokenizer = load_model(folder, device=pick_device())
    if tokenizer is None:
        raise UserError(f"{folder} has no tokenizer.json, so nothing can be asked of it; add the model's own")
    if isinstance(model, LanguageModel):
        model.eval()
    return model, tokenizer
