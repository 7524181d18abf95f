"""The whole road on one page: text, tokens, an n-gram, an LSTM and a GPT on the same tokens, a report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote

import numpy as np
import torch
from rich.markup import escape

from malmoi.core.config import as_setting
from malmoi.core.errors import UserError
from malmoi.core.nouns import Metric, Result, silent
from malmoi.data.readers import Errors, open_corpus
from malmoi.data.shards import TokenFile
from malmoi.demo.one_model import ask_before_and_after, one_model_line, tune_to_answer
from malmoi.demo.seven_tasks import ONE, WORLD_LICENCE, compare_tasks, task_line, write_rows
from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling
from malmoi.hub.folder import save_model
from malmoi.inside.probes import grammar_and_logic
from malmoi.inside.tokens import cut, predictions
from malmoi.learn.corpus import prepare_text
from malmoi.learn.counting import evaluate_ngrams
from malmoi.learn.job import prepare
from malmoi.learn.loop import StepReport
from malmoi.learn.objectives.next_token import NextToken, Pretraining
from malmoi.learn.run_config import RunConfig, load_run
from malmoi.learn.trial import step_seconds, try_step
from malmoi.models.build import build_model
from malmoi.models.language import LanguageModel
from malmoi.models.ngram import KneserNey
from malmoi.models.state import Scorer
from malmoi.show.charts import Curve
from malmoi.show.comparison_report import REPORT
from malmoi.show.demo_report import (
    Exchange,
    OneModelLine,
    Report,
    TaskLine,
    show_cuts,
    show_report,
    write_report,
)
from malmoi.show.templates import one_line
from malmoi.show.terminal import console
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.util import files
from malmoi.util.files import WEIGHTS
from malmoi.util.hardware import cpu_name, keep_heap, pick_device
from malmoi.util.units import counted, human_count, human_seconds
from malmoi.world import documents, story

MADE = (
    "world",
    "tokenizer",
    "ngram",
    "lstm",
    "gpt",
    "chat",
    "examples",
    "tasks",
    REPORT,
)  # in the folder of a demo
LEAST_CHARACTERS = 4000  # of the user's own text
BUDGET_S, QUICK_BUDGET_S = 105.0, 20.0  # of training time for the LSTM and the GPT together
TASK_S, QUICK_TASK_S = 9.0, 1.0  # of training time for each network of each task
ANSWER_S, QUICK_ANSWER_S = 150.0, 10.0  # of tuning the GPT to answer
PAIRS, QUICK_PAIRS = 100, 24  # of sentences, in each language for each score
VOCAB_SIZE = 2560
SAMPLE_DOCUMENTS = 1500  # enough to learn a vocabulary of the sample world
BATCH, CONTEXT = 8, 256
FINAL_EVAL_TOKENS = 65_536
ORDER = 5
SHOWN = 100  # characters of a completion on the terminal
NAMES = {"word": "words", "character": "characters", "bpe": "sub-words (BPE)"}
PROMPTS = ("On Monday,", "토요일에")
RECIPES = {
    "LSTM": ("lstm-micro", ("model.layers=1", "model.width=256", "train.optimizer=muon", "train.lr=0.01")),
    "GPT": (
        "gpt-micro",
        ("model.width=128", "model.heads=4", "model.tied=true", "train.lr=0.008", "train.decay_fraction=0.5"),
    ),
}
SETTINGS = (
    f"train.batch={BATCH}", f"train.context={CONTEXT}", "train.warmup_steps=20",
    "train.eval_tokens=16384",
)  # fmt: skip


@dataclass(slots=True)
class Clock:
    """How long each part took, by the wall clock."""

    parts: list[tuple[str, float]] = field(default_factory=list)
    last_s: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> float:
        """The seconds since the last lap."""
        now_s = time.perf_counter()
        seconds, self.last_s = now_s - self.last_s, now_s
        self.parts.append((name, seconds))
        return seconds


@dataclass(frozen=True, slots=True)
class Material:
    """What the demo works on: the sample world, or the user's text."""

    data: Path  # what is trained on
    sample: Sequence[str]  # to learn vocabularies from
    stories: dict[str, str]  # name -> the text to colour
    prompts: Sequence[str]
    unseen: str  # a text of the validation part
    settings: tuple[str, ...] = ()  # how `data` is to be read


@dataclass(frozen=True, slots=True)
class Trained:
    """One of the three models, with what its training showed."""

    result: Result
    curve: Curve  # tokens read, bits per byte
    growth: list[tuple[str, list[str]]]  # share of the training -> completions
    model: Scorer
    tokenizer: Tokenizer


def run_demo(
    data: Path | None, out: Path, *, quick: bool, field: str = "text", errors: Errors = "strict"
) -> None:
    """Run the demo, on the sample world or on `data`, and write `out/report.html`.

    field, errors: how to read `data` (see `open_corpus`). Raises UserError where `out` holds something else.
    """
    keep_heap()
    clock = Clock()
    if data and data.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{data} is inside {out}, which the demo would empty; choose another `out`")
    material = _users_text(data, field, errors) if data else _world(out / "world")
    _claim(out)
    tokenizers = {kind: train_tokenizer(material.sample, kind, VOCAB_SIZE) for kind in NAMES}
    cuts = {
        name: [cut(NAMES[kind], tokenizer, text) for kind, tokenizer in tokenizers.items()]
        for name, text in material.stories.items()
    }
    show_cuts(cuts)
    clock.lap("tokens")
    tokenizers["bpe"].save(out / "tokenizer")
    steps = _affordable_steps(material, tokenizers["bpe"], QUICK_BUDGET_S if quick else BUDGET_S)
    if not data:
        _write_world(material, tokenizers["bpe"], steps * BATCH * CONTEXT)
    clock.lap("calibration and text")
    console.print(
        f"\nThree models read the same {human_count(steps * BATCH * CONTEXT)} tokens, "
        f"in {steps} steps where they learn by steps."
    )
    models = [_count(material, out, steps, clock)]
    models += [_train(name, material, out, steps, clock) for name in RECIPES]
    if not data:
        models = [_probed(model, quick=quick) for model in models]
        clock.lap("grammar and logic")
    tasks: list[TaskLine] = []
    one_model: list[OneModelLine] = []
    exchanges: list[Exchange] = []
    if not data:
        tasks, one_model, exchanges = _tasks(out, models[-1], clock, quick=quick)
    tokenizer = models[-1].tokenizer
    expected = predictions(models[-1].model, tokenizer, tokenizer.encode(material.unseen))
    report = Report(
        title=f"A language model of {data.name}" if data else "From text to a language model",
        machine=f"{cpu_name()}, {counted(torch.get_num_threads(), 'thread')}",
        cuts=cuts,
        growth=models[-1].growth,
        prompts=material.prompts,
        curves=[model.curve for model in models],
        results=[model.result for model in models],
        sentence=expected[:12],
        row=expected[:128],
        tasks=tasks,
        exchanges=exchanges,
        one_model=one_model,
        steps=clock.parts,
        context=CONTEXT,
        next_commands=_next_commands(material, out),
    )
    write_report(report, out / REPORT)
    show_report(report, out / REPORT)


def _tasks(
    out: Path, gpt: Trained, clock: Clock, *, quick: bool
) -> tuple[list[TaskLine], list[OneModelLine], list[Exchange]]:
    """The GPT tuned to answer, then every task by small methods and by that one model."""
    write_rows(out, quick=quick)
    chat = tune_to_answer(
        out, seconds=QUICK_ANSWER_S if quick else ANSWER_S, say=console.print,
        tokens_per_s=gpt.result.costs["train_tokens_per_s"],
    )  # fmt: skip
    clock.lap("tuning to answer")
    console.print("\nSeven tasks, in English and Korean, by small methods and by the one model:")
    seconds = QUICK_TASK_S if quick else TASK_S
    found = compare_tasks(out, chat, seconds=seconds, quick=quick, say=console.print)
    clock.lap("seven tasks")
    lines = [line for one in found if (line := one_model_line(one, ONE))]
    return [task_line(one) for one in found], lines, ask_before_and_after(out)


# ---- material


def _claim(out: Path) -> None:
    """Take `out`: a new folder, or the one of an earlier demo, which is emptied."""
    if not files.is_free(out):
        if not (out / files.DEMO_MARK).exists():
            raise UserError(f"{out} exists and is not a demo's folder; choose another `out`")
        for name in MADE:
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
    files.write_json(out / files.DEMO_MARK, {"made_by": "malmoi demo"})


def _world(folder: Path) -> Material:
    sample = [document.with_views() for document in documents(SAMPLE_DOCUMENTS)]
    stories = {"A story of the town": story("en"), "The same story in Korean": story("ko")}
    tests = documents(20, split="test", language="en")
    unseen = next(text for found in tests if (text := found.with_views()).startswith(found.text))
    return Material(folder, sample, stories, PROMPTS, unseen)


def _write_world(material: Material, tokenizer: Tokenizer, num_tokens: int) -> None:
    """As much of the world as `num_tokens` tokens, so that every model reads every document once."""
    per_document = np.mean([len(ids) + 1 for ids in tokenizer.encode_batch(material.sample)])
    count = max(SAMPLE_DOCUMENTS, int(num_tokens / per_document))
    _write_texts(material.data / "train.jsonl", (document.with_views() for document in documents(count)))
    valid = (document.with_views() for document in documents(400, split="valid"))
    _write_texts(material.data / "valid.jsonl", valid)
    files.write_text(material.data / "LICENSE", WORLD_LICENCE)


def _write_texts(path: Path, texts: Iterable[str]) -> None:
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    files.write_text(path, "".join(f"{line}\n" for line in lines))


def _users_text(data: Path, field: str, errors: Errors) -> Material:
    corpus = open_corpus(data, field=field, errors=errors)
    sample = list(_up_to(corpus.train(), 4_000_000))
    held_out = "\n".join(_up_to(corpus.valid(), 20_000)).strip()
    if sum(map(len, sample)) < LEAST_CHARACTERS or len(held_out) < LEAST_CHARACTERS // 20:
        raise UserError(
            f"{data} holds too little text for a demo; give at least {LEAST_CHARACTERS} characters"
        )
    middle = held_out.find(" ", len(held_out) // 2) + 1
    prompts = [_first_words(held_out), _first_words(held_out[middle:])]
    settings = (as_setting("data.field", field), as_setting("data.errors", errors))
    return Material(data, sample, {"From your text": held_out[:800]}, prompts, held_out[:1500], settings)


def _first_words(text: str) -> str:
    """Three words, or as much of them as a prompt may be long in any language."""
    return " ".join(text.split()[:3])[:40]


def _up_to(texts: Iterable[str], num_characters: int) -> Iterator[str]:
    """The first texts, the last one cut, of `num_characters` characters in all."""
    for text in texts:
        yield text[:num_characters]
        num_characters -= len(text)
        if num_characters <= 0:
            return


# ---- training


def _run_config(name: str, steps: int, material: Material, tokenizer_folder: Path | None = None) -> RunConfig:
    recipe, settings = RECIPES[name]
    tokenizer = [as_setting("tokenizer.path", str(tokenizer_folder))] if tokenizer_folder else []
    lengths = (f"train.steps={steps}", f"train.eval_every={steps // 10}", f"train.checkpoint_every={steps}")
    return load_run(recipe, [*SETTINGS, *settings, *lengths, *tokenizer, *material.settings])


def _affordable_steps(material: Material, tokenizer: Tokenizer, budget_s: float) -> int:
    """How many steps fit in the budget, from a few steps of each model; a multiple of ten."""
    ids = np.array([id for text in material.sample[:200] for id in tokenizer.encode(text)], dtype=np.uint16)
    ids = np.resize(ids, max(len(ids), 2 * CONTEXT))
    tokens = TokenFile(ids, tokenizer.specials.eos, tokenizer.vocab_size, 1, 1)
    seconds_per_step = sum(_seconds_per_step(name, material, tokens) for name in RECIPES)
    return max(20, int(budget_s / seconds_per_step) // 10 * 10)


def _seconds_per_step(name: str, material: Material, tokens: TokenFile) -> float:
    """The mean of three steps of a model that is then thrown away; the first one is not counted."""
    config = _run_config(name, 100, material)
    model = build_model(config.model_config_for(tokens.vocab_size, CONTEXT)).to(pick_device())
    objective = NextToken(tokens, tokens, config.train, CONTEXT)
    steps_s = step_seconds(model, objective, try_step(model, objective, config.train).spec, 4)
    return sum(steps_s) / len(steps_s)


def _count(material: Material, out: Path, steps: int, clock: Clock) -> Trained:
    """The n-gram model."""
    tokenizer = as_setting("tokenizer.path", str(out / "tokenizer"))
    config = load_run("ngram", [tokenizer, *material.settings])
    text = prepare_text(config, material.data, out / "ngram", silent)
    num_tokens = min(steps * BATCH * CONTEXT, text.train.num_tokens)
    start_s = time.perf_counter()
    model = KneserNey.fit(text.train.ids, text.tokenizer.vocab_size, order=ORDER, max_tokens=num_tokens)
    seconds = time.perf_counter() - start_s
    save_model(out / "ngram", model, text.tokenizer)
    _, bits = evaluate_ngrams(model, text.valid, FINAL_EVAL_TOKENS)
    name = f"{ORDER}-gram (Kneser-Ney)"
    numbers = sum(tensor.size for tensor in model.tensors().values())
    result = _result(name, model, text.tokenizer, bits, numbers, seconds, num_tokens, out / "ngram")
    clock.lap("n-gram")
    console.print(f"{name}: {bits:.3f} bits per byte, counted in {human_seconds(seconds)}")
    return Trained(result, (name, [num_tokens], [bits]), [], model, text.tokenizer)


def _train(name: str, material: Material, out: Path, steps: int, clock: Clock) -> Trained:
    """The LSTM or the GPT."""
    folder = out / name.lower()
    config = _run_config(name, steps, material, out / "tokenizer")
    run = prepare(Pretraining, config, folder, data=material.data, resume=False, say=silent)
    assert run is not None
    x, y, growth = [0.0], [run.loop.evaluate()["bits_per_byte"]], []

    def watch(report: StepReport) -> None:
        if report.valid_bits_per_byte is not None:
            x.append(float(report.step * BATCH * CONTEXT))
            y.append(report.valid_bits_per_byte)
            moment(report.step)

    def moment(step: int) -> None:
        texts = _complete(run.model, run.tokenizer, material.prompts) if name == "GPT" else []
        growth.append((f"{step / steps:.0%}", texts))
        console.print(f"{name} {step / steps:5.0%}  {y[-1]:.3f} bits/byte")
        for prompt, text in zip(material.prompts, texts, strict=False):
            start, whole = one_line(prompt), one_line(prompt + text)
            console.print(f"           [bold]{escape(start)}[/]{escape(whole[len(start) : SHOWN])}")

    moment(0)
    start_s = time.perf_counter()
    run.run(watch)
    seconds = time.perf_counter() - start_s
    run.model.eval()
    bits = run.loop.evaluate(FINAL_EVAL_TOKENS)["bits_per_byte"]
    parameters, read = run.model.num_parameters(), steps * BATCH * CONTEXT
    result = _result(name, run.model, run.tokenizer, bits, parameters, seconds, read, folder)
    clock.lap(name)
    return Trained(result, (name, x, y), growth, run.model.eval(), run.tokenizer)


def _probed(trained: Trained, *, quick: bool) -> Trained:
    """With two more metrics: how often it prefers the right grammar, and what follows from two facts."""
    count = QUICK_PAIRS if quick else PAIRS
    found = grammar_and_logic(Engine(trained.model, trained.tokenizer), count=count)
    metrics = trained.result.metrics | {name: found[name] for name in ("grammar", "logic")}
    return replace(trained, result=replace(trained.result, metrics=metrics))


def _complete(model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[str]:
    model.eval()
    sampling = Sampling(max_tokens=32, temperature=0.7, top_k=40, seed=7)
    return [found.text for found in Engine(model, tokenizer).generate(list(prompts), sampling)]


def _result(
    name: str, model: Scorer, tokenizer: Tokenizer, bits: float, parameters: int, train_seconds: float,
    num_tokens: int, folder: Path,
) -> Result:  # fmt: skip
    """What a model reached and what it cost."""
    length = 64
    start_s = time.perf_counter()
    found = Engine(model, tokenizer).generate(["The"], Sampling(max_tokens=length, seed=0))[0]
    complete_seconds = time.perf_counter() - start_s
    state = model.new_state(1, CONTEXT)
    model.step(torch.zeros(1, CONTEXT, dtype=torch.int64), torch.tensor([CONTEXT]), state)
    costs = {
        "parameters": float(parameters),
        "train_seconds": train_seconds,
        "train_tokens_per_s": num_tokens / train_seconds,
        "complete_tokens_per_s": len(found.ids) / complete_seconds,
        "disk_bytes": float((folder / WEIGHTS).stat().st_size),
        "state_bytes": float(state.nbytes),
    }
    metric = Metric(bits, higher_is_better=False, signature=f"bits per byte, {FINAL_EVAL_TOKENS} tokens")
    return Result(name, {"bits_per_byte": metric}, costs)


def _next_commands(material: Material, out: Path) -> list[str]:
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
