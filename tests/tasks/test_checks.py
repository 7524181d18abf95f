"""What is wrong across examples: odd labels, constant targets, numbers, repeats."""

from __future__ import annotations

import unicodedata

import pytest

from malmoi.core.nouns import Answer, Entity, Example, Question
from malmoi.data.labelled import by_cause, lines_about
from malmoi.tasks import make_task
from malmoi.tasks.base import Task


def messages(name: str, targets: list[object], inputs: list[str] | None = None) -> list[str]:
    task: Task[object, object] = make_task(name)
    texts = inputs or [f"the bread of day {chr(97 + at)}" for at in range(len(targets))]
    rows = [Example(text, it, f"a:{at}") for at, (text, it) in enumerate(zip(texts, targets, strict=True), 1)]
    return [finding.message for finding in task.check({"train": rows})]


@pytest.mark.parametrize(
    "labels",
    [("1", "1.0"), ("True", "true"), ("bad", "bad\u200b"), ("ＡＢ", "AB"), ("01", "1"),
     ("not sure", "not_sure"),     ("긍정", unicodedata.normalize("NFD", "긍정")), ("Good", "good ", "GOOD")],
)  # fmt: skip
def test_labels_that_look_alike_are_listed_once(labels: tuple[str, ...]) -> None:
    found = [it for it in messages("classification", [*labels, "other"] * 3) if "look alike" in it]
    assert len(found) == 1
    assert found[0].count("(3)") == len(labels)


@pytest.mark.parametrize("labels", ["1 -1", "1 10", "A A-", "+ -", "C C++", "가 각"])
def test_labels_that_differ_are_not(labels: str) -> None:
    assert not [it for it in messages("classification", [*labels.split()] * 3) if "alike" in it]


def test_labels_of_names_and_of_sets_are_looked_at_too() -> None:
    names = [(Entity(0, 3, label),) for label in ("PER", "per") * 3]
    assert any("look alike" in it for it in messages("ner", [*names]))
    assert any("look alike" in it for it in messages("multi-label", [("a", "b"), ("A",)] * 3))


@pytest.mark.parametrize("label", ["nan", "NaN", "null", "None", "N/A", "<NA>", "missing"])
def test_a_label_for_nothing_is_reported(label: str) -> None:
    found = [it for it in messages("classification", [label, "a"] * 4) if "no value" in it]
    assert found == [
        f"the label {label!r} (4 examples) often means no value; drop these rows, or rename the label"
    ]


def test_one_target_for_most_inputs_is_reported() -> None:
    assert any("12 of 12" in it for it in messages("translation", ["same"] * 12))
    assert any("7 of 12" in it for it in messages("summarization", ["same"] * 7 + [*"abcde"]))
    assert not any("same target" in it for it in messages("translation", [*"abcdefghijkl"]))
    rows = [Example(Question(f"q{at}", "c"), Answer("c", 0)) for at in range(12)]
    found = make_task("question-answering").check({"train": rows})
    assert any("right column" in it.message for it in found)


def test_inputs_of_numbers_are_reported() -> None:
    indices = [" ".join(map(str, range(1, 9)))] * 3
    found = messages("ner", [(), (), (Entity(0, 1, "PER"),)], [f"{it} {at}" for at, it in enumerate(indices)])
    assert any("are numbers, '1 2 3 4 5'" in it for it in found)
    assert not any("are numbers" in it for it in messages("classification", ["a", "b"] * 6))


def test_texts_for_nothing_invisible_signs_and_repeats() -> None:
    texts = ["nan", "a\u200bb", "same", "same"]
    found = messages("classification", ["x", "y", "x", "x"], texts)
    assert any("for a missing value" in it for it in found)
    assert any("U+200B (1)" in it for it in found)
    assert any("the same example as a:3" in it for it in found)


def test_one_cause_is_one_line() -> None:
    task = make_task("classification")
    rows = [Example(f"t{at}", ("a", "b")[at % 2], f"a:{at}") for at in range(200)]
    found = task.check({"train": rows, "valid": rows})
    (alike,) = by_cause(found)
    assert len(alike) == 200
    (line,) = lines_about(found, task.name)
    assert "and 199 more like it" in line
