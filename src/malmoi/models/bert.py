"""BERT's encoder (Devlin et al. 2019) and its family: RoBERTa, DistilBERT, XLM-RoBERTa.

What differs from `Encoder`: LayerNorm stands behind each addition, positions are a learned table, the two
parts of a pair carry a type, and GELU is exact. It plugs in where `Encoder` does, below the heads.

Shape letters: B rows, P pieces (sub-words with the model's own marks), T positions of the output: pieces, or
units of one piece or more; D width, F feed-forward width.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import NonNegativeInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from malmoi.core.config import StrictModel
from malmoi.models.attention import Attention, Sight
from malmoi.models.config import Dropout, Epsilon, Layers, Size, TransformerConfig, VocabSize


class BertConfig(StrictModel):
    """context: the most pieces of a row, marks included. types: 0: the model has no types.

    pad_id: the piece that fills rows up; text never produces it.
    """

    vocab_size: VocabSize
    context: Size
    layers: Layers
    width: Size
    heads: Size
    ff_width: Size
    types: NonNegativeInt = 0
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    norm_eps: Epsilon = 1e-12
    pad_id: NonNegativeInt = 0
    dropout: Dropout = 0.0  # on embeddings and residual branches, never inside attention

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.pad_id >= self.vocab_size:
            raise ValueError(f"pad_id {self.pad_id} is beyond the vocabulary of {self.vocab_size}")
        return self

    @property
    def attention(self) -> TransformerConfig:
        """The choices of its attention."""
        return TransformerConfig(
            vocab_size=self.vocab_size, context=self.context, layers=self.layers, width=self.width,
            heads=self.heads, norm="layer", position="learned", feed_forward="gelu", bias=True,
        )  # fmt: skip


class BertEncoder(nn.Module):
    """Embeddings with a LayerNorm, then blocks that look both ways."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.types = nn.Embedding(config.types, config.width) if config.types else None
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.blocks = nn.ModuleList(BertBlock(config) for _ in range(config.layers))
        self.features: nn.Embedding | None = None

    def add_features(self, count: int) -> None:
        """From now on a row may say one of `count` facts about each unit; at first they change nothing."""
        self.features = nn.Embedding(count, self.width)
        nn.init.zeros_(self.features.weight)

    def forward(
        self, ids_BP: Tensor, mask_BT: Tensor, first_BT1: Tensor | None = None,
        features_BT: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """x_BTD, meaningless at padding, which stands on the right.

        Without first_BT1 an output is a piece's (T = P). With it, it is a unit's: that of its first piece,
        which stands there. features_BT, 2 and more on the second side of a pair, say the pieces' types.
        """
        if first_BT1 is None:
            return self.hidden(self.embed(ids_BP), mask_BT)
        x_BPD, types_BP, first_BT = self.embed(ids_BP), None, first_BT1.squeeze(-1)
        if features_BT is not None:
            types_BP = _behind(first_BT, mask_BT & (features_BT >= 2), ids_BP.shape[1])
            x_BPD = self._with_features(x_BPD, first_BT, mask_BT, features_BT)
        x_BPD = self.hidden(x_BPD, ids_BP != self.config.pad_id, types_BP)
        return _taken(x_BPD, first_BT)

    def hidden(self, x_BPD: Tensor, mask_BP: Tensor, types_BP: Tensor | None = None) -> Tensor:
        """The last layer's x_BPD for embedded pieces. mask_BP: True where a piece is real."""
        length = x_BPD.shape[1]
        assert length <= self.config.context, f"{length} pieces, but the model reads {self.config.context}"
        x_BPD = x_BPD + self.positions.weight[:length]
        if self.types is not None:
            last = len(self.types.weight) - 1
            types_BP = torch.zeros_like(mask_BP) if types_BP is None else types_BP
            x_BPD = x_BPD + self.types(types_BP.long().clamp_max(last))
        x_BPD = self.dropout(self.norm(x_BPD))
        sight = Sight(mask_BP[:, None, None], None, slice(0, length), length, both_ways=True)
        for block in self.blocks:
            x_BPD = block(x_BPD, sight)
        return x_BPD

    def ends(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """x_BD of the last real position."""
        return x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), mask_BT.sum(1) - 1]

    def _with_features(self, x_BPD: Tensor, first_BT: Tensor, mask_BT: Tensor, features_BT: Tensor) -> Tensor:
        """x_BPD with each real unit's feature added to its first piece."""
        assert self.features is not None
        added_BTD = self.features(features_BT) * mask_BT[..., None]
        at_BTD = first_BT[..., None].expand_as(added_BTD)
        return x_BPD.scatter_add(1, at_BTD, added_BTD.to(x_BPD.dtype))


class BertBlock(nn.Module):
    """Attention, then a feed-forward network; each is added to its input and the sum normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config.attention)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.up = nn.Linear(config.width, config.ff_width)
        self.down = nn.Linear(config.ff_width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.activation = config.activation

    def forward(self, x_BPD: Tensor, sight: Sight) -> Tensor:
        x_BPD = self.attention_norm(x_BPD + self.dropout(self.attention(x_BPD, sight)))
        return self.norm(x_BPD + self.dropout(self.down(self._activated(self.up(x_BPD)))))

    def _activated(self, x_BPF: Tensor) -> Tensor:
        if self.activation == "relu":
            return functional.relu(x_BPF)
        return functional.gelu(x_BPF, approximate="tanh" if self.activation == "gelu_tanh" else "none")


def _behind(first_BT: Tensor, second_BT: Tensor, pieces: int) -> Tensor:
    """types_BP: 1 from the first piece of the second side on, 0 before it."""
    begins_B = first_BT.masked_fill(~second_BT, pieces).amin(1)
    return torch.arange(pieces, device=first_BT.device) >= begins_B[:, None]


def _taken(x_BPD: Tensor, first_BT: Tensor) -> Tensor:
    """x_BTD: the pieces at first_BT."""
    return x_BPD.gather(1, first_BT[..., None].expand(-1, -1, x_BPD.shape[-1]))
