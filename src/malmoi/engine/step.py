"""The samples that run: their rows go through the model together, one token each per step.

A greedy row that copies takes more: what it guessed (`malmoi.engine.lookup`) is read with its last token, and
as long as the model says the same, the next token is there already. What fails for several is tried again for
each alone, so an exception ends the sample that causes it and no other.

Shape letters: B rows, N tokens of all rows, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain

import numpy as np
import torch
from torch import Tensor

from malmoi.engine.constraints import Constrainer, constrain
from malmoi.engine.lookup import Guesses, Lookup
from malmoi.engine.prefixes import Found, common
from malmoi.engine.reader import Reader
from malmoi.engine.request import FinishReason, Request, SampleKey, SampleRow, TokenEvent, TopLogprobs
from malmoi.engine.sampling import best, best_allowed, check_finite, logprobs_of, sample
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


Part = tuple[Tile, Tensor]  # and logits_NV, what follows the last token of each row, and each of its guesses


@dataclass(frozen=True, slots=True)
class Choice:
    """A row's next token; id None: its constraint allows none."""

    id: int | None
    logprob: float = 0.0
    top: TopLogprobs = ()


class Batch:
    """The running samples of an engine. Only `forward` and `sample` touch a state; the rest is safe.

    lookup: whether greedy rows may guess.
    """

    def __init__(self, reader: Reader, tokenizer: Tokenizer, *, lookup: bool = True) -> None:
        self.rows: dict[SampleKey, SampleRow] = {}  # (request, index) -> a sample that has not ended
        self._reader, self._tokenizer = reader, tokenizer
        self._ends = tokenizer.specials.ends
        self._new: list[list[SampleRow]] = []  # of each request whose prompt is not read yet
        self._tiles: list[Tile] = []
        self._events: list[TokenEvent] = []
        self._lookup = lookup and reader.most_verified > 0
        self.guesses = Guesses()

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
        self.rows |= {row.key: row for row in rows}
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
        """logits_NV after the last token of every sample, new ones included, and after what it guessed."""
        self._sweep()
        parts = self._forward()
        self._tiles = [tile for tile, _ in parts]
        if len(parts) == 1:
            return parts[0][1]
        return torch.cat([logits_NV for _, logits_NV in parts]) if parts else torch.empty(0)

    def sample(self, logits_NV: Tensor) -> None:
        """A token for every sample, and one more for each of its guesses that is right."""
        if len(logits_NV):
            self._sample(logits_NV)
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
            if self._lookup and params.temperature == 0:
                row.lookup = Lookup()
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
            tile.keep([b for b, row in enumerate(tile.rows) if row.key in self.rows])
        self._tiles = [tile for tile in self._tiles if tile.rows]
        self._new = [rows for rows in self._new if rows[0].key in self.rows]

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
                return [(tile, self._stepped(tile.rows, tile.state))]
        except Exception:
            _log.warning("%d rows could not go on; each is read again", len(tile.rows), exc_info=True)
        for row in tile.rows:
            row.guessed = []
        parts = self._read_alone([[row] for row in tile.rows])
        for alone, _ in parts:
            alone.apart = True
        return parts

    def _stepped(self, rows: Sequence[SampleRow], state: State) -> Tensor:
        """What follows rows that have read all but their last token, and what they guess."""
        most, context = self._reader.most_verified // len(rows), self._reader.scorer.context
        for row in rows:
            left = most if context is None else min(most, context + 1 - len(row.ids))
            row.guessed = row.guess(len(rows), left, self._ends)
        read = self._reader.verify if any(row.guessed for row in rows) else self._reader.read
        return read([[row.ids[-1], *row.guessed] for row in rows], state)

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

    def _sample(self, logits_NV: Tensor) -> None:
        """A token for every row, then one for each whose first guess was that, and so on."""
        rows = list(chain(*(tile.rows for tile in self._tiles)))
        counts = [1 + len(row.guessed) for row in rows]
        asked = [(row, end - count) for row, count, end in zip(rows, counts, accumulate(counts), strict=True)]
        ended: set[SampleKey] = set()
        for turn in range(max(counts)):
            ended |= self._take([row for row, _ in asked], _lines(logits_NV, [line for _, line in asked]))
            asked = [
                (row, line + 1)
                for row, line in asked
                if row.key in self.rows and row.guessed[turn : turn + 1] == row.ids[-1:]
            ]
            if not asked:
                break
        for tile in self._tiles:
            self._settle(tile, ended)

    def _take(self, rows: Sequence[SampleRow], logits_BV: Tensor) -> set[SampleKey]:
        """A token for each of these rows; returns which have ended without an error."""
        choices = self._choose(rows, logits_BV, [row.random.random() for row in rows])
        events = [self._event(row, choice) for row, choice in zip(rows, choices, strict=True)]
        for event in events:
            self._emit(event)
        return {(event.request, event.index) for event in events if event.finished and event.error is None}

    def _settle(self, tile: Tile, ended: set[SampleKey]) -> None:
        """Wrong guesses are forgotten; what ended rows read is kept for a next turn that begins with it."""
        if tile.state is None:
            return
        lengths = tile.state.lengths_B.tolist()
        for b, row in enumerate(tile.rows):
            if row.lookup is not None and row.guessed:
                known = lengths[b] - len(row.guessed)
                right = common(row.guessed, row.ids[known:])
                row.lookup.check(len(row.guessed), right)
                self.guesses = self.guesses.plus(len(row.guessed), right)
                lengths[b] = known + right
        if any(row.guessed for row in tile.rows):
            tile.state.lengths_B = torch.tensor(lengths)
        for b, row in enumerate(tile.rows):
            if row.key in ended:
                self._reader.remember(row.ids[: lengths[b]], tile.state, b)

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


def _lines(logits_NV: Tensor, lines: Sequence[int]) -> Tensor:
    """Some lines, in ascending order; not copied where these are all."""
    return logits_NV if len(lines) == len(logits_NV) else logits_NV[lines]


def choose(
    rows: Sequence[SampleRow], logits_BV: Tensor, uniforms: Sequence[float], vocab_size: int
) -> list[Choice]:
    """What each row takes. Raises UserError where a row's logits are not finite."""
    logits_BV = logits_BV.float()
    most_B = logits_BV.amax(dim=-1)
    check_finite(most_B - most_B)
    said_BV = logits_BV[:, :vocab_size]  # some models pad their vocabulary
    ids: list[int | None] = [*best(said_BV)]
    others = [b for b, row in enumerate(rows) if not row.params.takes_best]
    for b, row in enumerate(rows):
        if row.matcher is not None and row.params.takes_best:
            ids[b] = best_allowed(said_BV[b], row.matcher)
    if others:
        drawn = _drawn([rows[b] for b in others], said_BV[others], [uniforms[b] for b in others])
        for b, id in zip(others, drawn, strict=True):
            ids[b] = id
    known = [0 if id is None else id for id in ids]
    logprobs, tops = logprobs_of(logits_BV, known, [row.params for row in rows])
    return [
        Choice(None) if id is None else Choice(id, logprob, top)
        for id, logprob, top in zip(ids, logprobs, tops, strict=True)
    ]


def _drawn(rows: Sequence[SampleRow], logits_BV: Tensor, uniforms: Sequence[float]) -> list[int | None]:
    """What rows take that do not simply take the best; None where nothing can be said. Overwrites logits."""
    stuck = constrain(logits_BV, [row.matcher for row in rows])
    params, histories = [row.params for row in rows], [row.ids for row in rows]
    ids = sample(logits_BV, params, histories, [row.num_prompt for row in rows], uniforms)
    return [None if b in stuck else id for b, id in enumerate(ids)]
