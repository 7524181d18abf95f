"""The samples that run: their rows go through the model together, one token each per step.

What fails for several is tried again for each alone, so an exception ends the sample that causes it and no
other.

Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from malmoi.engine.constraints import Constrainer, constrained
from malmoi.engine.prefixes import Found
from malmoi.engine.reader import Reader
from malmoi.engine.request import FinishReason, Request, SampleRow, TokenEvent, TopLogprobs
from malmoi.engine.sampling import check_finite, sample, top_logprobs
from malmoi.models.state import State
from malmoi.text.tokenizer import Tokenizer

RESERVED_TOKENS = 512  # cache room made in advance for the answer; caches grow beyond it by themselves
PRIMING_TOKENS = 16  # how much of a prompt's end the text decoder sees: it may begin a character or a word
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tile:
    """Rows that go through the model together, and their state; None where that is lost.

    apart: it is not joined with others any more, for it failed together with them.
    """

    rows: list[SampleRow]
    state: State | None
    apart: bool = False

    def keep(self, kept: Sequence[int]) -> None:
        """Drop all rows but these; the last ones take the places of those that leave."""
        if len(kept) == len(self.rows):
            return
        if not kept:
            self.rows = []
            return
        stay, movers = set(kept), [b for b in kept if b >= len(kept)]
        order = [b if b in stay else movers.pop() for b in range(len(kept))]
        self.rows = [self.rows[b] for b in order]
        try:
            if self.state is not None:
                self.state.keep(order)
        except Exception:
            _log.warning("a state could not drop rows; the others are read again", exc_info=True)
            self.state = None


Part = tuple[Tile, Tensor]  # and logits_BV, what follows its rows


@dataclass(frozen=True, slots=True)
class Choice:
    """A row's next token; id None: its constraint allows none."""

    id: int | None
    logprob: float = 0.0
    top: TopLogprobs = ()


class Batch:
    """The running samples of an engine. Only `forward` and `sample` touch a state; the rest is safe."""

    def __init__(self, reader: Reader, tokenizer: Tokenizer) -> None:
        self.rows: dict[tuple[int, int], SampleRow] = {}  # (request, index) -> a sample that has not ended
        self._reader, self._tokenizer = reader, tokenizer
        self._ends = tokenizer.specials.ends
        self._new: list[list[SampleRow]] = []  # of each request whose prompt is not read yet
        self._tiles: list[Tile] = []
        self._events: list[TokenEvent] = []

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self.rows or self._events)

    @property
    def state_bytes(self) -> int:
        """Memory of the samples' states."""
        return sum(tile.state.nbytes for tile in self._tiles if tile.state is not None)

    @cached_property
    def constrainer(self) -> Constrainer:
        """Raises UserError where the tokenizer cannot follow a constraint."""
        return Constrainer(self._tokenizer)

    def begin(self, request: Request) -> None:
        """Its samples run from the next step on."""
        try:
            rows = self._new_rows(request)
        except Exception as error:
            self.report(request.ended("failed", error))
            return
        self.rows |= {(row.request, row.index): row for row in rows}
        self._new.append(rows)

    def report(self, events: Sequence[TokenEvent]) -> None:
        """The next step returns these, too."""
        self._events += events

    def cancel(self, request: int) -> None:
        """End its samples; the next step says so."""
        self._end([row for row in self.rows.values() if row.request == request], "cancelled")
        if not self.rows:
            self._tiles = []

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What is raised within ends all samples: none is to blame alone, a state may be written by half."""
        try:
            with torch.inference_mode():
                yield
        except BaseException as error:
            failed = error if isinstance(error, Exception) else None
            self._end(list(self.rows.values()), "failed" if failed else "cancelled", failed)
            self._tiles, self._new = [], []
            if failed is None:
                raise

    def forward(self) -> Tensor:
        """logits_BV after the last token of every sample, new ones included."""
        self._sweep()
        parts = self._forward()
        self._tiles = [tile for tile, _ in parts]
        return torch.cat([logits_BV for _, logits_BV in parts]) if parts else torch.empty(0)

    def sample(self, logits_BV: Tensor) -> None:
        """One token for every sample."""
        if len(logits_BV):
            self._sample(logits_BV)
        self._sweep()
        self._join()

    def take_events(self) -> list[TokenEvent]:
        """Those since the last time."""
        events, self._events = self._events, []
        return events

    # --- samples come and go

    def _new_rows(self, request: Request) -> list[SampleRow]:
        """The request's n samples, each with a random stream that only its seed and index decide."""
        params, before = request.params, self._text_before(request.ids)
        entropy = np.random.SeedSequence(params.seed).entropy
        seeds = [np.random.SeedSequence(entropy, spawn_key=(i,)) for i in range(params.n)]
        rows = [
            SampleRow(
                request.number, i, params, list(request.ids), len(request.ids),
                np.random.Generator(np.random.Philox(seed)), self._decoder(before),
            )
            for i, seed in enumerate(seeds)
        ]  # fmt: skip
        for row in rows:
            if params.constraint is not None:
                follows_text = any(map(self._tokenizer.token_bytes, before))
                row.matcher = self.constrainer.matcher(params.constraint, follows_text=follows_text)
        return rows

    def _text_before(self, prompt: Sequence[int]) -> list[int]:
        """The end of the prompt's text, up to its last special."""
        end = list(prompt[-PRIMING_TOKENS:])
        specials = [i for i, id in enumerate(end) if id in self._ends]
        return end[specials[-1] + 1 if specials else 0 :]

    def _decoder(self, before: Sequence[int]) -> Callable[[int | None], str]:
        """A stream decoder that has read the text before."""
        decode = self._tokenizer.stream()
        for id in before:
            decode(id)
        return decode

    def _emit(self, event: TokenEvent) -> None:
        if (event.request, event.index) in self.rows:  # or it was cancelled within the step
            self._events.append(event)
            if event.finished:
                del self.rows[event.request, event.index]

    def _end(self, rows: Sequence[SampleRow], reason: FinishReason, error: Exception | None = None) -> None:
        for row in rows:
            self._emit(row.ended(reason, error))

    def _sweep(self) -> None:
        """Rows that have ended leave."""
        for tile in self._tiles:
            tile.keep([b for b, row in enumerate(tile.rows) if (row.request, row.index) in self.rows])
        self._tiles = [tile for tile in self._tiles if tile.rows]
        self._new = [rows for rows in self._new if (rows[0].request, rows[0].index) in self.rows]

    def _join(self) -> None:
        """The rows of several tiles in one, unless each goes through the model alone."""
        together = [(tile, tile.state) for tile in self._tiles if tile.state is not None and not tile.apart]
        if self._reader.deterministic or len(together) < 2:
            return
        tiles, (first, *others) = zip(*together, strict=True)
        try:
            joined = Tile([row for tile in tiles for row in tile.rows], first.join(others))
        except Exception:
            _log.warning("rows could not be joined; they go on apart", exc_info=True)
            for tile in tiles[1:]:
                tile.apart = True
            return
        self._tiles = [joined, *(tile for tile in self._tiles if tile.state is None or tile.apart)]

    # --- forward

    def _forward(self) -> list[Part]:
        """What follows the last token of every row, new ones included."""
        samples, self._new = self._new, []
        parts = [part for tile in self._tiles for part in self._decoded(tile)]
        found = self._known([rows[0].ids for rows in samples])
        for rows, known in zip(samples, found, strict=True):
            for row in rows:
                row.num_cached = known.length
        lengths = [len(rows[0].ids) - known.length for rows, known in zip(samples, found, strict=True)]
        for group in self._reader.groups(lengths):
            parts += self._read([samples[i] for i in group], [found[i] for i in group])
        return parts

    def _decoded(self, tile: Tile) -> list[Part]:
        """A tile and what follows its rows. Where that fails, its state may be written by half."""
        try:
            if tile.state is not None:
                return [(tile, self._reader.read([row.ids[-1:] for row in tile.rows], tile.state))]
        except Exception:
            _log.warning("%d rows could not go on; each is read again", len(tile.rows), exc_info=True)
        parts = self._read_alone([[row] for row in tile.rows])
        for alone, _ in parts:
            alone.apart = True
        return parts

    def _read(self, samples: Sequence[list[SampleRow]], found: Sequence[Found]) -> list[Part]:
        """The rows of these requests, and what follows them."""
        if len(samples) > 1 or found[0].state is not None:
            try:
                return self._read_together(samples, found)
            except Exception:
                _log.warning("%d prompts could not be read together", len(samples), exc_info=True)
        return self._read_alone(samples)  # not in the handler, which holds on to what was allocated

    def _read_alone(self, samples: Sequence[list[SampleRow]]) -> list[Part]:
        """Each from its first token; what fails so has failed."""
        parts: list[Part] = []
        for rows in samples:
            try:
                parts += self._read_together([rows], [Found()])
            except Exception as error:
                self._end(rows, "failed", error)
        return parts

    def _read_together(self, samples: Sequence[list[SampleRow]], found: Sequence[Found]) -> list[Part]:
        """Read what each element's rows have in common once, and give every row a state."""
        room = max(min(rows[0].params.max_tokens, RESERVED_TOKENS) for rows in samples)
        logits_RV, state = self._reader.read_prompts([rows[0].ids for rows in samples], room, found)
        for r, rows in enumerate(samples):
            self._reader.remember(rows[0].ids, state, r)
        repeats = [r for r, rows in enumerate(samples) for _ in rows]
        logits_BV, rows = logits_RV[repeats], list(chain(*samples))
        if self._reader.deterministic:
            return [
                (Tile([row], state.select([r])), logits_BV[b : b + 1])
                for b, (row, r) in enumerate(zip(rows, repeats, strict=True))
            ]
        alike = len(rows) == len(samples)  # one sample each: the state is theirs as it is
        return [(Tile(rows, state if alike else state.select(repeats)), logits_BV)]

    def _known(self, prompts: Sequence[Sequence[int]]) -> list[Found]:
        """`Reader.known`; nothing where that fails."""
        try:
            return self._reader.known(prompts)
        except Exception:
            _log.warning("beginnings could not be shared; prompts are read whole", exc_info=True)
            return [Found()] * len(prompts)

    # --- sample

    def _sample(self, logits_BV: Tensor) -> None:
        """A token for every row; what the ended ones read is kept for a next turn that begins with it."""
        places = [(tile, b) for tile in self._tiles for b in range(len(tile.rows))]
        rows = [tile.rows[b] for tile, b in places]
        choices = self._choose(rows, logits_BV, [row.random.random() for row in rows])
        for (tile, b), row, choice in zip(places, rows, choices, strict=True):
            event = self._event(row, choice)
            self._emit(event)
            if event.finished and event.error is None and tile.state is not None:
                self._reader.remember(row.ids[: int(tile.state.lengths_B[b])], tile.state, b)

    def _choose(
        self, rows: Sequence[SampleRow], logits_BV: Tensor, uniforms: Sequence[float]
    ) -> list[Choice | Exception]:
        """What each row takes, or why it cannot."""
        try:
            return [*choose(rows, logits_BV, uniforms, self._tokenizer.vocab_size)]
        except Exception as error:
            if len(rows) == 1:
                return [error]
        alone = [self._choose([row], logits_BV[b : b + 1], uniforms[b : b + 1]) for b, row in enumerate(rows)]
        return list(chain(*alone))

    def _event(self, row: SampleRow, choice: Choice | Exception) -> TokenEvent:
        try:
            if isinstance(choice, Exception):
                raise choice
            if choice.id is None:
                return row.ended("stop")
            return row.take(choice.id, choice.logprob, choice.top, self._reason(row, choice.id))
        except Exception as error:
            return row.ended("failed", error)

    def _reason(self, row: SampleRow, id: int) -> FinishReason | None:
        """Why nothing can follow this token, or None."""
        if id in self._ends:
            return "stop"
        context = self._reader.scorer.context  # the last token need not be read, so it may lie beyond
        return "length" if context is not None and len(row.ids) >= context else None


def choose(
    rows: Sequence[SampleRow], logits_BV: Tensor, uniforms: Sequence[float], vocab_size: int
) -> list[Choice]:
    """What each row takes. Raises UserError where a row's logits are not finite."""
    params = [row.params for row in rows]
    logprobs_BV = logits_BV.float().log_softmax(dim=-1)
    check_finite(logprobs_BV[:, 0])
    logits_BV = logits_BV[:, :vocab_size]  # some models pad their vocabulary
    logits_BV, stuck = constrained(logits_BV, [row.matcher for row in rows])
    ids = sample(logits_BV, params, [row.ids for row in rows], [row.num_prompt for row in rows], uniforms)
    logprobs = logprobs_BV[torch.arange(len(ids)), ids].tolist()
    tops = top_logprobs(logprobs_BV, params)
    return [
        Choice(None) if b in stuck else Choice(id, logprob, top)
        for b, (id, logprob, top) in enumerate(zip(ids, logprobs, tops, strict=True))
    ]
