from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from malmoi.inside.tokens import matrix_of, neighbours, plane
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.formats import find_format
from malmoi.models.packed import pack


def test_the_matrix_is_what_the_embedding_looks_up() -> None:
    embed = nn.Embedding(7, 4)
    assert torch.equal(matrix_of(embed, 7), embed.weight.detach())


def test_neighbours_point_the_same_way() -> None:
    weight_VD = torch.tensor([[1.0, 0.0], [5.0, 0.1], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0]])
    assert [id for id, _ in neighbours(weight_VD, 0, 3)] == [1, 4, 2]
    assert [id for id, _ in neighbours(weight_VD, 0, 9, without={1, 2})] == [4, 3]
    assert abs(neighbours(weight_VD, 0, 9)[-1][1] + 1) < 1e-6


def test_the_plane_is_that_of_sklearn() -> None:
    rows_ND = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points_N2, share = plane(rows_ND)
    reference = PCA(2).fit(rows_ND.numpy())
    wanted = np.abs(reference.transform(rows_ND.numpy()))
    np.testing.assert_allclose(points_N2.abs().numpy(), wanted, atol=1e-8)
    np.testing.assert_allclose(share, reference.explained_variance_ratio_.sum(), atol=1e-8)


def test_a_plane_of_one_row_or_column() -> None:
    assert plane(torch.ones(1, 5))[0].tolist() == [[0.0, 0.0]]
    assert plane(torch.tensor([[1.0], [3.0]]))[0].shape == (2, 2)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_the_matrix_of_a_packed_model(quantize: str | None) -> None:
    config = TransformerConfig(vocab_size=9, context=8, layers=1, width=8, heads=2, tied=True)
    model = build_model(config)
    exact = model.embed.weight.detach().clone()
    pack(model, find_format(quantize=quantize))
    torch.testing.assert_close(matrix_of(model.embed, 7), exact[:7], rtol=0, atol=0.001 if quantize else 0)
