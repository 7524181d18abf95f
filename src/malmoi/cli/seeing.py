"""The command line's verbs for seeing how models work: pictures of their inside, scaling. Verbs only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import malmoi
from malmoi.cli.words import say

bench_app = typer.Typer(no_args_is_help=True, help="Measure models on this machine.")


def inside(
    folder: Annotated[Path, typer.Argument(help="A language model's folder, or a fitted method's.")],
    text: Annotated[
        str,
        typer.Argument(help='The text; for question answering {"question": ..., "context": ...}.'),
    ],
    out: Annotated[Path, typer.Option(help="The folder for the pictures.")] = Path("inside"),
    layer: Annotated[
        int | None, typer.Option(help="The layer to draw large, from 1; else one that shows something.")
    ] = None,
    head: Annotated[int | None, typer.Option(help="The attention head to draw large, from 1.")] = None,
) -> None:
    """Draw what happens to a text inside a model: tokens, embeddings, predictions, attention, gates."""
    from malmoi.show.gallery import pictures_of
    from malmoi.show.picture import write_pictures
    from malmoi.util.units import counted

    pictures = pictures_of(malmoi.load(folder), text, layer=layer, head=head)
    index = write_pictures(out, pictures, title=f"Inside {folder.resolve().name}", text=text)
    typer.echo(f"{counted(len(pictures), 'picture')}: {', '.join(picture.name for picture in pictures)}")
    typer.echo(f"look at them all in {index}")


@bench_app.command()
def scaling(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Language models to measure beside small ones that are made here."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for results and plots.")] = Path("scaling"),
    quick: Annotated[bool, typer.Option("--quick", help="Shorter rows and less training.")] = False,
) -> None:
    """Measure time and memory against length, recall against distance, and reading beyond the context."""
    from malmoi.inside.scaling_bench import QUICK, RESULTS, Size, run_scaling
    from malmoi.show.draw_scaling import write_scaling

    found = run_scaling(folders or [], out, size=QUICK if quick else Size(), say=say)
    index = write_scaling(found, out)
    for line in found.sentences:
        typer.echo(line)
    typer.echo(f"look at {index}; the numbers are in {out / RESULTS}")


VERBS = (inside,)
