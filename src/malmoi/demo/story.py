"""The whole road on one page: text, tokens, three language models, seven tasks, a report."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

import torch

from malmoi.data.readers import Errors
from malmoi.demo.calibration import affordable_steps
from malmoi.demo.language_models import count, probed, train
from malmoi.demo.material import (
    BATCH,
    CONTEXT,
    RECIPES,
    DemoText,
    claim,
    sample_world,
    users_text,
    write_world,
)
from malmoi.demo.one_model import answer_tasks
from malmoi.inside.tokens import cut, predictions
from malmoi.show.demo_report import Answers, Report, show_cuts, show_report, write_report
from malmoi.show.templates import one_line
from malmoi.show.terminal import console
from malmoi.text.tokenizer import train_tokenizer
from malmoi.util.hardware import cpu_name, keep_heap
from malmoi.util.units import counted, human_count, human_seconds

BUDGET_S, QUICK_BUDGET_S = 105.0, 20.0  # of training time for the LSTM and the GPT together
VOCAB_SIZE = 2560
NAMES = {"word": "words", "character": "characters", "bpe": "sub-words (BPE)"}


@dataclass(slots=True)
class Clock:
    """How long each part took, by the wall clock."""

    parts: list[tuple[str, float]] = field(default_factory=list)
    last_s: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        """The part of that name is over."""
        now_s = time.perf_counter()
        self.parts.append((name, now_s - self.last_s))
        self.last_s = now_s


def run_demo(
    data: Path | None, out: Path, *, quick: bool, field: str = "text", errors: Errors = "strict"
) -> None:
    """Run the demo, on the sample world or on `data`, and write its report in `out`.

    field, errors: how to read `data` (see `open_corpus`). Raises UserError where `out` holds something else.
    """
    keep_heap()
    clock = Clock()
    material = users_text(data, out, field, errors) if data else sample_world(out)
    claim(out)
    report = _play(material, out, clock, own=data is not None, quick=quick)
    show_report(report, write_report(report, out))


def _play(material: DemoText, out: Path, clock: Clock, *, own: bool, quick: bool) -> Report:
    """All acts; own: the text is the user's, so nothing is known of its grammar and its tasks."""
    tokenizers = {kind: train_tokenizer(material.sample, kind, VOCAB_SIZE) for kind in NAMES}
    cuts = {
        name: [cut(NAMES[kind], tokenizer, text) for kind, tokenizer in tokenizers.items()]
        for name, text in material.stories.items()
    }
    show_cuts(cuts)
    clock.lap("tokens")
    tokenizer = tokenizers["bpe"]
    tokenizer.save(out / "tokenizer")
    steps = affordable_steps(material, tokenizer, QUICK_BUDGET_S if quick else BUDGET_S)
    num_tokens = steps * BATCH * CONTEXT
    if not own:
        write_world(material, tokenizer, num_tokens)
    clock.lap("calibration and text")
    console.print(
        f"\nThree models read the same {human_count(num_tokens)} tokens, "
        f"in {steps} steps where they learn by steps."
    )
    models = [count(material, out, steps)]
    clock.lap("n-gram")
    ngram, seconds = models[0].result, human_seconds(models[0].result.costs["train_seconds"])
    bits = ngram.metrics["bits_per_byte"].value
    console.print(f"{ngram.name}: {bits:.3f} bits per byte, counted in {seconds}")
    for name in RECIPES:
        models.append(train(name, material, out, steps))
        clock.lap(name)
    gpt, answers = models[-1], Answers()
    if not own:
        models = [probed(model, quick=quick) for model in models]
        clock.lap("grammar and logic")
        answers = answer_tasks(out, gpt.result.costs["train_tokens_per_s"], clock.lap, quick=quick)
    expected = predictions(gpt.engine.scorer, tokenizer, tokenizer.encode(material.unseen))
    return Report(
        title=f"A language model of {material.data.name}" if own else "From text to a language model",
        machine=f"{cpu_name()}, {counted(torch.get_num_threads(), 'thread')}",
        cuts=cuts, growth=gpt.growth, prompts=material.prompts,
        curves=[model.curve for model in models], results=[model.result for model in models],
        sentence=expected[:12], row=expected[:128], answers=answers, steps=clock.parts, context=CONTEXT,
        next_commands=_next_commands(material, out),
    )  # fmt: skip


def _next_commands(material: DemoText, out: Path) -> list[str]:
    folder, gpt, tokenizer = (quote(str(path)) for path in (material.data, out / "gpt", out / "tokenizer"))
    first, last = (quote(one_line(material.prompts[number])) for number in (0, -1))
    return [
        f"malmoi serve {quote(str(out))}",
        f"malmoi complete {gpt} {first} --temperature 0.7",
        f"malmoi complete {gpt} {last} -n 3 --logprobs 3",
        *_task_commands(out),
        f"malmoi data preview {folder} --tokenizer {tokenizer}",
        "malmoi demo --data YOUR_TEXTS --out my-demo",
        "malmoi pretrain gpt-micro --data YOUR_TEXTS --out my-model",
    ]


def _task_commands(out: Path) -> list[str]:
    """Where the tasks were compared."""
    if not (out / "tasks").exists():
        return []
    winner, rows = (quote(str(out / place)) for place in ("tasks/ner/winner", "examples/classification"))
    return [
        f"malmoi chat {quote(str(out / 'chat'))}",
        f'malmoi predict {winner} "Suji Han opened a bakery on Plum Street on Friday."',
        f"malmoi compare classification --train {rows}/train.jsonl --out my-comparison",
    ]
