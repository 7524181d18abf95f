from __future__ import annotations

import json
from pathlib import Path

import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example, Finding, Message
from malmoi.tasks.chat import Chat

HELLO, REPLY = Message("user", "안녕"), Message("assistant", "반가워요")
MORE, LAST = Message("user", "날씨는?"), Message("assistant", "맑아요")
OPENAI = {"messages": [{"role": one.role, "content": one.content} for one in (HELLO, REPLY, MORE, LAST)]}
SHAREGPT = {
    "conversations": [
        {"from": "gpt" if one.role == "assistant" else "human", "value": one.content}
        for one in (HELLO, REPLY, MORE, LAST)
    ]
}


def read(path: Path, *rows: object) -> tuple[list[Example[tuple[Message, ...], str]], list[Finding]]:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    findings: list[Finding] = []
    return Chat().read(path, findings.append), findings


@pytest.mark.parametrize("row", [OPENAI, SHAREGPT])
def test_every_turn_of_the_assistant_is_an_example(row: object, tmp_path: Path) -> None:
    found, findings = read(tmp_path / "a.jsonl", row)
    where = f"{tmp_path / 'a.jsonl'}:1"
    assert found == [
        Example((HELLO,), REPLY.content, where),
        Example((HELLO, REPLY, MORE), LAST.content, where),
    ]
    assert findings == []


def test_instructions_are_conversations_of_two_turns(tmp_path: Path) -> None:
    found, _ = read(
        tmp_path / "a.jsonl",
        {"instruction": "더하세요", "input": "2, 3", "output": "5"},
        {"instruction": "Greet", "input": "", "output": "Hi"},
        {"instruction": "Part", "output": "Bye"},
    )
    contents = [(one.input[0].content, one.target) for one in found]
    assert contents == [("더하세요\n\n2, 3", "5"), ("Greet", "Hi"), ("Part", "Bye")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": OPENAI["messages"][:1]}, "no turn of the assistant"),
        ({"messages": []}, "expected a list of messages"),
        ({"messages": "hello"}, "expected a list of messages"),
        ({"messages": [5]}, "expected a message"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "unknown role robot"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "unknown role"),
        ({"messages": [{"role": "user", "content": " "}]}, "an empty one"),
        ({"messages": [{"role": "user", "content": None}]}, "must be a text"),
        ({"instruction": "a", "output": ""}, "must be a text"),
        ({"text": "a"}, 'no "instruction"'),
    ],
)
def test_bad_rows_are_reported(row: object, message: str, tmp_path: Path) -> None:
    found, findings = read(tmp_path / "a.jsonl", OPENAI, row)
    assert len(found) == 2
    assert findings[0].level == "error"
    assert findings[0].where.endswith("a.jsonl:2")
    assert message in findings[0].message


@pytest.mark.parametrize("before", [(), (Message("system", "짧게"),), (Message("system", "짧게"), REPLY)])
def test_an_assistant_that_speaks_first_is_noted(before: tuple[Message, ...], tmp_path: Path) -> None:
    turns = (*before, REPLY, MORE, LAST)
    found, findings = read(tmp_path / "a.jsonl", Chat().input_json(turns))
    assert found == [Example(turns[:-1], LAST.content, f"{tmp_path / 'a.jsonl'}:1")]
    assert [finding.level for finding in findings] == ["note"]


def test_inputs_are_texts_or_messages() -> None:
    task = Chat()
    assert task.input_from("안녕") == (HELLO,)
    assert task.input_from(OPENAI) == (HELLO, REPLY, MORE, LAST)
    assert task.input_from(task.input_json((HELLO, REPLY, MORE))) == (HELLO, REPLY, MORE)
    for wrong in (3, [], {}, {"messages": [{"role": "user"}]}):
        with pytest.raises(UserError, match="chat takes a text or"):
            task.input_from(wrong)


def test_shots_come_before_the_conversation_and_the_system_first() -> None:
    system = Message("system", "Be brief.")
    assert Chat().prompt((system, MORE), [Example((HELLO,), "반가워요")]) == [system, HELLO, REPLY, MORE]


def test_turns_of_one_conversation_are_one_group() -> None:
    task, system = Chat(), Message("system", "짧게")
    assert task.group((HELLO,)) == task.group((HELLO, REPLY, MORE))
    assert task.group((system, HELLO)) == task.group((system, HELLO, REPLY, MORE))
    assert task.group((HELLO,)) != task.group((MORE,))
    assert task.key((HELLO,)) != task.key((HELLO, REPLY, MORE))


def test_repetition_shows() -> None:
    examples = [Example((HELLO,), text) for text in ("잘 가요", "또 봐요")]
    scores = Chat().score(["네 네", "네 네"], examples, [-1.0, -2.0])
    assert scores["distinct_1"].value == 1 / 4
    assert scores["distinct_2"].value == 1 / 4
    assert scores["bits_per_byte"].value > 0
    assert "bits_per_byte" not in Chat().statistics(["", ""], examples)
