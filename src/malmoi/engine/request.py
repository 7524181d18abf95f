"""What a user asks of the engine, what it answers, and one sample on its way between the two."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from malmoi.core.errors import UserError
from malmoi.engine.constraints import Grammar, Matcher
from malmoi.engine.lookup import Lookup

FinishReason = Literal["stop", "length", "cancelled", "failed"]
SampleKey = tuple[int, int]  # a request's number, and which of its samples
TopLogprobs = tuple[tuple[int, float], ...]
MOST_WHOLE = 2**31 - 1  # of a count or an id
MOST_SEEDS = 2**64


class Range(NamedTuple):
    """What a number of `Sampling` may be; kind: Integral or Real; off: what leaves the output alone."""

    kind: type
    least: float
    most: float
    off: str = ""

    def holds(self, value: Any) -> bool:
        """Whether the value lies within."""
        return isinstance(value, self.kind) and bool(self.least <= value <= self.most)

    def __str__(self) -> str:
        kind = "whole number" if self.kind is Integral else "number"
        return f"a {kind} from {self.least} to {self.most}" + (f", where {self.off}" if self.off else "")


RANGES = {
    "max_tokens": Range(Integral, 1, MOST_WHOLE), "top_k": Range(Integral, 0, MOST_WHOLE),
    "n": Range(Integral, 1, MOST_WHOLE), "logprobs": Range(Integral, 0, MOST_WHOLE),
    "temperature": Range(Real, 0, 100, "0 is greedy"), "min_p": Range(Real, 0, 1, "0 is off"),
    "repetition_penalty": Range(Real, 0.01, 100, "1 is off"),
    "presence_penalty": Range(Real, -100, 100, "0 is off"),
    "frequency_penalty": Range(Real, -100, 100, "0 is off"),
}  # fmt: skip
TOP_P, SEED = Range(Real, 0, 1), Range(Integral, 0, MOST_SEEDS - 1)
BIAS, BIASED_ID = Range(Real, -100, 100), Range(Integral, 0, MOST_WHOLE)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. Raises UserError for a value out of range; within, no arithmetic overflows.

    temperature: 0 is greedy. top_k: 0 is off. top_p: nucleus (Holtzman et al. 2020), 1 is off. min_p: drop
    what is less probable than min_p times the best (Nguyen et al. 2024), 0 is off. repetition_penalty: CTRL's
    (Keskar et al. 2019), 1 is off. presence_penalty, frequency_penalty: what a token's logit loses once,
    and for each time, that it was sampled; logit_bias: (id, what its logit gains), as in OpenAI's
    interface. seed: None draws a fresh one. stop: strings that end the text and are not
    shown. n: samples of one prompt. logprobs: how many of the best alternatives to report at each token.
    constraint: what the answer may be (`malmoi.engine.constraints`); max_tokens may cut it. biases: the ids
    and the gains of logit_bias, made once and not at every step.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int = 0
    constraint: Grammar | None = None
    biases: tuple[NDArray[np.int64], NDArray[np.float32]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            self._require(name, allowed.holds(getattr(self, name)), str(allowed))
        nucleus = TOP_P.holds(self.top_p) and self.top_p > 0
        self._require("top_p", nucleus, "a number above 0, up to 1 (off)")
        biased = isinstance(self.logit_bias, tuple | list) and all(map(_is_bias, self.logit_bias))
        self._require("logit_bias", biased, "pairs of a token's id and a number from -100 to 100")
        seeded = self.seed is None or SEED.holds(self.seed)
        self._require("seed", seeded, "a whole number from 0 to 2**64 - 1, or none")
        # a lone string would be its letters
        stops = isinstance(self.stop, tuple | list) and all(isinstance(one, str) and one for one in self.stop)
        self._require("stop", stops, "a list of strings of at least one character")
        ids, values = zip(*self.logit_bias, strict=True) if self.logit_bias else ((), ())
        object.__setattr__(self, "biases", (np.array(ids, np.int64), np.array(values, np.float32)))

    @property
    def changes_logits(self) -> bool:
        """Whether a bias or a penalty is on."""
        penalties = (self.presence_penalty, self.frequency_penalty, self.repetition_penalty - 1)
        return bool(self.logit_bias) or any(penalties)

    @property
    def takes_best(self) -> bool:
        """Whether the next token is simply the one with the largest logit of those that may follow."""
        return self.temperature == 0 and not self.changes_logits

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise UserError(f"sampling: {name} is {_shown(getattr(self, name))}; it must be {allowed}")


def _is_bias(pair: object) -> bool:
    match pair:
        case (id, bias):
            return BIASED_ID.holds(id) and BIAS.holds(bias)
        case _:
            return False


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token of one sample.

    index: which of the request's n samples. id: the token, an ending special included; None where a sample
    was cancelled, failed or no token can spell what its constraint wants. text: what became readable with it
    ('' inside a character or a possible stop string). logprob: of the model's own distribution (temperature
    1, unfiltered, unconstrained). top: the best (id, logprob)s. cached: how many of the prompt's tokens had
    been read for another request. error: why a sample failed.
    """

    request: int
    index: int
    id: int | None
    text: str
    logprob: float
    top: TopLogprobs = ()
    finished: FinishReason | None = None
    cached: int = 0
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished sample: the events of it put together. prompt_tokens counts the prompt."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[TopLogprobs, ...]
    finish_reason: FinishReason
    prompt_tokens: int

    @classmethod
    def of(cls, events: Sequence[TokenEvent], prompt_tokens: int) -> Self:
        """From all events of one sample, in order."""
        reason = events[-1].finished
        assert reason is not None
        tokens = [(event.id, event.logprob, event.top) for event in events if event.id is not None]
        ids, logprobs, top = zip(*tokens, strict=True) if tokens else ((), (), ())
        return cls("".join(event.text for event in events), ids, logprobs, top, reason, prompt_tokens)


@dataclass(slots=True)
class _Beginning:
    """How many letters of a stop string's beginning the text so far ends with (Knuth, Morris and Pratt 1977).

    borders: of each beginning matched so far, how many of its last letters begin the string, too. They are
    found only as far as the text has matched, so that a long string costs nothing by itself.
    """

    stop: str
    length: int = 0
    borders: list[int] = field(default_factory=lambda: [0])

    def read(self, letter: str) -> bool:
        """Whether the string is complete with this letter."""
        self.length = self._longer(self.length, letter)
        if len(self.borders) < self.length < len(self.stop):
            self.borders.append(self._longer(self.borders[-1], self.stop[self.length - 1]))
        return self.length == len(self.stop)

    def _longer(self, length: int, letter: str) -> int:
        """The longest beginning that ends with the letter, after one of this length."""
        while length and self.stop[length] != letter:
            length = self.borders[length - 1]
        return length + (self.stop[length] == letter)


class StopText:
    """Lets text through up to the first stop string, and never shows a part of one.

    The longest end of the text that could begin a stop string is held back until it is known. However long
    the strings are, a letter takes constant time for each of them on average.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._beginnings = [_Beginning(stop) for stop in stops]
        self._held, self._length = "", 0  # the string that is held back, and how much of it

    def push(self, text: str) -> tuple[str, bool]:
        """(text to show now, whether a stop string was reached)."""
        if not self._beginnings:
            return text, False
        for at, letter in enumerate(text):
            complete = [len(one.stop) for one in self._beginnings if one.read(letter)]
            if complete:  # the one that was complete first, however the text was cut into pushes
                return self._released(text, self._length + at + 1 - max(complete)), True
        longest = max(self._beginnings, key=lambda one: one.length)
        shown = self._first(text, self._length + len(text) - longest.length)
        self._held, self._length = longest.stop, longest.length
        return shown, False

    def flush(self) -> str:
        """What was held back, once no more text can come."""
        return self._released("", self._length)

    def _released(self, text: str, count: int) -> str:
        """As `_first`, and nothing is held back any more."""
        shown, self._length = self._first(text, count), 0
        for one in self._beginnings:
            one.length = 0
        return shown

    def _first(self, text: str, count: int) -> str:
        """The first `count` letters of what is held back and the text after it."""
        return self._held[: min(count, self._length)] + text[: max(0, count - self._length)]


@dataclass(slots=True)
class Request:
    """A prompt that waits for its turn."""

    number: int
    ids: list[int]
    params: Sampling

    def ended(self, reason: FinishReason, error: Exception | None = None) -> list[TokenEvent]:
        """The only event of each of its samples, where it never runs."""
        indices = range(self.params.n)
        return [TokenEvent(self.number, i, None, "", 0.0, (), reason, error=error) for i in indices]


@dataclass(slots=True)
class SampleRow:
    """One running sample: row b of the batch."""

    request: int
    index: int
    params: Sampling
    ids: list[int]  # the prompt and what was sampled
    num_prompt: int
    random: np.random.Generator  # its own, so that the batch never changes a sample
    decode: Callable[[int | None], str]
    matcher: Matcher | None = None  # where it stands in its constraint
    num_cached: int = 0  # tokens of the prompt that had been read before
    lookup: Lookup | None = None  # guesses tokens, if that may be
    guessed: list[int] = field(default_factory=list)  # that the next step checks
    stop_text: StopText = field(init=False)

    def __post_init__(self) -> None:
        self.stop_text = StopText(self.params.stop)

    @property
    def key(self) -> SampleKey:
        return self.request, self.index

    def guess(self, rows: int, most: int, ends: Collection[int]) -> list[int]:
        """What the next step is to check, for a row that goes through the model with others: `rows` in all.

        most: tokens that may still be read, with the last one. Only what may be said is guessed.
        """
        left = self.params.max_tokens - (len(self.ids) - self.num_prompt)
        guessed = [] if self.lookup is None else self.lookup.guess(self.ids, min(left, most) - 1, rows)
        guessed = guessed[: next((at for at, id in enumerate(guessed) if id in ends), len(guessed))]
        if guessed and self.matcher is not None:
            guessed = guessed[: self.matcher.fitting(guessed)]
        return guessed

    def take(self, id: int, logprob: float, top: TopLogprobs, reason: FinishReason | None) -> TokenEvent:
        """Append a sampled token. `reason` is why it must be the last one, if it must."""
        self.ids.append(id)
        if self.matcher is not None and reason != "stop":
            self.matcher.consume(id)
            reason = "stop" if self.matcher.finished else reason
        if reason is None and len(self.ids) - self.num_prompt >= self.params.max_tokens:
            reason = "length"
        text, stopped = self.stop_text.push(self.decode(id) + (self.decode(None) if reason else ""))
        if stopped:
            reason = "stop"
        elif reason:
            text += self.stop_text.flush()
        return TokenEvent(self.request, self.index, id, text, logprob, top, reason, self.num_cached)

    def ended(self, reason: FinishReason, error: Exception | None = None) -> TokenEvent:
        """The last event of a sample that takes no further token."""
        text = self.stop_text.flush()
        return TokenEvent(self.request, self.index, None, text, 0.0, (), reason, self.num_cached, error=error)
