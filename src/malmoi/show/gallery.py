"""Every picture that fits a model: what happens to a text inside of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatchmethod

import torch
from torch import nn

from malmoi.core.tensors import TokenBatch
from malmoi.engine.loaded import Loaded
from malmoi.inside.attention import Attended, Carried, record
from malmoi.inside.gates import trace
from malmoi.inside.sources import BagOfWords, Inspectable, Network, NextTokenModel, ReadText, Source
from malmoi.inside.tokens import matrix_of, predictions
from malmoi.models.language import LanguageModel
from malmoi.models.ngram import KneserNey
from malmoi.show.draw_networks import (
    chosen,
    draw_alignment,
    draw_attention_grid,
    draw_attention_head,
    draw_gates,
)
from malmoi.show.draw_tokens import (
    check_tokens,
    draw_embedding,
    draw_losses,
    draw_map,
    draw_neighbours,
    draw_next,
    draw_orders,
    draw_tokens,
    draw_words,
)
from malmoi.show.picture import Picture, drawing, write_pictures
from malmoi.text.tokenizer import Tokenizer

__all__ = ["Picture", "pictures_of", "write_pictures"]

MOST_TOKENS = 40  # of a row; more cannot be read
SHOWN_NEIGHBOURS = 4  # tokens


def pictures_of(
    model: Loaded | Inspectable, text: str, *, layer: int | None = None, head: int | None = None
) -> list[Picture]:
    """Pictures of what happens to `text` in a language model or a fitted method, in an order to read them in.

    layer, head: which one to draw large, counted from 1; None: one that shows something. `layer` also chooses
    that of a recurrent network. Raises UserError for a text without words, a layer or head out of range.
    """
    check_tokens(text.split())
    if isinstance(model, Loaded):
        tokenizer = model.tokenizer
        sources: Sequence[Source] = (ReadText(text, tokenizer), NextTokenModel(model.model, tokenizer, text))
    else:
        sources = model.insides(text)
    with drawing():
        artist = _Artist(layer, head)
        return [picture for source in sources for picture in artist.draw(source)]


@dataclass(frozen=True, slots=True)
class _Artist:
    """What was asked for: layer and head, counted from 1."""

    layer: int | None
    head: int | None

    @singledispatchmethod
    def draw(self, source: Source) -> Iterator[Picture]:
        """The pictures that fit a source."""
        raise NotImplementedError(source)

    @draw.register
    def _(self, source: ReadText) -> Iterator[Picture]:
        yield draw_tokens(source.text, source.tokenizer)

    @draw.register
    def _(self, source: BagOfWords) -> Iterator[Picture]:
        yield draw_words(source)

    @draw.register
    def _(self, source: NextTokenModel) -> Iterator[Picture]:
        model, tokenizer = source.model, source.tokenizer
        ids = tokenizer.encode(source.text)
        check_tokens(ids)
        most = min(MOST_TOKENS, model.context or MOST_TOKENS)
        note, ids = _left_out(len(ids), most), ids[:most]
        tokens = [tokenizer.token_text(id) for id in ids]
        if isinstance(model, LanguageModel):
            yield from _embeddings(model.embed, tokenizer, ids)
        if isinstance(model, KneserNey):
            yield draw_orders(model, ids, tokens, note)
        found = predictions(model, tokenizer, ids)
        yield draw_losses(found, note)
        yield draw_next(found, note)
        if isinstance(model, LanguageModel):
            row = torch.tensor([ids], device=model.device)
            yield from self.draw(Network(model, lambda: model.hidden(TokenBatch(row)), tuple(tokens)))

    @draw.register
    def _(self, source: Network) -> Iterator[Picture]:
        recording = record(source.model, source.read)
        for part in dict.fromkeys(one.part for one in recording.attended if one.kind == "self"):
            layers = [one for one in recording.attended if (one.part, one.kind) == (part, "self")]
            yield from self._attention(layers, source)
        cross = [one for one in recording.attended if one.kind == "cross"]
        if cross:
            yield self._alignment(cross, source)
        for part in dict.fromkeys(one.part for one in recording.carried):
            yield self._gates([one for one in recording.carried if one.part == part], source)

    def _attention(self, layers: Sequence[Attended], source: Network) -> Iterator[Picture]:
        part = layers[0].part
        tokens = source.target if part == "decoder" else source.source
        note, tokens = _left_out(len(tokens), MOST_TOKENS), tokens[:MOST_TOKENS]
        weights = [one.weights_HTS[:, : len(tokens), : len(tokens)].cpu() for one in layers]
        yield draw_attention_grid(weights, part, note)
        layer = chosen(len(weights), self.layer, "layer")
        head = chosen(len(weights[layer or 0]), self.head, "head")
        yield draw_attention_head(weights, tokens, tokens, part, layer, head, note)

    def _alignment(self, layers: Sequence[Attended], source: Network) -> Picture:
        source_tokens, target_tokens = source.source[:MOST_TOKENS], source.target[:MOST_TOKENS]
        note = _left_out(max(len(source.source), len(source.target)), MOST_TOKENS)
        weights = [one.weights_HTS[:, : len(target_tokens), : len(source_tokens)].cpu() for one in layers]
        one_head = len(weights[0]) == 1
        layer = None if len(weights) == 1 else chosen(len(weights), self.layer, "layer")
        head = None if one_head else chosen(len(weights[0]), self.head, "head")
        return draw_alignment(weights, source_tokens, target_tokens, layer, head, note)

    def _gates(self, calls: Sequence[Carried], source: Network) -> Picture:
        """Of one layer: of several calls (one a layer), or of one call of cells with several layers."""
        part, stacked = calls[0].part, len(calls) == 1
        count = calls[0].cells.num_layers if stacked else len(calls)
        layer = chosen(count, self.layer, "layer")
        layer = count - 1 if layer is None else layer
        call = calls[0] if stacked else calls[layer]
        found = trace(call.cells, call.x_TD, call.state, layer if stacked else 0)
        tokens = source.target if part.startswith("decoder") else source.source
        if part.endswith("backwards"):
            found = found.turned()
        note = _left_out(len(tokens), MOST_TOKENS)
        return draw_gates(found.first(MOST_TOKENS), tokens[:MOST_TOKENS], part, layer, note)


def _embeddings(embed: nn.Module, tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[Picture]:
    weight_VD = matrix_of(embed, tokenizer.vocab_size)
    telling = _telling(tokenizer, ids)
    yield draw_embedding(weight_VD, tokenizer, telling[0], ids)
    yield draw_neighbours(weight_VD, tokenizer, telling[:SHOWN_NEIGHBOURS])
    yield draw_map(weight_VD, tokenizer, ids)


def _telling(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The text's tokens, those that say most (the longest pieces) first."""
    return sorted(dict.fromkeys(ids), key=lambda id: -len(tokenizer.token_bytes(id).strip()))


def _left_out(count: int, most: int) -> str:
    return f" (The first {most} of {count} tokens.)" if count > most else ""
