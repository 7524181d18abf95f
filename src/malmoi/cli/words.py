"""The command line's root, and what it makes of a line: the options that it names become flags."""

from __future__ import annotations

import re
from functools import cache

import typer

import malmoi

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=malmoi.__doc__
)  # every verb registers there


def say(line: str) -> None:
    """Print a line of the library, with our flags in it."""
    typer.echo(with_flags(line))


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
