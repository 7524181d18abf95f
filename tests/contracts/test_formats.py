"""What holds of every weight format: it packs, multiplies as the plain product nearly does, and unpacks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from malmoi.models import packed
from malmoi.models.formats import DTYPES, QUANTIZED, WeightFormat, find_format
from malmoi.models.native.linear import GroupPanels, NativeLinear
from malmoi.models.packed import pack

FORMATS = [*map(find_format, DTYPES), *(find_format(quantize=name) for name in QUANTIZED)]
every_format = pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)


class Tied(nn.Module):
    """An embedding with its output matrix, another embedding, and a matrix with a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.places = nn.Embedding(70, 96), nn.Embedding(9, 96)
        self.head, self.other = nn.Linear(96, 70, bias=False), nn.Linear(96, 33)
        self.head.weight = self.embed.weight


@pytest.fixture(params=["with our kernels", "without"])
def _kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setattr(packed, "kernels", lambda: None)
    elif packed.kernels() is None:
        pytest.skip("our kernels are not used here")


@pytest.fixture
def plain() -> Tied:
    return Tied()


def packed_as(format: WeightFormat, plain: Tied) -> Tied:
    model = copy.deepcopy(plain).to(format.dtype)
    pack(model, format)
    return model


@every_format
@pytest.mark.usefixtures("_kernels")
@pytest.mark.parametrize("rows", [1, 5, 40])
@torch.inference_mode()
def test_it_multiplies_as_the_plain_product(format: WeightFormat, rows: int, plain: Tied) -> None:
    model, x = packed_as(format, plain), torch.randn(rows, 96)
    for found, wanted in ((model.head, plain.head), (model.other, plain.other)):
        y = found(x.to(format.dtype))
        assert y.dtype == format.dtype
        assert float((y.float() - wanted(x)).norm() / wanted(x).norm()) < format.error
        nothing = found(torch.zeros(1, 96, dtype=format.dtype))[0].float()
        bias = torch.zeros(70) if wanted.bias is None else wanted.bias
        torch.testing.assert_close(nothing, bias, rtol=format.error, atol=format.error)


@every_format
@pytest.mark.usefixtures("_kernels")
def test_it_unpacks_and_looks_up_rows(format: WeightFormat, plain: Tied) -> None:
    model, ids = packed_as(format, plain), torch.tensor([[5, 0, 8], [2, 5, 1]])
    for name in ("embed", "places", "head", "other"):
        weight, exact = getattr(model, name).weight, getattr(plain, name).weight
        assert weight.shape == exact.shape
        assert float((weight.float() - exact).norm() / exact.norm()) < format.error
    for embedding in (model.embed, model.places):
        assert torch.equal(embedding(ids), embedding.weight[ids])
    assert torch.equal(model.embed.weight, model.head.weight)


@every_format
def test_it_takes_the_memory_of_its_numbers(format: WeightFormat, plain: Tied) -> None:
    if packed.kernels() is None:
        pytest.skip("our kernels are not used here")
    plain.head = nn.Linear(96, 64, bias=False)
    head = packed_as(format, plain).head
    numbers, groups = 64 * 96, format.groups
    if groups is None:
        assert head.weight.nbytes == numbers * format.dtype.itemsize
        return
    assert isinstance(head, NativeLinear)
    (panels,) = head.panels
    assert isinstance(panels, GroupPanels)
    in_fp16 = (1 + groups.has_least) * numbers // groups.size
    assert panels.panels_PGB.nbytes == numbers * groups.bits // 8 + 2 * in_fp16


def test_names_are_those_of_the_table() -> None:
    assert [format.name for format in FORMATS] == [*DTYPES, *QUANTIZED]
