"""The command line's verbs for tuning a language model: to answer, to preferences. Verbs only."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from malmoi.cli.fitting import AllowSkips, Fields, Licence, pairs
from malmoi.cli.words import say, with_flags

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="train.a=b or lora.a=b, for example train.epochs=2; may be repeated."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")]
Lora = Annotated[bool, typer.Option("--lora", help="Learn small additions to frozen weights (LoRA).")]


def finetune(
    model: Annotated[Path, typer.Argument(help="The folder of a language model: yours, or one of its kind.")],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="[TASK=]PATH[@WEIGHT]",
            help="Conversations, or a task's examples, seen WEIGHT times an epoch; may be repeated.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    valid: Annotated[
        list[str] | None, typer.Option(metavar="[TASK=]PATH", help="What to judge by; else a part of --data.")
    ] = None,
    lora: Lora = False,
    settings: Settings = None,
    fields: Fields = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show what would be learned, in colour, and stop.")
    ] = False,
    budget: Annotated[
        float | None, typer.Option(min=1.0, help="Seconds to tune at most, going by a trial step.")
    ] = None,
    resume: Resume = False,
    allow_skips: AllowSkips = False,
    licence: Licence = None,
) -> None:
    """Tune a language model to answer: on conversations, on tasks, or on a mixture of them."""
    from malmoi.learn import finetune as tuning
    from malmoi.show import terminal

    config = tuning.load_tuning(
        model, data, valid or (), settings or (), lora=lora, fields=pairs(fields, "--fields"),
        allow_skips=allow_skips, budget_seconds=budget, licence=licence,
    )  # fmt: skip
    if preview:
        terminal.show_rows(*tuning.preview(config))
        return
    run = tuning.prepare_tuning(config, out, resume=resume, say=say)
    if run is None:
        typer.echo(f"{out} is finished; talk with it: malmoi chat {shlex.quote(str(out))}")
        return
    first = run.trainer.group.first
    if first:
        terminal.announce_tuning(run, with_flags)
    ended, asked = _watched(run)
    if first:
        _tell_end(out, ended, asked)


def _tell_end(out: Path, ended: int, asked: int) -> None:
    from malmoi.learn.finetune import FEW_ENDED

    if not asked:
        typer.echo("no held-out question leaves room for a reply, so none was asked")
    else:
        typer.echo(f"it ended its turn in {ended} of {asked} replies to held-out questions")
    if ended < FEW_ENDED * asked:
        typer.echo("which is few: it would go on talking; tune it for longer, or on more conversations")
    typer.echo(f"saved {out}; talk with it: malmoi chat {shlex.quote(str(out))}")


def align(
    model: Annotated[Path, typer.Argument(help="The folder of a chat model, as malmoi finetune makes.")],
    data: Annotated[Path, typer.Option(help="Rows of prompt, chosen and rejected: a file or folder.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    valid: Annotated[Path | None, typer.Option(help="Pairs to judge by; else a part of --data.")] = None,
    beta: Annotated[
        float | None, typer.Option(help="How near to stay to the model as it is; 0.1 unless given.")
    ] = None,
    lora: Lora = False,
    settings: Settings = None,
    resume: Resume = False,
    allow_skips: AllowSkips = False,
    licence: Licence = None,
) -> None:
    """Tune a chat model to preferences: of two answers, it learns which one is better (DPO)."""
    from malmoi.learn.align import load_alignment, prepare_alignment
    from malmoi.show import terminal

    config = load_alignment(
        model, data, valid, settings or (), beta=beta, lora=lora, allow_skips=allow_skips, licence=licence
    )
    run = prepare_alignment(config, out, resume=resume, say=say)
    talk = f"talk with it: malmoi chat {shlex.quote(str(out))}"
    if run is None:
        typer.echo(f"{out} is finished; {talk}")
        return
    if run.trainer.group.first:
        terminal.announce_alignment(run, with_flags)
    found = _watched(run)
    if run.trainer.group.first:
        typer.echo("\n".join([*run.told(found), f"saved {out}; {talk}"]))


def _watched(run: Any) -> Any:
    """Do the work of a prepared run before the user's eyes; Ctrl-C ends the command with code 130."""
    from malmoi.learn.running import Stopped
    from malmoi.show import terminal

    first = run.trainer.group.first
    try:
        with terminal.Watch(run) if first else nullcontext() as watch:
            return run.run(watch.show if watch else lambda _: None)
    except KeyboardInterrupt as stop:
        saved = f" and saved at step {run.trainer.step}" if isinstance(stop, Stopped) else ""
        if first:
            typer.echo(f"stopped{saved}; go on with the same command and --resume")
        raise typer.Exit(130) from None


VERBS = (finetune, align)
