"""What is shown on a terminal: a run's plan, its progress, losses and samples; findings, tokens, predictions.

What needs PyTorch is loaded where it is used, as methods without a network have predictions to show, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from malmoi.core.nouns import Predictions
from malmoi.data.labelled import by_cause, how_read
from malmoi.hub.card import metric_note
from malmoi.show.palette import TERMINAL_TINTS
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import CONTINUATION, LABEL, LABELS, SPAN, TAGS, TEXT, Kind, entity_labels, marked
from malmoi.util.units import counted, human_bytes, human_count, human_seconds, measured

if TYPE_CHECKING:
    from malmoi.core.nouns import Answer, Entity, Finding, Metric, Question
    from malmoi.data.check import CorpusStats
    from malmoi.learn.job import Job
    from malmoi.learn.loop import StepReport
    from malmoi.learn.mixture import Mixture
    from malmoi.text.tokenizer_comparison import TokenizerRow

Words = Callable[[str], str]  # how a line of the library reads here: options as flags
console = Console(highlight=False, soft_wrap=True, emoji=False)
_TOKEN_COLOURS = tuple(f"on {tint}" for tint in TERMINAL_TINTS)
MOST_ALIKE = 3  # findings of one cause that are shown
_LEVEL_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def announce(run: Job[Any], words: Words = str) -> None:
    """What is learned, from what, with how much time and memory, before the work starts."""
    from malmoi.models.cells import computed_in

    loop, trial, spec = run.loop, run.trial, run.trial.spec
    mfu = trial.utilisation(run.model, loop.context, trial.tokens_per_s)
    rows = run.training.plan(spec) | {
        "computing": f"{computed_in(run.model, spec.dtype)} on {run.model.device}, micro-batch "
        f"{counted(spec.micro_batch or 1, 'row')}, {trial.tokens_per_s:,.0f} tokens/s in a trial step, "
        f"MFU {mfu:.0%} of {human_count(trial.flops_per_s)}FLOP/s",
        "expected": f"{human_seconds(trial.seconds(loop.context))}, {human_bytes(trial.memory_bytes)}",
    }
    for name, value in rows.items():
        console.print(f"[bold]{name:10}[/] {escape(words(value))}")
    for line in how_read(run.training.findings):
        console.print(f"[bold]{'read':10}[/] {escape(words(line))}")
    findings = [found for found in run.training.findings if found.level != "read"]
    for found in findings[:5]:
        console.print(f"[yellow]left out[/] {escape(found.where)}: {escape(words(found.message))}")
    if (more := len(findings) - 5) > 0:
        console.print(f"and {more:,} more")


def show_rows(rows: Sequence[Sequence[tuple[str, bool]]], mixture: Mixture) -> None:
    """Conversations as the model sees them: what it learns to say in green, the rest dim."""
    for row in rows:
        text = Text()
        for piece, trained in row:
            text.append(piece.replace("\n", "\u23ce\n"), "bold green" if trained else "dim")
        console.print(text)
        console.print()
    for line in how_read(mixture.findings):
        console.print(f"[bold]read[/] {escape(line)}")
    left_out = sum(found.level != "read" for found in mixture.findings)
    learned = sum(sum(row.trained) for row in mixture.train)
    seen = sum(len(row.ids) for row in mixture.train)
    console.print(
        f"{counted(len(mixture.train), 'conversation')} of {human_count(seen)} tokens, of which "
        f"{human_count(learned)} (green) are learned; {left_out:,} left out"
    )


class Watch:
    """Shows the steps of a run: a bar on a terminal, and a line and a sample at every evaluation."""

    def __init__(self, run: Job[Any]) -> None:
        self._run = run
        self._tokens_per_s = 0.0
        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=run.loop.spec.steps, completed=run.loop.step)

    def __enter__(self) -> Watch:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, report: StepReport) -> None:
        """One step."""
        loop, trial = self._run.loop, self._run.trial
        smooth = 0.9 if self._tokens_per_s else 0.0
        self._tokens_per_s = smooth * self._tokens_per_s + (1 - smooth) * report.tokens_per_s
        mfu = trial.utilisation(self._run.model, loop.context, self._tokens_per_s)
        left_s = (loop.spec.steps - report.step) * loop.spec.batch * loop.context / self._tokens_per_s
        speed = f"{self._tokens_per_s:,.0f} tokens/s  MFU {mfu:.0%}  {human_seconds(left_s)} left"
        self._bar.update(
            self._task, total=loop.spec.steps, completed=report.step,
            description=f"loss {report.loss:.3f}  {speed}",
        )  # fmt: skip
        if report.valid_loss is not None:
            console.print(f"step {report.step}/{loop.spec.steps}  {_judged(report)}  {speed}")
            console.print(self._sample(), style="dim", markup=False)

    def _sample(self) -> str:
        """A short completion; it draws from its own generator, so that training is not disturbed."""
        from malmoi.engine import Engine, Sampling

        run, prompt = self._run, self._run.prompt_ids
        run.model.eval()
        length = max(1, min(40, run.loop.context // 2))
        sampling = Sampling(max_tokens=length, temperature=0.8, top_k=50, seed=0)
        text = Engine(run.model, run.tokenizer).generate([prompt], sampling)[0].text
        asked = "\n" if prompt[-1] in run.tokenizer.specials.ids else ""  # a reply begins with a new line
        return f"  | {run.tokenizer.decode(prompt)}{asked}{text}".replace("\n", "\n  | ")


def _judged(report: StepReport) -> str:
    """The loss, and what validation found."""
    bits = report.valid_bits_per_byte
    found = {"valid": report.valid_loss} | ({} if bits is None else {"bits/byte": bits})
    found |= {name[6:]: value for name, value in report.measures.items() if name.startswith("valid_")}
    return "  ".join([f"loss {report.loss:.3f}", *(f"{name} {value:.4f}" for name, value in found.items())])


def coloured(tokens: Sequence[tuple[str, bool]]) -> Text:
    """Token pieces in turning colours; trained positions are underlined."""
    text = Text()
    for number, (piece, trained) in enumerate(tokens):
        colour = _TOKEN_COLOURS[number % len(_TOKEN_COLOURS)]
        shown = piece.replace("\n", "\u23ce\n").replace("\t", "\u21e5")
        text.append(shown, f"black {colour}{' underline' if trained else ''}")
    return text


def show_tokens(documents: Sequence[Sequence[tuple[str, bool]]]) -> None:
    """Documents as tokens in colour."""
    for tokens in documents:
        console.print(coloured(tokens))
        trained = sum(is_trained for _, is_trained in tokens)
        console.print(
            f"[dim]{counted(len(tokens), 'token')} shown, {trained} of them trained (underlined)[/]\n"
        )


def show_findings(findings: Sequence[Finding], words: Words = str, most: int | None = MOST_ALIKE) -> int:
    """How the data were read, then each finding on a line, of one cause at most so many (None: all); returns
    how many are errors."""
    for line in how_read(findings):
        console.print(f"[cyan]read[/] {escape(words(line))}")
    findings = [found for found in findings if found.level != "read"]
    for alike in by_cause(findings):
        colour = _LEVEL_COLOURS[alike[0].level]
        for found in alike[:most]:
            console.print(f"[{colour}]{found.level}[/] {escape(found.where)}: {escape(words(found.message))}")
        if most is not None and (more := len(alike) - most) > 0:
            line = f"and {more:,} more like these; `all` lists them"
            console.print(f"[{colour}]{alike[0].level}[/] {words(line)}")
    errors = sum(found.level == "error" for found in findings)
    console.print(
        f"{counted(len(findings), 'finding')}, {counted(errors, 'error')} among them"
        if findings
        else "nothing is wrong"
    )
    return errors


def show_stats(stats: CorpusStats, context: int, words: Words = str) -> None:
    """The measures of a corpus, then what is wrong with it."""
    lengths = ", ".join(f"{p}%: {length:,}" for p, length in stats.length_percentiles.items())
    rows = {
        "documents": f"{stats.num_documents:,}",
        "text": f"{stats.num_characters:,} characters, {human_bytes(stats.num_bytes)}",
        "characters of a document": lengths,
        "letters": ", ".join(f"{script} {share:.1%}" for script, share in stats.scripts.items()),
        "encodings": ", ".join(f"{name}: {counted(it, 'file')}" for name, it in stats.encodings.items()),
        "duplicates": f"{stats.exact_duplicates:,} exact, {stats.near_duplicates:,} near",
        "train in valid": f"{stats.overlap_exact:,} exact, {stats.overlap_near:,} near",
        "validation": stats.note or "its own files",
    }
    if stats.num_long is not None:
        rows[f"over {context} tokens"] = f"{counted(stats.num_long, 'document')}, learned in parts"
    for name, value in rows.items():
        console.print(f"[bold]{name:24}[/] {escape(value)}")
    show_findings(stats.findings, words)


def show_tokenizers(rows: Sequence[TokenizerRow]) -> None:
    """The trade-off of each kind of tokenizer."""
    table = Table("kind", "vocabulary", "tokens per document", "bytes per token", "words lost", "encode MB/s")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row.kind, f"{row.vocab_size:,}", f"{row.tokens_per_document:,.1f}", f"{row.bytes_per_token:.2f}",
            f"{row.unknown_word_rate:.2%}", f"{row.encode_mb_per_s:.1f}",
        )  # fmt: skip
    console.print(table)


def show_metrics(metrics: Mapping[str, Metric], num_examples: int) -> None:
    """Each metric with its 95% interval and what exactly it is."""
    table = Table(f"on {counted(num_examples, 'example')}", "value", "95% interval")
    notes = list(map(metric_note, metrics.values()))
    if any(notes):
        table.add_column(overflow="fold")  # a signature is one long word
    for (name, metric), note in zip(metrics.items(), notes, strict=True):
        interval = "" if metric.interval is None else " to ".join(map(measured, metric.interval))
        noted = (f"[dim]{escape(note)}[/]",) if any(notes) else ()
        table.add_row(name, measured(metric.value), interval, *noted)
    console.print(table)


def show_prediction(task: Task[Any, Any], value: Any, found: Predictions) -> None:
    """One prediction for people: a label with its probabilities, names in colour, an answer in its text."""
    [answer], sure, [shares] = found.values, found.confidences, found.probabilities or [{}]
    shown = None if answer is None else VIEWS[task.kind](value, answer)
    console.print("no answer" if shown is None else shown)
    if sure and answer is not None and not task.kind.is_choice:
        console.print(f"[dim]right with a probability of {sure[0]:.0%}[/]")
    for name, probability in sorted(shares.items(), key=lambda item: -item[1])[:5]:
        console.print(f"{probability:7.1%} {'█' * round(30 * probability)} [dim]{escape(name)}[/]")


def _marked(text: str, entities: Sequence[Entity]) -> Text:
    """A text with its entities in a colour for each label, and the labels behind them."""
    labels, found = entity_labels(entities), Text()
    for piece, label in marked(text, entities):
        colour = _TOKEN_COLOURS[labels.index(label) % len(_TOKEN_COLOURS)] if label else ""
        found.append(piece, f"black {colour}" if label else "").append(f" {label} " if label else "", "dim")
    return found


def _in_context(value: Question, answer: Answer, around: int = 120) -> Text:
    """The answer, and where it stands."""
    context, text = value.context, Text(answer.text, "bold")
    if answer.start < 0:
        return text
    start, end = answer.start, answer.start + len(answer.text)
    before, after = context[max(0, start - around) : start], context[end : end + around]
    text.append("\n" + ("…" if start > around else "") + before, "dim").append(answer.text, "bold underline")
    return text.append(after + ("…" if len(context) > end + around else ""), "dim")


# A prediction for an input, by the task's kind.
VIEWS: dict[Kind, Callable[[Any, Any], Text]] = {
    LABEL: lambda _, label: Text(label, "bold"),
    LABELS: lambda _, labels: Text(", ".join(labels) or "(no label)", "bold"),
    TAGS: _marked,
    SPAN: _in_context,
    TEXT: lambda _, reply: Text(reply),
    CONTINUATION: lambda start, added: Text().append(start, "bold").append(added),
}
