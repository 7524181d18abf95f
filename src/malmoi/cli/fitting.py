"""The verbs for tasks: fit, predict, evaluate, compare, distill."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from malmoi.cli.options import (
    AllowSkips,
    Delimiter,
    Encoding,
    Fields,
    Licence,
    MethodSettings,
    NewFolder,
    task_of,
    with_files,
)
from malmoi.cli.words import named_model, say, say_aside, say_json, stoppable

TaskName = Annotated[
    str,
    Argument(
        metavar="TASK",
        help="classification, multi-label, ner, translation, completion, summarization, "
        "question-answering or chat.",
    ),
]
TrainPath = Annotated[Path, Option(help="The labelled examples to learn from.")]
ModelPath = Annotated[
    Path | None,
    Option(
        parser=named_model,
        help="A language model's folder, for prompted and finetuned; without it they are left out.",
    ),
]
BudgetSeconds = Annotated[
    float | None, Option("--budget", min=1.0, help="Seconds that a method may train at most.")
]
PricePerHour = Annotated[
    float | None, Option(min=1e-6, help="Of this machine, to show what predictions cost.")
]
Currency = Annotated[str, Option(help="Of that price, for example USD or KRW.")]
Seed = Annotated[int, Option(min=0)]
Seeds = Annotated[
    int, Option(min=1, help="Train networks so many times: intervals hold the chance of the seed, too.")
]
Judge = Annotated[
    str | None, Option(help="A language model's folder, or: remote. It says whose texts are better.")
]
MetricName = Annotated[
    str | None,
    Option(help="What to judge by; else the task's, or macro F1 where one label has most examples."),
]
Settings = Annotated[list[str] | None, Option("--set", help="An option of the method, a=b; may be repeated.")]


def fit(
    task: TaskName,
    method: Annotated[str, Option(help="For example tfidf, lstm or prompted.")],
    train: TrainPath,
    out: NewFolder,
    valid: Annotated[Path | None, Option(help="Examples to measure it on.")] = None,
    fields: Fields = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    model: ModelPath = None,
    settings: Settings = None,
    budget: BudgetSeconds = None,
    allow_skips: AllowSkips = False,
    licence: Licence = None,
) -> None:
    """Fit one method to a task's examples, measure it, and save it."""
    from malmoi.core.config import pairs
    from malmoi.methods.registry import method_options
    from malmoi.methods.use import fit_method
    from malmoi.show import terminal
    from malmoi.util.hardware import keep_heap

    keep_heap()
    made = task_of(task, with_files(fields, encoding, delimiter))
    given = {f"{method}.{name}": it for name, it in pairs(settings, "set", typed=True).items()}
    options = method_options(made, method, given, model and str(model)).get(method, {})
    with stoppable("the same command goes on from where it was"):
        found = fit_method(
            made, method, train, valid, out, options=options,
            budget_seconds=budget, allow_skips=allow_skips, say=say, licence=licence,
        )  # fmt: skip
    terminal.show_metrics(found.metrics, found.num_examples)
    more = ' --context "..."' if found.method.task.kind.has_context else ""
    typer.echo(f'saved {out}; try: malmoi predict {shlex.quote(str(out))} "..."{more}')


def predict(
    folder: Annotated[Path, Argument(help="A fitted method's folder, or a comparison's.")],
    text: Annotated[
        str, Argument(metavar="INPUT", help="A text, a file with one input a line, or - for those.")
    ],
    context: Annotated[
        str | None, Option(help="Question answering: the text that answers, or a file of it.")
    ] = None,
    min_confidence: Annotated[
        float | None, Option(help="No answer (null) where it is right with a lower probability.")
    ] = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
) -> None:
    """Predict: one text is answered for people; a file or - gives JSON lines."""
    from dataclasses import replace

    from malmoi.core.config import pairs
    from malmoi.methods.use import LoadedMethod, confident
    from malmoi.show import terminal
    from malmoi.tasks.inputs import inputs_of

    loaded = LoadedMethod(folder)
    files = pairs(with_files(None, encoding, delimiter), "fields")
    task = replace(loaded.task, fields={**loaded.task.fields, **files})
    inputs, are_lines = inputs_of(task, text, context)
    answers = confident(loaded.method, inputs, min_confidence)
    if not are_lines:
        terminal.show_prediction(loaded.task, inputs[0], answers)
        return
    for at, (value, found) in enumerate(zip(inputs, answers.values, strict=True)):
        row = {"input": loaded.task.input_json(value), "prediction": loaded.task.to_json(found, value)}
        row |= {"confidence": answers.confidences[at]} if answers.confidences else {}
        say_json(row)
    left_out = sum(one is None for one in answers.values) if min_confidence is not None else 0
    unsure = f"{left_out:,} of {len(inputs):,} without an answer" if left_out else ""
    for note in filter(None, (answers.note, loaded.method.cut_note(inputs), unsure)):
        typer.echo(f"malmoi: {note}", err=True)


def evaluate(
    folder: Annotated[Path, Argument(help="A fitted method's folder, or a comparison's.")],
    data: Annotated[Path, Option(help="Labelled examples that it did not learn from.")],
    train: Annotated[
        Path | None, Option(help="What it learned from: also measures whether texts belong to their inputs.")
    ] = None,
    fields: Fields = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    allow_skips: AllowSkips = False,
) -> None:
    """Measure a fitted method on labelled examples."""
    from malmoi.methods import use
    from malmoi.show import terminal

    loaded = use.LoadedMethod(folder)
    given = with_files(fields, encoding, delimiter)
    task = task_of(loaded.task.name, given) if given else loaded.task
    parts = use.load(task, {"train": train, "test": data}, allow_skips=allow_skips, say=say)
    examples = parts["test"]
    say(*use.unseen(loaded, examples))
    if loaded.task.metric != loaded.task.primary:
        words = loaded.task.metric.replace("_", " ")
        say(f"measured by {words}: one label had most of the training examples")
    terminal.show_metrics(use.evaluate(loaded.method, examples, parts.get("train", ())), len(examples))


def compare(
    task: TaskName,
    train: TrainPath,
    out: NewFolder,
    valid: Annotated[Path | None, Option(help="Validation examples: the report's without --test.")] = None,
    test: Annotated[Path | None, Option(help="Examples for the report only.")] = None,
    methods: Annotated[
        str,
        Option(
            help="all, or names with commas between; NAME:WORD is one more of NAME, with its own options."
        ),
    ] = "all",
    model: ModelPath = None,
    metric: MetricName = None,
    good_enough: Annotated[
        str | None, Option(help="METRIC=VALUE: the cheapest method that reaches it wins.")
    ] = None,
    margin: Annotated[
        str | None,
        Option(
            help="0.03 or 3%: how much worse than the best is good enough; else 2% of the metric's scale."
        ),
    ] = None,
    group: Annotated[
        str | None, Option(help="The column that says which rows belong together: document, author, film.")
    ] = None,
    budget: BudgetSeconds = None,
    price_per_hour: PricePerHour = None,
    currency: Currency = "",
    curve: Annotated[bool, Option("--curve", help="Train on 10% and 30% of the examples, too.")] = False,
    shots_curve: Annotated[
        str | None, Option(help="0,1,2,4,8: also measure prompted with so many solved examples.")
    ] = None,
    test_limit: Annotated[int | None, Option(min=1, help="Measure on at most so many.")] = None,
    judge: Judge = None,
    judge_limit: Annotated[int, Option(min=1, help="Test examples that it is asked about at most.")] = 100,
    seed: Seed = 0,
    seeds: Seeds = 1,
    fields: Fields = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    settings: MethodSettings = None,
    allow_skips: AllowSkips = False,
    licence: Licence = None,
    as_json: Annotated[
        bool, Option("--json", help="Print results.json; progress goes to standard error.")
    ] = False,
) -> None:
    """Train every method on the same data, and report which one to use."""
    from malmoi.compare.runner import run_comparison
    from malmoi.compare.settings import ComparisonSettings, parse_good_enough, parse_margin, parse_shots
    from malmoi.core.config import pairs
    from malmoi.methods.registry import method_options
    from malmoi.show.comparison_report import present

    fields = [*with_files(fields, encoding, delimiter), *([f"group={group}"] if group else ())]
    made, given = task_of(task, fields), pairs(settings, "set", typed=True)
    of_judge = {name: given.pop(name) for name in [*given] if name.startswith("judge.")}
    found = run_comparison(
        ComparisonSettings(
            task=task, fields=pairs(fields, "fields"), train=train, valid=valid, test=test,
            methods=method_options(made, methods, given, model and str(model)),
            judge=judge, judge_limit=judge_limit,
            judge_options={name.removeprefix("judge."): it for name, it in of_judge.items()},
            shots_curve=parse_shots(shots_curve) if shots_curve else (),
            metric=metric, good_enough=parse_good_enough(good_enough) if good_enough else None,
            margin=parse_margin(margin, metric or made.primary) if margin else None,
            budget_seconds=budget, price_per_hour=price_per_hour, currency=currency, curve=curve,
            test_limit=test_limit, seed=seed, seeds=seeds, allow_skips=allow_skips, licence=licence,
        ),
        out,
        say_aside if as_json else say,
    )  # fmt: skip
    present_as = _print_results if as_json else present
    present_as(found)
    if found.verdict.best is None:
        raise typer.Exit(1)


def _print_results(found: Any) -> None:
    """Write the report, and print results.json."""
    from malmoi.methods.use import RESULTS
    from malmoi.show.comparison_report import write_comparison

    write_comparison(found)
    typer.echo((found.out / RESULTS).read_text(encoding="utf-8"))


def distill(
    task: TaskName,
    teacher: Annotated[str, Option(help="The folder of a fitted method or of a language model, or: remote.")],
    student: Annotated[str, Option(help="The method that learns, for example tfidf.")],
    unlabelled: Annotated[Path, Option(help="Inputs: a text on each line of .txt, or rows.")],
    out: NewFolder,
    train: Annotated[Path | None, Option(help="Examples labelled by people, to learn from as well.")] = None,
    test: Annotated[
        Path | None, Option(help="Examples labelled by people, to measure on; else a part of --train.")
    ] = None,
    labels: Annotated[
        str | None, Option(help="A,B: for a teacher that is asked in words, where no examples tell.")
    ] = None,
    keep_above: Annotated[
        float | None, Option(min=0, max=1, help="Leave out labels that are less probable.")
    ] = None,
    budget: BudgetSeconds = None,
    price_per_hour: PricePerHour = None,
    currency: Currency = "",
    seed: Seed = 0,
    fields: Fields = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    settings: Annotated[
        list[str] | None,
        Option("--set", help="teacher.OPTION=VALUE or student.OPTION=VALUE; may be repeated."),
    ] = None,
    allow_skips: AllowSkips = False,
    licence: Licence = None,
) -> None:
    """Let a large model label your texts, and train a small one on that."""
    from malmoi.compare.distill import DistillSettings, parse_options
    from malmoi.compare.distill import distill as run
    from malmoi.core.config import pairs
    from malmoi.show.comparison_report import present

    options = parse_options(pairs(settings, "set", typed=True))
    found = run(
        DistillSettings(
            task=task, teacher=teacher, student=student, unlabelled=unlabelled, train=train, test=test,
            teacher_options=options["teacher"], student_options=options["student"],
            labels=tuple(name.strip() for name in labels.split(",")) if labels else (),
            keep_above=keep_above, fields=pairs(with_files(fields, encoding, delimiter), "fields"),
            budget_seconds=budget,
            price_per_hour=price_per_hour, currency=currency, seed=seed, allow_skips=allow_skips,
            licence=licence,
        ),
        out,
        say,
    )  # fmt: skip
    present(found.comparison)
    if found.student.exists():
        folder = shlex.quote(str(found.student))
        typer.echo(f'the student is in {found.student}; try: malmoi predict {folder} "..."')
