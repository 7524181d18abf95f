"""Standard streams that never end a command: what they cannot show is replaced, a closed one is silent."""

from __future__ import annotations

import codecs
import json
import os
import sys
import unicodedata
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, TextIO

from malmoi.core.errors import UserError

_HANDLER = "malmoi.plain"
_PLAIN = str.maketrans({
    "█": "#", "▓": "#", "▒": "+", "░": ".", "…": "...", "·": "-", "•": "*", "–": "-", "—": "-", "−": "-",
    "‘": "'", "’": "'", "“": '"', "”": '"', "→": "->", "⏎": "|", "⇥": "|", "×": "x",
})  # fmt: skip


def prepare_streams() -> None:
    """Make standard output and error take any text, in any encoding, even where they are closed.

    Signs that are drawn become plain ones; other letters that the encoding lacks become escapes like \\ud55c.
    A closed standard input stays closed (`standard_input`), but no file that is opened takes its number.
    """
    codecs.register_error(_HANDLER, _plain)
    for descriptor in range(3):
        _occupy(descriptor)
    sys.stdout, sys.stderr = _taking(sys.stdout, 1), _taking(sys.stderr, 2)


def standard_input() -> bytes:
    """All of it. Raises UserError where it is closed."""
    if sys.stdin is None:
        raise UserError("standard input is closed; give a file or a text instead of -, or a pipe")
    return sys.stdin.buffer.read()


def json_line(value: Any, indent: int | None = None) -> str:
    """A value as JSON that standard output can hold: if its encoding lacks a letter, with JSON's escapes.

    What the stream itself would write in place of such a letter is no JSON, or another letter.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def flush_streams() -> None:
    """Write what is left; what nobody takes (a closed pipe, a full disk) is dropped, now and at the end."""
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_plainly, text)), error.end


def _plainly(letter: str) -> str:
    """A letter in ASCII."""
    if letter.translate(_PLAIN) != letter:
        return letter.translate(_PLAIN)
    if "\u2500" <= letter <= "\u257f":  # what tables are drawn with
        name = unicodedata.name(letter)
        return "-" if name.endswith("HORIZONTAL") else "|" if name.endswith("VERTICAL") else "+"
    return letter.encode("ascii", "backslashreplace").decode("ascii")


def _occupy(descriptor: int) -> None:
    """Put the null device where nothing is open."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def _taking(stream: TextIO | None, descriptor: int) -> TextIO:
    """The stream, with replacements; where it was closed, one into nothing."""
    if stream is None:
        return open(descriptor, "w", encoding="utf-8", errors=_HANDLER, closefd=False)
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors=_HANDLER)
    return stream
