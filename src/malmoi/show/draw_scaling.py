"""Plots of what scaling measured: time, memory, recall, and reading beyond the trained context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from malmoi.inside.recall import VALUES
from malmoi.inside.scaling import Crossing, Measured
from malmoi.inside.scaling_bench import Scaling
from malmoi.show.palette import COLOURS, FAINT, SOFT
from malmoi.show.picture import Picture, bare, drawing, new_figure, write_pictures
from malmoi.util.units import figures, human_bytes

PANELS = (
    ("train_seconds", "training: seconds a step", 1.0),
    ("train_bytes", "training: memory kept for the backward pass", 1.0),
    ("decode_seconds", "writing: milliseconds for the next token", 1000.0),
    ("state_bytes", "writing: memory of the text", 1.0),
)  # fmt: skip


def write_scaling(found: Scaling, out: Path) -> Path:
    """Write the plots and index.html, whose path is returned, into `out`."""
    with drawing():
        pictures = [
            draw_scaling(found.costs.found, found.costs.crossing),
            draw_recall(found.recall.edges, found.recall.curves, 1 / VALUES),
            draw_beyond(found.beyond.edges, found.beyond.curves, found.context),
        ]
    title = "How sequence models scale, on this machine"
    return write_pictures(out, pictures, title=title, text="\n".join(found.sentences))


def draw_scaling(found: Mapping[str, Measured], crossed: Crossing | None) -> Picture:
    """Four panels of log-log curves, with the lines of n and n^2 to compare with."""
    figure = new_figure(10.0, 7.4)
    axes = figure.subplots(2, 2).flatten()
    for panel, (field, title, scale) in zip(axes, PANELS, strict=True):
        curves = {
            name: (one.lengths, [scale * value for value in getattr(one, field)])
            for name, one in found.items()
        }
        _draw_curves(panel, curves)
        _log(bare(panel), [length for one in found.values() for length in one.lengths])
        panel.set_title(title, fontsize=10.5)
        in_bytes = field.endswith("bytes")
        panel.yaxis.set_major_locator(LogLocator(4) if in_bytes else LogLocator(10, subs=(1, 3)))
        panel.yaxis.set_major_formatter(
            lambda value, _, b=in_bytes: human_bytes(value) if b else f"{value:g}"
        )
        panel.yaxis.set_minor_locator(NullLocator())
    _guides(axes[0], found)
    if crossed and crossed.length and not crossed.predicted:
        axes[0].axvline(crossed.length, color=SOFT, linestyle=":", linewidth=1.5)
        top, where = axes[0].get_ylim()[1], f"{figures(crossed.length, 2)} "
        axes[0].text(crossed.length, top, where, color=SOFT, fontsize=9, ha="right", va="top")
    figure.legend(*axes[1].get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=6)
    explanation = (
        "Both axes double from mark to mark, so a straight line is a power: n tokens cost n (the flatter "
        "dotted line) or n^2 (the steeper). A recurrent network pays the same for every token; attention "
        "looks back at all of them, but does a whole row at once, so it wins while rows are short."
    )
    return Picture("scaling", "Time and memory against length", explanation, figure)


def _log(axes: Axes, lengths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted(set(lengths)), [str(one) for one in sorted(set(lengths))], fontsize=8.5)
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.set_xlabel("tokens")


def _guides(axes: Axes, found: Mapping[str, Measured]) -> None:
    """From the highest last point backwards: n and n^2."""
    longest = max(found.values(), key=lambda one: one.lengths[-1:])
    if not longest.lengths:
        return
    last, seconds = longest.lengths[-1], max(one.train_seconds[-1] for one in found.values() if one.lengths)
    ends = (longest.lengths[0], last)
    for power in (1, 2):
        axes.plot(
            ends, [seconds * (n / last) ** power for n in ends], color=FAINT, linestyle=":", linewidth=1.5
        )
        axes.text(
            ends[0],
            seconds * (ends[0] / last) ** power,
            f" n{'²' if power > 1 else ''}",
            color=SOFT,
            fontsize=9,
        )


def draw_recall(edges: Sequence[int], curves: Mapping[str, Sequence[float]], chance: float) -> Picture:
    """The share of facts that are remembered, by their distance."""
    places = range(len(edges) - 1)
    figure, axes = _chart(places, curves, "tokens since the fact was told", "answers that are right")
    axes.axhline(chance, color=SOFT, linestyle="--", linewidth=1)
    axes.text(0, chance + 0.015, "a guess", color=SOFT, fontsize=9)
    axes.set_xticks(places, [f"{a} to {b - 1}" for a, b in pairwise(edges)])
    axes.set_ylim(0, 1.03)
    explanation = (
        "A row tells a fact (a key and its value), talks of other things, and asks for it. Attention looks "
        "the key up wherever it stands; a recurrent state must have carried the fact all the way. Each model "
        "read the same rows in training, and few of them."
    )
    return Picture("recall", "Recall of a fact against its distance", explanation, figure)


def draw_beyond(edges: Sequence[int], curves: Mapping[str, Sequence[float]], context: int) -> Picture:
    """Bits per byte by position, within and beyond the trained context."""
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    figure, axes = _chart(middles, curves, "position in the text (tokens)", "bits per byte")
    axes.axvline(context, color=SOFT, linestyle="--", linewidth=1)
    axes.text(context, axes.get_ylim()[1], f" trained on {context}", color=SOFT, fontsize=9, va="top")
    axes.set_ylim(bottom=0)
    explanation = (
        "To the left of the dashed line are positions that training had. A recurrent network goes on as "
        "before; a GPT with rotary positions meets distances that it never saw, and gets worse; one with "
        "learned positions has no row for them and cannot read on at all."
    )
    return Picture("beyond", "Bits per byte beyond the trained context", explanation, figure)


def _chart(
    places: Sequence[float], curves: Mapping[str, Sequence[float]], xlabel: str, ylabel: str
) -> tuple[Figure, Axes]:
    """One panel of curves over the same places, with its legend."""
    figure = new_figure(8.0, 4.0)
    axes = bare(figure.add_subplot())
    _draw_curves(axes, {name: (places, heights) for name, heights in curves.items()})
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if curves:
        axes.legend(frameon=False)
    return figure, axes


def _draw_curves(axes: Axes, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """A line through (places, heights) for each name, in the colours' order."""
    for (name, points), colour in zip(curves.items(), cycle(COLOURS), strict=False):
        axes.plot(*points, color=colour, marker="o", markersize=4, linewidth=2, label=name)
