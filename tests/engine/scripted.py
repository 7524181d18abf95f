"""A chat model without a neural network, which answers as a function says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from malmoi.core.nouns import Message
from malmoi.engine import Engine
from malmoi.text.chat import TEMPLATE, ChatFormat
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from tests.engine.fake_scorer import FakeScorer

BYTES = train_tokenizer([], "byte")
FORM = ChatFormat(BYTES, TEMPLATE)


def echo(asked: str) -> str:
    """The usual answer, in two languages."""
    return f"네, {asked} 🐢 yes"


class Scripted(FakeScorer):
    """Says `reply` of the last message, token by token. seen: the ids before each token that it gave."""

    def __init__(
        self, reply: Callable[[str], str] = echo, tokenizer: Tokenizer = BYTES, context: int | None = None
    ) -> None:
        super().__init__(tokenizer.vocab_size, context)
        self.reply, self.tokenizer = reply, tokenizer
        self.turns = tokenizer.specials.turns
        self.seen: list[list[int]] = []

    def logits(self, history: Sequence[int]) -> Tensor:
        logits = torch.zeros(self.vocab_size)
        if (start := self._last(history, "<|assistant|>")) >= 0:
            self.seen.append(list(history))
            asked = self.tokenizer.decode(history[self._last(history, "<|user|>") + 1 : start])
            ids = [*self.tokenizer.encode(self.reply(asked)), self.turns["<|end|>"]]
            logits[ids[min(len(history) - start, len(ids)) - 1]] = 1000.0
        return logits

    def prompt(self) -> list[int]:
        """What the model saw before the last reply."""
        ids = self.seen[-1]
        return ids[: self._last(ids, "<|assistant|>") + 1]

    def _last(self, history: Sequence[int], turn: str) -> int:
        found = [at for at, id in enumerate(history) if id == self.turns[turn]]
        return found[-1] if found else -1


def prompt_ids(*turns: tuple[Any, str]) -> list[int]:
    """The ids of (role, text) turns."""
    return FORM.prompt_ids([Message(role, text) for role, text in turns])


def engine(scorer: FakeScorer) -> Engine:
    """An engine of one row."""
    return Engine(scorer, BYTES, max_rows=1)
