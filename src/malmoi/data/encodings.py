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


def undecodable(error: UnicodeDecodeError, offset: int, *, choice: bool = True) -> str:
    """What to say of bytes that are not of their encoding, of which the first stands at `offset` of a file.

    choice: whether the user can name the encoding.
    """
    name = error.encoding.upper()
    line = f"byte 0x{error.object[error.start]:02x} at offset {offset} is not {name}; "
    if name != "UTF-8":
        return line + "name the file's own with `encoding`"
    guess = likely_encoding(error.object[error.start : error.start + 4096])
    hint = f"it looks like {guess}: " if guess else ""
    return f"{line}{hint}save it as UTF-8" + f", or give `encoding` {guess}" * bool(guess and choice)


def decoded(content: bytes, name: str, encoding: str = "", *, marked: bool = True) -> str:
    """The text of something called `name`, less its byte-order mark. Raises UserError where it is none.

    marked: a byte-order mark says the encoding, as it does of a file; of a line in a pipe it does not.
    """
    mark = marked_encoding(content) if marked else ""
    try:
        return content.decode(mark or encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {undecodable(error, error.start, choice=False)}") from None


def known_encoding(name: str) -> str:
    """The name as Python has it. Raises UserError for one that is no encoding of text."""
    with suppress(LookupError):
        found = codecs.lookup(name)
        if found._is_text_encoding:  # base64 and the like are codecs, too
            return found.name
    raise UserError(f"no encoding {name!r}; for example cp949 (Korean Windows), utf-16 or cp1252")


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
