"""What clients get: OpenAI's shapes of chat completions and of completions, whole and in chunks."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from malmoi.core.nouns import Json
from malmoi.engine.request import TokenEvent, TopLogprobs
from malmoi.engine.session import BROKEN
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.version import VERSION

Known = tuple[int, float | None, TopLogprobs]  # a token: id, its log-probability (None: unknown), others


@dataclass(slots=True)
class Sample:
    """What one sample has said. tokens: without the one that ended it."""

    text: str = ""
    tokens: list[Known] = field(default_factory=list)
    finished: str | None = None

    def add(self, more: Sample) -> None:
        """It has said more."""
        self.text += more.text
        self.tokens += more.tokens
        self.finished = more.finished


class Shape(ABC):
    """Builds the answer of one request, whole or chunk by chunk.

    with_logprobs: whether tokens are sent. echoes: each prompt's text and tokens, where they come first.
    """

    prefix: ClassVar[str]
    whole_name: ClassVar[str]
    chunk_name: ClassVar[str]

    def __init__(
        self, model: str, tokenizer: Tokenizer, n: int, with_logprobs: bool,
        echoes: list[tuple[str, list[Known]]] | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer, self.n, self.with_logprobs, self.echoes = tokenizer, n, with_logprobs, echoes
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._head["system_fingerprint"] = f"malmoi-{VERSION}"
        self._ends = tokenizer.specials.ends

    def whole(self, samples: list[Sample], usage: Json) -> Json:
        """The answer; samples in the order of prompt, then index."""
        choices = [self._choice(index, sample) for index, sample in enumerate(samples)]
        return {**self._head, "object": self.whole_name, "choices": choices, "usage": usage}

    def chunk(self, choices: list[Json], usage: Json | None = None) -> Json:
        """One chunk of a stream."""
        return {**self._head, "object": self.chunk_name, "choices": choices, "usage": usage}

    def opening(self, prompts: int) -> list[Json]:
        """The choices of chunks that come before any token."""
        return [choice for index in range(prompts * self.n) for choice in self._opening(index)]

    def pieces(self, events: Sequence[tuple[int, TokenEvent]]) -> list[Json]:
        """The choices of the chunks that report events (prompt number, event), as OpenAI sends them: what a
        sample has said, then, with nothing more said, why it has ended."""
        samples: dict[int, Sample] = {}
        for prompt, event in events:
            samples.setdefault(prompt * self.n + event.index, Sample()).add(self.sample(event))
        choices: list[Json] = []
        for index, sample in samples.items():
            if sample.text or (self.with_logprobs and sample.tokens):
                choices.append(self._piece(index, Sample(sample.text, sample.tokens)))
            if sample.finished:
                choices.append(self._piece(index, Sample(finished=sample.finished)))
        return choices

    def sample(self, event: TokenEvent) -> Sample:
        """An event's own part of a sample. A character that ended too soon is left out."""
        text = event.text.rstrip(BROKEN) if event.finished else event.text
        shown = event.id not in self._ends
        known: list[Known] = [(event.id, event.logprob, event.top)] if shown and event.id is not None else []
        return Sample(text, known, event.finished)

    @abstractmethod
    def _choice(self, index: int, sample: Sample) -> Json: ...

    @abstractmethod
    def _opening(self, index: int) -> list[Json]: ...

    @abstractmethod
    def _piece(self, index: int, sample: Sample) -> Json: ...


class ChatShape(Shape):
    """/v1/chat/completions."""

    prefix, whole_name, chunk_name = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _choice(self, index: int, sample: Sample) -> Json:
        message = {"role": "assistant", "content": sample.text, "refusal": None}
        return self._filled(index, sample) | {"message": message}

    def _opening(self, index: int) -> list[Json]:
        return [self._filled(index, Sample()) | {"delta": {"role": "assistant", "content": ""}}]

    def _piece(self, index: int, sample: Sample) -> Json:
        tells = sample.text or sample.tokens
        return self._filled(index, sample) | {"delta": {"content": sample.text} if tells else {}}

    def _filled(self, index: int, sample: Sample) -> Json:
        logprobs = None
        if self.with_logprobs and (sample.tokens or sample.finished):
            content = [
                self._token(id, logprob) | {"top_logprobs": [self._token(*other) for other in top]}
                for id, logprob, top in sample.tokens
            ]
            logprobs = {"content": content, "refusal": None}
        return {"index": index, "logprobs": logprobs, "finish_reason": sample.finished}

    def _token(self, id: int, logprob: float | None) -> Json:
        return {
            "token": self.tokenizer.token_text(id),
            "logprob": logprob,
            "bytes": list(self.tokenizer.token_bytes(id)),
        }


class CompletionShape(Shape):
    """/v1/completions. Offsets of tokens are in characters of the choice's text."""

    prefix, whole_name, chunk_name = "cmpl", "text_completion", "text_completion"

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._streams: dict[int, _Offsets] = {}

    def _choice(self, index: int, sample: Sample) -> Json:
        text, tokens = self._echo(index)
        both = [*tokens, *sample.tokens]
        return self._filled(
            index, Sample(text + sample.text, both, sample.finished), _Offsets(self.tokenizer)
        )

    def _opening(self, index: int) -> list[Json]:
        if self.echoes is None:
            return []
        return [self._piece(index, Sample(*self._echo(index)))]

    def _piece(self, index: int, sample: Sample) -> Json:
        return self._filled(index, sample, self._streams.setdefault(index, _Offsets(self.tokenizer)))

    def _echo(self, index: int) -> tuple[str, list[Known]]:
        return self.echoes[index // self.n] if self.echoes is not None else ("", [])

    def _filled(self, index: int, sample: Sample, offsets: _Offsets) -> Json:
        logprobs = None
        if self.with_logprobs:
            names = [self.tokenizer.token_text(id) for id, _, _ in sample.tokens]
            logprobs = {
                "tokens": names,
                "token_logprobs": [logprob for _, logprob, _ in sample.tokens],
                "top_logprobs": [self._best(*token) for token in sample.tokens],
                "text_offset": [offsets.next(id) for id, _, _ in sample.tokens],
            }
        return {
            "index": index, "text": sample.text, "logprobs": logprobs, "finish_reason": sample.finished
        }  # fmt: skip

    def _best(self, id: int, logprob: float | None, top: TopLogprobs) -> Json | None:
        """Names with log-probabilities, the token's own among them. Parts of characters may share a name."""
        if logprob is None:
            return None
        found = {id: logprob} | dict(top)
        named: Json = {}
        for other in sorted(found, key=found.__getitem__, reverse=True):
            named.setdefault(self.tokenizer.token_text(other), found[other])
        return named


class _Offsets:
    """Where each token begins in a text that grows."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decode, self._place = tokenizer.stream(), 0

    def next(self, id: int) -> int:
        """The place of the next token."""
        place = self._place
        self._place += len(self._decode(id))
        return place
