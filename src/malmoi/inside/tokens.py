"""One text cut in several ways: each choice trades length against vocabulary and unknown words."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from malmoi.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Cut:
    """A text as one tokenizer cuts it. The pieces joined are the text itself, spaces included.

    A token that ends inside a character has that character, and those that go on with it have nothing.
    """

    name: str
    vocab_size: int
    pieces: tuple[str, ...]
    unknown: tuple[bool, ...]  # pieces that are not in the vocabulary

    @property
    def num_unknown(self) -> int:
        return sum(self.unknown)


def cut(name: str, tokenizer: Tokenizer, text: str) -> Cut:
    """Cut `text`; an unknown piece is shown as it was written."""
    ids, spans = tokenizer.encode(text), tokenizer.offsets(text)
    unk = tokenizer.specials.unk
    ends = [0, *(end for _, end in spans)]
    pieces = tuple(text[before:end] for before, end in pairwise(ends))
    return Cut(name, tokenizer.vocab_size, pieces, tuple(id == unk for id in ids))
