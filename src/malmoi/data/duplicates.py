"""Which rows repeat which, of their hashes and signatures alone, which may lie in a file.

Rows have numbers in the order of reading; the earlier one is the original. Memory: some 30 bytes a row.
Shape letters: N rows, M of them that are compared, P pairs, H hash functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from malmoi.data.sketches import BANDS, Hashes, Ids, Signatures, band_hashes

CHUNK = 1 << 16  # rows of signatures in memory at a time
_NO_PAIRS = np.zeros((0, 2), dtype=np.int64)


class Repeats(NamedTuple):
    """Rows that repeat others: pairs_P2 are (the other, the row), by row; similarity_P estimates how much."""

    pairs_P2: Ids
    similarity_P: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.pairs_P2)


def first_equal(keys_N: Hashes) -> Ids:
    """For each row the number of the first row with the same key, which may be its own."""
    _, first, inverse = np.unique(keys_N, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def near_originals(
    signatures: Signatures, ids_M: Ids, least: float, groups_M: Hashes | None = None
) -> Repeats:
    """The rows among `ids_M` (ascending) that nearly equal an earlier one which does not itself; the first.

    groups_M: only rows of one group are compared.
    """
    found = _similar(signatures, ids_M, least, groups_M)
    kept = np.ones(len(found), dtype=bool)
    original = dict[int, int]()
    pairs: list[tuple[int, int]] = found.pairs_P2.tolist()
    for place, (other, row) in enumerate(pairs):
        kept[place] = row not in original
        first = original.get(other, other)
        if first != other and kept[place]:  # the other one is a repeat: is this row as near to its original?
            found.pairs_P2[place, 0] = first
            found.similarity_P[place] = (signatures[first] == signatures[row]).mean()
            kept[place] = found.similarity_P[place] >= least
        if kept[place]:
            original[row] = first
    return Repeats(found.pairs_P2[kept], found.similarity_P[kept])


def near_before(signatures: Signatures, ids_M: Ids, least: float, roles_M: NDArray[np.uint8]) -> Repeats:
    """The rows among `ids_M` (ascending, as are their roles) that nearly equal one of a lower role."""
    found = _similar(signatures, ids_M, least, None, roles_M)
    _, first = np.unique(found.pairs_P2[:, 1], return_index=True)
    return Repeats(found.pairs_P2[first], found.similarity_P[first])


def _similar(
    signatures: Signatures, ids_M: Ids, least: float, groups_M: Hashes | None,
    roles_M: NDArray[np.uint8] | None = None,
) -> Repeats:  # fmt: skip
    """All candidates that are as similar, each once, by row and then by the other."""
    found = _NO_PAIRS
    for band in range(BANDS):
        keys_M = np.concatenate([band_hashes(rows, band) for rows in _chunks(signatures, ids_M)])
        places = _neighbours(keys_M if groups_M is None else keys_M ^ groups_M, roles_M)
        pairs = ids_M[places]
        found = np.unique(np.concatenate([found, pairs[_similarity(signatures, pairs) >= least]]), axis=0)
    found = found[np.lexsort((found[:, 0], found[:, 1]))]
    return Repeats(found, _similarity(signatures, found))


def _chunks(signatures: Signatures, ids: Ids) -> Iterator[Signatures]:
    """The rows, CHUNK at a time; at least one, perhaps empty, chunk."""
    for start in range(0, max(1, len(ids)), CHUNK):
        yield signatures[ids[start : start + CHUNK]]


def _similarity(signatures: Signatures, pairs_P2: Ids) -> NDArray[np.float64]:
    sides = (_chunks(signatures, pairs_P2[:, side]) for side in (0, 1))
    return np.concatenate([(one == other).mean(axis=1) for one, other in zip(*sides, strict=True)])


def _neighbours(keys_M: Hashes, roles_M: NDArray[np.uint8] | None) -> Ids:
    """Places of candidates (P, 2): each row with the first of its key and with the one before it there.

    With roles: with the first and the last of its key that have a lower role.
    """
    order = np.argsort(keys_M, kind="stable")
    begins = _begins(keys_M[order])
    first = _latest(begins)
    stops = _latest(begins | _begins(roles_M[order])) if roles_M is not None else np.arange(len(order))
    later = np.flatnonzero(stops > first)
    others = (first[later], stops[later] - 1)
    return np.concatenate([np.stack([order[other], order[later]], axis=1) for other in others])


def _begins(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Where a value differs from the one before it."""
    return np.concatenate([np.ones(min(1, len(values)), dtype=bool), values[1:] != values[:-1]])


def _latest(marks: NDArray[np.bool_]) -> Ids:
    """For each place the latest one that is marked."""
    return np.maximum.accumulate(np.where(marks, np.arange(len(marks)), 0))
