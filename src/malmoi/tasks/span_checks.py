"""Spans of a text that no method can find: with white space at an end, inside a word, in other units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from malmoi.core.nouns import BadRow, Entity, Finding, Report
from malmoi.data.characters import in_other_units, invisible
from malmoi.util.scripts import MARKS, SPACELESS

# Hangul: a particle follows its noun without a space. Digits beside letters ("5kg") are parts of their own.
_LETTER = rf"(?![{SPACELESS}가-힣])[^\W\d_]"
_WITHIN = re.compile(rf"(?:{_LETTER}|[{MARKS}]){_LETTER}|\d\d|.[{MARKS}]")


def is_within_word(text: str, at: int) -> bool:
    """Whether `at` lies between two letters, or two digits, of one word."""
    return 0 < at < len(text) and _WITHIN.match(text, at - 1) is not None


def checked_spans(text: str, spans: Sequence[Entity], where: str, report: Report) -> tuple[Entity, ...]:
    """The spans less the white space at their ends. One that begins or ends inside a word, or counts other
    units than characters, is reported as it is. Raises BadRow for one that is white space only."""
    return tuple(_checked(text, one, where, report) for one in spans)


def _checked(text: str, one: Entity, where: str, report: Report) -> Entity:
    named = f"{one.label} from {one.start} to {one.end}"
    if hint := in_words(text, one) if _is_odd(text, one.start, one.end) else "":
        report(Finding("warning", where, f"{named} is {text[one.start : one.end]!r}{hint}"))
        return one
    trimmed = _trimmed(text, one)
    if trimmed.start >= trimmed.end:
        raise BadRow(f"{named} is white space only", where)
    if trimmed != one:
        said = text[one.start : one.end]
        report(Finding("warning", where, f"{named} begins or ends in white space: {said!r}; trimmed"))
    if is_within_word(text, trimmed.start) or is_within_word(text, trimmed.end):
        said = text[trimmed.start : trimmed.end]
        message = f"{named} begins or ends inside a word: {said!r}; most methods find whole words only"
        report(Finding("warning", where, message))
    return trimmed


def _is_odd(text: str, start: int, end: int) -> bool:
    said = text[start:end]
    return said != said.strip() or is_within_word(text, start) or is_within_word(text, end)


def in_words(text: str, one: Entity) -> str:
    """The end of a line about an odd span: what it is in units in which it is whole words; '' for none."""
    for name, (start, end) in in_other_units(text, one.start, one.end).items():
        if not _is_odd(text, start, end):
            return f"; counted in {name}, it is {text[start:end]!r}; count characters"
    return ""


def _trimmed(text: str, one: Entity) -> Entity:
    start, end = one.start, one.end
    while start < end and (text[start].isspace() or invisible(text[start])):
        start += 1
    while start < end and (text[end - 1].isspace() or invisible(text[end - 1])):
        end -= 1
    return replace(one, start=start, end=end)
