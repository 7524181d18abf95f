"""The demo's last act: the model that completes text is tuned to answer, and then does every task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from malmoi.compare.comparison import Comparison
from malmoi.compare.verdict import MethodRow, show
from malmoi.core.nouns import Message
from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling
from malmoi.hub.folder import load_model
from malmoi.learn.job import prepare
from malmoi.learn.objectives.conversations import Tuning
from malmoi.learn.run_config import load_tuning
from malmoi.show.demo_report import Exchange, OneModelLine
from malmoi.tasks import sampled_tasks
from malmoi.tasks.base import is_korean
from malmoi.text.chat import ChatFormat
from malmoi.world import documents

BATCH, CONTEXT = 8, 512
LR = 0.006
# How often an epoch shows a row: a label is a token or two to learn from, a continuation a hundred.
WEIGHTS = {"classification": 4, "ner": 0.5, "translation": 2, "completion": 0.2}
REPLY_TOKENS = 40


def tune_to_answer(out: Path, *, seconds: float, tokens_per_s: float, say: Callable[[str], None]) -> Path:
    """Tune out/gpt on all tasks' training rows (out/examples) for so many seconds; returns out/chat.

    tokens_per_s: how fast the model was pre-trained, from which the number of steps is planned.
    """
    steps = max(10, math.ceil(seconds * tokens_per_s / (BATCH * CONTEXT)))
    tasks = sampled_tasks()
    data = [f"{task}={out / 'examples' / task / 'train.jsonl'}@{WEIGHTS.get(task, 1)}" for task in tasks]
    valid = [f"{task}={out / 'examples' / task / 'valid.jsonl'}" for task in tasks]
    settings = [
        f"train.steps={steps}", f"train.eval_every={math.ceil(steps / 4)}", f"train.checkpoint_every={steps}",
        f"train.batch={BATCH}", f"train.context={CONTEXT}", f"train.lr={LR}",
    ]  # fmt: skip
    config = load_tuning(out / "gpt", data, valid, settings, allow_skips=True)
    run = prepare(Tuning, config, out / "chat", resume=False, say=lambda _: None)
    assert run is not None
    num_rows = len(run.training.mixture.train)
    say(f"\nThe GPT is tuned to answer, on {num_rows:,} examples of all tasks, {steps} steps:")

    def watch(report: Any) -> None:
        if report.valid_loss is not None:
            say(f"{report.step / steps:5.0%}  {report.valid_loss:.3f} nats per token of the answers")

    for line in run.run(watch):
        say(line)
    return out / "chat"


def ask_before_and_after(out: Path) -> list[Exchange]:
    """The same questions to out/gpt and to out/chat: what one completes, the other answers."""
    found: list[Exchange] = []
    for language in ("en", "ko"):
        document = next(
            one for one in documents(50, split="valid", language=language) if one.questions and one.dialogue
        )
        text = f"{document.text} {document.questions[0].input}"
        found.append(Exchange(text, _completed(out / "gpt", text), _answered(out / "chat", text)))
    return found


def _completed(folder: Path, text: str) -> str:
    model, tokenizer = load_model(folder)
    assert tokenizer is not None
    sampling = Sampling(max_tokens=REPLY_TOKENS, temperature=0.7, top_k=40, seed=7)
    return Engine(model, tokenizer).generate([text], sampling)[0].text


def _answered(folder: Path, text: str) -> str:
    model, tokenizer = load_model(folder)
    assert tokenizer is not None
    prompt = ChatFormat.of(tokenizer).prompt_ids([Message("user", text)])
    return (
        Engine(model, tokenizer).generate([prompt], Sampling(max_tokens=REPLY_TOKENS, temperature=0))[0].text
    )


def one_model_line(found: Comparison, method: str) -> OneModelLine | None:
    """The best small method against the one model, which is `method`; None where either failed."""
    rows = {row.name: row for row in found.verdict.ranking}
    one = rows.pop(method, None)
    if one is None or not rows:
        return None
    verdict, small = found.verdict, next(iter(rows.values()))
    korean = [is_korean(found.material.task.key(example.input)) for example in found.material.test]
    places = [[i for i, it in enumerate(korean) if it == wanted] for wanted in (False, True)]
    return OneModelLine(
        found.settings.task, verdict.words, small.name, verdict.quality(small), verdict.quality(one),
        *(_quality(one, verdict.metric, at) for at in places),
    )  # fmt: skip


def _quality(row: MethodRow, metric: str, examples: Sequence[int]) -> str:
    """A metric over some of the examples only."""
    if not examples:
        return ""
    statistic = replace(row.statistics[metric], parts_EK=row.statistics[metric].parts_EK[examples])
    return show(metric, row.metrics[metric], statistic.value)
