"""Names as programs for labelling write them, brought to rows of a text and its spans.

doccano, Label Studio, Prodigy, Rasa, spaCy and the hub's data sets call the same things by other names; a row
of tokens and tags, of one token, or of a whole task of Label Studio becomes a text with spans here.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from malmoi.core.errors import DAMAGE, UserError
from malmoi.core.nouns import BadRow, Entity, Finding, Report
from malmoi.data.arrow import Unreadable
from malmoi.data.labelled import Tagged, attempts
from malmoi.data.opening import How, Record, chunks, lines, named, short
from malmoi.tasks.tagging import are_labels, joint_of, names_of

# what may hold the tokens, the tags, and which sentence a token is of; the likeliest first
TOKENS = ("tokens", "words", "token", "word", "토큰", "단어", "음절")
TAGS = ("tags", "ner_tags", "ner", "tag", "ner_tag", "word_labels", "labels", "bio_tags", "label", "태그")
_TEXTS = ("text", "sentence", "문장", "본문")
_SENTENCES = ("sentence #", "sentence_id", "sentence_idx", "sent_id", "sentence", "문장번호")
# what a span may call its begin, its end and its label
_SPAN = (
    ("start", "start_offset", "startOffset", "begin", "start_char"),
    ("end", "end_offset", "endOffset", "end_char"),
    ("label", "labels", "entity", "entity_group", "type", "tag"),
)
_BRAT = re.compile(r"T\S*\t(\S+) (\d+) (\d+)(?:\t|\s*$)")


def spans_from(value: Any) -> list[Any]:
    """The spans of a cell: a list, its text as JSON or Python, or columns of begins, ends and labels.

    Raises BadRow.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "("):
        value = literal(value)
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, Mapping) and value and all(isinstance(it, list) for it in value.values()):
        value = [dict(zip(value, row, strict=False)) for row in zip(*value.values(), strict=False)]
    if not isinstance(value, list):
        raise BadRow(f'"entities" must be a list, found {short(value)}')
    return value


def literal(text: str) -> Any:
    """The value that a text is in JSON, else in Python; else the text."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def entity_from(value: Any) -> Entity:
    """A span of {"start", "end", "label"} or [start, end, label]. Raises BadRow for anything else."""
    if isinstance(value, Mapping):
        parts = [next((value[name] for name in names if name in value), None) for names in _SPAN]
    else:
        parts = list(value[:3]) if isinstance(value, list | tuple) else []
    match [_plain(part) for part in parts]:
        case [int(start), int(end), str(label)] if label:
            return Entity(start, end, label)
    raise BadRow(
        f'an entity must be {{"start", "end", "label"}} or [start, end, label], found {short(value)}'
    )


def _plain(part: Any) -> Any:
    """Whole numbers without a point, and the only one of a list of labels."""
    if isinstance(part, float) and part.is_integer():
        return int(part)
    return part[0] if isinstance(part, list) and len(part) == 1 else part


def rows_with_spans(rows: Iterable[Record], fields: Mapping[str, str], report: Report) -> Iterator[Record]:
    """Rows of a text and its spans from those of one file; what is such a row already stays as it is.

    fields: what the user calls tokens and tags. What cannot be used goes to `report`.
    """
    source = iter(rows)
    first = next(source, None)
    if first is None:
        return
    usual = {"tokens": TOKENS, "tags": TAGS, "text": _TEXTS}
    names = {role: fields.get(role) or named(first.values, known) for role, known in usual.items()}
    token, all_rows = first.values.get(names["tokens"]), chain([first], source)
    if isinstance(token, str) and isinstance(literal(token), str | int | float) and names["tags"]:
        all_rows = _sentences(all_rows, names["tokens"], names["tags"])
        names |= {"tokens": "tokens", "tags": "tags"}
    try:
        yield from attempts(all_rows, lambda row: _with_spans(row, names, report), report)
    except BadRow as error:  # no column says what belongs together
        report(Finding("error", error.where, str(error)))


def _with_spans(row: Record, names: Mapping[str, str], report: Report) -> Iterator[Record]:
    """The row as one of a text and its spans, where it has the form of another program. Raises BadRow."""
    values = row.values
    if isinstance(values.get("data"), dict) and {"annotations", "completions"} & values.keys():
        return (yield from _label_studio(row, report))
    tokens, tags = (_listed(values.get(names[role])) for role in ("tokens", "tags"))
    text = values.get(names["text"])
    if tokens is None and tags and all(isinstance(it, str) for it in tags) and isinstance(text, str):
        tokens = text.split()  # each word of the sentence has a tag
    if tokens is None or tags is None or any(isinstance(it, dict | list) for it in (*tokens, *tags)):
        yield row
    elif any(isinstance(it, int) for it in tags):
        raise BadRow(f'"{names["tags"]}" holds numbers, of which nothing says the names; write tags as B-PER')
    else:
        others = {name: it for name, it in values.items() if name not in names.values()}
        yield Record(others | _tagged(tokens, tags, row, report), row.where)


def _listed(cell: Any) -> list[Any] | None:
    """The list in a cell, or that its text is; None where there is none."""
    found = literal(cell) if isinstance(cell, str) and cell.startswith("[") else cell
    return list(found) if isinstance(found, list | tuple) else None


def _tagged(tokens: Sequence[Any], tags: Sequence[Any], row: Record, report: Report) -> dict[str, Any]:
    """The text of tokens, and its spans. Raises BadRow where there are not as many tags."""
    if len(tokens) != len(tags):
        raise BadRow(f"there are {len(tokens)} tokens and {len(tags)} tags; each token needs one")
    words, named = [str(token) for token in tokens], ["O" if tag is None else str(tag) for tag in tags]
    found = [Tagged(word, tag, row.where) for word, tag in zip(words, named, strict=True)]
    text, entities = names_of(found, report, joint=joint_of(words), labels=are_labels(named))
    return {"text": text, "entities": [[one.start, one.end, one.label] for one in entities]}


def _sentences(rows: Iterable[Record], token: str, tag: str) -> Iterator[Record]:
    """Rows of one token each as rows of a sentence each: one begins where its number is another one.

    Raises BadRow where no column has such a number.
    """
    words: list[str] = []
    tags: list[str] = []
    where, number = "", None
    column = None
    for row in rows:
        column = column or named(row.values, _SENTENCES)
        if not column:
            known = ", ".join(row.values)
            raise BadRow(f'no "sentence #" among {known} says which tokens are one sentence', row.where)
        said = row.values[column]
        if words and said not in (None, "", number):
            yield Record({"tokens": words, "tags": tags}, where)
            words, tags = [], []
        number = number if said in (None, "") else said
        where = where if words else row.where
        if row.values[token] not in (None, ""):
            words.append(str(row.values[token]))
            tags.append(str(row.values[tag] or "O"))
    if words:
        yield Record({"tokens": words, "tags": tags}, where)


def _label_studio(row: Record, report: Report) -> Iterator[Record]:
    """A task of Label Studio with the spans of its first annotation that was not cancelled, if it has one."""
    values = row.values
    made = values.get("annotations") or values.get("completions") or []
    kept = [it for it in made if isinstance(it, dict) and not it.get("was_cancelled")]
    if not kept:
        return report(Finding("note", row.where, "nobody has labelled it; left out"))
    if len(kept) > 1:
        report(Finding("note", row.where, f"labelled {len(kept)} times; the first counts"))
    found = [it.get("value") for it in kept[0].get("result") or [] if isinstance(it, dict)]
    spans = [it for it in found if isinstance(it, dict) and "labels" in it and "start" in it]
    yield Record(values["data"] | {"entities": spans}, row.where)


# ---- brat and spaCy


def read_brat(file: Path, report: Report) -> Iterator[Record]:
    """The lines of a text with the names that its .ann file says; lines that a name goes across are a row."""
    path = file.with_suffix(".txt")
    if not path.exists():
        return report(Finding("error", str(file), f"{path.name} is not there, the text that it is about"))
    how, start, number = How(None, "", report), 0, 1
    text, names = "".join(chunks(path, how)), list(_brat_names(file, how))
    for end in [found.end() for found in re.finditer(r"\n|\Z", text)]:
        if any(one.start < end < one.end for one in names):
            continue
        piece = text[start:end].rstrip("\r\n")
        if piece.strip():
            spans = [[it.start - start, it.end - start, it.label] for it in names if start <= it.start < end]
            yield Record({"text": piece, "entities": spans}, f"{path}:{number}")
        number += text.count("\n", start, end)
        start = end


def _brat_names(file: Path, how: How) -> Iterator[Entity]:
    for number, line in enumerate(lines(chunks(file, how)), 1):
        if not line.startswith("T"):  # relations, events, attributes and notes
            continue
        found = _BRAT.match(line)
        if found:
            yield Entity(int(found[2]), int(found[3]), found[1])
        else:
            message = f"expected a name in one piece, T1, LABEL START END and its text; found {short(line)!r}"
            how.report(Finding("warning", f"{file}:{number}", f"{message}; left out"))


def read_spacy(file: Path) -> Iterator[Record]:
    """The documents of a .spacy file. Raises UserError where spaCy is not installed."""
    try:
        import spacy  # pyright: ignore[reportMissingImports]
        from spacy.tokens import DocBin  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"{file} needs the library spacy; install it with: pip install 'malmoi[spacy]'"
        ) from None
    try:
        documents = list(DocBin().from_disk(file).get_docs(spacy.blank("xx").vocab))
    except DAMAGE as error:
        raise Unreadable(f"is no readable .spacy file ({short(error)}); write it again") from None
    for number, found in enumerate(documents, 1):
        spans = [[it.start_char, it.end_char, it.label_] for it in found.ents]
        yield Record({"text": found.text, "entities": spans}, f"{file}:{number}")
