"""Text to a language model's folder: tokenizer, token files, training, saved model."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from malmoi.core.nouns import Metric, Say, silent
from malmoi.core.tensors import TokenBatch
from malmoi.data.batches import fit_context
from malmoi.data.readers import Corpus, open_corpus
from malmoi.data.shards import TokenFile, write_shards
from malmoi.hub.architectures import obstacle
from malmoi.hub.card import Card, DataFile, data_files
from malmoi.hub.folder import save_model
from malmoi.learn.cards import trained_seconds, with_intervals, with_run
from malmoi.learn.distributed import Group, join_group
from malmoi.learn.record import SOURCE, describe, started_run
from malmoi.learn.run_config import NGramSpec, RunConfig, TrainSpec
from malmoi.learn.running import run_training, writing
from malmoi.learn.trainer import NextToken, StepReport, Trainer
from malmoi.learn.trial import Trial, try_step
from malmoi.metrics.statistics import ratio
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.models.ngram import KneserNey
from malmoi.text.tokenizer import TOKENIZER_FILE, Tokenizer, train_tokenizer
from malmoi.util import files
from malmoi.util.hardware import keep_heap, pick_device
from malmoi.util.locks import hold
from malmoi.util.units import counted, human_count
from malmoi.util.version import VERSION

BLOCK_TOKENS = 256  # of the validation text that a bootstrap draws at once, for an n-gram model


@dataclass(frozen=True, slots=True)
class Text:
    """A corpus as tokens, with the tokenizer that cut it."""

    tokenizer: Tokenizer
    train: TokenFile
    valid: TokenFile
    data: tuple[DataFile, ...]

    @property
    def hashes(self) -> dict[str, str]:
        """File -> SHA-256."""
        return {file.name: file.sha256 for file in self.data}


@dataclass(slots=True)
class Pretraining:
    """A prepared run: everything is there but the work."""

    config: RunConfig
    folder: Path
    text: Text
    trainer: Trainer[TokenBatch]
    trial: Trial[TrainSpec]

    @property
    def tokenizer(self) -> Tokenizer:
        return self.text.tokenizer

    @property
    def model(self) -> LanguageModel:
        return self.trainer.model

    @property
    def prompt(self) -> str:
        """What samples begin with: what was asked for, or the validation text's first words."""
        wanted = self.config.train.sample_prompt
        return self.tokenizer.decode(self.text.valid.ids[:8].tolist()) if wanted is None else wanted

    @property
    def prompt_ids(self) -> list[int]:
        """The beginning of a document with the prompt in it, or as much of that as half the context holds."""
        ids = [self.tokenizer.specials.eos, *self.tokenizer.encode(self.prompt)]
        return ids[: max(1, self.trainer.context // 2)]

    def run(self, report: Callable[[StepReport], None]) -> None:
        """Train, log every step, save the model folder (the first process of the group does).

        Ctrl-C (or SIGTERM), in any process, ends the step, saves a checkpoint and raises Stopped.
        """
        with writing(self.folder, self.trainer.group):
            run_training(self.trainer, self.folder, report)
            if self.trainer.group.first:
                save_model(self.folder, self.model, self.tokenizer, _card(self).render())
        self.trainer.group.leave()


def prepare(
    config: RunConfig,
    data: Path,
    folder: Path,
    *,
    resume: bool,
    say: Say,
    device: str = "auto",
    dry_run: bool = False,
) -> Pretraining | None:
    """Make tokenizer and token files (or take those of the run to resume) and build the model.

    A dry run leaves no record, so that the same or another command may begin in the folder. Returns None
    where the run to resume is finished. Raises UserError for a folder that holds another run, or other files,
    or that another process writes.
    """
    keep_heap()
    group = join_group()
    with writing(folder, group):
        return _prepare(config, data, folder, group, resume=resume, say=say, device=device, dry_run=dry_run)


def _prepare(
    config: RunConfig, data: Path, folder: Path, group: Group, *, resume: bool, say: Say, device: str,
    dry_run: bool,
) -> Pretraining | None:  # fmt: skip
    started = started_run(config, folder, resume=resume, say=say)
    if started is None:
        return None
    config, record = started
    first, end = group.share(config.train.batch)
    say = say if group.first else silent
    text = _shared(group, lambda: prepare_text(config, data, folder, say, begun=bool(record)))
    if record and record["data"] != text.hashes:
        say("the text has changed since the run began; going on with its tokens as they were then")
    context = fit_context(text.train, config.train.context)
    if context < config.train.context:
        say(f"the text is shorter than the context of {config.train.context} tokens, so it is {context} here")
    torch.manual_seed(config.train.seed)
    model = build_model(config.model_config_for(text.tokenizer.vocab_size, context))
    model.to(pick_device(device, group.local_rank))
    if (reason := _not_outside(model)) and not record:
        say(reason)
    objective = NextToken(text.train, text.valid, config.train, context)
    trial = try_step(model, objective, config.train, end - first)
    config = config.model_copy(update={"train": trial.spec})
    if not record and not dry_run and group.first:
        files.write_json(folder / files.RUN_RECORD, describe(config, text.hashes))
    trainer = Trainer(model, objective, trial.spec, folder, group)
    if record:
        trainer.resume(say)
    return Pretraining(config, folder, text, trainer, trial)


def count_ngrams(
    config: RunConfig, data: Path, folder: Path, *, resume: bool, say: Say
) -> tuple[float, float] | None:
    """The whole road of an n-gram model: count, evaluate, save. Returns (nats per token, bits per byte).

    Returns None where the run is finished already; an unfinished one is counted again, which takes seconds.
    """
    with hold(folder):
        return _count_ngrams(config, data, folder, resume=resume, say=say)


def _count_ngrams(
    config: RunConfig, data: Path, folder: Path, *, resume: bool, say: Say
) -> tuple[float, float] | None:
    started = started_run(config, folder, resume=resume, say=say)
    if started is None:
        return None
    text = prepare_text(config, data, folder, say)
    files.write_json(folder / files.RUN_RECORD, describe(config, text.hashes))
    start_s = time.perf_counter()
    model = KneserNey.fit(
        text.train.ids, text.tokenizer.vocab_size, order=NGramSpec.model_validate(config.model).order
    )
    if model.note:
        say(model.note)
    card = _ngram_card(config, folder, text, model, time.perf_counter() - start_s)
    save_model(folder, model, text.tokenizer, card.render())
    return card.results["loss"].value, card.results["bits_per_byte"].value


def evaluate_ngrams(model: KneserNey, valid: TokenFile, limit_tokens: int) -> tuple[float, float]:
    """Nats per token and bits per byte of the first `limit_tokens` tokens, the first one after an eos."""
    ids = np.concatenate(([valid.eos], valid.ids[:limit_tokens]))
    nats = -float(model.token_log_probs(ids)[1:].mean())
    return nats, nats / math.log(2) * valid.num_tokens / valid.num_bytes


def prepare_text(config: RunConfig, data: Path, folder: Path, say: Say, *, begun: bool = False) -> Text:
    """Tokenizer and token files in `folder`, made unless they are there.

    Where training has `begun` on those that are there they stay; else they stay only if the same text and
    settings made them.
    """
    corpus = open_corpus(
        data, valid=Path(config.data.valid) if config.data.valid else None,
        errors=config.data.errors, field=config.data.field,
    )  # fmt: skip
    if corpus.note:
        say(corpus.note)
    known = data_files(corpus.files, config.licence)
    hashes = {file.name: file.sha256 for file in known}
    if not begun:
        _keep_only_tokens_of(folder, {
            "tokenizer": config.tokenizer.model_dump(), "data": config.data.model_dump(), "files": hashes
        })  # fmt: skip
    tokenizer = _tokenizer(config, corpus, folder)
    if tokenizer.note:
        say(tokenizer.note)
    train, valid = (_tokens(corpus, part, tokenizer, folder) for part in ("train", "valid"))
    return Text(tokenizer, train, valid, known)


def _keep_only_tokens_of(folder: Path, source: dict[str, Any]) -> None:
    """Remove what an earlier preparation made from another source; note this one."""
    note = folder / "tokens" / SOURCE
    if note.exists() and files.read_json(note) == source:
        return
    shutil.rmtree(folder / "tokens", ignore_errors=True)
    (folder / TOKENIZER_FILE).unlink(missing_ok=True)
    files.write_json(note, source)


def _not_outside(model: LanguageModel) -> str:
    """Why the finished folder will not be one that other programs load, or nothing."""
    return obstacle(model.config) if isinstance(model.config, TransformerConfig) else ""


def _shared(group: Group, work: Callable[[], Text]) -> Text:
    """The first process works; the others wait, then find the files that it made."""
    if not group.first:
        group.wait()
        return work()
    found = work()
    group.wait()
    return found


def _tokenizer(config: RunConfig, corpus: Corpus, folder: Path) -> Tokenizer:
    if (folder / TOKENIZER_FILE).exists():
        return Tokenizer.load(folder)
    spec = config.tokenizer
    tokenizer = (
        Tokenizer.load(Path(spec.path)) if spec.path
        else train_tokenizer(corpus.train(), spec.kind, spec.vocab_size)
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    return tokenizer


def _tokens(corpus: Corpus, part: str, tokenizer: Tokenizer, folder: Path) -> TokenFile:
    place = folder / "tokens" / part
    if (place / files.MANIFEST).exists():
        return TokenFile.open(place)
    return write_shards(corpus.train() if part == "train" else corpus.valid(), tokenizer, place)


def _card(run: Pretraining) -> Card:
    """What README.md of the finished folder says."""
    spec, text = run.config.train, run.text
    evaluated = min(spec.eval_tokens, text.valid.num_tokens)
    card = Card(
        run.config.name,
        f"A language model of {human_count(run.model.num_parameters())} parameters, pre-trained by malmoi "
        f"{VERSION} on the user's own text for {counted(run.trainer.step, 'step')} of "
        f"{counted(spec.batch, 'row')} of {run.trainer.context} tokens. It completes text.",
        "text-generation", results=with_intervals(run.trainer, run.trainer.evaluate()),
        measured_on=f"{evaluated:,} tokens of validation text", use=_use(run.folder),
        limits=("It completes text; it was not taught to answer or to follow instructions.",),
        notes=(f"tokens in the training text: {text.train.num_tokens:,}",),
    )  # fmt: skip
    return with_run(card, run.config, text.data, _sample(text), trained_seconds(run.trainer, run.folder))


def _ngram_card(config: RunConfig, folder: Path, text: Text, model: KneserNey, seconds: float) -> Card:
    """What README.md of a counted model says. Its losses have an interval over blocks of the text."""
    ids = np.concatenate(([text.valid.eos], text.valid.ids[: config.train.eval_tokens]))
    nats_N = -model.token_log_probs(ids)[1:].astype(np.float64)
    blocks = [nats_N[start : start + BLOCK_TOKENS] for start in range(0, len(nats_N), BLOCK_TOKENS)]
    counts_E = np.array([len(block) for block in blocks], dtype=np.float64)
    loss = ratio(np.array([block.sum() for block in blocks]), counts_E, higher_is_better=False).metric()
    scale = text.valid.num_tokens / text.valid.num_bytes / math.log(2)
    low, high = loss.interval or (loss.value, loss.value)
    bits = Metric(loss.value * scale, (low * scale, high * scale), higher_is_better=False)
    card = Card(
        config.name, f"An interpolated Kneser-Ney {model.order}-gram model, counted by malmoi {VERSION} on "
        "the user's own text. It completes text.", "text-generation",
        results={"loss": loss, "bits_per_byte": bits}, use=_use(folder),
        measured_on=f"{len(nats_N):,} tokens of validation text",
        limits=(f"It sees the last {model.order - 1} tokens only.",),
        notes=(f"tokens in the training text: {text.train.num_tokens:,}",),
    )  # fmt: skip
    return with_run(card, config, text.data, _sample(text), seconds)


def _sample(text: Text) -> list[str]:
    return [text.tokenizer.decode(part.ids[:4096].tolist()) for part in (text.valid, text.train)]


def _use(folder: Path) -> tuple[str, ...]:
    load = f"model = malmoi.load({folder.name!r})"
    return "import malmoi", "", load, 'print(model.complete("...")[0].text)'
