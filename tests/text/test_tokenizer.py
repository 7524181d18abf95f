"""What is particular to one kind, and tokenizers made by other libraries. What all share: tests/contracts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from malmoi.core.errors import UserError
from malmoi.text import tokenizer as module
from malmoi.text.tokenizer import TURNS, Tokenizer, sample_texts, train_tokenizer
from tests.text.samples import BOTH, HARD


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_tokenizer(BOTH, "bpe", 400)


def test_a_word_carries_the_space_before_it() -> None:
    tokenizer = train_tokenizer(["the cat sat,  the cat"], "word", 20)
    pieces = [tokenizer.token_text(id) for id in tokenizer.encode("the cat  sat the dog")]
    assert pieces == ["the", " cat", " ", " sat", " the", "<|unk|>"]


def test_an_apostrophe_stays_in_its_word() -> None:
    tokenizer = train_tokenizer(["don't it’s 'so'"], "word", 20)
    assert [tokenizer.token_text(id) for id in tokenizer.encode("don't it’s")] == ["don't", " it’s"]


def test_the_most_frequent_words_are_kept() -> None:
    tokenizer = train_tokenizer(["a a a a b b b c c d"], "word", 10)
    assert tokenizer.decode(tokenizer.encode("a a b c d")) == " a b"


def test_a_vocabulary_may_have_gaps() -> None:
    backend = Backend(models.WordLevel({"a": 0, "<s>": 2, "b": 5}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = Tokenizer(backend)
    assert (tokenizer.vocab_size, tokenizer.kind) == (6, "word")
    assert [tokenizer.token_text(id) for id in range(7)] == [" a", "", "<s>", "", "", " b", ""]
    assert tokenizer.decode([-1, 1, 5, 6, 0, 1 << 40]) == "b a"


def test_bytes_are_ids_in_order() -> None:
    tokenizer = train_tokenizer([], "byte")
    assert tokenizer.vocab_size == 263
    assert tokenizer.encode("Aé") == [7 + 0x41, 7 + 0xC3, 7 + 0xA9]
    assert tokenizer.encode("\u1100\u1161") != tokenizer.encode("가")  # nothing is normalized


def test_jamo_become_a_syllable(bpe: Tokenizer) -> None:
    assert bpe.encode("\u1100\u1161\u11a8") == bpe.encode("각")
    assert bpe.decode(bpe.encode("\u1112\u1161\u11ab")) == "한"


def test_broken_utf8_decodes_to_the_replacement_character(bpe: Tokenizer) -> None:
    half = bpe.encode("👍")[:-1]
    assert bpe.decode(half) == "\ufffd"
    assert bpe.decode([*half, *bpe.encode("a")]) == "\ufffda"


def test_token_text_shows_parts_of_characters(bpe: Tokenizer) -> None:
    byte = train_tokenizer([], "byte")
    assert [byte.token_text(id) for id in byte.encode("각")] == ["\\xea", "\\xb0", "\\x81"]
    assert bpe.token_text(bpe.specials.turns[TURNS[0]]) == TURNS[0]
    assert bpe.token_text(10**6) == ""


def test_the_cache_starts_anew_when_full(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_CACHE", 8)
    fresh = Tokenizer(bpe._backend)
    for text in (*BOTH, *HARD):
        assert fresh.encode(text) == bpe.encode(text)
    fresh.encode("a b c")
    assert len(fresh._cache) <= 8


def test_a_long_chunk_is_not_kept(bpe: Tokenizer) -> None:
    fresh = Tokenizer(bpe._backend)
    text = "a" * 101 + " b"
    assert fresh.decode(fresh.encode(text)) == text
    assert not fresh._cache


def documents() -> Iterator[str]:
    yield from (f"{number:05}" for number in range(1000))


def test_a_sample_is_uniform_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_BYTES", 1000)
    sample, note = sample_texts(documents())
    assert 400 < 5 * len(sample) <= 1000
    assert 300 < sum(map(int, sample)) / len(sample) < 700
    assert "sample" in note
    assert sample == sample_texts(documents())[0]
    assert train_tokenizer(documents(), "character", 50).note == note
    assert sample_texts(["short"]) == (["short"], "")


def test_a_document_over_the_limit_is_still_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_BYTES", 10)
    assert sample_texts(["a long document, all there is"])[0] == ["a long document, all there is"]


def test_letters_too_rare_for_the_vocabulary_are_left_out() -> None:
    letters = "".join(chr(0xAC00 + number) for number in range(100))
    tokenizer = train_tokenizer(["가나다 " * 50 + letters], "unigram", 40)
    assert tokenizer.vocab_size <= 40
    assert tokenizer.decode(tokenizer.encode("가나다")) == "가나다"


# ---- other libraries' tokenizers


def save_backend(backend: Backend, folder: Path, config: dict[str, str] | None = None) -> Path:
    backend.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def gpt2_like() -> Backend:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={letter: id for id, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return backend


def sentencepiece_like() -> Backend:
    """As Llama 2's: the first word's space is added and removed, unknown letters fall back to bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "가"]
    vocab = {piece: id for id, piece in enumerate(pieces)}
    model = models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>", byte_fallback=True)
    backend = Backend(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(" ", 1, 0)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


@pytest.mark.parametrize("text", ["ab a", "가 a🫠b", " a", "a<|endoftext|>b", "</s>a<s>"])
@pytest.mark.parametrize("make", [gpt2_like, sentencepiece_like])
def test_other_tokenizers_round_trip(make: Callable[[], Backend], text: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(save_backend(make(), tmp_path))
    ids = tokenizer.encode(text)
    push = tokenizer.stream()
    assert tokenizer.decode(ids) == text
    assert "".join(push(id) for id in ids) + push(None) == text
    assert tokenizer.specials.ids.isdisjoint(ids)
    assert len(tokenizer.offsets(text)) == len(ids)


def test_a_special_among_the_models_own_pieces_is_spelled_out(tmp_path: Path) -> None:
    vocab: dict[str, int] = {"</s>": 0, "<": 1, "/": 2, "s": 3, ">": 4, "a": 5}
    backend = Backend(models.WordLevel(vocab, unk_token="a"))
    tokenizer = Tokenizer.load(save_backend(backend, tmp_path))
    assert tokenizer.specials.eos == 0
    assert tokenizer.encode("</s>") == [1, 2, 3, 4]
    assert tokenizer.offsets("</s>") == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_the_configs_names_come_before_the_usual_ones(tmp_path: Path) -> None:
    backend = gpt2_like()
    backend.add_special_tokens(["<|fin|>"])
    tokenizer = Tokenizer.load(save_backend(backend, tmp_path, {"eos_token": "<|fin|>"}))
    assert tokenizer.token_text(tokenizer.specials.eos) == "<|fin|>"
    assert tokenizer.config == {"eos_token": "<|fin|>"}


def test_eos_stands_in_for_bos_and_pad(tmp_path: Path) -> None:
    specials = Tokenizer.load(save_backend(gpt2_like(), tmp_path)).specials
    assert specials.bos == specials.eos == specials.pad == 256
    assert specials.unk is None
    assert not specials.turns


def test_a_saved_config_keeps_what_it_held(tmp_path: Path, bpe: Tokenizer) -> None:
    Tokenizer(bpe._backend, {"chat_template": "{{ messages }}"}).save(tmp_path)
    assert Tokenizer.load(tmp_path).config["chat_template"] == "{{ messages }}"


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path) -> None:
    save_backend(Backend(models.WordLevel({"a": 0, "b": 1}, unk_token="a")), tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.json: no token ends a text; looked for <\|eos\|>"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{", "is not a tokenizer .EOF while parsing"),
        ('{"model": 3}', "is not a tokenizer"),
    ],
)
def test_a_broken_file_is_named(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=rf"tokenizer\.json.*{message}"):
        Tokenizer.load(tmp_path)
