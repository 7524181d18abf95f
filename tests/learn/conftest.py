from __future__ import annotations

from pathlib import Path

from malmoi.learn.job import Job, prepare
from malmoi.learn.loop import StepReport
from malmoi.learn.objectives.next_token import Pretraining
from malmoi.learn.run_config import RunConfig, load_run

TINY = (
    "model.layers=1", "model.width=32", "train.context=16", "train.batch=4", "train.steps=6",
    "train.checkpoint_every=2", "train.eval_every=3", "train.eval_tokens=256", "train.warmup_steps=2",
    "tokenizer.kind=byte",
)  # fmt: skip


def tiny(recipe: str = "gpt-nano", *settings: str) -> RunConfig:
    heads = ("model.heads=2",) if recipe.startswith("gpt") else ()
    return load_run(recipe, [*TINY, *heads, *settings])


def start(config: RunConfig, corpus: Path, out: Path, *, resume: bool = False) -> Job[Pretraining]:
    run = prepare(Pretraining, config, out, data=corpus, resume=resume, say=lambda _: None, device="cpu")
    assert run is not None
    return run


def train(config: RunConfig, corpus: Path, out: Path, *, resume: bool = False) -> list[StepReport]:
    reports: list[StepReport] = []
    start(config, corpus, out, resume=resume).run(reports.append)
    return reports
