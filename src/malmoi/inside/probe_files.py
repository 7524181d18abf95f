"""Files of questions that others publish: minimal pairs, multiple choice, cloze. JSON lines or tables.

The field names are those of BLiMP (Warstadt et al. 2020), of ARC, HellaSwag and MMLU as they are published,
and of LAMBADA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from malmoi.core.errors import UserError
from malmoi.core.nouns import Finding
from malmoi.data.labelled import read_records
from malmoi.world.minimal_pairs import MinimalPair

T = TypeVar("T")

PROMPTS = ("context", "question", "ctx", "query", "prompt", "text")
ANSWERS = ("answer", "gold", "label", "answerKey", "target")
GROUPS = ("group", "UID", "phenomenon", "linguistics_term", "subject", "category")


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """A prompt and its possible continuations; `choices[answer]` is right."""

    prompt: str
    choices: tuple[str, ...]
    answer: int
    group: str = ""


@dataclass(frozen=True, slots=True)
class Cloze:
    """A text less its last word, and that word with the space before it."""

    prompt: str
    word: str


class Wrong(Exception):
    """What is wrong with a row."""


def read_pairs(path: Path) -> list[MinimalPair]:
    """{"sentence_good", "sentence_bad"} rows; "group" (or BLiMP's "UID") names what they test."""
    return _read(path, _pair)


def read_choices(path: Path) -> list[MultipleChoice]:
    """{"question" or "context", "choices", "answer"} rows.

    choices: a list, or {"text": [...], "label": [...]}. answer: the number of the right one (from 0), its
    letter or label, or the choice itself.
    """
    return _read(path, _choice)


def read_cloze(path: Path) -> list[Cloze]:
    """{"text"} rows, whose last word is what the model must find."""
    return _read(path, _cloze)


def _read(path: Path, make: Callable[[Mapping[str, Any]], T]) -> list[T]:
    """Raises UserError with the place of the first row that is wrong, or where there is none."""
    found: list[T] = []
    for values, where in read_records(path, _raise):
        try:
            found.append(make(values))
        except Wrong as error:
            raise UserError(f"{where}: {error}") from None
    if not found:
        raise UserError(f"{path} holds no row; give a file with questions in it")
    return found


def _raise(finding: Finding) -> None:
    if finding.level == "error":
        raise UserError(f"{finding.where}: {finding.message}")


def _pair(row: Mapping[str, Any]) -> MinimalPair:
    good, bad = (_text(row, (f"sentence_{name}", name)) for name in ("good", "bad"))
    if good == bad:
        raise Wrong("both sentences are the same; one of them must be wrong")
    return MinimalPair(good, bad, _group(row))


def _choice(row: Mapping[str, Any]) -> MultipleChoice:
    given = _first(row, ("choices", "endings", "options"))
    texts = given.get("text") if isinstance(given, dict) else given
    labels = given.get("label") if isinstance(given, dict) else None
    choices = tuple(texts) if isinstance(texts, list) else ()
    labels = labels if isinstance(labels, list) else []
    if len(choices) < 2 or not all(isinstance(text, str) and text.strip() for text in choices):
        raise Wrong('"choices" must be a list of two or more texts')
    answer = _answer(_first(row, ANSWERS), choices, labels)
    return MultipleChoice(_text(row, PROMPTS), choices, answer, _group(row))


def _answer(value: Any, choices: Sequence[str], labels: Sequence[Any]) -> int:
    """The number of the right choice, however the file says it."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif value in labels:
        number = labels.index(value)
    elif value in choices:
        number = choices.index(value)
    elif isinstance(value, str) and len(value.strip()) == 1 and value.strip().isalpha():
        number = ord(value.strip().upper()) - ord("A")
    else:
        number = int(value) if isinstance(value, str) and value.strip().isdecimal() else -1
    if not 0 <= number < len(choices):
        raise Wrong(f"the answer {value!r} is none of the {len(choices)} choices (numbers begin at 0)")
    return number


def _cloze(row: Mapping[str, Any]) -> Cloze:
    text = _text(row, ("text", "sentence")).strip()
    prompt, space, word = text.rpartition(" ")
    if not space:
        raise Wrong('"text" must be two words or more; the last one is asked for')
    return Cloze(prompt, f" {word}")


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise Wrong(f"no field {' or '.join(names)} among {', '.join(row) or 'no fields'}")


def _text(row: Mapping[str, Any], names: Sequence[str]) -> str:
    value = _first(row, names)
    if not isinstance(value, str) or not value.strip():
        raise Wrong(f'"{next(name for name in names if name in row)}" must be a text that is not empty')
    return value


def _group(row: Mapping[str, Any]) -> str:
    return next((str(row[name]) for name in GROUPS if row.get(name)), "")
