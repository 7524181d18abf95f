from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest

from malmoi.core.errors import UserError
from malmoi.data import shards
from malmoi.data.shards import META, TOKENS, TokenFile, tokenizer_hash, write_shards
from malmoi.text.tokenizer import KINDS, Tokenizer, train_tokenizer
from malmoi.util.files import damage
from tests.text.samples import BOTH


@pytest.fixture(scope="module")
def byte() -> Tokenizer:
    return train_tokenizer([], "byte")


def documents_of(tokens: TokenFile, tokenizer: Tokenizer) -> list[str]:
    ends = np.flatnonzero(tokens.ids == tokens.eos)
    return [tokenizer.decode(part.tolist()) for part in np.split(tokens.ids, ends + 1)[:-1]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_document_comes_back_and_ends_in_eos(kind: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(BOTH, kind, 600)
    tokens = write_shards(BOTH, tokenizer, tmp_path / "tokens")
    assert documents_of(tokens, tokenizer) == [tokenizer.decode(tokenizer.encode(text)) for text in BOTH]
    assert tokens.ids[-1] == tokens.eos == tokenizer.specials.eos
    assert tokens.num_documents == len(BOTH)
    assert tokens.num_tokens == sum(len(tokenizer.encode(text)) + 1 for text in BOTH)
    assert (tokens.vocab_size, tokens.tokenizer_sha256) == (tokenizer.vocab_size, tokenizer_hash(tokenizer))
    assert damage(tmp_path / "tokens") is None


def test_bytes_are_those_of_the_nfc_text(byte: Tokenizer, tmp_path: Path) -> None:
    texts = ["\u1112\u1161\u11ab", "cafe\u0301", "", "plain"]
    tokens = write_shards(texts, byte, tmp_path / "tokens")
    assert documents_of(tokens, byte) == ["한", "café", "plain"]  # an empty one is no document
    assert tokens.num_bytes == sum(len(normalize("NFC", text).encode()) for text in texts)


def test_a_turn_marker_in_the_text_stays_text(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(BOTH, "bpe", 400)
    text = "before<|eos|>after<|user|>"
    tokens = write_shards([text], tokenizer, tmp_path / "tokens")
    assert documents_of(tokens, tokenizer) == [text]


def test_a_document_cut_into_pieces_is_one_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shards, "PIECE", 40)
    tokenizer = train_tokenizer(BOTH, "bpe", 400)
    text = "\n".join(BOTH * 3)
    tokens = write_shards([text, "short"], tokenizer, tmp_path / "tokens")
    assert documents_of(tokens, tokenizer) == [text, "short"]
    assert tokens.num_documents == 2


@pytest.mark.parametrize("kind", ["word", "bpe", "unigram"])
@pytest.mark.parametrize("between", [" ", "\n", "  ", "\n\n", " \n"])
def test_pieces_give_the_ids_of_the_whole_text(
    kind: str, between: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shards, "PIECE", 60)
    tokenizer = train_tokenizer(BOTH, kind, 600)
    text = between.join([*BOTH, *(" ".join(BOTH).split())])
    tokens = write_shards([text], tokenizer, tmp_path / "tokens")
    assert tokens.ids[:-1].tolist() == tokenizer.encode(text)


def test_many_tokens_take_four_bytes_each(byte: Tokenizer, tmp_path: Path) -> None:
    assert write_shards(["a"], byte, tmp_path / "small").ids.dtype == np.dtype("<u2")
    words = " ".join(f"w{number}" for number in range(70_000))
    tokenizer = train_tokenizer([words], "word", 80_000)
    tokens = write_shards([words], tokenizer, tmp_path / "large")
    assert tokens.ids.dtype == np.dtype("<u4")
    assert int(tokens.ids.max()) >= 1 << 16
    assert documents_of(tokens, tokenizer) == [words]


def test_documents_are_written_while_they_are_read(byte: Tokenizer, tmp_path: Path) -> None:
    text, waiting = "word " * 20_000, []

    def documents() -> Iterator[str]:
        for number in range(60):
            num_written = next(tmp_path.glob(".tokens.*/*")).stat().st_size // 2
            waiting.append(number * (len(text) + 1) - num_written)
            yield text

    write_shards(documents(), byte, tmp_path / "tokens")
    buffered = 1 << 17  # by the file
    assert max(waiting) <= shards.BATCH + len(text) + buffered


def test_opening_reads_what_was_written(byte: Tokenizer, tmp_path: Path) -> None:
    tokens = write_shards(["one", "둘"], byte, tmp_path / "tokens")
    again = TokenFile.open(tmp_path / "tokens")
    assert np.array_equal(again.ids, tokens.ids)
    assert isinstance(again.ids, np.memmap)
    assert again.num_documents == 2


def test_a_file_cut_short_is_named(byte: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    write_shards(["one two three"], byte, folder)
    (folder / TOKENS).write_bytes((folder / TOKENS).read_bytes()[:-2])
    with pytest.raises(UserError, match=r"tokens is not a whole token file .*has 26 bytes, not 28.*again"):
        TokenFile.open(folder)
    (folder / TOKENS).unlink()
    with pytest.raises(UserError, match="not a whole token file"):
        TokenFile.open(folder)


@pytest.mark.parametrize(
    "meta", ["[]", "{}", '{"num_tokens": "x", "dtype": "<u2"}', '{"num_tokens": 4, "dtype": "q!"}']
)
def test_a_broken_meta_is_named(meta: str, byte: Tokenizer, tmp_path: Path) -> None:
    write_shards(["one"], byte, tmp_path / "tokens")
    (tmp_path / "tokens" / META).write_text(meta)
    with pytest.raises(UserError, match="not a whole token file"):
        TokenFile.open(tmp_path / "tokens")


def test_a_key_from_elsewhere_in_meta_is_named(byte: Tokenizer, tmp_path: Path) -> None:
    write_shards(["one"], byte, tmp_path / "tokens")
    meta = json.loads((tmp_path / "tokens" / META).read_text())
    (tmp_path / "tokens" / META).write_text(json.dumps(meta | {"colour": 1}))
    with pytest.raises(UserError, match="colour"):
        TokenFile.open(tmp_path / "tokens")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"meta\.json does not exist"):
        TokenFile.open(tmp_path / "nothing")


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_leaves_no_folder(texts: list[str], byte: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text to tokenize"):
        write_shards(texts, byte, tmp_path / "tokens")
    assert not list(tmp_path.iterdir())


def test_a_failed_writing_leaves_the_old_tokens(byte: Tokenizer, tmp_path: Path) -> None:
    write_shards(["old"], byte, tmp_path / "tokens")

    def documents() -> Iterator[str]:
        yield "new"
        raise UserError("a broken row")

    with pytest.raises(UserError, match="broken row"):
        write_shards(documents(), byte, tmp_path / "tokens")
    assert documents_of(TokenFile.open(tmp_path / "tokens"), byte) == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]
