"""The third act: the foundation model that ships is tuned to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from malmoi.core.nouns import silent
from malmoi.engine.loaded import Loaded
from malmoi.hub.shipped import BASE, CHAT, model_path, training_of
from malmoi.learn.job import prepare
from malmoi.learn.mixture import sources
from malmoi.learn.objectives.conversations import Tuning
from malmoi.learn.run_config import load_tuning
from malmoi.show.demo_report import Exchange
from malmoi.show.terminal import console
from malmoi.util.units import human_seconds
from malmoi.world import documents

# The time decides how many steps there are. A tuning looks at its validation rows at the end only.
TUNING = (
    "train.batch=4", "train.context=512", "train.lr=0.002", "train.epochs=4", "train.eval_every=100000",
    "train.warmup_steps=5",
)  # fmt: skip
# How often an epoch shows a row, of which there is time for a small part: a label is a token or two to learn
# from, a sentence's translation some thirty, a list of names or a continuation a hundred.
WEIGHTS = {"classification": 3, "translation": 8, "ner": 0.6, "completion": 0.05, "chat": 0.7}
REPLY_TOKENS = 40


def tuned(out: Path, seconds: float) -> Path:
    """The foundation model tuned to answer, on rows of all tasks and on small talk, as out/chat."""
    rows = out / "examples"
    judged = sources(rows, "valid")[-1:]  # small talk: there is no time to look at more
    config = load_tuning(
        model_path(BASE), sources(rows, "train", WEIGHTS), judged, TUNING, allow_skips=True,
        budget_seconds=seconds,
    )  # fmt: skip
    run = prepare(Tuning, config, out / "chat", resume=False, say=silent)
    assert run is not None
    num_rows, steps = len(run.training.mixture.train), run.loop.spec.steps
    console.print(
        f"\nTuned to answer, on {num_rows:,} examples of all tasks and small talk, in {steps} steps:"
    )

    def watch(report: Any) -> None:
        if report.step % max(1, steps // 5) == 0:
            console.print(f"{report.step / steps:5.0%}  {report.loss:.3f} nats per token of the answers")

    for line in run.run(watch):
        console.print(line)
    return out / "chat"


def shipped_chat() -> Path:
    """The one that ships tuned, for a demo without the time to tune."""
    folder = model_path(CHAT)
    took = human_seconds(training_of(folder)["seconds"])
    console.print(
        f"\nTuning it to answer takes longer than this quick demo; {CHAT}, which ships, took {took}."
    )
    return folder


def before_and_after(folder: Path) -> list[Exchange]:
    """The same questions to both: what the foundation model completes, the tuned one answers."""
    base, chat = Loaded(model_path(BASE)), Loaded(folder)
    found: list[Exchange] = []
    for language in ("en", "ko"):
        candidates = documents(50, split="valid", language=language)
        document = next(one for one in candidates if one.questions and one.dialogue)
        text = f"{document.text} {document.questions[0].input}"
        before = base.complete(text, max_tokens=REPLY_TOKENS, temperature=0.7, top_k=40, seed=7)[0].text
        found.append(Exchange(text, before, chat.chat(text, max_tokens=REPLY_TOKENS, temperature=0)))
    return found
