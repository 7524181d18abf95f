"""Files to documents, one at a time, so that memory stays small however large the files are.

Formats: .txt and .md (plain text), .jsonl, tables (.csv, .tsv, workbooks) with a header, .parquet, .arrow and
.feather, and .gz, .bz2 and .xz of each; one file, a folder of them (read in sorted order; hidden, README and
LICENSE files are left out), or hf://owner/name on the hub of data sets (see `malmoi.data.arrow`).

A plain text file is one document. One longer than a few MiB comes in pieces of about 1 MiB, cut at a blank
line or a line end, and the pieces joined are the file: a book is not chopped into isolated paragraphs. Keep
documents apart by a file each, or by a row each of the other formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from malmoi.core.errors import UserError
from malmoi.core.nouns import Finding, Report
from malmoi.data import arrow, opening
from malmoi.data.json_rows import read_json
from malmoi.data.opening import CUT, DocumentRow, Errors, How, Record, chunks, extension, open_bytes, short
from malmoi.data.table_rows import TABLE_READERS
from malmoi.util.files import DEMO_MARK, DENIED, RUN_RECORD, check_readable

Part = Literal["train", "valid"]
T = TypeVar("T")

FEW_DOCUMENTS = 20  # below this, whole documents are too coarse to hold out
_NO_DATA = re.compile("(?i)(readme|licen[sc]e)[.]|.*[.]dropped[.]jsonl?$")  # the last: what cleaning dropped
HASHED_DOCUMENTS = 10_000  # enough to place the hash below which a document is held out


def raise_errors(finding: Finding) -> None:
    """The usual `Report`: the first error stops the reading, warnings are passed over."""
    if finding.level == "error":
        raise UserError(finding.message, where=finding.where)


def _read_text(path: Path, how: How) -> Iterator[DocumentRow]:
    pending, line = "", 1
    for chunk in chunks(path, how):
        if len(pending) >= opening.PIECE:
            cut = line_end(pending, len(pending))
            yield DocumentRow(pending[:cut], f"{path}:{line}")
            line += pending.count("\n", 0, cut)
            pending = pending[cut:]
        pending += chunk
    if pending.strip() or line > 1:  # the last piece of a text may be white space, the only one not
        yield DocumentRow(pending, f"{path}:{line}")
    elif pending:
        how.report(Finding("warning", str(path), "holds nothing but white space; skipped"))


def line_end(text: str, limit: int) -> int:
    """Where to cut `text`: after the last blank line, else line, in the half before `limit`, else there."""
    for end in ("\n\n", "\n"):
        found = text.rfind(end, limit // 2, limit)
        if found >= 0:
            return found + len(end)
    return limit


def _read_arrow(path: Path, how: How) -> Iterator[Record]:
    number = 0
    try:
        with open_bytes(path) as file:
            for number, values in enumerate(arrow.read_table(file, how.field), 1):
                yield Record(values, f"{path}:{number}")
    except arrow.NoColumn as error:
        how.missing(error.names, str(path))
    except arrow.Unreadable as error:
        message = f"not a readable {extension(path)[1:]} file ({short(error)}); write it again"
        how.error(f"{path}:{number + 1}", message)


RECORD_READERS: dict[str, Callable[[Path, How], Iterator[Record]]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines"), read_json),
    **TABLE_READERS,
    **dict.fromkeys(arrow.EXTENSIONS, _read_arrow),
}
TEXT_EXTENSIONS = (".txt", ".md")
EXTENSIONS = (*TEXT_EXTENSIONS, *RECORD_READERS)


def find_files(path: Path, extensions: Sequence[str] = EXTENSIONS) -> list[Path]:
    """The readable files of a folder, sorted, or the one file. Raises UserError where there is none.

    Folders inside it that malmoi made (of runs and demos) are left out.
    """
    path = arrow.local(path)
    known = f"known: {', '.join(extensions)}, and .gz, .bz2 and .xz of each"
    check_readable(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a text file or a folder of them")
    if not path.is_dir():
        if extension(path) not in extensions:
            raise UserError(f'{path}: the extension "{extension(path)}" is not a text format; {known}')
        return [path]
    found = sorted(path.rglob("*"))
    for folder in (it for it in found if it.is_dir()):
        check_readable(folder)  # else the files in it would be left out in silence
    made = {file.parent for file in found if file.name in (RUN_RECORD, DEMO_MARK)} - {path}
    files = [
        file
        for file in found
        if _is_text(file.relative_to(path), extensions)
        and not arrow.is_bookkeeping(file)
        and made.isdisjoint(file.parents)
        and file.is_file()
    ]
    if not files:
        raise UserError(f"{path} holds no text file; {known}")
    return files


def _is_text(inside: Path, extensions: Sequence[str]) -> bool:
    hidden = any(part.startswith(".") for part in inside.parts)
    return extension(inside) in extensions and not hidden and not _NO_DATA.match(inside.name)


def read_rows(
    files: Sequence[Path], *, errors: Errors | None, field: str, report: Report
) -> Iterator[DocumentRow]:
    """The documents of `files` in order, each with its place; what is wrong goes to `report`."""
    how = How(errors, field, report)
    return read_each(files, lambda file: _rows(file, how), report)


def _rows(file: Path, how: How) -> Iterator[DocumentRow]:
    if extension(file) in TEXT_EXTENSIONS:
        return (yield from _read_text(file, how))
    for values, where in RECORD_READERS[extension(file)](file, how):
        if how.field in values:
            yield from how.row(values[how.field], where)
        else:
            how.missing(values, where)


def read_each(files: Iterable[Path], read: Callable[[Path], Iterator[T]], report: Report) -> Iterator[T]:
    """What `read` finds in each of `files`; one that cannot be read goes to `report`."""
    for file in files:
        try:
            yield from read(file)
        except PermissionError:
            report(Finding("error", str(file), f"{DENIED}; ask its owner, or change its permissions"))
        except CUT as error:
            report(
                Finding(
                    "error",
                    str(file),
                    f"cannot be read: it is cut or damaged ({short(error)}); fetch it again",
                )
            )
        except OSError as error:
            report(Finding("error", str(file), f"cannot be read ({error})"))
        except arrow.Unreadable as error:
            report(Finding("error", str(file), str(error)))


def read_documents(path: Path, *, errors: Errors = "strict", field: str = "text") -> Iterator[str]:
    """Yield the documents of a file or folder (see the top of this module for formats and order).

    `field` names the column or key of the row formats. Rows with an empty text are skipped. Raises UserError
    for a missing path, an unknown format, bytes that are not UTF-8 (unless `errors="replace"`), a broken row,
    or no text at all.
    """
    return _texts(read_rows(find_files(path), errors=errors, field=field, report=raise_errors), path)


def _texts(rows: Iterable[DocumentRow], path: Path) -> Iterator[str]:
    row = None
    for row in rows:
        yield row.text
    if row is None:
        raise UserError(f"{path} is empty; give a file with text in it")


def document_hash(text: str) -> int:
    """64 bits that differ between documents, the same on every machine."""
    return int.from_bytes(blake2b(text.strip().encode(), digest_size=8).digest(), "big")


HoldOut = Callable[[Iterable[DocumentRow], Part], Iterator[DocumentRow]]  # the rows of one part


def _by_hash(threshold: int, rows: Iterable[DocumentRow], part: Part) -> Iterator[DocumentRow]:
    """Documents whose hash is at most `threshold` are for validation, so equal ones stay on one side."""
    return (row for row in rows if (document_hash(row.text) <= threshold) == (part == "valid"))


def _by_place(document: int, offset: int, rows: Iterable[DocumentRow], part: Part) -> Iterator[DocumentRow]:
    """The text from character `offset` of document number `document` on is for validation."""
    for number, row in enumerate(rows):
        cut = offset if number == document else (number < document) * len(row.text)
        text = row.text[:cut] if part == "train" else row.text[cut:]
        if text:
            yield DocumentRow(text, row.where)
        elif part == "train":
            return


@dataclass(frozen=True)
class Corpus:
    """Documents for training and for validation, never the same one in both. Each call reads anew.

    `note` says in one line how they were split; `files` are all that is read.
    """

    path: Path
    train_files: tuple[Path, ...]
    valid_files: tuple[Path, ...]  # the same as train_files where a part of them is held out
    note: str
    errors: Errors = "strict"
    field: str = "text"
    hold_out: HoldOut | None = None

    @property
    def files(self) -> dict[str, Path]:
        """Every file that is read, by its place in the corpus, or by its path where it lies outside."""
        root = self.path if self.path.is_dir() else self.path.parent
        return {
            str(file.relative_to(root) if file.is_relative_to(root) else file): file
            for file in self.train_files + self.valid_files
        }

    def rows(self, part: Part, report: Report = raise_errors) -> Iterator[DocumentRow]:
        """The documents of one part with their places."""
        files = self.train_files if part == "train" else self.valid_files
        rows = read_rows(files, errors=self.errors, field=self.field, report=report)
        return self.hold_out(rows, part) if self.hold_out else rows

    def train(self) -> Iterator[str]:
        """Training documents, streamed. Raises UserError as `read_documents` does."""
        return _texts(self.rows("train"), self.path)

    def valid(self) -> Iterator[str]:
        """Validation documents, streamed. Raises UserError as `read_documents` does."""
        return _texts(self.rows("valid"), self.valid_files[0] if len(self.valid_files) == 1 else self.path)


def open_corpus(
    path: Path, *, valid: Path | None = None, errors: Errors = "strict", field: str = "text",
    hold_out: float = 0.1, report: Report = raise_errors,
) -> Corpus:  # fmt: skip
    """Find the training and the validation text of `path`.

    An explicit `valid` wins. Else files or folders named train*, valid* (validation*, val*, dev*) are used as
    such, and test* is left alone. Else the fraction `hold_out` is held out: of the documents, chosen by their
    hash, or, with fewer than 20 or in one plain text file, the end of the text, cut at a line end. Raises
    UserError as `read_documents` does and where nothing is left to train or to validate on.
    """
    path = arrow.local(path)
    roles: dict[str, list[Path]] = {"train": [], "valid": [], "test": [], "": []}
    for file in find_files(path):
        roles[role_of(file.relative_to(path) if path.is_dir() else Path())].append(file)
    train_files = roles["train"] or roles[""]
    valid_files = roles["valid"] if valid is None else find_files(valid)
    used = {file.resolve() for file in valid_files}
    train_files = [file for file in train_files if file.resolve() not in used]
    if not train_files:
        raise UserError(f"{path} has no file to train on, validation and test files apart; add one")
    make = partial(Corpus, path, tuple(train_files), errors=errors, field=field)
    left = len(roles[""]) if roles["train"] else 0
    aside = f"; left out, as not named train*: {left} of the files" if left else ""
    if valid_files:
        names = valid or ", ".join(file.name for file in valid_files)
        return make(tuple(valid_files), f"validation on {names}{aside}")
    held, note = _hold_out(
        train_files, hold_out, partial(read_rows, train_files, errors=errors, field=field, report=report)
    )
    return make(tuple(train_files), note + aside, hold_out=held)


def role_of(inside: Path) -> str:
    """The split that a file or folder name says: train, valid, test, or "" for none."""
    for name in inside.parts:
        found = re.match(r"(?i)(train|valid|val|dev|test)(?:ing|ation)?(?=[-_.\d]|$)", name)
        if found:
            word = found[1].lower()
            return "valid" if word in ("val", "dev") else word
    return ""


def _hold_out(
    files: Sequence[Path], fraction: float, read: Callable[[], Iterator[DocumentRow]]
) -> tuple[HoldOut, str]:
    one_text = len(files) == 1 and extension(files[0]) in TEXT_EXTENSIONS
    if not one_text:
        hashes = sorted({document_hash(row.text) for row in islice(read(), HASHED_DOCUMENTS)})
        if len(hashes) >= FEW_DOCUMENTS:
            threshold = hashes[max(1, round(fraction * len(hashes))) - 1]
            note = f"{fraction:.0%} of the documents held out for validation, by hash"
            return partial(_by_hash, threshold), note
    return _end(files, fraction, read), f"about the last {fraction:.0%} of the text held out for validation"


def _end(files: Sequence[Path], fraction: float, read: Callable[[], Iterator[DocumentRow]]) -> HoldOut:
    lengths = [len(row.text) for row in read()]
    left = round(sum(lengths) * (1 - fraction))
    if not sum(lengths):
        raise UserError(f"{files[0]} holds no text; give a file with text in it")
    if not 0 < left < sum(lengths):
        raise UserError(
            f"{files[0]} holds too little text to hold a part out; give more, or a validation file"
        )
    document = 0
    while left > lengths[document]:
        left -= lengths[document]
        document += 1
    text = next(islice(read(), document, None)).text
    near = max(0, left - sum(lengths) // 20)  # a cut further back would hold out much more than was asked
    if cut := text.rfind("\n", near, left) + 1:
        return partial(_by_place, document, cut)
    if near == 0 and document > 0:
        return partial(_by_place, document, 0)
    return partial(_by_place, document, text.rfind(" ", near, left) + 1 or left)
