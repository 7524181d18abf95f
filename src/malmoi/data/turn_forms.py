"""Turns and pairs of answers as people write them, brought to one form before they are read.

A turn becomes {"role", "content"} with the roles system, user and assistant, a row of preferences becomes
{"prompt", "chosen", "rejected"}. What is of no known form stays as it is: the reader says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

from malmoi.core.nouns import BadRow, Messages
from malmoi.data.opening import named

_ROLES = {
    "system": "system developer 시스템",
    "user": "user human prompter 사용자 질문자",
    "assistant": "assistant gpt chatgpt bot model ai bing bard chatbot 챗봇 답변자",
}
ROLES = {alias: role for role, aliases in _ROLES.items() for alias in aliases.split()}
_SPEAKERS = ("role", "from", "speaker", "author", "sender")
_CONTENTS = ("content", "value", "text", "utterance", "message")
_HUMAN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")  # before each turn in hh-rlhf

# What may hold what is asked, what stands below it, and both answers; the likeliest first. The first two are
# OpenAI's and LLaMA-Factory's lists of messages.
_PROMPTS = (
    "prompt",
    "messages",
    "conversations",
    "instruction",
    "question",
    "query",
    "input",
    "질문",
    "지시",
)
_CHOSEN = ("chosen", "preferred_output", "preferred", "accepted", "chosen_response", "response_chosen")
_REJECTED = (
    "rejected", "non_preferred_output", "dispreferred", "rejected_response", "response_rejected",
)  # fmt: skip


def usual_turns(turns: Any) -> Any:
    """A list of turns as {"role", "content"}: under other names, as {"user": ...}, or texts by turns.

    Raises BadRow for content that is no text.
    """
    if not isinstance(turns, list):
        return turns
    if turns and all(isinstance(turn, str) for turn in turns):
        pairs = zip(cycle(("user", "assistant")), turns, strict=False)
        return [{"role": role, "content": text} for role, text in pairs]
    return [usual for turn in turns for usual in _usual_turn(turn)]


def _usual_turn(turn: Any) -> list[Any]:
    if not isinstance(turn, dict):
        return [turn]
    speaker, said = named(turn, _SPEAKERS), named(turn, _CONTENTS)
    if not speaker and turn and all(key.casefold() in ROLES for key in turn):
        return [{"role": ROLES[key.casefold()], "content": text_of(text)} for key, text in turn.items()]
    role = turn.get(speaker)
    if isinstance(role, str):
        role = ROLES.get(role.strip().casefold(), role)
    others = {key: it for key, it in turn.items() if key not in (speaker, said)}
    return [others | {"role": role, "content": text_of(turn.get(said))}]


def text_of(content: Any) -> Any:
    """The text of a message's content, which may come in parts. Raises BadRow for a part that is no text."""
    if not isinstance(content, list) or not content:
        return content
    parts = [part if isinstance(part, str) else _part(part) for part in content]
    return "".join(parts)


def _part(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else None
    if isinstance(text, str):
        return text
    kind = part.get("type", "another kind") if isinstance(part, dict) else type(part).__name__
    raise BadRow(f"a message has a part that is no text ({kind})")


def in_turns(messages: Messages) -> tuple[Messages, list[str]]:
    """The messages by turns: a greeting of the assistant before the user is left out, and what one side says
    in several messages is one of several paragraphs; and what was done, in words."""
    notes: list[str] = []
    begin = next((at for at, it in enumerate(messages) if it.role != "system"), 0)
    first = next((at for at, it in enumerate(messages) if it.role == "user"), begin)
    if begin < first and all(it.role == "assistant" for it in messages[begin:first]):
        notes.append("the assistant speaks first; that is left out")
        messages = messages[:begin] + messages[first:]
    joined = list(messages[:1])
    for message in messages[1:]:
        if message.role == joined[-1].role != "system":
            joined[-1] = replace(joined[-1], content=f"{joined[-1].content}\n\n{message.content}")
        else:
            joined.append(message)
    if len(joined) < len(messages):
        notes.append("messages of one side that follow each other are joined")
    return tuple(joined), notes


def usual_preference(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row of preferences as {"prompt", "chosen", "rejected"}, and what else it has.

    Anthropic's hh-rlhf, Orca's and UltraFeedback's columns, LLaMA-Factory's and OpenAI's forms.
    """
    names = [named(values, usual) for usual in (_PROMPTS, _CHOSEN, _REJECTED)]
    prompt, chosen, rejected = (values.get(name) for name in names)
    if chosen is None or rejected is None:
        return dict(values)  # under the names that it has, which an error then says
    below = named(values, ("input",))
    others = {name: it for name, it in values.items() if name not in names}
    if isinstance(prompt, dict) and "messages" in prompt:  # OpenAI's, with the tools beside
        others |= {name: it for name, it in prompt.items() if name != "messages" and it}
        prompt = prompt["messages"]
    elif isinstance(prompt, str) and below not in ("", *names):
        prompt = with_more(prompt, others.pop(below))
    found = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return others | {name: _turns_in(it) for name, it in found.items() if it is not None}


def with_more(asked: str, more: Any) -> str:
    """What is asked and, in a paragraph below it, `more`, if that is a text with something in it."""
    return f"{asked}\n\n{more}" if isinstance(more, str) and more.strip() else asked


def _turns_in(value: Any) -> Any:
    """A message as a list of one, and hh-rlhf's text of several turns as a list of them."""
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, str) or not value.lstrip("\n").startswith("Human:"):
        return value
    _, *parts = _HUMAN.split("\n\n" + value.lstrip("\n"))
    turns = [
        {"role": "user" if said_by == "Human" else "assistant", "content": text}
        for said_by, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    return turns if turns[-1]["content"].strip() else turns[:-1]
