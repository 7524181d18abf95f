"""What a prompt looks like to a language model, and what of a task's words fits into one.

A chat model gets turns by its own template. A foundation model gets plain text, every exchange as
`ask\\nanswer\\n\\n`, and its reply ends with the line (where answers have several lines, at a blank one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from malmoi.core.nouns import Message, Question
from malmoi.text.chat import ChatFormat
from malmoi.text.tokenizer import Tokenizer


class Format(Protocol):
    """How messages become ids."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end a reply (a special token always does)."""
        ...

    @property
    def end_ids(self) -> list[int]:
        """What a model that was asked like this says after its answer."""
        ...

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Everything up to where the reply begins."""
        ...


class Turns:
    """Of a chat model, by its template."""

    stop = ()

    def __init__(self, form: ChatFormat) -> None:
        self.prompt_ids = form.prompt_ids
        self.end_ids = sorted(form.end_ids)[:1]


class PlainText:
    """Of a foundation model. one_line: whether no answer has more than one line."""

    def __init__(self, tokenizer: Tokenizer, one_line: bool) -> None:
        self.stop = ("\n" if one_line else "\n\n",)
        self.end_ids = tokenizer.encode(self.stop[0])
        self._tokenizer = tokenizer

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The end of a text, which is how the next one begins, then the exchanges."""
        ends = {"user": "\n", "assistant": "\n\n", "system": "\n\n"}
        text = "".join(message.content + ends[message.role] for message in messages)
        return [self._tokenizer.start, *self._tokenizer.encode(text)]


def tidied(messages: Sequence[Message]) -> list[Message]:
    """The same in the order that templates take: one turn of the system or none, then user and assistant by
    turns, the user last. What is empty is left out; a user who says nothing says "..."."""
    said = [message for message in messages if message.content.strip()]
    system = [message.content for message in said if message.role == "system"]
    turns: list[Message] = []
    for message in said:
        if message.role == "system" or (message.role == "assistant" and not turns):
            continue
        before = f"{turns.pop().content}\n" if turns and turns[-1].role == message.role else ""
        turns.append(Message(message.role, before + message.content))
    if not turns or turns[-1].role == "assistant":
        turns.append(Message("user", "..."))
    return [Message("system", "\n".join(system)), *turns] if system else turns


def without_oldest(messages: Sequence[Message]) -> list[Message]:
    """Tidied messages without the first exchange."""
    first = int(messages[0].role == "system")
    return [*messages[:first], *messages[first + 2 :]]


def shortened(value: Any, most: int) -> Any:
    """An input with each of its texts cut to `most` characters: the longest is cut first, none is moved."""
    match value:
        case str():
            return value[:most]
        case Question():
            return Question(value.question[:most], value.context[:most])
    return tuple(Message(message.role, message.content[:most]) for message in value)
