"""Whether a text belongs to its input, which fluency alone does not show.

An output is adequate where it fits its own input better than each of the inputs most like that one. How well
the two fit is read from a word table of the training pairs, in both directions: how much more probable the
pieces of the one are beside the other than they are anywhere. Pieces that are the same on both sides count
besides, if texts of training repeat their inputs. So the right text of a neighbour, however fluent, fits that
neighbour and fails here.

Shape letters: N examples, I inputs, O outputs, R rivals of an input, V pieces, K pairs of pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Self, cast

import numpy as np
from numpy.typing import NDArray

from malmoi.metrics.overlap import words_of
from malmoi.metrics.statistics import Floats, Ints, References, Statistic, Texts, mean
from malmoi.metrics.word_table import learn_table

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Kept = tuple[list[str], list[str], str]  # the pieces of both texts of a pair, and the second one itself
ADEQUACY = "adequacy"  # the metric's name
RIVALS = 9  # other inputs that an output is held against
PREFIX = 4  # letters of a word that count: endings are left to the language
SYLLABLES = "\u1100"  # from here on a sign is a syllable or a word, and two of them are a piece
MAX_PIECES = 150  # of a text
MAX_CELLS = 4_000_000  # of a piece beside another in training; pairs beyond are left out
ITERATIONS = 8
ANYWHERE = 0.1  # the share of pieces that need no reason in the other text
BACKWARD = 0.5  # what the direction from output to input counts
COPIED = 0.1  # less than this share of pieces copied in training: copying shows nothing
CHUNK = 64  # examples at a time


def pieces(text: str) -> list[str]:
    """Each once: the beginnings of words, and pairs of signs where these are syllables (Korean) or words."""
    found: dict[str, None] = {}
    for word in words_of(text):
        if len(word) > 1 and word[0] >= SYLLABLES:
            found |= dict.fromkeys(word[at : at + 2] for at in range(len(word) - 1))
        else:
            found[word[:PREFIX]] = None
    return list(found)[:MAX_PIECES]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One direction of the table: t_VV[given, piece]; how frequent pieces are at all; how many are copied."""

    table_VV: csr_array
    frequency_V: Floats
    copied: float

    @classmethod
    def learn(cls, pairs: Sequence[tuple[list[int], list[int]]], num_pieces: int) -> Self:
        """From pairs of numbered pieces, which count from 1."""
        from scipy.sparse import csr_array

        table = learn_table(pairs, num_pieces, ITERATIONS)
        counts_V = np.bincount([id for _, after in pairs for id in after], minlength=num_pieces) + 0.5
        copied = sum(len({*before} & {*after}) for before, after in pairs) / sum(len(it) for _, it in pairs)
        where = table.sources_K, table.targets_K
        table_VV = csr_array((table.probs_K, where), shape=(num_pieces, num_pieces))
        return cls(table_VV, counts_V / counts_V.sum(), copied if copied >= COPIED else 0.0)

    def between(self, given_GV: csr_array, said_SV: csr_array) -> Floats:
        """For each text that is given (G) and each that is said (S), the mean over the pieces said of the
        logarithm of how much more probable the given text makes them: 0 at least, as for no pieces."""
        from scipy.sparse import csr_array, diags_array

        num_known, num_pieces = len(self.frequency_V), cast(tuple[int, int], given_GV.shape)[1]
        table_VV = self.table_VV.copy()
        table_VV.resize((num_pieces, num_pieces))
        unseen_V = np.full(num_pieces - num_known, self.frequency_V.min())
        said_V = np.unique(said_SV.indices)
        frequency_V = np.concatenate((self.frequency_V, unseen_V))[said_V]
        even_GV = diags_array(1 / (1 + given_GV.sum(axis=1))) @ given_GV
        beside_GV = (1 - self.copied) * (even_GV @ table_VV[:, said_V]) + self.copied * even_GV[:, said_V]
        beside_GV = csr_array(beside_GV)
        odds = beside_GV.data / frequency_V[beside_GV.indices]
        beside_GV.data = np.log1p((1 - ANYWHERE) / ANYWHERE * odds)
        mean_SV = diags_array(1 / np.maximum(1, said_SV.sum(axis=1))) @ said_SV[:, said_V]
        return (beside_GV @ mean_SV.T).toarray()


class Adequacy:
    """Learned from training pairs of texts, for the examples whose inputs and right answers are given.

    right: the statistic of the right answers themselves, which is what can be reached.
    """

    @classmethod
    def learn(
        cls, train: Sequence[tuple[str, str]], inputs: Sequence[str], references: References,
        groups: Sequence[str] = (),
    ) -> Self | None:  # fmt: skip
        """None where no more than RIVALS training pairs have words. groups: of the inputs, where some belong
        together, such as the turns of a talk: these are no rivals of each other."""
        kept = _within_cells(train)
        return cls(kept, inputs, references, groups or range(len(inputs))) if len(kept) > RIVALS else None

    def __init__(
        self, kept: Sequence[Kept], inputs: Sequence[str], references: References, groups: Sequence[object]
    ) -> None:
        self._number: dict[str, int] = {}
        pairs = [(self._ids(before), self._ids(after)) for before, after, _ in kept]
        num_pieces = len(self._number) + 1
        self._forward = Evidence.learn(pairs, num_pieces)
        self._backward = Evidence.learn([(after, before) for before, after in pairs], num_pieces)
        # one of each: what is as its rival says nothing
        known: dict[tuple[str, ...], tuple[list[str], set[str]]] = {}
        for before, _, answer in kept:
            known.setdefault(tuple(sorted(before)), (before, set()))[1].add(answer)
        self._inputs = [before for before, _ in known.values()] + [pieces(text) for text in inputs]
        self._answers = [answers for _, answers in known.values()] + [set(texts) for texts in references]
        self._first = len(known)
        self._groups = [None] * len(known) + list(groups)
        self._rivals_NR = self._nearest(len(kept), [before for before, _ in pairs])
        self.right = self._statistic([texts[0] for texts in references], "")

    def statistic(self, outputs: Texts) -> Statistic:
        """The share of outputs that fit their own input better than each of its rivals; None never does."""
        num = self._rivals_NR.shape[1]
        reached = f"the right answers reach {self.right.value:.1%}"
        return self._statistic(outputs, f"fits better than the {num} inputs most like its own; {reached}")

    def _statistic(self, outputs: Texts, signature: str) -> Statistic:
        said = [pieces(text or "") for text in outputs]
        parts = range(0, len(said), CHUNK)
        found = [self._wins(said[start : start + CHUNK], start) for start in parts]
        return mean(np.concatenate([np.zeros(0), *found]), signature=signature)

    def _wins(self, said: Sequence[list[str]], start: int) -> Floats:
        """1 where an output of these examples, which begin at `start`, wins against all rivals, else 0."""
        rows_N = np.arange(len(said))
        wanted_NI = np.concatenate(
            ((self._first + start + rows_N)[:, None], self._rivals_NR[start : start + len(said)]), axis=1
        )
        unique, places_NI = np.unique(wanted_NI, return_inverse=True)
        fits_OI = self._fits(said, [self._inputs[at] for at in unique])
        fits_NI = fits_OI[rows_N[:, None], places_NI.reshape(wanted_NI.shape)]
        return (fits_NI[:, 0] > fits_NI[:, 1:].max(axis=1, initial=0.0) + 1e-9).astype(np.float64)

    def fits(self, outputs: Sequence[str], inputs: Sequence[str]) -> Floats:
        """How well each output fits each input, fits_OI."""
        return self._fits([pieces(text) for text in outputs], [pieces(text) for text in inputs])

    def _fits(self, outputs: Sequence[list[str]], inputs: Sequence[list[str]]) -> Floats:
        number = dict(self._number)
        said, given = (
            [[number.setdefault(piece, len(number) + 1) for piece in text] for text in texts]
            for texts in (outputs, inputs)
        )
        said_OV, given_IV = (bags(ids, len(number) + 1) for ids in (said, given))
        backward_OI = self._backward.between(said_OV, given_IV)
        return self._forward.between(given_IV, said_OV).T + BACKWARD * backward_OI

    def _ids(self, text: Iterable[str]) -> list[int]:
        return [self._number.setdefault(piece, len(self._number) + 1) for piece in text]

    def _nearest(self, num_train: int, train: Sequence[list[int]]) -> Ints:
        """The rivals_NR of each example: by cosine of the pieces, the rare ones counting more."""
        from scipy.sparse import csr_array, diags_array

        num_pieces = len(self._number) + 1
        counts_V = np.bincount([id for text in train for id in text], minlength=num_pieces)
        known = [[self._number[piece] for piece in text if piece in self._number] for text in self._inputs]
        bag_IV = bags(known, num_pieces) @ diags_array(np.log((1 + num_train) / (1 + counts_V)))
        norms_I = np.sqrt((bag_IV * bag_IV).sum(axis=1))
        unit_IV = csr_array(diags_array(1 / np.maximum(1e-9, norms_I)) @ bag_IV)
        keys = [tuple(sorted(text)) for text in self._inputs]
        found: list[NDArray[np.int64]] = []
        for start in range(self._first, len(self._inputs), CHUNK):
            near_NI = (unit_IV[start : start + CHUNK] @ unit_IV.T).toarray()
            orders_NI = np.argsort(-near_NI, axis=1, kind="stable")
            found += [self._others(start + row, order_I, keys) for row, order_I in enumerate(orders_NI)]
        return np.stack(found) if found else np.zeros((0, RIVALS), np.int64)

    def _others(self, own: int, order: Ints, keys: Sequence[tuple[str, ...]]) -> Ints:
        """The first of `order` that are another input, and one to which something else is right."""
        kept: list[int] = []
        for at in order:
            alone = self._groups[at] != self._groups[own] and keys[at] != keys[own]
            if alone and self._answers[at].isdisjoint(self._answers[own]):
                kept.append(int(at))
                if len(kept) == RIVALS:
                    break
        return np.array(kept + [kept[-1] if kept else own] * (RIVALS - len(kept)), np.int64)


def bags(texts: Sequence[Sequence[int]], width: int) -> csr_array:
    """A row for each text, 1 where it has a piece."""
    from scipy.sparse import csr_array

    ends = np.cumsum([0, *map(len, texts)])
    columns = np.array([id for text in texts for id in text], np.int64)
    return csr_array((np.ones(len(columns)), columns, ends), shape=(len(texts), width))


def _within_cells(train: Sequence[tuple[str, str]]) -> list[Kept]:
    """As many pairs, drawn by chance, as the table may be learned from."""
    kept, cells = list[Kept](), 0
    for at in Random(0).sample(range(len(train)), len(train)):
        before, after = (pieces(text) for text in train[at])
        cells += (len(before) + 1) * (len(after) + 1)
        if cells > MAX_CELLS:
            break
        if before and after:
            kept.append((before, after, train[at][1]))
    return kept
