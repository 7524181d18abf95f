"""How a model reads: rows of different lengths in one batch, long prompts in pieces.

Shape letters: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from malmoi.engine.prefixes import Found
from malmoi.models.state import Scorer, State

CHUNK_TOKENS = 1024  # a longer prompt is read alone and in pieces, which bounds the memory of activations


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads with a scorer, at most `max_rows` prompts at once; one, if deterministic."""

    scorer: Scorer
    max_rows: int
    deterministic: bool

    def read(self, rows: Sequence[Sequence[int]], state: State) -> Tensor:
        """logits_BV after the last of each row's new tokens."""
        ids_BT, counts_B = padded(rows)
        return self.scorer.step(ids_BT, counts_B, state, last_only=True).squeeze(1)

    def read_prompts(
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
            logits_BV = self.read([ids[start : start + CHUNK_TOKENS] for ids in left], state)
        return logits_BV, state

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
