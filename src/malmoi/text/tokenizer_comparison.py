"""The kinds of tokenizer side by side: sequence length against vocabulary size and unknown words."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from malmoi.core.errors import UserError
from malmoi.text.tokenizer import KINDS, Tokenizer, sample_texts, train_tokenizer


@dataclass(frozen=True, slots=True)
class TokenizerRow:
    """What one kind of tokenizer makes of text that it was not trained on."""

    kind: str
    vocab_size: int
    tokens_per_document: float
    bytes_per_token: float  # of the NFC text as UTF-8; higher means shorter sequences
    unknown_word_rate: float  # share of the words (between white space) that hold an unknown token
    encode_mb_per_s: float  # MB of UTF-8, one thread, words met for the first time included


def compare_tokenizers(
    train_texts: Iterable[str],
    held_out_texts: Iterable[str],
    vocab_size: int = 8192,
    kinds: Sequence[str] = KINDS,
) -> list[TokenizerRow]:
    """Train each kind on the same text and measure it on other text, in the order of `kinds`.

    Both texts are read once; past SAMPLE_BYTES a sample of their documents is used. Raises UserError where
    there is no text to measure on, and as `train_tokenizer` does.
    """
    train, _ = sample_texts(train_texts)
    held_out = [
        unicodedata.normalize("NFC", text) for text in sample_texts(held_out_texts)[0] if text.strip()
    ]
    if not held_out:
        raise UserError("there is no held-out text to compare tokenizers on; give at least one document")
    return [_measure(train_tokenizer(train, kind, vocab_size), held_out) for kind in kinds]


def _measure(tokenizer: Tokenizer, texts: Sequence[str]) -> TokenizerRow:
    started_s = time.perf_counter()
    ids_of_texts = [tokenizer.encode(text) for text in texts]
    elapsed_s = time.perf_counter() - started_s
    num_tokens = sum(map(len, ids_of_texts))
    num_bytes = sum(len(text.encode()) for text in texts)
    num_words = sum(len(text.split()) for text in texts)
    num_unknown = sum(_num_unknown_words(tokenizer, *pair) for pair in zip(texts, ids_of_texts, strict=True))
    return TokenizerRow(
        kind=tokenizer.kind,
        vocab_size=tokenizer.vocab_size,
        tokens_per_document=num_tokens / len(texts),
        bytes_per_token=num_bytes / max(1, num_tokens),
        unknown_word_rate=num_unknown / num_words,
        encode_mb_per_s=num_bytes / 1e6 / elapsed_s,
    )


def _num_unknown_words(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> int:
    if tokenizer.specials.unk not in ids:
        return 0
    is_unknown = bytearray(len(text))  # one flag a character
    for id, (start, end) in zip(ids, tokenizer.offsets(text), strict=True):
        if id == tokenizer.specials.unk:
            is_unknown[start:end] = b"\1" * (end - start)
    return sum(1 in is_unknown[word.start() : word.end()] for word in re.finditer(r"\S+", text))
