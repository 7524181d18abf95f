"""Which texts to label next: those that the method is unsure of, and that are unlike each other.

Unsure: the two most probable labels are nearly equally probable (`Method.unsureness`). The most unsure texts
are often nearly the same one, so each further one is far from those chosen before, weighed by how unsure it
is (Zhdanov 2019, Diverse mini-batch active learning; greedily, as Sener & Savarese 2018, Active learning for
convolutional neural networks: a core-set approach).

Shape letters: N inputs, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from malmoi.core.errors import UserError
from malmoi.data.splits import folded
from malmoi.methods.traditional.text_classifiers import VIEWS
from malmoi.methods.traditional.vectors import Vectors

POOL = 10  # times as many as are wanted are looked at for diversity
LEAST_POOL, MOST_POOL = 500, 5_000
LEAST = 1e-3  # unsureness: below it only diversity counts
ALIKE = 1e-6  # a distance below which two texts are the same


def next_inputs(
    texts: Sequence[str], unsure_N: Sequence[float] | None, count: int, seed: int = 0
) -> list[int]:
    """The numbers of the `count` texts to label next, the most useful first; all where there are no more.

    texts: each input in one text. unsure_N: None where only diversity can decide. A text that equals a chosen
    one but for case and spacing comes last. Raises UserError where no text has a word.
    """
    weight_N = (
        np.ones(len(texts)) if unsure_N is None else np.maximum(np.asarray(unsure_N, dtype=np.float64), LEAST)
    )
    drawn_N = np.random.default_rng(seed).permutation(len(texts))
    first = {folded(text): at for at, text in reversed(list(enumerate(texts)))}
    copy_N = np.ones(len(texts))
    copy_N[list(first.values())] = 0
    order = np.lexsort((drawn_N, -weight_N, copy_N))
    pool = order[: max(count, min(MOST_POOL, max(LEAST_POOL, POOL * count)))]
    if not len(pool):
        raise UserError("there is no text to choose from")
    some = [texts[int(at)] for at in pool]
    rows_NF = Vectors(VIEWS[0]).fit(some).rows(some).tocsr()
    lengths_N = np.sqrt(np.asarray(rows_NF.multiply(rows_NF).sum(axis=1)).ravel())
    chosen, distance_N = [0], np.ones(len(pool))
    weight_N = weight_N[pool]
    while len(chosen) < min(count, len(pool)):
        last = chosen[-1]
        norms_N = np.maximum(lengths_N * lengths_N[last], 1e-12)
        alike_N = np.asarray((rows_NF @ rows_NF[[last]].T).todense()).ravel() / norms_N
        distance_N = np.minimum(distance_N, np.maximum(1.0 - alike_N, ALIKE))
        score_N = distance_N * weight_N
        score_N[chosen] = -1.0
        chosen.append(int(score_N.argmax()))
    return pool[chosen].tolist()
