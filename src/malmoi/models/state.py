"""What a model remembers between steps, and what the engine asks of every model.

A KV cache grows with the text; a recurrent state does not; an n-gram keeps its last few tokens. The
`State` contract hides the difference, so that one engine serves all of them.

Shape letters: B rows, T new positions, S cached positions, K key-value heads, C head width, L layers,
D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor


class State(Protocol):
    """The memory of B independent rows."""

    lengths_B: Tensor  # int64 on the CPU: how many tokens each row has read

    @property
    def nbytes(self) -> int: ...

    def select(self, rows: Sequence[int]) -> Self:
        """A new state made of these rows, in this order; a row may be repeated (beams, n > 1)."""
        ...

    def join(self, others: Sequence[Self]) -> Self:
        """A new state with the rows of this one followed by those of `others`."""
        ...

    def snapshot(self) -> Self:
        """A copy that later steps do not change."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """All that the engine asks of a model; an n-gram model included."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def context(self) -> int | None:
        """The most tokens that a row may hold; None where there is no such limit."""
        ...

    def new_state(self, rows: int, capacity: int = 0) -> State:
        """An empty state. `capacity` is a hint of how many tokens each row will hold."""
        ...

    def step(self, ids_BT: Tensor, counts_B: Tensor, state: State, *, last_only: bool = False) -> Tensor:
        """Read the first counts_B[b] tokens of each row (the rest is padding) and update `state`.

        Returns fp32 logits_BTV, meaningless at padding; with `last_only`, logits_B1V of the last real one.
        """
        ...


def last_positions(x_BTD: Tensor, counts_B: Tensor) -> Tensor:
    """x_B1D at each row's last real position."""
    if x_BTD.shape[1] == 1:
        return x_BTD
    rows_B = torch.arange(len(x_BTD), device=x_BTD.device)
    return x_BTD[rows_B, counts_B.to(x_BTD.device) - 1].unsqueeze(1)


def _extended(cache_LBKSC: Tensor, capacity: int) -> Tensor:
    """The cache with room for `capacity` positions."""
    return torch.nn.functional.pad(cache_LBKSC, (0, 0, 0, capacity - cache_LBKSC.shape[3]))


@dataclass(slots=True)
class KVState:
    """Keys and values of every layer: keys_LBKSC, values_LBKSC, grown as rows get longer."""

    keys_LBKSC: Tensor
    values_LBKSC: Tensor
    lengths_B: Tensor

    @classmethod
    def empty(
        cls, layers: int, rows: int, kv_heads: int, capacity: int, head_width: int, like: Tensor
    ) -> KVState:
        """Room for `capacity` tokens in each of `rows` rows, with the dtype and device of `like`."""
        shape = (layers, rows, kv_heads, capacity, head_width)
        return cls(like.new_zeros(shape), like.new_zeros(shape), torch.zeros(rows, dtype=torch.int64))

    @property
    def capacity(self) -> int:
        return self.keys_LBKSC.shape[3]

    @property
    def nbytes(self) -> int:
        return self.keys_LBKSC.nbytes + self.values_LBKSC.nbytes

    def reserve(self, positions: int) -> None:
        """Grow (by doubling, so that n steps copy O(n)) until every row can hold `positions` tokens."""
        if positions > self.capacity:
            capacity = max(positions, 2 * self.capacity, 64)
            self.keys_LBKSC = _extended(self.keys_LBKSC, capacity)
            self.values_LBKSC = _extended(self.values_LBKSC, capacity)

    def select(self, rows: Sequence[int]) -> KVState:
        index = torch.as_tensor(rows, dtype=torch.int64)
        there = index.to(self.keys_LBKSC.device)
        return KVState(self.keys_LBKSC[:, there], self.values_LBKSC[:, there], self.lengths_B[index])

    def join(self, others: Sequence[KVState]) -> KVState:
        states = [self, *others]
        capacity = max(state.capacity for state in states)
        return KVState(
            torch.cat([_extended(state.keys_LBKSC, capacity) for state in states], dim=1),
            torch.cat([_extended(state.values_LBKSC, capacity) for state in states], dim=1),
            torch.cat([state.lengths_B for state in states]),
        )

    def snapshot(self) -> KVState:
        return KVState(self.keys_LBKSC.clone(), self.values_LBKSC.clone(), self.lengths_B.clone())


@dataclass(slots=True)
class RecurrentState:
    """The hidden state (and, for an LSTM, the cell state) of every layer: parts_LBD."""

    parts_LBD: tuple[Tensor, ...]
    lengths_B: Tensor

    @property
    def nbytes(self) -> int:
        return sum(part_LBD.nbytes for part_LBD in self.parts_LBD)

    def select(self, rows: Sequence[int]) -> RecurrentState:
        index = torch.as_tensor(rows, dtype=torch.int64)
        parts = tuple(part_LBD[:, index.to(part_LBD.device)] for part_LBD in self.parts_LBD)
        return RecurrentState(parts, self.lengths_B[index])

    def join(self, others: Sequence[RecurrentState]) -> RecurrentState:
        states = [self, *others]
        parts = tuple(torch.cat(parts, dim=1) for parts in zip(*(s.parts_LBD for s in states), strict=True))
        return RecurrentState(parts, torch.cat([state.lengths_B for state in states]))

    def snapshot(self) -> RecurrentState:
        return RecurrentState(tuple(part.clone() for part in self.parts_LBD), self.lengths_B.clone())
