"""The command line: verbs only. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

import malmoi
from malmoi.cli import chatting, distilling, exchanging, fitting, probing, seeing, serving, tuning
from malmoi.cli.words import app, say, with_flags
from malmoi.core.errors import UserError
from malmoi.data.encodings import decoded
from malmoi.util.streams import flush_streams, prepare_streams, standard_input

if TYPE_CHECKING:
    from malmoi.engine.request import Completion
    from malmoi.text.tokenizer import Tokenizer

data_app = typer.Typer(no_args_is_help=True, help="Look at a text or labelled examples before training.")
tokenizer_app = typer.Typer(no_args_is_help=True, help="Make and compare tokenizers.")
app.add_typer(data_app, name="data")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(seeing.bench_app, name="bench")
VERBS = (fitting, tuning, distilling, chatting, exchanging, probing, seeing, serving)
for verb in [verb for module in VERBS for verb in module.VERBS]:
    app.command()(verb)

Errors = Annotated[
    Literal["strict", "replace"], typer.Option(help="Bytes that are not UTF-8: stop, or replace and go on.")
]
Field = Annotated[str | None, typer.Option(help='The field or column that holds the text, if not "text".')]
Path_ = Annotated[Path, typer.Argument(help="A text file or a folder of them.")]
TokenizerPath = Annotated[
    Path | None,
    typer.Option("--tokenizer", help="A tokenizer's or trained model's folder, or tokenizer.json."),
]


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2."""
    prepare_streams()
    try:
        app()
    except UserError as error:
        _fail(with_flags(str(error)))
    except PermissionError as error:
        _fail(f"{error.filename} cannot be opened (permission denied); ask its owner, or choose another")
    except OSError as error:  # a disk that is full, a folder that may not be written
        _fail(f"{error}; mend that and run the command again")
    except UnicodeEncodeError:  # of an argument's bytes that are no text, which Python keeps as half letters
        odd = next((it for it in sys.argv if any("\ud800" <= letter <= "\udfff" for letter in it)), None)
        if odd is None:
            raise
        _fail(f"{odd!r} is not {sys.getfilesystemencoding()}; put that text into a file, or rename the file")
    finally:
        flush_streams()


def _fail(message: str) -> NoReturn:
    with suppress(OSError):  # nobody listens
        typer.echo(f"malmoi: {message}", err=True)
    sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"malmoi {malmoi.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    del version


@app.command()
def doctor() -> None:
    """Say what this machine has and what malmoi will use of it."""
    import platform
    from importlib.metadata import version

    import torch

    from malmoi.models.native.library import why_not
    from malmoi.util import hardware, units

    device = hardware.pick_device()
    speed = hardware.matmul_flops_per_s(device, torch.float32)
    for name, value in {
        "malmoi": malmoi.__version__, "python": platform.python_version(), "torch": torch.__version__,
        "tokenizers": version("tokenizers"), "safetensors": version("safetensors"),
        "processor": hardware.cpu_name(), "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu (no GPU found)",
        "fast bf16": "yes" if hardware.has_fast_bf16(device) else "no (fp32 is used)",
        "AMX": "yes" if hardware.has_amx() else "no",
        "own kernels": "yes" if (reason := why_not()) is None else f"no: {reason}",
        "memory limit": units.human_bytes(hardware.memory_limit_bytes()),
        "fp32 matrix product": f"{units.human_count(speed)}FLOP/s",
    }.items():  # fmt: skip
        typer.echo(f"{name:20} {value}")


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, for example gpt-micro.")],
    data: Annotated[Path, typer.Option(help="A text file or a folder of them.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    size: Annotated[
        str | None,
        typer.Option(help="nano, micro, mini, small or base: shape, learning rate and batch at once."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="a.b=c, for example train.steps=200; may be repeated.")
    ] = None,
    field: Field = None,
    errors: Errors = "strict",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    licence: fitting.Licence = None,
) -> None:
    """Train a language model on your own text."""
    from malmoi.core.config import as_setting
    from malmoi.learn.counting import count_ngrams
    from malmoi.learn.run_config import load_run

    chosen = [*(settings or ()), *([as_setting("data.errors", errors)] if errors == "replace" else [])]
    chosen += [as_setting("data.field", field)] if field else []
    chosen += [as_setting("licence", licence)] if licence else []
    config = load_run(recipe, chosen, size)
    finished = f'{out} is finished; complete text with: malmoi complete {out} "..."'
    if config.is_ngram:
        typer.echo(f"an n-gram model of order {config.model['order']}: it is counted, which takes seconds")
        found = None if dry_run else count_ngrams(config, data, out, resume=resume, say=say)
        if found:
            typer.echo(f"valid {found[0]:.4f} nats per token  bits/byte {found[1]:.4f}")
        if not dry_run:
            typer.echo(finished)
        return
    run = tuning.trained("pretrain", config, out, finished, resume=resume, data=data, dry_run=dry_run)
    if run:
        prompt = " ".join(run.training.prompt.split()) or "..."
        typer.echo(f"saved {out}; try: malmoi complete {shlex.quote(str(out))} {shlex.quote(prompt)}")


@app.command()
def complete(
    folder: Annotated[Path, typer.Argument(help="A trained model's folder.")],
    text: Annotated[str, typer.Argument(help="The text to go on from; - reads it from standard input.")],
    max_tokens: int = 128,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this string; may be repeated.")] = None,
    n: Annotated[int, typer.Option("-n", help="How many completions.")] = 1,
    logprobs: Annotated[int, typer.Option(help="Show each token's probability and this many others.")] = 0,
) -> None:
    """Complete a text with a trained model."""
    from malmoi.engine.loaded import Loaded

    options = {
        "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "seed": seed, "stop": tuple(stop or ()), "n": n,
        "logprobs": logprobs,
    }  # fmt: skip
    prompt = _standard_input() if text == "-" else text
    model = malmoi.load(folder)
    if not isinstance(model, Loaded):
        raise UserError(f"{folder} does {model.task.name}; use: malmoi predict {folder} ...")
    if n == 1 and not logprobs:
        events = model.stream(prompt, **options)
        first = next(events)  # a mistake in the options comes before the prompt is shown
        typer.echo(prompt + first.text, nl=False)
        for event in events:
            typer.echo(event.text, nl=False)
        typer.echo()
        return
    for number, found in enumerate(model.complete(prompt, **options), start=1):
        typer.echo((f"--- {number}\n" if n > 1 else "") + prompt + found.text)
        if logprobs:
            _echo_logprobs(found, model.tokenizer)


def _standard_input() -> str:
    return decoded(standard_input(), "standard input", "utf-8")


def _echo_logprobs(found: Completion, tokenizer: Tokenizer) -> None:
    """Each token with its probability and the best alternatives."""
    from math import exp

    for id, logprob, top in zip(found.ids, found.logprobs, found.top_logprobs, strict=True):
        others = "  ".join(f"{tokenizer.token_text(other)!r} {exp(value):.1%}" for other, value in top)
        typer.echo(f"{tokenizer.token_text(id)!r:16} {exp(logprob):7.1%}   {others}")


@data_app.command("stats")
def data_stats(
    path: Path_,
    tokenizer: TokenizerPath = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens; longer documents are counted.")] = 256,
    valid: Annotated[Path | None, typer.Option(help="The validation text, where it is elsewhere.")] = None,
    field: Annotated[str, typer.Option(help="The field or column that holds the text.")] = "text",
    errors: Errors = "strict",
) -> None:
    """Count documents, lengths, encodings, duplicates and the overlap between train and valid."""
    from malmoi.data.check import corpus_stats
    from malmoi.show import terminal

    loaded = _load_tokenizer(tokenizer)
    found = corpus_stats(
        path, valid=valid, errors=errors, field=field, tokenizer=loaded, context=context if loaded else None
    )
    terminal.show_stats(found, context, with_flags)


@data_app.command("check")
def data_check(
    command: typer.Context,
    path: Annotated[Path, typer.Argument(help="A text, or a task's training examples: a file or folder.")],
    task: Annotated[
        str | None,
        typer.Option(help="Check a task's labelled examples, for example of ner, and no plain text."),
    ] = None,
    tokenizer: TokenizerPath = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens; longer documents are counted.")] = 256,
    valid: Annotated[Path | None, typer.Option(help="The validation part, where it is elsewhere.")] = None,
    test: Annotated[Path | None, typer.Option(help="With --task: the test part.")] = None,
    field: Annotated[str, typer.Option(help="The field or column that holds the text.")] = "text",
    fields: fitting.Fields = None,
    errors: Errors = "strict",
) -> None:
    """List what is wrong, each with its file and line; exit code 1 where something is an error."""
    from malmoi.data.check import corpus_stats
    from malmoi.show import terminal

    _refuse(command, ("tokenizer", "context", "field", "errors") if task else ("test", "fields"), task)
    if task:
        if terminal.show_findings(fitting.check(task, fields, path, valid, test), with_flags):
            raise typer.Exit(1)
        return
    loaded = _load_tokenizer(tokenizer)
    found = corpus_stats(
        path, valid=valid, errors=errors, field=field, tokenizer=loaded, context=context if loaded else None
    )
    if terminal.show_findings(found.findings, with_flags):
        raise typer.Exit(1)


def _refuse(command: typer.Context, names: tuple[str, ...], task: str | None) -> None:
    """UserError where an option was given that would have no effect."""
    for name in names:
        source = command.get_parameter_source(name)
        if source and source.name == "COMMANDLINE":
            mend = "is for plain text; leave it out with --task" if task else "needs --task"
            raise UserError(f"data check: --{name} {mend}")


@data_app.command("preview")
def data_preview(
    path: Path_,
    tokenizer: TokenizerPath = None,
    count: Annotated[int, typer.Option(min=1, help="Documents to show.")] = 3,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each to show.")] = 64,
    field: Annotated[str, typer.Option(help="The field or column that holds the text.")] = "text",
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


@tokenizer_app.command("train")
def tokenizer_train(
    path: Path_,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    kind: Annotated[str, typer.Option(help="word, character, byte, bpe, unigram or wordpiece.")] = "bpe",
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


@tokenizer_app.command("compare")
def tokenizer_compare(
    path: Path_,
    vocab_size: int = 8192,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("tokenizers.png"),
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


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="Your own text instead of the sample world.")] = None,
    out: Annotated[Path, typer.Option(help="The folder to make.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A shorter one, within 90 seconds.")] = False,
    field: Field = None,
    errors: Errors = "strict",
) -> None:
    """See the whole road: text, tokens, three language models, a report with pictures."""
    from malmoi.demo.story import run_demo
    from malmoi.util.locks import hold

    with hold(out):
        run_demo(data, out, quick=quick, field=field or "text", errors=errors)
