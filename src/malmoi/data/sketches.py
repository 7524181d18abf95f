"""Texts as sketches: numbers by which equal, nearly equal and contained texts are found without the texts.

All of them look at a text's letters and signs without regard to case and spacing, which in Korean varies from
writer to writer. Shape letters: N texts, H hash functions, B bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import rensa
from numpy.typing import NDArray

SHINGLE = 5  # characters
BANDS, BAND_ROWS = 16, 8
HASHES = BANDS * BAND_ROWS
NEAR = 0.8  # Jaccard similarity of the shingles from which on two documents are near-duplicates
WINDOW = 10 * SHINGLE  # characters of a passage that is looked for in other texts
STRIDE = 25  # of every so many characters of a text that is protected, one passage begins
MADE_BY = f"rensa {version('rensa')}"
_SEED = 1
_BASE = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]
Signatures = NDArray[np.uint32]  # (N, H)
Ids = NDArray[np.int64]


def squeezed(text: str) -> str:
    """What tells texts apart that differ in more than case and spacing."""
    return "".join(text.lower().split())


def shingle_hashes(texts: Sequence[str]) -> tuple[Hashes, Ids]:
    """The hash of each SHINGLE characters of each squeezed text, one after another; and where each begins.

    The second array has N + 1 entries. A text that is shorter is padded to one shingle.
    """
    padded = [text.ljust(SHINGLE) for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    ends = np.cumsum([0, *map(len, padded)])
    hashes = np.zeros(max(0, len(codes) - SHINGLE + 1), dtype=np.uint64)
    for place in range(SHINGLE):  # a polynomial modulo 2**64: numpy's unsigned integers wrap around
        hashes = hashes * _BASE + codes[place : place + len(hashes)]
    across = (ends[1:-1, None] - np.arange(1, SHINGLE)).reshape(-1)  # begin in one text, end in another
    return np.delete(hashes, across), ends - (SHINGLE - 1) * np.arange(len(ends))


def signatures(hashes: Hashes, starts: Ids) -> Signatures:
    """The MinHash signature of each text, of what `shingle_hashes` gives: uint32 (N, H).

    The share of equal entries of two signatures estimates the Jaccard similarity of the two sets of shingles
    (Broder 1997, On the resemblance and containment of documents).
    """
    if len(starts) < 2:
        return np.zeros((0, HASHES), np.uint32)
    mixed = (hashes ^ (hashes >> np.uint64(29))) * _BASE
    sketch: Any = rensa
    made = sketch.RMinHash.digest_matrix_from_flat_token_hashes(
        mixed, starts.astype(np.uint64), HASHES, _SEED
    )
    return np.array(made.to_rows(), dtype=np.uint32)


def band_hashes(rows: Signatures, band: int) -> Hashes:
    """One number for each row's part in a band: near-duplicates are likely to have one in common.

    (Locality-sensitive hashing: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3: with
    16 bands of 8 rows 95% of the pairs of similarity 0.8 share one.)
    """
    found = np.zeros(len(rows), dtype=np.uint64)
    for column in rows[:, band * BAND_ROWS : (band + 1) * BAND_ROWS].T:
        found = (found ^ column) * _BASE
        found ^= found >> np.uint64(31)
    return found


def window_hashes(shingles: Hashes) -> Hashes:
    """The hash of every WINDOW characters, of the hashes of the shingles: one that begins with each of them,
    less the last ones."""
    count = max(0, len(shingles) - WINDOW + SHINGLE)
    found = np.zeros(count, dtype=np.uint64)
    step = np.uint64(pow(int(_BASE), SHINGLE, 1 << 64))
    for place in range(0, WINDOW, SHINGLE):
        found = found * step + shingles[place : place + count]
    return (found ^ (found >> np.uint64(32))) * _BASE


class Passages:
    """Texts that must not stand in others, as hashes of passages of WINDOW characters, one every STRIDE.

    A text shorter than that has none and is only found where it is the whole of another one. What is added is
    looked for after `seal`.
    """

    def __init__(self) -> None:
        self._hashes, self._owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
        self.seal()

    def add(self, owner: int, text: str) -> None:
        """Protect a squeezed text, which has this number."""
        windows = window_hashes(shingle_hashes([text])[0])
        if len(windows):
            chosen = np.unique(np.append(windows[::STRIDE], windows[-1]))
            self._hashes.append(chosen)
            self._owners.append(np.full(len(chosen), owner, dtype=np.int32))

    def seal(self) -> None:
        """Look for all that were added."""
        hashes, owners = np.concatenate(self._hashes), np.concatenate(self._owners)
        order = np.argsort(hashes, kind="stable")
        self._sorted, self._owner_of = hashes[order], owners[order]
        self._counts = np.bincount(owners)
        self._likely = np.zeros(1 << 24, dtype=bool)  # by 24 bits of a hash, which spares most searches
        self._likely[_high_bits(hashes)] = True

    def owners_within(self, hashes: Hashes, starts: Ids, share: float) -> NDArray[np.int32]:
        """For each text of `shingle_hashes` the first protected one of whose passages it has at least this
        share; -1: none."""
        found = np.full(len(starts) - 1, -1, dtype=np.int32)
        if not len(self._sorted):
            return found
        windows = window_hashes(hashes)
        at = np.flatnonzero(self._likely[_high_bits(windows)])
        at = at[np.isin(windows[at], self._sorted)]
        texts = np.searchsorted(starts, at, "right") - 1
        inside = at + WINDOW - SHINGLE < starts[texts + 1]
        for text in np.unique(texts[inside]).tolist():
            found[text] = self._first_whole(np.unique(windows[at[inside & (texts == text)]]), share)
        return found

    def _first_whole(self, windows: Hashes, share: float) -> int:
        first, last = (np.searchsorted(self._sorted, windows, side) for side in ("left", "right"))
        owners = [self._owner_of[one:other] for one, other in zip(first, last, strict=True)]
        found, counts = np.unique(np.concatenate(owners), return_counts=True)
        whole = found[counts >= share * self._counts[found]]
        return int(whole[0]) if len(whole) else -1


def _high_bits(hashes: Hashes) -> Ids:
    return (hashes >> np.uint64(40)).astype(np.int64)
