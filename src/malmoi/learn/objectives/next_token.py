"""Pre-training: every position of a text predicts the next token, from text to a model folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from malmoi.core.tensors import Loss, TokenBatch, mean
from malmoi.data.batches import batch, evaluation_batches, fit_context, windows_per_epoch
from malmoi.data.shards import TokenFile
from malmoi.hub.architectures import obstacle
from malmoi.learn import cards
from malmoi.learn.corpus import Text, prepare_text
from malmoi.learn.job import Place, Training
from malmoi.learn.loop import Loop, Objective
from malmoi.learn.losses import next_token_loss
from malmoi.learn.run_config import RunConfig, TrainSpec, with_lr
from malmoi.models.language import LanguageModel


class NextToken(Objective[LanguageModel, TokenBatch]):
    """Pre-training: windows of a text, where every position predicts the next token."""

    def __init__(self, train: TokenFile, valid: TokenFile, spec: TrainSpec, context: int) -> None:
        self.train, self.valid, self.spec, self.context = train, valid, spec, context

    @property
    def rows_per_epoch(self) -> int:
        return windows_per_epoch(self.train, self.context)

    def part(self, step: int, start: int, stop: int) -> TokenBatch:
        spec = self.spec
        seed = None if spec.order == "as_written" else spec.seed
        return batch(
            self.train, seed=seed, step=step, rows=spec.batch, context=self.context, start=start, stop=stop
        )

    def trial(self, rows: int) -> TokenBatch:
        """The first row over and over, as two documents: those cost more."""
        one, context = self.part(0, 0, 1), self.context
        assert one.targets_BT is not None
        documents_BT = (torch.arange(context) >= context // 2).long().expand(rows, -1)
        return TokenBatch(one.ids_BT.expand(rows, -1), one.targets_BT.expand(rows, -1), documents_BT)

    def loss(self, model: LanguageModel, part: TokenBatch) -> Loss:
        return next_token_loss(model, part.to(model.device))

    def evaluate(
        self, loss: Callable[[TokenBatch], Loss], rows: int, limit: int | None = None
    ) -> dict[str, float]:
        """loss (nats per token) and bits_per_byte, which compares across tokenizers."""
        limit = limit or self.spec.eval_tokens
        nats = mean(map(loss, evaluation_batches(self.valid, self.context, rows, limit)))
        tokens_per_byte = self.valid.num_tokens / self.valid.num_bytes
        return {"loss": nats, "bits_per_byte": nats / math.log(2) * tokens_per_byte}


@dataclass(kw_only=True)
class Pretraining(Training[TokenBatch]):
    """A run of `malmoi pretrain`."""

    Config = RunConfig

    text: Text

    @classmethod
    def open(cls, config: RunConfig, place: Place) -> Self:
        """Make tokenizer and token files (or take those of the run to resume) and build the model."""
        text = _text(config, place)
        if not place.same_files(text.data):
            place.say("the text has changed since the run began; going on with its tokens as they were then")
        context = fit_context(text.train, config.train.context)
        if context < config.train.context:
            asked = config.train.context
            place.say(f"the text is shorter than the context of {asked} tokens, so it is {context} here")
        torch.manual_seed(config.train.seed)
        model = place.on_device(config.first_model(text.tokenizer.vocab_size, context))
        if config.base:
            spec = with_lr(config.train, model.config.width, lora=False)
            config = config.model_copy(update={"train": spec})
        if (reason := obstacle(model.config)) and not place.record:  # other programs will not load the folder
            place.say(reason)
        objective = NextToken(text.train, text.valid, config.train, context)
        return cls(
            config=config, model=model, tokenizer=text.tokenizer, objective=objective, data=text.data,
            text=text,
        )  # fmt: skip

    def plan(self, spec: TrainSpec) -> dict[str, str]:
        shape, context, human_count = self.model.config, self.objective.context, cards.human_count
        num_heads = getattr(shape, "heads", None)  # a recurrent network has none
        heads = f", {cards.counted(num_heads, 'head')}" if num_heads else ""
        layers = f"{cards.counted(shape.layers, 'layer')}, {shape.width} wide{heads}"
        seen, corpus = spec.steps * spec.batch * context, self.text.train.num_tokens
        size = self.config.settings_of_size
        begun = ", trained further" if self.config.base else ""
        return {
            "model": f"{self.config.name}{begun}, {human_count(self.model.num_parameters())} parameters: "
            f"{layers}, vocabulary {shape.vocab_size}",
            "text": f"{human_count(corpus)} tokens, {human_count(self.text.valid.num_tokens)} more for "
            "validation",
            "training": f"{cards.counted(spec.steps, 'step')} of {cards.counted(spec.batch, 'row')} of "
            f"{context} = {human_count(seen)} tokens ({seen / corpus:.2g} passes), {spec.how}",
        } | ({"size": size} if size else {})

    @property
    def prompt(self) -> str:
        """What samples begin with: what was asked for, or the validation text's first words."""
        wanted = self.config.train.sample_prompt
        return self.tokenizer.decode(self.text.valid.ids[:8].tolist()) if wanted is None else wanted

    @property
    def prompt_ids(self) -> list[int]:
        """The beginning of a document with the prompt in it, or as much of that as half the context holds."""
        ids = [self.tokenizer.specials.eos, *self.tokenizer.encode(self.prompt)]
        return ids[: max(1, self.objective.context // 2)]

    @property
    def sample(self) -> list[str]:
        return self.text.sample

    def card(
        self, loop: Loop[LanguageModel, TokenBatch], folder: Path, closing: tuple[str, ...]
    ) -> cards.Card:
        text = self.text
        evaluated = min(self.config.train.eval_tokens, text.valid.num_tokens)
        base = Path(self.config.base.path).name if self.config.base else ""
        how = "pre-trained further" if base else "pre-trained"
        made = cards.summary("language model", how, "on the user's own text", loop, "row")
        return cards.Card(
            self.config.name, f"{made} of {loop.context} tokens. It completes text.", "text-generation",
            measured_on=f"{evaluated:,} tokens of validation text", use=cards.completion_use(folder),
            limits=("It completes text; it was not taught to answer or to follow instructions.",),
            notes=(*closing, f"tokens in the training text: {text.train.num_tokens:,}"), base=base,
        )  # fmt: skip


def _text(config: RunConfig, place: Place) -> Text:
    """The first process makes it; the others wait, then find the files that it made."""
    assert place.data is not None

    def made() -> Text:
        assert place.data is not None
        return prepare_text(config, place.data, place.folder, place.say, begun=bool(place.record))

    if not place.group.first:
        place.group.wait()
        return made()
    found = made()
    place.group.wait()
    return found
