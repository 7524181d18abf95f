"""A preference tuning from its files to a model folder: the work around `malmoi.learn.preference`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from malmoi.core.errors import UserError
from malmoi.core.nouns import Finding, Json, Say
from malmoi.data.arrow import files_of
from malmoi.data.labelled import SKIPPED
from malmoi.data.preferences import read_preferences
from malmoi.hub.card import Card, DataFile, data_files
from malmoi.hub.folder import load_model, save_model
from malmoi.learn.cards import trained_seconds, with_intervals, with_run
from malmoi.learn.distributed import Group, join_group
from malmoi.learn.finetune import (
    TuneConfig,
    chat_use,
    context_of,
    load_tuning,
    save_additions,
    with_steps,
)
from malmoi.learn.preference import PairBatch, Pairs, Preferences, PreferenceSpec
from malmoi.learn.record import describe, same_files, started_run
from malmoi.learn.running import run_training, writing
from malmoi.learn.trainer import StepReport, Trainer
from malmoi.learn.trial import Trial, try_step
from malmoi.learn.tuning import held_out
from malmoi.models.language import LanguageModel
from malmoi.models.lora import add_lora
from malmoi.text.chat import ChatFormat, ChatRow
from malmoi.text.tokenizer import Tokenizer
from malmoi.util import files
from malmoi.util.hardware import keep_heap, pick_device
from malmoi.util.units import counted, human_count
from malmoi.util.version import VERSION

Rows = tuple[ChatRow, ChatRow]


class AlignConfig(TuneConfig):
    """Everything that decides a preference tuning, except the data."""

    with_lora: ClassVar[Json] = {"lr": 5e-4}

    train: PreferenceSpec = PreferenceSpec()  # pyright: ignore[reportIncompatibleVariableOverride]  (frozen)


def load_alignment(
    model: Path, data: Path, valid: Path | None, settings: Sequence[str], *, beta: float | None = None,
    lora: bool = False, allow_skips: bool = False, licence: str | None = None,
) -> AlignConfig:  # fmt: skip
    """What is asked for; see `load_tuning`."""
    asked = [*settings, *([] if beta is None else [f"train.beta={beta}"])]
    config = load_tuning(
        model, [str(data)], [str(valid)] if valid else [], asked, lora=lora, allow_skips=allow_skips,
        licence=licence, kind=AlignConfig,
    )  # fmt: skip
    assert isinstance(config, AlignConfig)
    return config


@dataclass(slots=True)
class Alignment:
    """A prepared preference tuning: everything is there but the work."""

    config: AlignConfig
    folder: Path
    form: ChatFormat
    objective: Preferences
    trainer: Trainer[PairBatch]
    trial: Trial[PreferenceSpec]
    findings: list[Finding]
    data: tuple[DataFile, ...]

    @property
    def model(self) -> LanguageModel:
        return self.trainer.model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.form.tokenizer

    @property
    def prompt_ids(self) -> list[int]:
        """A held-out question that samples answer while tuning goes on."""
        row = self.objective.valid.rows[0]
        return row.ids[: row.trained.index(True)]

    def told(self, found: dict[str, float]) -> list[str]:
        """The held-out pairs before tuning and now, for people."""
        was, pairs = self.objective.valid.chosen_is_likelier, len(self.objective.valid)
        return [
            f"before: the chosen answer was the likelier one in {was:.1%} of {pairs:,} held-out pairs; "
            "reward margin 0",
            f"after: in {found['likelier']:.1%}; reward margin {found['margin']:.3f}, "
            f"reward accuracy {found['accuracy']:.1%}",
        ]

    def run(self, report: Callable[[StepReport], None]) -> dict[str, float]:
        """Tune, log, save; returns the validation's measures (see `Preferences.evaluate`).

        Ctrl-C (or SIGTERM) ends the step, saves a checkpoint and raises Stopped.
        """
        with writing(self.folder, self.trainer.group):
            run_training(self.trainer, self.folder, report)
            found = self.trainer.evaluate()
            if self.trainer.group.first:
                save_additions(self.config, self.folder, self.model, self.tokenizer)
                ends = sorted(self.form.end_ids)
                save_model(self.folder, self.model, self.tokenizer, _card(self, found).render(), ends=ends)
        self.trainer.group.leave()
        return found


def prepare_alignment(
    config: AlignConfig, folder: Path, *, resume: bool, say: Say, device: str = "auto"
) -> Alignment | None:
    """Load the model, read the pairs, compute the reference. None where the run to resume is finished.

    Raises UserError for a model that cannot chat, data that cannot be used, a folder that holds other things
    or that another process writes.
    """
    keep_heap()
    group = join_group()
    with writing(folder, group):
        return _prepare(config, folder, group, resume=resume, say=say, device=device)


def _prepare(
    config: AlignConfig, folder: Path, group: Group, *, resume: bool, say: Say, device: str
) -> Alignment | None:
    started = started_run(config, folder, resume=resume, say=say)
    if started is None:
        return None
    config, record = started
    model, form = _load_chat(Path(config.model))
    model.to(pick_device(device, group.local_rank))
    context, findings = context_of(model, config.train), []
    train, valid = _read(config, form, context, findings)
    paths = [file for name in (*config.data, *config.valid) for file in files_of(Path(name))]
    read = data_files({str(path): path for path in paths}, config.licence)
    hashes = same_files(read, record, folder)
    torch.manual_seed(config.train.seed)
    if config.lora:
        add_lora(model, config.lora)
    spec = with_steps(config.train, len(train))
    objective = Preferences(Pairs(train, context), Pairs(valid, context), spec)
    first, end = group.share(spec.batch)
    trial = try_step(model, objective, spec, end - first)
    config = config.model_copy(update={"train": trial.spec})
    if not record and group.first:
        files.write_json(folder / files.RUN_RECORD, describe(config, hashes))
    trainer = Trainer(model, objective, trial.spec, folder, group)
    objective.refer(model, trainer.micro_rows, trial.spec.dtype)  # before a resume changes the weights
    if record:
        trainer.resume(say)
    return Alignment(config, folder, form, objective, trainer, trial, findings, read)


def _load_chat(folder: Path) -> tuple[LanguageModel, ChatFormat]:
    model, tokenizer = load_model(folder)
    if not isinstance(model, LanguageModel) or tokenizer is None:
        raise UserError(
            f"{folder} is no chat model; make one with: malmoi finetune MODEL --data ... --out DIR"
        )
    return model, ChatFormat.of(tokenizer)


def _read(
    config: AlignConfig, form: ChatFormat, context: int, findings: list[Finding]
) -> tuple[list[Rows], list[Rows]]:
    """Pairs to learn from and to judge by: of `valid`, or held out."""
    parts = [
        read_pairs(Path(name), form, context, findings, allow_skips=config.allow_skips)
        for name in (*config.data, *config.valid)
    ]
    train, valid = parts if len(parts) > 1 else (parts[0], held_out(parts[0], config.train.seed))
    kept = set(map(id, valid))
    train = [pair for pair in train if id(pair) not in kept]
    if not valid:
        raise UserError(f"{config.data[0]} holds one pair only; give more, or others with `valid`")
    return train, valid


def read_pairs(
    path: Path, form: ChatFormat, context: int, report: list[Finding], *, allow_skips: bool = False
) -> list[Rows]:
    """The pairs of a file or folder as ids, of which only the last answer is trained.

    What is left out is reported. Raises UserError where there is none, or more than 1% cannot be used.
    """
    findings: list[Finding] = []
    pairs: list[Rows] = []
    for row in read_preferences(path, findings.append):
        chosen, rejected = (_last_trained(form.training_row(it)) for it in (row.chosen, row.rejected))
        longest = max(len(chosen.ids), len(rejected.ids))
        if chosen.ids == rejected.ids:
            findings.append(Finding("error", row.source, "chosen and rejected are the same tokens"))
        elif longest > context + 1:
            reason = f"an answer with its prompt takes {longest} tokens, and the context is {context}"
            findings.append(Finding("error", row.source, reason))
        else:
            pairs.append((chosen, rejected))
    errors = [finding for finding in findings if finding.level == "error"]
    num_rows = len(pairs) + len(errors)
    if not pairs or (len(errors) > SKIPPED * num_rows and not allow_skips):
        first = f"; the first, {errors[0].where}: {errors[0].message}" if errors else ""
        mend = "`allow_skips` goes on without them" if pairs else "give rows of prompt, chosen and rejected"
        raise UserError(f"{path}: {len(errors)} of {num_rows} rows cannot be used{first}; {mend}")
    report += findings
    return pairs


def _last_trained(row: ChatRow) -> ChatRow:
    """The row with only its last answer trained: both answers of a pair follow the same turns."""
    end = len(row.trained) - row.trained[::-1].index(True)
    start = end - [*row.trained[:end][::-1], False].index(False)
    return replace(row, trained=[told and at >= start for at, told in enumerate(row.trained)])


def _card(run: Alignment, found: dict[str, float]) -> Card:
    """What README.md of the tuned folder says."""
    config, spec = run.config, run.config.train
    how = f"LoRA of rank {config.lora.rank}" if config.lora else "all weights"
    card = Card(
        f"{Path(config.model).name}, tuned to preferences",
        f"A chat model of {human_count(run.model.num_parameters())} parameters, tuned ({how}) by malmoi "
        f"{VERSION} with DPO, beta {spec.beta:g}, on {counted(len(run.objective.train), 'pair')} for "
        f"{counted(run.trainer.step, 'step')} of {counted(spec.batch, 'pair')}.",
        "text-generation", base=Path(config.model).name, tags=("conversational", "dpo"),
        results=with_intervals(run.trainer, found), use=chat_use(run.folder), notes=tuple(run.told(found)),
        measured_on=counted(len(run.objective.valid), "held-out pair"),
        limits=("It prefers what the people (or programs) who chose preferred, right or wrong.",),
    )  # fmt: skip
    texts = [run.tokenizer.decode(row.ids) for row in run.objective.train.rows[:20]]
    seconds = trained_seconds(run.trainer, run.folder)
    return with_run(card, config, run.data, texts, seconds)
