"""Rows of different lengths, packed into windows of one length: none is split, none sees another.

Which rows share a window, and the order of windows, is a function of (seed, epoch).

Shape letters: B windows, T positions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from malmoi.core.tensors import IGNORE, TokenBatch
from malmoi.text.chat import ChatRow
from malmoi.util.seeds import mixed

OPEN = 32  # windows that are being filled at the same time


class Packed:
    """ChatRows as training windows of `context` positions.

    A position predicts the next id of its own row, where that id is trained; the rest of a window is padding.
    together: False gives every row a window of its own, for models that cannot keep rows apart. weights: how
    often an epoch has each row, once by default; of rows that share a weight of 0.3, each epoch draws 30%.
    """

    def __init__(
        self, rows: Sequence[ChatRow], context: int, *, seed: int, together: bool = True,
        weights: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        """Every row must have from 2 to `context` + 1 ids."""
        assert rows
        assert all(2 <= len(row.ids) <= context + 1 for row in rows)
        self.rows, self.context, self.seed, self.together = rows, context, seed, together
        self._weights = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
        self._lengths = [len(row.ids) - 1 for row in rows]
        self._epoch = lru_cache(maxsize=2)(self._packed)
        self._ends = [0]  # how many windows the first 0, 1, 2, ... epochs have

    @property
    def windows_per_epoch(self) -> int:
        """Of the first epoch; later ones may differ by a few."""
        return len(self._epoch(0))

    @property
    def fill(self) -> float:
        """The share of positions that are no padding, of the first epoch."""
        used = sum(self._lengths[row] for window in self._epoch(0) for row in window)
        return used / (self.windows_per_epoch * self.context)

    @property
    def mean_tokens(self) -> int:
        """Of a row."""
        return round(sum(self._lengths) / len(self._lengths))

    def batch(self, step: int, windows: int, start: int, stop: int) -> TokenBatch:
        """Windows `start` to `stop` of the global batch of `windows` windows at `step`."""
        chosen = [self.window(step * windows + number) for number in range(start, stop)]
        return self.token_batch(chosen)

    def window(self, number: int) -> list[int]:
        """The rows of the `number`-th window since the beginning of training."""
        while number >= self._ends[-1]:
            self._ends.append(self._ends[-1] + len(self._epoch(len(self._ends) - 1)))
        epoch = bisect_right(self._ends, number) - 1
        return self._epoch(epoch)[number - self._ends[epoch]]

    def _packed(self, epoch: int) -> list[list[int]]:
        """The epoch's rows, each in one window: the first of the open ones that has room for it."""
        random = np.random.default_rng(mixed(self.seed, epoch))
        order = random.permutation(self._drawn(random)).tolist()
        if not self.together:
            return [[row] for row in order]
        full: list[list[int]] = []
        windows: list[tuple[list[int], int]] = []  # open ones, with the room that is left
        for row in order:
            length = self._lengths[row]
            at = next((i for i, (_, room) in enumerate(windows) if room >= length), None)
            chosen, room = windows.pop(at) if at is not None else ([], self.context)
            chosen.append(row)
            windows.insert(at or 0, (chosen, room - length))
            if len(windows) > OPEN:
                full.append(windows.pop(min(range(len(windows)), key=lambda i: windows[i][1]))[0])
        full += [chosen for chosen, _ in windows]
        return [full[i] for i in random.permutation(len(full))]

    def _drawn(self, random: np.random.Generator) -> np.ndarray:
        """The rows of an epoch: each as often as its weight's whole part says, the rest by a draw.

        The draw takes rows of one weight at even distances in a random order, so that their number is right.
        """
        order = random.permutation(len(self.rows))
        order = order[np.argsort(self._weights[order], kind="stable")]
        whole = np.floor(self._weights[order])
        reached = np.floor(np.cumsum(self._weights[order] - whole) + random.random())
        counts = (whole + np.diff(reached, prepend=0.0)).astype(np.int64)
        return np.repeat(order, counts) if counts.any() else order[:1]

    def token_batch(self, windows: Sequence[Sequence[int]]) -> TokenBatch:
        """The rows of each window one after another, padded to `context` (alone: to the longest)."""
        width = self.context if self.together else max(self._lengths[rows[0]] for rows in windows)
        shape = (len(windows), width)
        ids, targets = np.zeros(shape, dtype=np.int64), np.full(shape, IGNORE, dtype=np.int64)
        documents = np.full(shape, -1, dtype=np.int64)
        for b, numbers in enumerate(windows):
            place = 0
            for document, number in enumerate(numbers):
                row, end = self.rows[number], place + self._lengths[number]
                following = np.array(row.ids[1:])
                ids[b, place:end], documents[b, place:end] = row.ids[:-1], document
                targets[b, place:end] = np.where(row.trained[1:], following, IGNORE)
                place = end
        documents_BT = torch.from_numpy(documents) if self.together else None
        return TokenBatch(torch.from_numpy(ids), torch.from_numpy(targets), documents_BT)
