"""When do you need an LLM? Quality by the number of labelled examples, on real data, one line a family.

    python bench/one_model.py MODEL --out DIR [--sets SET,...] [--labels 20,100,...] [--tests N]
    python bench/one_model.py MODEL --report --out DIR

Families: small methods that learn the set alone; MODEL prompted with 0, 4 and 8 solved examples; MODEL tuned
on each set with LoRA; MODEL tuned once with LoRA on all sets together. MODEL is a foundation model's folder
or GGUF file. Of N labelled examples a fifth is what constants are chosen by. All are measured on the same
examples of the validation file, by the task's own metric with a 95% bootstrap interval. What is tuned has the
vocabulary that the sets' training files need, which makes it faster and changes nothing else.

A cell (set, method, number of labels) is a file in --out/cells, written once. Stopped at any moment, the same
command goes on: a tuning from its last checkpoint. Cells come in such an order that --report, which prints a
table and draws docs/images/when-do-you-need-an-llm.svg, has something to say early. See bench/sets.py.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain, product, zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from malmoi.core.errors import UserError
from malmoi.core.nouns import Budget, Examples, Json, Metric, Work, silent
from malmoi.hub.source import import_model
from malmoi.learn.job import prepare
from malmoi.learn.objectives.conversations import Tuning
from malmoi.learn.run_config import load_tuning
from malmoi.methods.folder import load_method, save_method
from malmoi.methods.registry import make_method
from malmoi.show.charts import Panel, small_multiples, standalone
from malmoi.show.palette import COLOURS, MARKERS
from malmoi.tasks import make_task
from malmoi.tasks.base import Task
from malmoi.tasks.checks import labels_in
from malmoi.util.files import read_json, write_json, write_text
from malmoi.util.hardware import cpu_name, keep_heap
from malmoi.util.units import figures
from sets import SETS, read

SMALL = {  # the best traditional ones in docs/results.md
    "nsmc": ("tfidf",),
    "clinc150": ("tfidf",),
    "wnut17": ("crf",),
    "tatoeba-enko": ("retrieval", "ibm1"),
    "squad": ("sentence",),
    "scitldr": ("lead", "textrank"),
    "songys-ko": ("retrieval",),
}
TITLES = {
    "nsmc": "film reviews, Korean",
    "clinc150": "20 intents",
    "wnut17": "names in tweets",
    "tatoeba-enko": "English to Korean",
    "squad": "answers in a text",
    "scitldr": "abstracts in a sentence",
    "songys-ko": "small talk, Korean",
}
LOOKS = {  # of a family: its line's name, colour and marker
    "small": ("a small model", COLOURS[0], MARKERS[0]),
    "prompted": ("the LLM, prompted", COLOURS[1], MARKERS[1]),
    "tuned": ("the LLM, tuned on the task", COLOURS[2], MARKERS[2]),
    "tuned on all": ("one LLM, tuned on all tasks", COLOURS[3], MARKERS[3]),
}
MARK = "where a small model overtakes"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "when-do-you-need-an-llm.svg"
FIRST_LABELS = {"clinc150": 20}  # of a set with many, which a question names all
LABELS, TESTS, SHOTS = (20, 100, 500, 2000), 200, (8, 4, 0)
NETWORK, NETWORK_EPOCHS, NETWORK_S = "lstm", 40, 150.0  # the small one; seconds of training at most
ROWS, WINDOWS, TOKENS = 8, 4, 512  # of a step: examples of one set, or windows of so many tokens of all sets
EPOCHS = 45.0  # over the square root of the number of labelled examples
TUNING_LR = 7e-4  # more, and 80 film reviews were learned by heart
AT_ONCE = 16  # questions to an LLM: with 8 shots they are long
VOCABULARY_ROWS = 12_000  # of each set's training file, whose tokens are kept

Family = Literal["small", "prompted", "tuned", "tuned on all"]


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured in one go. method: of malmoi, or the number of shots."""

    set: str
    family: Family
    method: str
    labels: int

    def file(self, out: Path) -> Path:
        name = "_".join(map(str, (self.set, self.family, self.method, self.labels))).replace(" ", "-")
        return out / "cells" / f"{name}.json"


@dataclass(frozen=True, slots=True)
class Run:
    """What the command line asks for."""

    model: Path
    out: Path
    sets: Sequence[str]
    labels: Sequence[int]
    tests: int

    def cells(self) -> Iterator[Cell]:
        """All of them, the cheap and telling ones first."""
        for count, name in product(self.labels, self.sets):
            yield from (Cell(name, "small", method, count) for method in SMALL[name])
        for shots, name in product(SHOTS, self.sets):
            yield Cell(name, "prompted", f"{shots} shots", self.labels[0])
        for count, name in product(reversed(self.labels), self.sets):
            yield Cell(name, "small", NETWORK, count)
        middle = self.labels[1:-1] or self.labels
        for counts in (middle, [count for count in self.labels if count not in middle]):
            yield from (Cell(name, "tuned", "LoRA", count) for count, name in product(counts, self.sets))
            yield from (
                Cell(name, "tuned on all", "LoRA", count) for count, name in product(counts, self.sets)
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--report", action="store_true", help="of the cells that there are; measure none")
    parser.add_argument("--out", type=Path, default=Path("one-model"))
    parser.add_argument("--sets", default=",".join(SMALL), help="with commas between")
    parser.add_argument("--labels", default=",".join(map(str, LABELS)), help="numbers, with commas between")
    parser.add_argument("--tests", type=int, default=TESTS, help="examples to measure on")
    given = parser.parse_args()
    counts = sorted(int(count) for count in given.labels.split(","))
    run = Run(given.model, given.out, given.sets.split(","), counts, given.tests)
    if given.report:
        print(report(run))
        return
    for cell in run.cells():
        if not cell.file(run.out).exists():
            alone(run, cell)


def alone(run: Run, cell: Cell) -> None:
    """Measure a cell in a process of its own, so that memory is free again afterwards."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(keep, run, cell).result()
    except BrokenProcessPool:
        say(f"{cell.set}, {cell.family} {cell.method}, {cell.labels}: killed; the next go tries it again")


def keep(run: Run, cell: Cell) -> None:
    """Measure a cell and write it."""
    keep_heap()
    try:
        row = measured(run, cell)
    except UserError as error:  # too few examples, say, which they will be another time as well
        row = {"failed": str(error)}
    write_json(cell.file(run.out), asdict(cell) | row | {"processor": cpu_name()})
    say(f"{time.strftime('%H:%M')} {cell.set}, {cell.family} {cell.method}, {cell.labels}: {shown(row)}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---- the examples


@cache
def task_of(name: str) -> Task[Any, Any]:
    return make_task(SETS[name].task, SETS[name].fields)


@cache
def examples_of(name: str) -> tuple[Examples, Examples]:
    """Those that may be labelled, of which the first N are the N labelled ones, and those to measure on.

    Where a label is to be chosen, labels take turns.
    """
    task = task_of(name)
    splits = read(SETS[name], task, 0)
    pool, tests = [*splits.train, *splits.valid], splits.test
    random.Random(0).shuffle(pool)
    random.Random(0).shuffle(tests)
    if not task.kind.is_choice:
        return pool, tests
    by_label: defaultdict[str, list[Any]] = defaultdict(list)
    for example in pool:
        by_label[example.target].append(example)
    kept = sorted(by_label)[: FIRST_LABELS.get(name)]
    turns = chain.from_iterable(zip_longest(*(by_label[label] for label in kept)))
    return [one for one in turns if one], [one for one in tests if one.target in kept]


def labelled(name: str, count: int) -> tuple[Examples, Examples]:
    """Of `count` labelled examples those to learn from, and a fifth to choose by.

    One of each label is learned from; where no others are left, the same are chosen by.
    """
    known = examples_of(name)[0][:count]
    learned = len(known) - len(known) // 5
    if task_of(name).kind.is_choice:
        learned = max(learned, len({example.target for example in known}))
    return known[:learned], known[learned:] or known


# ---- measuring


def measured(run: Run, cell: Cell) -> Json:
    """Fit, save, load, predict, score."""
    task, (train, valid) = task_of(cell.set), labelled(cell.set, cell.labels)
    tests = examples_of(cell.set)[1][: run.tests]
    name, options, before_s = asked(run, cell)
    folder = run.out / "unfinished" / cell.file(run.out).stem
    method = make_method(name, task, options)
    method.load_libraries()
    budget = Budget(NETWORK_S if name == NETWORK else None)
    start_s = time.perf_counter()
    facts = method.fit(train, valid, Work(budget, folder=folder / "checkpoint")).facts
    fit_s = time.perf_counter() - start_s
    save_method(folder / "method", method)
    method = load_method(folder / "method")
    start_s = time.perf_counter()
    at_once = len(tests) if cell.family == "small" else AT_ONCE
    parts = (tests[start : start + at_once] for start in range(0, len(tests), at_once))
    found = [value for part in parts for value in method.predict([one.input for one in part]).values]
    predict_s = time.perf_counter() - start_s
    shutil.rmtree(folder.parent)
    return {
        "metric": task.primary, **asdict(task.score(found, tests, None)[task.primary]),
        "tests": len(tests), "steps": facts.get("steps"), "training_s": round(before_s or fit_s, 1),
        "ms_per_prediction": round(1000 * predict_s / len(tests), 2),
    }  # fmt: skip


def asked(run: Run, cell: Cell) -> tuple[str, Json, float]:
    """The method to fit, its options, and the seconds that tuning on all sets took before."""
    if cell.family == "small":
        return cell.method, {"epochs": NETWORK_EPOCHS} if cell.method == NETWORK else {}, 0
    if cell.family == "prompted":
        return "prompted", {"model": str(run.model), "shots": int(cell.method.split()[0])}, 0
    if cell.family == "tuned":
        options = {"model": str(smaller(run)), "lora": True, "lr": TUNING_LR, "batch": ROWS}
        return "finetuned", options | {"epochs": epochs(cell.labels)}, 0
    tuned = tuned_on_all(run, cell.labels)
    return "prompted", {"model": str(tuned), "shots": 0}, read_json(tuned / "seconds.json")


def epochs(count: int) -> float:
    return round(EPOCHS / math.sqrt(count), 2)


def smaller(run: Run) -> Path:
    """The model with the vocabulary that the sets need."""
    out, texts = run.out / "smaller", run.out / "vocabulary.jsonl"
    if not out.exists():
        lines = (json.dumps(text, ensure_ascii=False) for name in SMALL for text in texts_of(name))
        write_text(texts, "".join(f'{{"text": {line}}}\n' for line in lines))
        import_model(str(run.model), out, say, keep_vocab_of=texts)
    return out


def texts_of(name: str) -> Iterator[str]:
    """What the model is asked in training, and what it should say."""
    pool = examples_of(name)[0][:VOCABULARY_ROWS]
    task = task_of(name)
    task = task.with_labels(tuple(labels_in(pool, task.kind)))
    for example in pool:
        yield from (message.content for message in task.prompt(example.input))
        yield task.answer(example.target, example.input)


def tuned_on_all(run: Run, count: int) -> Path:
    """The model tuned with LoRA on `count` labelled examples of every set."""
    out = run.out / f"tuned-on-all-{count}"
    if (out / "seconds.json").exists():
        return out
    start_s = time.perf_counter()
    train, valid = zip(*(written(run, name, count) for name in run.sets), strict=True)
    settings = {"epochs": epochs(count), "lr": TUNING_LR, "batch": WINDOWS, "context": TOKENS}
    settings = [f"train.{name}={value}" for name, value in settings.items()]
    config = load_tuning(smaller(run), train, valid, settings, lora=True, allow_skips=True)
    job = prepare(Tuning, config, out, resume=True, say=say)
    if job is not None:
        job.run(silent)
    write_json(out / "seconds.json", time.perf_counter() - start_s)
    return out


def written(run: Run, name: str, count: int) -> tuple[str, str]:
    """A set's examples to learn from and to choose by as files, each as TASK=PATH."""
    task, folder = task_of(name), run.out / "data" / f"{name}-{count}"
    for part, examples in zip(("train", "valid"), labelled(name, count), strict=True):
        rows = (json.dumps(task.row(one), ensure_ascii=False) for one in examples)
        write_text(folder / f"{part}.jsonl", "".join(f"{row}\n" for row in rows))
    return f"{task.name}={folder / 'train.jsonl'}", f"{task.name}={folder / 'valid.jsonl'}"


# ---- the report


def report(run: Run) -> str:
    """The table, in Markdown; draws the picture."""
    rows = [read_json(cell.file(run.out)) for cell in run.cells() if cell.file(run.out).exists()]
    looks = {title: (colour, marker) for title, colour, marker in LOOKS.values()}
    panels = [panel(name, lines) for name in run.sets if (lines := lines_of(name, rows))]
    write_text(PICTURE, standalone(small_multiples(panels, looks, x_label="labelled examples", mark=MARK)))
    processors = ", ".join(sorted({row["processor"] for row in rows}))
    tests = max((row["tests"] for row in rows if "tests" in row), default=0)
    return "\n".join(
        [*table(run, rows), f"\n{tests} test examples; {processors}; times with the most labels."]
    )


def table(run: Run, rows: Sequence[Json]) -> Iterator[str]:
    counts = " | ".join(f"{count:,}" for count in run.labels)
    yield f"| set | method | {counts} labels | ms a prediction | training, s |"
    yield f"|---|---|{'---|' * len(run.labels)}---:|---:|"
    found: defaultdict[tuple[str, str, str], dict[int, Json]] = defaultdict(dict)
    for row in rows:
        found[row["set"], row["family"], row["method"]][row["labels"]] = row
    for name in run.sets:
        for family, method in (key[1:] for key in found if key[0] == name):
            by_count = found[name, family, method]
            cells = " | ".join(shown(by_count[count]) if count in by_count else "" for count in run.labels)
            last = by_count[max(by_count)]
            times = f"{figures(last.get('ms_per_prediction', 0), 3)} | {last.get('training_s', 0):,.0f}"
            yield f"| {name} | {method if family == 'small' else f'{family}, {method}'} | {cells} | {times} |"
        for other, (count, _) in marks(lines_of(name, rows)).items():
            rest = "|" * (len(run.labels) + 2)
            yield f"| {name} | a small one overtakes {other} at | {figures(count, 2)} {rest}"


def lines_of(name: str, rows: Sequence[Json]) -> dict[str, list[Json]]:
    """A set's best row of each family at each number of labels."""
    found: dict[str, list[Json]] = {}
    for family in LOOKS:
        best: dict[int, Json] = {}
        for row in (row for row in rows if (row["set"], row["family"]) == (name, family) and "value" in row):
            best[row["labels"]] = max(best.get(row["labels"], row), row, key=lambda one: one["value"])
        if best:
            found[family] = [best[count] for count in sorted(best)]
    return found


def panel(name: str, lines: dict[str, list[Json]]) -> Panel:
    curves = {
        LOOKS[family][0]: [(row["labels"], Metric(row["value"], tuple(row["interval"]))) for row in rows]
        for family, rows in lines.items()
    }
    metric = next(iter(lines.values()))[0]["metric"].replace("_", " ")
    return Panel(f"{name}: {TITLES[name]}", metric, curves, list(dict.fromkeys(marks(lines).values())))


def marks(lines: dict[str, list[Json]]) -> dict[str, tuple[float, float]]:
    """Where (labels, value) the small model overtakes the prompted LLM, and every LLM."""
    values = {family: {row["labels"]: row["value"] for row in rows} for family, rows in lines.items()}
    small = values.pop("small", {})
    if "prompted" in values:  # the same at every number
        values["prompted"] = dict.fromkeys(small, next(iter(values["prompted"].values())))
    shared = [count for count in small if all(count in line for line in values.values())]
    highest = {count: max(line[count] for line in values.values()) for count in shared} if values else {}
    others = {"the prompted LLM": values.get("prompted", {}), "every LLM": highest if len(values) > 1 else {}}
    return {name: place for name, other in others.items() if (place := overtaking(small, other))}


def overtaking(small: dict[int, float], other: dict[int, float]) -> tuple[float, float] | None:
    """From where on one line is above another: between two points on a logarithmic axis.

    None where it is so from the first point on, or not at the last.
    """
    counts = sorted(small.keys() & other.keys())
    ahead = [small[count] - other[count] for count in counts]
    if not ahead or ahead[-1] < 0 or min(ahead) >= 0:
        return None
    at = max(n for n, by in enumerate(ahead) if by < 0)
    share, (low, high) = ahead[at] / (ahead[at] - ahead[at + 1]), counts[at : at + 2]
    count = math.exp((1 - share) * math.log(low) + share * math.log(high))
    return count, (1 - share) * small[low] + share * small[high]


def shown(row: Json) -> str:
    """The metric with its interval, or why there is none."""
    if "failed" in row:
        return f"failed: {row['failed']}"
    digits = 3 if max(map(abs, row["interval"])) <= 1 else 1
    value, low, high = (f"{number:.{digits}f}" for number in (row["value"], *row["interval"]))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
