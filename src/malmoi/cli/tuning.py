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
    from malmoi.learn.objectives import conversations
    from malmoi.learn.run_config import load_tuning
    from malmoi.show import terminal

    config = load_tuning(
        model, data, valid or (), settings or (), lora=lora, fields=pairs(fields, "--fields"),
        allow_skips=allow_skips, budget_seconds=budget, licence=licence,
    )  # fmt: skip
    if preview:
        terminal.show_rows(*conversations.preview(config))
        return
    talk = f"talk with it: malmoi chat {shlex.quote(str(out))}"
    if trained("finetune", config, out, f"{out} is finished; {talk}", resume=resume):
        typer.echo(f"saved {out}; {talk}")


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
    from malmoi.learn.run_config import load_alignment

    config = load_alignment(
        model, data, valid, settings or (), beta=beta, lora=lora, allow_skips=allow_skips, licence=licence
    )
    talk = f"talk with it: malmoi chat {shlex.quote(str(out))}"
    if trained("align", config, out, f"{out} is finished; {talk}", resume=resume):
        typer.echo(f"saved {out}; {talk}")


def trained(
    verb: str, config: Any, out: Path, finished: str, *, resume: bool, data: Path | None = None,
    dry_run: bool = False,
) -> Any:  # fmt: skip
    """Do a run before the user's eyes, from reading to saving; Ctrl-C ends the command with code 130.

    Returns the run where this process has saved its model. finished: what to say where that was done before.
    """
    from malmoi.learn.job import Stopped, prepare
    from malmoi.learn.objectives import TRAININGS
    from malmoi.show import terminal

    run = prepare(TRAININGS[verb], config, out, resume=resume, say=say, data=data, dry_run=dry_run)
    if run is None:
        typer.echo(finished)
        return None
    first = run.loop.group.first
    if first:
        terminal.announce(run, with_flags)
    if dry_run:
        return None
    try:
        with terminal.Watch(run) if first else nullcontext() as watch:
            closing = run.run(watch.show if watch else lambda _: None)
    except KeyboardInterrupt as stop:
        saved = f" and saved at step {run.loop.step}" if isinstance(stop, Stopped) else ""
        if first:
            typer.echo(f"stopped{saved}; go on with the same command and --resume")
        raise typer.Exit(130) from None
    for line in closing:
        say(line)
    return run if first else None


VERBS = (finetune, align)
