"""SentencePiece models (Kudo & Richardson 2018): their `.model` file as a tokenizer of `tokenizers`.

The file is a protocol buffer; the few fields that matter are read here, so nothing else need be installed.
Its unigram and BPE models map to the library's, its normalizer (a table of replacements) to `Precompiled`,
the mark at the start of a text and the one for spaces to plain replacements. Ids are those of SentencePiece,
but for texts where combining marks are out of order or stand after a compatibility character, where single
Hangul letters follow a syllable.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from malmoi.core.errors import DAMAGE, UserError
from malmoi.util.files import read_bytes

SPACE = "▁"
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
_MOST_BYTES = 256 << 20
_BASE = 0x9E3779B97F4A7C17  # odd, so that it has an inverse modulo 2^64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Piece(NamedTuple):
    """A token: its text, its score (a log-probability, or minus the order of merges) and its kind."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What the file says. `charsmap` is its normalizer's table, empty where texts stay as they are."""

    pieces: tuple[Piece, ...]
    is_bpe: bool
    charsmap: bytes
    byte_fallback: bool
    adds_prefix: bool
    joins_spaces: bool
    ids: dict[str, int]  # "bos", "eos", "pad", "unk" -> id, where there is one


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a `.model` file. Raises UserError where it is damaged or of a kind that has no equal here."""
    try:
        return _parsed(read_bytes(path, _MOST_BYTES))
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except (*DAMAGE, struct.error) as error:
        raise UserError(f"{path} is not a SentencePiece model ({error}); copy it again") from None


def to_backend(model: SentencePieceModel) -> Backend:
    """A tokenizer of the `tokenizers` library with the same ids. Raises UserError where there is none."""
    backend = Backend(_bpe(model) if model.is_bpe else _unigram(model))
    backend.normalizer = _normalizer(model)
    backend.decoder = _decoder(model)
    specials = [piece.text for piece in model.pieces if piece.kind in (_CONTROL, _UNKNOWN)]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    own = sorted((piece.text for piece in model.pieces if piece.kind == _USER), key=len, reverse=True)
    if own and model.is_bpe:
        _cut_out(backend, own, model)
    return backend


def _cut_out(backend: Backend, own: list[str], model: SentencePieceModel) -> None:
    """Take the user's own tokens, longest first, out of a text before anything is merged.

    Where texts get a mark, the library would put one before each of them, too. There the text is cut, and
    what lies between is taken whole if it is a token: even one that no text has.
    """
    if not model.adds_prefix:
        backend.add_tokens([AddedToken(text, special=False, normalized=True) for text in own])
        return
    pattern = Regex("|".join(re.sub(r"\W", r"\\\g<0>", text) for text in own))
    backend.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    backend.model.ignore_merges = True


def specials_of(model: SentencePieceModel) -> dict[str, str]:
    """ "bos_token", "eos_token", ... -> how it is written, as `tokenizer_config.json` names them."""
    return {f"{role}_token": model.pieces[id].text for role, id in model.ids.items()}


def _bpe(model: SentencePieceModel) -> models.BPE:
    """Merges in the order of the scores of what they make."""
    vocab = {piece.text: id for id, piece in enumerate(model.pieces)}
    made = [piece for piece in model.pieces if piece.kind in (_NORMAL, _USER, _UNUSED)]
    texts = [piece.text for piece in sorted(made, key=lambda piece: -piece.score)]
    rest = [piece.text for piece in model.pieces if piece.kind not in (_NORMAL, _USER, _UNUSED)]
    merges = _merges([*texts, *rest], len(texts))
    unk = model.pieces[model.ids["unk"]].text
    return models.BPE(vocab, merges, unk_token=unk, fuse_unk=True, byte_fallback=model.byte_fallback)


def _merges(texts: list[str], num_made: int) -> list[tuple[str, str]]:
    """Every way to join two of the texts to one of the first `num_made`, in the order of those.

    A vocabulary of 262,144 can be cut in 1.4 million places, which takes a second one by one. So all are
    looked up at once, by a hash of each part: its codes times the powers of _BASE, summed modulo 2^64.

    Shape letters: P texts, N characters of all of them, C cuts.
    """
    codes_N = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    lengths_P = np.fromiter(map(len, texts), np.int64, len(texts))
    ends_P = np.cumsum(lengths_P)
    text_N = np.repeat(np.arange(len(texts)), lengths_P)
    at_N = np.arange(len(codes_N)) - (ends_P - lengths_P)[text_N]
    up, down = (_powers(base, int(lengths_P.max())) for base in (_BASE, pow(_BASE, -1, 1 << 64)))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(codes_N * up[at_N])])  # of all that stands before
    first_P, last_P = sums[ends_P - lengths_P], sums[ends_P]
    cuts_C = np.flatnonzero((at_N > 0) & (text_N < num_made))
    left_C, is_left_C = _found(last_P - first_P, sums[cuts_C] - first_P[text_N[cuts_C]])
    left_C, cuts_C = left_C[is_left_C], cuts_C[is_left_C]
    rest_C = last_P[text_N[cuts_C]] - sums[cuts_C]
    right_C, is_right_C = _found(last_P - first_P, rest_C * down[at_N[cuts_C]])
    left, right = (map(texts.__getitem__, ids_C[is_right_C].tolist()) for ids_C in (left_C, right_C))
    return list(zip(left, right, strict=True))


def _powers(base: int, most: int) -> NDArray[np.uint64]:
    """base to the 0, 1, ... modulo 2^64."""
    return np.cumprod(np.array([1, *[base] * most], np.uint64))


def _found(known_P: NDArray[np.uint64], wanted_C: NDArray[np.uint64]) -> tuple[Any, Any]:
    """Where each of the wanted is among the known, and whether it is."""
    order_P, order_C = np.argsort(known_P), np.argsort(wanted_C)  # numbers in order are found far faster
    at_C = np.searchsorted(known_P[order_P], wanted_C[order_C]).clip(max=len(known_P) - 1)
    places_C = np.empty_like(at_C)
    places_C[order_C] = order_P[at_C]
    return places_C, known_P[places_C] == wanted_C


def _unigram(model: SentencePieceModel) -> models.Unigram:
    """Scores as they are; the user's own tokens' as SentencePiece has them, to be taken wherever they stand;
    those of tokens that no text has, below every way to spell them."""
    normal = [piece.score for piece in model.pieces if piece.kind == _NORMAL] or [0.0]
    longest = max(len(piece.text) for piece in model.pieces)
    never, highest = min(0.0, *normal) * (1 + longest) - 1, max(normal)
    pieces: list[tuple[str, float]] = []
    for piece in model.pieces:
        own = len(piece.text.encode()) * highest - 0.1
        score = {_NORMAL: piece.score, _USER: own}.get(piece.kind, never)
        pieces.append((piece.text, score))
    return models.Unigram(pieces, unk_id=model.ids["unk"], byte_fallback=model.byte_fallback)


def _normalizer(model: SentencePieceModel) -> normalizers.Normalizer:
    """The table, the mark before the text, then what happens to spaces.

    The library applies the table to what people see as one character, and drops what follows a match there.
    Composing first leaves little to do over several letters; a line's end of two characters becomes two.
    """
    table: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    maps = normalizers.Sequence(table).normalize_str
    steps: list[Any] = [normalizers.NFKC()] if maps("①") == "1" else []
    lines_are_spaces = maps("\n") == " "
    if lines_are_spaces:
        steps.append(normalizers.Replace("\r\n", "\n\n"))
    first = Regex(r"\A +" if model.joins_spaces else r"\A ")
    if (
        model.adds_prefix and lines_are_spaces
    ):  # so that a text of letters that the table removes has the mark
        steps += [normalizers.Prepend("\n"), *table, normalizers.Replace(first, SPACE)]
    else:
        steps += [*table, *([normalizers.Replace(first, "")] if model.joins_spaces else [])]
        steps += [normalizers.Prepend(SPACE)] if model.adds_prefix else []
    joined, last = (normalizers.Replace(Regex(it), to) for it, to in ((" {2,}", " "), (rf"{SPACE}+\z", "")))
    escaped = normalizers.Replace(" ", SPACE)
    return normalizers.Sequence([*steps, *([joined, escaped, last] if model.joins_spaces else [escaped])])


def _decoder(model: SentencePieceModel) -> decoders.Decoder:
    steps: list[Any] = [decoders.Replace(SPACE, " ")]
    if model.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if model.adds_prefix or model.joins_spaces:
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    return decoders.Sequence(steps)


# ---- the file


def _parsed(content: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(content):
        if number == 1:
            found = dict(_fields(_message(value)))
            score = struct.unpack("<f", found[2])[0] if 2 in found else 0.0
            pieces.append(Piece(_message(found[1]).decode("utf-8"), score, int(found.get(3, _NORMAL))))
        elif number == 2:
            trainer = dict(_fields(_message(value)))
        elif number == 3:
            normalizer = dict(_fields(_message(value)))
    if not pieces:
        raise ValueError("it has no pieces")
    _check(trainer, normalizer)
    return SentencePieceModel(
        pieces=tuple(pieces),
        is_bpe=trainer.get(3, _UNIGRAM) == _BPE,
        charsmap=bytes(normalizer.get(2, b"")),
        byte_fallback=bool(trainer.get(35, 0)),
        adds_prefix=bool(normalizer.get(3, 1)),
        joins_spaces=bool(normalizer.get(4, 1)),
        ids=_roles(pieces, trainer),
    )


def _check(trainer: dict[int, Any], normalizer: dict[int, Any]) -> None:
    if trainer.get(3, _UNIGRAM) not in (_UNIGRAM, _BPE):
        raise UserError("only SentencePiece's unigram and BPE models can be read, not words or characters")
    if trainer.get(24, 0) or not normalizer.get(5, 1):
        raise UserError("it marks spaces in a way that cannot be read here (a suffix, or not at all)")


def _roles(pieces: list[Piece], trainer: dict[int, Any]) -> dict[str, int]:
    """The ids of unk, bos, eos, pad; -1 in the file means that there is none."""
    ids: dict[str, int] = {}
    for role, number, usual in (("unk", 40, 0), ("bos", 41, 1), ("eos", 42, 2), ("pad", 43, -1)):
        id = trainer.get(number, usual)
        kind = _UNKNOWN if role == "unk" else _CONTROL
        if 0 <= id < len(pieces) and pieces[id].kind == kind:
            ids[role] = id
    ids["unk"] = next((id for id, piece in enumerate(pieces) if piece.kind == _UNKNOWN), -1)
    if ids["unk"] < 0:
        raise ValueError("no piece stands for what is unknown")
    return ids


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message: an int, or bytes."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
            if kind == _BYTES:
                size, at = _varint(content, at)
            if size is None or at + size > len(content):
                raise ValueError("it is cut or damaged")
            value, at = content[at : at + size], at + size
        yield tag >> 3, value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")


def _message(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field has another type")
    return value
