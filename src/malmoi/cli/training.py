"""The verbs that train a language model: on text, to answer, to preferences."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from malmoi.cli.options import AllowSkips, AnyField, Errors, Fields, Licence, NewFolder
from malmoi.cli.words import model_argument, say, stoppable, with_flags
from malmoi.core.nouns import silent

Resume = Annotated[bool, Option("--resume", help="Go on from the newest checkpoint.")]
Lora = Annotated[bool, Option("--lora", help="Learn small additions to frozen weights (LoRA).")]
Settings = Annotated[
    list[str] | None,
    Option("--set", help="train.a=b or lora.a=b, for example train.epochs=2; may be repeated."),
]


def pretrain(
    recipe: Annotated[str, Argument(help="A recipe's name, as gpt-micro, or a model to go on with.")],
    data: Annotated[Path, Option(help="A text file or a folder of them.")],
    out: NewFolder,
    size: Annotated[
        str | None, Option(help="nano, micro, mini, small or base: shape, learning rate and batch at once.")
    ] = None,
    settings: Annotated[
        list[str] | None, Option("--set", help="a.b=c, for example train.steps=200; may be repeated.")
    ] = None,
    field: AnyField = None,
    errors: Errors = "strict",
    resume: Resume = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would be done, and stop.")] = False,
    licence: Licence = None,
) -> None:
    """Train a language model on your own text."""
    from malmoi.core.config import as_setting
    from malmoi.learn.counting import count_ngrams
    from malmoi.learn.run_config import load_run

    given = {"data.errors": errors if errors != "strict" else None, "data.field": field, "licence": licence}
    chosen = [as_setting(path, value) for path, value in given.items() if value]
    config = load_run(recipe, [*(settings or ()), *chosen], size)
    then = f'complete text with: malmoi complete {out} "..."'
    if not config.is_ngram:
        run = _train("pretrain", config, out, then, resume=resume, data=data, dry_run=dry_run)
        if run:
            prompt = " ".join(run.training.prompt.split()) or "..."
            typer.echo(f"saved {out}; try: malmoi complete {shlex.quote(str(out))} {shlex.quote(prompt)}")
        return
    typer.echo(f"an n-gram model of order {config.model['order']}: it is counted, which takes seconds")
    if not dry_run:
        if found := count_ngrams(config, data, out, resume=resume, say=say):
            typer.echo(f"valid {found[0]:.4f} nats per token  bits/byte {found[1]:.4f}")
        typer.echo(f"{out} is finished; {then}")


def finetune(
    model: Annotated[
        Path,
        model_argument("The folder of a language model: yours, or one of its kind."),
    ],
    data: Annotated[
        list[str],
        Option(
            metavar="[TASK=]PATH[@WEIGHT]",
            help="Conversations, or a task's examples, seen WEIGHT times an epoch; may be repeated.",
        ),
    ],
    out: NewFolder,
    valid: Annotated[
        list[str] | None, Option(metavar="[TASK=]PATH", help="What to judge by; else a part of --data.")
    ] = None,
    lora: Lora = False,
    settings: Settings = None,
    fields: Fields = None,
    preview: Annotated[
        bool, Option("--preview", help="Show what would be learned, in colour, and stop.")
    ] = False,
    budget: Annotated[
        float | None, Option(min=1.0, help="Seconds to tune at most, going by a trial step.")
    ] = None,
    resume: Resume = False,
    allow_skips: AllowSkips = False,
    licence: Licence = None,
) -> None:
    """Tune a language model to answer: on conversations, on tasks, or on a mixture of them."""
    from malmoi.core.config import pairs
    from malmoi.learn.objectives import conversations
    from malmoi.learn.run_config import load_tuning
    from malmoi.show import terminal

    config = load_tuning(
        model, data, valid or (), settings or (), lora=lora, fields=pairs(fields, "fields"),
        allow_skips=allow_skips, budget_seconds=budget, licence=licence,
    )  # fmt: skip
    if preview:
        terminal.show_rows(*conversations.preview(config))
        return
    _tune("finetune", config, out, resume)


def align(
    model: Annotated[Path, model_argument("The folder of a chat model, as malmoi finetune makes.")],
    data: Annotated[Path, Option(help="Rows of prompt, chosen and rejected: a file or folder.")],
    out: NewFolder,
    valid: Annotated[Path | None, Option(help="Pairs to judge by; else a part of --data.")] = None,
    beta: Annotated[
        float | None, Option(help="How near to stay to the model as it is; 0.1 unless given.")
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
    _tune("align", config, out, resume)


def verb_of(name: str) -> Callable[..., None]:
    """The verb of an objective that has no options of its own."""

    def train(
        out: NewFolder,
        settings: Annotated[
            list[str] | None, Option("--set", help="a.b=c, for example train.steps=200; may be repeated.")
        ] = None,
        resume: Resume = False,
    ) -> None:
        from malmoi.learn.objectives import training_of
        from malmoi.learn.run_config import configured

        config = configured(training_of(name).Config, settings or ())
        if _train(name, config, out, f'complete text with: malmoi complete {out} "..."', resume=resume):
            typer.echo(f"saved {out}")

    train.__doc__ = f"Train by the objective {name}."
    return train


def _tune(verb: str, config: Any, out: Path, resume: bool) -> None:
    then = f"talk with it: malmoi chat {shlex.quote(str(out))}"
    if _train(verb, config, out, then, resume=resume):
        typer.echo(f"saved {out}; {then}")


def _train(
    verb: str, config: Any, out: Path, then: str, *, resume: bool, data: Path | None = None,
    dry_run: bool = False,
) -> Any:  # fmt: skip
    """Do a run before the user's eyes, from reading to saving.

    Returns the run where this process has saved its model. then: what to do with one that was saved before.
    """
    from malmoi.learn.job import prepare
    from malmoi.learn.objectives import training_of
    from malmoi.show import terminal

    run = prepare(training_of(verb), config, out, resume=resume, say=say, data=data, dry_run=dry_run)
    if run is None:
        typer.echo(f"{out} is finished; {then}")
        return None
    first = run.loop.group.first
    if first:
        terminal.announce(run, with_flags)
    if dry_run:
        return None
    watching = terminal.Watch(run) if first else nullcontext()
    with stoppable("go on with the same command and --resume", heard=first), watching as watch:
        closing = run.run(watch.show if watch else silent)
    say(*closing)
    return run if first else None
