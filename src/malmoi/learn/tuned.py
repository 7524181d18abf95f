"""What tunings of a finished language model share: the folder that they begin with, LoRA, what they save."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from malmoi.hub.adapter import save_adapter
from malmoi.hub.chat_models import load_chat, load_tunable
from malmoi.hub.folder import stored_groups
from malmoi.learn.job import Place, Training
from malmoi.learn.loop import Loop
from malmoi.learn.mixture import Source
from malmoi.learn.run_config import TuneSpec
from malmoi.models.language import LanguageModel
from malmoi.models.lora import add_lora, give_back, hold_base, is_held, merge_lora, trained_parameters
from malmoi.models.transformer import Transformer
from malmoi.text.chat import ChatFormat
from malmoi.util.units import counted, human_count

__all__ = ["Tuned", "context_of", "load_chat", "load_tunable", "packs"]
Part = TypeVar("Part")
ADAPTER = "adapter"  # in the folder of a model that was tuned with LoRA


@dataclass(kw_only=True)
class Tuned(Training[Part]):
    """A tuning. form: how the model is talked with."""

    form: ChatFormat

    @classmethod
    def open(cls, config: Any, place: Place) -> Self:
        """Load the model, read and render the data. Raises UserError for data that cannot be learned from."""
        model, form = cls.load(Path(config.model))
        config = cls.settled(config, place.on_device(model))
        context = context_of(model, config.train)
        found = cls.read(config, form, context)
        names = [Source.parse(text).path for text in (*config.data, *config.valid)]
        data = place.files(names, config.licence)
        torch.manual_seed(config.train.seed)
        if config.lora:
            add_lora(model, config.lora, cls.new_tokens(form))
            if base := config.base_of(model):
                sources = stored_groups(Path(config.model)) if base == "stored" else {}
                hold_base(model, base, sources)
        return cls.made(
            found, context, config=config, model=model, tokenizer=form.tokenizer, form=form, data=data,
            ends=tuple(sorted(form.end_ids)),
        )  # fmt: skip

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> tuple[LanguageModel, ChatFormat]:
        """Raises UserError for a model that cannot be tuned so."""

    @classmethod
    @abstractmethod
    def read(cls, config: Any, form: ChatFormat, context: int) -> Any:
        """The rows to learn from, and to judge by."""

    @classmethod
    @abstractmethod
    def made(cls, found: Any, context: int, **known: Any) -> Self:
        """With the objective, of what `read` has found."""

    @classmethod
    def settled(cls, config: Any, model: LanguageModel) -> Any:
        """The configuration, now that the model is known."""
        del model
        return config

    @classmethod
    def new_tokens(cls, form: ChatFormat) -> Sequence[int]:
        """Ids that the model has not met yet."""
        del form
        return ()

    @abstractmethod
    def learned(self, spec: Any) -> tuple[str, str]:
        """What is learned from, and what a step's rows are, in words."""

    def plan(self, spec: TuneSpec) -> dict[str, str]:
        data, rows = self.learned(spec)
        trained = sum(parameter.numel() for parameter in trained_parameters(self.model).values())
        lora = f" ({self.config.how})" if self.config.lora else ""
        whole = human_count(self.model.num_parameters())
        return {
            "model": f"{self.config.model}, {human_count(trained)} of {whole} parameters learn{lora}",
            "data": data,
            "training": f"{counted(spec.steps, 'step')} of {spec.batch} {rows}, {spec.how}",
        }

    def finish(self, folder: Path, loop: Loop[LanguageModel, Part]) -> tuple[str, ...]:
        """Save what LoRA learned, if it did: as a folder of its own, and in the model's weights."""
        del loop
        if self.config.lora:
            save_adapter(folder / ADAPTER, self.model, Path(self.config.model), self.tokenizer)
            if is_held(self.model):
                give_back(self.model, self.load(Path(self.config.model))[0])
            merge_lora(self.model)
        self.form.adopt()
        return ()


def context_of(model: LanguageModel, spec: TuneSpec) -> int:
    """The tokens of a row: as asked, else as many as the model reads, at most 512.

    A model with rotary positions is made to read more where more are asked for; others raise UserError.
    """
    if spec.context:
        model.extend(spec.context)
    return spec.context or min(512, model.context or 512)


def packs(model: LanguageModel) -> bool:
    """Whether rows may share a window: a recurrent model cannot keep them apart."""
    return isinstance(model, Transformer)
