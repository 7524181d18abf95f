"""Our folders in `transformers`, and theirs here: the same logits. Shape letters: B rows, T positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from malmoi.core import TokenBatch
from malmoi.hub.folder import load_model, save_model
from malmoi.models.language import LanguageModel
from malmoi.text.tokenizer import train_tokenizer
from malmoi.util.files import read_json
from tests.models.variants import TRANSFORMERS, VOCAB, make_model, random_ids

HUB_VARIANTS = {
    name: name.split("-")[0]
    for name in TRANSFORMERS
    if name.startswith(("llama", "mistral", "qwen3", "gpt2"))
}
IDS_BT = random_ids(2, 24)
SIZES = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
LLAMA_SIZES = SIZES | {
    "max_position_embeddings": 48, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
THEIRS: dict[str, transformers.PretrainedConfig] = {
    "gpt2": transformers.GPT2Config(**SIZES, n_positions=48, n_embd=40, n_layer=2, n_head=4),
    "gpt2-untied": transformers.GPT2Config(
        **SIZES, n_positions=48, n_embd=32, n_layer=2, n_head=4, n_inner=48, tie_word_embeddings=False
    ),
    "llama": transformers.LlamaConfig(**LLAMA_SIZES),
    "llama-tied": transformers.LlamaConfig(
        **LLAMA_SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True
    ),
    "llama-theta": transformers.LlamaConfig(**LLAMA_SIZES, rope_theta=5e5, head_dim=16),
    "mistral": transformers.MistralConfig(**LLAMA_SIZES, sliding_window=6, head_dim=8),
    "mistral-full": transformers.MistralConfig(**LLAMA_SIZES, sliding_window=None),
    "qwen3": transformers.Qwen3Config(**LLAMA_SIZES, head_dim=16),
}


def assert_near(ours_BTV: Tensor, theirs_BTV: Tensor) -> None:
    assert theirs_BTV.std() > 0.05, "logits near zero would hide differences"
    assert bool(((ours_BTV - theirs_BTV).abs() <= 1e-4 * theirs_BTV.abs().clamp(min=1)).all())


@torch.inference_mode()
def our_logits(model: object) -> Tensor:
    assert isinstance(model, LanguageModel)
    return model.logits(model.hidden(TokenBatch(IDS_BT)))


@torch.inference_mode()
def their_logits(model: Any) -> Tensor:
    return model.eval()(IDS_BT).logits.float()


@pytest.mark.parametrize("name", HUB_VARIANTS)
def test_transformers_reads_our_folder(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    assert save_model(tmp_path, model, None) == ""
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert theirs.config.model_type == HUB_VARIANTS[name]
    assert_near(our_logits(model), their_logits(theirs))
    assert torch.equal(our_logits(load_model(tmp_path).model), our_logits(model))


@pytest.mark.parametrize("name", THEIRS)
def test_we_read_a_folder_of_transformers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(THEIRS[name])
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(4) if parameter.ndim > 1 else parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs").model
    assert_near(our_logits(model), their_logits(theirs))
    save_model(tmp_path / "ours", model, None)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(their_logits(again), their_logits(theirs))


@pytest.mark.parametrize("kind", ["bpe", "byte", "word", "character", "unigram", "wordpiece"])
def test_the_tokenizer_of_the_folder_gives_the_same_ids_there(kind: str, tmp_path: Path) -> None:
    texts = ["말모이는 말을 모읍니다. the words we gather", "the gathered words, 모은 말"] * 20
    tokenizer = train_tokenizer(texts, kind, 300)
    save_model(tmp_path, make_model("llama"), tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*texts[:2], "  two  spaces\n새 줄 ", "말 the", "가나다"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    specials = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    ours = (tokenizer.specials.bos, tokenizer.specials.eos, tokenizer.specials.pad)
    assert specials == ours
    generation = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == ours
    config = read_json(tmp_path / "config.json")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == ours


def test_transformers_generates_the_same_tokens(tmp_path: Path) -> None:
    save_model(tmp_path, make_model("llama-gqa"), None)
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids_BT = theirs.generate(
        IDS_BT[:1, :5], max_new_tokens=8, do_sample=False, attention_mask=torch.ones(1, 5)
    )
    model = load_model(tmp_path).model
    state = model.new_state(1)
    logits_BTV = model.step(ids_BT[:, :-1], torch.tensor([12]), state)
    assert logits_BTV[0, 4:].argmax(-1).tolist() == ids_BT[0, 5:].tolist()
