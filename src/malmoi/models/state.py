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
    """The memory of B independent rows. Its methods work in and out of inference mode."""

    lengths_B: Tensor  # int64 on the CPU: how many tokens each row has read

    @property
    def nbytes(self) -> int: ...

    def select(self, rows: Sequence[int]) -> Self:
        """A new state made of these rows, in this order; a row may be repeated (beams, n > 1)."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, in place; row i is then the old row rows[i].

        A row that moves comes from beyond the new end (rows[i] is i, or at least len(rows)), so that a row
        which leaves costs the copy of at most one other.
        """
        ...

    def join(self, others: Sequence[Self]) -> Self:
        """The rows of this state followed by those of `others`. This one is used up: it may be the result.

        Where it raises, this one is as it was.
        """
        ...

    def snapshot(self) -> Self:
        """A copy that later steps do not change."""
        ...

    def prefix(self, row: int, length: int) -> Self | None:
        """A copy of one row as it was after its first `length` tokens; None where that is forgotten."""
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


@runtime_checkable
class Verifier(Scorer, Protocol):
    """A model that may be able to read several tokens of a row at once as if they came one at a time.

    Its states then forget what lies beyond their `lengths_B`: to lower these takes tokens back.
    """

    @property
    def most_verified(self) -> int:
        """How many tokens, of all rows together, are read so; 0: none."""
        ...

    def verify(self, ids_BT: Tensor, counts_B: Tensor, state: State) -> Tensor:
        """As `step`, but logits_NV of the N real tokens, one row's after the other's. They are the same to
        the bit as from a step for each token, whatever stands beside it."""
        ...


def last_positions(x_BTD: Tensor, counts_B: Tensor) -> Tensor:
    """x_B1D at each row's last real position."""
    if x_BTD.shape[1] == 1:
        return x_BTD
    rows_B = torch.arange(len(x_BTD), device=x_BTD.device)
    return x_BTD[rows_B, counts_B.to(x_BTD.device) - 1].unsqueeze(1)


def _grown(cache_LRKSC: Tensor, rooms: int, capacity: int) -> Tensor:
    """The cache with `rooms` rows of `capacity` positions."""
    _, had_rooms, _, had_capacity, _ = cache_LRKSC.shape
    return torch.nn.functional.pad(
        cache_LRKSC, (0, 0, 0, capacity - had_capacity, 0, 0, 0, rooms - had_rooms)
    )


class KVState:
    """Keys and values of every layer, grown as rows get longer and as rows are added.

    rooms_LRKSC: what is allocated for keys and for values; the first B of its R rooms are the rows. So a row
    that joins or leaves a batch costs the copy of itself or of one other, not of all. A step makes inference
    tensors, which nothing can write to outside of inference mode; whatever writes here is in it.
    """

    __slots__ = ("_views", "lengths_B", "rooms_LRKSC")

    def __init__(self, keys_LRKSC: Tensor, values_LRKSC: Tensor, lengths_B: Tensor) -> None:
        self.rooms_LRKSC = (keys_LRKSC, values_LRKSC)
        self.lengths_B = lengths_B
        self._views: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def empty(
        cls, layers: int, rows: int, kv_heads: int, capacity: int, head_width: int, like: Tensor
    ) -> KVState:
        """Room for `capacity` tokens in each of `rows` rows, with the dtype and device of `like`."""
        shape = (layers, rows, kv_heads, capacity, head_width)
        return cls(like.new_zeros(shape), like.new_zeros(shape), torch.zeros(rows, dtype=torch.int64))

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """keys_BKSC and values_BKSC of each layer, to read and to write."""
        if not self._views:
            keys_LBKSC, values_LBKSC = (rooms[:, : len(self.lengths_B)] for rooms in self.rooms_LRKSC)
            self._views = list(zip(keys_LBKSC, values_LBKSC, strict=True))
        return self._views

    @property
    def capacity(self) -> int:
        return self.rooms_LRKSC[0].shape[3]

    @property
    def nbytes(self) -> int:
        return sum(rooms.nbytes for rooms in self.rooms_LRKSC)

    @torch.inference_mode()
    def reserve(self, positions: int) -> None:
        """Grow (by doubling, so that n steps copy O(n)) until every row can hold `positions` tokens."""
        if positions > self.capacity:
            self._grow(self.rooms_LRKSC[0].shape[1], max(positions, 2 * self.capacity, 64))

    def select(self, rows: Sequence[int]) -> KVState:
        index = torch.as_tensor(rows, dtype=torch.int64)
        keys, values = (rooms[:, index.to(rooms.device)] for rooms in self.rooms_LRKSC)
        return KVState(keys, values, self.lengths_B[index])

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        for here, there in enumerate(rows):
            if here != there:
                assert there >= len(rows)
                length = int(self.lengths_B[there])
                for rooms in self.rooms_LRKSC:
                    rooms[:, here, :, :length] = rooms[:, there, :, :length]
        self.lengths_B, self._views = self.lengths_B[list(rows)], []

    @torch.inference_mode()
    def join(self, others: Sequence[KVState]) -> KVState:
        start, counts = len(self.lengths_B), [len(other.lengths_B) for other in others]
        rooms, capacity = self.rooms_LRKSC[0].shape[1], max(state.capacity for state in (self, *others))
        if (needed := start + sum(counts)) > rooms:
            rooms = max(needed, 2 * rooms)
        self._grow(rooms, capacity)
        for other, count in zip(others, counts, strict=True):
            for mine, theirs in zip(self.rooms_LRKSC, other.rooms_LRKSC, strict=True):
                mine[:, start : start + count, :, : other.capacity] = theirs[:, :count]
            start += count
        self.lengths_B, self._views = torch.cat([state.lengths_B for state in (self, *others)]), []
        return self

    def snapshot(self) -> KVState:
        return self.select(range(len(self.lengths_B)))

    def prefix(self, row: int, length: int) -> KVState:
        keys, values = (rooms[:, row : row + 1, :, :length].clone() for rooms in self.rooms_LRKSC)
        return KVState(keys, values, torch.tensor([length]))

    def _grow(self, rooms: int, capacity: int) -> None:
        if self.rooms_LRKSC[0].shape[1] != rooms or self.capacity != capacity:
            keys, values = (_grown(it, rooms, capacity) for it in self.rooms_LRKSC)
            self.rooms_LRKSC, self._views = (keys, values), []


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

    def keep(self, rows: Sequence[int]) -> None:
        kept = self.select(rows)
        self.parts_LBD, self.lengths_B = kept.parts_LBD, kept.lengths_B

    def join(self, others: Sequence[RecurrentState]) -> RecurrentState:
        states = [self, *others]
        parts = tuple(torch.cat(parts, dim=1) for parts in zip(*(s.parts_LBD for s in states), strict=True))
        return RecurrentState(parts, torch.cat([state.lengths_B for state in states]))

    def snapshot(self) -> RecurrentState:
        return RecurrentState(tuple(part.clone() for part in self.parts_LBD), self.lengths_B.clone())

    def prefix(self, row: int, length: int) -> RecurrentState | None:
        return self.select([row]) if int(self.lengths_B[row]) == length else None
