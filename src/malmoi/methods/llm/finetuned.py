"""The fine-tuned method: a language model that goes on learning, from one task's examples only.

Shape letters: B rows, T positions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example, Examples, FitReport, Work, with_note
from malmoi.core.tensors import Loss, mean
from malmoi.data.batches import Packed
from malmoi.engine.ask import Asked, Asker, AskSettings
from malmoi.engine.engine import Engine
from malmoi.hub.chat_models import load_trainable, tunable_format
from malmoi.hub.weights import arrays_of, set_parameters
from malmoi.learn.losses import next_token_loss
from malmoi.learn.objectives.examples import Chosen, FitSpec, LabelledRows, fit, identity
from malmoi.learn.optim import OptimizerKind
from malmoi.learn.run_config import FULL_LR, with_lr
from malmoi.methods.base import Parts
from malmoi.methods.llm.prompted import CALIBRATED_BY, LanguageMethod, ModelPath
from malmoi.methods.neural.continuations import text_rows
from malmoi.models.build import model_of
from malmoi.models.cells import computed_in
from malmoi.models.language import LanguageModel
from malmoi.models.lora import LoRASpec, add_lora, give_back, hold_base, is_held, merge_lora
from malmoi.models.packed import pack
from malmoi.text.chat import ChatFormat, ChatRow, new_markers
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.hardware import pick_device, training_dtype
from malmoi.util.units import counted

MOST_CHOSEN_BY = 500  # validation examples looked at during a fit
ROW_TOKENS = 512  # of a piece of a longer text, where the model's context has no limit


class FineTunedOptions(FitSpec):
    """model: the folder of the language model to begin with. lora: train thin matrices beside its own, which
    takes less memory, and merge them at the end. lr: unless given it is more with LoRA, and less for wide
    models. Otherwise as every fit."""

    model: ModelPath = ""
    lora: bool = False
    optimizer: OptimizerKind = "muon"
    lr: PositiveFloat = FULL_LR
    warmup_steps: NonNegativeInt = 20
    weight_decay: NonNegativeFloat = 0.0
    batch: PositiveInt = 16
    epochs: PositiveFloat = 4.0


class FineTunedReplyOptions(FineTunedOptions):
    """max_new_tokens: of a reply; None: a little more than long answers in training take."""

    max_new_tokens: PositiveInt | None = None


class FineTuned(LanguageMethod):
    """Learns the answers (of a completion the whole text) in the words that it is asked in later.

    packed: of a method from a folder, what packing took out of the model's parameters: vectors, and the names
    (with None) of matrices, which are kept by what multiplies by them.
    """

    name, family = "finetuned", "fine-tuned"
    Options, ReplyOptions = FineTunedOptions, FineTunedReplyOptions
    packed: Mapping[str, NDArray[Any] | None] = MappingProxyType({})

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        o, work, self.packed = self.options, work.begin(), {}
        goes_on = self.task.kind.goes_on
        model, tokenizer, form = self._begin_with()
        o = with_lr(o, model.config.width, lora=o.lora)
        settings = AskSettings.learn(
            self.task, train, tokenizer, form and form.template,
            goes_on=goes_on, reply_tokens=getattr(o, "max_new_tokens", None), context=model.context,
        )  # fmt: skip
        self.asker = Asker(Engine.for_many(model, tokenizer), self.task, settings)
        of_each = self._rows(train)
        learned, judged = list(chain(*of_each)), self.rows(valid[:MOST_CHOSEN_BY])
        if not learned or not judged:
            raise UserError(f"{self.name} needs examples to learn from and some to stop by; give more data")
        note = self._note(sum(not rows for rows in of_each), len(train), valid)
        torch.manual_seed(o.seed)
        dtype = training_dtype(o.dtype, model.device, model.config.width)
        if o.lora:
            add_lora(model, LoRASpec(), [] if goes_on else new_markers(tokenizer))
            if dtype == "bf16":
                hold_base(model, "bf16")
        words = f"{counted(o.batch, 'row')}, {'LoRA' if o.lora else 'all weights'}, "
        words += computed_in(model, dtype)
        found = fit(
            model, _Rows(learned, judged, o), o, dtype, work, words, identity(self.options, train, valid)
        )
        if is_held(model):
            give_back(model, self._begin_with()[0])
        merge_lora(model)
        if not self.task.kind.is_text and time.perf_counter() < work.budget.stop_s:
            self.calibrate(valid[:CALIBRATED_BY])
        facts = {
            "learned_from": {"train": len(train), "valid": 0}, "steps": found["steps"], "lr": o.lr,
            "dtype": dtype, "parameters": model.num_parameters(),
        }  # fmt: skip
        paid = found.pop("note")
        return FitReport(with_note(facts | {"fit": found}, note, paid))

    def _begin_with(self) -> tuple[LanguageModel, Tokenizer, ChatFormat | None]:
        """The model before it learns, its tokenizer, and how it is talked with (None: not at all)."""
        model, tokenizer = load_trainable(Path(self.options.model), pick_device())
        if self.task.kind.goes_on:
            return model, tokenizer, None
        form = tunable_format(model, tokenizer)
        return model, form.tokenizer, form

    def _note(self, num_left_out: int, num_given: int, valid: Examples) -> str:
        """What is not as one might think, or ''."""
        notes = [self.asker.note([example.input for example in valid[:MOST_CHOSEN_BY]])]
        if num_left_out:
            notes.append(f"{num_left_out} of {num_given} training examples do not fit the context")
        return "; ".join(filter(None, notes))

    def rows(self, examples: Examples) -> list[ChatRow]:
        """What is learned: the question, then the trained answer and its end; too long ones are left out."""
        return list(chain(*self._rows(examples)))

    def _rows(self, examples: Examples) -> list[list[ChatRow]]:
        """Those of each example; of texts that go on all in one list."""
        tokenizer, context = self.asker.tokenizer, self.asker.scorer.context
        if self.asker.settings.goes_on:
            texts = [example.input + example.target for example in examples]
            pieces = text_rows(tokenizer, texts, context or ROW_TOKENS)
            return [[ChatRow(ids, [True] * len(ids)) for ids in pieces]]
        found = [[self._row(one, asked) for asked in self.asker.windows(one.input)] for one in examples]
        most = (context or sys.maxsize) + 1
        return [[row for row in rows if row and len(row.ids) <= most] for rows in found]

    def _row(self, example: Example[Any, Any], asked: Asked) -> ChatRow | None:
        """Of a window; None where the answer lies in what was cut off."""
        asker, task = self.asker, self.asker.task
        target = asker.part_of(example.target, asked)
        if target is None:
            return None
        answer_ids = asker.tokenizer.encode(task.answer(target, asked.value)) + asker.format.end_ids
        learned = [False] * len(asked.ids) + [True] * len(answer_ids)
        return ChatRow(asked.ids + answer_ids, learned)

    def parts(self) -> Parts:
        model, tokenizer = self.asker.scorer, self.asker.tokenizer
        assert isinstance(model, LanguageModel)
        config = {"model": model.config.model_dump(), "ask": self.asker.settings.model_dump()}
        parts = Parts(config, arrays_of(model) | self._packed_arrays(model))
        return parts.with_tokenizer(tokenizer)

    def _packed_arrays(self, model: LanguageModel) -> dict[str, NDArray[Any]]:
        """What is no parameter of a packed model, by the names that it had."""
        modules: dict[str, Any] = dict(model.named_modules())
        return {
            name: modules[name.removesuffix(".weight")].weight.numpy() if array is None else array
            for name, array in self.packed.items()
        }

    def restore(self, parts: Parts) -> None:
        model = model_of(parts.config["model"]).to(pick_device())
        set_parameters(model, parts.tensors)
        settings = AskSettings.model_validate(parts.config["ask"])
        pack(model.eval())
        left = dict(model.named_parameters())
        self.packed = {
            name: array if array.ndim == 1 else None
            for name, array in parts.tensors.items()
            if name not in left
        }
        self.asker = Asker(Engine.for_many(model, parts.tokenizer()), self.task, settings)


class _Rows(LabelledRows[LanguageModel, int]):
    """Rows of like length in a batch, by their numbers: those to learn, then those to judge by."""

    def __init__(self, learned: list[ChatRow], judged: list[ChatRow], options: Any) -> None:
        rows = [*learned, *sorted(judged, key=lambda row: len(row.ids))]
        longest = max(len(row.ids) for row in rows)
        self.packed = Packed(rows, longest, seed=options.seed, together=False)
        self.judged = range(len(learned), len(rows))
        super().__init__(range(len(learned)), lambda number: len(rows[number].ids), options)

    def loss(self, model: LanguageModel, part: Chosen) -> Loss:
        return next_token_loss(model, self.packed.token_batch([[i] for i in part[0]]).to(model.device))

    def evaluate(
        self, loss: Callable[[Chosen], Loss], rows: int, limit: int | None = None
    ) -> dict[str, float]:
        """The mean loss (nats) of what is to be said."""
        del limit
        parts = [self.judged[part] for part in self.within(self.judged, rows)]
        return {"loss": mean(loss((part, np.random.default_rng(0))) for part in parts)}
