"""One engine for every kind of language model: schedule, forward, sample.

Requests of different lengths share a batch (continuous batching, Yu et al. 2022): a waiting request joins
when rows are free, every running row takes one token per step, and a finished row leaves at once.

Shape letters: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.engine.batch import Batch
from malmoi.engine.prefixes import Prefixes
from malmoi.engine.reading import CHUNK_TOKENS, Reader, padded
from malmoi.engine.request import Completion, Request, Sampling, TokenEvent, TopLogprobs
from malmoi.engine.sampler import check_finite, top_logprobs
from malmoi.engine.scoring import Read, add_logprobs, batches, shared_reads
from malmoi.models.state import Scorer, State
from malmoi.text.tokenizer import Tokenizer

LOGITS_NUMBERS = 1 << 24  # at most this many logits at once while scoring: 64 MiB
STATE_BYTES = 1 << 26  # for the copies of prompts' states while scoring; max_rows of them may take more

Prompt = str | Sequence[int]


class Engine:
    """Generates with and scores by one `scorer`. Not thread-safe: one thread owns it.

    max_rows: how many samples run at the same time. deterministic: every row goes through the model alone, so
    its answer is bit-exact whatever else runs; it costs the speed-up of batching, and nothing read before is
    used. prefix_bytes: memory for the states of texts read before, so that prompts that begin like them are
    read from there on.
    """

    def __init__(
        self,
        scorer: Scorer,
        tokenizer: Tokenizer,
        *,
        max_rows: int = 16,
        deterministic: bool = False,
        prefix_bytes: int = 0,
    ) -> None:
        if max_rows < 1:
            raise UserError(f"engine: max_rows is {max_rows}; it must be 1 or more")
        self.scorer, self.tokenizer = scorer, tokenizer
        self.max_rows, self.deterministic = max_rows, deterministic
        self._reader = Reader(scorer, max_rows, deterministic)
        self._prefixes = Prefixes(0 if deterministic else prefix_bytes)
        self._batch = Batch(self._reader, tokenizer, self._prefixes)
        self._waiting: deque[Request] = deque()
        self._inboxes: dict[int, deque[TokenEvent]] = {}  # of the requests of `stream` and `generate`
        self._submitted = 0

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._waiting) or self._batch.busy

    @property
    def num_running(self) -> int:
        """How many samples run now."""
        return len(self._batch.rows)

    @property
    def num_waiting(self) -> int:
        """How many requests wait for free rows."""
        return len(self._waiting)

    @property
    def state_bytes(self) -> int:
        """Memory of the running samples' states and of those kept of texts read before."""
        return self._batch.state_bytes + self._prefixes.nbytes

    def encode_prompt(self, text: str) -> list[int]:
        """The id that begins a text (`Tokenizer.start`), then the text's ids.

        Pre-training here separates documents by eos, so that id is what a model knows as the start of one;
        other libraries' tokenizers may put bos there. Raises UserError for a text without tokens.
        """
        ids = self.tokenizer.encode(text)
        if not ids:
            raise UserError("the prompt is empty; give it at least one word")
        return [self.tokenizer.start, *ids]

    def submit(self, ids: Sequence[int], params: Sampling) -> int:
        """Queue a prompt (ids as they are: nothing is prepended); returns the request's number.

        Raises UserError where it is empty, has unknown ids, exceeds the context, asks for too many rows or
        has a constraint that the tokenizer cannot follow.
        """
        self._check(ids, params)
        self._submitted += 1
        self._waiting.append(Request(self._submitted, list(ids), params))
        return self._submitted

    def step(self) -> list[TokenEvent]:
        """One token for every running sample: schedule -> forward -> sample.

        What goes wrong with a sample is an event of it (`TokenEvent.error`) and does not concern the others.
        """
        self._schedule()
        events = self._batch.step()
        for event in events:
            if event.request in self._inboxes:
                self._inboxes[event.request].append(event)
        return events

    def cancel(self, request: int) -> None:
        """End a request; the next step reports its samples as cancelled. A finished one stays as it is."""
        for waiting in [w for w in self._waiting if w.number == request]:
            self._waiting.remove(waiting)
            self._batch.report(waiting.ended("cancelled"))
        self._batch.cancel(request)

    def generate(
        self, prompts: Sequence[Prompt], params: Sampling | Sequence[Sampling] | None = None
    ) -> list[Completion]:
        """Complete texts or token ids: n completions of the first prompt, then n of the second, and so on.

        params: one for all prompts, or one for each.
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
            for event in self._events(requests, len(events)):
                events[event.request, event.index].append(event)
        lengths = dict(zip(requests, map(len, prompts_ids), strict=True))
        return [Completion.of(of_sample, lengths[key[0]]) for key, of_sample in events.items()]

    def stream(self, prompt: Prompt, params: Sampling | None = None) -> Generator[TokenEvent]:
        """The events of one prompt as they come. Streams may interleave; closing one cancels its request."""
        params = params or Sampling()
        return self._stream(self._checked_ids(prompt, params), params)

    @torch.inference_mode()
    def score(self, prompts: Sequence[Prompt], continuations: Sequence[Prompt]) -> list[float]:
        """Summed log-probability (nats) of each continuation after its prompt.

        The two texts are encoded apart, so that the boundary between them is the same for every continuation.
        Raises UserError for an empty prompt or where both together exceed the context.
        """
        scores = self.score_choices(prompts, [[rest] for rest in continuations])
        return [score for (score,) in scores]

    @torch.inference_mode()
    def score_choices(
        self, prompts: Sequence[Prompt], choices: Sequence[Sequence[Prompt]]
    ) -> list[list[float]]:
        """Summed log-probability (nats) of each of a prompt's choices; the prompt is read once for them all.

        Encoded as, and raises as, `score`.
        """
        prompts_ids = [self._ids(prompt) for prompt in prompts]
        choices_ids = [[self._rest_ids(choice) for choice in one] for one in choices]
        for prompt, rests in zip(prompts_ids, choices_ids, strict=True):
            self._check_ids(prompt, rests)
        totals: list[list[float]] = [[] for _ in prompts]
        for group in self._reader.groups([len(ids) for ids in prompts_ids]):
            scores = self._score_group([prompts_ids[i] for i in group], [choices_ids[i] for i in group])
            for i, of_prompt in zip(group, scores, strict=True):
                totals[i] = of_prompt
        return totals

    @torch.inference_mode()
    def token_logprobs(self, ids: Sequence[int], top: int = 0) -> list[tuple[float, TopLogprobs]]:
        """The log-probability (nats) of every token but the first after those before it, and the best `top`
        tokens there. Raises UserError as `submit` does."""
        self._check_ids(ids)
        state, found = self.scorer.new_state(1, len(ids)), []
        width = max(1, min(CHUNK_TOKENS, LOGITS_NUMBERS // self.scorer.vocab_size))
        for start in range(0, len(ids) - 1, width):
            part = list(ids[start : min(start + width, len(ids) - 1)])
            logits_1TV = self.scorer.step(torch.tensor([part]), torch.tensor([len(part)]), state)
            logprobs_TV = logits_1TV[0].float().log_softmax(-1)
            check_finite(logprobs_TV[:, 0])
            targets = list(ids[start + 1 : start + 1 + len(part)])
            own = logprobs_TV[torch.arange(len(part)), targets].tolist()
            tops = top_logprobs(logprobs_TV, [Sampling(logprobs=top)] * len(part))
            found += zip(own, tops, strict=True)
        return found

    # --- requests in and out

    def _ids(self, prompt: Prompt) -> list[int]:
        return self.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt)

    def _rest_ids(self, rest: Prompt) -> list[int]:
        return self.tokenizer.encode(rest) if isinstance(rest, str) else list(rest)

    def _checked_ids(self, prompt: Prompt, params: Sampling) -> list[int]:
        ids = self._ids(prompt)
        self._check(ids, params)
        return ids

    def _check(self, ids: Sequence[int], params: Sampling) -> None:
        self._check_ids(ids)
        if params.n > self.max_rows:
            raise UserError(f"n is {params.n}, but the engine runs {self.max_rows} samples; lower n")
        unknown = [id for id, _ in params.logit_bias if id >= self.tokenizer.vocab_size]
        if unknown:
            raise UserError(
                f"logit_bias has the id {unknown[0]}; the tokenizer's are 0..{self.tokenizer.vocab_size - 1}"
            )
        if params.constraint is not None:
            _ = self._batch.constrainer  # or it says what cannot be done

    def _check_ids(self, prompt: Sequence[int], rests: Sequence[Sequence[int]] = ()) -> None:
        """All of a prompt is read; of what may follow, all but the last token."""
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
        """Take waiting requests, first come first served, while their samples fit."""
        while self._waiting and self._waiting[0].params.n <= self.max_rows - self.num_running:
            self._batch.begin(self._waiting.popleft())

    # --- scoring

    def _score_group(
        self, prompts: Sequence[list[int]], choices: Sequence[Sequence[list[int]]]
    ) -> list[list[float]]:
        """Summed log-probabilities of each prompt's choices; the rows to read are copies of its state."""
        starts = [0, *accumulate(map(len, choices))]
        reads = [
            read for r, rests in enumerate(choices) for read in shared_reads(rests, r, first_number=starts[r])
        ]
        logits_RV, state = self._reader.read_prompts(
            prompts, max((len(read.ids) for read in reads), default=0)
        )
        totals_C = torch.zeros(starts[-1], dtype=torch.float64)
        firsts = [(read.prompt, 0, ids[0], c) for read in reads for c, ids in read.choices if ids]
        add_logprobs(totals_C, logits_RV[:, None], firsts)
        most_rows = max(self.max_rows, STATE_BYTES * len(prompts) // max(1, state.nbytes))
        most_rows = 1 if self.deterministic else most_rows
        for batch in batches(reads, most_rows, max(1, LOGITS_NUMBERS // self.scorer.vocab_size)):
            self._score_batch(totals_C, batch, state.select([read.prompt for read in batch]))
        check_finite(totals_C)
        return [totals_C[start:stop].tolist() for start, stop in pairwise(starts)]

    def _score_batch(self, totals_C: Tensor, batch: Sequence[Read], state: State) -> None:
        """Add what these reads tell, a single long one in pieces."""
        width = max(1, LOGITS_NUMBERS // (self.scorer.vocab_size * len(batch)))
        for start in range(0, len(batch[-1].ids), width):
            ids_BT, counts_B = padded([read.ids[start : start + width] for read in batch])
            logits_BTV = self.scorer.step(ids_BT, counts_B, state)
            wanted = [one for b, read in enumerate(batch) for one in read.wanted(b, start, start + width)]
            add_logprobs(totals_C, logits_BTV, wanted)
