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
from malmoi.hub.card import Card, DataFile, languages_of, load_call, this_machine
from malmoi.learn.loop import Loop, compute_loss
from malmoi.learn.record import METRICS
from malmoi.learn.run_config import AnyRun, TuneConfig
from malmoi.metrics.statistics import Floats, ratio
from malmoi.util.units import counted, human_count
from malmoi.util.version import VERSION

_LOWER = ("loss", "bits_per_byte")
# of a configuration: the card says it in other words
_ELSEWHERE = ("name", "model", "data", "valid", "licence")
FROM_TEXT = "It says what its training text makes likely, right or wrong, and can be wrong with confidence."
NO_FILTER = "Nobody has tested it for harm or bias; it repeats what its training text holds."


@torch.no_grad()
def with_intervals(loop: Loop[Any, Any], found: Mapping[str, float]) -> dict[str, Metric]:
    """What the loop found in its validation rows, with intervals from a bootstrap over the rows."""
    losses: list[Loss] = []

    def loss(part: Any) -> Loss:
        losses.append(compute_loss(loop.model, loop.objective, part, loop.spec.dtype))
        return losses[-1]

    loop.model.eval()
    loop.objective.evaluate(loss, 1)  # one row at a time: the bootstrap draws rows
    loop.model.train()
    counts_E = np.array([one.count for one in losses], dtype=np.float64)
    sums_E = np.array([one.sum.item() for one in losses], dtype=np.float64)
    intervals = {"loss": _metric(sums_E, counts_E)}
    for name in losses[0].measures if losses else ():
        intervals[name] = _metric(np.array([one.measures[name] for one in losses]), counts_E)
    return {name: _with_interval(name, value, found, intervals) for name, value in found.items()}


def _metric(sums_E: Floats, counts_E: Floats) -> Metric:
    return ratio(sums_E, counts_E).metric()


def _with_interval(
    name: str, value: float, found: Mapping[str, float], intervals: Mapping[str, Metric]
) -> Metric:
    """The measure with its interval; that of bits per byte is the loss's, in another unit."""
    factor = value / found["loss"] if name == "bits_per_byte" and found["loss"] else 1.0
    known = intervals.get("loss" if name == "bits_per_byte" else name)
    ends = known.interval if known else None
    interval = None if ends is None else (factor * ends[0], factor * ends[1])
    signature = {"loss": "nats per token"}.get(name, "")
    return Metric(value, interval, name not in _LOWER, signature)


def trained_seconds(loop: Loop[Any, Any], folder: Path) -> float | None:
    """The time of all steps, those before an interruption too, evaluations not counted; by the run's log."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    tokens = loop.spec.batch * loop.context
    speeds = [json.loads(line)["tokens_per_s"] for line in lines]
    return sum(tokens / speed for speed in speeds if speed) if speeds else None


def summary(kind: str, how: str, on: str, loop: Loop[Any, Any], unit: str) -> str:
    """What a card begins with: what was made, and by how much work. unit: what a batch consists of."""
    return (
        f"A {kind} of {human_count(loop.model.num_parameters())} parameters, {how} by malmoi {VERSION} {on} "
        f"for {counted(loop.step, 'step')} of {counted(loop.spec.batch, unit)}"
    )


def tuned_card(
    config: TuneConfig, loop: Loop[Any, Any], folder: Path, purpose: str, *, on: str, unit: str,
    rest: str = "", how: str = "", tags: tuple[str, ...] = (), **further: Any,
) -> Card:  # fmt: skip
    """The card of a chat model that was tuned. on: what to; how: by which method; further: of `Card`."""
    made = summary("chat model", f"tuned ({config.how})", f"{how}on {on}", loop, unit)
    base = Path(config.model).name
    return Card(
        f"{base}, {purpose}", f"{made}{rest}.", "text-generation", base=base, use=chat_use(folder),
        tags=("conversational", *tags), **further,
    )  # fmt: skip


def finished_card(
    card: Card, config: AnyRun, data: tuple[DataFile, ...], texts: Iterable[str], loop: Loop[Any, Any],
    folder: Path,
) -> Card:  # fmt: skip
    """The card with what the finished loop reached in its validation rows, and what every run has."""
    card = replace(card, results=with_intervals(loop, loop.evaluate()))
    return with_run(card, config, data, texts, trained_seconds(loop, folder))


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


def completion_use(folder: Path) -> tuple[str, ...]:
    """How to complete text with a model of that folder."""
    return *_loading(folder), 'print(model.complete("...")[0].text)'


def chat_use(folder: Path) -> tuple[str, ...]:
    """How to talk with a model of that folder."""
    return *_loading(folder), 'print(model.chat("..."))'


def _loading(folder: Path) -> tuple[str, str, str]:
    return "import malmoi", "", f"model = {load_call(folder)}"
