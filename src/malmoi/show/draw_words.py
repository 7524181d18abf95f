"""A picture of a bag of words: what each word of a text says for each label.

Shape letters: L labels, W words.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from malmoi.inside.sources import BagOfWords, Floats
from malmoi.show.picture import COLOURS, INK, SIGNED, Picture, bare, label_tokens, new_figure, shown

MOST_WORDS, MOST_LABELS, STRONGEST = 40, 12, 12


def draw_words(bag: BagOfWords) -> Picture:
    """Words against labels, and the strongest n-grams for the winner."""
    scores_L = bag.added_LW.sum(1) + bag.bias_L
    order = np.argsort(-scores_L, kind="stable")[:MOST_LABELS]
    winner, added_LW = int(order[0]), (bag.added_LW - bag.added_LW.mean(0))[order, :MOST_WORDS]
    words = bag.words[:MOST_WORDS]
    strongest = bag.strongest[:STRONGEST]
    wide = max(5.5, 2.6 + 0.34 * len(words)) + (3.0 if strongest else 0)
    figure = new_figure(wide, max(2.9, 1.7 + 0.38 * len(order)))
    ratios = (wide - 3.2, 3.2) if strongest else (1,)
    axes = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    most = float(np.abs(added_LW).max()) if added_LW.size else 1.0
    axes[0].imshow(added_LW, cmap=SIGNED, vmin=-(most or 1), vmax=most or 1, aspect="auto")
    _numbers(axes[0], added_LW, most)
    label_tokens(axes[0], words)
    axes[0].set_yticks(range(len(order)), [f"{bag.labels[i]}  {scores_L[i]:+.2f}" for i in order])
    if strongest:
        _bars(bare(axes[1]), strongest, winner, bag.labels[winner])
    explanation = (
        "A bag of words has no order: every word adds a number to every label, and the label with the "
        f"highest sum (beside its name, with what it starts from) wins: here {bag.labels[winner]}. Green "
        "speaks for a label, red against it, white words say nothing or are not known; each word is shown "
        "against its mean over the labels."
    )
    return Picture("words", "A bag of words' weights", explanation, figure)


def _numbers(axes: Axes, added_LW: Floats, most: float) -> None:
    for row, column in zip(*np.nonzero(np.abs(added_LW) > 0.05 * (most or 1)), strict=True):
        value = added_LW[row, column]
        colour = "white" if abs(value) > 0.75 * most else INK
        axes.text(column, row, f"{value:+.1f}", ha="center", va="center", fontsize=7.5, color=colour)


def _bars(axes: Axes, strongest: tuple[tuple[str, Floats], ...], label: int, name: str) -> None:
    values = [float(added_L[label] - added_L.mean()) for _, added_L in strongest]
    places = range(len(values))
    axes.barh(places, values, color=[COLOURS[2] if value > 0 else COLOURS[5] for value in values], height=0.7)
    axes.set_yticks(places, [shown(term) for term, _ in strongest], fontsize=8.5)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_title(f"strongest n-grams for {name}", fontsize=9.5)
