"""The verbs that show: a model's inside and scaling, what it knows, this machine, the whole road."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

import malmoi
from malmoi.cli.options import AnyField, Errors, NewFolder
from malmoi.cli.words import model_argument, say

bench = typer.Typer(no_args_is_help=True, help="Measure models on this machine.")


def inside(
    folder: Annotated[Path, model_argument("A language model's folder, or a fitted method's.")],
    text: Annotated[
        str, Argument(help='The text; for question answering {"question": ..., "context": ...}.')
    ],
    out: Annotated[Path, Option(help="The folder for the pictures.")] = Path("inside"),
    layer: Annotated[
        int | None, Option(help="The layer to draw large, from 1; else one that shows something.")
    ] = None,
    head: Annotated[int | None, Option(help="The attention head to draw large, from 1.")] = None,
) -> None:
    """Draw what happens to a text inside a model: tokens, embeddings, predictions, attention, gates."""
    from malmoi.show.gallery import pictures_of, write_pictures
    from malmoi.util.units import counted

    pictures = pictures_of(malmoi.load(folder), text, layer=layer, head=head)
    index = write_pictures(out, pictures, title=f"Inside {folder.resolve().name}", text=text)
    typer.echo(f"{counted(len(pictures), 'picture')}: {', '.join(picture.name for picture in pictures)}")
    typer.echo(f"look at them all in {index}")


@bench.command()
def scaling(
    folders: Annotated[
        list[Path] | None,
        model_argument("Language models to measure beside small ones that are made here."),
    ] = None,
    out: Annotated[Path, Option(help="The folder for results and plots.")] = Path("scaling"),
    quick: Annotated[bool, Option("--quick", help="Shorter rows and less training.")] = False,
) -> None:
    """Measure time and memory against length, recall against distance, and reading beyond the context."""
    from malmoi.inside.scaling_bench import QUICK, RESULTS, Size, run_scaling
    from malmoi.show.draw_scaling import write_scaling

    found = run_scaling(folders or [], out, size=QUICK if quick else Size(), say=say)
    say(*found.sentences, f"look at {write_scaling(found, out)}; the numbers are in {out / RESULTS}")


def probe(
    folder: Annotated[Path, model_argument("The folder of a language model.")],
    pairs: Annotated[
        Path | None, Option(help='Minimal pairs: rows of "sentence_good" and "sentence_bad".')
    ] = None,
    choices: Annotated[
        Path | None, Option(help='Multiple choice: rows of "question", "choices" and "answer".')
    ] = None,
    cloze: Annotated[Path | None, Option(help='Rows of "text"; the last word is asked for.')] = None,
    world: Annotated[
        bool, Option("--world", help="Grammar and logic in the sample world, English and Korean.")
    ] = False,
    count: Annotated[
        int | None, Option(min=1, help="Of --world: so many pairs for each score, 200 unless given.")
    ] = None,
    out: Annotated[Path | None, Option(help="Write the results there, as JSON.")] = None,
) -> None:
    """Ask a language model prepared questions: which of two sentences, which answer, which last word."""
    from malmoi.inside.probes import probe as ask
    from malmoi.inside.probes import write_probes
    from malmoi.show import terminal

    probed = ask(folder, {"pairs": pairs, "choices": choices, "cloze": cloze}, world=world, count=count)
    for one in probed:
        typer.echo(f"{one.source}: {one.note}" if one.note else one.source)
        terminal.show_metrics(one.metrics, one.num_items)
    if out is not None:
        write_probes(out, folder, probed)
        typer.echo(f"wrote {out}")


def demo(
    data: Annotated[Path | None, Option(help="Your own text instead of the sample world.")] = None,
    out: NewFolder = Path("demo"),
    quick: Annotated[bool, Option("--quick", help="A shorter one, within 90 seconds.")] = False,
    field: AnyField = None,
    errors: Errors = "strict",
) -> None:
    """See the whole road: text, tokens, three language models, a report with pictures."""
    from malmoi.demo.story import run_demo
    from malmoi.util.locks import hold

    with hold(out):
        run_demo(data, out, quick=quick, field=field or "text", errors=errors)
