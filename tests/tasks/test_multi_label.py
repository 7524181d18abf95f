"""Multi-label classification: how a row says it, how a reply is read, how sets are scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from malmoi.compare.verdict import floor_of
from malmoi.core.nouns import Example, Finding
from malmoi.metrics.statistics import balanced_accuracy
from malmoi.tasks import make_task, sampled_tasks
from malmoi.tasks.kinds import usual_labels

TASK = make_task("multi-label")
LABEL = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=6).map(str.strip)
LABELS = st.sets(LABEL.filter(bool), max_size=5).map(lambda found: tuple(sorted(found)))
SETS = st.sets(st.sampled_from("abcd")).map(lambda found: tuple(sorted(found)))


def read(path: Path, text: str) -> tuple[list[Example[str, tuple[str, ...]]], list[Finding]]:
    path.write_text(text, encoding="utf-8")
    findings: list[Finding] = []
    return TASK.read(path, findings.append), findings


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("b|a", ("a", "b")),
        (" b | a |", ("a", "b")),
        ("a|a", ("a",)),
        ("", ()),
        ('"[""b"", ""x|y""]"', ("b", "x|y")),
        ("[]", ()),
        ("none", ("none",)),
    ],
)
def test_a_cell_holds_a_set(cell: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    found, findings = read(tmp_path / "a.csv", f"text,tags\nhello,{cell}\n")
    assert [one.target for one in found] == [labels]
    assert not findings


def test_a_list_holds_a_set(tmp_path: Path) -> None:
    lists = (["b", "a", "b"], [], [3, 3.0, True], "a|b")
    rows = [json.dumps({"text": "hello", "labels": labels}) for labels in lists]
    found, findings = read(tmp_path / "a.jsonl", "\n".join(rows))
    assert [one.target for one in found] == [("a", "b"), (), ("3", "true"), ("a", "b")]
    assert not findings


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, '"labels" is empty (null)'),
        (3, "must be a list or a text such as a|b, found 3"),
        (["a", None], "must be a text or a whole number"),
        ("['a', 'b']", "must be a JSON list or a|b, found ['a', 'b']"),
    ],
)
def test_what_is_no_set_is_reported(labels: object, message: str, tmp_path: Path) -> None:
    found, [finding] = read(tmp_path / "a.jsonl", json.dumps({"text": "hello", "labels": labels}))
    assert not found
    assert message in finding.message


@given(LABELS)
@settings(max_examples=60, deadline=None)
def test_every_set_is_read_back(labels: tuple[str, ...]) -> None:
    """From a reply that says it, whole or cut, whether or not the labels are known."""
    for task in (TASK, TASK.with_labels([*labels, "another"])):
        answer = task.answer(labels, "")
        assert task.parse(answer, "") == labels
        assert task.parse(f"Labels: {answer}.", "") == labels or not labels
        if labels:
            cut = task.parse(answer[:-1], "")
            assert cut is not None
            assert set(cut) <= set(labels)


@given(st.lists(st.text() | st.integers() | st.none(), max_size=4).map(json.dumps) | st.text())
@settings(max_examples=100, deadline=None)
def test_only_known_labels_are_read(reply: str) -> None:
    found = TASK.with_labels(["a", "b c"]).parse(reply, "")
    assert found is None or (set(found) <= {"a", "b c"} and list(found) == sorted(set(found)))


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('Sure: ["a", "z", "B C"]', ("a", "b c")),
        ('["a", "b', ("a",)),
        ("None.", ()),
        ("없음", ()),
        ("[]", ()),
        ("a and b c", ("a", "b c")),
        ("I cannot tell", None),
    ],
)
def test_replies_of_models(reply: str, found: tuple[str, ...] | None) -> None:
    assert TASK.with_labels(["a", "b c"]).parse(reply, "") == found


@pytest.mark.filterwarnings("ignore:F-score is ill-defined")
@given(st.lists(st.tuples(SETS, SETS), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_scikit_learn(pairs: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
    found, true = ([one[at] for one in pairs] for at in (0, 1))
    labels = sorted({label for both in pairs for one in both for label in one})
    rows = [np.array([[label in one for label in labels] for one in sets]) for sets in (true, found)]
    scores = TASK.score(found, [Example("", one) for one in true])
    assert scores["exact_match"].value == pytest.approx(np.mean([a == b for a, b in pairs]))
    if labels:
        assert scores["exact_match"].value == pytest.approx(accuracy_score(*rows))
        for average in ("micro", "macro"):
            expected = f1_score(*rows, average=average)
            assert scores[f"{average}_f1"].value == pytest.approx(expected)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=12))
@pytest.mark.filterwarnings("ignore:y_pred contains classes", "ignore:A single label was found")
@settings(max_examples=40, deadline=None)
def test_balanced_accuracy_is_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    true, found = ([one[at] for one in pairs] for at in (0, 1))
    assert balanced_accuracy(found, true).value == pytest.approx(balanced_accuracy_score(true, found))


@given(st.lists(SETS, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_no_more_frequent_labels_do_better_than_the_floor(targets: list[tuple[str, ...]]) -> None:
    examples = [Example("", target) for target in targets]
    floor = floor_of(TASK, examples, examples).metrics["micro_f1"].value
    *_, every = usual_labels(targets).values()
    by_count = sorted(every, key=lambda label: -sum(label in target for target in targets))
    for count in range(len(by_count) + 1):
        constant = tuple(sorted(by_count[:count]))
        score = TASK.score([constant] * len(targets), examples)["micro_f1"].value
        assert score <= floor + 1e-9


def test_the_sample_worlds_model_is_not_taught_it() -> None:
    assert TASK.name not in sampled_tasks()
    assert len(sampled_tasks()) == 7
