"""Documents to a file of tokens, and back as an array in the file: what pre-training reads.

A token file is a folder: `tokens.bin` (the ids one after another, uint16 or uint32, little-endian, each
document followed by one eos), `meta.json` (its sizes and the hash of its tokenizer) and a manifest of hashes.
"""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from malmoi.core.errors import UserError
from malmoi.text.tokenizer import TOKENIZER_FILE, Tokenizer
from malmoi.util.files import new_folder, read_json, sha256, write_json

TOKENS, META = "tokens.bin", "meta.json"
PIECE = 1 << 16  # characters of a document encoded at once
BATCH = 1 << 20  # characters encoded by one call, which bounds the memory that it takes
_SEAM = re.compile(r"(?s).*\S(?=[ \n])")


@dataclass(frozen=True)
class TokenFile:
    """Token ids of a corpus, left in the file until they are used."""

    ids: np.ndarray  # uint16 or uint32 (num_tokens,), every document followed by eos
    eos: int
    vocab_size: int
    num_documents: int
    num_bytes: int  # of the NFC text as UTF-8: what bits per byte divides by
    tokenizer_sha256: str = ""

    @property
    def num_tokens(self) -> int:
        """How many ids there are, the eos ids counted."""
        return len(self.ids)

    @classmethod
    def open(cls, folder: Path) -> TokenFile:
        """Map the token file in `folder`. Raises UserError where it is missing, broken or cut short."""
        meta = read_json(folder / META)
        try:
            num_tokens, dtype = meta.pop("num_tokens"), np.dtype(meta.pop("dtype"))
            size = (folder / TOKENS).stat().st_size
            if size != num_tokens * dtype.itemsize:
                raise ValueError(f"{TOKENS} has {size} bytes, not {num_tokens * dtype.itemsize}")
            return cls(np.memmap(folder / TOKENS, dtype, mode="r"), **meta)
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            raise UserError(
                f"{folder} is not a whole token file ({error}); tokenize the text again"
            ) from None


def write_shards(texts: Iterable[str], tokenizer: Tokenizer, folder: Path) -> TokenFile:
    """Tokenize documents into a token file at `folder`, which appears whole or not at all.

    Streams: memory does not grow with the text. Text is NFC-normalized first, so that bits per byte divides
    by the same bytes for every tokenizer. Raises UserError where there is no text.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    with new_folder(folder) as temporary:
        with (temporary / TOKENS).open("wb") as file:
            num_documents, num_bytes = _write_tokens(_pieces(texts), tokenizer, file, dtype)
            num_tokens = file.tell() // dtype.itemsize
        if not num_documents:
            raise UserError("there is no text to tokenize; give at least one document")
        meta = {
            "num_tokens": num_tokens,
            "num_documents": num_documents,
            "num_bytes": num_bytes,
            "dtype": dtype.str,
            "eos": tokenizer.specials.eos,
            "vocab_size": tokenizer.vocab_size,
            "tokenizer_sha256": tokenizer_hash(tokenizer),
        }
        write_json(temporary / META, meta)
    return TokenFile.open(folder)


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """SHA-256 of the tokenizer's file: shows whether a token file was made with it."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        return sha256(Path(folder) / TOKENIZER_FILE)


def _write_tokens(
    pieces: Iterable[tuple[str, bool]], tokenizer: Tokenizer, file: BinaryIO, dtype: np.dtype
) -> tuple[int, int]:
    """Append the pieces' ids to `file`. Returns (documents, bytes of text)."""
    num_documents = num_bytes = 0
    for batch in _batches(pieces):
        for ids, (text, ends) in zip(tokenizer.encode_batch([text for text, _ in batch]), batch, strict=True):
            file.write(np.array([*ids, tokenizer.specials.eos] if ends else ids, dtype).tobytes())
            num_documents += ends
            num_bytes += len(text.encode())
    return num_documents, num_bytes


def _pieces(texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """NFC pieces of at most PIECE characters, each with whether a document ends there."""
    for text in filter(None, texts):
        start = 0
        while start < len(text):
            stop = min(start + PIECE, len(text))
            if stop < len(text):
                stop = _seam(text, start, stop)
            yield unicodedata.normalize("NFC", text[start:stop]), stop == len(text)
            start = stop


def _seam(text: str, start: int, stop: int) -> int:
    """Where to cut before `stop`: between a word and white space, where tokenizers cut in any case."""
    seam = _SEAM.match(text, (start + stop) // 2, stop + 1)
    return seam.end() if seam else stop


def _batches(pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Group pieces into lists of about BATCH characters."""
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[0])
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
