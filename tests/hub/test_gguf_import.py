"""GGUF files opened: what was exported comes back, and what is cut or made up is refused by name."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import malmoi
from malmoi.cli import commands as cli
from malmoi.core.errors import UserError
from malmoi.core.tensors import TokenBatch
from malmoi.engine.loaded import Loaded
from malmoi.hub import gguf_blocks
from malmoi.hub.adapter import load_adapter
from malmoi.hub.export import export
from malmoi.hub.folder import load_model, save_model, stored_groups, weights_hash
from malmoi.hub.gguf import Outside, write_gguf
from malmoi.hub.gguf_file import GGUFFile, Stored
from malmoi.hub.gguf_import import read_config, unpacked, values_of
from malmoi.hub.gguf_vocab import vocabulary
from malmoi.hub.llama import PHI3
from malmoi.hub.source import import_model
from malmoi.hub.verify import TEXTS
from malmoi.models.build import build_model
from malmoi.models.config import LongRope, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.models.lora import LoRASpec, add_lora, frozen_layers, give_back, hold_base, merge_lora
from malmoi.models.native.library import kernels
from malmoi.models.native.linear import GroupPanels, NativeLinear
from malmoi.models.native.linear import values_of as values_of_panels
from malmoi.serve.catalogue import open_catalogue
from malmoi.text.chat import ChatFormat
from malmoi.text.sentencepiece import Piece, SentencePieceModel, to_backend
from malmoi.text.tokenizer import Tokenizer
from tests.hub.test_gguf import BPE, CHATML, RUN, saved
from tests.models.variants import TRANSFORMERS

ODD = [
    *TEXTS, "", " ", "  two  spaces   ", "\n\n\t\r\nline", "don't WE'LL 12345 3.14", "가나다 각 ㄱㄴ",
    "e\u0301 é ﬁ", "😀 👩\u200d👧", "\x00\x01\x7f", "<s> </s> <|im_end|> <0x41>",
    "def f(x):\n    return x**2\n",
]  # fmt: skip


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([BPE.encode(" ".join(TEXTS))[:48]])
    with torch.inference_mode():
        return model.logits(model.hidden(TokenBatch(ids)))


def written(folder: Path, name: str, dtype: str = "f32") -> tuple[LanguageModel, Path]:
    """A tiny model, and the GGUF file that is exported from it."""
    model = saved(folder / "m", name, changes=RUN.get(name))
    export(folder / "m", "gguf", folder / "m.gguf", dtype)
    return model, folder / "m.gguf"


@pytest.mark.parametrize("name", RUN)
def test_the_exported_model_comes_back(name: str, tmp_path: Path) -> None:
    model, path = written(tmp_path, name)
    found, tokenizer = load_model(path)
    assert isinstance(found, LanguageModel)
    assert tokenizer is not None
    torch.testing.assert_close(logits(found), logits(model), rtol=1e-4, atol=1e-4)
    assert [tokenizer.encode(text) for text in ODD if "é" not in text] == [
        BPE.encode(text) for text in ODD if "é" not in text
    ]
    assert (tokenizer.start, tokenizer.specials.eos) == (BPE.specials.eos, BPE.specials.eos)


def test_phi_3_holds_what_reads_the_same_input_as_one_matrix(tmp_path: Path) -> None:
    model = saved(tmp_path / "m", "llama-gqa")
    assert isinstance(model.config, TransformerConfig)
    outside = Outside(
        PHI3.export_config(model.config), PHI3.export_weights(dict(model.state_dict()), model.config)
    )
    vocab = vocabulary(BPE, model.vocab_size, [BPE.specials.eos])
    write_gguf(tmp_path / "m.gguf", outside, vocab, "f32", name="phi")
    assert {"blk.0.attn_qkv.weight", "blk.0.ffn_up.weight"} <= set(GGUFFile(tmp_path / "m.gguf").tensors)
    found = load_model(tmp_path / "m.gguf").model
    torch.testing.assert_close(logits(found), logits(model), rtol=1e-4, atol=1e-4)


def test_phi_3s_positions_for_short_and_for_long_rows_are_read(tmp_path: Path) -> None:
    rope = LongRope(
        factor=4, original_max_position_embeddings=16, attention_factor=1.5,
        short_factor=(1, 1.25, 1.5, 2), long_factor=(1.5, 2, 3, 4),
    )  # fmt: skip
    model, path = written(tmp_path, "llama-gqa")
    assert isinstance(model.config, TransformerConfig)
    factors = {
        f"rope_factors_{which}.weight": list(getattr(rope, f"{which}_factor")) for which in ("long", "short")
    }
    facts = {"llama__rope__scaling__original_context_length": 16, "llama__rope__scaling__attn_factor": 1.5}
    found = load_model(rewritten(path, tmp_path / "long.gguf", add=factors, **facts)).model
    wanted = build_model(model.config.model_copy(update={"rope": rope})).eval()
    wanted.load_state_dict(model.state_dict())
    assert isinstance(found.config, TransformerConfig)
    assert found.config.rope == rope
    for length in (16, 48):
        ids = torch.arange(7, 7 + length)[None]
        with torch.inference_mode():
            ours, theirs = (it.logits(it.hidden(TokenBatch(ids))) for it in (found, wanted))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_llama_3s_positions_come_back(tmp_path: Path) -> None:
    from malmoi.models.config import Llama3Rope

    rope = Llama3Rope(factor=8, low_freq_factor=1, high_freq_factor=4, original_max_position_embeddings=8192)
    model = saved(tmp_path / "m", "llama", changes={"rope": rope, "rope_theta": 5e5})
    export(tmp_path / "m", "gguf", tmp_path / "m.gguf", "f32")
    found = load_model(tmp_path / "m.gguf").model
    assert isinstance(found.config, TransformerConfig)
    assert found.config.rope == rope
    torch.testing.assert_close(logits(found), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "most"), [("f16", 0.05), ("bf16", 0.05), ("q8_0", 0.05), ("q4_0", 0.3)])
def test_files_in_fewer_bits(dtype: str, most: float, tmp_path: Path) -> None:
    model, path = written(tmp_path, "llama", dtype)
    found = load_model(path).model
    apart = (logits(found) - logits(model)).norm() / logits(model).norm()
    assert 0 < float(apart) < most


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind in gguf.quants._type_traits])
def test_every_kind_that_the_library_unpacks_is_read(kind: Kind, tmp_path: Path) -> None:
    """Its numbers are the library's; the bytes are drawn so that scales are finite."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    bytes_NB = np.random.default_rng(0).integers(0, 60, (4, 4 * size), dtype=np.uint8)
    path = tmp_path / "one.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", bytes_NB, raw_dtype=kind)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    stored = GGUFFile(path).tensors["token_embd.weight"]
    assert stored.shape == (4, 4 * block)
    np.testing.assert_array_equal(values_of(stored).numpy(), gguf.quants.dequantize(bytes_NB, kind))


def finite_blocks(kind: Kind, rows: int, blocks: int) -> np.ndarray:
    """Bytes that are any number a block can have, but for scales that are not finite."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    found = np.random.default_rng(0).integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    halves = gguf_blocks.KINDS[kind].halves
    found[..., halves] = np.frombuffer(
        np.float16(0.01).tobytes() * (halves.stop - halves.start >> 1), np.uint8
    )
    found[..., halves.start] = np.arange(blocks) + 1
    return found.reshape(rows, -1)


@pytest.mark.parametrize("kind", gguf_blocks.KINDS)
def test_blocks_are_the_numbers_that_they_are(kind: Kind) -> None:
    if (built := kernels()) is None:
        pytest.skip("our kernels are not used here")
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    stored = [
        Stored("a", kind, (rows, 3 * block), finite_blocks(kind, rows, 3).reshape(-1), Path("m.gguf"))
        for rows in (37, 6)
    ]
    orders = [torch.arange(37).flip(0), torch.arange(6)]
    (source,) = gguf_blocks.in_groups(stored, orders, unpacked)  # which are of one format
    exact = [unpacked(it.data.reshape(it.shape[0], -1), kind) for it in stored]
    wanted = torch.cat([torch.from_numpy(it)[order] for it, order in zip(exact, orders, strict=True)])
    kept = values_of_panels(GroupPanels.of(built, source))
    torch.testing.assert_close(kept, wanted, rtol=0, atol=2e-3 * float(wanted.abs().max()))
    assert float((kept - wanted).norm()) < 5e-4 * float(wanted.norm())


def natives(model: object) -> list[NativeLinear]:
    assert isinstance(model, LanguageModel)
    return [it for it in model.modules() if isinstance(it, NativeLinear)]


@pytest.mark.parametrize("name", RUN)
def test_what_is_in_few_bits_stays_so(name: str, tmp_path: Path) -> None:
    if kernels() is None:
        pytest.skip("our kernels are not used here")
    _, path = written(tmp_path, name, "q8_0")
    packed, plain = Loaded(path), Loaded(path, dtype="fp32")
    few, exact = (natives(one.model) for one in (packed, plain))
    assert any(isinstance(it.panels[0], GroupPanels) for it in few)
    for one, other in zip(few, exact, strict=True):
        most = 1e-3 * float(other.weight.abs().max())
        torch.testing.assert_close(one.weight, other.weight, rtol=1e-3, atol=most)
    ids = torch.tensor([BPE.encode(" ".join(TEXTS))[:48]])
    apart = (packed.logits(ids) - plain.logits(ids)).norm() / plain.logits(ids).norm()
    assert float(apart) < 0.03


def test_a_matrix_of_several_kinds_is_one_product(tmp_path: Path) -> None:
    if (built := kernels()) is None:
        pytest.skip("our kernels are not used here")
    kinds = (Kind.Q4_K, Kind.Q6_K)
    stored = [
        Stored("a", kind, (40, 256), finite_blocks(kind, 40, 1).reshape(-1), tmp_path) for kind in kinds
    ]
    sources = gguf_blocks.in_groups(stored, [torch.arange(40)] * 2, unpacked)
    assert [source.layout.bits for source in sources] == [4, 8]
    linear = NativeLinear([GroupPanels.of(built, source) for source in sources], None)
    x = torch.randn(3, 256)
    apart = (linear(x) - x @ linear.weight.T).norm() / linear(x).norm()
    assert float(apart) < 0.02


def test_a_broken_scale_is_named(tmp_path: Path) -> None:
    data = finite_blocks(Kind.Q8_0, 4, 2)
    data[2, :2] = np.frombuffer(np.float16(np.nan).tobytes(), np.uint8)
    stored = Stored("blk.0.attn_q.weight", Kind.Q8_0, (4, 64), data.reshape(-1), tmp_path)
    with pytest.raises(UserError, match=r"attn_q\.weight holds NaN"):
        gguf_blocks.in_groups([stored], [torch.arange(4)], unpacked)


def spm_model() -> SentencePieceModel:
    """A small SentencePiece BPE with bytes, control tokens and the user's own."""
    words = ["▁", "a", "b", "▁a", "ab", "▁ab", "가", "나", "가나", "▁가나", ".", "\n"]
    pieces = [Piece("<unk>", 0, 2), Piece("<s>", 0, 3), Piece("</s>", 0, 3), Piece("▁▁", 0, 4)]
    pieces += [Piece(f"<0x{byte:02X}>", 0, 6) for byte in range(256)]
    pieces += [Piece(word, -float(len(words) - at), 1) for at, word in enumerate(words)]
    return SentencePieceModel(
        tuple(pieces), is_bpe=True, charsmap=b"", byte_fallback=True, adds_prefix=True, joins_spaces=False,
        ids={"unk": 0},
    )  # fmt: skip


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_tokenizers(prefix: bool, tmp_path: Path) -> None:
    model, path = spm_model(), tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([it.text.replace("▁", " ") if it.kind == 4 else it.text for it in model.pieces])
    writer.add_token_scores([float(it.score) for it in model.pieces])
    writer.add_token_types([it.kind for it in model.pieces])
    writer.add_add_space_prefix(prefix)
    writer.add_eot_token_id(2)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    from dataclasses import replace

    from malmoi.hub.gguf_vocab import stated_ends, tokenizer_of

    facts = GGUFFile(path).facts
    found = tokenizer_of(facts, path)
    wanted = Tokenizer(to_backend(replace(model, adds_prefix=prefix)), {"add_bos_token": True})
    for text in [*ODD, "ab ab  가나.\n", "abab   b", " 가"]:
        assert found.encode(text) == wanted.encode(text), text
        assert found.decode(found.encode(text)) == text
    assert (found.start, found.specials.eos, stated_ends(facts)) == (1, 2, [2])


def test_a_chat_template_comes_back(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_json(BPE.to_json(), {"chat_template": CHATML})
    saved(tmp_path / "m", "llama", tokenizer)
    export(tmp_path / "m", "gguf", tmp_path / "m.gguf", "f32")
    _, found = load_model(tmp_path / "m.gguf")
    assert found is not None
    assert found.config["chat_template"] == CHATML
    assert ChatFormat.of(found)


def test_a_split_model_is_one(tmp_path: Path) -> None:
    model, path = written(tmp_path, "llama")
    reader, parts = gguf.GGUFReader(path), tmp_path / "parts"
    parts.mkdir()
    count = 3
    for number in range(count):
        writer = gguf.GGUFWriter(parts / f"m-{number + 1:05}-of-{count:05}.gguf", "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        if number == 0:
            copy_facts(reader, writer)
        for tensor in reader.tensors[number::count]:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            step()
        writer.close()
    first = parts / "m-00001-of-00003.gguf"
    torch.testing.assert_close(logits(load_model(first).model), logits(model), rtol=1e-4, atol=1e-4)
    assert list(open_catalogue([parts], max_rows=1)) == [first.name]
    with pytest.raises(UserError, match="give the first"):
        load_model(first.with_name("m-00002-of-00003.gguf"))
    first.with_name("m-00003-of-00003.gguf").unlink()
    with pytest.raises(UserError, match=r"m-00003-of-00003\.gguf is missing"):
        load_model(first)


def copy_facts(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("whole"), "llama-mqa-tied", "q8_0")[1]


@given(st.integers(0, 1 << 20))
@settings(max_examples=60)
def test_a_file_that_is_cut_is_refused(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "m.gguf"
    content = whole.read_bytes()
    path.write_bytes(content[: at % len(content)])
    with pytest.raises(UserError, match=r"m\.gguf"):
        load_model(path)


@given(st.integers(0, 6000), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_damaged_header_is_refused_or_read(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, at: int, by: int
) -> None:
    path = tmp_path_factory.mktemp("odd") / "m.gguf"
    odd = bytearray(whole.read_bytes())
    odd[at] ^= by
    path.write_bytes(odd)
    with suppress(UserError):  # and nothing else
        load_model(path)


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another magic": (lambda it: b"GGJT" + it[4:], "begin with GGUF"),
    "an old version": (lambda it: it[:4] + struct.pack("<I", 1) + it[8:], "version 1; 2 and 3"),
    "turned bytes": (lambda it: it[:4] + struct.pack(">I", 3) + it[8:], "bytes turned round"),
    "too many tensors": (lambda it: it[:8] + struct.pack("<Q", 1 << 60) + it[16:], "no room for so many"),
    "nothing": (lambda _: b"", "empty"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_gguf_file_is_named(what: str, whole: Path, tmp_path: Path) -> None:
    change, why = REFUSED[what]
    (tmp_path / "m.gguf").write_bytes(change(whole.read_bytes()))
    with pytest.raises(UserError, match=why):
        load_model(tmp_path / "m.gguf")


def rewritten(
    path: Path, out: Path, drop: str = "", add: dict[str, list[float]] | None = None, **facts: Any
) -> Path:
    """The file with other facts, without a tensor, or with others."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, facts.pop("arch", reader.fields["general.architecture"].contents()))
    given = {name.replace("__", "."): value for name, value in facts.items()}
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in given:
            continue
        writer.add_key_value(
            name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None
        )
    for name, value in given.items():
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_float32(name, value)
    for name, values in (add or {}).items():
        writer.add_tensor(name, np.array(values, np.float32))
    for tensor in reader.tensors:
        if tensor.name != drop:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    return out


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"arch": "mamba"}, "architecture 'mamba', which is not known"),
        ({"drop": "blk.1.ffn_up.weight"}, "lack"),
        ({"drop": "token_embd.weight"}, "no tensor token_embd.weight"),
        ({"llama__block_count": 1}, r"holds blk\.1"),
        ({"llama__block_count": 3}, "lack"),
        ({"llama__embedding_length": 64}, "do not fit"),
        ({"llama__attention__head_count": 3}, "m2.gguf"),
        ({"llama__expert_count": 8}, "mixture of 8 experts"),
        ({"llama__rope__dimension_count": 4}, "rope.dimension_count is 4"),
        ({"llama__rope__scaling__type": "longrope"}, "'longrope'"),
        ({"tokenizer__ggml__model": "bert"}, "kind 'bert'"),
        ({"tokenizer__ggml__pre": "martian"}, "'martian', which is not known"),
    ],
)
def test_what_contradicts_itself_is_named(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    _, path = written(tmp_path, "llama")
    with pytest.raises(UserError, match=why) as found:
        load_model(rewritten(path, tmp_path / "m2.gguf", **change))
    assert "\n" not in str(found.value)


def test_a_broken_number_is_named(tmp_path: Path) -> None:
    model = saved(tmp_path / "m", "llama")
    with torch.no_grad():
        model.get_parameter("norm.weight")[3] = float("nan")
    save_model(tmp_path / "n", model, BPE)
    path = written(tmp_path / "ok", "llama")[1]
    reader = gguf.GGUFReader(path, "r+")
    tensor = next(it for it in reader.tensors if it.name == "output_norm.weight")
    tensor.data[3] = np.nan
    reader.data.flush()
    with pytest.raises(UserError, match="NaN or infinity"):
        load_model(path)


# ---- where a folder may stand, a file may


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def go(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["malmoi", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
        return printed.out

    return go


def test_it_completes_as_its_folder(run: Callable[..., str], tmp_path: Path) -> None:
    _, path = written(tmp_path, "qwen3")
    said = [
        run("complete", it, "the ferry", "--temperature", 0, "--max-tokens", 8)
        for it in (tmp_path / "m", path)
    ]
    assert said[0] == said[1]
    assert malmoi.load(path).complete("the", max_tokens=2, temperature=0)  # pyright: ignore


def test_it_is_imported(run: Callable[..., str], tmp_path: Path) -> None:
    model, path = written(tmp_path, "gemma3")
    said = run("import", path, "--out", tmp_path / "folder")
    assert "gemma3_text" in said
    torch.testing.assert_close(
        logits(load_model(tmp_path / "folder").model), logits(model), rtol=1e-4, atol=1e-4
    )
    assert load_file(tmp_path / "folder" / "model.safetensors")["model.norm.weight"].dtype == torch.float32
    with pytest.raises(UserError, match="no GGUF one"):
        import_model(str(tmp_path / "m" / "config.json"), tmp_path / "other")


def test_it_is_served_by_its_name(tmp_path: Path) -> None:
    _, path = written(tmp_path, "llama")
    inside = tmp_path / "models"
    inside.mkdir()
    shutil.copy(path, inside / "small.gguf")
    assert list(open_catalogue([path], max_rows=1)) == ["m.gguf"]
    assert list(open_catalogue([inside], max_rows=1)) == ["small.gguf"]


def tune(run: Callable[..., str], tmp_path: Path, dtype: str, *options: object) -> None:
    """Make a GGUF file of a tiny model, and tune it for two steps."""
    tokenizer = Tokenizer.from_json(BPE.to_json(), {"chat_template": CHATML})
    saved(tmp_path / "m", "llama", tokenizer, changes={"context": 256})
    export(tmp_path / "m", "gguf", tmp_path / "m.gguf", dtype)
    turns = ([("user", f"{n}?"), ("assistant", "b")] for n in range(60))
    rows = [{"messages": [{"role": role, "content": said} for role, said in talk]} for talk in turns]
    data = tmp_path / "talk.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    short = ("--set", "train.steps=2", "--set", "train.batch=2")
    run("finetune", tmp_path / "m.gguf", "--data", data, "--out", tmp_path / "tuned", *short, *options)
    assert load_model(tmp_path / "tuned").tokenizer is not None


def test_it_is_tuned(run: Callable[..., str], tmp_path: Path) -> None:
    tune(run, tmp_path, "f32")


def test_its_own_bits_stay_while_it_is_tuned(run: Callable[..., str], tmp_path: Path) -> None:
    """What is saved is the file's weights with what was learned on top."""
    tune(run, tmp_path, "q8_0", "--lora", "--set", "lora.base=stored")
    base, tuned = load_model(tmp_path / "m.gguf").model, load_model(tmp_path / "tuned").model
    assert isinstance(base, LanguageModel)
    add_lora(base, LoRASpec())
    hold_base(base, "stored", stored_groups(tmp_path / "m.gguf"))
    assert all(layer.weight is None for layer in frozen_layers(base).values())
    give_back(base, load_model(tmp_path / "m.gguf").model)  # type: ignore[arg-type]
    load_adapter(tmp_path / "tuned" / "adapter", model := load_model(tmp_path / "m.gguf").model)  # type: ignore[arg-type]
    torch.testing.assert_close(logits(tuned), logits(model), atol=1e-4, rtol=1e-4)
    merge_lora(base)
    for name, weight in load_model(tmp_path / "m.gguf").model.named_parameters():  # type: ignore[union-attr]
        assert torch.equal(base.get_parameter(name), weight)


def test_its_hash_is_that_of_the_file(tmp_path: Path) -> None:
    _, path = written(tmp_path, "llama")
    assert len(weights_hash(path)) == 64
    assert read_config(GGUFFile(path))["model_type"] == "llama"
    assert build_model(TRANSFORMERS["llama"])
