"""Model cards of training runs: what was measured, with intervals, and what it took."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from malmoi.core.config import flat
from malmoi.core.nouns import Metric
from malmoi.core.tensors import Loss
from malmoi.hub.card import Card, DataFile, languages_of, this_machine
from malmoi.learn.run_config import AnyRun
from malmoi.learn.running import METRICS
from malmoi.learn.trainer import Trainer, compute_loss
from malmoi.metrics.statistics import Floats, ratio

_LOWER = ("loss", "bits_per_byte")
# of a configuration: the card says it in other words
_ELSEWHERE = ("name", "model", "data", "valid", "licence")
FROM_TEXT = "It says what its training text makes likely, right or wrong, and can be wrong with confidence."
NO_FILTER = "Nobody has tested it for harm or bias; it repeats what its training text holds."


@torch.no_grad()
def with_intervals(trainer: Trainer[Any], found: Mapping[str, float]) -> dict[str, Metric]:
    """What the trainer found in its validation rows, with intervals from a bootstrap over the rows."""
    losses: list[Loss] = []

    def loss(part: Any) -> Loss:
        losses.append(compute_loss(trainer.model, trainer.objective, part, trainer.spec.dtype))
        return losses[-1]

    trainer.model.eval()
    trainer.objective.evaluate(loss, 1)  # one row at a time: the bootstrap draws rows
    trainer.model.train()
    counts_E = np.array([one.count for one in losses], dtype=np.float64)
    sums_E = np.array([one.sum.item() for one in losses], dtype=np.float64)
    intervals = {"loss": _metric(sums_E, counts_E)}
    for name in losses[0].measures if losses else ():
        intervals[name] = _metric(np.array([one.measures[name] for one in losses]), counts_E)
    return {name: _told(name, value, found, intervals) for name, value in found.items()}


def _metric(sums_E: Floats, counts_E: Floats) -> Metric:
    return ratio(sums_E, counts_E).metric()


def _told(name: str, value: float, found: Mapping[str, float], intervals: Mapping[str, Metric]) -> Metric:
    """The measure with its interval; that of bits per byte is the loss's, in another unit."""
    factor = value / found["loss"] if name == "bits_per_byte" and found["loss"] else 1.0
    known = intervals.get("loss" if name == "bits_per_byte" else name)
    ends = known.interval if known else None
    interval = None if ends is None else (factor * ends[0], factor * ends[1])
    signature = {"loss": "nats per token"}.get(name, "")
    return Metric(value, interval, name not in _LOWER, signature)


def trained_seconds(trainer: Trainer[Any], folder: Path) -> float | None:
    """The time of all steps, those before an interruption too, evaluations not counted; by the run's log."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    tokens = trainer.spec.batch * trainer.context
    speeds = [json.loads(line)["tokens_per_s"] for line in lines]
    return sum(tokens / speed for speed in speeds if speed) if speeds else None


def with_run(
    card: Card, config: AnyRun, data: tuple[DataFile, ...], texts: Iterable[str], seconds: float | None
) -> Card:
    """The card with what every run has: settings, data, languages, cost, limits.

    texts: some of what was learned from, to see its languages.
    """
    settings = flat(config.model_dump(mode="json", exclude_none=True))
    shown = {
        name: value for name, value in settings.items() if name not in _ELSEWHERE and value not in ("", [])
    }
    return replace(
        card, settings=shown, data=data, languages=languages_of(texts), seconds=seconds,
        machine=this_machine(), limits=(*card.limits, FROM_TEXT, NO_FILTER),
    )  # fmt: skip
