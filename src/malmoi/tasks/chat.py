"""Chat: a conversation goes on with the assistant's next turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from malmoi.core.errors import UserError
from malmoi.core.nouns import BadRow, Example, Finding, Message, Messages, Report
from malmoi.data.conversations import exchange, messages_from
from malmoi.data.opening import Record, short
from malmoi.metrics.overlap import chrf, distinct
from malmoi.metrics.statistics import bits_per_byte
from malmoi.tasks.base import Examples, Found, Nats, Scores, Task
from malmoi.tasks.kinds import TEXT, Box
from malmoi.world import Document

LAST = 3  # messages that a reply is about


class Chat(Task[Messages, str]):
    """OpenAI's "messages", ShareGPT's "conversations" or Alpaca's "instruction", "input", "output".

    Every turn of the assistant after the user's first is an example.
    """

    name = "chat"
    relation = "reply"
    boxes = (Box("Message", 4),)
    about = "One reply to one message."
    kind = TEXT
    primary = "chrf"
    roles: ClassVar = {
        "messages": ("conversations", "conversation", "dialogue", "turns"),
        "instruction": ("prompt", "question", "query", "user", "질문", "지시"),
        "input": (),
        "output": ("response", "completion", "answer", "assistant", "답변", "응답"),
    }

    def examples(self, record: Record, report: Report) -> Iterator[Example[Messages, str]]:
        """The assistant's turns of one conversation. Raises BadRow where there is none."""
        messages = self._messages(record.values)
        turns = [at for at, message in enumerate(messages) if message.role == "assistant"]
        if not turns:
            raise BadRow("no turn of the assistant")
        asked = next((at for at, message in enumerate(messages) if message.role == "user"), len(messages))
        if turns[0] < asked:
            report(Finding("note", record.where, "the assistant speaks first; that turn is no example"))
        for at in turns:
            if at > asked:
                yield Example(messages[:at], messages[at].content, record.where)

    def _messages(self, values: Mapping[str, Any]) -> Messages:
        if (turns := self.find(values, "messages")) is not None:
            return messages_from(turns)
        self.value(values, "instruction")  # the usual error, with the field that is missing
        return exchange(*(self.find(values, role) for role in ("instruction", "input", "output")))

    def row(self, example: Example[Messages, str]) -> dict[str, Any]:
        """The conversation up to and with the reply; read again, earlier replies are examples, too."""
        whole = (*example.input, Message("assistant", example.target))
        return {self.named(name): turns for name, turns in self.input_json(whole).items()}

    def input_from(self, value: Any) -> Messages:
        """One message of the user, or {"messages": [...]}. Raises UserError for anything else."""
        if isinstance(value, str):
            return (Message("user", value),)
        try:
            return messages_from(self.find_input(value, "messages"))
        except (BadRow, AttributeError) as error:
            form = 'a text or {"messages": [{"role", "content"}]}'
            raise UserError(f"{self.name} takes {form}, found {short(value)} ({error})") from None

    def input_json(self, value: Messages) -> Any:
        """{"messages": [{"role", "content"}]}."""
        return {"messages": [{"role": one.role, "content": one.content} for one in value]}

    def key(self, value: Messages) -> str:
        """All messages."""
        return "\n".join(f"{one.role}: {one.content}" for one in value)

    def subject(self, value: Messages) -> str:
        """The last messages: how a conversation begins, many share."""
        return "\n".join(message.content for message in value[-LAST:])

    def group(self, value: Messages) -> str:
        """The turns of one conversation stay together, as do all that begin in the same way."""
        first = next((at for at, one in enumerate(value) if one.role != "system"), 0)
        return self.key(value[: first + 1])

    def prompt(
        self, value: Messages, shots: Sequence[Example[Messages, str]] = (), *, variant: int = 0
    ) -> list[Message]:
        """The conversation itself, after the shots' and the system's word."""
        del variant  # the user has asked
        solved = [turn for shot in shots for turn in (*shot.input, Message("assistant", shot.target))]
        system = [turn for turn in value if turn.role == "system"]
        return [*system, *(turn for turn in (*solved, *value) if turn.role != "system")]

    def samples(self, document: Document) -> Iterator[dict[str, Any]]:
        """A conversation about the text."""
        yield {"messages": [asdict(turn) for turn in document.dialogue]}

    def tries(self, document: Document) -> Iterator[str]:
        """The user's messages in it."""
        return (turn.content for turn in document.dialogue if turn.role == "user")

    def statistics(self, predictions: Found, examples: Examples, log_likelihoods: Nats = None) -> Scores:
        """chrf, distinct_1, distinct_2, and bits_per_byte where there are log-likelihoods."""
        found = {"chrf": chrf(predictions, [example.references for example in examples])}
        found |= {f"distinct_{order}": distinct(predictions, order) for order in (1, 2)}
        if log_likelihoods is not None:
            found["bits_per_byte"] = bits_per_byte(log_likelihoods, [example.target for example in examples])
        return found
