"""What bytes that are not UTF-8 may be encoded in, for error messages."""

from __future__ import annotations

import codecs
import re
from contextlib import suppress

from malmoi.core.errors import UserError


def not_utf8(error: UnicodeDecodeError, offset: int) -> str:
    """What to say of bytes that are not UTF-8, of which the first stands at `offset` of a file."""
    byte, guess = error.object[error.start], likely_encoding(error.object[error.start : error.start + 4096])
    hint = f"it looks like {guess}: " if guess else ""
    return f"byte 0x{byte:02x} at offset {offset} is not UTF-8; {hint}save it as UTF-8"


def decoded(content: bytes, name: str, encoding: str = "utf-8-sig") -> str:
    """The text of something called `name`. Raises UserError where it is not UTF-8."""
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {not_utf8(error, error.start)}") from None


def likely_encoding(sample: bytes) -> str | None:
    """The encoding of bytes that are not UTF-8, for an error message; None where nothing fits."""
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    for encoding, letters in (("cp949", "[가-힣ㄱ-ㆎ一-鿿]"), ("cp1252", "[À-ÿ‘’“”–—…]")):
        with suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(encoding)().decode(sample)
            foreign = [letter for letter in text if not letter.isascii()]
            if foreign and 2 * len(re.findall(letters, "".join(foreign))) > len(foreign):
                return encoding
    return None
