"""Instruction tuning: a model that completes text learns to answer, from conversations and tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter

from malmoi.core.config import apply_setting
from malmoi.core.errors import UserError
from malmoi.core.nouns import Json, Say
from malmoi.core.tensors import Loss, TokenBatch, mean
from malmoi.data.arrow import files_of
from malmoi.data.packing import Packed
from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling
from malmoi.hub.adapter import save_adapter
from malmoi.hub.card import Card, DataFile, data_files
from malmoi.hub.folder import load_model, save_model
from malmoi.learn.cards import trained_seconds, with_intervals, with_run
from malmoi.learn.distributed import Group, join_group
from malmoi.learn.losses import next_token_loss
from malmoi.learn.optim import OptimizerKind
from malmoi.learn.record import describe, same_files, started_run
from malmoi.learn.run_config import AnyRun, LoopSpec, checked
from malmoi.learn.running import run_training, writing
from malmoi.learn.schedule import Schedule
from malmoi.learn.trainer import StepReport, Trainer
from malmoi.learn.trial import Trial, try_step
from malmoi.learn.tuning import Material, Rendered, Source, make_material
from malmoi.models.language import LanguageModel
from malmoi.models.lora import LoRASpec, add_lora, merge_lora
from malmoi.models.recurrent import Recurrent
from malmoi.models.transformer import Transformer
from malmoi.text.chat import ChatFormat, ChatRow, chat_template
from malmoi.text.tokenizer import Tokenizer
from malmoi.util import files
from malmoi.util.files import WEIGHTS
from malmoi.util.hardware import keep_heap, pick_device
from malmoi.util.units import counted, human_count
from malmoi.util.version import VERSION

Row = TypeVar("Row")
Spec = TypeVar("Spec", bound="TuneSpec")
ADAPTER = "adapter"  # in the folder of a model that was tuned with LoRA
FULL_LR, LORA_LR = 2e-3, 6e-3  # of Muon on all weights of a small model, of AdamW on LoRA's
SMALL_WIDTH = 256  # of the widest small model; wider ones are moved in smaller steps
ASKED, REPLY_TOKENS = 20, 128  # how many are asked, and how long they may answer, to see if replies end
FEW_ENDED = 0.8
EVALUATIONS = 5  # on the way, the last step's included


class TuneSpec(LoopSpec):
    """How to tune. A window has `context` tokens (None: as many as the model's, at most 512); more than the
    model was made for are learned where its positions are rotary.

    epochs: how often each row is seen, unless `steps` are given. lr: unless given it is less for wide models.
    """

    optimizer: OptimizerKind = "muon"
    schedule: Schedule = "cosine"
    warmup_steps: int = 20
    lr: PositiveFloat = FULL_LR
    weight_decay: float = 0.0
    epochs: PositiveFloat = 3
    context: PositiveInt | None = None


class TuneConfig(AnyRun):
    """Everything that decides a tuning, except the data. model: the folder that it begins with.

    budget_seconds: there are at most as many steps as it affords, going by a trial step.
    """

    with_lora: ClassVar[Json] = {"optimizer": "adamw"}  # what is usual there

    model: str
    weights: str  # their SHA-256
    data: tuple[str, ...]
    valid: tuple[str, ...] = ()
    budget_seconds: PositiveFloat | None = None
    fields: dict[str, str] = Field(default_factory=dict)
    allow_skips: bool = False
    lora: LoRASpec | None = None
    train: TuneSpec = TuneSpec()  # pyright: ignore[reportIncompatibleVariableOverride]  (frozen)


def load_tuning(
    model: Path, data: Sequence[str], valid: Sequence[str], settings: Sequence[str], *, lora: bool = False,
    fields: Mapping[str, str] | None = None, allow_skips: bool = False, budget_seconds: float | None = None,
    licence: str | None = None, kind: type[TuneConfig] = TuneConfig,
) -> TuneConfig:  # fmt: skip
    """What is asked for, with `train.a=b` and `lora.a=b` settings applied.

    Raises UserError, with the nearest valid name, for a wrong one, and for a `model` that is none.
    """
    value: Json = {"train": {**kind.with_lora}, "lora": {}} if lora else {"train": {}}
    for setting in settings:
        if setting.startswith("lora.") and not lora:
            raise UserError(f"`set` {setting} has no effect without `lora`")
        if not setting.startswith(("lora.", "train.")):
            raise UserError(f"`set` {setting}: known places are train and lora, for example train.epochs=2")
        apply_setting(value, setting)
    if budget_seconds and "steps" in value["train"]:
        raise UserError("`budget` and train.steps both say how long to tune; give one of them")
    known = {
        "model": str(model.resolve()), "weights": weights_hash(model), "data": tuple(data),
        "valid": tuple(valid), "fields": dict(fields or {}), "allow_skips": allow_skips,
        "budget_seconds": budget_seconds, "licence": licence,
    }  # fmt: skip
    return checked(TypeAdapter(kind), value | known, "", kind)


class Conversations:
    """Instruction tuning as an objective: only what the assistant says is learned."""

    def __init__(self, train: Packed, valid: Packed, batch: int, tokenizer: Tokenizer) -> None:
        self.train, self.valid, self.windows = train, valid, batch
        self.context = train.context if train.together else train.mean_tokens
        said = ([id for id, told in zip(row.ids, row.trained, strict=True) if told] for row in valid.rows)
        self._valid_bytes = sum(len(tokenizer.decode(ids).encode()) for ids in said)

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


@dataclass(slots=True)
class Tuning:
    """A prepared tuning: everything is there but the work."""

    config: TuneConfig
    folder: Path
    form: ChatFormat
    material: Material
    trainer: Trainer[TokenBatch]
    trial: Trial[TuneSpec]
    data: tuple[DataFile, ...]

    @property
    def model(self) -> LanguageModel:
        return self.trainer.model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.form.tokenizer

    @property
    def prompt_ids(self) -> list[int]:
        """A held-out question that samples answer while tuning goes on, or the beginning of an answer."""
        asked = questions(self.material.valid, self.form, self.model.context)
        return next(asked, self.material.valid[0].row.ids[:1])

    def run(self, report: Callable[[StepReport], None]) -> tuple[int, int]:
        """Tune, log, save; returns how many of how many replies ended by themselves.

        Ctrl-C (or SIGTERM) ends the step, saves a checkpoint and raises Stopped.
        """
        group = self.trainer.group
        ended = (0, 0)
        with writing(self.folder, group):
            run_training(self.trainer, self.folder, report)
            if group.first:
                save_additions(self.config, self.folder, self.model, self.tokenizer)
                self.form.adopt()
                ended = replies_ended(self.model, self.form, self.material.valid)
                ends = sorted(self.form.end_ids)
                save_model(self.folder, self.model, self.tokenizer, _card(self, ended).render(), ends=ends)
        group.leave()
        return ended


def save_additions(config: TuneConfig, folder: Path, model: LanguageModel, tokenizer: Tokenizer) -> None:
    """What LoRA learned, if it did: as a folder of its own, and in the model's weights."""
    if config.lora:
        save_adapter(folder / ADAPTER, model, Path(config.model), tokenizer)
        merge_lora(model)


def prepare_tuning(
    config: TuneConfig, folder: Path, *, resume: bool, say: Say, device: str = "auto"
) -> Tuning | None:
    """Load the model, read and render the data. None where the tuning to resume is finished.

    Raises UserError for data that cannot be learned from, and for a folder that holds something else or that
    another process writes.
    """
    keep_heap()
    group = join_group()
    with writing(folder, group):
        return _prepare(config, folder, group, resume=resume, say=say, device=device)


def _prepare(
    config: TuneConfig, folder: Path, group: Group, *, resume: bool, say: Say, device: str
) -> Tuning | None:
    started = started_run(config, folder, resume=resume, say=say)
    if started is None:
        return None
    config, record = started
    model, form = load_tunable(Path(config.model))
    model.to(pick_device(device, group.local_rank))
    spec = with_lr(config.train, model, lora=config.lora is not None)
    context = context_of(model, spec)
    material = _material(config, form, context)
    paths = [path for text in (*config.data, *config.valid) for path in files_of(Source.parse(text).path)]
    read = data_files({str(path): path for path in paths}, config.licence)
    hashes = same_files(read, record, folder)
    torch.manual_seed(spec.seed)
    if config.lora:
        add_lora(model, config.lora, new_markers(form.tokenizer))
    objective = make_objective(model, material, spec, context, form.tokenizer)
    first, end = group.share(spec.batch)
    trial = try_step(model, objective, spec, end - first)
    most = None if record else affordable_steps(objective, trial, config.budget_seconds, group)
    trial = replace(trial, spec=with_steps(trial.spec, objective.train.windows_per_epoch, most))
    config = config.model_copy(update={"train": trial.spec})
    if not record and group.first:
        files.write_json(folder / files.RUN_RECORD, describe(config, hashes))
    trainer = Trainer(model, objective, trial.spec, folder, group)
    if record:
        trainer.resume(say)
    return Tuning(config, folder, form, material, trainer, trial, read)


def preview(config: TuneConfig, count: int = 3) -> tuple[list[list[tuple[str, bool]]], Material]:
    """A few rows as pieces of (text, whether it is learned), and all that would be learned from."""
    model, form = load_tunable(Path(config.model))
    material = _material(config, form, context_of(model, config.train))
    rows = spread(material.train, count)
    return [list(_pieces(row, form.tokenizer)) for row in rows], material


def _pieces(row: ChatRow, tokenizer: Tokenizer) -> Iterator[tuple[str, bool]]:
    """Markers by name, and the text between two; in pieces that are learned as a whole or not."""
    specials = tokenizer.specials.ids

    def kind(pair: tuple[int, bool]) -> tuple[bool, bool]:
        return pair[0] in specials, pair[1]

    for (special, told), pairs in groupby(zip(row.ids, row.trained, strict=True), kind):
        ids = [id for id, _ in pairs]
        text = "".join(map(tokenizer.token_text, ids)) if special else tokenizer.decode(ids)
        yield text, told


def load_tunable(folder: Path) -> tuple[LanguageModel, ChatFormat]:
    """A model folder's network and chat format. Raises UserError for one that cannot be tuned."""
    model, tokenizer = load_model(folder)
    if not isinstance(model, LanguageModel):
        raise UserError(f"{folder} is an n-gram model, which only counts; tune a GPT or an LSTM")
    if tokenizer is None:
        raise UserError(f"{folder} has no tokenizer.json; put the tokenizer of its model there")
    return model, ChatFormat.for_tuning(tokenizer)


def new_markers(tokenizer: Tokenizer) -> list[int]:
    """The turn markers, where no chat template tells that the model has met them."""
    return [] if chat_template(tokenizer) else sorted(tokenizer.specials.turns.values())


def make_objective(
    model: LanguageModel, material: Material, spec: LoopSpec, context: int, tokenizer: Tokenizer
) -> Conversations:
    """Rows packed together, but for a recurrent model, which cannot keep them apart."""
    together, valid = not isinstance(model, Recurrent), [one.row for one in material.valid]
    learned = Packed(material.train, context, seed=spec.seed, together=together, weights=material.weights)
    judged = Packed(valid, context, seed=spec.seed, together=together)
    return Conversations(learned, judged, spec.batch, tokenizer)


def with_lr(spec: TuneSpec, model: LanguageModel, *, lora: bool) -> TuneSpec:
    """The spec with the usual learning rate, unless one is given."""
    lr = (LORA_LR if lora else FULL_LR) * min(1, SMALL_WIDTH / model.config.width)
    return spec if "lr" in spec.model_fields_set else spec.model_copy(update={"lr": lr})


def affordable_steps(
    objective: Conversations, trial: Trial[Spec], seconds: float | None, group: Group
) -> int | None:
    """How many steps, with their evaluations, a trial's speed allows; None where there is no budget."""
    if seconds is None:
        return None
    # without a backward pass it takes a third of a step, and every process judges by all rows
    judging = (EVALUATIONS + 1) / 3 * objective.valid.windows_per_epoch * group.size
    tokens_per_s = group.sum_over_processes(trial.tokens_per_s)[0]
    return max(1, int((seconds * tokens_per_s / objective.context - judging) / trial.spec.batch))


def with_steps(spec: Spec, per_epoch: int, most: int | None = None) -> Spec:
    """The steps that epochs of so many rows are, `most` at most; how often to evaluate and to save."""
    steps = math.ceil(spec.epochs * per_epoch / spec.batch)
    steps = spec.steps if "steps" in spec.model_fields_set else min(steps, most or steps)
    every = math.ceil(steps / EVALUATIONS)
    warmup_steps = min(spec.warmup_steps, steps // 10)
    derived = {
        "steps": steps, "eval_every": every, "checkpoint_every": every, "warmup_steps": warmup_steps
    }  # fmt: skip
    asked = {name: getattr(spec, name) for name in derived if name in spec.model_fields_set}
    return spec.model_copy(update=derived | asked)


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


def _material(config: TuneConfig, form: ChatFormat, context: int) -> Material:
    train, valid = ([Source.parse(text) for text in of] for of in (config.data, config.valid))
    if any(source.weight != 1 for source in valid):
        raise UserError("`valid` takes no weight: what is judged by is seen once")
    return make_material(
        train, valid, form, config.train.seed, context, fields=config.fields, allow_skips=config.allow_skips
    )


def context_of(model: LanguageModel, spec: TuneSpec) -> int:
    """The tokens of a row: as asked, else as many as the model reads, at most 512.

    A model with rotary positions is made to read more where more are asked for; others raise UserError.
    """
    if spec.context and model.context and spec.context > model.context:
        assert isinstance(model, Transformer)
        model.extend(spec.context)
    return spec.context or min(512, model.context or 512)


def weights_hash(folder: Path) -> str:
    """What identifies a model folder's weights. Raises UserError where it has none."""
    files.check_readable(folder)
    for name in (WEIGHTS, "adapter_model.safetensors"):
        if (folder / name).is_file():
            return files.sha256(folder / name)
    raise UserError(f"{folder} is not a finished model folder; give the `out` folder of a finished run")


def _card(run: Tuning, ended: tuple[int, int]) -> Card:
    """What README.md of the tuned folder says."""
    config, spec, rows = run.config, run.config.train, run.material.train
    how = f"LoRA of rank {config.lora.rank}" if config.lora else "all weights"
    card = Card(
        f"{Path(config.model).name}, tuned to answer",
        f"A chat model of {human_count(run.model.num_parameters())} parameters, tuned ({how}) by malmoi "
        f"{VERSION} on {counted(len(rows), 'conversation')} for {counted(run.trainer.step, 'step')} "
        f"of {counted(spec.batch, 'window')} of {run.trainer.context} tokens.",
        "text-generation", base=Path(config.model).name, tags=("conversational",),
        results=with_intervals(run.trainer, run.trainer.evaluate()), use=chat_use(run.folder),
        measured_on=f"the assistant's turns of {counted(len(run.material.valid), 'held-out conversation')}",
        notes=(f"it ended its turn in {ended[0]} of {ended[1]} replies to held-out questions",),
    )  # fmt: skip
    texts = [run.tokenizer.decode(row.ids) for row in spread(rows, ASKED)]
    seconds = trained_seconds(run.trainer, run.folder)
    return with_run(card, config, run.data, texts, seconds)


def chat_use(folder: Path) -> tuple[str, ...]:
    """How to talk with a model of that folder."""
    return "import malmoi", "", f"model = malmoi.load({folder.name!r})", 'print(model.chat("..."))'
