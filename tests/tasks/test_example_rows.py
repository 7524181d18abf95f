from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from malmoi.core.errors import UserError
from malmoi.data.cleaning import Cleaned, clean
from malmoi.data.cleaning_rules import Cleaning
from malmoi.tasks import make_task
from malmoi.tasks.example_rows import check_cleaning, example_sources
from tests.data.test_check import EN, KO
from tests.data.test_cleaning import dropped, rows


def run(task: str, path: Path, out: Path | None, tests: tuple[Path, ...] = (), **asked: Any) -> Cleaned:
    made, cleaning = make_task(task), Cleaning.of(**asked)
    check_cleaning(made, cleaning)
    return clean(example_sources(made, path, tests), cleaning, out)


def write(path: Path, values: list[Any]) -> Path:
    path.write_text(
        "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8"
    )
    return path


def test_conflicts_and_repeats_of_labelled_texts(tmp_path: Path) -> None:
    given = [
        {"id": 1, "text": EN[0], "label": "good"},
        {"id": 2, "text": EN[0], "label": "good"},
        {"id": 3, "text": EN[1].upper(), "label": "good"},
        {"id": 4, "text": EN[1], "label": "bad"},
        {"id": 5, "text": EN[2], "label": "good"},
        {"id": 6, "text": EN[2] + "!", "label": "bad"},  # nearly equal, but of another label
    ]
    path = write(tmp_path / "a.jsonl", given)
    run("classification", path, tmp_path / "out", drop=["conflicts", "exact", "near"])
    assert rows(tmp_path / "out" / "a.jsonl") == [given[0], given[4], given[5]]
    assert dropped(tmp_path / "out") == [(2, "exact"), (3, "conflicts"), (4, "conflicts")]
    found = run("classification", path, None)
    assert (found.dropped["conflicts"], found.dropped["exact"]) == (2, 1)


def test_what_is_a_label_is_not_changed(tmp_path: Path) -> None:
    given = {"text": "call 010-1234-5678\u200b", "label": "010-1234-5678", "more": {"by": ["me@example.com"]}}
    path = write(tmp_path / "a.jsonl", [given])
    run("classification", path, tmp_path / "out", fix=["invisible"], redact=["phone", "email"])
    assert rows(tmp_path / "out" / "a.jsonl") == [
        {"text": "call [phone]", "label": "010-1234-5678", "more": {"by": ["[email]"]}}
    ]


def test_inputs_of_a_test_file_leave_training(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", [{"document": EN[0], "summary": "a"}, {"document": EN[1], "summary": "b"}]
    )
    test = write(tmp_path / "t.jsonl", [{"document": EN[1].lower(), "summary": "another"}])
    run("summarization", path, tmp_path / "out", (test,), drop=["leaks"])
    assert [row["summary"] for row in rows(tmp_path / "out" / "a.jsonl")] == ["a"]


def test_a_conversation_is_one_row(tmp_path: Path) -> None:
    def talk(*turns: str) -> dict[str, Any]:
        return {
            "messages": [
                {"role": ("user", "assistant")[at % 2], "content": it} for at, it in enumerate(turns)
            ]
        }

    given = [
        talk("안녕", "네", KO[0], KO[1]),
        talk("hello", "me@example.com"),
        talk("안녕", "네", KO[0], KO[1]),
    ]
    path = write(tmp_path / "a.jsonl", given)
    run("chat", path, tmp_path / "out", drop=["exact"], redact=["email"])
    assert rows(tmp_path / "out" / "a.jsonl") == [given[0], talk("hello", "[email]")]


def test_tagged_tokens_become_rows_and_their_texts_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("Kim\tB-PER\nleft\tO\n\nKim\tB-PER\nleft\tO\n\nSeoul\tB-LOC\n", encoding="utf-8")
    run("ner", path, tmp_path / "out", drop=["exact"])
    assert [row["text"] for row in rows(tmp_path / "out" / "a.jsonl")] == ["Kim left", "Seoul"]
    for asked in ({"fix": ["nfc"]}, {"redact": ["email"]}):
        with pytest.raises(UserError, match="only `drop` works"):
            run("ner", path, tmp_path / "other", **asked)


def test_questions_of_an_article_are_rows(tmp_path: Path) -> None:
    asked = [
        {
            "id": str(n),
            "question": question,
            "answers": [{"text": "river", "answer_start": EN[0].find("river")}],
        }
        for n, question in enumerate(["what walks?", "what walks?", "and then?"])
    ]
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"data": [{"paragraphs": [{"context": "the river. " + EN[0], "qas": asked}]}]})
    )
    run("question-answering", path, tmp_path / "out", drop=["exact"])
    assert [row["question"] for row in rows(tmp_path / "out" / "a.jsonl")] == ["what walks?", "and then?"]
