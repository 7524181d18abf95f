"""Reading prompts: several at once, and what they have in common once.

Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from malmoi.engine.prefixes import LEAST_TOKENS, NOTHING, Found, Prefixes, common
from malmoi.models.state import Scorer, State, Verifier

CHUNK_TOKENS = 1024  # a longer prompt is read alone and in pieces, which bounds the memory of activations


LEAST_SAVED = 64  # tokens that a reading of its own must save: it costs a step of the model and copies
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads with a scorer, at most `max_rows` prompts at once; one, if deterministic.

    prefixes: the states of what was read before, which a deterministic reader leaves alone.
    """

    scorer: Scorer
    max_rows: int
    deterministic: bool
    prefixes: Prefixes

    def read(self, rows: Sequence[Sequence[int]], state: State) -> Tensor:
        """logits_BV after the last of each row's new tokens."""
        ids_BT, counts_B = padded(rows)
        return self.scorer.step(ids_BT, counts_B, state, last_only=True).squeeze(1)

    @property
    def most_verified(self) -> int:
        """How many tokens `verify` reads; 0 where the model cannot."""
        return self.scorer.most_verified if isinstance(self.scorer, Verifier) else 0

    def verify(self, rows: Sequence[Sequence[int]], state: State) -> Tensor:
        """logits_NV after each of each row's new tokens. See `Verifier`."""
        assert isinstance(self.scorer, Verifier)
        return self.scorer.verify(*padded(rows), state)

    def read_prompts(
        self, prompts: Sequence[Sequence[int]], room: int, found: Sequence[Found] = ()
    ) -> tuple[Tensor, State]:
        """logits_BV after each prompt, and a state with room for `room` more tokens.

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
            logits_BV = self.read([ids[start : start + CHUNK_TOKENS] for ids in left], state)
        return logits_BV, state

    def known(self, prompts: Sequence[Sequence[int]]) -> list[Found]:
        """The state that each prompt can be read from: after a text that was read before, or after what
        several of these begin with, which is read now. A state may be that of several prompts."""
        found = [NOTHING] * len(prompts)
        if self.deterministic or not prompts:
            return found
        waiting = [(sorted(range(len(prompts)), key=lambda i: list(prompts[i])), NOTHING)]
        while waiting:
            members, known = waiting.pop()
            length = _shared_length([prompts[i] for i in members])
            known = self._beginning(prompts[members[0]][: length + 1], len(members), known)
            for i in members:
                found[i] = known
            waiting += ((part, known) for part in _parts(prompts, members, length))
        return found

    def _beginning(self, ids: Sequence[int], readers: int, known: Found) -> Found:
        """What is known of these first tokens, less the last, which `readers` prompts have: at least `known`.

        They are read if that pays, or if another text had as much in common with them and its state there is
        forgotten.
        """
        before = self.prefixes.find(ids, known.length)
        known = before if before.state is not None else known
        length = len(ids) - 1
        if (readers - 1) * (length - known.length) < LEAST_SAVED:
            length = before.shared
        if length < known.length + LEAST_TOKENS:
            return known
        beginning = list(ids[:length])
        _, state = self.read_prompts([beginning], 0, [known])
        self.remember(beginning, state, 0)
        return Found(length, state, length)

    def remember(self, ids: Sequence[int], state: State, row: int) -> None:
        """Keep what a row has read for a prompt that begins so; nothing fails for want of it."""
        try:
            self.prefixes.add(ids, state, row)
        except Exception:
            _log.warning("a text that was read could not be kept", exc_info=True)

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which prompts to read together: like lengths, and a long one (or, if deterministic, any) alone."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        short = [i for i in order if lengths[i] <= CHUNK_TOKENS and not self.deterministic]
        groups = [short[start : start + self.max_rows] for start in range(0, len(short), self.max_rows)]
        return groups + [[i] for i in order if i not in set(short)]


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """ids_BT, filled with 0 on the right, and counts_B of real ones."""
    counts = [len(row) for row in rows]
    filled = [[*row, *[0] * (max(counts) - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.int64), torch.tensor(counts)


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all of these have, in lexicographic order; each has at least one more."""
    return min(common(prompts[0], prompts[-1]), min(map(len, prompts)) - 1)


def _parts(prompts: Sequence[Sequence[int]], members: Sequence[int], length: int) -> Iterator[list[int]]:
    """The members that go on beyond their next token, by what that is; one alone is no part of itself."""
    longer = [i for i in members if len(prompts[i]) > length + 1]
    if len(members) > 1:
        yield from (list(part) for _, part in groupby(longer, key=lambda i: prompts[i][length]))
