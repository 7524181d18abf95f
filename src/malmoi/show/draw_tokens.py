"""Pictures of a text's tokens: what a model expected at each of them, their embeddings, the words of a bag.

Shape letters: V vocabulary, D width, L labels, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.inside.sources import BagOfWords, Floats
from malmoi.inside.tokens import Cut, Prediction, cuts_of, neighbours, orders_of, plane
from malmoi.models.ngram import KneserNey
from malmoi.show.palette import COLOURS, FAINT, FRAME, GREEN, INK, LINE, PAPER, RED, SOFT, TINTS
from malmoi.show.picture import (
    SHARE,
    SIGNED,
    SURPRISE,
    Picture,
    bare,
    ink_on,
    label_tokens,
    new_figure,
    printable,
    shown,
)
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.units import human_count

MOST_CHARACTERS = 400
ROWS, COLUMNS, NEAR = 9, 24, 12  # of an embedding matrix, and tokens near those of the text
MOST_WORDS, MOST_LABELS, STRONGEST = 40, 12, 12  # of a bag
FULL_LOSS = 8.0  # nats; a loss of more is drawn in the same red


def draw_tokens(text: str, tokenizer: Tokenizer | None) -> Picture:
    """The text cut by word, sub-word and character."""
    text = " ".join(text[:MOST_CHARACTERS].split())
    cuts = cuts_of(text, tokenizer)
    counts = ", ".join(f"{len(one.pieces)} {one.name}" for one in cuts)
    explanation = (
        f"Each colour is one token: {counts}. Words make short rows but an endless vocabulary, characters "
        "the other way round; sub-words are the compromise that language models read."
    )
    return Picture("tokens", "A text is a row of tokens", explanation, _flows(cuts))


def _flows(cuts: Sequence[Cut]) -> Figure:
    """Rows of coloured pieces, one block a cut; the height follows from the text."""
    width = 9.0
    probe = _Flow(Figure(figsize=(width, 1)))
    height = sum(probe.height(one) for one in cuts)
    figure = Figure(figsize=(width, height / probe.dots), facecolor=PAPER)
    flow, top = _Flow(figure), height
    for one in cuts:
        top = flow.draw(one, top)
    return figure


class _Flow:
    """Text set by hand, in dots: a figure's own layout knows no coloured words in a row."""

    margin, line, gap = 14.0, 26.0, 16.0

    def __init__(self, figure: Figure) -> None:
        self.dots = figure.dpi
        self.right = figure.get_figwidth() * self.dots - self.margin
        self.axes = figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, figure.get_figwidth() * self.dots)
        self.axes.set_ylim(0, figure.get_figheight() * self.dots)
        self.axes.axis("off")
        self.renderer = FigureCanvasAgg(figure).get_renderer()
        self.extents: dict[str, float] = {}

    def _width(self, piece: str) -> float:
        """Measured between two letters, as white space alone has no extent."""
        return max(3.0, self._extent(f"|{piece}|") - self._extent("||"))

    def _extent(self, text: str) -> float:
        if text not in self.extents:
            drawn = self.axes.text(0, 0, text, fontsize=11)
            self.extents[text] = drawn.get_window_extent(self.renderer).width
            drawn.remove()
        return self.extents[text]

    def _placed(self, one: Cut) -> list[tuple[str, float, int, float]]:
        """(piece, x, line, width) of each piece; a row ends where the next piece does not fit."""
        x, line, places = self.margin, 0, []
        for piece in map(printable, one.pieces):
            width = self._width(piece)
            if x + width > self.right:
                x, line = self.margin, line + 1
            places.append((piece, x, line, width))
            x += width + 2
        return places

    def height(self, one: Cut) -> float:
        """Of a block with its heading."""
        return (2 + self._placed(one)[-1][2]) * self.line + self.gap

    def draw(self, one: Cut, top: float) -> float:
        """Draw a block below `top`; where it ends."""
        places, first = self._placed(one), top - self.line
        self.axes.text(self.margin, first, f"{len(one.pieces)} {one.name}", color=SOFT, fontsize=10)
        for number, (piece, x, line, width) in enumerate(places):
            base = first - (1 + line) * self.line
            tint = TINTS[number % len(TINTS)]
            self.axes.add_patch(Rectangle((x, base - 7), width, self.line - 4, facecolor=tint, linewidth=0))
            self.axes.text(x, base, piece, fontsize=11)
        return top - (2 + places[-1][2]) * self.line - self.gap


def draw_losses(predictions: Sequence[Prediction], note: str) -> Picture:
    """n tokens are n predictions and n losses."""
    losses = np.array([one.loss for one in predictions])
    colours = SURPRISE(np.minimum(1, losses / FULL_LOSS))
    figure, axes = _token_bars(
        [one.token for one in predictions], losses, [_percent(one.probability) for one in predictions],
        height=4.0, gap=0.12, color=colours,
    )  # fmt: skip
    axes.axhline(losses.mean(), color=SOFT, linewidth=1, linestyle="--")
    axes.set_ylim(0, max(1.0, losses.max()) * 1.25)
    axes.set_ylabel("loss: -ln of the probability (nats)")
    explanation = (
        f"Before each of the {len(losses)} tokens the model guessed it: the number is the probability that "
        "it gave to what did come, the bar the loss, high where it was surprised. The mean, "
        f"{losses.mean():.2f} nats (the dashed line), is what training makes small; one row of text teaches "
        f"{len(losses)} times.{note}"
    )
    return Picture(
        "losses", f"One row: {len(losses)} predictions and {len(losses)} losses", explanation, figure
    )


def _token_bars(
    tokens: Sequence[str], values: Sequence[float] | Floats, words: Sequence[str], *, height: float,
    gap: float, **look: Any,
) -> tuple[Figure, Axes]:  # fmt: skip
    """A bar for each token, with a word above it."""
    figure = new_figure(max(6.0, 1.6 + 0.26 * len(tokens)), height)
    axes = bare(figure.add_subplot())
    axes.bar(range(len(tokens)), values, width=0.8, **look)
    for place, (value, word) in enumerate(zip(values, words, strict=True)):
        axes.text(place, value + gap, word, rotation=90, ha="center", va="bottom", fontsize=8)
    axes.set_xlim(-0.8, len(tokens) - 0.2)
    label_tokens(axes, tokens)
    return figure, axes


def draw_next(predictions: Sequence[Prediction], note: str) -> Picture:
    """The likeliest next tokens at every position."""
    ranks = max(len(one.best) for one in predictions)
    figure = new_figure(2.6 + 1.35 * ranks, 0.9 + 0.27 * len(predictions))
    axes = figure.add_subplot()
    shares = np.zeros((len(predictions), ranks))
    for row, one in enumerate(predictions):
        shares[row, : len(one.best)] = [probability for _, probability in one.best]
    axes.imshow(shares, cmap=SHARE, vmin=0, vmax=1, aspect="auto")
    for row, one in enumerate(predictions):
        _cells(axes, row, one)
    axes.set_xticks(range(ranks), [f"guess {rank + 1}" for rank in range(ranks)], color=SOFT)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    label_tokens(axes, [one.token for one in predictions], x=False, y=True)
    explanation = (
        "Read downwards: to the left stands the token that did come, beside it what the model thought "
        "likeliest before it saw it, darker being surer. A green frame is a guess that came true. At every "
        "position the model gives a probability to every token of its vocabulary; these are the first "
        f"{ranks}.{note}"
    )
    return Picture("next", "What comes next, at every position", explanation, figure)


def _cells(axes: Axes, row: int, one: Prediction) -> None:
    for rank, (token, probability) in enumerate(one.best):
        label = f"{shown(token, 9)} {_percent(probability)}"
        axes.text(rank, row, label, ha="center", va="center", fontsize=8.5, color=ink_on(probability))
        if token == one.token:
            frame = Rectangle(
                (rank - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor=FRAME, linewidth=1.8
            )
            axes.add_patch(frame)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0095 else "<1%"


def draw_orders(model: KneserNey, ids: Sequence[int], tokens: Sequence[str], note: str) -> Picture:
    """Which order answered at each position of a text."""
    orders, counts = orders_of(model, ids)
    figure, axes = _token_bars(
        tokens, orders, [f"{count}" if order else "new" for order, count in zip(orders, counts, strict=True)],
        height=3.6, gap=0.06, color=SHARE(np.array(orders) / model.order), edgecolor=LINE,
    )  # fmt: skip
    axes.set_yticks(range(model.order + 1))
    axes.set_ylim(0, model.order + 1.1)
    axes.set_ylabel("tokens of the longest known n-gram", color=INK)
    explanation = (
        f"An n-gram model remembers runs of up to {model.order} tokens. The bar is the longest run that "
        "ends with this token and was counted in training, the number how often it was (of shorter runs: "
        "after how many different tokens). A high bar is a run known by heart; a low one means that it "
        f"backed off to less context.{note}"
    )
    return Picture("orders", "Which n-gram answered", explanation, figure)


def check_tokens(tokens: Sequence[object]) -> None:
    """Raises UserError where there is nothing to look at."""
    if not tokens:
        raise UserError("the text is empty; give a few words to look at")


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
        axes.scatter(x, y, s=26 if ours else 12, color=COLOURS[0] if ours else FAINT, zorder=2)
        axes.annotate(
            shown(tokenizer.token_text(id)), (x, y), textcoords="offset points", xytext=(4, 3),
            fontsize=9.5 if ours else 8, color=INK if ours else SOFT,
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


def draw_words(bag: BagOfWords) -> Picture:
    """Words against labels, and the strongest n-grams for the winner."""
    scores_L = bag.added_LW.sum(1) + bag.bias_L
    order = np.argsort(-scores_L, kind="stable")[:MOST_LABELS]
    among = bag.needed_L is None  # each label is seen among the others, which it must beat
    winner, added_LW = int(order[0]), (bag.added_LW - among * bag.added_LW.mean(0))[order, :MOST_WORDS]
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
        values = [float(added_L[winner] - among * added_L.mean()) for _, added_L in strongest]
        _bars(bare(axes[1]), [term for term, _ in strongest], values, bag.labels[winner])
    explanation = (
        "A bag of words has no order: every word adds a number to every label, and "
        f"{_winners(bag, scores_L)}. Green speaks for a label, red against it, white words say "
        f"nothing or are not known{'; each word is shown against its mean over the labels' * among}."
    )
    return Picture("words", "A bag of words' weights", explanation, figure)


def _winners(bag: BagOfWords, scores_L: Floats) -> str:
    """Which label wins, or which ones are given, and why."""
    if bag.needed_L is None:
        winner = bag.labels[int(scores_L.argmax())]
        return (
            f"the label with the highest sum (beside its name, with what it starts from) wins: here {winner}"
        )
    given = [label for label, far in zip(bag.labels, scores_L - bag.needed_L, strict=True) if far >= 0]
    return (
        "each label whose sum (beside its name, with what it starts from) reaches its threshold is given: "
        f"here {', '.join(given) or 'none'}"
    )


def _numbers(axes: Axes, added_LW: Floats, most: float) -> None:
    for row, column in zip(*np.nonzero(np.abs(added_LW) > 0.05 * (most or 1)), strict=True):
        value = added_LW[row, column]
        colour = PAPER if abs(value) > 0.75 * most else INK
        axes.text(column, row, f"{value:+.1f}", ha="center", va="center", fontsize=7.5, color=colour)


def _bars(axes: Axes, terms: Sequence[str], values: Sequence[float], name: str) -> None:
    places = range(len(values))
    axes.barh(places, values, color=[GREEN if value > 0 else RED for value in values], height=0.7)
    axes.set_yticks(places, [*map(shown, terms)], fontsize=8.5)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_title(f"strongest n-grams for {name}", fontsize=9.5)
