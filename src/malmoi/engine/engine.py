"""One engine for every kind of language model: schedule, forward, sample.

Requests of different lengths share a batch (continuous batching, Yu et al. 2022): a waiting request joins
when rows are free, every running row takes one token per step, and a finished row leaves at once.

Shape letters: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise

import numpy as np
import torch
from torch import Tensor

from malmoi.engine.constraints import Constrainer, constrained
from malmoi.engine.prefixes import LEAST_TOKENS, Found, Prefixes
from malmoi.engine.request import Completion, Request, Row, Sampling, TokenEvent, TopLogprobs
from malmoi.engine.sampler import sample
from malmoi.engine.scoring import Read, add_logprobs, batches, shared_reads
from malmoi.models.state import Scorer, State
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.errors import UserError

CHUNK_TOKENS = 1024  # a longer prompt is read alone and in pieces, which bounds the memory of activations
LOGITS_NUMBERS = 1 << 24  # at most this many logits at once while scoring: 64 MiB
STATE_BYTES = 1 << 26  # for the copies of prompts' states while scoring; max_rows of them may take more
RESERVED_TOKENS = 512  # cache room made in advance for the answer; caches grow beyond it by themselves
PRIMING_TOKENS = 16  # how much of a prompt's end the text decoder sees: it may begin a character or a word

Prompt = str | Sequence[int]


@dataclass(slots=True)
class Tile:
    """Rows that go through the model together, and their state."""

    rows: list[Row]
    state: State

    def keep(self, kept: Sequence[int]) -> None:
        """Drop all rows but these; the last ones take the places of those that leave."""
        if len(kept) < len(self.rows):
            stay, movers = set(kept), [b for b in kept if b >= len(kept)]
            order = [b if b in stay else movers.pop() for b in range(len(kept))]
            self.rows = [self.rows[b] for b in order]
            self.state.keep(order)


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
        self._ends = tokenizer.specials.ends
        self._prefixes = Prefixes(0 if deterministic else prefix_bytes)
        self._waiting: deque[Request] = deque()
        self._tiles: list[Tile] = []
        self._notices: list[TokenEvent] = []  # of cancelled samples; the next step returns them
        self._inboxes: dict[int, deque[TokenEvent]] = {}  # of the requests of `stream` and `generate`
        self._submitted = 0

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._waiting or self._tiles or self._notices)

    @property
    def num_running(self) -> int:
        """How many samples run now."""
        return sum(len(tile.rows) for tile in self._tiles)

    @property
    def num_waiting(self) -> int:
        """How many requests wait for free rows."""
        return len(self._waiting)

    @property
    def state_bytes(self) -> int:
        """Memory of the running samples' states and of those kept of texts read before."""
        return sum(tile.state.nbytes for tile in self._tiles) + self._prefixes.nbytes

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
        """One token for every running sample: schedule -> forward -> sample."""
        events, self._notices = self._notices, []
        with torch.inference_mode():
            admitted = self._schedule()
            if admitted or self._tiles:
                events += self._sample(self._forward(admitted))
        for event in events:
            if event.request in self._inboxes:
                self._inboxes[event.request].append(event)
        return events

    def cancel(self, request: int) -> None:
        """End a request; the next step reports its samples as cancelled. A finished one stays as it is."""
        for waiting in [w for w in self._waiting if w.number == request]:
            self._waiting.remove(waiting)
            self._notices += [row.ended("cancelled") for row in self._new_rows(waiting)]
        for tile in self._tiles:
            self._notices += [row.ended("cancelled") for row in tile.rows if row.request == request]
            tile.keep([b for b, row in enumerate(tile.rows) if row.request != request])
        self._tiles = [tile for tile in self._tiles if tile.rows]

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
        for group in self._groups([len(ids) for ids in prompts_ids]):
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
            _ = self._constrainer  # or it says what cannot be done

    @cached_property
    def _constrainer(self) -> Constrainer:
        return Constrainer(self.tokenizer)

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
                    running -= inbox[0].finished is not None
                    yield inbox.popleft()

    def _stream(self, ids: list[int], params: Sampling) -> Generator[TokenEvent]:
        with self._submitted_requests([ids], [params]) as requests:
            yield from self._events(requests, params.n)

    def _new_rows(self, request: Request) -> list[Row]:
        """The request's n samples, each with a random stream that only its seed and index decide."""
        entropy = np.random.SeedSequence(request.params.seed).entropy
        seeds = [np.random.SeedSequence(entropy, spawn_key=(i,)) for i in range(request.params.n)]
        return [
            Row(
                request.number, i, request.params, list(request.ids), len(request.ids),
                np.random.Generator(np.random.Philox(seed)), self._decoder(request.ids),
            )
            for i, seed in enumerate(seeds)
        ]  # fmt: skip

    def _decoder(self, prompt: Sequence[int]):
        """A stream decoder that has read the end of the prompt's text, up to its last special."""
        decode = self.tokenizer.stream()
        end = list(prompt[-PRIMING_TOKENS:])
        specials = [i for i, id in enumerate(end) if id in self._ends]
        for id in end[specials[-1] + 1 if specials else 0 :]:
            decode(id)
        return decode

    # --- schedule, forward, sample

    def _schedule(self) -> list[Request]:
        """Take waiting requests, first come first served, while their samples fit."""
        free = self.max_rows - self.num_running
        admitted: list[Request] = []
        while self._waiting and self._waiting[0].params.n <= free:
            admitted.append(self._waiting.popleft())
            free -= admitted[-1].params.n
        return admitted

    def _forward(self, admitted: Sequence[Request]) -> Tensor:
        """logits_BV after the last token of every row of every tile, the admitted requests' included."""
        logits = [self._read([row.ids[-1:] for row in tile.rows], tile.state) for tile in self._tiles]
        found = [self._find(request.ids) for request in admitted]
        lengths = [len(request.ids) - known.length for request, known in zip(admitted, found, strict=True)]
        for group in self._groups(lengths):
            logits.append(self._prefill([admitted[i] for i in group], [found[i] for i in group]))
        if not self.deterministic and len(self._tiles) > 1:
            first, *others = self._tiles
            rows = [row for tile in self._tiles for row in tile.rows]
            self._tiles = [Tile(rows, first.state.join([tile.state for tile in others]))]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which prompts to read together: like lengths, and a long one (or, if deterministic, any) alone."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        short = [i for i in order if lengths[i] <= CHUNK_TOKENS and not self.deterministic]
        groups = [short[start : start + self.max_rows] for start in range(0, len(short), self.max_rows)]
        return groups + [[i] for i in order if i not in set(short)]

    def _find(self, ids: Sequence[int]) -> Found:
        """What is known of a prompt. Where another text began like it but its state there is forgotten, that
        beginning is read now and kept."""
        found = self._prefixes.find(ids)
        if found.shared < found.length + LEAST_TOKENS:
            return found
        beginning = list(ids[: found.shared])
        _, state = self._read_prompts([beginning], len(ids) - len(beginning), [found])
        self._prefixes.add(beginning, state, 0)
        return Found(found.shared, state, found.shared)

    def _prefill(self, requests: Sequence[Request], found: Sequence[Found]) -> Tensor:
        """Read each prompt once, make a row for every sample; logits_BV of these rows."""
        room = max(min(request.params.max_tokens, RESERVED_TOKENS) for request in requests)
        logits_RV, state = self._read_prompts([request.ids for request in requests], room, found)
        for r, request in enumerate(requests):
            self._prefixes.add(request.ids, state, r)
        repeats = [r for r, request in enumerate(requests) for _ in range(request.params.n)]
        rows = [row for request in requests for row in self._new_rows(request)]
        for row, r in zip(rows, repeats, strict=True):
            row.num_cached = found[r].length
            if row.params.constraint is not None:
                row.matcher = self._constrainer.matcher(row.params.constraint)
        if not self.deterministic:
            alike = repeats == list(range(len(requests)))  # one sample each: the state is theirs as it is
            self._tiles.append(Tile(rows, state if alike else state.select(repeats)))
        else:
            self._tiles += [Tile([row], state.select([r])) for row, r in zip(rows, repeats, strict=True)]
        return logits_RV[repeats]

    def _read_prompts(
        self, prompts: Sequence[Sequence[int]], room: int, found: Sequence[Found] = ()
    ) -> tuple[Tensor, State]:
        """logits_BV after each prompt, and a state with room for so many tokens more.

        found: what is known of each prompt; nothing if not given.
        """
        longest = max(map(len, prompts)) + room
        capacity = min(longest, self.scorer.context or longest)
        if any(known.state for known in found):
            known = [one.state or self.scorer.new_state(1) for one in found]
            state = self.scorer.new_state(0, capacity).join(known)
        else:
            state = self.scorer.new_state(len(prompts), capacity)
        left = [ids[length:] for ids, length in zip(prompts, state.lengths_B.tolist(), strict=True)]
        longest = max(map(len, left))
        assert len(prompts) == 1 or longest <= CHUNK_TOKENS
        logits_BV = torch.empty(0)
        for start in range(0, longest, CHUNK_TOKENS):
            logits_BV = self._read([ids[start : start + CHUNK_TOKENS] for ids in left], state)
        return logits_BV, state

    def _read(self, rows: Sequence[Sequence[int]], state: State) -> Tensor:
        """logits_BV after the last of each row's new tokens."""
        ids_BT, counts_B = padded(rows)
        return self.scorer.step(ids_BT, counts_B, state, last_only=True).squeeze(1)

    def _sample(self, logits_BV: Tensor) -> list[TokenEvent]:
        """Choose a token for every row, drop the rows that it ends."""
        rows = [row for tile in self._tiles for row in tile.rows]
        params = [row.params for row in rows]
        logprobs_BV = logits_BV.float().log_softmax(dim=-1)
        logits_BV = logits_BV[:, : self.tokenizer.vocab_size]  # some models pad their vocabulary
        logits_BV, stuck = constrained(logits_BV, [row.matcher for row in rows])
        uniforms = [row.random.random() for row in rows]
        histories, prompt_lengths = [row.ids for row in rows], [row.num_prompt for row in rows]
        ids = sample(logits_BV, params, histories, prompt_lengths, uniforms)
        logprobs = logprobs_BV[torch.arange(len(ids)), ids].tolist()
        tops = top_logprobs(logprobs_BV, params)
        events = [
            row.ended("stop") if b in stuck else row.take(id, logprob, top, self._reason(row, id))
            for b, (row, id, logprob, top) in enumerate(zip(rows, ids, logprobs, tops, strict=True))
        ]
        self._drop({(event.request, event.index) for event in events if event.finished})
        return events

    def _reason(self, row: Row, id: int):
        """Why nothing can follow this token, or None."""
        if id in self._ends:
            return "stop"
        context = self.scorer.context  # the last token need not be read, so it may lie beyond
        return "length" if context is not None and len(row.ids) >= context else None

    def _drop(self, finished: set[tuple[int, int]]) -> None:
        """Rows that have ended leave; what they read is kept for a next turn that begins with it."""
        for tile in self._tiles:
            lengths = tile.state.lengths_B.tolist() if finished else []
            for b, row in enumerate(tile.rows):
                if (row.request, row.index) in finished:
                    self._prefixes.add(row.ids[: lengths[b]], tile.state, b)
            tile.keep([b for b, row in enumerate(tile.rows) if (row.request, row.index) not in finished])
        self._tiles = [tile for tile in self._tiles if tile.rows]

    # --- scoring

    def _score_group(
        self, prompts: Sequence[list[int]], choices: Sequence[Sequence[list[int]]]
    ) -> list[list[float]]:
        """Summed log-probabilities of each prompt's choices; the rows to read are copies of its state."""
        starts = [0, *accumulate(map(len, choices))]
        reads = [
            read for r, rests in enumerate(choices) for read in shared_reads(rests, r, first_number=starts[r])
        ]
        logits_RV, state = self._read_prompts(prompts, max((len(read.ids) for read in reads), default=0))
        totals_C = torch.zeros(starts[-1], dtype=torch.float64)
        firsts = [(read.prompt, 0, ids[0], c) for read in reads for c, ids in read.choices if ids]
        add_logprobs(totals_C, logits_RV[:, None], firsts)
        most_rows = max(self.max_rows, STATE_BYTES * len(prompts) // max(1, state.nbytes))
        most_rows = 1 if self.deterministic else most_rows
        for batch in batches(reads, most_rows, max(1, LOGITS_NUMBERS // self.scorer.vocab_size)):
            self._score_batch(totals_C, batch, state.select([read.prompt for read in batch]))
        return [totals_C[start:stop].tolist() for start, stop in pairwise(starts)]

    def _score_batch(self, totals_C: Tensor, batch: Sequence[Read], state: State) -> None:
        """Add what these reads tell, a single long one in pieces."""
        width = max(1, LOGITS_NUMBERS // (self.scorer.vocab_size * len(batch)))
        for start in range(0, len(batch[-1].ids), width):
            ids_BT, counts_B = padded([read.ids[start : start + width] for read in batch])
            logits_BTV = self.scorer.step(ids_BT, counts_B, state)
            wanted = [one for b, read in enumerate(batch) for one in read.wanted(b, start, start + width)]
            add_logprobs(totals_C, logits_BTV, wanted)


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """ids_BT, filled with 0 on the right, and counts_B of real ones."""
    counts = [len(row) for row in rows]
    filled = [[*row, *[0] * (max(counts) - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.int64), torch.tensor(counts)


def top_logprobs(logprobs_BV: Tensor, params: Sequence[Sampling]) -> list[TopLogprobs]:
    """The best params[b].logprobs (id, logprob) pairs of each row."""
    most = min(max(p.logprobs for p in params), logprobs_BV.shape[1])
    if most == 0:
        return [() for _ in params]
    values, ids = logprobs_BV.topk(most, dim=-1)
    pairs = [tuple(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
    return [row[: p.logprobs] for row, p in zip(pairs, params, strict=True)]
