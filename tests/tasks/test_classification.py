from __future__ import annotations

import json
from pathlib import Path

import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Entity, Example, Finding
from malmoi.tasks import make_task
from malmoi.tasks.classification import Classification


def read(path: Path, content: str, **fields: str) -> tuple[list[Example[str, str]], list[Finding]]:
    path.write_text(content, encoding="utf-8")
    findings: list[Finding] = []
    return Classification(fields).read(path, findings.append), findings


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    rows = [{"review": "좋다", "label": label} for label in (1, 0, 1.0, True, " good ")]
    found, findings = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert [example.target for example in found] == ["1", "0", "1", "true", "good"]
    assert found[2] == Example("좋다", "1", f"{tmp_path / 'a.jsonl'}:3")
    assert findings == []


def test_fields_are_named_or_usual(tmp_path: Path) -> None:
    found, _ = read(tmp_path / "a.tsv", "sentence\tmood\n눈이 온다\t기쁨\n", label="mood")
    assert [(one.input, one.target) for one in found] == [("눈이 온다", "기쁨")]
    with pytest.raises(UserError, match="did you mean 'label'"):
        Classification({"labels": "mood"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, 'no "label" among text; say which one it is: `fields` label=NAME'),
        ({"text": "", "label": "x"}, "must be a text"),
        ({"text": 5, "label": "x"}, "found 5"),
        ({"text": "a", "label": " "}, "found an empty one"),
        ({"text": "a", "label": 0.5}, "whole number, found 0.5"),
        ({"text": "a", "label": ["x"]}, "must be one label, found ['x']; for several use multi-label"),
        ({"text": "a", "label": None}, '"label" is empty (null)'),
    ],
)
def test_bad_rows_are_skipped_and_reported(row: object, message: str, tmp_path: Path) -> None:
    found, findings = read(tmp_path / "a.jsonl", f'{{"text": "b", "label": "y"}}\n{json.dumps(row)}')
    assert len(found) == 1
    assert findings[0].level == "error"
    assert findings[0].where.endswith("a.jsonl:2")
    assert message in findings[0].message


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("긍정", "긍정"),
        (" negative\n", "negative"),
        ("Label: Negative.", "negative"),
        ("긍정입니다", "긍정"),
        ("very negative", "very negative"),
        ("It is VERY negative", "very negative"),
        ("negative or 긍정", None),
        ("renegatives", None),
        ("", None),
    ],
)
def test_a_label_is_found_in_a_reply(reply: str, label: str | None) -> None:
    task = Classification().with_labels(["긍정", "negative", "very negative"])
    assert task.parse(reply, "글") == label


def test_the_label_set_is_asked_for_in_the_texts_language() -> None:
    task = Classification().with_labels(["기쁨", "슬픔"])
    shots = [Example("문이 열렸다", "기쁨")]
    first, second, last = task.prompt("비가 와서 우산을 폈다", shots)
    assert (first.role, second.role, last.role) == ("user", "assistant", "user")
    assert second.content == "기쁨"
    assert "기쁨, 슬픔" in last.content
    assert "분류" in last.content
    assert "Label" in task.prompt("It {rains} today")[0].content


def test_conflicts_leaks_rare_and_unseen_labels_are_found() -> None:
    task = Classification()
    train = [Example("a", "x", "t:1"), Example("a", "y", "t:2"), Example("b", "x", "t:3")]
    valid = [Example("b", "x", "v:1"), Example("c", "z", "v:2"), Example("d" * 100_001, "x", "v:3")]
    found = {(one.where, one.message) for one in task.check({"train": train, "valid": valid})}
    assert found == {
        ("t:2", "the same input as t:1, another label"),
        ("t:2", "the only training example with the label 'y'"),
        ("v:1", "this valid input is in train too: t:3"),
        ("v:2", "the label 'z' of valid is not in train"),
        ("v:3", "a text of 100,001 characters, much may be cut"),
    }


@pytest.mark.parametrize(
    ("name", "common", "rare"), [("classification", "ham", "spam"), ("multi-label", ("ham",), ("spam",))]
)
def test_where_one_label_is_most_of_all_every_label_counts_the_same(
    name: str, common: object, rare: object
) -> None:
    task = make_task(name)
    assert task.metric == task.primary
    even = [Example(str(at), rare if at < 20 else common) for at in range(100)]
    assert task.for_training(even) == (task, "")
    uneven, why = task.for_training(even[1:])
    assert uneven.metric == "macro_f1"
    assert uneven.with_labels(["ham"]).metric == "macro_f1"
    assert why == (
        f"measured by macro f1: 'ham' is 81% of the labels in training, and {task.primary.replace('_', ' ')} "
        "is high for saying nothing else"
    )
    assert next(iter(uneven.score([common], even[-1:]))) == "macro_f1"
    assert task.for_training([]) == (task, "")


def test_a_task_without_a_balanced_metric_keeps_its_own() -> None:
    task = make_task("ner")
    assert task.for_training([Example("Mina", (Entity(0, 4, "PER"),))] * 9) == (task, "")


def test_a_folder_for_each_label(tmp_path: Path) -> None:
    for name, text in (
        ("train/good/1.txt", "따뜻한 빵\n둘째 줄"), ("train/bad/1.txt", "cold bread"),
        ("train/unsup/1.txt", "?"),
        ("test/good/1.txt", "soup"), ("test/bad/2.txt", "stew"),
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for path in (tmp_path, tmp_path / "train"):
        found = Classification().read(path, lambda _: None)
        assert [(one.input, one.target) for one in found] == [
            ("cold bread", "bad"), ("따뜻한 빵\n둘째 줄", "good")
        ]  # fmt: skip


@pytest.mark.parametrize("names", [("Text", "Label"), ("TEXT", "LABEL"), ("문장", "라벨"), ("리뷰", "감정")])
def test_names_of_columns_in_capitals_and_in_korean(names: tuple[str, str], tmp_path: Path) -> None:
    rows = "".join(f"글 {at},{'good' if at % 2 else 'bad'}\n" for at in range(4))
    (tmp_path / "a.csv").write_text(f"{','.join(names)}\n{rows}", encoding="utf-8")
    found = Classification().read(tmp_path / "a.csv", lambda _: None)
    assert [one.target for one in found] == ["bad", "good", "bad", "good"]
