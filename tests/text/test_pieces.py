"""Units with a foreign tokenizer's pieces: the same pieces as of the whole text, and exact characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.text.tokenizer import Tokenizer
from malmoi.text.units import encode_units, units
from tests.hub.tiny_encoder import vocabulary

TOKENIZERS = {family: Tokenizer.from_json(vocabulary(family)) for family in ("bert", "roberta")}
either = pytest.mark.parametrize("family", TOKENIZERS)
TEXT = "Mina's   노루마을에서 😀 Café\u200b, don't!\n끝"


@either
@given(
    st.text(max_size=40) | st.sampled_from([TEXT, "", " \t", "a" * 300, "김철수가", "\u1112\u1161\u11ab 한"])
)
def test_units_hold_all_pieces_in_order(family: str, text: str) -> None:
    tokenizer = TOKENIZERS[family]
    try:
        expected = tokenizer.encode(text)
    except ValueError:
        return  # half a character
    found = encode_units(tokenizer, text)
    held = [id for pieces in found.char_ids for id in pieces]
    assert held == (expected if units(text) else [])
    assert all(found.char_ids)
    assert len(found.word_ids) == len(found.char_ids) == len(found.spans)


@either
@given(st.text(max_size=40) | st.just(TEXT))
def test_units_are_ours_or_several_of_ours(family: str, text: str) -> None:
    try:
        found = encode_units(TOKENIZERS[family], text)
    except ValueError:
        return
    starts, ends = zip(*units(text), strict=True) if units(text) else ((), ())
    before = 0
    for start, end in found.spans:
        assert before <= start < end
        assert start in starts
        assert end in ends
        before = end


def test_a_piece_of_several_units_makes_them_one() -> None:
    tokenizer = TOKENIZERS["roberta"]
    text = "노루마을에 비가 왔다."
    shown = [text[start:end] for start, end in encode_units(tokenizer, text).spans]
    assert "".join(shown) == text.replace(" ", "")
    assert len(shown) < len(units(text))
