"""The demo's second act: an n-gram, an LSTM and a GPT read the same tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from malmoi.core.nouns import Metric, Result, silent
from malmoi.demo.material import BATCH, CONTEXT, DemoText, RunConfig, ngram_config, run_config
from malmoi.engine import Engine, Sampling
from malmoi.hub.folder import save_model
from malmoi.inside.probes import grammar_and_logic
from malmoi.learn.corpus import prepare_text
from malmoi.learn.counting import evaluate_ngrams
from malmoi.learn.job import Job, StepReport, prepare
from malmoi.learn.objectives.next_token import Pretraining
from malmoi.models.ngram import KneserNey
from malmoi.show.demo_report import show_moment
from malmoi.util.files import WEIGHTS

FINAL_EVAL_TOKENS = 65_536
ORDER = 5
SHORT = Sampling(max_tokens=32, temperature=0.7, top_k=40, seed=7)


@dataclass(frozen=True, slots=True)
class Trained:
    """One of the three models, with what its training showed."""

    result: Result
    curve: (
        tuple[str, list[float], list[float]] | None
    )  # its name, tokens read, bits per byte; None: it was trained before
    growth: list[tuple[str, list[str]]]  # share of the training -> completions
    engine: Engine


def count(material: DemoText, out: Path, steps: int) -> Trained:
    """The n-gram model, saved as out/ngram."""
    folder, name = out / "ngram", f"{ORDER}-gram (Kneser-Ney)"
    text = prepare_text(ngram_config(material), material.data, folder, silent)
    num_tokens = min(steps * BATCH * CONTEXT, text.train.num_tokens)
    start_s = time.perf_counter()
    model = KneserNey.fit(text.train.ids, text.tokenizer.vocab_size, order=ORDER, max_tokens=num_tokens)
    seconds = time.perf_counter() - start_s
    save_model(folder, model, text.tokenizer)
    _, bits = evaluate_ngrams(model, text.valid, FINAL_EVAL_TOKENS)
    engine, numbers = Engine(model, text.tokenizer), sum(it.size for it in model.tensors().values())
    result = measured(name, engine, bits, numbers, seconds, num_tokens, folder)
    return Trained(result, (name, [num_tokens], [bits]), [], engine)


def pretraining(config: RunConfig, folder: Path, material: DemoText) -> Job[Pretraining]:
    """A run on the demo's text, ready to begin."""
    run = prepare(Pretraining, config, folder, data=material.data, resume=False, say=silent)
    assert run is not None
    return run


def train(name: str, material: DemoText, out: Path, steps: int, most_s: float) -> Trained:
    """The LSTM or the GPT, saved as out/lstm or out/gpt; the GPT completes the prompts while it learns.

    most_s: where the machine has become slower, it makes as many steps as that affords.
    """
    folder = out / name.lower()
    config = run_config(name, steps, material, most_s)
    run = pretraining(config, folder, material)
    engine = Engine(run.model, run.tokenizer)
    x, y, growth = list[float](), list[float](), list[tuple[str, list[str]]]()

    def look(step: int, bits: float) -> None:
        x.append(float(step * BATCH * CONTEXT))
        y.append(bits)
        texts: list[str] = []
        if name == "GPT":
            run.model.eval()
            texts = [found.text for found in engine.generate(list(material.prompts), SHORT)]
        share = step / run.loop.spec.steps
        growth.append((f"{share:.0%}", texts))
        show_moment(name, share, bits, material.prompts, texts)

    def watch(report: StepReport) -> None:
        if report.valid_bits_per_byte is not None:
            look(report.step, report.valid_bits_per_byte)

    look(0, run.loop.evaluate()["bits_per_byte"])
    return Trained(finished(name, run, watch, engine), (name, x, y), growth, engine)


def finished(
    name: str, run: Job[Pretraining], watch: Callable[[StepReport], None], engine: Engine
) -> Result:  # fmt: skip
    """What a run reached, and what it cost, once it has been done."""
    start_s = time.perf_counter()
    run.run(watch)
    seconds, loop = time.perf_counter() - start_s, run.loop
    bits, read = loop.evaluate(FINAL_EVAL_TOKENS)["bits_per_byte"], loop.step * loop.spec.batch * loop.context
    run.model.eval()
    return measured(name, engine, bits, run.model.num_parameters(), seconds, read, run.folder)


def probed(trained: Trained, count: int) -> Trained:
    """With two more metrics: how often it prefers the right grammar, and what follows from two facts.

    count: pairs of sentences in each language for each.
    """
    found = grammar_and_logic(trained.engine, count=count)
    metrics = trained.result.metrics | {name: found[name] for name in ("grammar", "logic")}
    return replace(trained, result=replace(trained.result, metrics=metrics))


def measured(
    name: str, engine: Engine, bits: float, parameters: int, train_seconds: float, num_tokens: int,
    folder: Path,
) -> Result:  # fmt: skip
    """What a model reached (bits per byte of validation text) and what it cost."""
    start_s = time.perf_counter()
    found = engine.generate(["The"], Sampling(max_tokens=64, seed=0))[0]
    complete_seconds = time.perf_counter() - start_s
    state = engine.scorer.new_state(1, CONTEXT)
    engine.scorer.step(torch.zeros(1, CONTEXT, dtype=torch.int64), torch.tensor([CONTEXT]), state)
    costs = {
        "parameters": float(parameters),
        "train_seconds": train_seconds,
        "train_tokens_per_s": num_tokens / train_seconds,
        "complete_tokens_per_s": len(found.ids) / complete_seconds,
        "disk_bytes": float((folder / WEIGHTS).stat().st_size),
        "state_bytes": float(state.nbytes),
    }
    metric = Metric(bits, higher_is_better=False, signature="bits per byte")
    return Result(name, {"bits_per_byte": metric}, costs)
