"""The command line: verbs only. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import malmoi
from malmoi.util.errors import UserError

if TYPE_CHECKING:
    from malmoi.train.pretrain import Pretraining
    from malmoi.train.trainer import StepReport

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=malmoi.__doc__
)


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2."""
    try:
        app()
    except UserError as error:
        typer.echo(f"malmoi: {error}", err=True)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"malmoi {malmoi.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    del version


@app.command()
def doctor() -> None:
    """Say what this machine has and what malmoi will use of it."""
    import platform

    import torch

    from malmoi.util import hardware, units

    device = hardware.pick_device()
    speed = hardware.matmul_flops_per_s(device, torch.float32)
    for name, value in {
        "malmoi": malmoi.__version__, "python": platform.python_version(), "torch": torch.__version__,
        "processor": hardware.cpu_name(), "threads": torch.get_num_threads(), "device": device,
        "fast bf16": "yes" if hardware.has_fast_bf16(device) else "no (fp32 is used)",
        "AMX": "yes" if "amx_tile" in hardware.cpu_flags() else "no",
        "compiler": hardware.compiler() or "none (torch.compile is not used)",
        "memory limit": units.human_bytes(hardware.memory_limit_bytes()),
        "fp32 matrix product": f"{units.human_count(speed)}FLOP/s",
    }.items():  # fmt: skip
        typer.echo(f"{name:20} {value}")


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, for example gpt-micro.")],
    data: Annotated[Path, typer.Option(help="A text file or a folder of them.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="a.b=c, for example train.steps=200")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop before training.")] = False,
) -> None:
    """Train a language model on your own text."""
    from malmoi.train.pretrain import prepare
    from malmoi.train.run import load_run

    run = prepare(load_run(recipe, settings or ()), data, out, resume=resume, say=typer.echo)
    if run is None:
        typer.echo(f'{out} is finished; complete text with: malmoi complete {out} "..."')
        return
    _announce(run)
    if dry_run:
        return
    try:
        run.run(lambda report: _show(run, report))
    except KeyboardInterrupt:
        typer.echo(
            f"\nstopped and saved at step {run.trainer.step}; go on with the same command and --resume"
        )
        raise typer.Exit(130) from None
    typer.echo(f'saved {out}; try: malmoi complete {out} "{run.config.train.sample_prompt}"')


def _announce(run: Pretraining) -> None:
    """Parameters, tokens and memory, before the work starts."""
    from malmoi.util.units import human_bytes, human_count

    spec, trainer = run.config.train, run.trainer
    seen = spec.steps * spec.batch * trainer.context
    parameters = run.model.num_parameters()
    typer.echo(
        f"{run.config.name}: {human_count(parameters)} parameters, vocabulary {run.tokenizer.vocab_size}, "
        f"context {trainer.context}\n"
        f"{human_count(trainer.train.num_tokens)} training tokens, {human_count(trainer.valid.num_tokens)} for "
        f"validation; {spec.steps} steps of {spec.batch} rows read {human_count(seen)}\n"
        f"micro-batch {spec.micro_batch} rows, {'bf16' if trainer.bf16 else 'fp32'}; weights, gradients and "
        f"optimizer take {human_bytes(16 * parameters)}"
    )


def _show(run: Pretraining, report: StepReport) -> None:
    """A line at every evaluation, with a sample; between them a counter on a terminal."""
    from malmoi.engine.engine import Engine
    from malmoi.engine.request import Sampling
    from malmoi.util.units import human_seconds

    spec = run.config.train
    left_s = (spec.steps - report.step) * spec.batch * run.trainer.context / report.tokens_per_s
    line = f"step {report.step}/{spec.steps}  loss {report.loss:.3f}  {report.tokens_per_s:,.0f} tokens/s  "
    line += f"{human_seconds(left_s)} left"
    if report.valid_loss is None:
        if sys.stderr.isatty():
            typer.echo(f"\r{line}   ", nl=False, err=True)
        return
    typer.echo(f"{line}  valid {report.valid_loss:.4f}  bits/byte {report.valid_bits_per_byte:.4f}")
    run.model.eval()
    sampling = Sampling(max_tokens=min(40, run.trainer.context // 2), temperature=0.8, top_k=50, seed=0)
    text = Engine(run.model, run.tokenizer).generate([spec.sample_prompt], sampling)[0].text
    typer.echo(f"  | {spec.sample_prompt}{text}".replace("\n", "\n  | "))


@app.command()
def complete(
    folder: Path,
    text: str,
    max_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this string; may be repeated.")] = None,
    n: Annotated[int, typer.Option("-n", help="How many completions.")] = 1,
) -> None:
    """Complete a text with a trained model."""
    options = {
        "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "seed": seed, "stop": tuple(stop or ()), "n": n,
    }  # fmt: skip
    model = malmoi.load(folder)
    if n > 1:
        for number, found in enumerate(model.complete(text, **options), start=1):
            typer.echo(f"--- {number}\n{text}{found.text}")
        return
    events = model.stream(text, **options)
    typer.echo(text, nl=False)
    for event in events:
        typer.echo(event.text, nl=False)
    typer.echo()
