"""One engine for every kind of language model: schedule, forward, sample.

Requests of different lengths share a batch (continuous batching, Yu et al. 2022): a waiting request joins
when rows are free, every running row takes one token per step, and a finished row leaves at once.

Shape letters: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Self

from malmoi.core.errors import UserError
from malmoi.core.nouns import Done, silent
from malmoi.engine.lookup import Guesses
from malmoi.engine.prefixes import Prefixes
from malmoi.engine.queue import RoundRobin
from malmoi.engine.reader import Reader
from malmoi.engine.request import Completion, Request, Sampling, TokenEvent
from malmoi.engine.step import Batch
from malmoi.models.state import Scorer
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.hardware import memory_limit_bytes
from malmoi.util.threads import share_cores

Prompt = str | Sequence[int]
MANY_ROWS = 32  # prompts that are read or answered at the same time, where there are many
PREFIX_BYTES = 1 << 28  # for beginnings that prompts share, where many are read with one model
STATE_SHARE = 0.25  # of the machine's memory, for the states of what runs
REPLY_TOKENS = 256  # a longer reply is asked for far more often than it comes


class Engine:
    """Generates with one `scorer`; `malmoi.engine.score` scores with it. Not thread-safe: one thread owns it.

    max_rows: how many samples run at the same time. most_state_bytes: memory for their states, by default a
    quarter of the machine's; a request whose samples would take more waits until others have ended.
    deterministic: every row goes through the model alone, so its answer is bit-exact whatever else runs; it
    costs the speed-up of batching, and nothing read before is used. prefix_bytes: memory for the states of
    texts read before, so that prompts that begin like them are read from there on. lookup: whether greedy
    samples guess what they copy (`malmoi.engine.lookup`), where the model can check it without changing any
    answer: a Transformer in our kernels.
    """

    def __init__(
        self,
        scorer: Scorer,
        tokenizer: Tokenizer,
        *,
        max_rows: int = 16,
        most_state_bytes: int | None = None,
        deterministic: bool = False,
        prefix_bytes: int = 0,
        lookup: bool = True,
    ) -> None:
        if max_rows < 1:
            raise UserError(f"engine: max_rows is {max_rows}; it must be 1 or more")
        share_cores()
        self.scorer, self.tokenizer = scorer, tokenizer
        self.max_rows, self.deterministic = max_rows, deterministic
        self.reader = Reader(scorer, max_rows, deterministic, Prefixes(0 if deterministic else prefix_bytes))
        self._batch = Batch(self.reader, tokenizer, lookup=lookup)
        self._token_bytes = _bytes_per_token(scorer)
        if most_state_bytes is None:
            most_state_bytes = int(STATE_SHARE * memory_limit_bytes())
        self._most_state_bytes = most_state_bytes
        self._waiting: RoundRobin[Request] = RoundRobin()
        self._inboxes: dict[int, deque[TokenEvent]] = {}  # of the requests of `stream` and `generate`
        self._submitted = 0

    @classmethod
    def for_many(cls, scorer: Scorer, tokenizer: Tokenizer) -> Self:
        """For many prompts at once: what they begin with is read once."""
        return cls(scorer, tokenizer, max_rows=MANY_ROWS, prefix_bytes=PREFIX_BYTES)

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._waiting) or self._batch.busy

    @property
    def num_running(self) -> int:
        """How many samples run now."""
        return len(self._batch.rows)

    @property
    def guesses(self) -> Guesses:
        """How many tokens have been guessed and checked so far, and how many of them were right."""
        return self._batch.guesses

    @property
    def state_bytes(self) -> int:
        """Memory of the running samples' states and of those kept of texts read before."""
        return self._batch.state_bytes + self.reader.prefixes.nbytes

    def encode_prompt(self, text: str) -> list[int]:
        """The id that begins a text (`Tokenizer.start`), then the text's ids.

        Pre-training here separates documents by eos, so that id is what a model knows as the start of one;
        other libraries' tokenizers may put bos there. Raises UserError for a text without tokens.
        """
        ids = self.tokenizer.encode(text)
        if not ids:
            raise UserError("the prompt is empty; give it at least one word")
        return [self.tokenizer.start, *ids]

    def ids(self, prompt: Prompt) -> list[int]:
        """A text as `encode_prompt` reads it, ids as they are."""
        return self.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt)

    def submit(self, ids: Sequence[int], params: Sampling, group: Hashable = None) -> int:
        """Queue a prompt (ids as they are: nothing is prepended); returns the request's number.

        group: whose requests take turns with those of other groups; by default its own.

        Raises UserError where it is empty, has unknown ids, exceeds the context, asks for too many rows or
        has a constraint that the tokenizer cannot follow.
        """
        self._check(ids, params)
        self._submitted += 1
        request = Request(self._submitted, list(ids), params)
        self._waiting.add(request.number if group is None else (group,), request)
        return request.number

    def step(self) -> list[TokenEvent]:
        """One token for every running sample, or several that it guessed: schedule -> forward -> sample.

        What goes wrong with a sample is an event of it (`TokenEvent.error`) and does not concern the others.
        """
        self._schedule()
        with self._batch.guarded():
            logits_BV = self._batch.forward()
            self._batch.sample(logits_BV)
        events = self._batch.take_events()
        for event in events:
            if event.request in self._inboxes:
                self._inboxes[event.request].append(event)
        return events

    def cancel(self, request: int) -> None:
        """End a request; the next step reports its samples as cancelled. A finished one stays as it is."""
        for waiting in self._waiting.drop(lambda it: it.number == request):
            self._batch.report(waiting.ended("cancelled"))
        self._batch.cancel(request)

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: Sampling | Sequence[Sampling] | None = None,
        done: Done = silent,
    ) -> list[Completion]:
        """Complete texts or token ids: n completions of the first prompt, then n of the second, and so on.

        params: one for all prompts, or one for each. done: hears how many completions are finished.
        """
        params = params or Sampling()
        each = [params] * len(prompts) if isinstance(params, Sampling) else params
        prompts_ids = [self._checked_ids(prompt, one) for prompt, one in zip(prompts, each, strict=True)]
        with self._submitted_requests(prompts_ids, each) as requests:
            events: dict[tuple[int, int], list[TokenEvent]] = {
                (request, index): []
                for request, one in zip(requests, each, strict=True)
                for index in range(one.n)
            }
            finished = 0
            for event in self._events(requests, len(events)):
                events[event.request, event.index].append(event)
                if event.finished is not None:
                    done(finished := finished + 1)
        lengths = dict(zip(requests, map(len, prompts_ids), strict=True))
        return [Completion.of(of_sample, lengths[key[0]]) for key, of_sample in events.items()]

    def stream(self, prompt: Prompt, params: Sampling | None = None) -> Generator[TokenEvent]:
        """The events of one prompt as they come. Streams may interleave; closing one cancels its request."""
        params = params or Sampling()
        return self._stream(self._checked_ids(prompt, params), params)

    # --- requests in and out

    def _checked_ids(self, prompt: Prompt, params: Sampling) -> list[int]:
        ids = self.ids(prompt)
        self._check(ids, params)
        return ids

    def _check(self, ids: Sequence[int], params: Sampling) -> None:
        self.check_ids(ids)
        if params.n > self.max_rows:
            raise UserError(f"n is {params.n}, but the engine runs {self.max_rows} samples; lower n")
        unknown = [id for id, _ in params.logit_bias if id >= self.tokenizer.vocab_size]
        if unknown:
            raise UserError(
                f"logit_bias has the id {unknown[0]}; the tokenizer's are 0..{self.tokenizer.vocab_size - 1}"
            )
        if params.constraint is not None:
            _ = self._batch.constrainer  # or it says what cannot be done

    def check_ids(self, prompt: Sequence[int], rests: Sequence[Sequence[int]] = ()) -> None:
        """Raises UserError where a prompt is empty, has unknown ids or exceeds the context with what may
        follow, of which all but the last token is read."""
        context = self.scorer.context
        if not prompt:
            raise UserError("the prompt is empty; give it at least one token")
        length = len(prompt) + max((len(rest) - 1 for rest in rests if rest), default=0)
        if context is not None and length > context:
            raise UserError(
                f"the prompt is {length} tokens, but the model's context is {context}; shorten the prompt "
                f"by {length - context} tokens or use a model with a longer context"
            )
        ids = [*prompt, *chain(*rests)]
        if not 0 <= min(ids) <= max(ids) < self.scorer.vocab_size:
            raise UserError(
                f"the prompt has an id outside 0..{self.scorer.vocab_size - 1}; use the model's own tokenizer"
            )

    @contextmanager
    def _submitted_requests(
        self, prompts: Sequence[list[int]], params: Sequence[Sampling]
    ) -> Iterator[list[int]]:
        """Requests whose events are kept for us whoever calls `step`, and which end with us."""
        requests = [self.submit(ids, one) for ids, one in zip(prompts, params, strict=True)]
        self._inboxes |= {request: deque() for request in requests}
        try:
            yield requests
        finally:
            for request in requests:
                self.cancel(request)
                del self._inboxes[request]

    def _events(self, requests: Sequence[int], running: int) -> Iterator[TokenEvent]:
        inboxes = [self._inboxes[request] for request in requests]
        while running:
            if not any(inboxes):
                self.step()
            for inbox in inboxes:
                while inbox:
                    event = inbox.popleft()
                    if event.error is not None:
                        raise event.error
                    running -= event.finished is not None
                    yield event

    def _stream(self, ids: list[int], params: Sampling) -> Generator[TokenEvent]:
        with self._submitted_requests([ids], [params]) as requests:
            yield from self._events(requests, params.n)

    def _schedule(self) -> None:
        """Take waiting requests by turns; whoever's turn it is waits until its samples fit."""
        while self._waiting and self._fits(self._waiting.first()):
            self._batch.begin(self._waiting.take())

    def _fits(self, request: Request) -> bool:
        """Whether there are rows for it, and memory: a batch's rows have room for the longest of them."""
        rows = self.num_running + request.params.n
        running = ((row.num_prompt, row.params) for row in self._batch.rows.values())
        lengths = (
            length + min(params.max_tokens, REPLY_TOKENS)
            for length, params in [*running, (len(request.ids), request.params)]
        )
        fits = rows * max(lengths) * self._token_bytes <= self._most_state_bytes
        return rows <= self.max_rows and (fits or not self.num_running)


def _bytes_per_token(scorer: Scorer) -> float:
    """What a state grows by with each token of a row."""
    short, long = (scorer.new_state(1, tokens).nbytes for tokens in (0, 1))
    return long - short
