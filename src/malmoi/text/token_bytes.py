"""How the tokens of a vocabulary spell bytes: in GPT-2's letters, or one by one where no token has them."""

from __future__ import annotations


def _byte_letters() -> str:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return "".join(letters[byte] for byte in range(256))


BYTE_LETTERS = _byte_letters()  # GPT-2's printable letter for each byte 0..255, in the bytes' order
_LETTER_BYTES = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}


def bytes_of_letters(token: str) -> bytes:
    """The bytes of a byte-level token; an added token is plain text."""
    if all(letter in _LETTER_BYTES for letter in token):
        return bytes(_LETTER_BYTES[letter] for letter in token)
    return token.encode()


def fallback_byte(token: str) -> bytes:
    """The byte of a fallback token such as <0xEA>, else b''."""
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return bytes.fromhex(token[3:5]) if is_byte else b""
