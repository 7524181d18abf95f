"""N-gram models: a run that counts instead of learning by steps."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np

from malmoi.core.nouns import Metric, Say
from malmoi.data.shards import TokenFile
from malmoi.hub.card import Card
from malmoi.hub.folder import save_model
from malmoi.learn.cards import completion_use, with_run
from malmoi.learn.corpus import Text, prepare_text
from malmoi.learn.record import started_run, write_record
from malmoi.learn.run_config import NGramSpec, RunConfig
from malmoi.metrics.statistics import ratio
from malmoi.models.ngram import KneserNey
from malmoi.util.locks import hold
from malmoi.util.version import VERSION

BLOCK_TOKENS = 256  # of the validation text that a bootstrap draws at once


def count_ngrams(
    config: RunConfig, data: Path, folder: Path, *, resume: bool, say: Say
) -> tuple[float, float] | None:
    """The whole road of an n-gram model: count, evaluate, save. Returns (nats per token, bits per byte).

    Returns None where the run is finished already; an unfinished one is counted again, which takes seconds.
    Raises UserError where another process writes the folder.
    """
    with hold(folder):
        return _count(config, data, folder, resume=resume, say=say)


def _count(
    config: RunConfig, data: Path, folder: Path, *, resume: bool, say: Say
) -> tuple[float, float] | None:
    started = started_run(config, folder, resume=resume, say=say)
    if started is None:
        return None
    text = prepare_text(config, data, folder, say)
    write_record(folder, config, text.data)
    start_s = time.perf_counter()
    model = KneserNey.fit(
        text.train.ids, text.tokenizer.vocab_size, order=NGramSpec.model_validate(config.model).order
    )
    if model.note:
        say(model.note)
    card = _card(config, folder, text, model, time.perf_counter() - start_s)
    save_model(folder, model, text.tokenizer, card.render())
    return card.results["loss"].value, card.results["bits_per_byte"].value


def evaluate_ngrams(model: KneserNey, valid: TokenFile, limit_tokens: int) -> tuple[float, float]:
    """Nats per token and bits per byte of the first `limit_tokens` tokens, the first one after an eos."""
    ids = np.concatenate(([valid.eos], valid.ids[:limit_tokens]))
    nats = -float(model.token_log_probs(ids)[1:].mean())
    return nats, nats / math.log(2) * valid.num_tokens / valid.num_bytes


def _card(config: RunConfig, folder: Path, text: Text, model: KneserNey, seconds: float) -> Card:
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
        results={"loss": loss, "bits_per_byte": bits}, use=completion_use(folder),
        measured_on=f"{len(nats_N):,} tokens of validation text",
        limits=(f"It sees the last {model.order - 1} tokens only.",),
        notes=(f"tokens in the training text: {text.train.num_tokens:,}",),
    )  # fmt: skip
    return with_run(card, config, text.data, text.sample, seconds)
