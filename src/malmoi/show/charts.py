"""Plots: PNG files, and SVG that takes the colours of its page, so that light and dark both work."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from malmoi.core.nouns import Metric
from malmoi.metrics.confidence import coverage, reliability
from malmoi.show.palette import COLOURS, DARK, GREY, LIGHT, PAGE_FONTS, font_family
from malmoi.util.units import figures, human_count

if TYPE_CHECKING:
    from malmoi.text.tokenizer_comparison import TokenizerRow

_INK = "#010203"  # stands for the page's text colour until the SVG is in the page
_RING: dict[str, Any] = {
    "marker": "o", "markersize": 10, "markerfacecolor": "none", "markeredgecolor": _INK, "linestyle": "none"
}  # fmt: skip

Curve = tuple[str, Sequence[float], Sequence[float]]  # name, x, y
Points = Sequence[tuple[int, Metric]]
Look = tuple[str, str]  # colour, marker


@dataclass(frozen=True, slots=True)
class Panel:
    """One of several plots side by side. A curve of one point holds at every count.

    marks: places (count, value) to point at, each with its count beside it.
    """

    title: str
    y_label: str
    curves: Mapping[str, Points]
    marks: Sequence[tuple[float, float]] = ()


def loss_curves(curves: Sequence[Curve], *, x_label: str, y_label: str) -> str:
    """An SVG of lines; a curve of one point is drawn as a horizontal line (a model without steps)."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for (name, x, y), colour in zip(curves, cycle(COLOURS), strict=False):
        if len(x) == 1:
            axes.axhline(y[0], color=colour, linestyle="--", linewidth=1.8, label=name)
        else:
            axes.plot(x, y, color=colour, linewidth=2.2, marker="o", markersize=3.5, label=name)
    axes.set_xlabel(x_label)
    axes.xaxis.set_major_formatter(lambda value, _: human_count(value))
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return _svg(figure)


def measured_curves(
    curves: Mapping[str, Points], looks: Mapping[str, Look], *, x_label: str, y_label: str
) -> str:
    """An SVG of a metric against a count for each method, with intervals as bars side by side."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    axes = figure.add_subplot()
    ticks = sorted({count for points in curves.values() for count, _ in points})
    step = (ticks[-1] - ticks[0]) / 150
    for number, (name, points) in enumerate(curves.items()):
        colour, marker = looks[name]
        aside = step * (number - (len(curves) - 1) / 2)
        axes.errorbar(
            [count + aside for count, _ in points], [metric.value for _, metric in points],
            yerr=np.transpose([_around(metric) for _, metric in points]), color=colour, marker=marker,
            markersize=5, capsize=3, linewidth=2.2, elinewidth=1.2, label=name,
        )  # fmt: skip
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(lambda value, _: human_count(value))
    return _labelled(figure, axes, x_label, y_label)


def quality_against_cost(
    points: Mapping[str, tuple[float, Metric]], looks: Mapping[str, Look], front: Sequence[str],
    *, x_label: str, y_label: str,
) -> str:  # fmt: skip
    """An SVG of methods by cost (log) and quality with its interval; a line joins the Pareto front."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    if len(front) > 1:
        axes.step(
            [points[name][0] for name in front], [points[name][1].value for name in front],
            where="post", color=GREY, linestyle="--", linewidth=1.4, zorder=1,
            label="not beaten in both",
        )  # fmt: skip
    for name, (cost, metric) in points.items():
        colour, marker = looks[name]
        axes.errorbar(
            cost, metric.value, yerr=np.transpose([_around(metric)]), color=colour, marker=marker,
            markersize=8, capsize=4, linewidth=1.6, linestyle="none", label=name,
        )  # fmt: skip
    axes.set_xscale("log")
    costs = [cost for cost, _ in points.values()]
    few = max(costs) < 10 * min(costs)
    axes.xaxis.set_major_locator(MaxNLocator(6) if few else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: figures(value, 3))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.1)
    return _labelled(figure, axes, x_label, y_label)


def confidence_curves(
    confidence: Mapping[str, tuple[Sequence[float], Sequence[bool]]], looks: Mapping[str, Look]
) -> str:
    """An SVG of two panels, of each method's confidences and whether it was right: the share that is right at
    each confidence, and the share of errors among the surest answers."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot((0, 1), (0, 1), color=GREY, linestyle="--", linewidth=1.4)
    for name, (sure, is_right) in confidence.items():
        colour, marker = looks[name]
        bins = reliability(sure, is_right)
        left.plot(
            [mean for mean, _, _ in bins], [share for _, share, _ in bins], color=colour, marker=marker,
            markersize=5, linewidth=1.8, label=name,
        )  # fmt: skip
        right.plot(*zip(*coverage(sure, is_right), strict=True), color=colour, linewidth=1.8)
    for axes in (left, right):
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    right.set_xlabel("answered, the surest first")
    right.set_ylabel("wrong among these")
    right.set_ylim(bottom=0)
    return _labelled(figure, left, "confidence", "right")


def _labelled(figure: Figure, axes: Axes, x_label: str, y_label: str) -> str:
    """The figure with its legend aside."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside right upper")
    return _svg(figure)


def _around(metric: Metric) -> tuple[float, float]:
    """How far the interval reaches below and above the value."""
    low, high = metric.interval or (metric.value, metric.value)
    return max(0.0, metric.value - low), max(0.0, high - metric.value)


def small_multiples(
    panels: Sequence[Panel], looks: Mapping[str, Look], *, x_label: str, mark: str = "", columns: int = 4
) -> str:
    """An SVG of metrics against a count (log) in panels, with intervals as bands; the legend comes last.

    mark: what a marked place is.
    """
    rows = -(-(len(panels) + 1) // columns)
    figure = Figure(figsize=(11.5, 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    ticks = sorted({count for panel in panels for points in panel.curves.values() for count, _ in points})
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel, looks, ticks)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        axes.set_xlabel(x_label)
    handles = {name: it for axes in grid for it, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if mark and any(panel.marks for panel in panels):
        handles[mark] = Line2D([], [], **_RING)
    names = [name for name in (*looks, mark) if name in handles]
    grid[len(panels)].legend(
        [handles[name] for name in names], names, frameon=False, loc="center left", fontsize=11
    )
    return _svg(figure)


def _draw_panel(axes: Axes, panel: Panel, looks: Mapping[str, Look], ticks: Sequence[int]) -> None:
    axes.set_xscale("log")
    for name, points in panel.curves.items():
        (colour, marker), flat = looks[name], len(points) == 1
        counts = [ticks[0], ticks[-1]] if flat else [count for count, _ in points]
        metrics = [metric for _, metric in points] * (2 if flat else 1)
        values = np.array([metric.value for metric in metrics])
        below, above = np.transpose([_around(metric) for metric in metrics])
        axes.fill_between(counts, values - below, values + above, color=colour, alpha=0.16, linewidth=0)
        axes.plot(
            counts, values, color=colour, linewidth=2.0, linestyle="--" if flat else "-",
            marker="" if flat else marker, markersize=4.5, label=name,
        )  # fmt: skip
    for count, value in panel.marks:
        side = 1 if count**2 < ticks[0] * ticks[-1] else -1  # to the panel's middle
        axes.plot(count, value, **_RING)
        axes.annotate(
            figures(count, 1 if count < 100 else 2), (count, value), textcoords="offset points",
            xytext=(4 * side, 6), ha="left" if side > 0 else "right", color=_INK, fontsize=10,
        )  # fmt: skip
    axes.set_title(panel.title, fontsize=11)
    axes.set_ylabel(panel.y_label)
    axes.set_xticks(ticks, [human_count(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", bottom=False)


def standalone(svg: str) -> str:
    """The SVG element of a chart as a file of its own, which is light or dark as its reader's system is."""
    fonts = font_family(PAGE_FONTS)
    light, dark = (f"color: {look['ink']}; background: {look['page']};" for look in (LIGHT, DARK))
    style = f"svg {{ {light} font-family: {fonts}; }}"
    style += f" @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"
    end = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:end]}<style>{style}</style>{svg[end:]}"


def plot_tokenizers(rows: Sequence[TokenizerRow], path: Path) -> None:
    """Write a PNG: tokens per document against vocabulary size, with the share of words lost."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for row, colour in zip(rows, COLOURS, strict=False):
        axes.scatter(row.vocab_size, row.tokens_per_document, color=colour, s=60, zorder=3)
        axes.annotate(
            f"{row.kind}\n{row.unknown_word_rate:.1%} of words lost",
            (row.vocab_size, row.tokens_per_document), textcoords="offset points", xytext=(8, 4), fontsize=9,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.25)
    axes.set_xlabel("vocabulary size")
    axes.set_ylabel("tokens per document")
    axes.grid(alpha=0.3, which="both")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))


def _svg(figure: Figure) -> str:
    """The figure as an SVG element that inherits colour and font from the page."""
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    for text in (text for legend in legends if legend for text in legend.get_texts()):
        text.set_color(_INK)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        for spine in axes.spines.values():
            spine.set_color(_INK)
        axes.tick_params(colors=_INK, which="both")
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(_INK)
    figure.patch.set_alpha(0)
    page = io.StringIO()
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "malmoi", "font.family": "sans-serif"}),
        warnings.catch_warnings(),
    ):
        # the page has the letters that matplotlib's own font lacks
        warnings.filterwarnings("ignore", message="Glyph")
        FigureCanvasSVG(figure).print_svg(page, metadata={"Date": None, "Creator": None})
    svg = page.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px inherit; font-family: inherit", svg)
