"""The one way to ask a language model to do a task: compared, served, tuned or teaching another.

A chat model gets turns by its own template. A foundation model gets plain text, every exchange as
`ask\\nanswer\\n\\n`, and its reply ends with the line (where answers have several lines, at a blank one).
A choice is made by likelihood. Lists of labels are spelled under a constraint, and so are entities and
excerpts, so that they are parts of the input; with a tokenizer that cannot spell every byte, what is no
label or part is dropped afterwards. Other texts are free. Replies are greedy. A text to label or to tag that
does not fit into the context is read in overlapping windows, as networks read it.

Shape letters: N inputs, L labels, F content-free inputs.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import OVERLAP, Done, Examples, Message, Question, silent
from malmoi.engine.constraints import Grammar, entity_list, label_list, substring
from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling
from malmoi.engine.score import score_choices, score_in_parts
from malmoi.tasks.base import Task, is_korean
from malmoi.tasks.checks import labels_in, two_or_more
from malmoi.tasks.kinds import LABEL, LABELS, SPAN, TAGS, Kind, joined_entities, moved
from malmoi.text.chat import ChatFormat, chat_template
from malmoi.text.tokenizer import Tokenizer

CONTINUED_TOKENS = 64  # of a text that goes on
USUAL = 98  # percent of the answers: the few longest ones do not decide how long replies may be
CONTENT_FREE = ("N/A", "", "[MASK]")  # Zhao et al. 2021
_PLACEHOLDERS = ("placeholder", "자리표시")  # what is asked about in English, in Korean

WINDOWED = (LABEL, TAGS)  # kinds whose targets windows of a text have themselves
MOST_WINDOWS = 16
MOST_CHARACTERS = 16  # of a token, about: what lies further on need not be cut to see what fits

Floats = NDArray[np.float64]
Pick = Callable[[Any], Examples]
# What a reply is held to: by the input, the labels, and what ends a reply.
GRAMMARS: dict[Kind, Callable[[Any, Sequence[str], str], Grammar | None]] = {
    LABELS: lambda _, labels, __: label_list(labels),
    TAGS: lambda text, labels, _: entity_list(text, labels),
    SPAN: lambda asked, _, end: substring(asked.context, end) if asked.context else None,
}


def no_shots(_: Any) -> Examples:
    """A `Pick` that shows nothing."""
    return ()


class AskSettings(StrictModel):
    """What is settled about the asking before the first question; saved with a method.

    template: None for plain text. goes_on: a text is simply continued, nothing is asked.
    """

    template: str | None
    goes_on: bool
    labels: tuple[str, ...]
    one_line: bool
    reply_tokens: int

    @classmethod
    def as_it_is(
        cls, task: Task[Any, Any], train: Examples, engine: Engine, reply_tokens: int | None = None
    ) -> Self:
        """As `learn`, for a model that is not tuned: asked in its own turns, else in plain text."""
        template = chat_template(engine.tokenizer)
        goes_on = task.kind.goes_on and template is None
        return cls.learn(
            task, train, engine.tokenizer, template, goes_on=goes_on, reply_tokens=reply_tokens,
            context=engine.scorer.context,
        )  # fmt: skip

    @classmethod
    def learn(
        cls, task: Task[Any, Any], train: Examples, tokenizer: Tokenizer, template: str | None,
        *, goes_on: bool, reply_tokens: int | None, context: int | None,
    ) -> Self:  # fmt: skip
        """From training examples; a reply may be a little longer than the long ones of their answers.

        Without examples, labels are those that the task knows. Half of the context is for the prompt in any
        case. Raises UserError where the labels leave nothing to decide.
        """
        labels, kind = known_labels(task, train), task.kind
        answers = [task.answer(example.target, example.input) for example in train]
        replies = labels if kind.is_choice else answers
        lengths = [len(ids) for ids in tokenizer.encode_batch(replies)] or [kind.reply_tokens]
        usual = float(np.percentile(lengths, 100 if kind.is_choice else USUAL))
        wanted = reply_tokens or (CONTINUED_TOKENS if kind.goes_on else int(usual * 1.25) + 8)
        return cls(
            template=template, goes_on=goes_on, labels=labels,
            one_line=not any("\n" in answer.strip() for answer in answers),
            reply_tokens=min(wanted, max(1, (context or sys.maxsize) // 2)),
        )  # fmt: skip


def known_labels(task: Task[Any, Any], examples: Examples) -> tuple[str, ...]:
    """The labels in the examples, else those that the task knows. Raises UserError for too few of them."""
    labels = labels_in(examples, task.kind) or sorted(set(task.labels))
    if task.kind.is_choice:
        return tuple(two_or_more(labels))
    if len(labels) < task.kind.fewest_labels:
        raise UserError(f"no example has {task.kind.labelled}; give some that have")
    return tuple(labels)


class Asked(NamedTuple):
    """A prompt that fits. value: the input as the model sees it, which begins at the character `start` of a
    longer text; dropped: exchanges left out before it."""

    ids: list[int]
    value: Any
    dropped: int = 0
    start: int = 0

    @property
    def end(self) -> int:
        """Of a text: where what the model sees ends."""
        return self.start + len(self.value)


class Asker:
    """Asks one model to do one task. pick: the solved examples to show before an input."""

    def __init__(
        self, engine: Engine, task: Task[Any, Any], settings: AskSettings, pick: Pick = no_shots
    ) -> None:
        """Raises UserError where the context cannot hold a question."""
        self.engine, self.settings, self.pick = engine, settings, pick
        self.scorer, self.tokenizer = scorer, tokenizer = engine.scorer, engine.tokenizer
        self.format: Format = (
            PlainText(tokenizer, settings.one_line) if settings.template is None
            else ChatTurns(ChatFormat(tokenizer, settings.template))
        )  # fmt: skip
        self.most = (scorer.context or sys.maxsize) - settings.reply_tokens  # tokens of a prompt
        self.task = task.with_labels(settings.labels)
        if settings.labels and self._labels_tokens() > self.most // 2:
            self.task = task.with_labels(())
        self.free_scores = cache(self._free_scores)

    def _labels_tokens(self) -> int:
        """What listing the labels in a question takes."""
        tasks = self.task, self.task.with_labels(())
        listed, unlisted = (self.format.prompt_ids(tidied(task.prompt(""))) for task in tasks)
        return len(listed) - len(unlisted)

    @property
    def constrains(self) -> bool:
        """Whether replies are held to a form."""
        return self.task.kind in GRAMMARS and self.tokenizer.spells_bytes

    def note(self, values: Sequence[Any]) -> str:
        """What of the asking is not as one might think, counted over `values`, in a line; or ''."""
        found: list[str] = []
        if self.settings.labels and not self.task.labels:
            found.append(f"the {len(self.settings.labels)} labels are not listed in the question: too long")
        if self.task.kind in GRAMMARS and not self.constrains:
            kind = self.tokenizer.kind
            found.append(f"replies are free, not held to a form: its {kind} tokenizer cannot spell all")
        return "; ".join(filter(None, (*found, self.cut_note(values))))

    def cut_note(self, values: Sequence[Any]) -> str:
        """How much of the prompts of `values` was left out, in a line; or ''."""
        asked = [self.windows(value) for value in values]
        dropped = sum(one.dropped > 0 for one, *_ in asked)
        cut = sum(not self._reads_all(each, value) for each, value in zip(asked, values, strict=True))
        if not dropped and not cut:
            return ""
        return (
            f"to fit into {self.most} tokens, {dropped} of {len(values)} prompts lost their oldest shots "
            f"or turns, and {cut} a part of their input"
        )

    # ---- prompts

    def ask(self, value: Any) -> Asked:
        """The prompt of an input. Raises UserError where not even the question without it fits."""
        if self.settings.goes_on:
            return self._begun(value)
        messages = tidied(self.task.prompt(value, self.pick(value)))
        ids, dropped = self._fitted(messages)
        return Asked(ids, value, dropped) if len(ids) <= self.most else self._cut(value, dropped)

    def windows(self, value: Any) -> list[Asked]:
        """The prompts that an input is read by: of a text to label or to tag that does not fit overlapping
        ones, MOST_WINDOWS at most; of anything else the one of `ask`."""
        found = [self.ask(value)]
        if self.task.kind not in WINDOWED:
            return found
        while len(found) < MOST_WINDOWS and found[-1].value and not self._reads_all(found, value):
            start = found[-1].start + max(1, int(len(found[-1].value) * (1 - OVERLAP)))
            rest = value[start : start + self.most * MOST_CHARACTERS]
            found.append(self._cut(rest, 0)._replace(start=start))
        return found

    def _reads_all(self, found: Sequence[Asked], value: Any) -> bool:
        return found[-1].value == value or (self.task.kind in WINDOWED and found[-1].end == len(value))

    def part_of(self, target: Any, asked: Asked) -> Any | None:
        """What of the target of a whole input stands in that window of it; None: nothing."""
        if asked.start:
            target = moved(target, -asked.start) if self.task.kind is TAGS else target
        return self.task.kind.within(target, asked.value)

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
                f"{self.task.name} and a reply of {self.settings.reply_tokens}; use one with a longer context"
            )
        seen = shortened(value, most)
        return Asked(self._ids(seen), seen, dropped)

    # ---- answers

    def answers(self, values: Sequence[Any], done: Done = silent) -> list[Any | None]:
        """A target for each input, where the reply is one."""
        windows = [self.windows(value) for value in values]
        asked = [one for each in windows for one in each]
        order = sorted(range(len(asked)), key=lambda i: len(asked[i].ids))  # like lengths run together
        replies = self.engine.generate(
            [asked[i].ids for i in order], [self.sampling(asked[i]) for i in order], done
        )
        found = {i: reply.text for i, reply in zip(order, replies, strict=True)}
        texts = (found[i] for i in range(len(asked)))
        pairs = zip(windows, values, strict=True)
        return [self._joined(each, [next(texts) for _ in each], value) for each, value in pairs]

    def _joined(self, windows: Sequence[Asked], replies: Sequence[str], value: Any) -> Any | None:
        """The target in the replies to the windows of an input."""
        if len(windows) == 1:
            return self.read(replies[0], value)
        read = [self.read(reply, one.value) for one, reply in zip(windows, replies, strict=True)]
        if all(entities is None for entities in read):
            return None
        places = [(one.start, one.end) for one in windows]
        return joined_entities(
            places, [moved(it or (), one.start) for one, it in zip(windows, read, strict=True)]
        )

    def sampling(self, asked: Asked) -> Sampling:
        """How the reply to a prompt is generated."""
        stop = () if self.settings.goes_on else self.format.stop
        grammar = GRAMMARS[self.task.kind] if self.constrains else None
        end = "".join(self.format.stop)
        constraint = grammar(asked.value, self.settings.labels, end) if grammar else None
        return Sampling(
            max_tokens=self.settings.reply_tokens, temperature=0, stop=stop, constraint=constraint
        )

    def read(self, reply: str, value: Any) -> Any | None:
        """The target in a reply, if there is one."""
        kind = self.task.kind
        found = self.task.parse(reply if kind.goes_on else reply.strip(), value)
        if found is None and kind.closed:
            found = self.task.parse(kind.closed(reply), value)
        return None if found is None else kind.usable(found, self.settings.labels)

    # ---- likelihoods

    def label_probabilities(
        self, values: Sequence[str], *, calibrate: bool = False, done: Done = silent
    ) -> list[dict[str, float]]:
        """The probability of each label for each input; calibrate: as `calibrated`."""
        if not values:
            return []
        scores_NL = self.label_scores(values, done)
        found_NL = self.calibrated(values, scores_NL) if calibrate else softmax(scores_NL)
        return [dict(zip(self.settings.labels, row, strict=True)) for row in found_NL.tolist()]

    def calibrated(self, values: Sequence[str], scores_NL: Floats) -> Floats:
        """Probabilities_NL, each calibrated by the content-free questions in its own language."""
        found_NL = np.empty_like(scores_NL)
        korean_N = np.array([is_korean(self.task.key(value)) for value in values], dtype=bool)
        for korean in set(korean_N.tolist()):
            rows = korean_N == korean
            found_NL[rows] = calibrated(scores_NL[rows], self.free_scores(korean))
        return found_NL

    def label_scores(self, values: Sequence[str], done: Done = silent) -> Floats:
        """Log-likelihoods_NL (nats) of each label and that the reply ends after it; of a text that is read in
        windows the logarithm of the labels' mean probabilities."""
        windows = [self.windows(value) for value in values]
        ids = [one.ids for each in windows for one in each]
        scores = iter(self._scores(ids, lambda count: done(count * len(values) // len(ids))))
        found = [np.array([next(scores) for _ in each]) for each in windows]
        rows = [one[0] if len(one) == 1 else np.log(softmax(one).mean(0)) for one in found]
        return np.array(rows).reshape(len(values), len(self.settings.labels))

    def _free_scores(self, korean: bool) -> Floats:
        """Log-likelihoods_FL of the labels where the question is about nothing."""
        about = _PLACEHOLDERS[korean]
        *before, asked = tidied(self.task.prompt(about, self.pick(about)))
        texts = [asked.content.replace(about, free) for free in CONTENT_FREE]
        return self._scores([self._fitted([*before, Message("user", text)])[0] for text in texts])

    def _scores(self, prompts: Sequence[list[int]], done: Done = silent) -> Floats:
        labels = self.tokenizer.encode_batch(self.settings.labels)
        choices = [[*ids, *self.format.end_ids] for ids in labels]
        found = score_choices(self.engine, prompts, [choices] * len(prompts), done)
        return np.array(found, dtype=np.float64).reshape(len(prompts), len(choices))

    def log_likelihood(self, values: Sequence[Any], targets: Sequence[str]) -> list[float]:
        """Nats of each target after its prompt, and that the reply ends there (but not that a text does)."""
        ends = [] if self.task.kind.goes_on else self.format.end_ids
        pairs = [
            (self.ask(value).ids, [*ids, *ends])
            for value, ids in zip(values, self.tokenizer.encode_batch(targets), strict=True)
        ]
        return score_in_parts(self.engine, pairs)


def softmax(scores_NL: Floats) -> Floats:
    """Probabilities_NL."""
    return np.exp(scores_NL - np.logaddexp.reduce(scores_NL, axis=1, keepdims=True))


def calibrated(scores_NL: Floats, free_FL: Floats) -> Floats:
    """Probabilities_NL, each divided by what the label gets where there is nothing to judge (Zhao et al.
    2021): the mean over content-free inputs. Scores are log-likelihoods."""
    bias_L = np.log(np.maximum(softmax(free_FL).mean(0), np.finfo(np.float64).tiny))
    return softmax(scores_NL - bias_L)


# ---- what a prompt looks like


class Format(Protocol):
    """How messages become ids."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end a reply (a special token always does)."""
        ...

    @property
    def end_ids(self) -> list[int]:
        """What a model that was asked like this says after its answer."""
        ...

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Everything up to where the reply begins."""
        ...


class ChatTurns:
    """Of a chat model, by its template."""

    stop = ()

    def __init__(self, form: ChatFormat) -> None:
        self.prompt_ids = form.prompt_ids
        self.end_ids = sorted(form.end_ids)[:1]


class PlainText:
    """Of a foundation model. one_line: whether no answer has more than one line."""

    def __init__(self, tokenizer: Tokenizer, one_line: bool) -> None:
        self.stop = ("\n" if one_line else "\n\n",)
        self.end_ids = tokenizer.encode(self.stop[0])
        self._tokenizer = tokenizer

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The end of a text, which is how the next one begins, then the exchanges."""
        ends = {"user": "\n", "assistant": "\n\n", "system": "\n\n"}
        text = "".join(message.content + ends[message.role] for message in messages)
        return [self._tokenizer.start, *self._tokenizer.encode(text)]


def tidied(messages: Sequence[Message]) -> list[Message]:
    """The same in the order that templates take: one turn of the system or none, then user and assistant by
    turns, the user last. What is empty is left out; a user who says nothing says "..."."""
    said = [message for message in messages if message.content.strip()]
    system = [message.content for message in said if message.role == "system"]
    turns: list[Message] = []
    for message in said:
        if message.role == "system" or (message.role == "assistant" and not turns):
            continue
        before = f"{turns.pop().content}\n" if turns and turns[-1].role == message.role else ""
        turns.append(Message(message.role, before + message.content))
    if not turns or turns[-1].role == "assistant":
        turns.append(Message("user", "..."))
    return [Message("system", "\n".join(system)), *turns] if system else turns


def without_oldest(messages: Sequence[Message]) -> list[Message]:
    """Tidied messages without the first exchange."""
    first = int(messages[0].role == "system")
    return [*messages[:first], *messages[first + 2 :]]


def shortened(value: Any, most: int) -> Any:
    """An input with each of its texts cut to `most` characters: the longest is cut first, none is moved."""
    match value:
        case str():
            return value[:most]
        case Question():
            return Question(value.question[:most], value.context[:most])
    return tuple(Message(message.role, message.content[:most]) for message in value)
