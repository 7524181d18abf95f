"""Turns and pairs of answers as people write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malmoi.core.nouns import Finding, Message
from malmoi.data.conversations import read_conversations, read_preferences

ASKED, SAID = Message("user", "뭐 해?"), Message("assistant", "책을 읽어요.")
WORSE = Message("assistant", "몰라요.")


def write(folder: Path, row: Any) -> Path:
    (folder / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    return folder / "a.jsonl"


def conversation(folder: Path, row: Any) -> tuple[tuple[Message, ...], list[str]]:
    findings: list[Finding] = []
    (found,) = read_conversations(write(folder, row), findings.append)
    return found.messages, [one.message for one in findings if one.level != "read"]


@pytest.mark.parametrize(
    "row",
    [
        {
            "conversations": [
                {"from": "User", "value": "뭐 해?"},
                {"from": "chatgpt", "value": "책을 읽어요."},
            ]
        },
        {"messages": [{"role": "human", "content": "뭐 해?"}, {"role": "bot", "content": "책을 읽어요."}]},
        {"messages": [{"role": "USER", "content": "뭐 해?"}, {"role": "model", "content": "책을 읽어요."}]},
        {"dialogue": [{"speaker": "user", "text": "뭐 해?"}, {"speaker": "ai", "text": "책을 읽어요."}]},
        {"messages": [{"user": "뭐 해?"}, {"assistant": "책을 읽어요."}]},
        {"messages": [{"user": "뭐 해?", "assistant": "책을 읽어요."}]},
        {"conversation": ["뭐 해?", "책을 읽어요."]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "뭐 "}, {"type": "text", "text": "해?"}],
                },
                {"role": "assistant", "content": ["책을 읽어요."]},
            ]
        },
        {"question": "뭐 해?", "answer": "책을 읽어요."},
        {"user": "뭐 해?", "assistant": "책을 읽어요."},
        {"instruction": "뭐 해?", "context": "", "response": "책을 읽어요."},
        {"Query": "뭐 해?", "Response": "책을 읽어요."},
        {"input": "뭐 해?", "output": "책을 읽어요."},
        {"질문": "뭐 해?", "답변": "책을 읽어요."},
    ],
)
def test_every_form_is_the_same_conversation(row: Any, tmp_path: Path) -> None:
    assert conversation(tmp_path, row) == ((ASKED, SAID), [])


def turns(*messages: Message) -> dict[str, Any]:
    return {"messages": [{"role": one.role, "content": one.content} for one in messages]}


def test_a_greeting_is_left_out(tmp_path: Path) -> None:
    system = Message("system", "Be brief.")
    found, notes = conversation(tmp_path, turns(system, Message("assistant", "Hello!"), ASKED, SAID))
    assert found == (system, ASKED, SAID)
    assert notes == ["the assistant speaks first; that is left out"]


def test_messages_of_one_side_are_joined(tmp_path: Path) -> None:
    found, notes = conversation(
        tmp_path, turns(ASKED, Message("user", "응?"), SAID, Message("assistant", "넵"))
    )
    assert found == (Message("user", "뭐 해?\n\n응?"), Message("assistant", "책을 읽어요.\n\n넵"))
    assert notes == ["messages of one side that follow each other are joined"]


def test_a_picture_is_no_text(tmp_path: Path) -> None:
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}
    findings: list[Finding] = []
    path = write(tmp_path, {"messages": [picture, {"role": "assistant", "content": "a"}]})
    assert read_conversations(path, findings.append) == []
    assert "a part that is no text (image_url)" in findings[0].message


_CONTENT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), min_size=1).filter(
    lambda text: text.strip() != ""
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=_CONTENT, said=_CONTENT)
def test_content_stays_as_it_is(asked: str, said: str, tmp_path: Path) -> None:
    """The indentation of code, and blank lines at its end, are a part of it."""
    messages = (Message("user", f"  {asked}"), Message("assistant", f"    {said}\n"))
    assert conversation(tmp_path, turns(*messages))[0] == messages
    exchange = {"instruction": messages[0].content, "output": messages[1].content}
    assert conversation(tmp_path, exchange)[0] == messages


# ---- preferences

ONE, OTHER = ({"role": it.role, "content": it.content} for it in (SAID, WORSE))
GPT, GPT_WORSE = ({"from": "gpt", "value": it.content} for it in (SAID, WORSE))
TEXTS = {"chosen": SAID.content, "rejected": WORSE.content}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "뭐 해?", "chosen": ONE, "rejected": OTHER},
        {"prompt": "뭐 해?", "chosen": [ONE], "rejected": [OTHER]},
        {"question": "뭐 해?", **TEXTS},
        {"instruction": "뭐 해?", "input": "", **TEXTS},
        {"Prompt": "뭐 해?", "Chosen": SAID.content, "Rejected": WORSE.content},
        {"input": "뭐 해?", **TEXTS},
        {"conversations": [{"from": "human", "value": "뭐 해?"}], "chosen": GPT, "rejected": GPT_WORSE},
        {
            "input": {"messages": [{"role": "user", "content": "뭐 해?"}], "tools": []},
            "preferred_output": [ONE],
            "non_preferred_output": [OTHER],
        },
        {
            "chosen": "\n\nHuman: 뭐 해?\n\nAssistant: 책을 읽어요.",
            "rejected": "\n\nHuman: 뭐 해?\n\nAssistant: 몰라요.",
        },
        {"prompt": "\n\nHuman: 뭐 해?\n\nAssistant:", **TEXTS},
        {"prompt": "뭐 해?", "response_chosen": SAID.content, "response_rejected": WORSE.content},
    ],
)
def test_every_form_is_the_same_preference(row: Any, tmp_path: Path) -> None:
    (found,) = read_preferences(write(tmp_path, row), lambda _: None)
    assert (found.chosen, found.rejected) == ((ASKED, SAID), (ASKED, WORSE))


def test_the_input_stands_below_the_instruction_and_turns_in_order(tmp_path: Path) -> None:
    (found,) = read_preferences(write(tmp_path, {"instruction": "a", "input": "b", **TEXTS}), lambda _: None)
    assert found.chosen[0].content == "a\n\nb"
    said = "\n\nHuman: a\n\nAssistant: b\n\nb2\n\nHuman: c\n\nAssistant: "
    (found,) = read_preferences(
        write(tmp_path, {"chosen": f"{said}d", "rejected": f"{said}e"}), lambda _: None
    )
    assert [one.content for one in found.chosen] == ["a", "b\n\nb2", "c", "d"]
