"""The CRF against brute force over every row of tags.

Shape letters: B rows, T positions, L tags, F = L + 1.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from malmoi.models.heads import CRF, bio_rules

TAGS = ["O", "B-PER", "I-PER", "B-장소"]


def make(rules: bool, seed: int = 0) -> CRF:
    torch.manual_seed(seed)
    crf = CRF(len(TAGS), bio_rules(TAGS) if rules else None)
    with torch.no_grad():
        crf.neighbours_FL.normal_()
        crf.last_L.normal_()
    return crf


def scores_of_all(crf: CRF, emissions_TL: Tensor) -> dict[tuple[int, ...], float]:
    before_LL, first_L, last_L = (part.tolist() for part in crf.scores())
    emissions = emissions_TL.tolist()
    return {
        path: first_L[path[0]] + last_L[path[-1]]
        + sum(emissions[t][tag] for t, tag in enumerate(path))
        + sum(before_LL[a][b] for a, b in itertools.pairwise(path))
        for path in itertools.product(range(len(TAGS)), repeat=len(emissions))
    }  # fmt: skip


@pytest.mark.parametrize("rules", [False, True])
@settings(deadline=None, max_examples=10)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 9))
def test_likelihood_and_viterbi_equal_brute_force(rules: bool, lengths: list[int], seed: int) -> None:
    crf, width = make(rules, seed), max(lengths)
    emissions_BTL = torch.randn(len(lengths), width, len(TAGS))
    tags_BT = torch.randint(len(TAGS), (len(lengths), width))
    mask_BT = torch.arange(width) < torch.tensor(lengths)[:, None]
    found_B = crf.log_likelihood(emissions_BTL, tags_BT.where(mask_BT, -100), mask_BT)
    decoded = crf.decode(emissions_BTL, mask_BT)
    for b, n in enumerate(lengths):
        scores = scores_of_all(crf, emissions_BTL[b, :n])
        total = torch.tensor(list(scores.values())).logsumexp(0)
        expected = scores[tuple(tags_BT[b, :n].tolist())] - total
        torch.testing.assert_close(found_B[b], expected, rtol=1e-4, atol=1e-4)
        assert tuple(decoded[b]) == max(scores, key=scores.__getitem__)


def test_rules_hold_whatever_the_emissions_say() -> None:
    crf = make(rules=True)
    emissions_BTL = torch.zeros(1, 3, 4)
    emissions_BTL[..., 2] = 50.0  # I-PER everywhere
    assert crf.decode(emissions_BTL, torch.ones(1, 3, dtype=torch.bool)) == [[1, 2, 2]]
    allowed = bio_rules(TAGS)
    assert allowed[:, 2].tolist() == [False, True, True, False, False]
    assert allowed[:, [0, 1, 3]].all()


def test_learns_that_neighbours_depend_on_each_other() -> None:
    """Emissions say nothing; the tags alternate."""
    crf = CRF(2)
    optimizer = torch.optim.Adam(crf.parameters(), lr=0.3)
    tags_BT = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]])
    mask_BT, emissions_BTL = torch.ones(2, 4, dtype=torch.bool), torch.zeros(2, 4, 2)
    for _ in range(40):
        optimizer.zero_grad()
        (-crf.log_likelihood(emissions_BTL, tags_BT, mask_BT).sum()).backward()
        optimizer.step()
    emissions_BTL[0, 0, 0] = emissions_BTL[1, 0, 1] = 1.0
    assert crf.decode(emissions_BTL, mask_BT) == tags_BT.tolist()
