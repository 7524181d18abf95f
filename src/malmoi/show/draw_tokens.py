"""Pictures of a text's tokens, and of what a model expected at each of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from malmoi.core.errors import UserError
from malmoi.inside.predictions import Prediction
from malmoi.inside.tokens import Cut, cut
from malmoi.models.ngram import KneserNey
from malmoi.show.picture import (
    INK,
    LINE,
    SHARE,
    SOFT,
    SURPRISE,
    TINTS,
    Picture,
    bare,
    ink_on,
    label_tokens,
    new_figure,
    printable,
    shown,
)
from malmoi.text.tokenizer import Tokenizer, train_tokenizer

MOST_CHARACTERS = 400
FULL_LOSS = 8.0  # nats; a loss of more is drawn in the same red


def cuts_of(text: str, tokenizer: Tokenizer | None) -> list[Cut]:
    """A text by words, by characters, and as its model cuts it (where that is another way)."""
    ways = [(kind, train_tokenizer([text], kind, 1 << 20)) for kind in ("word", "character")]
    if tokenizer is not None and tokenizer.kind not in ("word", "character"):
        ways.insert(1, (f"the model's own sub-words ({tokenizer.kind})", tokenizer))
    names = {"word": "words", "character": "characters"}
    return [cut(names.get(name, name), one, text) for name, one in ways]


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
    figure = Figure(figsize=(width, height / probe.dots), facecolor="white")
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
    figure = new_figure(max(6.0, 1.6 + 0.26 * len(losses)), 4.0)
    axes = bare(figure.add_subplot())
    axes.bar(range(len(losses)), losses, color=SURPRISE(np.minimum(1, losses / FULL_LOSS)), width=0.8)
    for place, one in enumerate(predictions):
        axes.text(
            place,
            one.loss + 0.12,
            _percent(one.probability),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=8,
        )
    axes.axhline(losses.mean(), color=SOFT, linewidth=1, linestyle="--")
    axes.set_xlim(-0.8, len(losses) - 0.2)
    axes.set_ylim(0, max(1.0, losses.max()) * 1.25)
    axes.set_ylabel("loss: -ln of the probability (nats)")
    label_tokens(axes, [one.token for one in predictions])
    explanation = (
        f"Before each of the {len(losses)} tokens the model guessed it: the number is the probability that "
        "it gave to what did come, the bar the loss, high where it was surprised. The mean, "
        f"{losses.mean():.2f} nats (the dashed line), is what training makes small; one row of text teaches "
        f"{len(losses)} times.{note}"
    )
    return Picture(
        "losses", f"One row: {len(losses)} predictions and {len(losses)} losses", explanation, figure
    )


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
                (rank - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor="#1c9a6c", linewidth=1.8
            )
            axes.add_patch(frame)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0095 else "<1%"


def orders_of(model: KneserNey, ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """For each token the length of the longest counted n-gram that ends there (0: none), and its count.

    The counts of n-grams shorter than the model's order are those of different tokens before them.
    """
    orders, counts = [0] * len(ids), [0] * len(ids)
    state = model.new_state(1)
    for place, id in enumerate(ids):
        contexts_O = state.contexts_BO[0].tolist()
        for order, (level, context) in enumerate(zip(model.levels, contexts_O, strict=True), start=1):
            number = int(level.find(np.array([context]), np.array([id]), model.vocab_size)[0])
            if context >= 0 and number >= 0:
                orders[place], counts[place] = order, int(level.counts_G[number])
        model.step(torch.tensor([[id]]), torch.tensor([1]), state, last_only=True)
    return orders, counts


def draw_orders(model: KneserNey, ids: Sequence[int], tokens: Sequence[str], note: str) -> Picture:
    """Which order answered at each position of a text."""
    orders, counts = orders_of(model, ids)
    figure = new_figure(max(6.0, 1.6 + 0.26 * len(ids)), 3.6)
    axes = bare(figure.add_subplot())
    axes.bar(range(len(ids)), orders, color=SHARE(np.array(orders) / model.order), width=0.8, edgecolor=LINE)
    for place, (order, count) in enumerate(zip(orders, counts, strict=True)):
        axes.text(
            place,
            order + 0.06,
            f"{count}" if order else "new",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=8,
        )
    axes.set_yticks(range(model.order + 1))
    axes.set_ylim(0, model.order + 1.1)
    axes.set_xlim(-0.8, len(ids) - 0.2)
    axes.set_ylabel("tokens of the longest known n-gram", color=INK)
    label_tokens(axes, tokens)
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
