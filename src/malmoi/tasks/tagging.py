"""Tokens and tags to a text and its names, in every scheme and spelling: BIO, IOB1, BILOU, IOBES, BMEWO, IO.

A tag is O, or a letter and a label in either order: B-PER, b_per, PER-B. Where no tag of a file has a letter,
neighbours with one label are one name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from malmoi.core.nouns import BadRow, Entity, Finding, Report
from malmoi.data.labelled import Tagged

# the letters as IOBES has them: last and end, middle and inside, unit, whole and single are the same
_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
OUTSIDE = ("O", "o", "-", "_")
_FIRST = re.compile(r"([BIMELSUWbimelsuw])[-_](.+)")
_LAST = re.compile(r"(.+)[-_]([BIMELSUWbimelsuw])")
_LETTERED = re.compile(r"[A-Za-z][-_]")  # a letter that no scheme has
_TOGETHER = re.compile("[\u3040-\u30ff\u3400-\u9fff]")  # Chinese and Japanese have no spaces between words
ALMOST_ALL = 0.9  # of the tokens: where so many are one character long, tokens are characters


def parts(tag: str) -> tuple[str, str] | None:
    """A tag's letter and label, ("O", "") outside of names, ("", tag) without a letter; None for no tag."""
    if tag in OUTSIDE:
        return "O", ""
    if found := _FIRST.fullmatch(tag):
        return _LETTERS[found[1].upper()], found[2]
    if found := _LAST.fullmatch(tag):
        return _LETTERS[found[2].upper()], found[1]
    return None if not tag or _LETTERED.match(tag) else ("", tag)


def are_labels(tags: Iterable[str]) -> bool:
    """Whether tags are labels without letters, beside O."""
    found = {tag: parts(tag) for tag in set(tags)}
    letters = {it[0] for it in found.values() if it}
    return letters == {"", "O"} and all(found.values())


def joint_of(tokens: Sequence[str]) -> str:
    """What stands between tokens in the text: nothing where they are characters, for one of them is a space
    or almost all are single ones of Chinese or Japanese; else a space."""
    single = sum(len(token) == 1 for token in tokens)
    together = sum(_TOGETHER.match(token) is not None for token in tokens)
    written_together = single >= ALMOST_ALL * len(tokens) and 2 * together > len(tokens) > 1
    return "" if written_together or any(token.isspace() for token in tokens) else " "


def begins_with_b(sentences: Sequence[Sequence[str]]) -> bool:
    """Whether the names of tagged sentences begin with B or S; in IOB1 most begin with I."""
    letters = [it[0] for tags in sentences for tag in ("O", *tags) if (it := parts(tag)) is not None]
    first = Counter(letter for before, letter in pairwise(letters) if before == "O" and letter != "O")
    return first["I"] <= first["B"] + first["S"]


def names_of(
    tokens: Sequence[Tagged], report: Report, *, joint: str = " ", labels: bool = False
) -> tuple[str, tuple[Entity, ...]]:
    """The text of a tagged sentence and its names, read as seqeval's default does.

    A name that begins with I- or E- goes to `report`. labels: tags are labels without letters. Raises BadRow
    for an unknown tag.
    """
    spans: list[Entity] = []
    start, before = 0, ("O", "")
    for token, tag, where, _ in tokens:
        letter, label = _known(tag, where, labels=labels)
        if _begins(letter, label, *before):
            spans.append(Entity(start, start + len(token), label))
            if letter in "IE" and not labels:
                report(Finding("warning", where, f"{tag} goes on with no name; taken as B-{label}"))
        elif letter != "O":
            spans[-1] = Entity(spans[-1].start, start + len(token), label)
        start, before = start + len(token) + len(joint), (letter, label)
    return joint.join(one.token for one in tokens), tuple(spans)


def _known(tag: str, where: str, *, labels: bool) -> tuple[str, str]:
    letter, label = parts(tag) or ("", "")
    if letter:
        return letter, label
    if label and labels:
        return "I", label
    raise BadRow(f"unknown tag {tag!r}; known: O, and B- I- E- S- L- U- M- W- with a label", where)


def _begins(letter: str, label: str, before: str, label_before: str) -> bool:
    """Whether a tag begins a name after the tag before."""
    return letter in "BS" or (letter in "IE" and (before in "OES" or label != label_before))
