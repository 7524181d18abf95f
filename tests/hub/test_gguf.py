"""GGUF files: read back, computed by an own small llama, and run by llama.cpp where it is installed.

Shape letters: T positions, D width, H heads, C head width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F

from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.core.tensors import TokenBatch
from malmoi.hub.export import export
from malmoi.hub.folder import load_model, save_model
from malmoi.hub.gguf import rope_factors
from malmoi.hub.gguf_vocab import vocabulary
from malmoi.hub.ollama import modelfile, turns_of
from malmoi.hub.verify import TEXTS, library
from malmoi.models.build import build_model
from malmoi.models.config import YarnRope
from malmoi.models.language import LanguageModel
from malmoi.text.chat import TEMPLATE, ChatFormat
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from tests.models.variants import TRANSFORMERS

BPE = train_tokenizer([*TEXTS, "the ferry and the bridge, 배와 다리 " * 20], "bpe", 400)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{{ first if loop.first else '' }}{{ message['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
WITH_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
)


def saved(
    folder: Path, name: str, tokenizer: Tokenizer = BPE, changes: Mapping[str, Any] | None = None
) -> LanguageModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": tokenizer.vocab_size + 3, "context": 64, **(changes or {})}
    model = build_model(TRANSFORMERS[name].model_copy(update=sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4) if parameter.ndim > 1 else parameter.add_(0.3 * torch.randn_like(parameter))
    save_model(folder, model, tokenizer)
    return model


def opened(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A file's fields and its tensors."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    numbers = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return fields, {name: torch.tensor(it) for name, it in numbers.items()}


def llama_logits(fields: dict[str, Any], weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """llama.cpp's graph of the architecture llama, written down again: neighbours turn together."""
    read = {name.removeprefix("llama."): value for name, value in fields.items()}
    heads, kv_heads = read["attention.head_count"], read["attention.head_count_kv"]
    eps = read["attention.layer_norm_rms_epsilon"]
    x_TD = weights["token_embd.weight"][ids]
    at_T = torch.arange(len(ids))

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * weights[f"{name}.weight"]

    def turned(x_THC: Tensor) -> Tensor:
        size = read["rope.dimension_count"]
        angles = at_T[:, None] * read["rope.freq_base"] ** (-torch.arange(0, size, 2) / size)
        if "rope_freqs.weight" in weights:
            angles = angles / weights["rope_freqs.weight"]
        pairs = torch.view_as_complex(x_THC.reshape(*x_THC.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)

    for layer in range(read["block_count"]):
        block = f"blk.{layer}"
        y_TD = norm(x_TD, f"{block}.attn_norm")
        q, k, v = (linear(y_TD, f"{block}.attn_{it}") for it in "qkv")
        q, k = turned(q.unflatten(-1, (heads, -1))), turned(k.unflatten(-1, (kv_heads, -1)))
        v = v.unflatten(-1, (kv_heads, -1))
        q, k, v = (it.transpose(0, 1)[None] for it in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x_TD = x_TD + linear(out[0].transpose(0, 1).flatten(-2), f"{block}.attn_output")
        y_TD = norm(x_TD, f"{block}.ffn_norm")
        gated = F.silu(linear(y_TD, f"{block}.ffn_gate")) * linear(y_TD, f"{block}.ffn_up")
        x_TD = x_TD + linear(gated, f"{block}.ffn_down")
    head = weights.get("output.weight", weights["token_embd.weight"])
    return norm(x_TD, "output_norm") @ head.T


LLAMAS = ["llama", "llama-gqa", "llama-mqa-tied", "llama-bias", "llama-wide-head", "mistral"]


@pytest.mark.parametrize("name", LLAMAS)
def test_the_file_computes_the_models_logits(name: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "m", name, changes={"window": 32} if name == "mistral" else None)
    told = export(tmp_path / "m", "gguf", tmp_path / "m.gguf", "f32")
    assert any("largest difference 0" in line for line in told)
    fields, weights = opened(tmp_path / "m.gguf")
    assert fields["general.architecture"] == "llama"
    context = fields["llama.context_length"]
    assert context == (32 if name == "mistral" else 64)
    assert any("sliding window" in line for line in told) == (name == "mistral")
    ids = BPE.encode(" ".join(TEXTS))[:context]
    with torch.inference_mode():
        ours_TV = model.logits(model.hidden(TokenBatch(torch.tensor([ids]))))[0]
    theirs_TV = llama_logits(fields, weights, ids)
    assert bool(((ours_TV - theirs_TV).abs() <= 1e-4 * theirs_TV.abs().clamp(min=1)).all())


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_other_rotaries_leave_rows_where_they_are(name: str, tmp_path: Path) -> None:
    ours = saved(tmp_path / "m", name).state_dict()["blocks.1.attention.qkv.weight"]
    export(tmp_path / "m", "gguf", tmp_path / "out", "f32")
    _, weights = opened(tmp_path / "out" / "model.gguf")
    parts = ("qkv",) if name == "gpt2" else "qkv"
    assert torch.equal(torch.cat([weights[f"blk.1.attn_{it}.weight"] for it in parts]), ours)


@pytest.mark.parametrize(("dtype", "error"), [("f16", 2e-3), ("bf16", 2e-2), ("q8_0", 2e-2), ("q4_0", 0.3)])
def test_smaller_types_round_matrices_only(dtype: str, error: float, tmp_path: Path) -> None:
    saved(tmp_path / "m", "llama-wide-head")
    told = export(tmp_path / "m", "gguf", tmp_path / "m.gguf", dtype)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    kinds = {t.name: t.tensor_type.name.lower() for t in reader.tensors}
    assert {kind for name, kind in kinds.items() if "norm" in name} == {"f32"}
    assert kinds["blk.0.attn_q.weight"] == dtype
    # rows of 40 and 48 numbers are no whole blocks
    in_blocks = dtype.startswith("q")
    assert kinds["blk.0.ffn_down.weight"] == ("f16" if in_blocks else dtype)
    assert any("f16" in line for line in told[1:]) == in_blocks
    line = next(line for line in told if "largest difference" in line)
    assert 0 < float(line.rsplit(" ", 1)[1]) < error


def test_the_tokenizer_is_in_the_file(tmp_path: Path) -> None:
    ChatFormat(BPE, TEMPLATE)
    tokenizer = Tokenizer.from_json(BPE.to_json(), {"chat_template": TEMPLATE})
    saved(tmp_path / "m", "llama", tokenizer)
    export(tmp_path / "m", "gguf", tmp_path / "m.gguf")
    fields, _ = opened(tmp_path / "m.gguf")
    read = {name.removeprefix("tokenizer.ggml."): value for name, value in fields.items()}
    assert (read["model"], read["pre"]) == ("gpt2", "gpt-2")
    assert len(read["tokens"]) == BPE.vocab_size + 3 == len(read["token_type"])
    assert read["tokens"][:3] == ["<|pad|>", "<|bos|>", "<|eos|>"]
    assert read["token_type"][:3] == [3, 3, 3]
    assert read["token_type"][-3:] == [5, 5, 5]
    found = (read["bos_token_id"], read["eos_token_id"], read["padding_token_id"], read["eot_token_id"])
    assert found == (1, 2, 0, 6)
    assert read["add_bos_token"] is False
    template = fields["tokenizer.chat_template"]
    assert "generation %}" not in template
    plain = ChatFormat(tokenizer, template)
    turns = [Message("user", "배는 언제 떠나?"), Message("assistant", "At nine."), Message("user", "와!")]
    assert plain.prompt_ids(turns) == ChatFormat(tokenizer, TEMPLATE).prompt_ids(turns)


def test_a_model_of_documents_begins_them_as_it_was_trained() -> None:
    found = vocabulary(BPE, BPE.vocab_size)
    assert found.add_bos
    assert found.specials["bos"] == BPE.specials.eos
    assert "NFC" in found.note


def test_bytes_need_no_merges() -> None:
    found = vocabulary(train_tokenizer([], "byte"), 263)
    assert (found.pre, found.merges) == ("gpt-2", [""])


@pytest.mark.parametrize("kind", ["word", "character", "unigram", "wordpiece"])
def test_a_tokenizer_that_llama_cpp_has_not_is_refused(kind: str, tmp_path: Path) -> None:
    saved(tmp_path / "m", "llama", train_tokenizer(["the words we gather, 모은 말"] * 9, kind, 60))
    with pytest.raises(UserError, match=r"llama\.cpp has no") as error:
        export(tmp_path / "m", "gguf", tmp_path / "m.gguf")
    assert "\n" not in str(error.value)
    assert not [path for path in tmp_path.iterdir() if path.name != "m"]


LLAMA3_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(pattern: str) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, BYTES]}


@pytest.mark.parametrize(
    ("pre", "ignore_merges", "name"),
    [
        (split(LLAMA3_CUT), True, "llama-bpe"),
        (split(LLAMA3_CUT), False, "smaug-bpe"),
        (split(LLAMA3_CUT.replace("{1,3}", "")), False, "qwen2"),
        (split(LLAMA3_CUT.replace("{1,3}", "")), True, None),
        (split(r"\s+"), False, None),
        (BYTES | {"use_regex": True}, False, "gpt-2"),
        (BYTES | {"use_regex": True, "add_prefix_space": True}, False, None),
        (BYTES, False, None),
        (
            {"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": True}, BYTES | {"use_regex": True}]},
            False, "smollm",
        ),
    ],
)  # fmt: skip
def test_how_text_is_cut_has_a_name(pre: dict[str, Any], ignore_merges: bool, name: str | None) -> None:
    file = json.loads(BPE.to_json())
    file["pre_tokenizer"], file["model"]["ignore_merges"] = pre, ignore_merges
    tokenizer = Tokenizer.from_json(json.dumps(file))
    if name is None:
        with pytest.raises(UserError, match="pre-tokenizer"):
            vocabulary(tokenizer, 500)
    else:
        assert vocabulary(tokenizer, 500).pre == name


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalizer", {"type": "Lowercase"}),
        ("model", {"dropout": 0.5}),
        ("model", {"end_of_word_suffix": "_"}),
    ],
)
def test_what_changes_text_in_another_way_is_refused(part: str, value: dict[str, Any]) -> None:
    file = json.loads(BPE.to_json())
    file[part] = (file[part] | value) if part == "model" else value
    with pytest.raises(UserError, match=r"llama\.cpp has no BPE with"):
        vocabulary(Tokenizer.from_json(json.dumps(file)), 500)


def sentencepiece_like(merges: list[list[str]], letters: Sequence[str] = "▁abc") -> Tokenizer:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    pieces += dict.fromkeys("".join(pair) for pair in merges)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    file = {
        "version": "1.0", "truncation": None, "padding": None, "post_processor": None, "decoder": None,
        "added_tokens": [
            {"id": i, "content": pieces[i], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i in range(3)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]},
        "pre_tokenizer": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": {piece: id for id, piece in enumerate(pieces)}, "merges": merges,
        },
    }  # fmt: skip
    return Tokenizer.from_json(json.dumps(file), {"add_bos_token": True})


def test_sentencepieces_merges_are_scores() -> None:
    tokenizer = sentencepiece_like([["a", "b"], ["▁", "ab"], ["ab", "c"]])
    found = vocabulary(tokenizer, tokenizer.vocab_size)
    assert (found.model, found.add_space, found.add_bos, found.merges) == ("llama", True, True, None)
    assert found.scores is not None
    assert [found.scores[found.tokens.index(piece)] for piece in ("ab", "▁ab", "abc")] == [0, -1, -2]
    assert found.types[:4] == [2, 3, 3, 6]
    with pytest.raises(UserError, match="merges"):  # "abc" may be made of "a" and "bc", too
        vocabulary(sentencepiece_like([["a", "b"], ["b", "c"], ["ab", "c"]]), 300)


def spm_ids(tokens: list[str], scores: list[float], text: str) -> list[int]:
    """llama.cpp's `llm_tokenizer_spm`, written down again: the best-scored pair of neighbours first."""
    ids = {token: id for id, token in enumerate(tokens)}
    symbols = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(ids.get(a + b), at) for at, (a, b) in enumerate(pairwise(symbols))]
        known = [(-scores[id], at) for id, at in pairs if id is not None]
        if not known:
            break
        _, at = min(known)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    spelled = [[it] if it in ids else [f"<0x{byte:02X}>" for byte in it.encode()] for it in symbols]
    return [ids[it] for parts in spelled for it in parts]


def test_scores_cut_text_as_merges_do() -> None:
    text = "the ferry leaves the bridge at nine, the other ferry at ten; 배는 다리를 떠나 다른 다리로 떠나고"
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=100, show_progress=False, min_frequency=1)
    backend.train_from_iterator([text], trainer)
    order = [piece for piece, _ in sorted(backend.get_vocab().items(), key=lambda it: it[1])]
    letters, pieces = [it for it in order if len(it) == 1], [it for it in order if len(it) > 1]
    known = {*letters, *pieces}
    merges = [
        [piece[:at], piece[at:]] for piece in pieces for at in range(1, len(piece))
        if piece[:at] in known and piece[at:] in known
    ]  # fmt: skip
    tokenizer = sentencepiece_like(merges, letters)
    found = vocabulary(tokenizer, tokenizer.vocab_size)
    assert found.scores is not None
    for sample in (text, "the bridge", "다리 the 떠나 ferry!", "  leaves\n배는 😀 tenth bridges"):
        assert spm_ids(found.tokens, found.scores, sample) == tokenizer.encode(sample)


def test_llama_3_slows_frequencies_as_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    rope = {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
    }  # fmt: skip
    config = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=1, head_dim=64, max_position_embeddings=2048, rope_parameters=rope
    )
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    plain = 5e5 ** (-torch.arange(0, 64, 2) / 64)
    found = torch.tensor(rope_factors({"hidden_size": 64, "num_attention_heads": 1, "rope_scaling": rope}))
    assert torch.allclose(plain / found, rotary.inv_freq, rtol=1e-5)
    assert rope_factors({"hidden_size": 64, "num_attention_heads": 1}) == []


def go(template: str, messages: list[Message]) -> str:
    """What Ollama's text/template makes of our templates: the few words of Go that they use."""
    out, last = [], ""
    system = any(it.role == "system" for it in messages)
    head, _, rest = template.partition('{{ $last := "" }}{{ range .Messages }}')
    if head.startswith("{{ if not .System }}") and not system:
        out.append(head.removeprefix("{{ if not .System }}").removesuffix("{{ end }}"))
    body, _, opening = rest.rpartition("{{ end }}{{ $last = .Role }}{{ end }}")
    for message in messages:
        branch = body.split(f'if eq .Role "{message.role}" }}}}')[1].split("{{ else if eq .Role")[0]
        before, after = branch.split("{{ .Content }}")
        if before.startswith('{{ if eq $last "system" }}'):
            first, other = before.removeprefix('{{ if eq $last "system" }}').split("{{ else }}")
            before = first if last == "system" else other.removesuffix("{{ end }}")
        out += [before, message.content, after]
        last = message.role
    return "".join([*out, opening])


CONVERSATIONS = [
    [Message("user", "Hello 안녕")],
    [Message("system", "Be brief."), Message("user", "Hi")],
    [Message("user", "Hi"), Message("assistant", "그래"), Message("user", "Bye"), Message("assistant", "x"),
     Message("user", "y")],
    [Message("system", "s"), Message("user", "Hi"), Message("assistant", "Yes"), Message("user", "Bye")],
]  # fmt: skip


@pytest.mark.parametrize("template", [TEMPLATE, CHATML, LLAMA3, GEMMA, WITH_DEFAULT])
def test_ollamas_template_says_what_the_chat_template_says(template: str) -> None:
    form = ChatFormat(BPE, template)
    turns = turns_of(form)
    assert turns is not None
    for messages in CONVERSATIONS:
        expected = form.prompt_text(messages).removeprefix("<|bos|>")
        assert go(turns.template(), messages) == expected


def test_a_modelfile() -> None:
    tokenizer = Tokenizer.from_json(BPE.to_json(), {"chat_template": TEMPLATE})
    text, note = modelfile("m.gguf", tokenizer, [2, 6], 64)
    lines = text.splitlines()
    assert lines[0] == "FROM ./m.gguf"
    assert lines[-3:] == ['PARAMETER stop "<|eos|>"', 'PARAMETER stop "<|end|>"', "PARAMETER num_ctx 64"]
    assert note == ""
    odd = Tokenizer.from_json(BPE.to_json(), {"chat_template": "{{ messages[-1]['content'] }}"})
    text, note = modelfile("m.gguf", odd, [2], 64)
    assert "TEMPLATE" not in text
    assert "Ollama uses the one in the gguf" in note
    assert "{{ .Prompt }}" in modelfile("m.gguf", BPE, [2], 64)[0]


RUN: dict[str, Mapping[str, Any]] = {
    **{it: {} for it in (*LLAMAS, "gpt2", "gpt2-untied", "qwen2", "qwen3", "llama-yarn", "gemma", "gemma3")},
    "mistral": {"window": 60},
    "qwen3-window": {"window": 60},
    "gemma2": {"query_scalar": None},
    "smollm3": {"rope_layers": (True, True, True, False), "bias": False, "layers": 4},
}


@pytest.mark.skipif(library("llama_cpp") is None, reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("name", RUN)
def test_llama_cpp_runs_it(name: str, tmp_path: Path) -> None:
    saved(tmp_path / "m", name, changes=RUN[name])
    told = export(tmp_path / "m", "gguf", tmp_path / "m.gguf", "f32")
    assert any("greedy 64 tokens equal in llama.cpp" in line for line in told)


@pytest.mark.parametrize("name", RUN)
def test_no_number_is_lost(name: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "m", name, changes=RUN[name])
    export(tmp_path / "m", "gguf", tmp_path / "out", "f32")
    fields, weights = opened(tmp_path / "out" / "model.gguf")
    assert sum(it.numel() for it in weights.values()) == model.num_parameters()
    arch = fields["general.architecture"]
    assert arch == ("llama" if name == "mistral" else name.partition("-")[0])
    assert fields[f"{arch}.block_count"] == (4 if name == "smollm3" else 2)


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("llama-geglu", {}, "activation gelu_pytorch_tanh"),
        ("llama-longrope", {}, "rope_type longrope"),
        ("smollm3", {}, "biases and layers without positions"),
        ("gemma2", {}, "query_pre_attn_scalar 20"),
        ("gemma2", {"query_scalar": None, "attention_softcap": None}, "no soft caps"),
        ("gemma", {"tied": False}, "an output matrix of its own"),
        ("qwen3", {"bias": ("qkv", "out")}, "biases"),
        ("qwen2", {"head_width": 12}, "head_dim 12"),
        (
            "llama-yarn",
            {"rope": YarnRope(factor=4, original_max_position_embeddings=12, truncate=False)},
            "yarn",
        ),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    name: str, changes: Mapping[str, Any], why: str, tmp_path: Path
) -> None:
    saved(tmp_path / "m", name, changes=changes)
    with pytest.raises(UserError, match=why) as error:
        export(tmp_path / "m", "gguf", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_wrong_reading_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "m", "llama")
    good = gguf.quants.quantize
    monkeypatch.setattr(gguf.quants, "quantize", lambda data, kind: good(data[..., :-1].copy(), kind))
    with pytest.raises(UserError, match="does not hold"):
        export(tmp_path / "m", "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weight_past_f16_is_named(tmp_path: Path) -> None:
    model = saved(tmp_path / "m", "llama")
    with torch.no_grad():
        model.embed.weight[0, 0] = 1e6
    save_model(tmp_path / "m", model, BPE)
    with pytest.raises(UserError, match="too large for f16"):
        export(tmp_path / "m", "gguf", tmp_path / "m.gguf", "f16")
    assert load_model(tmp_path / "m").tokenizer is not None
