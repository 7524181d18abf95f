"""The command line's verbs for tasks: fit, predict, evaluate, compare. Verbs only, as in `malmoi.cli`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.util.errors import UserError

if TYPE_CHECKING:
    from malmoi.data.check import Finding
    from malmoi.tasks.base import Task

TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="classification, ner, translation, completion, summarization, question-answering or chat.",
    ),
]
TrainPath = Annotated[Path, typer.Option(help="The labelled examples to learn from.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--fields", help="ROLE=COLUMN, where your columns have other names; may be repeated."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="An option of the method, a=b; may be repeated.")
]
BudgetSeconds = Annotated[
    float | None, typer.Option("--budget", min=1.0, help="Seconds that a method may train at most.")
]
AllowSkips = Annotated[
    bool, typer.Option("--allow-skips", help="Go on where more than 1% of the rows are wrong.")
]


def fit(
    task: TaskName,
    method: Annotated[str, typer.Option(help="For example tfidf, lstm or transformer.")],
    train: TrainPath,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    valid: Annotated[Path | None, typer.Option(help="Examples to measure it on.")] = None,
    fields: Fields = None,
    settings: Settings = None,
    budget: BudgetSeconds = None,
    allow_skips: AllowSkips = False,
) -> None:
    """Fit one method to a task's examples, measure it, and save it."""
    from malmoi import console
    from malmoi.methods.use import fit_method
    from malmoi.train.fit import Budget
    from malmoi.util.heap import keep_heap

    keep_heap()
    found = fit_method(
        _task(task, fields), method, train, valid, out, options=_pairs(settings, "--set", typed=True),
        budget=Budget(budget), allow_skips=allow_skips, say=typer.echo,
    )  # fmt: skip
    console.show_metrics(found.metrics, found.num_examples)
    typer.echo(f'saved {out}; try: malmoi predict {out} "..."')


def predict(
    folder: Annotated[Path, typer.Argument(help="A fitted method's folder, or a comparison's.")],
    text: Annotated[
        str, typer.Argument(metavar="INPUT", help="A text, a file with one input a line, or - for those.")
    ],
    context: Annotated[
        str | None, typer.Option(help="Question answering: the text that answers, or a file of it.")
    ] = None,
) -> None:
    """Predict: one text is answered for people; a file or - gives JSON lines."""
    from malmoi import console
    from malmoi.methods.use import LoadedMethod

    loaded = LoadedMethod(folder)
    if text != "-" and not _is_file(text):
        value = loaded.task.input_from(_question(text, context))
        console.show_prediction(loaded.method, value)
        return
    lines = sys.stdin.buffer.read() if text == "-" else Path(text).read_bytes()
    try:
        values = [_value(line) for line in lines.decode("utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise UserError(f"the input is not UTF-8 ({where}); convert it") from None
    inputs = [loaded.task.input_from(_question(value, context)) for value in values]
    for value, found in zip(inputs, loaded.method.predict(inputs), strict=True):
        row = {"input": loaded.task.input_json(value), "prediction": loaded.task.to_json(found, value)}
        typer.echo(json.dumps(row, ensure_ascii=False))


def evaluate(
    folder: Annotated[Path, typer.Argument(help="A fitted method's folder, or a comparison's.")],
    data: Annotated[Path, typer.Option(help="Labelled examples that it did not learn from.")],
    fields: Fields = None,
    allow_skips: AllowSkips = False,
) -> None:
    """Measure a fitted method on labelled examples."""
    from malmoi import console
    from malmoi.methods import use

    loaded = use.LoadedMethod(folder)
    task = _task(loaded.task.name, fields) if fields else loaded.task
    examples = task.load(data, allow_skips=allow_skips)
    console.show_metrics(use.evaluate(loaded.method, examples), len(examples))


def compare(
    task: TaskName,
    train: TrainPath,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    valid: Annotated[
        Path | None, typer.Option(help="Validation examples: the report's without --test.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Examples for the report only.")] = None,
    methods: Annotated[str, typer.Option(help="all, or names with commas between.")] = "all",
    good_enough: Annotated[
        str | None, typer.Option(help="METRIC=VALUE: the cheapest method that reaches it wins.")
    ] = None,
    budget: BudgetSeconds = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0.0, help="Of this machine, to show what predictions cost.")
    ] = None,
    currency: Annotated[str, typer.Option(help="Of that price, for example USD or KRW.")] = "",
    curve: Annotated[
        bool, typer.Option("--curve", help="Train on 10% and 30% of the examples, too.")
    ] = False,
    test_limit: Annotated[int | None, typer.Option(min=1, help="Measure on at most so many.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    fields: Fields = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="METHOD.OPTION=VALUE; may be repeated.")
    ] = None,
    allow_skips: AllowSkips = False,
) -> None:
    """Train every method on the same data, and report which one to use."""
    from malmoi.compare.run import run_comparison
    from malmoi.compare.settings import ComparisonSettings, parse_good_enough
    from malmoi.compare.terminal import show_comparison
    from malmoi.console import console
    from malmoi.methods.registry import method_options

    found = run_comparison(
        ComparisonSettings(
            task=task, fields=_pairs(fields, "--fields"), train=train, valid=valid, test=test,
            methods=method_options(_task(task, fields), methods, _pairs(settings, "--set", typed=True)),
            good_enough=parse_good_enough(good_enough) if good_enough else None,
            budget_seconds=budget, price_per_hour=price_per_hour or None, currency=currency, curve=curve,
            test_limit=test_limit, seed=seed, allow_skips=allow_skips,
        ),
        out,
        typer.echo,
    )  # fmt: skip
    console.print(show_comparison(found, console.width))


VERBS = (fit, predict, evaluate, compare)


def check(
    name: str, fields: list[str] | None, train: Path, valid: Path | None, test: Path | None
) -> list[Finding]:
    """What is wrong with a task's examples, for `malmoi data check --task`."""
    paths = {"train": train, "valid": valid, "test": test}
    return _task(name, fields).check_files({part: path for part, path in paths.items() if path})


def _task(name: str, fields: list[str] | None) -> Task[Any, Any]:
    from malmoi.tasks import make_task

    return make_task(name, _pairs(fields, "--fields"))


def _pairs(settings: list[str] | None, option: str, *, typed: bool = False) -> dict[str, Any]:
    """a=b as {a: b}; typed: b is read as YAML, so that numbers are numbers."""
    import yaml

    found: dict[str, Any] = {}
    for setting in (part for one in settings or () for part in (one.split(",") if not typed else [one])):
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UserError(f"{option} {setting!r} is not of the form a=b")
        try:
            found[name.strip()] = yaml.safe_load(value) if typed else value.strip()
        except yaml.YAMLError:
            raise UserError(f"{option} {name}: {value!r} is not a YAML value") from None
    return found


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a text that is too long for a name, or has a zero in it
        return False


def _value(line: str) -> Any:
    """JSON where the line is an object, a string or a list of it; else the text itself."""
    try:
        found = json.loads(line)
    except ValueError:
        return line.rstrip("\r")
    return found if isinstance(found, dict | str) else line


def _question(value: Any, context: str | None) -> Any:
    """With --context, a question and what answers it; without, the value (a JSON object's text is read)."""
    if context is None:
        return _value(value) if isinstance(value, str) else value
    text = Path(context).read_text(encoding="utf-8") if _is_file(context) else context
    return {"question": value, "context": text}
