"""States of texts that were read before, so that a prompt that begins like one of them is not read again.

A cache of keys and values can be cut at any token, so the longest common beginning is shared with whatever
was read. A recurrent state cannot: where two prompts part, the second stops to keep the state for a third.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from malmoi.models.state import State

LEAST_TOKENS = 16  # a shorter beginning is read as fast as it is copied


@dataclass(frozen=True, slots=True)
class Found:
    """The state after the first `length` tokens of a prompt, for one row; None where length is 0.

    shared: how many first tokens another text had in common with it, whether or not that state is there.
    """

    length: int = 0
    state: State | None = None
    shared: int = 0


NOTHING = Found()


class Prefixes:
    """The states of the texts used last, at most `most_bytes` of them. 0: nothing is kept."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.nbytes = most_bytes, 0
        self._states: OrderedDict[bytes, tuple[NDArray[np.int64], State]] = OrderedDict()

    def find(self, ids: Sequence[int], beyond: int = 0) -> Found:
        """The longest beginning of a prompt whose state is known; its last token is always left to read.

        beyond: how many first tokens are known anyhow; what is hardly longer is not found.
        """
        if not self._states:
            return NOTHING
        wanted = np.asarray(ids[:-1], dtype=np.int64)
        shared = {key: common(wanted, text) for key, (text, _) in self._states.items()}
        best = sorted((key for key in shared if shared[key] >= beyond + LEAST_TOKENS), key=shared.__getitem__)
        for key in reversed(best):
            state = self._states[key][1].prefix(0, shared[key])
            if state is not None:
                self._states.move_to_end(key)
                return Found(shared[key], state, shared[best[-1]])
        return Found(shared=shared[best[-1]] if best else 0)

    def add(self, ids: Sequence[int], state: State, row: int) -> None:
        """Keep the state of a row that has read exactly `ids`, unless nearly all of it is there."""
        if not self.most_bytes or len(ids) < LEAST_TOKENS:
            return
        text, can_be_cut = np.asarray(ids, dtype=np.int64), state.prefix(row, 1) is not None
        if self._has(text, can_be_cut):
            return
        kept = state.prefix(row, len(text))
        if kept is None or kept.nbytes > self.most_bytes:
            return
        if can_be_cut:  # so its own beginnings need not be kept
            for key in [key for key, (of, _) in self._states.items() if common(of, text) == len(of)]:
                self._remove(key)
        self._states[text.tobytes()] = (text, kept)
        self.nbytes += kept.nbytes
        while self.nbytes > self.most_bytes:
            self._remove(next(iter(self._states)))

    def _has(self, text: NDArray[np.int64], can_be_cut: bool) -> bool:
        if not can_be_cut:
            return text.tobytes() in self._states
        return any(len(text) - common(text, of) < LEAST_TOKENS for of, _ in self._states.values())

    def _remove(self, key: bytes) -> None:
        self.nbytes -= self._states.pop(key)[1].nbytes


def common(a: ArrayLike, b: ArrayLike) -> int:
    """How many first numbers are the same."""
    a, b = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length
