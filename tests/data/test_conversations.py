"""Conversations in four formats, and what is wrong with those that are skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from malmoi.core.nouns import Finding, Message
from malmoi.data.conversations import read_conversations

ASKED, TOLD = Message("user", "뭐 해?"), Message("assistant", "책을 읽어요.")


def read(folder: Path, *rows: Any) -> tuple[list[tuple[Message, ...]], list[Finding]]:
    path, findings = folder / "rows.jsonl", []
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return [found.messages for found in read_conversations(path, findings.append)], findings


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [
                {"role": "user", "content": "뭐 해?"},
                {"role": "assistant", "content": "책을 읽어요."},
            ]
        },
        {"conversations": [{"from": "human", "value": "뭐 해?"}, {"from": "gpt", "value": "책을 읽어요."}]},
        {"instruction": "뭐 해?", "input": "", "output": "책을 읽어요."},
        {"prompt": "뭐 해?", "completion": "책을 읽어요."},
        {"prompt": [{"role": "user", "content": "뭐 해?"}], "completion": "책을 읽어요."},
        {"prompt": "뭐 해?", "response": "책을 읽어요."},
    ],
)
def test_every_format_reads_the_same(row: Any, tmp_path: Path) -> None:
    assert read(tmp_path, row) == ([(ASKED, TOLD)], [])


def test_the_input_stands_below_the_instruction(tmp_path: Path) -> None:
    found, _ = read(tmp_path, {"instruction": "Translate.", "input": "빵", "output": "bread"})
    assert found[0][0].content == "Translate.\n\n빵"


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([("user", "a"), ("system", "b"), ("assistant", "c")], "turn 2 is the system's"),
        ([("user", "a"), ("assistant", " ")], "a message must be a text"),
        ([("user", "a")], "the last turn is not the assistant's"),
        ([("robot", "a"), ("assistant", "b")], "unknown role"),
        ([], "expected a list of messages"),
    ],
)
def test_bad_turns_are_skipped_and_listed(turns: list[Any], reason: str, tmp_path: Path) -> None:
    bad = {"messages": [{"role": role, "content": content} for role, content in turns]}
    found, findings = read(tmp_path, {"prompt": "뭐 해?", "completion": "책을 읽어요."}, bad)
    assert found == [(ASKED, TOLD)]
    assert reason in findings[0].message
    assert findings[0].where.endswith("rows.jsonl:2")


def test_a_question_at_the_end_is_left_out(tmp_path: Path) -> None:
    turns = [("user", "뭐 해?"), ("assistant", "책을 읽어요."), ("user", "무슨 책?")]
    found, findings = read(tmp_path, {"messages": [{"role": r, "content": c} for r, c in turns]})
    assert found == [(ASKED, TOLD)]
    assert findings[0].level == "note"
