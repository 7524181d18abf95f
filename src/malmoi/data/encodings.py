"""What bytes that are not UTF-8 may be encoded in, for error messages."""

from __future__ import annotations

import codecs
import re
from contextlib import suppress


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
