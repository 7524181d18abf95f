"""The command line's verb that asks a language model prepared questions. Verbs only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from malmoi.core.errors import UserError


def probe(
    folder: Annotated[Path, typer.Argument(help="The folder of a language model.")],
    pairs: Annotated[
        Path | None, typer.Option(help='Minimal pairs: rows of "sentence_good" and "sentence_bad".')
    ] = None,
    choices: Annotated[
        Path | None, typer.Option(help='Multiple choice: rows of "question", "choices" and "answer".')
    ] = None,
    cloze: Annotated[Path | None, typer.Option(help='Rows of "text"; the last word is asked for.')] = None,
    world: Annotated[
        bool, typer.Option("--world", help="Grammar and logic in the sample world, English and Korean.")
    ] = False,
    count: Annotated[
        int | None, typer.Option(min=1, help="Of --world: so many pairs for each score, 200 unless given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the results there, as JSON.")] = None,
) -> None:
    """Ask a language model prepared questions: which of two sentences, which answer, which last word."""
    from malmoi.inside.probes import probe as ask
    from malmoi.inside.probes import write_probes
    from malmoi.show import terminal

    if count and not world:
        raise UserError(f"--count {count} needs --world")
    given = {"pairs": pairs, "choices": choices, "cloze": cloze}
    probed = ask(folder, given, world=(count or 200) if world else None)
    for one in probed:
        typer.echo(f"{one.source}: {one.note}" if one.note else one.source)
        terminal.show_metrics(one.metrics, one.num_items)
    if out is not None:
        write_probes(out, folder, probed)
        typer.echo(f"wrote {out}")


VERBS = (probe,)
