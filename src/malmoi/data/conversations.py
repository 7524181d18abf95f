"""Conversations in the formats that people have: OpenAI, ShareGPT, Alpaca, prompt and completion.

And preferences: a prompt with two answers, of which one is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmoi.core.nouns import BadRow, Finding, Message, Messages, Report, turns_error
from malmoi.data.labelled import attempts, read_records
from malmoi.data.opening import Record, named, short
from malmoi.data.turn_forms import ROLES, in_turns, usual_preference, usual_turns, with_more

# what the user says, what more, what the assistant says; in the order in which they are looked for
_EXCHANGES = (
    (("instruction", "prompt", "question", "query", "user", "질문", "지시"), ("input", "context"),
     ("output", "completion", "response", "answer", "assistant", "답변", "응답")),
    (("input",), (), ("output", "response")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order, and the "file:line" where they were read."""

    messages: Messages
    source: str = ""


def read_conversations(path: Path, report: Report) -> list[Conversation]:
    """All rows of a file or folder; what cannot be used goes to `report` and is skipped.

    OpenAI's {"messages": [{"role", "content"}]}, ShareGPT's {"conversations": [{"from", "value"}]}, Alpaca's
    {"instruction", "input", "output"}, or {"prompt", "completion"}, each a text or a list of messages.
    """
    rows = read_records(path, report)
    return list(attempts(rows, lambda row: [_conversation(row, report)], report))


def _conversation(row: Record, report: Report) -> Conversation:
    """Raises BadRow where the turns are out of order, or none is the assistant's."""
    messages, notes = in_turns(_messages(row.values))
    if len(messages) > 1 and messages[-1].role == "user":
        notes.append("the user speaks last; that turn is left out")
        messages = messages[:-1]
    for note in notes:
        report(Finding("note", row.where, note))
    if wrong := turns_error(messages, ends_with="assistant"):
        raise BadRow(wrong)
    return Conversation(messages, row.where)


def _messages(values: Mapping[str, Any]) -> Messages:
    if name := named(values, ("messages", "conversations", "conversation", "dialogue", "turns")):
        return messages_from(values[name])
    for names in _EXCHANGES:
        first, below, last = (named(values, usual) for usual in names)
        if first and last:
            asked, more, answer = values[first], values.get(below), values[last]
            return (
                turns_of(asked, "user") + turns_of(answer, "assistant")
                if isinstance(asked, list)
                else exchange(asked, more, answer)
            )
    known = '"messages", "conversations", "instruction" and "output", or "prompt" and "completion"'
    raise BadRow(f"no {known} among {', '.join(values) or 'no fields'}")


def turns_of(value: Any, role: str) -> Messages:
    """A list of messages, or the text of one by `role`. Raises BadRow."""
    return messages_from(value if isinstance(value, list) else [{"role": role, "content": value}])


def exchange(asked: Any, more: Any, answer: Any) -> Messages:
    """One turn of the user, `more` (if any) below what is asked, and one of the assistant. Raises BadRow."""
    first = with_more(asked, more) if isinstance(asked, str) else asked
    return messages_from([{"role": "user", "content": first}, {"role": "assistant", "content": answer}])


def messages_from(turns: Any) -> Messages:
    """Turns of {"role", "content"} or {"from", "value"}. Raises BadRow for anything else."""
    if not isinstance(turns, list) or not turns:
        raise BadRow(f"expected a list of messages, found {short(turns)}")
    return tuple(map(_message, usual_turns(turns)))


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise BadRow(f"expected a message, found {short(turn)}")
    role, content = turn.get("role"), turn.get("content")
    if role not in ("system", "user", "assistant"):
        raise BadRow(f"unknown role {short(role)}; known: {', '.join(ROLES)}")
    if not isinstance(content, str) or not content.strip():
        raise BadRow(f"a message must be a text, found {short(content) or 'an empty one'}")
    return Message(role, content)


# ---- preferences


@dataclass(frozen=True, slots=True)
class Preference:
    """Two conversations that differ in the assistant's last turn only, and the "file:line" of the row."""

    chosen: Messages
    rejected: Messages
    source: str = ""


def read_preferences(path: Path, report: Report) -> list[Preference]:
    """All rows of a file or folder; what cannot be used goes to `report` and is skipped.

    {"prompt", "chosen", "rejected"}: each a text or a list of messages. Where `chosen` and `rejected` are
    lists of more than one message they hold the whole conversation, as in many public sets, and `prompt` is
    not looked at.
    """
    rows = (Record(usual_preference(row.values), row.where) for row in read_records(path, report))
    return list(attempts(rows, lambda row: [_preference(row)], report))


def _preference(row: Record) -> Preference:
    """Raises BadRow where the turns are out of order, or the answers are equal or to different prompts."""
    chosen, rejected = (_answered(row.values, name) for name in ("chosen", "rejected"))
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        if wrong := turns_error(messages, ends_with="assistant"):
            raise BadRow(f"{name}: {wrong}")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("chosen and rejected answer different conversations")
    if chosen[-1].content.strip() == rejected[-1].content.strip():
        raise BadRow("chosen and rejected are equal")
    return Preference(chosen, rejected, row.where)


def _answered(values: Mapping[str, Any], name: str) -> Messages:
    answer = values.get(name)
    whole = isinstance(answer, list) and len(answer) > 1
    for needed in (name,) if whole else (name, "prompt"):
        if values.get(needed) is None:
            raise BadRow(f'no "{needed}" among {", ".join(values) or "no fields"}')
    return (
        messages_from(answer) if whole else turns_of(values["prompt"], "user") + turns_of(answer, "assistant")
    )
