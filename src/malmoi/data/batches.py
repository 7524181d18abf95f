"""What a training step reads: tokens in windows, conversations packed, examples of about one length.

The order is a function of (seed, step) and nothing else. Documents and conversations never see each other.

Shape letters: B rows, T positions, W windows of an epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from malmoi.core.errors import UserError
from malmoi.core.nouns import OVERLAP
from malmoi.core.tensors import IGNORE, TokenBatch
from malmoi.data.shards import TokenFile
from malmoi.text.chat import ChatRow

OPEN_WINDOWS = 32  # that are being filled at the same time
POOL_BATCHES = 50  # drawn at random, then sorted by length among themselves

# ---- token files, without padding
#
# The tokens are a circle: after the last document's eos comes the first document. An epoch cuts the circle
# into windows of `context` positions, from a random place on, and visits them in a random order, each once;
# or from the first document on, one after the other.


def fit_context(tokens: TokenFile, context: int) -> int:
    """`context`, or less where the text is shorter. Raises UserError where nothing can be predicted."""
    if tokens.num_tokens < 2:
        raise UserError("the text has fewer than 2 tokens, so there is nothing to predict; give more text")
    return min(context, tokens.num_tokens - 1)


def windows_per_epoch(tokens: TokenFile, context: int) -> int:
    """How many rows an epoch has. Fewer than `context` tokens, other ones each epoch, are left over."""
    return tokens.num_tokens // context


def batch(
    tokens: TokenFile, *, seed: int | None, step: int, rows: int, context: int, start: int = 0,
    stop: int | None = None,
) -> TokenBatch:  # fmt: skip
    """Rows `start` to `stop` (default: all) of the global batch of `rows` rows at `step`.

    seed: of the rows' order; None for that of the text.
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


def _window(
    seed: int | None, epoch: int, number: int, num_windows: int, tokens: TokenFile, context: int
) -> int:  # fmt: skip
    """The first position of an epoch's window."""
    if seed is None:
        return number * context
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


# ---- conversations, packed: rows of different lengths in windows of one length, none of them split


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
            if len(windows) > OPEN_WINDOWS:
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


# ---- examples, those of about one length together


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
        pool = self.rows * POOL_BATCHES
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


def overlapping(length: int, most: int) -> list[tuple[int, int]]:
    """(start, stop) of windows of `most` items that cover all `length`: one where that is enough.

    Each begins before the end of the one before it, by OVERLAP of a window or more; all are whole.
    """
    step = max(1, most - int(most * OVERLAP))
    starts = [*range(0, length - most, step), length - most] if length > most else [0]
    return [(start, min(length, start + most)) for start in starts]


def reach(most: int, count: int) -> int:
    """How many items `count` windows of `most` items cover."""
    return most + (count - 1) * max(1, most - int(most * OVERLAP))


def mixed(*numbers: int) -> int:
    """One seed out of several numbers, spread over 64 bits, for what depends on seed and step alone."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
