"""The neural refinement of a Scorer: what the trainer and the hub ask of a model.

Shape letters: B rows, T positions, D width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from malmoi.core.tensors import TokenBatch
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.frozen import FewBits, FrozenEmbedding
from malmoi.models.state import State, last_positions


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """cap tanh(logits / cap), or the logits where there is no cap: Gemma 2."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


class LanguageModel(nn.Module, ABC):
    """Token ids to hidden vectors to next-token logits."""

    config: TransformerConfig | RecurrentConfig
    embed: nn.Embedding
    head: nn.Linear  # without bias; shares its weight with `embed` where the config says tied
    softcap: float | None = None  # logits s become cap tanh(s / cap)

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def context(self) -> int | None:
        return self.config.context

    def extend(self, context: int) -> None:
        """Make it read rows of `context` tokens where it reads shorter ones; here any are read."""
        del context

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device  # of a packed model, too, whose matrices are no parameters

    @property
    def dtype(self) -> torch.dtype:
        """Of what it computes with, whatever frozen matrices are held in."""
        if isinstance(self.embed, FrozenEmbedding):
            return torch.float32
        return next(self.parameters()).dtype

    @abstractmethod
    def hidden(self, batch: TokenBatch, state: State | None = None) -> Tensor:
        """x_BTD, ready for `logits`. With a state, the batch continues it (lengths are not advanced here)."""

    @abstractmethod
    def new_state(self, rows: int, capacity: int = 0) -> State: ...

    @abstractmethod
    def flops_per_token(self, context: int) -> float:
        """Floating-point operations of one forward and backward pass per token (6 N + attention)."""

    def logits(self, x_BTD: Tensor) -> Tensor:
        """logits_BTV in fp32."""
        return capped(self.head(x_BTD).float(), self.softcap)

    @torch.inference_mode()
    def step(self, ids_BT: Tensor, counts_B: Tensor, state: State, *, last_only: bool = False) -> Tensor:
        """See `Scorer.step`."""
        x_BTD = self._read(ids_BT.to(self.device), counts_B, state)
        state.lengths_B += counts_B.cpu()
        return self.logits(last_positions(x_BTD, counts_B) if last_only else x_BTD)

    def _read(self, ids_BT: Tensor, counts_B: Tensor, state: State) -> Tensor:
        del counts_B  # causal attention never looks at the padding to the right
        return self.hidden(TokenBatch(ids_BT), state)

    def num_parameters(self, *, embeddings: bool = True) -> int:
        """Numbers, counting a shared matrix once; without embeddings, what multiplies in a pass."""
        total = sum(parameter.numel() for parameter in self.parameters())
        total += sum(module.numel for module in self.modules() if isinstance(module, FewBits))
        if embeddings:
            return total
        lookups = [m for m in self.modules() if isinstance(m, nn.Embedding)]
        if self.config.tied:
            lookups.remove(self.embed)
        return total - sum(m.num_embeddings * m.embedding_dim for m in lookups)
