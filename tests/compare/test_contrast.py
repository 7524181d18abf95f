"""Errors side by side and confusion matrices."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from malmoi.compare.comparison import LABELS, OTHER, SHOWN, as_text, confusion, contrasts, label_scores
from malmoi.compare.settings import Material
from malmoi.compare.verdict import MethodRow, judge
from malmoi.core.nouns import Answer, Entity, Example, Question
from malmoi.tasks import make_task


def compared(task_name: str, examples: list[Example], answers: dict[str, list]) -> list:
    """The contrasts of methods with these predictions."""
    task = make_task(task_name)
    material = Material(task, {"train": [], "valid": [], "test": examples}, [], [])
    rows = []
    for name, predictions in answers.items():
        found = task.statistics(predictions, examples)
        metrics = {metric: statistic.metric() for metric, statistic in found.items()}
        rows.append(MethodRow(name, "traditional", "", found, metrics, {"cost_per_1000": 1.0}, predictions))
    return contrasts(judge(rows, task.primary), material)


def test_labels_are_kept_apart_by_equality() -> None:
    examples = [Example(f"우산 {number}", "yes" if number % 2 else "no") for number in range(40)]
    first = [example.target for example in examples[:30]] + [None] * 10
    second = ["yes"] * 40
    (found,) = compared("classification", examples, {"second": second, "first": first})
    assert found.names == ("first", "second")
    assert found.counts == (15, 5)
    assert [len(cases) for cases in found.cases] == [SHOWN, 5]
    assert found.cases[0][0] == ("우산 0", "no", "no", "yes")
    assert found.cases[1][0] == ("우산 31", "yes", "(none)", "yes")


def test_entities_are_right_as_a_whole() -> None:
    text = "Mina flew to Busan"
    both = (Entity(0, 4, "PER"), Entity(13, 18, "LOC"))
    (found,) = compared("ner", [Example(text, both)], {"a": [both], "b": [both[:1]]})
    assert found.counts == (1, 0)
    assert found.cases[0][0][0] == text
    assert "Busan" in found.cases[0][0][2]
    assert "Busan" not in found.cases[0][0][3]


def test_answers_are_right_by_their_text() -> None:
    question = Question("Where is the kettle?", "The kettle is in the hall.")
    example = Example(question, Answer("the hall", 17), others=(Answer("hall", 21),))
    (found,) = compared("question-answering", [example], {"a": [Answer("hall")], "b": [None]})
    assert found.counts == (1, 0)


def test_texts_are_kept_apart_by_the_largest_gaps() -> None:
    examples = [Example(f"sentence {number}", f"문장 번호 {number} 입니다") for number in range(5)]
    targets = [example.target for example in examples]
    better = [*targets[:4], ""]
    worse = ["", targets[1], targets[2][:4], "xyz", targets[4]]
    (found,) = compared("translation", examples, {"better": better, "worse": worse})
    assert found.names == ("better", "worse")
    assert found.counts == (3, 1)
    assert [case[0] for case in found.cases[0]][-1] == "sentence 2"  # the smallest gap
    assert [case[0] for case in found.cases[1]] == ["sentence 4"]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 21)), min_size=1, max_size=60))
def test_confusion_counts_every_example_once(pairs: list[tuple[int, int]]) -> None:
    targets, predictions = [f"l{y}" for y, _ in pairs], [f"l{x}" if x <= 20 else None for _, x in pairs]
    found = confusion(predictions, targets)
    counts = np.array(found.counts)
    assert counts.sum() == len(pairs)
    assert len(found.labels) <= LABELS + 1
    common = Counter(targets)
    for label, row in zip(found.labels, counts, strict=True):
        if label != OTHER:
            assert row.sum() == common[label]
    right = sum(y == x for y, x in zip(targets, predictions, strict=True) if y in found.labels)
    known = [number for number, label in enumerate(found.labels) if label != OTHER]
    assert counts[known, known].sum() == right


def test_json_becomes_words() -> None:
    assert as_text({"start": 0, "end": 4, "label": "PER", "text": "미나"}) == "PER · 미나"
    assert as_text({"messages": [{"role": "user", "content": "안녕"}]}) == "user · 안녕"
    assert (as_text(None), as_text([]), as_text("")) == ("(none)", "(none)", "")


def test_every_label_of_a_set_has_its_f1() -> None:
    examples = [Example(str(at), labels) for at, labels in enumerate([("a", "b"), ("a",), (), ("a",)])]
    material = Material(make_task("multi-label"), {"test": examples}, [], [])
    found = material.task.statistics(answers := [("a",), ("a", "b"), None, ("a",)], examples)
    metrics = {name: one.metric() for name, one in found.items()}
    row = MethodRow("one", "traditional", "", found, metrics, {"cost_per_1000": 1.0}, answers)
    assert label_scores(judge([row], "micro_f1"), material) == [("a", 3, [1.0]), ("b", 1, [0.0])]
