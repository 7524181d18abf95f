"""One tokenizer contract over six ways to cut text, each a `tokenizer.json` that other libraries load.

Every kind trained here is a plain concatenation: the text of a sequence is its tokens' pieces one after
another, so decoding and streaming are the same join. What decode(encode(x)) gives back:

    byte       x itself, for every text (no normalization; 256 bytes)
    bpe        NFC(x), for every text (byte-level, GPT-2's split into words)
    character  NFC(x), less the characters outside the vocabulary (each becomes one <|unk|>)
    unigram    NFC(x), less the characters that training never saw (neighbours share one <|unk|>)
    word       NFC(x), less the words outside the vocabulary (each with the one space before it)
    wordpiece  NFC(x), less the words with an unseen character or over 100 characters

NFC makes Korean conjoining letters (jamo) one syllable. No kind trained here loses a space or a newline
next to known words: a word carries the one space before it (" cat"), every other space is its own token.
"""

from __future__ import annotations

import codecs
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from malmoi.core.errors import UserError, nearest
from malmoi.text.token_bytes import BYTE_LETTERS, TokenSpelling
from malmoi.text.tokenizer_files import (
    TOKENIZER_FILE,
    has_tokenizer,
    parse_tokenizer,
    read_tokenizer,
    token_name,
)
from malmoi.util.files import write_json, write_text

KINDS = ("word", "character", "byte", "bpe", "unigram", "wordpiece")
TURNS = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
UNK = "<|unk|>"
SPECIALS = ("<|pad|>", "<|bos|>", "<|eos|>", *TURNS)  # ids 0..6 of every vocabulary trained here
SAMPLE_BYTES = 100_000_000  # more text than this hardly changes a vocabulary

_WORDS = r" ?[\p{L}\p{M}\p{N}_]+(?:['’][\p{L}\p{M}]+)*| ?[^\s\p{L}\p{M}\p{N}_]|\s"
_CHARACTERS = r"[\s\S]"
# Where no token of any kind trained here reaches across: words seen before need no second encoding.
# The library's white space does not hold the four separators \x1c-\x1f, Python's does.
_CHUNKS = re.compile(
    r' ?[a-zA-Z가-힣]++(?=[,.;:!?"\s]|\Z)| ?[\S\x1c-\x1f]+|[^\S\x1c-\x1f]+(?![\S\x1c-\x1f])|[^\S\x1c-\x1f]+'
)
_MOST_IDS = 1 << 32  # the library's ids are of 32 bits
_MOST_UNMERGED = 1 << 12  # tokens of a BPE without merges: 256 bytes and specials
_MAX_CHUNK = 100  # characters; longer ones seldom come again
_MAX_CACHE = 1 << 17  # chunks, at most some 50 MB; Korean has many different ones
# What tokenizers call their specials, the usual first. What stands in for a missing one: `_find_specials`.
_NAMES = {
    "bos": ("<|bos|>", "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]", "[BOS]"),
    "eos": ("<|eos|>", "</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "[SEP]", "[EOS]"),
    "pad": ("<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>"),
    "unk": (UNK, "<unk>", "[UNK]"),
}
_MARKERS = (*TURNS, "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|eot_id|>", "[MASK]")


@dataclass(frozen=True)
class Specials:
    """Ids that plain text never produces (`unk` apart). `turns` maps turn markers' text to their ids."""

    bos: int
    eos: int
    pad: int
    unk: int | None = None
    turns: Mapping[str, int] = field(default_factory=dict)
    ids: frozenset[int] = frozenset()

    @property
    def ends(self) -> frozenset[int]:
        """The ids that are never text, so that whichever one a model gives, its answer is over."""
        return self.ids - {self.unk} | {self.eos}  # some name one token for both


class Tokenizer:
    """Text <-> ids. Make one with `train_tokenizer` or `Tokenizer.load`."""

    def __init__(self, backend: Backend, config: Mapping[str, Any] | None = None, note: str = "") -> None:
        """`config` is `tokenizer_config.json`'s content; `note` says what training left out, if anything."""
        self.config = dict(config or {})
        self.note = note
        self.specials = _find_specials(backend, self.config)
        # Not kept in tokenizer.json, and the one thing that keeps a document from forging a turn.
        backend.encode_special_tokens = True
        self._backend = backend
        self._cache: dict[str, list[int]] = {}
        self._spelling = TokenSpelling(backend.decoder)
        self._pieces: dict[int, bytes] = {}  # those that were wanted so far
        self._forbidden = self.specials.ids - {self.specials.unk}

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        size = self._backend.get_vocab_size()
        has_gaps = None in map(self._backend.id_to_token, range(size))
        return max(self._backend.get_vocab().values()) + 1 if has_gaps else size

    @cached_property
    def kind(self) -> str:
        """One of KINDS, or what the library calls the model."""
        return _kind(self._backend)

    # ---- text to ids

    def encode(self, text: str) -> list[int]:
        """The ids of plain text, never a special one but `unk`. Raises UserError on half a character."""
        if self._byte_offset is not None:
            return [byte + self._byte_offset for byte in _utf8(text)]
        if not self._cuts_at_chunks:
            return self._library_ids([text])[0]
        chunks, cache = _CHUNKS.findall(text), self._cache
        missing = list(set(chunks).difference(cache))
        if any(len(chunk) > _MAX_CHUNK for chunk in missing):
            return self._library_ids([text])[0]
        if len(cache) + len(missing) > _MAX_CACHE:  # a new one: other threads may be reading the old
            cache = self._cache = {}
            missing = list(set(chunks))
        cache.update(zip(missing, self._library_ids(missing), strict=True))
        return list(chain.from_iterable(map(cache.__getitem__, chunks)))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text; the library's threads where words cannot be looked up."""
        if self._byte_offset is None and not self._cuts_at_chunks:
            return self._library_ids(texts)
        return [self.encode(text) for text in texts]

    def _library_ids(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            for text in texts:
                _utf8(text)
            raise
        return [self._safe(text, encoding.ids) for text, encoding in zip(texts, encodings, strict=True)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character span (start, end) in `text` of each id of `encode(text)`."""
        _utf8(text)
        return [span for _, span in self._spans(text)]

    def _safe(self, text: str, ids: list[int]) -> list[int]:
        return ids if self._forbidden.isdisjoint(ids) else [id for id, _ in self._spans(text)]

    def _spans(self, text: str) -> Iterator[tuple[int, tuple[int, int]]]:
        """Ids with their spans. A model may hold a special among its own pieces (SentencePiece does):
        such an id is spelled out character by character."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if id not in self._forbidden:
                yield id, (start, end)
                continue
            for i in range(start, end):
                ids = self._backend.encode(text[i], add_special_tokens=False).ids
                yield from ((one, (i, i + 1)) for one in ids if one not in self._forbidden)

    # ---- ids to text

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; specials and ids past the vocabulary are skipped, broken UTF-8 gives U+FFFD."""
        first = next((at for at, id in enumerate(ids) if self._is_text(id)), None)
        if first is None:
            return ""
        rest = b"".join(map(self.token_bytes, ids[first + 1 :]))
        return (self.first_bytes(ids[first]) + rest).decode("utf-8", "replace")

    def stream(self) -> Callable[[int | None], str]:
        """A function from the next id to the text that it completes ('' inside a character); None flushes.

        The texts' concatenation equals `decode` of all the ids. Constant time per id.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        piece_of = self.first_bytes

        def push(id: int | None) -> str:
            nonlocal piece_of
            if id is None:
                piece_of = self.first_bytes
                return decoder.decode(b"", final=True)
            if not self._is_text(id):
                return ""
            piece, piece_of = piece_of(id), self.token_bytes
            return decoder.decode(piece)

        return push

    def token_text(self, id: int) -> str:
        """What one id looks like in a picture: its piece, parts of a character as \\xEA, a special's name."""
        if not self._is_text(id):
            return self._name(id)
        return self.token_bytes(id).decode("utf-8", "backslashreplace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes that an id adds to a text that has already begun; none for a special."""
        if (piece := self._pieces.get(id)) is None:
            token = "" if id in self.specials.ids else self._name(id)
            piece = self._pieces[id] = self._spelling.bytes_of(token) if token else b""
        return piece

    def first_bytes(self, id: int) -> bytes:
        """The bytes that a text begins with where its first id is this: some lose a space there."""
        return self._spelling.first_bytes_of(self._name(id)) if self._is_text(id) else b""

    def _name(self, id: int) -> str:
        """A token as the vocabulary has it; '' for an id past the vocabulary."""
        return (self._backend.id_to_token(id) or "") if 0 <= id < _MOST_IDS else ""

    def _is_text(self, id: int) -> bool:
        return id not in self.specials.ids and self._name(id) != ""

    @property
    def spells_bytes(self) -> bool:
        """Whether its tokens can spell every text, byte by byte where no longer ones do."""
        return self._spelling.spells_bytes

    @cached_property
    def _byte_offset(self) -> int | None:
        """What to add to a byte to get its id, where every id but the specials is one byte, in order."""
        ids = [self._backend.token_to_id(letter) for letter in BYTE_LETTERS]
        first = ids[0] if self.kind == "byte" and self._backend.normalizer is None else None
        return first if first is not None and ids == list(range(first, first + 256)) else None

    @cached_property
    def _cuts_at_chunks(self) -> bool:
        """Whether encoding `_CHUNKS` one by one equals encoding the text (ours do, and GPT-2's)."""
        cut, normalizer = _state(self._backend.pre_tokenizer), _state(self._backend.normalizer)
        pattern = cut.get("pattern", {}).get("Regex")
        ours = cut.get("type") == "Split" and pattern in (_WORDS, _CHARACTERS)
        gpt2 = cut.get("type") == "ByteLevel" and cut["use_regex"] and not cut["add_prefix_space"]
        specials_only = all(token.special for token in self._backend.get_added_tokens_decoder().values())
        return (ours or gpt2) and specials_only and normalizer.get("type", "NFC") == "NFC"

    # ---- files

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which `transformers.AutoTokenizer` loads."""
        write_text(folder / TOKENIZER_FILE, self.to_json())
        write_json(folder / "tokenizer_config.json", self._described() | self.config)

    @cached_property
    def special_texts(self) -> dict[str, int]:
        """How each special is written in text with markers, and its id."""
        return {self._name(id): id for id in sorted(self.specials.ids)}

    @property
    def special_names(self) -> dict[str, str]:
        """ "bos_token", "eos_token", ... -> how it is written, as configs and chat templates name them."""
        specials = self.specials
        named = {"bos": specials.bos, "eos": specials.eos, "pad": specials.pad, "unk": specials.unk}
        return {f"{name}_token": self._name(id) for name, id in named.items() if id is not None}

    @cached_property
    def start(self) -> int:
        """The id that a text begins with: what the tokenizer itself puts there, as Llama's bos; else eos, by
        which pre-training here separates documents."""
        if (adds_bos := self.config.get("add_bos_token")) is not None:
            return self.specials.bos if adds_bos else self.specials.eos
        added = self._backend.encode("", add_special_tokens=True).ids
        return added[0] if added and added[0] in self.specials.ids else self.specials.eos

    def _described(self) -> dict[str, Any]:
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.special_names,
            "additional_special_tokens": list(self.specials.turns),
            "clean_up_tokenization_spaces": False,
        }

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Load a folder or a tokenizer's file, ours or another library's (`malmoi.text.tokenizer_files`).

        Raises UserError where the file is missing, broken, or has no token for the end of a text.
        """
        path = Path(path)
        try:
            return cls(*read_tokenizer(path))
        except UserError as error:
            where = path / TOKENIZER_FILE if path.is_dir() else path
            raise UserError(str(error) if str(path) in str(error) else f"{where}: {error}") from None

    @classmethod
    def find(cls, folder: Path) -> Tokenizer | None:
        """`load`, or None where the folder has no tokenizer."""
        return cls.load(folder) if has_tokenizer(folder) else None

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        return self._backend.to_str(pretty=True)

    @classmethod
    def from_json(cls, content: str, config: Mapping[str, Any] | None = None) -> Tokenizer:
        """The inverse of `to_json`; config: what `tokenizer_config.json` says. Raises UserError as `load`."""
        return cls(parse_tokenizer(content), config)


def train_tokenizer(texts: Iterable[str], kind: str = "bpe", vocab_size: int = 8192) -> Tokenizer:
    """Learn a vocabulary of at most `vocab_size` tokens, specials counted; deterministic.

    `texts` is read once. Past SAMPLE_BYTES of text a uniform sample of the documents is used, and the
    tokenizer's `note` says so. `byte` learns nothing: its size is 256 and the specials.
    Raises UserError for an unknown kind or a size that cannot hold the kind's alphabet.
    """
    if kind not in KINDS:
        raise UserError(f"unknown tokenizer kind {kind!r}; {nearest(kind, KINDS)}")
    specials = SPECIALS if kind in ("byte", "bpe") else (*SPECIALS, UNK)
    least = len(specials) + (256 if kind in ("byte", "bpe") else 2)
    if vocab_size < least:
        raise UserError(f"a {kind} tokenizer needs vocab_size of at least {least}, not {vocab_size}")
    backend, note = _untrained(kind, specials), ""
    if kind != "byte":
        sample, note = sample_texts(texts)
        if not any(sample):
            raise UserError("there is no text to train a tokenizer on; give at least one document")
        if kind in ("unigram", "wordpiece"):
            sample = _covered(sample, limit=max(1, (vocab_size - len(specials)) // 2))
        backend.train_from_iterator(sample, _trainer(kind, vocab_size, specials))
        if kind == "unigram":
            backend.model = _settled(json.loads(backend.to_str())["model"]["vocab"], len(specials))
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return Tokenizer(backend, note=note)


def _untrained(kind: str, specials: Sequence[str]) -> Backend:
    byte_vocab = {token: id for id, token in enumerate((*specials, *BYTE_LETTERS))}
    model = {
        "word": lambda: models.WordLevel(unk_token=UNK),
        "character": lambda: models.WordLevel(unk_token=UNK),
        "byte": lambda: models.BPE(vocab=byte_vocab, merges=[]),
        "bpe": models.BPE,
        "unigram": models.Unigram,
        "wordpiece": lambda: models.WordPiece(unk_token=UNK, continuing_subword_prefix=""),
    }[kind]()
    backend = Backend(model)
    if kind != "byte":
        backend.normalizer = normalizers.NFC()
    if kind in ("byte", "bpe"):
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "bpe")
        backend.decoder = decoders.ByteLevel()
    else:
        pattern = Regex(_CHARACTERS if kind == "character" else _WORDS)
        backend.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
        backend.decoder = decoders.Fuse()
    return backend


def _trainer(kind: str, vocab_size: int, specials: Sequence[str]) -> Any:
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "special_tokens": list(specials),
        "show_progress": False,
    }
    if kind == "bpe":
        return trainers.BpeTrainer(**common, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    if kind == "unigram":
        return trainers.UnigramTrainer(**common, unk_token=UNK)
    if kind == "wordpiece":  # no "##": the space shows where words begin, and its ids would change by chance
        return trainers.WordPieceTrainer(**common, continuing_subword_prefix="")
    return trainers.WordLevelTrainer(**common)


def sample_texts(texts: Iterable[str]) -> tuple[list[str], str]:
    """A uniform sample of documents within SAMPLE_BYTES, and a note that says so ("" where it is all).

    Reads `texts` once and halves the share kept whenever it overflows; deterministic.
    """
    draw, share = random.Random(0), 1.0
    kept: list[tuple[float, int, str]] = []
    kept_bytes = seen_bytes = 0
    for text in texts:
        num_bytes, key = len(_utf8(text)), draw.random()
        seen_bytes += num_bytes
        if key >= share:
            continue
        kept.append((key, num_bytes, text))
        kept_bytes += num_bytes
        while kept_bytes > SAMPLE_BYTES and len(kept) > 1:
            share /= 2
            kept = [entry for entry in kept if entry[0] < share] or kept[:1]
            kept_bytes = sum(entry[1] for entry in kept)
    sampled = f"trained on a sample of {kept_bytes / 1e6:.0f} MB of {seen_bytes / 1e6:.0f} MB of text"
    return [text for _, _, text in kept], "" if kept_bytes == seen_bytes else sampled


def _covered(texts: list[str], limit: int) -> list[str]:
    """The texts without their rarest characters where there are over `limit`: each must be a token."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    rare = {ord(character): None for character, _ in counts.most_common()[limit:]}
    return [text.translate(rare) for text in texts] if rare else texts


def _settled(vocab: list[tuple[str, float]], num_specials: int) -> models.Unigram:
    """The same model in every run: last digits, order and rare letters' scores come out by chance."""
    lowest = min(score for _, score in vocab[num_specials:])
    by_chance = lowest + 1e-4 * len(vocab)  # the trainer gives unlikely letters `lowest`, + 1e-4, + 2e-4, ...
    scores = {
        piece: lowest if len(piece) == 1 and score < by_chance else score
        for piece, score in vocab[num_specials:]
    }
    pieces = sorted((-round(score, 6), piece) for piece, score in scores.items())
    specials = [(name, 0.0) for name, _ in vocab[:num_specials]]
    return models.Unigram([*specials, *((piece, -cost) for cost, piece in pieces)], unk_id=num_specials - 1)


def _find_specials(backend: Backend, config: Mapping[str, Any]) -> Specials:
    """By the config's names, then by the usual ones. No bos: eos stands in; no eos: bos; no pad: eos."""
    flagged = {id for id, token in backend.get_added_tokens_decoder().items() if token.special}
    found: dict[str, int] = {}
    for role, usual in _NAMES.items():
        names = (token_name(config.get(f"{role}_token")), *usual)
        id = next((id for name in names if name and (id := backend.token_to_id(name)) is not None), None)
        if id is not None:
            found[role] = id
    if "eos" not in found and "bos" not in found:
        raise UserError(f"no token ends a text; looked for {', '.join(_NAMES['eos'])}")
    eos = found.get("eos", found.get("bos", 0))
    markers = {name: id for name in _MARKERS if (id := backend.token_to_id(name)) is not None}
    turns = {name: id for name, id in markers.items() if name in TURNS}
    ids = frozenset(flagged | set(found.values()) | set(markers.values()) | {eos})
    return Specials(found.get("bos", eos), eos, found.get("pad", eos), found.get("unk"), turns, ids)


def _kind(backend: Backend) -> str:
    model = backend.model
    if isinstance(model, models.BPE):
        # what merges nothing has few tokens; a real vocabulary takes long to write out
        small = backend.get_vocab_size() < _MOST_UNMERGED
        return "byte" if small and not _state(model)["merges"] else "bpe"
    if isinstance(model, models.WordLevel):
        words = backend.get_vocab(with_added_tokens=False).keys() - {*SPECIALS, UNK}
        return "character" if max(map(len, words), default=1) == 1 else "word"
    return type(model).__name__.lower()


def _state(component: Any) -> dict[str, Any]:
    """A part of `tokenizer.json`, of the library's object for it; empty where there is none."""
    return {} if component is None else json.loads(component.__getstate__())


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        at = f"character {error.start}"
        raise UserError(f"{at} of the text is half a character (a lone surrogate); replace it") from None
