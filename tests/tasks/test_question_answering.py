from __future__ import annotations

import json
from pathlib import Path

import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Example, Finding, Question
from malmoi.tasks.question_answering import QuestionAnswering

CONTEXT = "민수는 2019년에 부산에서 배를 샀다. 배는 파랗다."
QUESTION = "민수는 어디에서 배를 샀나?"


def read(path: Path, value: object) -> tuple[list[Example[Question, Answer]], list[Finding]]:
    rows = value if isinstance(value, list) else [value]
    text = json.dumps(value) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.write_text(text, encoding="utf-8")
    findings: list[Finding] = []
    return QuestionAnswering().read(path, findings.append), findings


def squad(*asked: dict[str, object]) -> dict[str, object]:
    return {
        "version": "v2.0",
        "data": [{"title": "배", "paragraphs": [{"context": CONTEXT, "qas": list(asked)}]}],
    }


def test_squad_json_less_what_has_no_answer(tmp_path: Path) -> None:
    answers = [{"text": "부산", "answer_start": 11}, {"text": "부산에서", "answer_start": 11}]
    first = {"id": "1", "question": QUESTION, "answers": [*answers, answers[0]]}
    second = {"id": "2", "question": "누가?", "answers": [], "is_impossible": True}
    (found,), findings = read(tmp_path / "a.json", squad(first, second))
    assert found.input == Question(QUESTION, CONTEXT)
    assert found.references == (Answer("부산", 11), Answer("부산에서", 11))
    assert found.source == f"{tmp_path / 'a.json'}:1 (1)"
    assert [finding.level for finding in findings] == ["note"]


@pytest.mark.parametrize(
    "answers",
    [
        {"answers": [{"text": "부산", "answer_start": 11}]},
        {"answers": {"text": ["부산"], "answer_start": [11]}},
        {"answers": ["부산"]},
        {"answers": "부산"},
        {"answer": "부산", "answer_start": 11},
        {"answer": {"text": "부산", "answer_start": 11}},
    ],
)
def test_rows_spell_answers_in_many_ways(answers: dict[str, object], tmp_path: Path) -> None:
    (found,), findings = read(tmp_path / "a.jsonl", {"question": QUESTION, "context": CONTEXT, **answers})
    assert found.references == (Answer("부산", 11),)
    assert findings == []


def test_a_wrong_start_is_mended_at_the_nearest_place(tmp_path: Path) -> None:
    row = {"question": "무엇?", "context": CONTEXT, "answers": [{"text": "배", "answer_start": 25}]}
    (found,), findings = read(tmp_path / "a.jsonl", row)
    assert found.target == Answer("배", CONTEXT.rindex("배"))
    assert [(finding.level, finding.where) for finding in findings] == [
        ("warning", f"{tmp_path / 'a.jsonl'}:1")
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": ["서울"]}, "'서울' is not in the context"),
        ({"answers": [{"text": "부산", "answer_start": "eleven"}]}, "whole number"),
        ({"answers": [{"answer_start": 11}]}, "must have a text"),
        ({"answers": 7}, "must have a text"),
        ({"question": ""}, "must be a text"),
        ({"context": None}, '"context" is empty'),
        ({"id": 5}, "the id 5 stands at"),
    ],
)
def test_bad_rows_are_reported(change: dict[str, object], message: str, tmp_path: Path) -> None:
    row = {"id": 5, "question": QUESTION, "context": CONTEXT, "answers": ["부산"]}
    found, findings = read(tmp_path / "a.jsonl", [row, row | {"id": 6} | change])
    assert len(found) == 1
    assert findings[0].where == f"{tmp_path / 'a.jsonl'}:2"
    assert message in findings[0].message


def test_an_id_stands_once_in_an_article(tmp_path: Path) -> None:
    asked = {"id": "1", "question": QUESTION, "answers": ["부산"]}
    found, findings = read(tmp_path / "a.json", squad(asked, asked))
    assert len(found) == 1
    assert "the id '1' stands at" in findings[0].message


def test_a_broken_article_is_reported(tmp_path: Path) -> None:
    found, findings = read(tmp_path / "a.json", {"data": [{"paragraphs": [{"qas": []}]}, {"paragraphs": 3}]})
    assert found == []
    assert ["SQuAD's form" in finding.message for finding in findings] == [True]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("부산", Answer("부산", 11)),
        (' "부산".\nBecause', Answer("부산", 11)),
        ("서울", Answer("서울")),
        ("  ", None),
        ("2019년에 부산", Answer("2019년에 부산", 4)),
    ],
)
def test_a_reply_is_found_in_the_context(reply: str, answer: Answer | None) -> None:
    assert QuestionAnswering().parse(reply, Question(QUESTION, CONTEXT)) == answer


def test_case_is_taken_from_the_context() -> None:
    value = Question("Who?", "Then Mina Park came.")
    assert QuestionAnswering().parse("mina park.", value) == Answer("Mina Park", 5)


def test_inputs_are_objects_and_share_a_group_by_context() -> None:
    task = QuestionAnswering()
    value = Question(QUESTION, CONTEXT)
    assert task.input_from(task.input_json(value)) == value
    assert task.group(value) == task.group(Question("언제?", CONTEXT))
    for wrong in ("text", {"question": "a"}, None, []):
        with pytest.raises(UserError, match="question-answering takes"):
            task.input_from(wrong)


def test_a_table_has_its_numbers_as_text_and_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "asked.csv"
    rows = [
        "id,question,context,answer,answer_start",
        ",Who?,Mina sang.,Mina,0",
        ",누가?,어제 민아가 노래했다.,민아,",
    ]
    path.write_text("\n".join(rows), encoding="utf-8")
    found = QuestionAnswering().load(path)
    assert [example.target for example in found] == [Answer("Mina", 0), Answer("민아", 3)]
