"""What a demo found, on a terminal and as one HTML file with everything in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.markup import escape
from rich.table import Table

from malmoi.core.nouns import Result
from malmoi.inside.tokens import Cut, Prediction
from malmoi.show.charts import Curve, loss_curves
from malmoi.show.comparison_report import REPORT
from malmoi.show.templates import one_line, render, visible
from malmoi.show.terminal import coloured, console
from malmoi.util.files import write_text
from malmoi.util.units import human_bytes, human_count, human_seconds

SHOWN = 100  # characters of a completion on the terminal


@dataclass(frozen=True, slots=True)
class TaskCell:
    """One method on one task: its quality, and the median time of one prediction."""

    method: str
    quality: str
    latency: str
    wins: bool


@dataclass(frozen=True, slots=True)
class TaskLine:
    """One task: the methods of each family, what the comparison advises, and where its own report is."""

    task: str
    metric: str
    cells: Mapping[str, Sequence[TaskCell]]
    advice: str
    link: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question to the same model before it was tuned (it completes) and after (it answers)."""

    question: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class OneModelLine:
    """One task: the best small model against the one model of all tasks, with its score in each language."""

    task: str
    metric: str
    small: str
    small_quality: str
    quality: str
    english: str
    korean: str
    figures: Mapping[str, Any] = field(default_factory=dict)  # the same as numbers


@dataclass(frozen=True, slots=True)
class Answers:
    """What models do that answer; nothing where the text is the user's own, without labels."""

    tasks: Sequence[TaskLine] = ()
    exchanges: Sequence[Exchange] = ()
    one_model: Sequence[OneModelLine] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a demo found, in the order in which the page shows it."""

    title: str
    machine: str
    cuts: Mapping[str, Sequence[Cut]]  # language or text name -> the same text cut in several ways
    growth: Sequence[tuple[str, Sequence[str]]]  # moment of training -> the completion of every prompt
    foundation: Sequence[tuple[str, Sequence[str]]]  # what the foundation model has read -> its completions
    prompts: Sequence[str]
    curves: Sequence[Curve]  # tokens seen, bits per byte
    results: Sequence[Result]
    sentence: Sequence[Prediction]
    row: Sequence[Prediction]
    answers: Answers
    steps: Sequence[tuple[str, float]]  # what took how many seconds
    context: int  # tokens that `state_bytes` of a result remembers
    next_commands: Sequence[str]


def write_report(report: Report, folder: Path) -> Path:
    """Render `report` to one self-contained HTML file in `folder`."""
    plot = loss_curves(report.curves, x_label="tokens read", y_label="bits per byte (validation)")
    write_text(folder / REPORT, render("report.html", {"report": report, "loss_plot": Markup(plot)}))
    return folder / REPORT


# ---- on the terminal


def show_act(number: int, count: int, title: str, seconds_left: float) -> None:
    """Where in the story one is, and about how long the rest takes."""
    console.print(f"\n[bold reverse] Act {number} of {count} [/] [bold]{title}[/]", end="")
    console.print(f"  [dim]about {human_seconds(seconds_left)} left[/]")


def show_cuts(cuts: Mapping[str, Sequence[Cut]]) -> None:
    """Each text as its tokens in colour, cut in several ways."""
    for name, found in cuts.items():
        console.print(f"\n[bold]{name}[/]")
        for one in found:
            unknown = f", {one.num_unknown} unknown" if one.num_unknown else ""
            console.print(
                f"\n[bold]{one.name}[/]: {len(one.pieces)} tokens, vocabulary {one.vocab_size:,}{unknown}"
            )
            console.print(coloured([(piece, False) for piece in one.pieces]))


def show_moment(name: str, share: float, bits: float, prompts: Sequence[str], texts: Sequence[str]) -> None:
    """How far the training of a model is, its bits per byte, and how it completes the prompts, if it does."""
    console.print(f"{name} {share:5.0%}  {bits:.3f} bits/byte")
    _show_texts(prompts, texts)


def show_growth(name: str, growth: Sequence[tuple[str, Sequence[str]]], prompts: Sequence[str]) -> None:
    """How a model completes the prompts, at each moment."""
    for moment, texts in growth:
        console.print(f"{name}, {moment}")
        _show_texts(prompts, texts)


def _show_texts(prompts: Sequence[str], texts: Sequence[str]) -> None:
    for prompt, text in zip(prompts, texts, strict=False):
        start, whole = one_line(prompt), one_line(prompt + text)
        console.print(f"           [bold]{escape(start)}[/]{escape(whole[len(start) : SHOWN])}")


def show_report(report: Report, path: Path) -> None:
    """The figures, and where the page is."""
    table = Table("", *(result.name for result in report.results))
    rows: dict[str, Callable[[Result], str]] = {
        "bits per byte": lambda result: str(result.metrics["bits_per_byte"]),
        "parameters": lambda result: human_count(result.costs["parameters"]),
        "training, tokens/s": lambda result: human_count(result.costs["train_tokens_per_s"]),
        "completing, tokens/s": lambda result: human_count(result.costs["complete_tokens_per_s"]),
        "on disk": lambda result: human_bytes(result.costs["disk_bytes"]),
        f"memory of {report.context} tokens": lambda result: human_bytes(result.costs["state_bytes"]),
    }
    if "logic" in report.results[0].metrics:
        rows["grammar, logic"] = lambda result: ", ".join(
            f"{result.metrics[name].value:.0%}" for name in ("grammar", "logic")
        )
    for name, shown in rows.items():
        table.add_row(name, *(shown(result) for result in report.results))
    console.print(table)
    console.print("What the foundation model expects in a text that it has never seen:")
    for position in report.sentence:
        likely = "  ".join(
            f"{visible(token)!r} {probability:.0%}" for token, probability in position.best[:4]
        )
        console.print(f"  {visible(position.token)!r:14} loss {position.loss:4.1f}   {likely}", markup=False)
    if report.answers.tasks:
        _show_tasks(report.answers.tasks)
        _show_one_model(report.answers.one_model)
    console.print(f"\n[bold]The report: {escape(str(path))}[/]\nTry next:")
    for command in report.next_commands:
        console.print(f"  {command}", markup=False)


def _show_tasks(lines: Sequence[TaskLine]) -> None:
    """One table: a line for each task, a column for each family, the recommended method in bold."""
    table = Table("task", *lines[0].cells, box=None, pad_edge=False)
    for line in lines:
        cells = ("\n".join(map(_method, cells)) for cells in line.cells.values())
        table.add_row(f"{line.task}\n[dim]by {line.metric}[/]", *cells)
    console.print(table)


def _method(cell: TaskCell) -> str:
    return f"[{'bold green' if cell.wins else 'default'}]{cell.method} {cell.quality}[/]"


def show_exchanges(exchanges: Sequence[Exchange]) -> None:
    """Question, completion, answer."""
    console.print("\nThe same question before and after: completion becomes an answer.")
    for one in exchanges:
        console.print(f"\n  [bold]{escape(one_line(one.question))}[/]")
        console.print(f"  before  {escape(one_line(one.before))}")
        console.print(f"  [green]after   {escape(one_line(one.after))}[/]")


def _show_one_model(lines: Sequence[OneModelLine]) -> None:
    """One model for seven tasks against the seven models."""
    table = Table("task", "best small model", "one model", "English", "Korean", box=None, pad_edge=False)
    for line in lines:
        name = f"{line.task} [dim]by {line.metric}[/]"
        table.add_row(name, f"{line.small} {line.small_quality}", line.quality, line.english, line.korean)
    console.print("\nOne model for seven tasks, against the best small model of each:")
    console.print(table)
