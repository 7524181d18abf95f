"""Our kernels compute what PyTorch does, in every build of them, for every kind of decoder."""

from __future__ import annotations

import copy
import ctypes
import gc
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from malmoi.models import packed
from malmoi.models.build import build_model
from malmoi.models.config import DynamicRope, TransformerConfig
from malmoi.models.formats import GroupLayout, PackedRows
from malmoi.models.grouped import INT4, INT8
from malmoi.models.native import library
from malmoi.models.native.decoder import PIECE_TOKENS
from malmoi.models.native.linear import (
    GROUP,
    TILED_TOKENS,
    GroupPanels,
    GroupSource,
    NativeEmbedding,
    NativeLinear,
    Panels,
    values_of,
)
from malmoi.models.packed import pack, source_of
from malmoi.models.transformer import Transformer
from malmoi.util.hardware import cpu_flags
from tests.models.variants import SMALL, TRANSFORMERS, VOCAB

pytestmark = pytest.mark.skipif(
    library.kernels() is None, reason=f"our kernels are not used here: {library.why_not()}"
)

# and how far from fp32 logits may be, of their norm
PRECISIONS = {"fp32": 2e-5, "bf16": 0.08, "int8": 0.15, "int4": 0.8}
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


def model_of(config: TransformerConfig, precision: str = "fp32") -> tuple[Transformer, Transformer]:
    """A plain model in fp32, and the same one packed."""
    torch.manual_seed(0)
    plain = build_model(config).eval()
    for parameter in plain.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
        else:
            parameter.data.mul_(3)  # logits that differ
    model = copy.deepcopy(plain)
    if precision == "bf16":
        model.to(torch.bfloat16)
    pack(model, {"int8": INT8, "int4": INT4}.get(precision))
    assert isinstance(plain, Transformer)
    assert isinstance(model, Transformer)
    return plain, model


def reading(model: Transformer) -> list[Tensor]:
    """Logits at the real positions of ragged prompts, of a token after each, and of more text."""
    generator = torch.Generator().manual_seed(1)
    vocab = model.vocab_size
    ids_BT, counts_B = torch.randint(vocab, (4, 20), generator=generator), torch.tensor([7, 1, 20, 13])
    state, found = model.new_state(4, 3), []
    for counts in (counts_B, torch.ones(4, dtype=torch.int64), torch.tensor([2, 1, 1, 9])):
        length = int(counts.max())
        logits_BTV = model.step(ids_BT[:, :length], counts, state)
        found.append(logits_BTV[torch.arange(length) < counts[:, None]])
    last_B1V = model.step(ids_BT[:, :3], torch.tensor([3, 2, 1, 3]), state, last_only=True)
    assert state.lengths_B.tolist() == [13, 5, 23, 26]
    return [*found, last_B1V[:, 0]]


def assert_near(found: list[Tensor], wanted: list[Tensor], most: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert one.shape == other.shape
        off = (one - other).norm(dim=-1) / other.norm(dim=-1).mean()  # at every position
        assert float(off.max()) < most


@every_precision
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_fused_step_computes_what_the_blocks_do(name: str, precision: str) -> None:
    plain, model = model_of(TRANSFORMERS[name], precision)
    assert (model.fused is not None) == (name != "llama-longrope")
    assert_near(reading(model), reading(plain), PRECISIONS[precision])


@every_precision
@pytest.mark.parametrize("head_width", [1, 16, 30, 80, 128, 130])
@pytest.mark.parametrize("window", [None, 6])
def test_heads_of_every_width(head_width: int, window: int | None, precision: str) -> None:
    config = TransformerConfig(
        vocab_size=45, context=64, layers=2, width=33, heads=3, kv_heads=1, head_width=head_width,
        ff_width=37, window=window, position="learned" if head_width % 2 else "rotary",
    )  # fmt: skip
    plain, model = model_of(config, precision)
    assert_near(reading(model), reading(plain), PRECISIONS[precision])


@every_precision
@pytest.mark.parametrize("last_only", [True, False])
def test_a_row_is_the_same_to_the_bit_whatever_stands_beside_it(precision: str, last_only: bool) -> None:
    _, model = model_of(TRANSFORMERS["qwen3-window"], precision)
    ids_BT, counts_B = torch.randint(VOCAB, (19, 40)), torch.randint(1, 41, (19,))
    together, alone = model.new_state(19), [model.new_state(1) for _ in range(19)]
    for _ in range(3):
        found_BTV = model.step(ids_BT, counts_B, together, last_only=last_only)
        for row, state in enumerate(alone):
            count = int(counts_B[row])
            row_1TV = model.step(
                ids_BT[row : row + 1, :count], counts_B[row : row + 1], state, last_only=last_only
            )
            assert torch.equal(found_BTV[row : row + 1, :count], row_1TV)
        ids_BT, counts_B = ids_BT[:, :1], torch.ones(19, dtype=torch.int64)


@every_precision
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_tokens_are_verified_as_they_are_read_one_by_one(name: str, precision: str) -> None:
    """To the bit, with other rows beside them, and what is taken back leaves nothing behind."""
    _, model = model_of(TRANSFORMERS[name], precision)
    assert (model.most_verified > 0) == (model.fused is not None)
    if not model.most_verified:
        return
    ids_BT, counts_B = torch.randint(VOCAB, (4, 14)), torch.tensor([6, 1, 3, 4])
    state = model.new_state(4)
    model.step(ids_BT[:, :8], torch.tensor([8, 2, 5, 1]), state)
    model.verify(torch.randint(VOCAB, (4, 3)), torch.tensor([3, 1, 2, 3]), state)
    state.lengths_B = state.lengths_B - torch.tensor([3, 1, 2, 3])
    one_by_one = [state.select([row]) for row in range(4)]
    found_NV = model.verify(ids_BT[:, 8:], counts_B, state)
    assert state.lengths_B.tolist() == [14, 3, 8, 5]
    for row, (alone, some_TV) in enumerate(zip(one_by_one, found_NV.split(counts_B.tolist()), strict=True)):
        for id, logits_V in zip(ids_BT[row, 8:], some_TV, strict=False):
            assert torch.equal(model.step(id.view(1, 1), torch.tensor([1]), alone)[0, 0], logits_V)


@pytest.mark.parametrize("counts", [(503, 10), (490, 23), (511, 2, 2), (1, 511, 5), (700, 400)])
def test_where_a_call_ends_changes_no_row(counts: tuple[int, ...]) -> None:
    _, model = model_of(TRANSFORMERS["llama-gqa"].model_copy(update={"context": 800}))
    ids_BT, counts_B = torch.randint(VOCAB, (len(counts), max(counts))), torch.tensor(counts)
    found_B1V = model.step(ids_BT, counts_B, model.new_state(len(counts)), last_only=True)
    for row, count in enumerate(counts):
        one = slice(row, row + 1)
        row_B1V = model.step(ids_BT[one, :count], counts_B[one], model.new_state(1), last_only=True)
        assert count > PIECE_TOKENS or torch.equal(found_B1V[one], row_B1V)
        torch.testing.assert_close(found_B1V[one], row_B1V, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama-gqa", "mistral", "gemma2"])
def test_a_prompt_longer_than_a_call_takes(name: str) -> None:
    config = TRANSFORMERS[name].model_copy(update={"context": 4 * PIECE_TOKENS})
    plain, model = model_of(config)
    length = 2 * PIECE_TOKENS + 37
    ids_BT, counts_B = torch.randint(VOCAB, (2, length)), torch.tensor([length, 100])
    (wanted_BTV, state), (found_BTV, own) = (
        (it.step(ids_BT, counts_B, state), state) for it in (plain, model) for state in [it.new_state(2)]
    )
    assert_near([found_BTV[0], found_BTV[1, :100]], [wanted_BTV[0], wanted_BTV[1, :100]], 1e-4)
    one_B = torch.ones(2, dtype=torch.int64)
    assert_near([model.step(ids_BT[:, :1], one_B, own)], [plain.step(ids_BT[:, :1], one_B, state)], 1e-4)


@every_precision
def test_rows_that_read_nothing_stay_as_they_are(precision: str) -> None:
    _, model = model_of(SMALL, precision)
    ids_BT, state, other = torch.randint(VOCAB, (3, 5)), model.new_state(3), model.new_state(1)
    found_BTV = model.step(ids_BT, torch.tensor([0, 5, 0]), state)
    assert state.lengths_B.tolist() == [0, 5, 0]
    assert torch.equal(found_BTV[1:2], model.step(ids_BT[1:2], torch.tensor([5]), other))


def test_what_is_not_known_goes_block_by_block() -> None:
    plain, model = model_of(SMALL.model_copy(update={"rope": DynamicRope(factor=2.0)}))
    assert model.fused is None
    assert isinstance(model.head, NativeLinear)
    assert_near(reading(model)[:1], reading(plain)[:1], 2e-5)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 30), inputs=st.integers(1, 70), outputs=st.integers(1, 90), bias=st.booleans(),
    kind=st.sampled_from(["fp32", "bf16"]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_products_are_exact_for_what_the_matrix_holds(
    built: ctypes.CDLL, rows: int, inputs: int, outputs: int, bias: bool, kind: str, seed: int
) -> None:
    torch.manual_seed(seed)
    x_NI, matrix_OI = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    bias_O = torch.randn(outputs) if bias else None
    panels = Panels.of(built, matrix_OI if kind == "fp32" else matrix_OI.bfloat16())
    linear = NativeLinear([panels], bias_O)
    found_NO = linear(x_NI)
    assert_products_of_long_texts_are_near(linear, x_NI, bias_O)
    assert found_NO.shape == (rows, outputs)
    # where the processor has no products of bf16, a row stays in fp32
    as_read = [x_NI] if kind == "fp32" else [x_NI, x_NI.bfloat16().float()]
    wanted = [x.double() @ linear.weight.double().T + (0 if bias_O is None else bias_O) for x in as_read]
    assert any(torch.allclose(found_NO.double(), it, rtol=0, atol=1e-4) for it in wanted)
    assert torch.equal(panels.rows(torch.arange(outputs)), linear.weight)


def assert_products_of_long_texts_are_near(linear: NativeLinear, x_NI: Tensor, bias_O: Tensor | None) -> None:
    """Where they are in tiles, of numbers in bf16."""
    if not linear.panels[0].library.malmoi_has_tiles():
        return
    x_1TI = x_NI.repeat(1 + TILED_TOKENS // max(len(x_NI), 1), 1)[None]
    terms_TOI = x_1TI[0].double()[:, None] * linear.weight.double()
    wanted_TO = terms_TOI.sum(2) + (0 if bias_O is None else bias_O)
    apart_TO = (linear(x_1TI)[0] - wanted_TO).abs()
    assert bool((apart_TO <= 1e-4 + 2**-7 * terms_TOI.abs().sum(2)).all())


LAYOUTS = [
    GroupLayout(bits, size, has_least) for bits in (4, 8) for size in (16, 32) for has_least in (False, True)
]  # fmt: skip


def extremes(layout: GroupLayout, outputs: int, inputs: int) -> GroupSource:
    """A matrix whose numbers are any that the layout has; many are the largest and the smallest."""
    low = 0 if layout.has_least else -(2 ** (layout.bits - 1))
    high = low + 2**layout.bits - 1
    if layout.bits == 8:
        low, high = -128, 127
    numbers = (torch.randint(4 * low - high, 4 * high - low + 2, (outputs, inputs)) // 2).clamp(low, high)
    groups = -(-inputs // layout.size)
    scales = (0.5 + torch.rand(outputs, groups)).half().float()
    least = torch.randn(outputs, groups).half().float() if layout.has_least else None
    rows = PackedRows(numbers.to(torch.int8), scales, least)

    def read(part: slice) -> PackedRows:
        return PackedRows(rows.numbers_NW[part], scales[part], None if least is None else least[part])

    return GroupSource((outputs, inputs), layout, 4.0, read)


def values(layout: GroupLayout, rows: PackedRows) -> Tensor:
    width = rows.numbers_NW.shape[1]

    def wide(groups: Tensor) -> Tensor:
        return groups.repeat_interleave(layout.size, 1)[:, :width]

    assert rows.scales_NG is not None
    found = rows.numbers_NW * wide(rows.scales_NG)
    return found if rows.least_NG is None else found + wide(rows.least_NG)


def in_8_bits(x_NI: Tensor) -> Tensor:
    """As the kernels read them."""
    width = x_NI.shape[1]
    count = -(-width // GROUP)
    groups = functional.pad(x_NI, (0, count * GROUP - width)).view(len(x_NI), count, GROUP)
    steps = groups.abs().amax(2, keepdim=True) / 127
    return ((groups / steps.clamp(min=1e-30)).round() * steps).flatten(1)[:, :width]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 30), inputs=st.integers(1, 130), outputs=st.integers(1, 90), bias=st.booleans(),
    layout=st.sampled_from(LAYOUTS), seed=st.integers(0, 1000), all_largest=st.booleans(),
)  # fmt: skip
def test_products_in_groups_are_exact_for_what_the_matrix_holds(
    built: ctypes.CDLL, rows: int, inputs: int, outputs: int, bias: bool, layout: GroupLayout, seed: int,
    all_largest: bool,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    x_NI = torch.randn(rows, inputs)
    if all_largest:  # whose sums in 16 bits are the largest
        x_NI = x_NI.sign()
    bias_O = torch.randn(outputs) if bias else None
    source = extremes(layout, outputs, inputs)
    panels = GroupPanels.of(built, source)
    linear = NativeLinear([panels], bias_O)
    assert_products_of_long_texts_are_near(linear, x_NI, bias_O)
    found_NO, matrix_OI = linear(x_NI), values(layout, source.read(slice(None)))
    assert torch.equal(linear.weight, matrix_OI)
    assert torch.equal(panels.rows(torch.arange(outputs)), matrix_OI)
    terms_NOI = in_8_bits(x_NI).double()[:, None] * matrix_OI.double()
    wanted_NO = terms_NOI.sum(2) + (0 if bias_O is None else bias_O)
    # a value in the middle between two of 8 bits may go either way
    most_off = 1e-4 + 1e-5 * terms_NOI.abs().sum(2)
    apart = (found_NO - wanted_NO).abs()
    step_N1 = x_NI.abs().amax(1, keepdim=True) / 127 if rows else torch.zeros(0, 1)
    ties = float(matrix_OI.abs().max()) * step_N1
    assert bool((apart <= most_off + ties * 1.01).all())
    for row in range(rows):
        assert torch.equal(linear(x_NI[row : row + 1])[0], found_NO[row])


def test_a_matrix_of_several_formats(built: ctypes.CDLL) -> None:
    torch.manual_seed(0)
    x_NI, bias_O = torch.randn(9, 64), torch.randn(40 + 17 + 33)
    sources = [
        extremes(layout, outputs, 64) for layout, outputs in zip(LAYOUTS[1::2], (40, 17, 33), strict=False)
    ]
    linear = NativeLinear([GroupPanels.of(built, it) for it in sources], bias_O)
    weight = torch.cat([values(it.layout, it.read(slice(None))) for it in sources])
    assert torch.equal(linear.weight, weight)
    torch.testing.assert_close(linear(x_NI), in_8_bits(x_NI) @ weight.T + bias_O, rtol=1e-4, atol=2e-2)


def test_scales_of_any_size_are_kept() -> None:
    found = library.kernels()
    assert found is not None
    for size in (1e-12, 1e-3, 1e6):
        matrix = torch.randn(40, 64) * size * torch.logspace(-4, 0, 40)[:, None]
        kept = values_of(GroupPanels.of(found, source_of(matrix, INT8)))
        assert bool(((kept - matrix).norm(dim=1) < 0.01 * matrix.norm(dim=1)).all())
    nothing = values_of(GroupPanels.of(found, source_of(torch.zeros(3, 5), INT4)))
    assert torch.equal(nothing, torch.zeros(3, 5))


@every_precision
def test_every_build_computes_a_decoder(
    built: ctypes.CDLL, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "kernels", lambda: built)
    for name in ("llama-gqa", "gpt2", "gemma2", "qwen3-window"):
        plain, model = model_of(TRANSFORMERS[name], precision)
        assert model.fused is not None
        assert_near(reading(model), reading(plain), PRECISIONS[precision])


@every_precision
def test_a_matrix_that_two_modules_share_is_kept_once(precision: str) -> None:
    plain, model = model_of(TRANSFORMERS["gpt2"], precision)
    assert isinstance(model.embed, NativeEmbedding)
    assert isinstance(model.head, NativeLinear)
    assert (model.embed.panels,) == model.head.panels
    ids_BT = torch.tensor([[5, 7], [60, 0]])
    assert torch.equal(model.embed(ids_BT), model.head.weight[ids_BT])
    if precision == "fp32":
        assert torch.equal(model.head.weight, plain.head.weight)
    with pytest.raises(IndexError, match="outside the vocabulary"):
        model.embed(torch.tensor([VOCAB]))


def test_a_packed_model_is_gone_with_its_last_name() -> None:
    _, model = model_of(SMALL)
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_few_bits_keep_keys_and_values_in_16() -> None:
    for precision in PRECISIONS:
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        _, model = model_of(SMALL, precision)
        assert model.new_state(1, 4).rooms_LRKSC[0].dtype == dtype


@pytest.fixture
def found_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nothing is known of the kernels, and none are in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "_found", library._found.__wrapped__)
    return monkeypatch


def test_without_a_compiler_pytorch_answers(found_anew: pytest.MonkeyPatch) -> None:
    found_anew.setattr(library, "compiler", lambda: None)
    assert "apt install g++" in str(library.why_not())
    plain, model = model_of(SMALL)
    assert model.fused is None
    assert isinstance(model.head, nn.Linear)
    assert_near(reading(model), reading(plain), 2e-5)


def test_a_compiler_that_fails_is_reported(found_anew: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 1\n")
    broken.chmod(0o755)
    found_anew.setattr(library, "compiler", lambda: str(broken))
    assert str(library.why_not()) == f"{broken} cannot compile them: no such option"
    assert library.kernels() is None
    assert not list(tmp_path.rglob("*.so"))


def test_a_folder_that_cannot_be_written_is_reported(found_anew: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "malmoi").write_text("no folder")
    assert "they cannot be kept or loaded" in str(library.why_not())
    del found_anew


def test_they_can_be_switched_off(found_anew: pytest.MonkeyPatch) -> None:
    found_anew.setenv("MALMOI_KERNELS", "0")
    assert library.kernels() is None


def test_they_are_compiled_for_what_the_processor_may_use() -> None:
    found = library.kernels()
    assert found is not None
    assert found.malmoi_wide() == (32 if "avx512f" in cpu_flags() else 16)


def test_they_are_compiled_once(found_anew: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert library.kernels() is not None
    (made,) = tmp_path.rglob("*.so")
    found_anew.setattr(library.subprocess, "run", lambda *_, **__: pytest.fail("compiled twice"))
    assert library.kernels() is not None
    assert list(tmp_path.rglob("*.so")) == [made]
