"""The bytes that a token adds to a text, as a decoder of the `tokenizers` library has it.

GPT-2's byte-level tokens are written in letters that stand for bytes. SentencePiece's are text with a mark
for the space, beside tokens of one byte each for what no other can spell; a text may lose the space that it
begins with.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import decoders


def _byte_letters() -> str:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return "".join(letters[byte] for byte in range(256))


BYTE_LETTERS = _byte_letters()  # GPT-2's printable letter for each byte 0..255, in the bytes' order
_LETTER_BYTES = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}


class TokenSpelling:
    """What a decoder makes of a token, joined to others and at the start of a text.

    spells_bytes: whether tokens can spell every text, byte by byte where no longer ones do.
    """

    def __init__(self, decoder: decoders.Decoder | None) -> None:
        self._decoder = decoder
        steps = _steps(json.loads(decoder.__getstate__())) if decoder else []
        kinds = [step["type"] for step in steps]
        self._is_byte_level, self._falls_back = "ByteLevel" in kinds, "ByteFallback" in kinds
        self.spells_bytes = self._is_byte_level or self._falls_back
        replaced = [step for step in steps if step["type"] == "Replace" and "String" in step["pattern"]]
        rest = steps[len(replaced) :] if steps[: len(replaced)] == replaced else []
        self._strips = rest[-1:] == [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
        # whether the steps are those that SentencePiece's models have, which are quick to do
        self._is_plain = kinds[len(replaced) :][: len(rest) - self._strips] in (
            ["ByteFallback", "Fuse"],
            ["Fuse"],
        )
        self._replaced = [(step["pattern"]["String"], step["content"]) for step in replaced]

    def bytes_of(self, token: str) -> bytes:
        """What a token adds to a text that has already begun."""
        if self._is_byte_level:
            return _bytes_of_letters(token)
        if self._falls_back and (byte := _fallback_byte(token)):
            return byte
        if self._is_plain:
            for old, new in self._replaced:
                token = token.replace(old, new)
            return token.encode()
        # Joined to something: a decoder may treat the first token apart (no space before it).
        return self._join(["a", token]).removeprefix("a").encode()

    def first_bytes_of(self, token: str) -> bytes:
        """What a token gives where a text begins with it."""
        if self._is_byte_level or (self._falls_back and _fallback_byte(token)):
            return self.bytes_of(token)
        if self._is_plain:
            return self.bytes_of(token).removeprefix(b" " if self._strips else b"")
        return self._join([token]).encode()

    def _join(self, tokens: list[str]) -> str:
        return self._decoder.decode(tokens) if self._decoder else " ".join(tokens)


def _steps(state: dict[str, Any]) -> list[dict[str, Any]]:
    """A decoder's steps, which may be sequences of such."""
    if state["type"] != "Sequence":
        return [state]
    return [step for part in state["decoders"] for step in _steps(part)]


def _bytes_of_letters(token: str) -> bytes:
    """The bytes of a byte-level token; an added token is plain text."""
    if all(letter in _LETTER_BYTES for letter in token):
        return bytes(_LETTER_BYTES[letter] for letter in token)
    return token.encode()


def _fallback_byte(token: str) -> bytes:
    """The byte of a fallback token such as <0xEA>, else b''."""
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return bytes.fromhex(token[3:5]) if is_byte else b""
