"""Embeddings: a token's row of numbers, which rows are like it, and where they lie on a plane.

Shape letters: V vocabulary, D width, N rows.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional


def matrix_of(embed: nn.Module, size: int) -> Tensor:
    """weight_VD, whatever the precision that it is kept in."""
    weight_VD = embed.weight
    assert isinstance(weight_VD, Tensor)
    return weight_VD.detach()[:size].float().cpu()


def neighbours(
    weight_VD: Tensor, id: int, count: int, without: Collection[int] = ()
) -> list[tuple[int, float]]:
    """The ids whose rows point most nearly the same way as that of `id`, with the cosines."""
    cosines_V = functional.cosine_similarity(weight_VD, weight_VD[id : id + 1])
    cosines_V[[id, *without]] = float("-inf")
    found = cosines_V.topk(min(count, len(cosines_V)))
    pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [(other, cosine) for other, cosine in pairs if cosine > float("-inf")]


def plane(rows_ND: Tensor) -> tuple[Tensor, float]:
    """points_N2 on the plane of the two main directions (PCA, Pearson 1901), and its share of the variance.

    Each direction is turned so that its largest number is positive: a picture comes out the same again.
    """
    centred_ND = rows_ND - rows_ND.mean(0)
    _, sizes, directions = torch.linalg.svd(centred_ND, full_matrices=False)
    points_N2 = functional.pad(centred_ND @ directions[:2].mT, (0, 2 - len(directions[:2])))
    largest_2 = points_N2.gather(0, points_N2.abs().argmax(0, keepdim=True))
    share = float((sizes[:2] ** 2).sum() / (sizes**2).sum().clamp_min(1e-12))
    return points_N2 * torch.where(largest_2 < 0, -1.0, 1.0), share
