"""Instruction tuning: a model that completes text learns to answer, from conversations and tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self, TypeVar

from malmoi.core.tensors import Loss, TokenBatch, mean
from malmoi.data.batches import Packed
from malmoi.engine import Engine, Sampling
from malmoi.learn import cards
from malmoi.learn.loop import Loop, Objective
from malmoi.learn.losses import next_token_loss
from malmoi.learn.mixture import Mixture, Rendered, Source, make_mixture
from malmoi.learn.run_config import TuneConfig, TuneSpec, with_lr
from malmoi.learn.tuned import Tuned, context_of, load_tunable, packs
from malmoi.models.language import LanguageModel
from malmoi.text.chat import ChatFormat, ChatRow, new_markers
from malmoi.text.tokenizer import Tokenizer

SAMPLED = 20  # rows, to see their languages
ASKED, REPLY_TOKENS = 20, 128  # how many held-out questions are asked, and how long replies may be
FEW_ENDED = 0.8  # of the replies
Row = TypeVar("Row")


class Conversations(Objective[LanguageModel, TokenBatch]):
    """Instruction tuning as an objective: only what the assistant says is learned."""

    def __init__(self, train: Packed, valid: Packed, batch: int, tokenizer: Tokenizer) -> None:
        self.train, self.valid, self.windows = train, valid, batch
        self.context = train.context if train.together else train.mean_tokens
        said = (
            [id for id, learned in zip(row.ids, row.trained, strict=True) if learned] for row in valid.rows
        )
        self._valid_bytes = sum(len(tokenizer.decode(ids).encode()) for ids in said)

    @property
    def rows_per_epoch(self) -> int:
        return self.train.windows_per_epoch

    def part(self, step: int, start: int, stop: int) -> TokenBatch:
        return self.train.batch(step, self.windows, start, stop)

    def trial(self, rows: int) -> TokenBatch:
        """The first window over and over, or the longest row."""
        lengths = [len(row.ids) for row in self.train.rows]
        window = self.train.window(0) if self.train.together else [lengths.index(max(lengths))]
        return self.train.token_batch([window] * rows)

    def loss(self, model: LanguageModel, part: TokenBatch) -> Loss:
        return next_token_loss(model, part.to(model.device))

    def evaluate(
        self, loss: Callable[[TokenBatch], Loss], rows: int, limit: int | None = None
    ) -> dict[str, float]:
        """loss (nats per token of the assistant, ends of turns included) and bits_per_byte of its words."""
        windows = self.valid.windows_per_epoch
        count = windows if limit is None else min(windows, -(-limit // self.context))
        parts = [
            loss(self.valid.batch(0, windows, start, min(start + rows, count)))
            for start in range(0, count, rows)
        ]
        nats = mean(parts)
        if count < windows:
            return {"loss": nats}
        total = nats * sum(part.count for part in parts)
        return {"loss": nats, "bits_per_byte": total / math.log(2) / max(1, self._valid_bytes)}


@dataclass(kw_only=True)
class Tuning(Tuned[TokenBatch]):
    """A run of `malmoi finetune`."""

    Config = TuneConfig

    mixture: Mixture

    @classmethod
    def load(cls, folder: Path) -> tuple[LanguageModel, ChatFormat]:
        return load_tunable(folder)

    @classmethod
    def settled(cls, config: TuneConfig, model: LanguageModel) -> TuneConfig:
        spec = with_lr(config.train, model.config.width, lora=config.lora is not None)
        return config.model_copy(update={"train": spec})

    @classmethod
    def read(cls, config: TuneConfig, form: ChatFormat, context: int) -> Mixture:
        train, valid = (list(map(Source.parse, of)) for of in (config.data, config.valid))
        return make_mixture(
            train, valid, form, config.train.seed, context, fields=config.fields,
            allow_skips=config.allow_skips,
        )  # fmt: skip

    @classmethod
    def new_tokens(cls, form: ChatFormat) -> list[int]:
        return new_markers(form.tokenizer)

    @classmethod
    def made(cls, found: Mixture, context: int, **known: Any) -> Self:
        """Rows are packed together, but for a recurrent model, which cannot keep them apart."""
        spec, together, valid = known["config"].train, packs(known["model"]), [one.row for one in found.valid]
        learned = Packed(found.train, context, seed=spec.seed, together=together, weights=found.weights)
        judged = Packed(valid, context, seed=spec.seed, together=together)
        objective = Conversations(learned, judged, spec.batch, known["tokenizer"])
        return cls(objective=objective, mixture=found, findings=found.findings, **known)

    def learned(self, spec: TuneSpec) -> tuple[str, str]:
        del spec
        rows, num_valid = self.mixture.train, len(self.mixture.valid)
        said = cards.human_count(sum(sum(row.trained) for row in rows))
        data = f"{cards.counted(len(rows), 'conversation')}, {said} tokens of the assistant"
        return f"{data}; {num_valid:,} more for validation", f"windows of {self.objective.context}"

    @property
    def prompt_ids(self) -> list[int]:
        """A held-out question that samples answer while tuning goes on, or the beginning of an answer."""
        asked = questions(self.mixture.valid, self.form, self.model.context)
        return next(asked, self.mixture.valid[0].row.ids[:1])

    @property
    def sample(self) -> list[str]:
        return [self.tokenizer.decode(row.ids) for row in spread(self.mixture.train, SAMPLED)]

    def finish(self, folder: Path, loop: Loop[LanguageModel, TokenBatch]) -> tuple[str, ...]:
        """Ask held-out questions: do replies end by themselves?"""
        super().finish(folder, loop)
        return _in_words(*replies_ended(self.model, self.form, self.mixture.valid))

    def card(
        self, loop: Loop[LanguageModel, TokenBatch], folder: Path, closing: tuple[str, ...]
    ) -> cards.Card:
        num_valid, num_train = len(self.mixture.valid), len(self.mixture.train)
        return cards.tuned_card(
            self.config, loop, folder, "tuned to answer", on=cards.counted(num_train, "conversation"),
            unit="window", rest=f" of {loop.context} tokens", notes=closing[:1],
            measured_on=f"the assistant's turns of {cards.counted(num_valid, 'held-out conversation')}",
        )  # fmt: skip


def preview(config: TuneConfig, count: int = 3) -> tuple[list[list[tuple[str, bool]]], Mixture]:
    """A few rows as pieces of (text, whether it is learned), and all that would be learned from."""
    model, form = load_tunable(Path(config.model))
    mixture = Tuning.read(config, form, context_of(model, config.train))
    rows = spread(mixture.train, count)
    return [list(_pieces(row, form.tokenizer)) for row in rows], mixture


def _pieces(row: ChatRow, tokenizer: Tokenizer) -> Iterator[tuple[str, bool]]:
    """Markers by name, and the text between two; in pieces that are learned as a whole or not."""
    specials = tokenizer.specials.ids

    def kind(pair: tuple[int, bool]) -> tuple[bool, bool]:
        return pair[0] in specials, pair[1]

    for (special, learned), pairs in groupby(zip(row.ids, row.trained, strict=True), kind):
        ids = [id for id, _ in pairs]
        text = "".join(map(tokenizer.token_text, ids)) if special else tokenizer.decode(ids)
        yield text, learned


def replies_ended(model: LanguageModel, form: ChatFormat, judged: Sequence[Rendered]) -> tuple[int, int]:
    """How many of how many greedy replies to held-out questions, of all sources, end by themselves."""
    model.eval()
    prompts = spread(list(questions(judged, form, model.context)), ASKED)
    sampling = Sampling(max_tokens=_reply_tokens(model.context), temperature=0)
    replies = Engine(model, form.tokenizer).generate(prompts, sampling) if prompts else []
    return sum(reply.finish_reason == "stop" for reply in replies), len(replies)


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` of them at even distances, and so of all sources; or all."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def questions(judged: Sequence[Rendered], form: ChatFormat, context: int | None) -> Iterator[list[int]]:
    """The prompts up to the first reply that leave room for one."""
    for messages in dict.fromkeys(one.conversation.messages for one in judged):
        first = next(at for at, message in enumerate(messages) if message.role == "assistant")
        ids = form.prompt_ids(messages[:first])
        if context is None or len(ids) + _reply_tokens(context) <= context:
            yield ids


def _reply_tokens(context: int | None) -> int:
    return min(REPLY_TOKENS, (context or 2 * REPLY_TOKENS) // 2)


def _in_words(ended: int, asked: int) -> tuple[str, ...]:
    """What `replies_ended` found, in lines."""
    if not asked:
        return ("no held-out question leaves room for a reply, so none was asked",)
    few = "which is few: it would go on talking; tune it for longer, or on more conversations"
    line = f"it ended its turn in {ended} of {asked} replies to held-out questions"
    return (line, few) if ended < FEW_ENDED * asked else (line,)
