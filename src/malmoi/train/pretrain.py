"""Text to a language model's folder: tokenizer, token files, training, saved model."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import malmoi
from malmoi.data.batches import fit_context
from malmoi.data.readers import Corpus, open_corpus
from malmoi.data.shards import TokenFile, write_shards
from malmoi.hub.folder import WEIGHTS, save_model
from malmoi.models.build import build_model
from malmoi.models.language import LanguageModel
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.train.run import RunConfig
from malmoi.train.trainer import StepReport, Trainer, default_micro_batch
from malmoi.util import files
from malmoi.util.errors import UserError
from malmoi.util.hardware import pick_device
from malmoi.util.heap import keep_heap
from malmoi.util.units import human_count

Say = Callable[[str], None]
RECORD, METRICS = "run.json", "metrics.jsonl"


@dataclass(slots=True)
class Pretraining:
    """A prepared run: everything is there but the work."""

    config: RunConfig
    folder: Path
    tokenizer: Tokenizer
    trainer: Trainer

    @property
    def model(self) -> LanguageModel:
        return self.trainer.model

    def run(self, report: Callable[[StepReport], None]) -> None:
        """Train, log every step to metrics.jsonl, save the model folder. Ctrl-C saves a checkpoint first."""
        metrics = self.folder / METRICS
        kept = [line for line in _lines(metrics) if json.loads(line)["step"] <= self.trainer.step]
        files.write_text(metrics, "".join(f"{line}\n" for line in kept))
        try:
            with metrics.open("a", encoding="utf-8") as log:
                for found in self.trainer.run():
                    log.write(json.dumps(asdict(found)) + "\n")
                    log.flush()
                    report(found)
        except KeyboardInterrupt:
            self.trainer.save()
            raise
        save_model(self.folder, self.model, self.tokenizer, _card(self))


def prepare(
    config: RunConfig, data: Path, folder: Path, *, resume: bool, say: Say, device: str = "auto"
) -> Pretraining | None:
    """Make tokenizer and token files (or take those of the run to resume) and build the model.

    Returns None where the run to resume is finished. Raises UserError for a folder that holds another run.
    """
    keep_heap()
    record = folder / RECORD
    if record.exists() and not resume:
        raise UserError(f"{folder} already holds a run; go on with --resume or choose another --out")
    if resume and (folder / WEIGHTS).exists():
        return None
    if record.exists():
        config = _recorded(config, files.read_json(record))
    elif resume:
        say(f"{folder} has no run to resume, so this one starts fresh")
    corpus = open_corpus(
        data, valid=Path(config.data.valid) if config.data.valid else None,
        errors=config.data.errors, field=config.data.field,
    )  # fmt: skip
    if corpus.note:
        say(corpus.note)
    tokenizer = _tokenizer(config, corpus, folder)
    train, valid = (_tokens(corpus, part, tokenizer, folder) for part in ("train", "valid"))
    context = fit_context(valid, fit_context(train, config.train.context))
    if context < config.train.context:
        say(f"the text is shorter than the context of {config.train.context} tokens, so it is {context} here")
    rows = config.train.micro_batch or default_micro_batch(config.train.batch, context)
    spec = config.train.model_copy(update={"micro_batch": rows})
    config = config.model_copy(update={"train": spec})
    torch.manual_seed(spec.seed)
    model = build_model(config.model_config_for(tokenizer.vocab_size, context)).to(pick_device(device))
    trainer = Trainer(model, train, valid, spec, context, folder)
    if not record.exists():
        files.write_json(record, _record(config, corpus))
    if resume:
        trainer.resume(say)
    return Pretraining(config, folder, tokenizer, trainer)


def _record(config: RunConfig, corpus: Corpus) -> dict[str, object]:
    """What reproduces the run: configuration, versions, hashes of the text."""
    versions = {"malmoi": malmoi.__version__, "torch": torch.__version__, "python": platform.python_version()}
    hashes = {path.name: files.sha256(path) for path in corpus.files}
    return {
        "config": config.model_dump(mode="json"), "versions": versions, "data": hashes,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def _recorded(asked: RunConfig, record: dict[str, object]) -> RunConfig:
    """The recorded configuration; anything else asked for is an error, for a resume must be exact."""
    recorded = RunConfig.model_validate(record["config"])
    rows = asked.train.micro_batch or recorded.train.micro_batch
    same = asked.model_copy(update={"train": asked.train.model_copy(update={"micro_batch": rows})})
    if same != recorded:
        old, new = recorded.model_dump(), same.model_dump()
        differing = [key for key in old if old[key] != new[key]]
        raise UserError(
            f"the run to resume has other settings under {', '.join(differing)}; "
            f"give the same ones, or another --out for a new run"
        )
    return recorded


def _tokenizer(config: RunConfig, corpus: Corpus, folder: Path) -> Tokenizer:
    if (folder / "tokenizer.json").exists():
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


def _lines(path: Path) -> list[str]:
    """Whole lines only: a killed run may have left a part of one."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _card(run: Pretraining) -> str:
    """README.md of the finished folder."""
    loss, bits = run.trainer.evaluate()
    lines = [
        f"# {run.config.name}", "",
        f"A language model of {human_count(run.model.num_parameters())} parameters, pre-trained by malmoi "
        f"{malmoi.__version__} on the user's own text for {run.trainer.step} steps.", "",
        f"- validation loss: {loss:.4f} nats per token", f"- bits per byte: {bits:.4f}",
        f"- training tokens in the corpus: {run.trainer.train.num_tokens}", "",
        "It completes text. It knows what its training text says, right or wrong, and nothing else.", "",
    ]  # fmt: skip
    return "\n".join(lines)
