from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.core.tensors import IGNORE, TokenBatch
from malmoi.data.batches import batch, evaluation_batches, fit_context, overlapping, reach, windows_per_epoch
from malmoi.data.shards import TokenFile

EOS = 0


def token_file(num_tokens: int, document: int = 7) -> TokenFile:
    """Ids 1, 2, 3, ... so that an id says where it is; every `document`-th and the last are eos."""
    ids = np.arange(1, num_tokens + 1, dtype=np.uint16)
    ids[document - 1 :: document] = EOS
    ids[-1] = EOS
    return TokenFile(ids, EOS, 1 << 16, -(-num_tokens // document), num_tokens)


def targets_of(part: TokenBatch) -> torch.Tensor:
    assert part.targets_BT is not None
    return part.targets_BT


def equal(left: TokenBatch, right: TokenBatch) -> bool:
    return torch.equal(left.ids_BT, right.ids_BT) and torch.equal(targets_of(left), targets_of(right))


def windows(tokens: TokenFile, seed: int, epoch: int, context: int) -> list[tuple[int, ...]]:
    """The rows of an epoch, one to a step, as tuples of ids."""
    count = windows_per_epoch(tokens, context)
    steps = range(epoch * count, (epoch + 1) * count)
    return [
        tuple(batch(tokens, seed=seed, step=step, rows=1, context=context).ids_BT[0].tolist())
        for step in steps
    ]


def test_targets_are_the_next_ids_around_the_circle() -> None:
    tokens = token_file(50)
    part = batch(tokens, seed=1, step=0, rows=6, context=8)
    circle = [*tokens.ids.tolist()] * 2
    assert part.ids_BT.shape == targets_of(part).shape == (6, 8)
    assert part.ids_BT.dtype == targets_of(part).dtype == torch.int64
    for ids, targets in zip(part.ids_BT.tolist(), targets_of(part).tolist(), strict=True):
        assert ids[1:] == targets[:-1]
        joined = [*ids, targets[-1]]
        assert any(circle[at : at + 9] == joined for at in range(50))


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    tokens = token_file(500)
    first = batch(tokens, seed=3, step=5, rows=4, context=16)
    batch(tokens, seed=3, step=90, rows=4, context=16)
    batch(tokens, seed=4, step=0, rows=4, context=16)
    assert equal(first, batch(tokens, seed=3, step=5, rows=4, context=16))
    assert not equal(first, batch(tokens, seed=4, step=5, rows=4, context=16))
    assert not equal(first, batch(tokens, seed=3, step=6, rows=4, context=16))


@given(
    rows=st.integers(1, 9),
    step=st.integers(0, 60),
    cuts=st.lists(st.integers(0, 9), max_size=3),
    seed=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_slices_join_to_the_global_batch(rows: int, step: int, cuts: list[int], seed: int) -> None:
    tokens = token_file(90)
    whole = batch(tokens, seed=seed, step=step, rows=rows, context=6)
    edges = sorted({0, rows, *(min(cut, rows) for cut in cuts)})
    parts = [
        batch(tokens, seed=seed, step=step, rows=rows, context=6, start=start, stop=stop)
        for start, stop in pairwise(edges)
    ]
    assert torch.equal(torch.cat([part.ids_BT for part in parts]), whole.ids_BT)
    assert torch.equal(torch.cat([targets_of(part) for part in parts]), targets_of(whole))


def test_every_window_comes_once_an_epoch() -> None:
    tokens = token_file(103, document=1000)
    for epoch in range(3):
        ids = [id for window in windows(tokens, 2, epoch, 10) for id in window]
        assert len(ids) == 100
        assert len(set(ids)) == 100  # no token twice, and 3 left over


def test_epochs_differ_in_order_and_place() -> None:
    tokens = token_file(103, document=1000)
    first, second = windows(tokens, 2, 0, 10), windows(tokens, 2, 1, 10)
    assert first != second
    assert set(first) != set(second)
    assert [min(window) for window in first] != sorted(min(window) for window in first)


def test_without_a_seed_rows_come_as_the_text_does() -> None:
    tokens = token_file(100)
    rows = [batch(tokens, seed=None, step=step, rows=2, context=9).ids_BT.tolist() for step in range(6)]
    read = [id for step in rows for row in step for id in row]
    assert read[:99] == tokens.ids[:99].tolist()
    assert read[99:] == tokens.ids[:9].tolist()  # and once more


def test_rows_of_one_step_may_span_epochs() -> None:
    tokens = token_file(40, document=1000)  # 4 windows of 10
    rows = batch(tokens, seed=0, step=0, rows=6, context=10).ids_BT.tolist()
    expected = [*windows(tokens, 0, 0, 10), *windows(tokens, 0, 1, 10)[:2]]
    assert [tuple(row) for row in rows] == expected


def test_documents_are_numbered_in_each_row() -> None:
    part = batch(token_file(60, document=5), seed=0, step=0, rows=3, context=12)
    assert part.documents_BT is not None
    for ids, documents in zip(part.ids_BT.tolist(), part.documents_BT.tolist(), strict=True):
        ends = [0, *(int(id == EOS) for id in ids[:-1])]  # the eos itself still belongs to its document
        assert documents == np.cumsum(ends).tolist()


def test_rows_within_a_document_need_no_numbers() -> None:
    tokens = token_file(64, document=1000)
    parts = [batch(tokens, seed=0, step=step, rows=1, context=4) for step in range(16)]
    within = [part.documents_BT is None for part in parts]
    assert within == [EOS not in part.ids_BT[0, :-1].tolist() for part in parts]
    assert sum(within) >= 15


@given(
    num_tokens=st.integers(2, 80),
    context=st.integers(1, 20),
    rows=st.integers(1, 4),
    limit=st.none() | st.integers(1, 100),
)
@settings(max_examples=80, deadline=None)
def test_evaluation_covers_each_token_once(
    num_tokens: int, context: int, rows: int, limit: int | None
) -> None:
    tokens = token_file(num_tokens)
    parts = list(evaluation_batches(tokens, context, rows, limit))
    targets = torch.cat([targets_of(part).flatten() for part in parts])
    ids = torch.cat([part.ids_BT.flatten() for part in parts])
    expected = tokens.ids[:limit].tolist()
    real = targets != IGNORE
    assert targets[real].tolist() == expected
    assert ids[real].tolist() == [EOS, *expected[:-1]]
    assert not real.tolist()[len(expected) :].count(True)
    assert all(part.ids_BT.shape[1] == context and part.ids_BT.shape[0] <= rows for part in parts)


def test_evaluation_streams() -> None:
    (part,) = islice(evaluation_batches(token_file(60_000), 8, 2), 1)
    assert part.ids_BT.shape == (2, 8)


def test_batches_can_be_written_to() -> None:
    part = batch(token_file(50), seed=0, step=0, rows=2, context=8)
    assert part.ids_BT.is_contiguous()
    part.ids_BT[0, 0] = 9


def test_context_fits_the_text() -> None:
    assert fit_context(token_file(100), 64) == 64
    assert fit_context(token_file(100), 100) == 99
    assert batch(token_file(2), seed=0, step=0, rows=3, context=1).ids_BT.shape == (3, 1)
    with pytest.raises(UserError, match="fewer than 2 tokens"):
        fit_context(token_file(1), 64)


@given(length=st.integers(0, 500), most=st.integers(1, 60))
def test_windows_cover_a_text_and_overlap(length: int, most: int) -> None:
    found = overlapping(length, most)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert (len(found) == 1) is (length <= most)
    assert all(stop - start == min(most, length) for start, stop in found)
    for before, after in pairwise(found):
        assert before[0] < after[0] <= before[1] - int(most * 0.25)
    if length:
        assert reach(most, len(found)) >= length > reach(most, len(found) - 1) or len(found) == 1
