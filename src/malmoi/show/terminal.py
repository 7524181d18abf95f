"""What malmoi shows on a terminal: findings, measures, tokens, predictions. It needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from malmoi.hub.card import metric_note
from malmoi.util.units import counted, human_bytes, measured

if TYPE_CHECKING:
    from malmoi.core.nouns import Answer, Entity, Finding, Metric
    from malmoi.data.check import CorpusStats
    from malmoi.methods.base import Method
    from malmoi.text.tokenizer_comparison import TokenizerRow

Words = Callable[[str], str]  # how a line of the library reads here: options as flags
console = Console(highlight=False, soft_wrap=True, emoji=False)
_TOKEN_COLOURS = ("on #b3d4ff", "on #ffd6a5", "on #caffbf", "on #ffc6ff", "on #fdffb6")
_LEVEL_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


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


def show_findings(findings: Sequence[Finding], words: Words = str) -> int:
    """Each finding on a line; returns how many are errors."""
    for found in findings:
        colour = _LEVEL_COLOURS[found.level]
        console.print(f"[{colour}]{found.level}[/] {escape(found.where)}: {escape(words(found.message))}")
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
        "duplicates": f"{stats.exact_duplicates:,} exact, {stats.near_duplicates:,} near "
        f"(among {stats.num_compared:,} compared)",
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
        told = (f"[dim]{escape(note)}[/]",) if any(notes) else ()
        table.add_row(name, measured(metric.value), interval, *told)
    console.print(table)


def show_prediction(method: Method, value: Any) -> None:
    """One prediction for people: a label with its probabilities, names in colour, an answer in its text."""
    found = method.predict([value])[0]
    if found is None:
        console.print("no answer")
    elif method.task.kind == "label":
        _show_label(found, method.probabilities([value]))
    elif method.task.kind == "tags":
        console.print(_marked(value, found))
    elif method.task.kind == "span":
        console.print(_in_context(found, value.context))
    else:
        start = value if method.task.kind == "continuation" else ""
        console.print(f"[bold]{escape(start)}[/]{escape(found)}")


def _show_label(label: str, probabilities: Sequence[Mapping[str, float]] | None) -> None:
    console.print(f"[bold]{escape(label)}[/]")
    best = sorted(probabilities[0].items(), key=lambda item: -item[1])[:5] if probabilities else []
    for name, probability in best:
        console.print(f"{probability:7.1%} {'█' * round(30 * probability)} [dim]{escape(name)}[/]")


def _marked(text: str, entities: Sequence[Entity]) -> Text:
    """A text with its entities in a colour for each label, and the labels behind them."""
    labels = sorted({entity.label for entity in entities})
    marked, end = Text(), 0
    for entity in entities:
        colour = _TOKEN_COLOURS[labels.index(entity.label) % len(_TOKEN_COLOURS)]
        marked.append(text[end : entity.start])
        marked.append(text[entity.start : entity.end], f"black {colour}").append(f" {entity.label} ", "dim")
        end = entity.end
    return marked.append(text[end:])


def _in_context(answer: Answer, context: str, around: int = 120) -> Text:
    """The answer, and where it stands."""
    text = Text(answer.text, "bold")
    if answer.start < 0:
        return text
    start, end = answer.start, answer.start + len(answer.text)
    before, after = context[max(0, start - around) : start], context[end : end + around]
    text.append("\n" + ("…" if start > around else "") + before, "dim").append(answer.text, "bold underline")
    return text.append(after + ("…" if len(context) > end + around else ""), "dim")
