"""Which words stand for which: IBM Model 1 (Brown et al. 1993), learned from pairs of texts.

Shape letters: C cells (a source word beside a target word of one pair), K different cells, S source words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from malmoi.metrics.statistics import Floats, Ints

Pair = tuple[Sequence[int], Sequence[int]]  # source and target word ids
NULL = 0  # stands before every source text


class Table(NamedTuple):
    """t(target | source) of K pairs of words, in the order of `sources_K`, and how often each source word
    is expected to be translated at all, per occurrence (its fertility)."""

    sources_K: Ints
    targets_K: Ints
    probs_K: Floats
    fertility_S: Floats
    log_likelihoods: list[float]  # nats of the training targets before each iteration, less a constant


def learn_table(
    pairs: Sequence[Pair], num_sources: int, iterations: int, go_on: Callable[[], bool] = lambda: True
) -> Table:
    """IBM Model 1 by expectation-maximisation from even probabilities; ids of source words count from 1, as
    NULL is 0. go_on: asked after each iteration."""
    cells = [
        np.stack((np.tile((NULL, *source), len(target)), np.repeat(target, len(source) + 1)))
        for source, target in pairs
    ]
    sizes = [len(source) + 1 for source, target in pairs for _ in target]
    places_C = np.repeat(np.arange(len(sizes)), sizes)  # the target word that a cell explains
    sources_C, targets_C = np.concatenate(cells, axis=1).astype(np.int64)
    width = int(targets_C.max()) + 1
    keys_K, cells_C = np.unique(sources_C * width + targets_C, return_inverse=True)
    sources_K, targets_K = keys_K // width, keys_K % width
    counts_K, log_likelihoods = np.ones(len(keys_K)), []
    probs_K = counts_K / np.bincount(sources_K, minlength=num_sources)[sources_K]
    for _ in range(iterations):
        weights_C = probs_K[cells_C]
        sums = np.bincount(places_C, weights_C)
        log_likelihoods.append(float(np.log(sums).sum()))
        counts_K = np.bincount(cells_C, weights_C / sums[places_C])
        totals_S = np.bincount(sources_K, counts_K, minlength=num_sources)
        probs_K = counts_K / totals_S[sources_K]
        if not go_on():
            break
    occurrences_S = np.bincount([id for source, _ in pairs for id in source], minlength=num_sources)
    fertility_S = np.bincount(sources_K, counts_K, minlength=num_sources) / np.maximum(occurrences_S, 1)
    return Table(sources_K, targets_K, probs_K, fertility_S, log_likelihoods)
