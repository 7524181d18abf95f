"""The fine-tuned method: a language model that goes on learning, from one task's examples only.

Shape letters: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from malmoi.core.errors import UserError
from malmoi.core.nouns import Budget, Example, Json, Say, silent
from malmoi.core.tensors import Loss, mean
from malmoi.data.batches import Buckets, within
from malmoi.data.packing import Packed
from malmoi.engine.ask import MAX_ROWS, Asker, Manner
from malmoi.engine.engine import Engine
from malmoi.engine.loaded import open_model
from malmoi.hub.weights import arrays_of, set_parameters
from malmoi.learn.finetune import FULL_LR, LORA_LR, new_markers
from malmoi.learn.fit import FitSpec, fit, planned_steps
from malmoi.learn.losses import next_token_loss
from malmoi.learn.optim import OptimizerKind
from malmoi.methods.base import Parts
from malmoi.methods.llm.prompted import LanguageMethod, ModelPath
from malmoi.methods.neural.continuations import text_rows
from malmoi.methods.neural.form import PART_TOKENS
from malmoi.models.build import build_model
from malmoi.models.config import model_config_adapter
from malmoi.models.language import LanguageModel
from malmoi.models.lora import LoRASpec, add_lora, merge_lora
from malmoi.models.recurrent import computed_in
from malmoi.text.chat import ChatFormat, ChatRow
from malmoi.util.hardware import pick_device, training_dtype
from malmoi.util.units import counted

MOST_CHOSEN_BY = 500  # validation examples looked at during a fit
ROW_TOKENS = 512  # of a piece of a longer text, where the model's context has no limit


class FineTunedOptions(FitSpec):
    """model: the folder of the language model to begin with. lora: train thin matrices beside its own, which
    takes less memory, and merge them at the end. Otherwise as every fit."""

    model: ModelPath = ""
    lora: bool = False
    optimizer: OptimizerKind = "muon"
    lr: PositiveFloat = FULL_LR
    warmup_steps: NonNegativeInt = 20
    weight_decay: NonNegativeFloat = 0.0
    batch: PositiveInt = 16
    epochs: PositiveFloat = 4.0

    @model_validator(mode="before")
    @classmethod
    def _lora_learns_faster(cls, given: Json) -> Json:
        return {"lr": LORA_LR, **given} if given.get("lora") else given


class FineTunedReplyOptions(FineTunedOptions):
    """max_new_tokens: of a reply; None: a little more than long answers in training take."""

    max_new_tokens: PositiveInt | None = None


class FineTuned(LanguageMethod):
    """Learns the answers (of a completion the whole text) in the words that it is asked in later."""

    name, family = "finetuned", "fine-tuned"
    Options, ReplyOptions = FineTunedOptions, FineTunedReplyOptions

    def fit(
        self,
        train: Sequence[Example[Any, Any]],
        valid: Sequence[Example[Any, Any]],
        budget: Budget = Budget(),
        say: Say = silent,
    ) -> Self:
        o, budget = self.options, budget.begin()
        model, tokenizer = open_model(Path(o.model))
        if not isinstance(model, LanguageModel):
            raise UserError(f"{o.model} is an n-gram model, which only counts; tune a GPT or an LSTM")
        goes_on = self.task.kind.goes_on
        manner = Manner.learn(
            self.task, train, tokenizer, None if goes_on else ChatFormat.for_tuning(tokenizer).template,
            goes_on=goes_on, reply_tokens=getattr(o, "max_new_tokens", None), context=model.context,
        )  # fmt: skip
        self.asker = Asker(Engine(model, tokenizer, max_rows=MAX_ROWS), self.task, manner)
        learned, judged = self.rows(train), self.rows(valid[:MOST_CHOSEN_BY])
        if note := self._note(len(train), len(learned), valid):
            self.report["note"] = note
            say(note)
        torch.manual_seed(o.seed)
        if o.lora:
            add_lora(model, LoRASpec(), [] if goes_on else new_markers(tokenizer))
        self._train(model, learned, judged, budget, say)
        merge_lora(model)
        self.report["parameters"] = model.num_parameters()
        return self

    def _note(self, num_given: int, num_learned: int, valid: Sequence[Example[Any, Any]]) -> str:
        """What is not as one might think, or ''."""
        notes = [self.asker.note([example.input for example in valid[:MOST_CHOSEN_BY]])]
        if not self.asker.manner.goes_on and num_learned < num_given:
            notes.append(f"{num_given - num_learned} of {num_given} training examples do not fit the context")
        return "; ".join(filter(None, notes))

    def rows(self, examples: Sequence[Example[Any, Any]]) -> list[ChatRow]:
        """What is learned: the question, then the trained answer and its end; too long ones are left out."""
        tokenizer, context = self.asker.tokenizer, self.asker.scorer.context
        if self.asker.manner.goes_on:
            texts = [example.input + example.target for example in examples]
            pieces = text_rows(tokenizer, texts, context or ROW_TOKENS)
            return [ChatRow(ids, [True] * len(ids)) for ids in pieces]
        rows = (self._row(example) for example in examples)
        return [row for row in rows if row and len(row.ids) <= (context or len(row.ids)) + 1]

    def _row(self, example: Example[Any, Any]) -> ChatRow | None:
        """None where the answer lies in what was cut off."""
        asker, task = self.asker, self.asker.task
        asked = asker.ask(example.input)
        target = task.kind.within(example.target, asked.value)
        if target is None:
            return None
        answer_ids = asker.tokenizer.encode(task.answer(target, asked.value)) + asker.format.end_ids
        told = [False] * len(asked.ids) + [True] * len(answer_ids)
        return ChatRow(asked.ids + answer_ids, told)

    def _train(
        self, model: LanguageModel, learned: list[ChatRow], judged: list[ChatRow], budget: Budget, say: Say
    ) -> None:
        o = self.options
        if not learned or not judged:
            raise UserError(f"{self.name} needs examples to learn from and some to stop by; give more data")
        dtype = training_dtype(o.dtype, model.device, model.config.width)
        problem = _Tuning(model, learned, judged, o, dtype)
        self.report["steps"] = steps = planned_steps(problem, o, budget)
        how = "LoRA" if o.lora else "all weights"
        say(f"{counted(steps, 'step')} of {counted(o.batch, 'row')}, {how}, {computed_in(model, dtype)}")
        self.report |= {"dtype": dtype, "fit": fit(problem, o, steps, say).as_json()}

    def parts(self) -> Parts:
        model, tokenizer = self.asker.scorer, self.asker.tokenizer
        assert isinstance(model, LanguageModel)
        config = {"model": model.config.model_dump(), "manner": self.asker.manner.model_dump()}
        parts = Parts(config, arrays_of(model))
        return parts.with_tokenizer(tokenizer)

    def restore(self, parts: Parts) -> None:
        model = build_model(model_config_adapter.validate_python(parts.config["model"])).to(pick_device())
        set_parameters(model, parts.tensors)
        manner = Manner.model_validate(parts.config["manner"])
        engine = Engine(model.eval(), parts.tokenizer(), max_rows=MAX_ROWS)
        self.asker = Asker(engine, self.task, manner)


class _Tuning:
    """Rows of like length in a batch, for `malmoi.learn.fit:fit`."""

    judged_by = "loss"

    def __init__(
        self, model: LanguageModel, learned: list[ChatRow], judged: list[ChatRow], options: Any, dtype: str
    ) -> None:
        self.model: Any = model
        self.dtype = dtype
        judged = sorted(judged, key=lambda row: len(row.ids))
        longest = max(len(row.ids) for row in (*learned, *judged))
        self.learned, self.judged = (
            Packed(rows, longest, seed=options.seed, together=False) for rows in (learned, judged)
        )
        self.buckets = Buckets([len(row.ids) for row in learned], options.batch, options.seed)
        self.steps_per_epoch = self.buckets.steps_per_epoch

    def losses(self, step: int) -> Iterator[Loss]:
        return self._losses(self.learned, self.buckets.batch(step).tolist())

    @torch.no_grad()
    def validate(self) -> float:
        """The mean log-probability of what is to be said."""
        return -mean(self._losses(self.judged, range(len(self.judged.rows))))

    def _losses(self, packed: Packed, numbers: Sequence[int]) -> Iterator[Loss]:
        """Of these rows, sorted by length, as many at once as go through the model."""
        for part in within([len(packed.rows[i].ids) for i in numbers], PART_TOKENS):
            batch = packed.token_batch([[i] for i in numbers[part]]).to(self.model.device)
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.dtype == "bf16"):
                loss = next_token_loss(self.model, batch)
            yield loss
