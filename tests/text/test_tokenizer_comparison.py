from __future__ import annotations

from collections.abc import Iterator

import pytest

from malmoi.core.errors import UserError
from malmoi.text import tokenizer as module
from malmoi.text.tokenizer import KINDS, train_tokenizer
from malmoi.text.tokenizer_comparison import TokenizerRow, compare_tokenizers
from tests.text.samples import BOTH

HELD_OUT = ["The cat woke at noon.", "고양이는 정오에 일어났다 👍🏽."]


@pytest.fixture(scope="module")
def rows() -> dict[str, TokenizerRow]:
    return {row.kind: row for row in compare_tokenizers(BOTH, HELD_OUT, 400)}


def test_a_row_for_each_kind_in_order(rows: dict[str, TokenizerRow]) -> None:
    assert tuple(rows) == KINDS
    assert all(row.vocab_size <= 400 and row.encode_mb_per_s > 0 for row in rows.values())


def test_bytes_are_their_own_tokens(rows: dict[str, TokenizerRow]) -> None:
    num_bytes = sum(len(text.encode()) for text in HELD_OUT)
    assert rows["byte"].bytes_per_token == 1
    assert rows["byte"].tokens_per_document == num_bytes / 2
    assert rows["byte"].unknown_word_rate == rows["bpe"].unknown_word_rate == 0


def test_figures_follow_from_the_ids(rows: dict[str, TokenizerRow]) -> None:
    tokenizer = train_tokenizer(BOTH, "bpe", 400)
    num_tokens = sum(len(tokenizer.encode(text)) for text in HELD_OUT)
    assert rows["bpe"].tokens_per_document == num_tokens / 2
    assert rows["bpe"].bytes_per_token == sum(len(text.encode()) for text in HELD_OUT) / num_tokens


def test_a_word_with_an_unknown_part_is_an_unknown_word() -> None:
    # "bc" holds an unknown letter; the unknown mark after "ab" makes one word unknown, not two.
    (row,) = compare_tokenizers(["ab a b"], ["ab bc a?? b"], 20, ["character"])
    assert row.unknown_word_rate == 2 / 4
    (row,) = compare_tokenizers(["ab a b"], ["ab bc a b"], 20, ["word"])
    assert row.unknown_word_rate == 1 / 4


def test_letters_in_parts_count_as_whole_ones() -> None:
    (row,) = compare_tokenizers(["가 각"], ["\u1100\u1161 \u1100\u1161\u11a8"], 20, ["character"])
    assert (row.unknown_word_rate, row.tokens_per_document, row.bytes_per_token) == (0, 3, 7 / 3)


def test_streams_are_read_once_and_long_ones_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_BYTES", 300)
    num_read = 0

    def documents() -> Iterator[str]:
        nonlocal num_read
        for number in range(200):
            num_read += 1
            yield f"document {number} of many"

    rows = compare_tokenizers(documents(), iter(HELD_OUT), 300, ["word", "character"])
    assert num_read == 200
    assert rows[0].vocab_size < 50  # all 200 numbers would be as many words


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_nothing_to_measure_on_is_an_error(texts: list[str]) -> None:
    with pytest.raises(UserError, match="no held-out text"):
        compare_tokenizers(BOTH, texts, 400)


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'unigram'"):
        compare_tokenizers(BOTH, HELD_OUT, 400, ["unigrams"])
