"""Linear-chain conditional random field (Lafferty et al. 2001): scores for whole rows of tags.

Shape letters: B rows, T positions, L tags, F = L + 1 what may stand before a tag (a tag, or the row's begin).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_FORBIDDEN = -1e4  # finite, so that no gradient is 0 times infinity


def bio_rules(tags: Sequence[str]) -> Tensor:
    """allowed_FL: I-X may follow B-X and I-X only, never begin a row. Tags are "O", "B-X", "I-X"."""
    before = [*tags, ""]
    return torch.tensor([[tag[:2] != "I-" or old[1:] == tag[1:] for tag in tags] for old in before])


class CRF(nn.Module):
    """A score for every pair of neighbours, for every first and for every last tag.

    allowed_FL: which tag may follow which; its last row says which may be first. Everything, if None.
    """

    def __init__(self, num_tags: int, allowed_FL: Tensor | None = None) -> None:
        super().__init__()
        self.neighbours_FL = nn.Parameter(torch.zeros(num_tags + 1, num_tags))
        self.last_L = nn.Parameter(torch.zeros(num_tags))
        if allowed_FL is None:
            allowed_FL = torch.ones(num_tags + 1, num_tags, dtype=torch.bool)
        self.register_buffer("penalty_FL", _FORBIDDEN * ~allowed_FL, persistent=False)

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """before_LL (from, to), first_L, last_L."""
        scores_FL = self.neighbours_FL + self.get_buffer("penalty_FL")
        return scores_FL[:-1], scores_FL[-1], self.last_L

    def log_likelihood(self, emissions_BTL: Tensor, tags_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """log p_B of each row's tags (fp32). Padding stands on the right; its tags are ignored."""
        tags_BT = tags_BT.where(mask_BT, 0)
        return self._score(emissions_BTL, tags_BT, mask_BT) - self._log_partition(emissions_BTL, mask_BT)

    def decode(self, emissions_BTL: Tensor, mask_BT: Tensor) -> list[list[int]]:
        """The best tags of each row (Viterbi 1967)."""
        before_LL, first_L, last_L = self.scores()
        best_BL, steps = first_L + emissions_BTL[:, 0], []
        for t in range(1, emissions_BTL.shape[1]):
            through_BL, from_BL = (best_BL[:, :, None] + before_LL).max(1)
            here_B1 = mask_BT[:, t, None]
            best_BL = torch.where(here_B1, through_BL + emissions_BTL[:, t], best_BL)
            steps.append(torch.where(here_B1, from_BL, torch.arange(len(last_L), device=from_BL.device)))
        tags = [(best_BL + last_L).argmax(1)]
        for from_BL in reversed(steps):
            tags.append(from_BL.gather(1, tags[-1][:, None])[:, 0])
        paths_BT = torch.stack(tags[::-1], dim=1).tolist()
        return [path[:length] for path, length in zip(paths_BT, mask_BT.sum(1).tolist(), strict=True)]

    def _score(self, emissions_BTL: Tensor, tags_BT: Tensor, mask_BT: Tensor) -> Tensor:
        before_LL, first_L, last_L = self.scores()
        emitted_BT = emissions_BTL.gather(2, tags_BT[..., None])[..., 0]
        moved_BT = before_LL[tags_BT[:, :-1], tags_BT[:, 1:]]
        ends_B = tags_BT.gather(1, mask_BT.sum(1, keepdim=True) - 1)[:, 0]
        inside_B = (emitted_BT * mask_BT).sum(1) + (moved_BT * mask_BT[:, 1:]).sum(1)
        return first_L[tags_BT[:, 0]] + inside_B + last_L[ends_B]

    def _log_partition(self, emissions_BTL: Tensor, mask_BT: Tensor) -> Tensor:
        """log of the summed scores of all rows of tags, by the forward algorithm."""
        before_LL, first_L, last_L = self.scores()
        alpha_BL = first_L + emissions_BTL[:, 0]
        for emissions_BL, here_B in zip(emissions_BTL.unbind(1)[1:], mask_BT.unbind(1)[1:], strict=True):
            next_BL = torch.logsumexp(alpha_BL[:, :, None] + before_LL, dim=1) + emissions_BL
            alpha_BL = torch.where(here_B[:, None], next_BL, alpha_BL)
        return torch.logsumexp(alpha_BL + last_L, dim=1)
