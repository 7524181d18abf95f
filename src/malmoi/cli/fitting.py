"""The command line's verbs for tasks: fit, predict, evaluate, compare. Verbs only."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli.words import say
from malmoi.core.errors import UserError
from malmoi.data.encodings import decoded
from malmoi.util.files import denied
from malmoi.util.streams import standard_input

if TYPE_CHECKING:
    from malmoi.core.nouns import Finding
    from malmoi.tasks.base import Task

# files of inputs, and others
LINES, TABLES = (".txt", ".jsonl"), (".csv", ".tsv", ".parquet", ".arrow", ".feather", ".json")
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
ModelPath = Annotated[
    Path | None,
    typer.Option(help="A language model's folder, for prompted and finetuned; without it they are left out."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="An option of the method, a=b; may be repeated.")
]
BudgetSeconds = Annotated[
    float | None, typer.Option("--budget", min=1.0, help="Seconds that a method may train at most.")
]
Licence = Annotated[
    str | None,
    typer.Option(help="Of the data, for the model card; without it a LICENSE beside the data is looked for."),
]
AllowSkips = Annotated[
    bool, typer.Option("--allow-skips", help="Go on where more than 1% of the rows are wrong.")
]


def fit(
    task: TaskName,
    method: Annotated[str, typer.Option(help="For example tfidf, lstm or prompted.")],
    train: TrainPath,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    valid: Annotated[Path | None, typer.Option(help="Examples to measure it on.")] = None,
    fields: Fields = None,
    model: ModelPath = None,
    settings: Settings = None,
    budget: BudgetSeconds = None,
    allow_skips: AllowSkips = False,
    licence: Licence = None,
) -> None:
    """Fit one method to a task's examples, measure it, and save it."""
    from malmoi.core.nouns import Budget
    from malmoi.methods.registry import method_options
    from malmoi.methods.use import fit_method
    from malmoi.show import terminal
    from malmoi.util.hardware import keep_heap

    keep_heap()
    made = _task(task, fields)
    given = {f"{method}.{name}": it for name, it in pairs(settings, "--set", typed=True).items()}
    options = method_options(made, method, given, _text(model)).get(method, {})
    try:
        found = fit_method(
            made, method, train, valid, out, options=options,
            budget=Budget(budget), allow_skips=allow_skips, say=say, licence=licence,
        )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from where it was")
        raise typer.Exit(130) from None
    terminal.show_metrics(found.metrics, found.num_examples)
    more = ' --context "..."' if found.method.task.kind.has_context else ""
    typer.echo(f'saved {out}; try: malmoi predict {shlex.quote(str(out))} "..."{more}')


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
    from malmoi.methods.use import LoadedMethod
    from malmoi.show import terminal

    loaded = LoadedMethod(folder)
    ask = _asker(loaded.task, context)
    if text != "-" and not _is_file(text):
        terminal.show_prediction(loaded.method, ask(_json_or_text(text)))
        return
    inputs = _inputs(text, ask)
    answers = loaded.method.predict(inputs)
    for value, found in zip(inputs, answers.values, strict=True):
        row = {"input": loaded.task.input_json(value), "prediction": loaded.task.to_json(found, value)}
        typer.echo(json.dumps(row, ensure_ascii=False))
    if answers.note:
        typer.echo(f"malmoi: {answers.note}", err=True)


def evaluate(
    folder: Annotated[Path, typer.Argument(help="A fitted method's folder, or a comparison's.")],
    data: Annotated[Path, typer.Option(help="Labelled examples that it did not learn from.")],
    fields: Fields = None,
    allow_skips: AllowSkips = False,
) -> None:
    """Measure a fitted method on labelled examples."""
    from malmoi.methods import use
    from malmoi.show import terminal

    loaded = use.LoadedMethod(folder)
    task = _task(loaded.task.name, fields) if fields else loaded.task
    examples = use.load(task, {"test": data}, allow_skips=allow_skips, say=say)["test"]
    for line in use.unseen(loaded, examples):
        typer.echo(line)
    terminal.show_metrics(use.evaluate(loaded.method, examples), len(examples))


def compare(
    task: TaskName,
    train: TrainPath,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    valid: Annotated[
        Path | None, typer.Option(help="Validation examples: the report's without --test.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Examples for the report only.")] = None,
    methods: Annotated[
        str,
        typer.Option(
            help="all, or names with commas between; NAME:WORD is one more of NAME, with its own options."
        ),
    ] = "all",
    model: ModelPath = None,
    good_enough: Annotated[
        str | None, typer.Option(help="METRIC=VALUE: the cheapest method that reaches it wins.")
    ] = None,
    budget: BudgetSeconds = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=1e-6, help="Of this machine, to show what predictions cost.")
    ] = None,
    currency: Annotated[str, typer.Option(help="Of that price, for example USD or KRW.")] = "",
    curve: Annotated[
        bool, typer.Option("--curve", help="Train on 10% and 30% of the examples, too.")
    ] = False,
    shots_curve: Annotated[
        str | None, typer.Option(help="0,1,2,4,8: also measure prompted with so many solved examples.")
    ] = None,
    test_limit: Annotated[int | None, typer.Option(min=1, help="Measure on at most so many.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    fields: Fields = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="METHOD.OPTION=VALUE; may be repeated.")
    ] = None,
    allow_skips: AllowSkips = False,
    licence: Licence = None,
) -> None:
    """Train every method on the same data, and report which one to use."""
    from malmoi.compare.runner import run_comparison
    from malmoi.compare.settings import ComparisonSettings, parse_good_enough, parse_shots
    from malmoi.methods.registry import method_options
    from malmoi.show.comparison_report import present

    if currency and not price_per_hour:
        raise UserError(f"--currency {currency} needs --price-per-hour")
    found = run_comparison(
        ComparisonSettings(
            task=task, fields=pairs(fields, "--fields"), train=train, valid=valid, test=test,
            methods=method_options(
                _task(task, fields), methods, pairs(settings, "--set", typed=True), _text(model)
            ),
            shots_curve=parse_shots(shots_curve) if shots_curve else (),
            good_enough=parse_good_enough(good_enough) if good_enough else None,
            budget_seconds=budget, price_per_hour=price_per_hour, currency=currency, curve=curve,
            test_limit=test_limit, seed=seed, allow_skips=allow_skips, licence=licence,
        ),
        out,
        say,
    )  # fmt: skip
    present(found)
    if found.verdict.best is None:
        raise typer.Exit(1)


VERBS = (fit, predict, evaluate, compare)


def check(
    name: str, fields: list[str] | None, train: Path, valid: Path | None, test: Path | None
) -> list[Finding]:
    """What is wrong with a task's examples, for `malmoi data check --task`."""
    paths = {"train": train, "valid": valid, "test": test}
    return _task(name, fields).check_files({part: path for part, path in paths.items() if path})


def _task(name: str, fields: list[str] | None) -> Task[Any, Any]:
    from malmoi.tasks import make_task

    return make_task(name, pairs(fields, "--fields"))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def pairs(settings: list[str] | None, option: str, *, typed: bool = False) -> dict[str, Any]:
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


def _inputs(path: str, ask: Callable[[Any], Any]) -> list[Any]:
    """The inputs in a file, or in standard input for -: a text or JSON object on each line."""
    found = standard_input() if path == "-" else Path(path).read_bytes()
    name = "standard input" if path == "-" else path
    inputs: list[Any] = []
    for number, line in enumerate(decoded(found, name).split("\n"), 1):
        try:
            inputs += [ask(_json_or_text(line))] if line.strip() else []
        except UserError as error:
            raise UserError(f"{name}:{number}: {error}") from None
    return inputs


def _asker(task: Task[Any, Any], context: str | None) -> Callable[[Any], Any]:
    """From a value to an input of the task; with --context, a value is a question about that text."""
    if context is None:
        return task.input_from
    if not task.kind.has_context:
        raise UserError(f"--context is for question-answering; this folder does {task.name}")
    text = decoded(Path(context).read_bytes(), context) if _is_file(context) else context
    about = {"context": text}
    return lambda value: task.input_from(about | (value if isinstance(value, dict) else {"question": value}))


def _is_file(text: str) -> bool:
    """Whether `text` is a file of lines. Raises UserError for a table, or the name of a missing file."""
    try:
        path = Path(text)
        found = path.is_file()
    except PermissionError:
        raise denied(Path(text)) from None
    except (OSError, ValueError):  # a text that is too long for a name, or has a zero in it
        return False
    named = path.suffix.lower() in (*LINES, *TABLES) and not any(map(str.isspace, text))
    if named and not found:
        raise UserError(f"{text} does not exist; give a text, a file with one input a line, or -")
    if named and path.suffix.lower() in TABLES:
        raise UserError(f"{text} is a table; give a .txt or .jsonl file with one input a line")
    return found


def _json_or_text(line: str) -> Any:
    """The value where the line is a JSON object or string; else the text itself."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return line.rstrip("\r")
    return found if isinstance(found, dict | str) else line.rstrip("\r")
