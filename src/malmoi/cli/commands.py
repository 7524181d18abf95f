"""The command line's entry: every verb, and how a user's mistake ends."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import NoReturn

import typer

from malmoi.cli import (
    cascading,
    chatting,
    doctor,
    exchanging,
    fitting,
    labelling,
    preparing,
    seeing,
    serving,
    training,
)
from malmoi.cli.words import app, with_flags
from malmoi.core.errors import UserError
from malmoi.learn.objectives import TRAININGS
from malmoi.util.streams import flush_streams, prepare_streams

for name, group in {"data": preparing.data, "tokenizer": preparing.tokenizer, "bench": seeing.bench}.items():
    app.add_typer(group, name=name)
for verb in (
    fitting.fit, fitting.predict, fitting.evaluate, fitting.compare, labelling.plan, training.finetune,
    training.align, fitting.distill, cascading.cascade, chatting.chat, exchanging.export,
    exchanging.import_, exchanging.embed, seeing.probe, seeing.inside,
    serving.serve, doctor.doctor, training.pretrain, chatting.complete, seeing.demo,
):  # fmt: skip
    app.command()(verb)
for name in TRAININGS.keys() - {"pretrain", "finetune", "align"}:
    app.command(name)(training.verb_of(name))


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
