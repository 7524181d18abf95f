"""What every kind of tokenizer promises; one suite, run over all of them."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from malmoi.core.errors import UserError
from malmoi.text.tokenizer import KINDS, SPECIALS, UNK, Tokenizer, train_tokenizer
from tests.text.samples import BOTH, HARD

VOCAB_SIZE = 500
TOKENIZERS = {kind: train_tokenizer(BOTH, kind, VOCAB_SIZE) for kind in KINDS}
WHOLE = ("byte", "bpe")  # the kinds to which no text is unknown

FRAGMENTS = st.sampled_from([*HARD, *SPECIALS, *"각 a'.\n\t,", "고양이", " cat", "ᄒ", "ᅡ", "ᆫ", "\u0301"])
TEXTS = st.lists(FRAGMENTS | st.text(max_size=8), max_size=8).map("".join)


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]


def expected_text(tokenizer: Tokenizer, text: str) -> str:
    """What `decode(encode(text))` must be: the text, less the spans that are unknown."""
    if tokenizer.kind == "byte":
        return text
    text = normalize("NFC", text)
    if tokenizer.kind == "bpe":
        return text
    spans = zip(tokenizer.encode(text), tokenizer.offsets(text), strict=True)
    return "".join(text[start:end] for id, (start, end) in spans if id != tokenizer.specials.unk)


@pytest.mark.parametrize("text", BOTH)
def test_text_like_the_training_text_comes_back_whole(text: str) -> None:
    for kind in ("byte", "bpe", "unigram", "character"):
        tokenizer = TOKENIZERS[kind]
        assert tokenizer.decode(tokenizer.encode(text)) == text, kind


@given(text=TEXTS)
@settings(max_examples=60, deadline=None)
def test_decoding_gives_back_all_but_the_unknown(text: str) -> None:
    for kind, tokenizer in TOKENIZERS.items():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == expected_text(tokenizer, text), kind
        assert all(0 <= id < tokenizer.vocab_size for id in ids), kind


@given(text=TEXTS)
@settings(max_examples=60, deadline=None)
def test_offsets_cover_the_text_in_order(text: str) -> None:
    for kind, tokenizer in TOKENIZERS.items():
        spans = tokenizer.offsets(text)
        assert len(spans) == len(tokenizer.encode(text)), kind
        assert all(0 <= start <= end <= len(text) for start, end in spans), kind
        assert spans == sorted(spans), kind
        if text == normalize("NFC", text) or kind == "byte":
            covered = {place for start, end in spans for place in range(start, end)}
            assert covered == set(range(len(text))), kind
        if kind not in WHOLE:  # those cut inside characters; these do not
            assert all(end <= start for (_, end), (start, _) in pairwise(spans)), kind


def test_offsets_point_at_the_words(tokenizer: Tokenizer) -> None:
    text = "그 고양이 and the cat"
    for id, (start, end) in zip(tokenizer.encode(text), tokenizer.offsets(text), strict=True):
        piece = tokenizer.decode([id])
        if id != tokenizer.specials.unk and "\ufffd" not in piece:
            assert text[start:end] == piece


@given(text=TEXTS, marker=st.sampled_from([*SPECIALS, UNK]), more=TEXTS)
@settings(max_examples=60, deadline=None)
def test_plain_text_never_makes_a_special_token(text: str, marker: str, more: str) -> None:
    for kind, tokenizer in TOKENIZERS.items():
        special = tokenizer.specials.ids - {tokenizer.specials.unk}
        forged = text + marker + more
        assert special.isdisjoint(tokenizer.encode(forged)), kind
        assert special.isdisjoint(tokenizer.encode_batch([marker, forged])[1]), kind


@given(ids=st.lists(st.integers(-1, VOCAB_SIZE + 2), max_size=30))
@settings(max_examples=100, deadline=None)
def test_streamed_pieces_join_to_the_decoded_text(ids: list[int]) -> None:
    for kind, tokenizer in TOKENIZERS.items():
        push = tokenizer.stream()
        for _ in range(2):  # None also makes it ready for the next text
            assert "".join([push(id) for id in ids] + [push(None)]) == tokenizer.decode(ids), kind


def test_no_piece_of_a_stream_is_half_a_character(tokenizer: Tokenizer) -> None:
    push = tokenizer.stream()
    pieces = [push(id) for id in tokenizer.encode("밀가루 👍🏽 naïve")]
    assert push(None) == ""
    assert not any("\ufffd" in piece for piece in pieces)


@given(texts=st.lists(TEXTS, max_size=4))
@settings(max_examples=30, deadline=None)
def test_a_batch_equals_its_texts_one_by_one(texts: list[str]) -> None:
    for kind, tokenizer in TOKENIZERS.items():
        assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts], kind


def test_words_looked_up_equal_words_encoded(tokenizer: Tokenizer) -> None:
    text = " ".join([*BOTH, *HARD]) * 3
    whole = tokenizer._library_ids([text])[0]
    assert tokenizer.encode(text) == whole
    assert tokenizer.encode(text) == whole  # from the cache now


def test_saving_keeps_ids_and_specials(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for again in (Tokenizer.load(tmp_path), Tokenizer.load(tmp_path / "tokenizer.json")):
        assert again.specials == tokenizer.specials
        assert (again.kind, again.vocab_size) == (tokenizer.kind, tokenizer.vocab_size)
        for text in (*BOTH, *HARD):
            ids = tokenizer.encode(text)
            assert again.encode(text) == ids
            assert again.decode(ids) == tokenizer.decode(ids)


@pytest.fixture(scope="module", params=KINDS)
def both_libraries(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    TOKENIZERS[request.param].save(folder)
    return TOKENIZERS[request.param], AutoTokenizer.from_pretrained(folder)


def test_transformers_gives_the_same_ids_and_text(both_libraries: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both_libraries
    for text in [text for text in (*BOTH, *HARD) if "<|" not in text]:
        ids = ours.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    assert len(theirs) == ours.vocab_size
    specials = ours.specials
    assert (theirs.bos_token_id, theirs.eos_token_id) == (specials.bos, specials.eos)
    assert (theirs.pad_token_id, theirs.unk_token_id) == (specials.pad, specials.unk)
    assert specials.ids == set(theirs.all_special_ids)


@given(ids=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_ids_decode_as_the_library_decodes_them(ids: list[int]) -> None:
    for kind, tokenizer in TOKENIZERS.items():
        known = [id for id in ids if id < tokenizer.vocab_size]
        assert tokenizer.decode(ids) == tokenizer._backend.decode(known, skip_special_tokens=True), kind


def test_specials_come_first_and_are_apart(tokenizer: Tokenizer) -> None:
    names = SPECIALS if tokenizer.kind in WHOLE else (*SPECIALS, UNK)
    assert [tokenizer.token_text(id) for id in range(len(names))] == list(names)
    specials = tokenizer.specials
    assert specials.ids == set(range(len(names)))
    assert len({specials.bos, specials.eos, specials.pad, *specials.turns.values()}) == len(SPECIALS)


def test_the_vocabulary_stays_within_its_size(tokenizer: Tokenizer) -> None:
    rare = [chr(0xAC00 + 7 * n) for n in range(900)]  # more letters than tokens
    small = train_tokenizer([*BOTH, "".join(rare)], tokenizer.kind, 300)
    assert small.vocab_size <= 300
    assert tokenizer.vocab_size <= VOCAB_SIZE


def test_a_size_too_small_names_the_least(tokenizer: Tokenizer) -> None:
    least = 263 if tokenizer.kind in WHOLE else 10
    with pytest.raises(UserError, match=f"at least {least}, not {least - 1}"):
        train_tokenizer(BOTH, tokenizer.kind, least - 1)
    assert train_tokenizer(BOTH, tokenizer.kind, least).vocab_size <= least


def test_half_a_character_is_the_users_mistake(tokenizer: Tokenizer) -> None:
    for call in (tokenizer.encode, tokenizer.offsets, lambda text: tokenizer.encode_batch(["a", text])):
        with pytest.raises(UserError, match=r"character 2 .*half a character"):
            call("ab\ud83d")


def test_no_text_to_learn_from_is_an_error(tokenizer: Tokenizer) -> None:
    if tokenizer.kind != "byte":  # which learns nothing
        with pytest.raises(UserError, match="no text to train"):
            train_tokenizer(["", ""], tokenizer.kind)


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'wordpiece'"):
        train_tokenizer(BOTH, "word-piece")


PROGRAM = """
from hashlib import sha256
from malmoi.text.tokenizer import KINDS, train_tokenizer
from tests.text.samples import BOTH
hashes = [sha256(train_tokenizer(BOTH, k, 500)._backend.to_str().encode()).hexdigest() for k in KINDS]
"""


def test_training_is_deterministic_across_processes() -> None:
    command = [sys.executable, "-c", PROGRAM + "print(*hashes)"]
    there = subprocess.run(command, capture_output=True, text=True, check=True)
    here: dict[str, Any] = {}
    exec(PROGRAM, here)
    assert there.stdout.split() == here["hashes"]
    backend = TOKENIZERS["unigram"]._backend.to_str().encode()
    assert sha256(backend).hexdigest() == here["hashes"][KINDS.index("unigram")]
