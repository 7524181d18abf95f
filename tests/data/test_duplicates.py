from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.data.duplicates import first_equal, near_before, near_originals
from malmoi.data.sketches import HASHES, NEAR, WINDOW, Passages, shingle_hashes, signatures, squeezed
from tests.data.test_check import EN, KO


def sketch(*texts: str) -> np.ndarray:
    return signatures(*shingle_hashes([squeezed(text) for text in texts]))


def jaccard(left: str, right: str) -> float:
    one, two = ({text[at : at + 5] for at in range(len(text) - 4)} for text in map(squeezed, (left, right)))
    return len(one & two) / len(one | two)


def test_signatures_estimate_the_jaccard_similarity() -> None:
    base = " ".join(EN[:4])
    for keep in (0.3, 0.6, 0.9):
        other = base[: int(keep * len(base))] + " ".join(KO[:4])
        one, two = sketch(base, other)
        assert (one == two).mean() == pytest.approx(jaccard(base, other), abs=0.15)


def test_case_and_spacing_do_not_count() -> None:
    assert (sketch("The  Cat\nsat here") == sketch("the cat SAT here")).all()
    assert (sketch("아버지가 방에 들어가신다") == sketch("아버지 가방에 들어가신다")).all()


@given(st.lists(st.text(max_size=30), max_size=6))
def test_a_signature_does_not_depend_on_the_texts_beside_it(texts: list[str]) -> None:
    together = sketch(*texts)
    assert together.shape == (len(texts), HASHES)
    for text, row in zip(texts, together, strict=True):
        assert (sketch(text)[0] == row).all()


def test_the_first_equal_row() -> None:
    assert first_equal(np.array([7, 3, 7, 3, 9], dtype=np.uint64)).tolist() == [0, 1, 0, 1, 4]


def changed(row: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A signature that has this share of another's entries, the last ones changed."""
    other = row.copy()
    places = np.random.default_rng(seed).permutation(len(row))[: round((1 - share) * len(row))]
    other[places] += 1 + seed
    return other


def test_a_repeat_names_an_original_that_is_none_itself() -> None:
    one, other = sketch(EN[0], EN[1])
    near = changed(one, 0.9, 1)
    far = changed(near, 0.85, 2)  # near to the second, not to the first
    rows = np.stack([other, one, near, far, one])
    assert 0 < (far == one).mean() < NEAR <= (far == near).mean()
    found = near_originals(rows, np.arange(5), NEAR)
    assert found.pairs_P2.tolist() == [[1, 2], [1, 4]]
    assert found.similarity_P.tolist() == [(near == one).mean(), 1.0]


def test_only_rows_of_one_group_and_those_given_are_compared() -> None:
    one = sketch(EN[0])[0]
    rows = np.stack([one] * 4)
    groups = np.array([1, 2, 1, 2], dtype=np.uint64)
    assert near_originals(rows, np.arange(4), NEAR, groups).pairs_P2.tolist() == [[0, 2], [1, 3]]
    assert near_originals(rows, np.array([1, 2]), NEAR).pairs_P2.tolist() == [[1, 2]]
    assert len(near_originals(rows, np.arange(0), NEAR)) == 0


def test_rows_near_one_of_a_lower_role() -> None:
    one, other = sketch(EN[0], EN[1])
    rows = np.stack([other, one, changed(one, 0.9, 1), other, other])
    roles = np.array([0, 0, 1, 1, 1], dtype=np.uint8)
    assert near_before(rows, np.arange(5), NEAR, roles).pairs_P2.tolist() == [[1, 2], [0, 3], [0, 4]]


def test_most_pairs_of_the_wanted_similarity_are_found() -> None:
    draw = random.Random(0)
    texts = ["".join(draw.choices("abcdefghij", k=400)) for _ in range(200)]
    copies = [text[:40] + "#" + text[41:200] + "#" + text[201:] for text in texts]
    found = near_originals(sketch(*texts, *copies), np.arange(400), NEAR)
    assert len(found) > 190
    assert all(copy - original == 200 for original, copy in found.pairs_P2.tolist())


def within(protected: list[str], texts: list[str], share: float = 0.8) -> list[int]:
    passages = Passages()
    for number, text in enumerate(protected):
        passages.add(number, squeezed(text))
    passages.seal()
    return passages.owners_within(*shingle_hashes([squeezed(text) for text in texts]), share).tolist()


def test_a_protected_text_is_found_in_a_longer_one() -> None:
    question = "Which of the two rivers that meet below the old stone bridge is the longer one?"
    texts = [EN[0], f"{EN[1]} {question.upper()}\n{EN[2]}", question, question[:40]]
    assert within([KO[0], question], texts) == [-1, 1, 1, -1]
    assert within(["short", ""], texts) == [-1] * 4
    assert within([], texts) == [-1] * 4


def test_a_passage_over_two_texts_is_in_neither() -> None:
    text = squeezed(EN[0])[: 2 * WINDOW]
    assert within([text], [text[:WINDOW], text[WINDOW:]]) == [-1, -1]


def test_a_quotation_of_a_long_text_is_no_leak() -> None:
    book = " ".join(EN)
    assert within([book], [f"{KO[0]} {book[200:400]}", f"{KO[0]} {book} {KO[1]}"]) == [-1, 0]
