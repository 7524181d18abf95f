from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.tensors import IGNORE, TokenBatch
from malmoi.data.batches import Packed
from malmoi.learn.losses import next_token_loss
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.text.chat import ChatRow

Rows = list[ChatRow]
LEARNED = st.lists(
    st.tuples(st.integers(2, 13), st.integers(0, 2**13)).map(
        lambda one: ChatRow(list(range(one[0])), [one[1] >> at & 1 == 1 for at in range(one[0])])
    ),
    min_size=1,
    max_size=60,
)


def numbered(rows: Rows) -> Rows:
    """Ids that tell which row they are of."""
    return [ChatRow([1000 * n + id for id in row.ids], row.trained) for n, row in enumerate(rows)]


def drawn(lengths: list[int], seed: int = 0) -> Rows:
    """Rows of random ids, of which about half are trained."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(high: int, count: int) -> list[int]:
        return torch.randint(high, (count,), generator=generator).tolist()

    return [ChatRow(numbers(50, n), [told == 1 for told in numbers(2, n)]) for n in lengths]


def taken_apart(batch: TokenBatch) -> list[tuple[list[int], list[int]]]:
    """(ids, targets) of every row in the batch; padding has the document -1."""
    assert batch.targets_BT is not None
    assert batch.documents_BT is not None
    found: list[tuple[list[int], list[int]]] = []
    for ids_T, targets_T, documents_T in zip(batch.ids_BT, batch.targets_BT, batch.documents_BT, strict=True):
        kinds, counts = documents_T.unique_consecutive(return_counts=True)
        assert len(set(kinds.tolist())) == len(kinds), "a row is in one piece"
        assert (targets_T[documents_T == -1] == IGNORE).all()
        pieces = zip(kinds, ids_T.split(counts.tolist()), targets_T.split(counts.tolist()), strict=True)
        found += [(ids.tolist(), targets.tolist()) for kind, ids, targets in pieces if kind >= 0]
    return found


def epoch(packed: Packed, number: int = 0) -> TokenBatch:
    """All windows of one epoch."""
    first = sum(len(packed._epoch(earlier)) for earlier in range(number))
    count = len(packed._epoch(number))
    return packed.token_batch([packed.window(first + at) for at in range(count)])


@given(LEARNED, st.integers(0, 3), st.integers(12, 40))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_row_whole_and_once(rows: Rows, seed: int, context: int) -> None:
    rows = numbered(rows)
    packed = Packed(rows, context, seed=seed)
    for number in range(2):
        found = {ids[0]: (ids, targets) for ids, targets in taken_apart(epoch(packed, number))}
        assert len(found) == len(rows)
        for row in rows:
            ids, targets = found[row.ids[0]]
            assert ids == row.ids[:-1]
            assert targets == [
                id if told else IGNORE for id, told in zip(row.ids[1:], row.trained[1:], strict=True)
            ]


@given(LEARNED, st.integers(0, 50), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_batch_is_a_function_of_seed_and_step(rows: Rows, step: int, cut: int) -> None:
    """However it is cut into parts, by whoever asks first, and for corpora smaller than a batch."""
    whole = Packed(rows, 12, seed=1).batch(step, 5, 0, 5)
    again = Packed(rows, 12, seed=1)
    parts = [again.batch(step, 5, cut, 5), again.batch(step, 5, 0, cut)]
    assert torch.equal(whole.ids_BT, torch.cat([parts[1].ids_BT, parts[0].ids_BT]))
    assert whole.targets_BT is not None
    assert whole.ids_BT.shape == whole.targets_BT.shape == (5, 12)


def test_epochs_and_seeds_differ() -> None:
    rows = numbered(drawn([5] * 40))
    packed, other = Packed(rows, 16, seed=0), Packed(rows, 16, seed=1)
    orders = [epoch(packed, 0), epoch(packed, 1), epoch(other, 0)]
    assert len({tuple(order.ids_BT.flatten().tolist()) for order in orders}) == 3


def test_little_is_padding() -> None:
    lengths = (torch.randn(2000, generator=torch.Generator().manual_seed(0)).exp() * 30 + 4).int()
    rows = [ChatRow([1] * n, [True] * n) for n in lengths.clamp(max=257).tolist()]
    assert Packed(rows, 256, seed=0).fill > 0.96


def test_weights_are_how_often_an_epoch_has_a_row() -> None:
    rows = numbered(drawn([4] * 300))
    weights = [1.0] * 100 + [2.5] * 100 + [0.3] * 100
    packed = Packed(rows, 24, seed=0, weights=weights)
    epochs = [Counter(ids[0] // 1000 for ids, _ in taken_apart(epoch(packed, number))) for number in (0, 1)]
    for counts in epochs:
        assert [counts[n] for n in range(100)] == [1] * 100
        assert {counts[n] for n in range(100, 200)} == {2, 3}
        assert sum(counts[n] for n in range(100, 200)) in (249, 250, 251)
        assert sum(counts[n] for n in range(200, 300)) in (29, 30, 31)
    assert len(epochs[0].keys() | epochs[1].keys()) > 210, "another share each epoch"
    assert Packed(rows[:1], 24, seed=0, weights=[0.01]).windows_per_epoch == 1


def model_of(name: str) -> LanguageModel:
    torch.manual_seed(0)
    sizes: dict[str, object] = {"vocab_size": 50, "context": 64, "layers": 2, "width": 16, "heads": 2}
    models = {
        "rotary": TransformerConfig.model_validate(sizes),
        "learned": TransformerConfig.model_validate(sizes | {"position": "learned"}),
        "window": TransformerConfig.model_validate(sizes | {"window": 6, "kv_heads": 1}),
        "lstm": RecurrentConfig(family="lstm", vocab_size=50, layers=2, width=16),
        "gru": RecurrentConfig(family="gru", vocab_size=50, layers=1, width=16),
    }
    model = build_model(models[name])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("rotary", True),
        ("learned", True),
        ("window", True),
        ("rotary", False),
        ("lstm", False),
        ("gru", False),
    ],
)
def test_a_packed_loss_is_the_sum_of_its_rows(name: str, together: bool) -> None:
    model = model_of(name)
    rows = drawn([5, 17, 3, 9, 30, 2, 12, 21, 8], seed=3)
    packed = Packed(rows, 40, seed=0, together=together)
    found = next_token_loss(model, epoch(packed))
    alone = [
        next_token_loss(model, Packed([row], 40, seed=0, together=False).batch(0, 1, 0, 1)) for row in rows
    ]
    assert found.count == sum(loss.count for loss in alone) > 30
    assert found.sum.item() == pytest.approx(sum(loss.sum.item() for loss in alone), abs=1e-4, rel=1e-5)
    assert (len(epoch(packed).ids_BT) < len(rows)) == together


def test_rows_alone_are_padded_to_the_longest() -> None:
    packed = Packed(drawn([5, 9, 3]), 64, seed=0, together=False)
    found = packed.token_batch([[0], [1]])
    assert found.ids_BT.shape == (2, 8)
    assert found.documents_BT is None
    assert packed.windows_per_epoch == 3
