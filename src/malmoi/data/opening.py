"""A file's bytes to text and lines, whatever its encoding, line ends and compression, and how it is read.

What cannot be mistaken is read as it is: a byte-order mark says UTF-8, UTF-16 or UTF-32, the first bytes say
gzip, bzip2 or xz whatever the name, and lines end in "\\r" where no "\\n" is.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from malmoi.core.errors import nearest
from malmoi.core.nouns import Finding, Report
from malmoi.data import arrow
from malmoi.data.encodings import likely_encoding, marked_encoding, undecodable

Errors = Literal["strict", "replace"]

PIECE = 1 << 20  # bytes read at a time, and the characters from which a plain text is cut
SAMPLE = 1 << 16  # bytes that show an encoding
WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
# first bytes -> what opens them; and the ends of names that say so
_COMPRESSED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open, b"BZh91AY&SY": bz2.open, b"\xfd7zXZ\0": lzma.open,
}  # fmt: skip
_BY_NAME: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# first bytes -> what they are, and the fix
_NO_TEXT = {
    b"PK\x03\x04": "is a zip archive or an Excel workbook; unpack it, or name it .xlsx",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook or a Word document; name a workbook .xls",
    b"(\xb5/\xfd": "is compressed with zstd; unpack it",
    b"7z\xbc\xaf": "is a 7z archive; unpack it",
    b"PAR1": "is a parquet file; name it .parquet",
    b"ARROW1": "is an arrow file; name it .arrow",
    b"%PDF-": "is a PDF; save its text",
}
# what a user's fields may say of the files themselves
ENCODING, DELIMITER = "encoding", "delimiter"
CUT = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)  # of what is compressed, and cut or damaged
BROKEN = (OSError, *CUT)  # of a file that cannot be read


class DocumentRow(NamedTuple):
    """One document and where it was read: "file:line" (the row number in a parquet file)."""

    text: str
    where: str


class Record(NamedTuple):
    """One row of named values and where it was read, as a `DocumentRow`."""

    values: dict[str, Any]
    where: str


@dataclass(frozen=True)
class How:
    """How to read: the one field wanted ("": all), and who hears what is wrong.

    errors: what to do with bytes that are not of the encoding; None: strict, and the user has no choice.
    encoding: of files without a byte-order mark; "": UTF-8. delimiter: between the cells of a table; "": what
    the file's name and first lines say.
    """

    errors: Errors | None
    field: str
    report: Report
    encoding: str = ""
    delimiter: str = ""

    def error(self, where: str, message: str) -> None:
        """Report what keeps a row from being used."""
        self.report(Finding("error", where, message))

    def chosen(self, where: str, message: str) -> None:
        """Report how a file is read, where it could be in another way."""
        self.report(Finding("read", where, message))

    def lossy(self, where: str, message: str, joint: str = "; ") -> None:
        """Report what could only be read with a loss."""
        self.error(where, message + f"{joint}`errors` replace goes on" * (self.errors is not None))

    def row(self, value: Any, where: str) -> Iterator[DocumentRow]:
        """The document in one field's value; none where it is empty or not text."""
        if not isinstance(value, str):
            kind = "null" if value is None else type(value).__name__
            self.error(where, f'"{self.field}" must be a string, found {kind} {short(value)}')
        elif not value.strip():
            self.report(Finding("warning", where, f'"{self.field}" is empty; skipped'))
        else:
            yield DocumentRow(self.without_surrogates(value, where), where)

    def without_surrogates(self, text: str, where: str) -> str:
        """JSON can spell half a character (\\ud83d alone), which no file or tokenizer can hold."""
        clean = re.sub("[\ud800-\udfff]", "\ufffd", text)
        if self.errors != "replace" and clean != text:
            self.lossy(where, "holds half a character (a lone surrogate)")
        return clean

    def missing(self, keys: Iterable[str], where: str) -> None:
        """Report that the field is not among `keys`."""
        names = sorted(keys)
        hint = nearest(self.field, names)
        fix = hint if hint.startswith("did you") else "name the one with the text with `field`"
        self.error(where, f'no field "{self.field}" among {", ".join(names) or "no fields"}; {fix}')


def named(values: Mapping[str, Any], names: Sequence[str]) -> str:
    """The name under which a row has one of these, whatever its case; "" where it has none, or null."""
    folded = {name.strip().casefold(): name for name in reversed(list(values)) if values[name] is not None}
    return next((found for name in names if (found := folded.get(name.casefold()))), "")


def short(value: object, most: int = 60) -> str:
    """A value as an error line shows it, at most `most` characters."""
    text = str(value).strip()
    return text if len(text) <= most else text[: most - 3] + "..."


def extension(path: Path) -> str:
    """The end of a file's name that says its format, less .gz, .bz2 and .xz."""
    name = Path(path.name.lower())
    return name.with_suffix("").suffix if name.suffix in _BY_NAME else name.suffix


def open_bytes(path: Path) -> BinaryIO:
    """An open file, which decompresses what its first bytes or its name say is compressed."""
    with path.open("rb") as file:
        start = file.read(max(map(len, _COMPRESSED)))
    by_bytes = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)
    opener = by_bytes or _BY_NAME.get(path.suffix.lower())
    return cast(BinaryIO, opener(path)) if opener else path.open("rb")


def encoding_of(file: Path, encoding: str = "") -> str:
    """What the first bytes of a text file are encoded in, as far as they show it; else `encoding`."""
    if extension(file) in (*arrow.EXTENSIONS, *WORKBOOKS):
        return extension(file)[1:]
    with suppress(*BROKEN), open_bytes(file) as opened:
        sample = opened.read(SAMPLE)
        if mark := marked_encoding(sample):
            return f"{mark.upper()} with a byte-order mark"
        if encoding:
            return encoding
        with suppress(UnicodeDecodeError):
            codecs.getincrementaldecoder("utf-8")().decode(sample)
            return "ASCII" if sample.isascii() else "UTF-8"
        return likely_encoding(sample) or "unknown"
    return "unreadable"


def chunks(path: Path, how: How) -> Iterator[str]:
    """The text of a file in parts of bounded size, without its byte-order mark.

    Raises Unreadable for what is no text.
    """
    offset, line = 0, 1
    with open_bytes(path) as file:
        chunk = file.read(PIECE)
        if what := next((what for magic, what in _NO_TEXT.items() if chunk.startswith(magic)), ""):
            raise arrow.Unreadable(what)
        encoding = marked_encoding(chunk) or how.encoding or "utf-8"
        decoder = codecs.getincrementaldecoder(encoding)(how.errors or "strict")
        begun = False
        while True:
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                # The decoder keeps the first bytes of a character until the rest of it is read.
                start = offset - (len(error.object) - len(chunk)) + error.start
                where = f"{path}:{line + error.object.count(10, 0, error.start)}"
                how.lossy(where, undecodable(error, start), ", or ")
                decoder.errors = "replace"  # reported once a file: all of one in another encoding is wrong
                text = decoder.decode(chunk, final=not chunk)
            if text and not begun:
                text, begun = text.removeprefix("\ufeff"), True
            if text:
                yield text
            if not chunk:
                return
            offset, line = offset + len(chunk), line + chunk.count(b"\n")
            chunk = file.read(PIECE)


def lines(chunks: Iterable[str]) -> Iterator[str]:
    """Lines with their ends; only "\\n" ends one (JSON strings may hold the other separators), or "\\r" where
    the first part of the text has no other end."""
    pending: list[str] = []
    end = ""
    for chunk in chunks:
        end = end or ("\r" if "\r" in chunk and "\n" not in chunk else "\n")
        *whole, rest = chunk.split(end)
        for line in whole:
            yield "".join([*pending, line, "\n"])
            pending = []
        pending.append(rest)
    if last := "".join(pending):
        yield last
