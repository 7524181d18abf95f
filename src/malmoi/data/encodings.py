"""What bytes are encoded in: what a byte-order mark says, what is likely, and how an error says it."""

from __future__ import annotations

import codecs
import re
from contextlib import suppress

from malmoi.core.errors import UserError

_SHOWS = 64  # bytes from which on statistics of characters say something
_MARKS = {  # UTF-32 first: its mark begins as UTF-16's
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8",
}  # fmt: skip


def marked_encoding(start: bytes) -> str:
    """The encoding that a byte-order mark names; "" where there is none."""
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "")


def undecodable(error: UnicodeDecodeError, offset: int) -> str:
    """What to say of bytes that are not of their encoding; the first stands at `offset` of a file."""
    byte, guess = error.object[error.start], likely_encoding(error.object[error.start : error.start + 4096])
    hint = f"it looks like {guess}: " if guess and error.encoding == "utf-8" else ""
    return f"byte 0x{byte:02x} at offset {offset} is not {error.encoding.upper()}; {hint}save it as UTF-8"


def decoded(content: bytes, name: str, encoding: str = "") -> str:
    """The text of something called `name`, less its byte-order mark. Raises UserError where it is none."""
    try:
        return content.decode(marked_encoding(content) or encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {undecodable(error, error.start)}") from None


def likely_encoding(sample: bytes) -> str | None:
    """The encoding of bytes that are not UTF-8, for an error message; None where nothing fits."""
    if mark := marked_encoding(sample):
        return mark.upper()
    for encoding, letters in (("cp949", "[가-힣ㄱ-ㆎ一-鿿]"), ("cp1252", "[À-ÿ‘’“”–—…]")):
        with suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(encoding)().decode(sample)
            foreign = [letter for letter in text if not letter.isascii()]
            if foreign and 2 * len(re.findall(letters, "".join(foreign))) > len(foreign):
                return encoding
    if len(sample) < _SHOWS:
        return None
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    return best.encoding if best is not None else None
