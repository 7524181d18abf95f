"""A scorer without a neural network: its logits are a fixed function of each row's whole history."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from malmoi.models.state import State


@dataclass
class Histories:
    """A state that remembers everything, so that any mix-up of rows shows in the logits."""

    rows: list[list[int]]

    @property
    def lengths_B(self) -> Tensor:
        return torch.tensor([len(row) for row in self.rows])

    @lengths_B.setter
    def lengths_B(self, lengths_B: Tensor) -> None:
        self.rows = [row[:length] for row, length in zip(self.rows, lengths_B.tolist(), strict=True)]

    @property
    def nbytes(self) -> int:
        return 8 * sum(map(len, self.rows))

    def select(self, rows: Sequence[int]) -> Histories:
        return Histories([list(self.rows[b]) for b in rows])

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[b] for b in rows]

    def join(self, others: Sequence[Histories]) -> Histories:
        return Histories([list(row) for state in [self, *others] for row in state.rows])

    def snapshot(self) -> Histories:
        return self.select(range(len(self.rows)))

    def prefix(self, row: int, length: int) -> Histories | None:
        return Histories([self.rows[row][:length]])


class FakeScorer:
    """Logits drawn from a generator seeded by the history; `always` makes one token certain."""

    def __init__(self, vocab_size: int, context: int | None = None) -> None:
        self.vocab_size, self.context = vocab_size, context
        self.always: dict[int, int] = {}  # history length -> token
        self.tokens_read = 0
        self.shapes: list[tuple[int, ...]] = []

    def logits(self, history: Sequence[int]) -> Tensor:
        seed = zlib.crc32(np.array(history, dtype=np.int64).tobytes())
        logits = 3 * np.random.default_rng(seed).standard_normal(self.vocab_size).astype(np.float32)
        if len(history) in self.always:
            logits[self.always[len(history)]] = 1000.0
        return torch.from_numpy(logits)

    def new_state(self, rows: int, capacity: int = 0) -> Histories:
        assert self.context is None or capacity <= self.context
        return Histories([[] for _ in range(rows)])

    def step(self, ids_BT: Tensor, counts_B: Tensor, state: State, *, last_only: bool = False) -> Tensor:
        assert isinstance(state, Histories)
        assert int(counts_B.min()) >= 1
        self.shapes.append(tuple(ids_BT.shape))
        self.tokens_read += int(counts_B.sum())
        logits_BTV = torch.full((*ids_BT.shape, self.vocab_size), torch.nan)
        for b, (row, count) in enumerate(zip(state.rows, counts_B.tolist(), strict=True)):
            for t in range(count):
                row.append(int(ids_BT[b, t]))
                logits_BTV[b, t] = self.logits(row)
            assert self.context is None or len(row) <= self.context
        return logits_BTV[torch.arange(len(ids_BT)), counts_B - 1, None] if last_only else logits_BTV


class FakeVerifier(FakeScorer):
    """Checks guesses, and mostly goes on as the text did where its last token stood before."""

    most_verified = 31

    def logits(self, history: Sequence[int]) -> Tensor:
        logits, before = super().logits(history), list(history[:-1])
        if history[-1] in before and zlib.crc32(bytes(f"{history}", "ascii")) % 5:
            logits[history[len(before) - before[::-1].index(history[-1])]] += 20
        return logits

    def verify(self, ids_BT: Tensor, counts_B: Tensor, state: State) -> Tensor:
        assert int(counts_B.sum()) <= self.most_verified
        logits_BTV = self.step(ids_BT, counts_B, state)
        return logits_BTV[torch.arange(ids_BT.shape[1])[None] < counts_B[:, None]]
