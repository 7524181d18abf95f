"""Token files to batches, packed without padding. The order is a function of (seed, step) and nothing else.

The tokens are a circle: after the last document's eos comes the first document. An epoch cuts the circle
into windows of `context` positions, from a random place on, and visits them in a random order, each once.

Shape letters: B rows, T positions, W windows of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from malmoi.core.errors import UserError
from malmoi.core.tensors import IGNORE, TokenBatch
from malmoi.data.shards import TokenFile


def fit_context(tokens: TokenFile, context: int) -> int:
    """`context`, or less where the text is shorter. Raises UserError where nothing can be predicted."""
    if tokens.num_tokens < 2:
        raise UserError("the text has fewer than 2 tokens, so there is nothing to predict; give more text")
    return min(context, tokens.num_tokens - 1)


def windows_per_epoch(tokens: TokenFile, context: int) -> int:
    """How many rows an epoch has. Fewer than `context` tokens, other ones each epoch, are left over."""
    return tokens.num_tokens // context


def batch(
    tokens: TokenFile,
    *,
    seed: int,
    step: int,
    rows: int,
    context: int,
    start: int = 0,
    stop: int | None = None,
) -> TokenBatch:
    """Rows `start` to `stop` (default: all) of the global batch of `rows` rows at `step`.

    ids_BT and targets_BT (the next token, everywhere) are int64; `documents_BT` is None where no row holds
    two documents. Slices of one step, one after another, are the global batch. Needs context < num_tokens
    (see `fit_context`).
    """
    assert 0 < context < tokens.num_tokens
    num_windows = windows_per_epoch(tokens, context)
    row_numbers = range(rows)[start:stop]
    starts = [
        _window(seed, *divmod(step * rows + row, num_windows), num_windows, tokens, context)
        for row in row_numbers
    ]
    positions = np.array(starts, dtype=np.int64)[:, None] + np.arange(context + 1)
    ids = tokens.ids[positions % tokens.num_tokens].astype(np.int64)
    return _token_batch(ids[:, :-1], ids[:, 1:], tokens.eos)


def _window(seed: int, epoch: int, number: int, num_windows: int, tokens: TokenFile, context: int) -> int:
    """The first position of an epoch's window."""
    offset, order_W = _epoch(seed, epoch, num_windows, tokens.num_tokens)
    return offset + int(order_W[number]) * context


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, num_windows: int, num_tokens: int) -> tuple[int, np.ndarray]:
    """Where an epoch begins on the circle, and the order of its windows."""
    random = np.random.default_rng((seed, epoch))
    return int(random.integers(num_tokens)), random.permutation(num_windows)


def evaluation_batches(
    tokens: TokenFile, context: int, rows: int, limit_tokens: int | None = None
) -> Iterator[TokenBatch]:
    """Windows in the text's order: each of the first `limit_tokens` tokens is a target exactly once.

    The first token is predicted from an eos, as after any other document. The last window is filled up with
    eos whose targets are IGNORE; the last batch may have fewer rows.
    """
    num_targets = min(limit_tokens or tokens.num_tokens, tokens.num_tokens)
    for start in range(0, num_targets, rows * context):
        stop = min(start + rows * context, num_targets)
        previous = (
            tokens.ids[start - 1 : stop - 1] if start else np.append(tokens.eos, tokens.ids[: stop - 1])
        )
        num_rows = -(-(stop - start) // context)
        ids = np.full(num_rows * context, tokens.eos, dtype=np.int64)
        targets = np.full(num_rows * context, IGNORE, dtype=np.int64)
        ids[: stop - start] = previous
        targets[: stop - start] = tokens.ids[start:stop]
        yield _token_batch(ids.reshape(num_rows, context), targets.reshape(num_rows, context), tokens.eos)


def _token_batch(ids_BT: np.ndarray, targets_BT: np.ndarray, eos: int) -> TokenBatch:
    """Number each row's documents from 0: the position after an eos begins the next one."""
    ends_BT = ids_BT[:, :-1] == eos
    documents_BT = None
    if ends_BT.any():
        documents_BT = torch.zeros(ids_BT.shape, dtype=torch.int64)
        documents_BT[:, 1:] = torch.from_numpy(ends_BT.cumsum(axis=1))
    # Copies, so that the tensors are contiguous and writable.
    return TokenBatch(torch.from_numpy(ids_BT.copy()), torch.from_numpy(targets_BT.copy()), documents_BT)


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
