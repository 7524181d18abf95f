"""Examples to batches of like length, so that little of a batch is padding. A function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_POOL_BATCHES = 50  # so many batches are drawn at random, then sorted by length among themselves


class Buckets:
    """Batches of `rows` examples (the last one of an epoch may have fewer); every epoch uses each once."""

    def __init__(self, lengths: Sequence[int], rows: int, seed: int) -> None:
        """lengths: of the examples, in any unit."""
        assert lengths
        self.lengths = np.asarray(lengths)
        self.rows, self.seed = rows, seed
        self._epoch = lru_cache(maxsize=2)(self._batches)

    @property
    def steps_per_epoch(self) -> int:
        """How many batches use every example once."""
        return -(-len(self.lengths) // self.rows)

    def batch(self, step: int) -> NDArray[np.int64]:
        """The numbers of the examples of step `step` (from 0), the longest last."""
        epoch, number = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[number]

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        random = np.random.default_rng((self.seed, epoch))
        order = random.permutation(len(self.lengths))
        pool = self.rows * _POOL_BATCHES
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        by_length = np.concatenate([one[np.argsort(self.lengths[one], kind="stable")] for one in pools])
        batches = [by_length[start : start + self.rows] for start in range(0, len(by_length), self.rows)]
        return [batches[number] for number in random.permutation(len(batches))]


def within(lengths: Sequence[int], most: int) -> list[slice]:
    """Cut a batch, sorted by length, into parts whose padded size is at most `most` (one row at least)."""
    parts: list[slice] = []
    start = 0
    for end in range(1, len(lengths) + 1):
        full = end < len(lengths) and (end + 1 - start) * max(lengths[start : end + 1]) > most
        if full or end == len(lengths):
            parts.append(slice(start, end))
            start = end
    return parts
