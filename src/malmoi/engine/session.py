"""A conversation with a chat model: its history, how much of it fits, and replies as they come."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from malmoi.core.errors import UserError
from malmoi.core.nouns import BadRow, Message, turns_error
from malmoi.data.conversations import messages_from
from malmoi.engine.engine import Engine
from malmoi.engine.request import MOST_SEEDS, FinishReason, Sampling, TokenEvent
from malmoi.text.chat import ChatFormat, fit_turns
from malmoi.util.files import read_json, write_json

LEAST_CONTEXT = 16  # tokens
REPLY_TOKENS = 512  # at most in a reply, where neither the user nor the model's context says
BROKEN = "\ufffd"  # what a character looks like that ended too soon


@dataclass(frozen=True, slots=True)
class Turn:
    """What the last reply is and cost.

    dropped: how many of the oldest turns the model no longer saw, which it saw the time before. finished:
    None until the reply has ended, "cancelled" where it was broken off, "length" where it was cut.
    """

    prompt_tokens: int
    dropped: int
    text: str = ""
    reply_tokens: int = 0
    seconds: float = 0.0
    finished: FinishReason | None = None


class ChatSession:
    """One conversation. The history is kept whole; the model sees the newest turns that fit.

    system: what is said before all turns. context: tokens, the model's own if not given. max_tokens: of one
    reply; if not given, as many as fit. options: further fields of `Sampling`; a seed gives each reply its
    own. Room for max_tokens is kept free for the reply: at least a quarter of the context, at most half.
    """

    def __init__(
        self,
        engine: Engine,
        form: ChatFormat,
        *,
        system: str = "",
        context: int | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> None:
        """Raises UserError for a value out of range."""
        self._sampling = Sampling(max_tokens=REPLY_TOKENS if max_tokens is None else max_tokens, **options)
        check_one_reply(self._sampling)
        limit = engine.scorer.context
        if context is not None and not LEAST_CONTEXT <= context <= (limit or context):
            most = f" to {limit}" if limit else " or more"
            raise UserError(f"context is {context} tokens; it must be {LEAST_CONTEXT}{most}")
        self.engine, self.form = engine, form
        self.context = context or limit
        self.system = system
        self.turn: Turn | None = None  # of the last `say` or `regenerate`
        self._max_tokens = max_tokens
        self._history: list[Message] = []  # user and assistant by turns
        self._first = 0  # the first turn that the model still sees
        self._replies = 0

    @property
    def system(self) -> str:
        """The system prompt, or ''. A new one holds from the next reply on."""
        return self._system[0].content if self._system else ""

    @system.setter
    def system(self, text: str) -> None:
        self._system = [Message("system", text.strip())] if text.strip() else []

    @property
    def messages(self) -> list[Message]:
        """The whole conversation, the system's turn first."""
        return [*self._system, *self._history]

    @property
    def forgotten(self) -> int:
        """How many of the oldest turns the model no longer sees."""
        return self._first

    @property
    def context_used(self) -> tuple[int, int | None]:
        """(tokens of what the model still sees, the most it can see or None where it has no limit)."""
        seen = self._history[self._first :]
        if not seen:
            return 0, self.context
        prompt_ids = self.form.prompt_ids([*self._system, *seen[:-1]])
        used = len(prompt_ids) + len(self.form.tokenizer.encode(seen[-1].content)) + 1
        return min(used, self.context or used), self.context

    def say(self, text: str) -> Generator[str]:
        """The reply's text as it comes. Once it has ended or was closed, both turns are in the history,
        or none where nothing was replied.

        Read a reply to its end or close it before the next. Raises UserError at once for a message that is
        empty or too long.
        """
        return self._answer(self._history, Message("user", text.strip()))

    def regenerate(self) -> Generator[str]:
        """As `say`, with the last message again; the old reply stays until there is a new one."""
        if not self._history:
            raise UserError("there is no reply to make again; say something first")
        return self._answer(self._history[:-2], self._history[-2])

    def reset(self) -> None:
        """Forget the conversation, not the system prompt."""
        self._history, self._first = [], 0

    def save(self, path: str | Path) -> None:
        """Write {"messages": [{"role", "content"}]} as JSON, whole or not at all.

        Raises UserError where there is nothing to save, or another file would be lost.
        """
        path = Path(path)
        if not self._history:
            raise UserError("there is nothing to save yet; say something first")
        try:
            if path.exists() and not _is_saved(path):
                raise UserError(f"{path} is there and no saved conversation; choose another name")
            write_json(path, {"messages": [asdict(message) for message in self.messages]})
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}); choose another name") from None

    def load(self, path: str | Path) -> None:
        """Go on from a saved conversation and its system prompt.

        Raises UserError where it cannot be used; then everything stays as it was.
        """
        messages = _saved(Path(path))
        self.form.prompt_ids(messages[:-1])  # text that the tokenizer or the template refuses
        self._system = [message for message in messages if message.role == "system"]
        self._history = messages[len(self._system) :]
        self._first = 0

    def _answer(self, before: Sequence[Message], asked: Message) -> Generator[str]:
        seen = [*self._system, *before[self._first :], asked]
        ids, _, dropped = fit_turns(self.form, seen, self._most_prompt_tokens())
        events = self.engine.stream(ids, self._params(len(ids)))
        self.turn = Turn(len(ids), dropped)
        self._replies += 1
        return self._read(events, [*before, asked], self._first + dropped)

    def _most_prompt_tokens(self) -> int:
        """What is left beside the reply's room."""
        if self.context is None:
            return sys.maxsize
        return self.context - min(max(self._max_tokens or 0, self.context // 4), self.context // 2)

    def _params(self, prompt_tokens: int) -> Sampling:
        room = REPLY_TOKENS if self.context is None else self.context - prompt_tokens
        most = self._max_tokens or room
        seed = self._sampling.seed
        return replace(
            self._sampling,
            max_tokens=most if self.context is None else min(most, room),
            seed=seed if seed is None else (seed + self._replies) % MOST_SEEDS,
        )

    def _read(self, events: Generator[TokenEvent], history: Sequence[Message], first: int) -> Generator[str]:
        """Pass the text on; at the end, whatever ends it, keep what there is."""
        assert self.turn is not None
        text, num_tokens, finished, start = "", 0, "cancelled", perf_counter()
        try:
            with closing(events):
                for event in events:
                    piece = event.text.rstrip(BROKEN) if event.finished else event.text
                    text += piece
                    num_tokens += event.id is not None
                    finished = event.finished or finished
                    if piece:
                        yield piece
        finally:
            seconds = perf_counter() - start
            self.turn = replace(
                self.turn, text=text, reply_tokens=num_tokens, seconds=seconds, finished=finished
            )
            if text.strip():
                self._history = [*history, Message("assistant", text.strip())]
                self._first = first


def as_messages(turns: str | Sequence[Message | Mapping[str, str]]) -> list[Message]:
    """A text of the user, or turns as messages or {"role", "content"}; an empty one of the system is none.

    Raises UserError for anything else, and where nothing is said at all.
    """
    rows = [Message("user", turns)] if isinstance(turns, str) else turns
    try:
        messages = [row if isinstance(row, Message) else _as_message(row) for row in rows]
    except BadRow as error:
        raise UserError(f"the conversation cannot be answered: {error}") from None
    if not any(message.content.strip() for message in messages):
        raise UserError("the conversation cannot be answered: there is no text in it")
    return [message for message in messages if message.role != "system" or message.content.strip()]


def _as_message(row: Mapping[str, str]) -> Message:
    """Raises BadRow."""
    match row:
        case {"role": "system" | "user" | "assistant" as role, "content": str(content)}:
            return Message(role, content)
        case Mapping():
            return messages_from([row])[0]
    raise BadRow(f"a message has a role and content, found {row!r}")


def check_one_reply(params: Sampling) -> None:
    """Raises UserError where more than one plain text is asked for."""
    if params.n > 1 or params.logprobs:
        raise UserError("a chat gives one reply, as text; leave n and logprobs out")


def _saved(path: Path) -> list[Message]:
    """The messages of a saved conversation. Raises UserError with the path."""
    try:
        found = read_json(path)
        messages = list(messages_from(found.get("messages") if isinstance(found, dict) else found))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a file that /save made") from None
    except (BadRow, RecursionError) as error:
        raise UserError(f"{path} is no conversation: {error}") from None
    if wrong := turns_error(messages, ends_with="assistant"):
        raise UserError(f"{path} cannot be gone on from: {wrong}")
    return messages


def _is_saved(path: Path) -> bool:
    try:
        return bool(_saved(path))
    except UserError:
        return False
