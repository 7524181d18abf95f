"""The command line's root, and what it makes of a line: the options that it names become flags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

import malmoi
from malmoi.core.errors import UserError
from malmoi.hub.shipped import model_path
from malmoi.util.streams import json_line

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=malmoi.__doc__
)  # every verb registers there


def say(*lines: str) -> None:
    """Print lines of the library, with our flags in them."""
    for line in lines:
        typer.echo(with_flags(line))


def say_aside(*lines: str) -> None:
    """The same on standard error, where standard output is for a program: long work shall not be silent."""
    for line in lines:
        typer.echo(with_flags(line), err=True)


def say_json(value: Any, indent: int | None = None) -> None:
    """Print a value for a program, whatever letters the terminal has."""
    typer.echo(json_line(value, indent))


def named_model(named: str) -> Path:
    """The parser of what names a model: its path, or the name of one that comes with malmoi."""
    try:
        return model_path(named)
    except UserError as error:
        raise typer.BadParameter(str(error)) from None


def model_argument(help: str) -> Any:
    """An argument that names a model."""
    return Argument(parser=named_model, help=help)


@contextmanager
def stoppable(go_on: str, *, heard: bool = True) -> Iterator[None]:
    """Ctrl-C ends the command with code 130 and, where it is to be heard, a line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if heard:
            typer.echo(f"stopped{stop}; {go_on}")
        raise typer.Exit(130) from None


def with_flags(line: str) -> str:
    """The line, with --out where it names the option `out`."""
    return re.sub(r"`([a-z_]+)`", lambda found: _flags().get(found[1], found[0]), line)


@cache
def _flags() -> dict[str, str]:
    """Every option of every verb, by the name that the library gives it."""
    commands, flags = [typer.main.get_command(app)], dict[str, str]()
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        names = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
        flags |= {name[2:].replace("-", "_"): name for name in names}
    return flags


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"malmoi {malmoi.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    del version
