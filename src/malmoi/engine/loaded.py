"""What a user holds after `malmoi.load(folder)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.engine.engine import Engine
from malmoi.engine.request import Completion, Sampling, TokenEvent
from malmoi.engine.session import as_messages, check_one_reply
from malmoi.hub.folder import load_model, load_stored
from malmoi.models.formats import find_format
from malmoi.models.language import LanguageModel
from malmoi.models.packed import pack, precision
from malmoi.models.state import Scorer
from malmoi.text.chat import ChatFormat
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.hardware import pick_device


class Loaded:
    """A trained model, ready to answer. `options` are the fields of `Sampling`.

    dtype: what it computes with, fp32, bf16 or fp16. quantize: "int8" or "int4" to hold its matrices in
    that many bits (a processor only, and fp32). The names are those of `malmoi.models.formats`. Without both
    weights stay as they are stored, which is fastest without a loss, where our kernels can have them so: in
    bf16, or in the few bits of a GGUF file; else it is fp32. On a processor matrices are packed for speed, so
    it can not be trained further: `malmoi.hub.folder:load_model` gives a model that can.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "cpu",
        dtype: str | None = None,
        quantize: str | None = None,
    ) -> None:
        """Raises UserError for an option out of range or a folder that cannot be used."""
        self.folder = Path(folder)
        if dtype is None and not quantize:
            self.model, self._tokenizer = load_stored(self.folder, device)
            return
        format = find_format(dtype or "fp32", quantize)
        self.model, self._tokenizer = load_model(self.folder, device=device, dtype=format.dtype)
        if isinstance(self.model, LanguageModel):
            pack(self.model, format)
        elif format.name != "fp32":
            raise UserError(f"{self.folder} is an n-gram model: counts, which have no dtype and no int8")

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise UserError(f"{self.folder} has no tokenizer.json; only logits(ids_BT) works without one")
        return self._tokenizer

    @property
    def precision(self) -> str:
        """What its weights are held in, for people: "bf16", "4 and 8 bits", "counts"."""
        return precision(self.model) if isinstance(self.model, LanguageModel) else "counts"

    def complete(self, prompts: str | Sequence[str], **options: Any) -> list[Completion]:
        """n completions of each prompt. Raises UserError for an option or prompt out of range."""
        texts = [prompts] if isinstance(prompts, str) else prompts
        return Engine(self.model, self.tokenizer).generate(texts, Sampling(**options))

    def stream(self, prompt: str, **options: Any) -> Iterator[TokenEvent]:
        """The completion of one prompt, token by token."""
        return Engine(self.model, self.tokenizer).stream(prompt, Sampling(**options))

    def chat(self, messages: str | Sequence[Message | Mapping[str, str]], **options: Any) -> str:
        """The reply to one text, or to turns as {"role", "content"}, oldest first.

        Raises UserError for a model without a chat template, turns out of order, or more than fits; nothing
        is dropped (`malmoi.engine.session.ChatSession` keeps a history and drops the oldest turns).
        """
        check_one_reply(Sampling(**options))
        return "".join(event.text for event in self.chat_stream(messages, **options))

    def chat_stream(
        self, messages: str | Sequence[Message | Mapping[str, str]], **options: Any
    ) -> Iterator[TokenEvent]:
        """As `chat`, token by token."""
        ids = ChatFormat.of(self.tokenizer).prompt_ids(as_messages(messages))
        return Engine(self.model, self.tokenizer).stream(ids, Sampling(**options))

    def logits(self, ids_BT: Tensor) -> Tensor:
        """Next-token logits_BTV at every position, fp32."""
        rows, length = ids_BT.shape
        if isinstance(self.model, LanguageModel) and length > (self.model.context or length):
            raise UserError(f"{length} tokens exceed the model's context of {self.model.context}")
        state = self.model.new_state(rows, length)
        return self.model.step(ids_BT, torch.full((rows,), length), state)


def open_model(folder: Path) -> tuple[Scorer, Tokenizer]:
    """A language model on this machine's device, packed.

    Raises UserError where there is none, or no tokenizer.
    """
    model, tokenizer = load_stored(folder, device=pick_device())
    if tokenizer is None:
        raise UserError(f"{folder} has no tokenizer.json, so nothing can be asked of it; add the model's own")
    if isinstance(model, LanguageModel):
        model.eval()
    return model, tokenizer
