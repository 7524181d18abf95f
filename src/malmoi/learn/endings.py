"""Whether a tuned model ends its replies by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling
from malmoi.learn.mixture import Rendered
from malmoi.models.language import LanguageModel
from malmoi.text.chat import ChatFormat

Row = TypeVar("Row")
ASKED, REPLY_TOKENS = 20, 128  # how many are asked, and how long they may answer
FEW_ENDED = 0.8


def replies_ended(model: LanguageModel, form: ChatFormat, judged: Sequence[Rendered]) -> tuple[int, int]:
    """How many of how many greedy replies to held-out questions, of all sources, end by themselves."""
    model.eval()
    prompts = spread(list(questions(judged, form, model.context)), ASKED)
    sampling = Sampling(max_tokens=_reply_tokens(model.context), temperature=0)
    replies = Engine(model, form.tokenizer).generate(prompts, sampling) if prompts else []
    return sum(reply.finish_reason == "stop" for reply in replies), len(replies)


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """So many at even distances, of all sources therefore; or all."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def questions(judged: Sequence[Rendered], form: ChatFormat, context: int | None) -> Iterator[list[int]]:
    """The prompts up to the first reply that leave room for one."""
    for one in judged:
        messages = one.conversation.messages
        first = next(at for at, message in enumerate(messages) if message.role == "assistant")
        ids = form.prompt_ids(messages[:first])
        if context is None or len(ids) + _reply_tokens(context) <= context:
            yield ids


def _reply_tokens(context: int | None) -> int:
    return min(REPLY_TOKENS, (context or 2 * REPLY_TOKENS) // 2)


def in_words(ended: int, asked: int) -> tuple[str, ...]:
    """What `replies_ended` found, in lines."""
    if not asked:
        return ("no held-out question leaves room for a reply, so none was asked",)
    few = "which is few: it would go on talking; tune it for longer, or on more conversations"
    line = f"it ended its turn in {ended} of {asked} replies to held-out questions"
    return (line, few) if ended < FEW_ENDED * asked else (line,)
