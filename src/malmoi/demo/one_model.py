"""The demo's last acts: the model that completes text is tuned to answer, and then does every task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from malmoi.compare.comparison import Comparison
from malmoi.compare.verdict import MethodRow, show
from malmoi.demo.seven_tasks import ONE, compare_tasks, task_line, write_rows
from malmoi.engine.loaded import Loaded
from malmoi.learn.job import prepare
from malmoi.learn.objectives.conversations import Tuning
from malmoi.learn.run_config import load_tuning
from malmoi.show.demo_report import Answers, Exchange, OneModelLine
from malmoi.show.terminal import console
from malmoi.tasks import sampled_tasks
from malmoi.tasks.base import is_korean
from malmoi.world import documents

TASK_S, QUICK_TASK_S = 9.0, 1.0  # of training time for each network of each task
ANSWER_S, QUICK_ANSWER_S = 150.0, 10.0  # of tuning the GPT to answer
BATCH, CONTEXT = 8, 512
LR = 0.006
# How often an epoch shows a row: a label is a token or two to learn from, a continuation a hundred.
WEIGHTS = {"classification": 4, "ner": 0.5, "translation": 2, "completion": 0.2}
REPLY_TOKENS = 40


def answer_tasks(out: Path, tokens_per_s: float, lap: Callable[[str], None], *, quick: bool) -> Answers:
    """The GPT tuned to answer, then every task by small methods and by that one model.

    tokens_per_s: how fast it was pre-trained. lap: is called with the name of each act that is over.
    """
    write_rows(out, quick=quick)
    chat = _tune_to_answer(out, tokens_per_s * (QUICK_ANSWER_S if quick else ANSWER_S))
    lap("tuning to answer")
    console.print("\nSeven tasks, in English and Korean, by small methods and by the one model:")
    found = compare_tasks(out, chat, seconds=QUICK_TASK_S if quick else TASK_S, quick=quick)
    lap("seven tasks")
    lines = [line for one in found if (line := _one_model_line(one))]
    return Answers([task_line(one) for one in found], _before_and_after(out), lines)


def _tune_to_answer(out: Path, num_tokens: float) -> Path:
    """Tune out/gpt on as many tokens of all tasks' training rows (out/examples); returns out/chat."""
    steps, tasks = max(10, math.ceil(num_tokens / (BATCH * CONTEXT))), sampled_tasks()
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
    console.print(f"\nThe GPT is tuned to answer, on {num_rows:,} examples of all tasks, {steps} steps:")

    def watch(report: Any) -> None:
        if report.valid_loss is not None:
            console.print(
                f"{report.step / steps:5.0%}  {report.valid_loss:.3f} nats per token of the answers"
            )

    for line in run.run(watch):
        console.print(line)
    return out / "chat"


def _before_and_after(out: Path) -> list[Exchange]:
    """The same questions to out/gpt and to out/chat: what one completes, the other answers."""
    gpt, chat = Loaded(out / "gpt"), Loaded(out / "chat")
    found: list[Exchange] = []
    for language in ("en", "ko"):
        candidates = documents(50, split="valid", language=language)
        document = next(one for one in candidates if one.questions and one.dialogue)
        text = f"{document.text} {document.questions[0].input}"
        before = gpt.complete(text, max_tokens=REPLY_TOKENS, temperature=0.7, top_k=40, seed=7)[0].text
        found.append(Exchange(text, before, chat.chat(text, max_tokens=REPLY_TOKENS, temperature=0)))
    return found


def _one_model_line(found: Comparison) -> OneModelLine | None:
    """The best small method against the one model; None where either failed."""
    rows = {row.name: row for row in found.verdict.ranking}
    one = rows.pop(ONE, None)
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
