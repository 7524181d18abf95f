"""The verbs for a text before training: look at it, check it, make tokenizers of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from malmoi.cli import data_cleaning
from malmoi.cli.labelling import check_labels
from malmoi.cli.options import Delimiter, Encoding, Errors, Fields, NewFolder, task_of, with_files
from malmoi.cli.words import with_flags
from malmoi.core.errors import UserError

if TYPE_CHECKING:
    from malmoi.text.tokenizer import Tokenizer

data = typer.Typer(no_args_is_help=True, help="Look at a text or labelled examples before training.")
data.command()(data_cleaning.clean)
tokenizer = typer.Typer(no_args_is_help=True, help="Make and compare tokenizers.")
TextPath = Annotated[Path, Argument(help="A text file or a folder of them.")]
TextField = Annotated[str, Option(help="The field or column that holds the text.")]
TokenizerPath = Annotated[
    Path | None, Option("--tokenizer", help="A tokenizer's or trained model's folder, or tokenizer.json.")
]
Context = Annotated[int, Option(min=1, help="Tokens; longer documents are counted.")]


@data.command()
def stats(
    path: TextPath,
    tokenizer: TokenizerPath = None,
    context: Context = 256,
    valid: Annotated[Path | None, Option(help="The validation text, where it is elsewhere.")] = None,
    field: TextField = "text",
    errors: Errors = "strict",
) -> None:
    """Count documents, lengths, encodings, duplicates and the overlap between train and valid."""
    from malmoi.data.check import corpus_stats
    from malmoi.show import terminal

    loaded = _load_tokenizer(tokenizer)
    found = corpus_stats(path, valid=valid, errors=errors, field=field, tokenizer=loaded, context=context)
    terminal.show_stats(found, context, with_flags)


@data.command()
def check(
    command: typer.Context,
    path: Annotated[Path, Argument(help="A text, or a task's training examples: a file or folder.")],
    task: Annotated[
        str | None, Option(help="Check a task's labelled examples, for example of ner, and no plain text.")
    ] = None,
    tokenizer: TokenizerPath = None,
    context: Context = 256,
    valid: Annotated[Path | None, Option(help="The validation part, where it is elsewhere.")] = None,
    test: Annotated[Path | None, Option(help="With --task: the test part.")] = None,
    field: TextField = "text",
    fields: Fields = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    suspects: Annotated[
        bool, Option("--suspects", help="With --task: also list labels that are probably wrong.")
    ] = False,
    out: Annotated[
        Path | None, Option(help="With --suspects: the .csv or .jsonl file to write them all to.")
    ] = None,
    every: Annotated[
        bool, Option("--all", help="List every finding, and not only a few of each cause.")
    ] = False,
    errors: Errors = "strict",
) -> None:
    """List what is wrong, each with its file and line; exit code 1 where something is an error."""
    from malmoi.data.check import corpus_stats
    from malmoi.show import terminal

    of_text, of_tasks = (
        ("tokenizer", "context", "field", "errors"),
        ("test", "fields", "delimiter", "suspects", "out"),
    )
    _refuse(command, of_text if task else of_tasks, task)
    if out and not suspects:
        raise UserError("data check: --out needs --suspects")
    paths: dict[str, Path] = {}
    made = task_of(task, with_files(fields, encoding, delimiter)) if task else None
    if made:
        paths = {part: path for part, path in (("train", path), ("valid", valid), ("test", test)) if path}
        findings = made.check_files(paths)
    else:
        loaded = _load_tokenizer(tokenizer)
        stats = corpus_stats(path, valid=valid, errors=errors, field=field, tokenizer=loaded, context=context)
        findings = stats.findings
    num_errors = terminal.show_findings(findings, with_flags, most=None if every else terminal.MOST_ALIKE)
    if made and suspects:
        check_labels(made, paths.values(), out)
    if num_errors:
        raise typer.Exit(1)


def _refuse(command: typer.Context, names: tuple[str, ...], task: str | None) -> None:
    """UserError where an option was given that would have no effect."""
    for name in names:
        source = command.get_parameter_source(name)
        if source and source.name == "COMMANDLINE":
            mend = "is for plain text; leave it out with --task" if task else "needs --task"
            raise UserError(f"data check: --{name} {mend}")


@data.command()
def preview(
    path: TextPath,
    tokenizer: TokenizerPath = None,
    count: Annotated[int, Option(min=1, help="Documents to show.")] = 3,
    tokens: Annotated[int, Option(min=1, help="Tokens of each to show.")] = 64,
    field: TextField = "text",
    errors: Errors = "strict",
) -> None:
    """Show documents as tokens in colour; what is underlined is predicted in training."""
    from malmoi.data.check import preview
    from malmoi.data.readers import read_documents
    from malmoi.show import terminal
    from malmoi.text.tokenizer import train_tokenizer

    loaded = _load_tokenizer(tokenizer)
    if loaded is None:
        loaded = train_tokenizer(read_documents(path, errors=errors, field=field), "bpe", 4096)
        typer.echo("with a BPE tokenizer of at most 4096 tokens, learned from this text")
    found = preview(path, loaded, count, num_tokens=tokens, errors=errors, field=field)
    terminal.show_tokens(found)


@tokenizer.command()
def train(
    path: TextPath,
    out: NewFolder,
    kind: Annotated[str, Option(help="word, character, byte, bpe, unigram or wordpiece.")] = "bpe",
    vocab_size: int = 8192,
    field: str = "text",
    errors: Errors = "strict",
) -> None:
    """Learn a vocabulary from a text and save it as tokenizer.json."""
    from malmoi.data.readers import open_corpus
    from malmoi.text.tokenizer import TOKENIZER_FILE, train_tokenizer
    from malmoi.util.files import CONFIG, RUN_RECORD

    made = [name for name in (TOKENIZER_FILE, RUN_RECORD, CONFIG) if (out / name).exists()]
    if made:
        raise UserError(f"{out} already holds {made[0]}; choose another --out")
    corpus = open_corpus(path, errors=errors, field=field)
    found = train_tokenizer(corpus.train(), kind, vocab_size)
    found.save(out)
    typer.echo(f"saved {out}/tokenizer.json: {kind}, {found.vocab_size} tokens {found.note}".rstrip())


@tokenizer.command()
def compare(
    path: TextPath,
    vocab_size: int = 8192,
    out: Annotated[Path, Option(help="The picture to write.")] = Path("tokenizers.png"),
    field: str = "text",
    errors: Errors = "strict",
) -> None:
    """Train every kind of tokenizer on a text and show the trade-off: length, size, unknown words."""
    from malmoi.data.readers import open_corpus
    from malmoi.show import terminal
    from malmoi.show.charts import plot_tokenizers
    from malmoi.text.tokenizer_comparison import compare_tokenizers

    corpus = open_corpus(path, errors=errors, field=field)
    rows = compare_tokenizers(corpus.train(), corpus.valid(), vocab_size)
    terminal.show_tokenizers(rows)
    plot_tokenizers(rows, out)
    typer.echo(f"drawn in {out}")


def _load_tokenizer(path: Path | None) -> Tokenizer | None:
    from malmoi.text.tokenizer import Tokenizer

    return Tokenizer.load(path) if path else None
