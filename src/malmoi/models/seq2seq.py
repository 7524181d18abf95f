"""Encoder-decoders: a source is read once, then a target is written token by token.

Shape letters: B rows, S source positions, T target positions, N trained ones, D width, V vocabulary, P parts
of a recurrent state, L layers, J keys and values of all heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from malmoi.core.tensors import IGNORE, Loss, TokenBatch
from malmoi.models.attention import CrossAttention, Memory, Sight, attend_all
from malmoi.models.blocks import make_norm
from malmoi.models.config import ReaderConfig, RecurrentConfig, TransformerConfig
from malmoi.models.encoder import Encoder, EncoderConfig
from malmoi.models.output import Copier, mean_log_probabilities, target_log_probabilities
from malmoi.models.recurrent import Recurrent
from malmoi.models.state import KVState, RecurrentState, last_positions
from malmoi.models.transformer import Block, Transformer


class Seq2SeqConfig(ReaderConfig):
    """An encoder-decoder with one vocabulary. copying (given as `copy`): it may point at source tokens."""

    copying: bool = Field(False, alias="copy")  # pydantic's models have a method `copy`


class Seq2SeqBatch(NamedTuple):
    """Pairs of rows, padded on the right; mask_BS is True where the source is real.

    target_ids_BT begins with the id that begins a target; targets_BT is one ahead of it and ends with the id
    that ends one, padded with IGNORE.
    """

    source_BS: Tensor
    source_mask_BS: Tensor
    target_ids_BT: Tensor
    targets_BT: Tensor


@dataclass(slots=True)
class Seq2SeqState:
    """Encoded sources and what the decoder remembers; see `malmoi.models.state:State`.

    origin_B: which source each row has. Sources are never written to, so beams that change places within a
    source share them as they are.
    """

    memory: Memory
    decoder: KVState | RecurrentState
    origin_B: Tensor

    @property
    def lengths_B(self) -> Tensor:
        return self.decoder.lengths_B

    @property
    def nbytes(self) -> int:
        return self.decoder.nbytes + sum(part.nbytes for part in self.memory.parts)

    def select(self, rows: Sequence[int]) -> Seq2SeqState:
        index = torch.as_tensor(rows, dtype=torch.int64)
        memory, origin_B = self.memory, self.origin_B[index]
        if not torch.equal(origin_B, self.origin_B):
            memory = Memory.of([part[index.to(part.device)] for part in memory.parts])
        return Seq2SeqState(memory, self.decoder.select(rows), origin_B)

    def join(self, others: Sequence[Seq2SeqState]) -> Seq2SeqState:
        states = [self, *others]
        longest = max(state.memory.ids_BS.shape[1] for state in states)
        padded = [[_lengthened(part, longest) for part in state.memory.parts] for state in states]
        memory = Memory.of([torch.cat(parts) for parts in zip(*padded, strict=True)])
        decoder = self.decoder.join([state.decoder for state in others])  # pyright: ignore[reportArgumentType]
        return Seq2SeqState(memory, decoder, torch.arange(len(memory.ids_BS)))

    def snapshot(self) -> Seq2SeqState:
        return Seq2SeqState(self.memory, self.decoder.snapshot(), self.origin_B)


def _lengthened(part_BS: Tensor, length: int) -> Tensor:
    """The same rows with zeros (in a mask: padding) up to `length` source positions."""
    rows, old_length, *rest = part_BS.shape
    return torch.cat((part_BS, part_BS.new_zeros(rows, length - old_length, *rest)), dim=1)


class CrossBlock(Block):
    """A decoder's block with attention to the source between attention and feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.cross_norm = make_norm(config, config.width)
        self.cross_attention = CrossAttention(config)

    def forward(self, x_BTD: Tensor, sight: Sight, state: KVState | None, layer: int) -> Tensor:
        assert sight.memory is not None
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), sight, state, layer))
        x_BTD = x_BTD + self.dropout(self.cross_attention(self.cross_norm(x_BTD), sight.memory, layer))
        return x_BTD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BTD)))


class TransformerDecoder(Transformer):
    """The decoder of "Attention Is All You Need" (Vaswani et al. 2017), pre-norm."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config.blocks, CrossBlock)

    def remember(self, memory: Memory) -> Memory:
        """With the keys and values of every layer."""
        crossings = (block.cross_attention for block in self.blocks if isinstance(block, CrossBlock))
        return Memory.of([*memory.parts, *(crossing.kv(memory.encoded_BSD) for crossing in crossings)])

    def begin(self, memory: Memory, ends_BD: Tensor) -> KVState:
        """The state before the first token."""
        del ends_BD  # attention sees all of the source
        return self.new_state(len(memory.ids_BS))

    def write(
        self, ids_BT: Tensor, memory: Memory, state: KVState | None = None, counts_B: Tensor | None = None
    ) -> Tensor:
        """x_BTD of the whole target, or of tokens that continue `state`."""
        del counts_B  # causal attention never looks at the padding to the right
        return self.hidden(TokenBatch(ids_BT), state, memory)


class RecurrentDecoder(Recurrent):
    """A recurrent decoder with attention to the source (Luong et al. 2015, the general score).

    Attention follows the recurrence and is not fed back, so that a whole target is one call of a kernel.
    """

    def __init__(self, config: ReaderConfig) -> None:
        assert config.family != "transformer"
        super().__init__(
            RecurrentConfig(
                family=config.family, vocab_size=config.vocab_size, layers=config.layers, width=config.width,
                dropout=config.dropout,
            )
        )  # fmt: skip
        self.num_parts = self.cell.num_parts
        self.bridge = nn.Linear(config.width, self.num_parts * config.layers * config.width)
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.mix = nn.Linear(2 * config.width, config.width, bias=False)
        nn.init.normal_(self.embed.weight, std=0.1)  # nothing normalises the input of the first layer

    def remember(self, memory: Memory) -> Memory:
        """As it is: the encoded source serves as keys and values."""
        return memory

    def begin(self, memory: Memory, ends_BD: Tensor) -> RecurrentState:
        """The state before the first token, from where the encoder's reading ended."""
        width = self.config.width
        parts_PLBD = self.bridge(ends_BD).tanh().float().unflatten(-1, (self.num_parts, -1, width))
        parts_PLBD = parts_PLBD.permute(1, 2, 0, 3).contiguous()
        return RecurrentState(parts_PLBD.unbind(0), torch.zeros(len(memory.ids_BS), dtype=torch.int64))

    def write(
        self, ids_BT: Tensor, memory: Memory, state: RecurrentState, counts_B: Tensor | None = None
    ) -> Tensor:
        """x_BTD of tokens that continue `state`; counts_B: how many of each row's are real."""
        if counts_B is None:
            read_BTD = self.hidden(TokenBatch(ids_BT), state)
        else:
            read_BTD = self._read(ids_BT, counts_B, state)
        q_B1TD = self.query(read_BTD)[:, None]
        keys_B1SD = memory.encoded_BSD[:, None].to(q_B1TD.dtype)
        found_BTD = attend_all(q_B1TD, keys_B1SD, keys_B1SD, memory.mask_BS[:, None, None], 1.0)[:, 0]
        return self.dropout(self.mix(torch.cat((found_BTD, read_BTD.to(found_BTD.dtype)), dim=-1)).tanh())


class Seq2Seq(nn.Module):
    """Reads a source, writes a target. One matrix embeds the source and the target and is the output."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(EncoderConfig(**config.model_dump(exclude={"copying"})))
        is_transformer = config.family == "transformer"
        self.decoder = TransformerDecoder(config) if is_transformer else RecurrentDecoder(config)
        self.encoder.embed = self.decoder.embed
        self.copier = Copier(config.width) if config.copying else None

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def context(self) -> None:
        """There is no longest target: rotary positions and recurrent states go on."""
        return None

    def loss(self, batch: Seq2SeqBatch, label_smoothing: float = 0.0) -> Loss:
        """Cross-entropy (nats) of the targets under teacher forcing.

        label_smoothing: this much of a target is spread over the vocabulary (Szegedy et al. 2016).
        """
        memory, ends_BD = self._remember(batch.source_BS, batch.source_mask_BS)
        x_BTD = self._written(batch.target_ids_BT, memory, ends_BD)
        trained_BT = batch.targets_BT != IGNORE
        x_ND, targets_N, weight_VD = x_BTD[trained_BT], batch.targets_BT[trained_BT], self.decoder.head.weight
        said_N = target_log_probabilities(x_ND, weight_VD, targets_N)
        logp_N = said_N
        if self.copier is not None:
            said_BT = torch.zeros(trained_BT.shape, device=said_N.device).masked_scatter(trained_BT, said_N)
            logp_BT = self.copier.target_log_probabilities(x_BTD, memory, batch.targets_BT, said_BT)
            logp_N = logp_BT[trained_BT]
        if label_smoothing:
            spread_N = mean_log_probabilities(x_ND, weight_VD, targets_N, said_N)
            logp_N = logp_N.lerp(spread_N, label_smoothing)
        return Loss(-logp_N.sum(), len(targets_N))

    @torch.inference_mode()
    def encode(self, source_BS: Tensor, source_mask_BS: Tensor) -> Seq2SeqState:
        """A state in which the sources are read and no target token is."""
        device = self.decoder.device
        memory, ends_BD = self._remember(source_BS.to(device), source_mask_BS.to(device))
        return Seq2SeqState(memory, self.decoder.begin(memory, ends_BD), torch.arange(len(source_BS)))

    @torch.inference_mode()
    def step(
        self, ids_BT: Tensor, counts_B: Tensor, state: Seq2SeqState, *, last_only: bool = False
    ) -> Tensor:
        """See `Scorer.step`. With copying, the logits are log-probabilities."""
        decoder, ids_BT = self.decoder, ids_BT.to(self.decoder.device)
        x_BTD = decoder.write(ids_BT, state.memory, state.decoder, counts_B)  # pyright: ignore[reportArgumentType]
        state.decoder.lengths_B += counts_B.cpu()
        x_BTD = last_positions(x_BTD, counts_B) if last_only else x_BTD
        logits_BTV = decoder.logits(x_BTD)
        if self.copier is None:
            return logits_BTV
        return self.copier.log_probabilities(x_BTD, state.memory, logits_BTV)

    def _remember(self, source_BS: Tensor, mask_BS: Tensor) -> tuple[Memory, Tensor]:
        encoded_BSD = self.encoder(source_BS, mask_BS)
        memory = self.decoder.remember(Memory(source_BS, mask_BS, encoded_BSD))
        return memory, self.encoder.ends(encoded_BSD, mask_BS)

    def _written(self, ids_BT: Tensor, memory: Memory, ends_BD: Tensor) -> Tensor:
        if isinstance(self.decoder, TransformerDecoder):
            return self.decoder.write(ids_BT, memory)  # all at once, without a cache
        return self.decoder.write(ids_BT, memory, self.decoder.begin(memory, ends_BD))
