"""Pictures of embeddings: a token is a row of numbers, and like tokens have like rows.

Shape letters: V vocabulary, D width, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from malmoi.inside.embeddings import neighbours, plane
from malmoi.show.picture import COLOURS, SIGNED, SOFT, Picture, bare, new_figure, shown
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.units import human_count

ROWS, COLUMNS, NEAR = 9, 24, 12


def draw_embedding(weight_VD: Tensor, tokenizer: Tokenizer, id: int, others: Sequence[int]) -> Picture:
    """One-hot times matrix = row, for one token among others of the text."""
    ids = list(dict.fromkeys([*others, id]))
    ids = ids if len(ids) <= ROWS else [*[one for one in ids if one != id][: ROWS - 1], id]
    ids.sort()
    part = weight_VD[ids, :COLUMNS].numpy()
    width, most = weight_VD.shape[1], float(np.abs(part).max()) or 1.0
    figure = new_figure(9.0, 1.9 + 0.27 * len(ids))
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 7), height_ratios=(len(ids), 1))
    hot, matrix, row = (figure.add_subplot(grid[place]) for place in ((0, 0), (0, 1), (1, 1)))
    hot.imshow([[float(one == id)] for one in ids], cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    for place, one in enumerate(ids):
        hot.text(0, place, str(int(one == id)), ha="center", va="center")
    matrix.imshow(part, cmap=SIGNED, vmin=-most, vmax=most, aspect="auto")
    row.imshow(weight_VD[[id], :COLUMNS].numpy(), cmap=SIGNED, vmin=-most, vmax=most, aspect="auto")
    names = [f"{shown(tokenizer.token_text(one), 10)}  {one}" for one in ids]
    _frame(hot, "one-hot", names)
    _frame(
        matrix,
        f"× the embedding matrix, {human_count(len(weight_VD))} rows of {width} numbers",
        [""] * len(ids),
    )
    _frame(row, "", [f"= row {id}"])
    matrix.axhspan(ids.index(id) - 0.5, ids.index(id) + 0.5, fill=False, edgecolor=COLOURS[0], linewidth=2)
    token = shown(tokenizer.token_text(id))
    explanation = (
        f"The token {token} is number {id} of the vocabulary: a vector with one 1 and "
        f"{len(weight_VD) - 1:,} zeros. Multiplying it by the embedding matrix picks out one row, so a "
        "model simply looks that row up. Shown are the rows of this text's tokens and the first "
        f"{part.shape[1]} of {width} columns: green above zero, red below."
    )
    return Picture("embedding", "One-hot times matrix is a row", explanation, figure)


def _frame(axes: Axes, title: str, names: Sequence[str]) -> None:
    axes.set_title(title, fontsize=10, color=SOFT)
    axes.set_xticks([])
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.tick_params(length=0)


def draw_neighbours(weight_VD: Tensor, tokenizer: Tokenizer, ids: Sequence[int]) -> Picture:
    """The nearest rows of a few tokens."""
    specials = tokenizer.specials.ids
    columns = 2 if len(ids) > 1 else 1
    lines = -(-len(ids) // columns)
    figure = new_figure(4.5 * columns, 0.5 + 2.3 * lines)
    for number, id in enumerate(ids):
        axes = bare(figure.add_subplot(lines, columns, number + 1))
        found = neighbours(weight_VD, id, 8, specials)
        places = range(len(found))
        axes.barh(
            places,
            [cosine for _, cosine in found],
            color=COLOURS[number % len(COLOURS)],
            alpha=0.75,
            height=0.7,
        )
        axes.set_yticks(places, [shown(tokenizer.token_text(other)) for other, _ in found], fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.tick_params(length=0)
        axes.set_title(f"nearest to {shown(tokenizer.token_text(id))}", fontsize=10.5)
    explanation = (
        "The tokens whose rows point most nearly the same way (cosine; 1 is the same direction). Nobody "
        "told the model what they mean: tokens that come in like places got like rows."
    )
    return Picture("neighbours", "Nearest neighbours", explanation, figure)


def draw_map(weight_VD: Tensor, tokenizer: Tokenizer, ids: Sequence[int]) -> Picture:
    """The tokens of a text, and some of their neighbours, on a plane."""
    own = list(dict.fromkeys(ids))[:40]
    specials = tokenizer.specials.ids
    near = [other for id in own[:NEAR] for other, _ in neighbours(weight_VD, id, 2, {*specials, *own})]
    both = list(dict.fromkeys([*own, *near]))
    points_N2, share = plane(weight_VD[both])
    figure = new_figure(8.0, 5.6)
    axes = figure.add_subplot()
    for number, (id, (x, y)) in enumerate(zip(both, points_N2.tolist(), strict=True)):
        ours = number < len(own)
        axes.scatter(x, y, s=26 if ours else 12, color=COLOURS[0] if ours else "#b6bac2", zorder=2)
        axes.annotate(
            shown(tokenizer.token_text(id)), (x, y), textcoords="offset points", xytext=(4, 3),
            fontsize=9.5 if ours else 8, color="#22252b" if ours else SOFT,
        )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.12)
    explanation = (
        "Each token's row of numbers as a point: blue is this text, grey are close neighbours of its "
        f"tokens. The plane keeps {share:.0%} of how the rows differ (the two main directions, PCA), so far "
        "apart means different, but close together need not mean alike."
    )
    return Picture("map", "A map of the tokens", explanation, figure)
