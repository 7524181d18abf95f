"""Encoders: every position of a text as a vector that knows both sides, by attention or by recurrence.

Shape letters: B rows, T positions, D width, E half of it, C characters of a unit, N real units of all rows,
W width of character vectors.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from malmoi.models.attention import Sight
from malmoi.models.blocks import make_norm
from malmoi.models.cells import cell_named
from malmoi.models.config import ReaderConfig
from malmoi.models.rope import Rotary
from malmoi.models.transformer import Block, initialise


class EncoderConfig(ReaderConfig):
    """An encoder. chars: how many different characters there are; 0: units are not spelled out."""

    chars: NonNegativeInt = 0
    char_width: PositiveInt = 32


class Encoder(nn.Module):
    """Embedding (and spelling), then Transformer blocks or bidirectional recurrent layers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.layers = (BlockStack if config.family == "transformer" else CellStack)(config)
        nn.init.normal_(self.embed.weight, std=self.layers.embedding_std)
        self.spelling = Spelling(config) if config.chars else None
        self.features: nn.Embedding | None = None

    def add_features(self, count: int) -> None:
        """From now on a row may say one of `count` facts about each unit (see features_BT)."""
        self.features = nn.Embedding(count, self.width)
        nn.init.normal_(self.features.weight, std=self.layers.embedding_std)

    def forward(
        self, ids_BT: Tensor, mask_BT: Tensor,
        chars_BTC: Tensor | None = None, features_BT: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """x_BTD, meaningless at padding. mask_BT: True where a unit is real; padding stands on the right.

        chars_BTC: each unit's characters, 0 being padding, where the config counts any. features_BT: embedded
        and added, where the encoder has features.
        """
        assert bool(mask_BT[:, 0].all()), "a row has at least one unit, padding stands on the right"
        x_BTD = self.embed(ids_BT)
        if self.spelling is not None:
            assert chars_BTC is not None
            x_BTD = self.spelling(x_BTD, mask_BT, chars_BTC)
        if self.features is not None:
            assert features_BT is not None
            x_BTD = x_BTD + self.features(features_BT)
        return self.layers(self.dropout(x_BTD), mask_BT)

    def ends(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """x_BD where reading ended: the last real position, for a backward direction the first one."""
        rows_B = torch.arange(len(x_BTD), device=x_BTD.device)
        last_BD = x_BTD[rows_B, mask_BT.sum(1) - 1]
        if self.config.family == "transformer":
            return last_BD
        half = self.width // 2
        return torch.cat((last_BD[:, :half], x_BTD[:, 0, half:]), dim=-1)


class Spelling(nn.Module):
    """Adds what a unit's characters say: a convolution over them, the largest value of each filter.

    After dos Santos & Zadrozny (2014) and Ma & Hovy (2016).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.chars, config.char_width, padding_idx=0)
        self.filters = nn.Conv1d(config.char_width, config.char_width, kernel_size=3, padding=1)
        self.mix = nn.Linear(config.width + config.char_width, config.width)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor, chars_BTC: Tensor) -> Tensor:
        chars_NC = chars_BTC[mask_BT]
        found_NWC = self.filters(self.embed(chars_NC).mT).relu()
        found_NW = found_NWC.masked_fill((chars_NC == 0)[:, None], 0).amax(-1)
        spelled_BTW = found_NW.new_zeros(*mask_BT.shape, found_NW.shape[1])
        spelled_BTW[mask_BT] = found_NW
        return self.mix(torch.cat((x_BTD, spelled_BTW.to(x_BTD.dtype)), dim=-1))


class BlockStack(nn.Module):
    """The decoder's blocks, each position looking at all real ones."""

    embedding_std = 0.02

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        blocks = config.blocks
        self.rotary = Rotary(blocks.size_of_head, blocks.rope_theta, blocks.context)
        self.blocks = nn.ModuleList(Block(blocks) for _ in range(blocks.layers))
        self.norm = make_norm(blocks, blocks.width)
        initialise(self, blocks.layers)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        length = x_BTD.shape[1]
        everywhere = slice(0, length)
        tables = self.rotary.tables(everywhere, length)
        sight = Sight(mask_BT[:, None, None], tables, everywhere, length, both_ways=True)
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, sight, None, layer)
        return self.norm(x_BTD)


class CellStack(nn.Module):
    """Bidirectional recurrent layers (Schuster & Paliwal 1997); each direction gives half of the width.

    Rows are never packed: fused kernels take padded rows only. Padding on the right cannot reach earlier
    positions, and the other direction reads each row's real part turned round.
    """

    embedding_std = 0.1  # nothing normalises the input of the first layer

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        cell, (width, half) = cell_named(config.family), (config.width, config.width // 2)
        self.forwards = nn.ModuleList(cell.stack(width, half) for _ in range(config.layers))
        self.backwards = nn.ModuleList(cell.stack(width, half) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        turned_N = turned_round(mask_BT)
        for forwards, backwards in zip(self.forwards, self.backwards, strict=True):
            left_BTE = forwards(x_BTD)[0]
            right_BTE = taken(backwards(taken(x_BTD, turned_N))[0], turned_N)
            x_BTD = self.dropout(torch.cat((left_BTE, right_BTE), dim=-1))
        return x_BTD


def turned_round(mask_BT: Tensor) -> Tensor:
    """Indices into the flattened positions that turn each row's real part round; their own inverse."""
    (rows, length), device = mask_BT.shape, mask_BT.device
    here_T, lengths_B1 = torch.arange(length, device=device), mask_BT.sum(1, keepdim=True)
    there_BT = torch.where(here_T < lengths_B1, lengths_B1 - 1 - here_T, here_T)
    return (there_BT + length * torch.arange(rows, device=device)[:, None]).flatten()


def taken(x_BTD: Tensor, index_N: Tensor) -> Tensor:
    """x_BTD with its flattened positions in another order."""
    return x_BTD.flatten(0, 1).index_select(0, index_N).view(x_BTD.shape)
