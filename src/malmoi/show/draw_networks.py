"""Pictures of attention, alignment, and of what a recurrent network keeps.

Shape letters: T positions, S keys, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.inside.attention import sharpest_head
from malmoi.inside.gates import Trace
from malmoi.show.palette import COLOURS, SOFT
from malmoi.show.picture import SHARE, SIGNED, Picture, bare, label_tokens, new_figure

MOST_LAYERS = MOST_HEADS = 12
UNITS = 28


def chosen(count: int, number: int | None, name: str) -> int | None:
    """The place of layer or head `number`, which is counted from 1. Raises UserError where there is none."""
    if number is not None and not 1 <= number <= count:
        raise UserError(f"{name} {number} is not there; this model has {name}s 1 to {count}")
    return None if number is None else number - 1


def draw_attention_grid(weights: Sequence[Tensor], part: str, note: str) -> Picture:
    """Every layer and head as a small square. weights: one weights_HTS a layer."""
    layers, heads = _some(len(weights), MOST_LAYERS), _some(max(map(len, weights)), MOST_HEADS)
    size = min(1.7, 9.0 / len(heads))
    figure = new_figure(0.5 + size * len(heads), 0.4 + size * len(layers))
    for row, layer in enumerate(layers):
        for column, head in enumerate(heads):
            axes = figure.add_subplot(len(layers), len(heads), row * len(heads) + column + 1)
            axes.set_xticks([])
            axes.set_yticks([])
            if head < len(weights[layer]):
                axes.imshow(_contrast(weights[layer][head]), cmap=SHARE, vmin=0, vmax=1, aspect="auto")
            if not row:
                axes.set_title(f"head {head + 1}", fontsize=9, color=SOFT)
            if not column:
                axes.set_ylabel(f"layer {layer + 1}", fontsize=9)
    who = f" of the {part}" if part else ""
    explanation = (
        f"Each square is one head{who}: row by row which tokens (columns) each token (rows) reads from. A "
        "line beside the diagonal looks one token back, a dark first column rests at the start, scattered "
        f"dots find particular tokens.{note}"
    )
    return Picture(
        _name("attention", part), _title("Attention, every layer and head", part), explanation, figure
    )


def _some(count: int, most: int) -> list[int]:
    """At most `most` of 0..count-1, evenly spread."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def _contrast(weights_TS: Tensor) -> Tensor:
    """The square root, so that weak attention is seen, too."""
    return weights_TS.sqrt()


def draw_attention_head(
    weights: Sequence[Tensor], queries: Sequence[str], keys: Sequence[str], part: str,
    layer: int | None, head: int | None, note: str,
) -> Picture:  # fmt: skip
    """One head with its tokens. layer, head: places from 0; None: the sharpest one."""
    within = [weights[layer]] if layer is not None else list(weights)
    within = within if head is None else [one[head : head + 1] for one in within]
    found_layer, found_head = sharpest_head(within)
    layer, head = found_layer if layer is None else layer, found_head if head is None else head
    figure = _token_square(weights[layer][head].numpy(), queries, keys)
    explanation = (
        f"Layer {layer + 1}, head {head + 1}. Each row adds up to 1: how much the token to the left reads "
        "from each token below; the darker, the more. "
        + (
            "It sees both sides."
            if part == "encoder"
            else "What lies ahead is hidden, so the upper right is empty."
        )
        + note
    )
    return Picture(_name("attention-head", part), _title("Attention of one head", part), explanation, figure)


def draw_alignment(
    weights: Sequence[Tensor], source: Sequence[str], target: Sequence[str],
    layer: int | None, head: int | None, note: str,
) -> Picture:  # fmt: skip
    """An encoder-decoder's cross-attention as an alignment of words. layer, head: None: the mean of all."""
    some = weights if layer is None else weights[layer : layer + 1]
    rows_TS = torch.stack([one.mean(0) if head is None else one[head] for one in some]).mean(0)
    figure = _token_square(rows_TS.numpy(), target, source)
    whose = [f"layer {layer + 1}"] if layer is not None else ["all layers"] if len(weights) > 1 else []
    whose += [f"head {head + 1}"] if head is not None else ["all heads"] if len(weights[0]) > 1 else []
    whose += ["the mean"] if {"all layers", "all heads"} & set(whose) else []
    explanation = (
        "To the left what the decoder has just read, below the source. A dark cell is where it looked in "
        "the source before it wrote its next token: an alignment of words that nobody gave it. "
        + (f"({', '.join(whose)}.)" if whose else "")
        + note
    )
    return Picture("alignment", "Cross-attention: which word comes from which", explanation.strip(), figure)


def _token_square(rows_TS: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Figure:
    cell = 0.24 if max(len(rows), len(columns)) > 24 else 0.3
    figure = new_figure(max(4.5, 2.2 + cell * len(columns)), max(3.0, 1.3 + cell * len(rows)))
    axes = figure.add_subplot()
    drawn = axes.imshow(rows_TS, cmap=SHARE, vmin=0, vmax=max(0.2, float(rows_TS.max())), aspect="auto")
    label_tokens(axes, columns)
    label_tokens(axes, rows, x=False, y=True)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.set_label("attention weight", color=SOFT)
    return figure


def draw_gates(trace: Trace, tokens: Sequence[str], part: str, layer: int, note: str) -> Picture:
    """What a recurrent layer saves, loads and forgets at each token."""
    has_gates = bool(trace.gates)
    figure = new_figure(max(6.5, 2.4 + 0.26 * len(tokens)), 7.2 if has_gates else 5.2)
    axes = list(
        figure.subplots(
            3 if has_gates else 2, 1, sharex=True, height_ratios=(3, 5, 2) if has_gates else (5, 2)
        )
    )
    if has_gates:
        for (name, gate_TD), colour in zip(trace.gates.items(), cycle(COLOURS), strict=False):
            axes[0].plot(
                gate_TD.mean(-1).numpy(), color=colour, marker="o", markersize=3.5, linewidth=2, label=name
            )
        axes[0].set_ylim(0, 1)
        axes[0].set_ylabel("mean of the gate")
        axes[0].legend(frameon=False, ncols=3, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    memory_TD = trace.memory_TD
    units = memory_TD.std(0, correction=0).topk(min(UNITS, memory_TD.shape[1])).indices.sort().values
    most = float(memory_TD[:, units].abs().quantile(0.98)) or 1.0
    axes[-2].imshow(memory_TD[:, units].T.numpy(), cmap=SIGNED, vmin=-most, vmax=most, aspect="auto")
    axes[-2].set_ylabel(f"{len(units)} liveliest units")
    axes[-2].set_yticks([])
    axes[-1].plot(memory_TD.norm(dim=-1).numpy(), color=SOFT, marker="o", markersize=3, linewidth=1.8)
    axes[-1].set_ylim(bottom=0)
    axes[-1].set_ylabel("its length")
    label_tokens(axes[-1], tokens)
    for one in axes:
        bare(one).tick_params(length=0)
    title = f"What {trace.cell.title} remembers" + (f" ({part})" if part else "")
    meaning = (
        f"Layer {layer + 1}; time runs to the right. The coloured field is {trace.cell.memory}, one line a "
        "number: green above zero, red below; below it, how long that vector is. A stripe that goes on is "
        f"something remembered. {trace.cell.explained}"
    )
    return Picture(_name("gates", part), title, meaning + note, figure)


def _name(name: str, part: str) -> str:
    return "-".join([name, *part.replace(",", "").split()])


def _title(title: str, part: str) -> str:
    return f"{title} ({part})" if part else title
