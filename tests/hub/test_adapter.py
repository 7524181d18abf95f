"""Our adapters in the real `peft`, and its adapters here: the same logits. B rows, T positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from malmoi.core.errors import UserError
from malmoi.core.tensors import TokenBatch
from malmoi.hub.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, load_adapter, save_adapter
from malmoi.hub.folder import load_model, save_model
from malmoi.hub.weights import load_weights, save_weights
from malmoi.models.language import LanguageModel
from malmoi.models.lora import LoRASpec, add_lora, lora_layers, token_rows
from malmoi.text.tokenizer import train_tokenizer
from malmoi.util.files import read_json
from tests.models.variants import make_model, make_ngram, random_ids

IDS_BT = random_ids(2, 24)
NAMES = ("llama", "llama-gqa", "llama-bias", "llama-mqa-tied", "mistral", "qwen3", "gpt2", "gpt2-untied")


def our_logits(model: Any) -> torch.Tensor:
    assert isinstance(model, LanguageModel)
    with torch.inference_mode():
        return model.logits(model.hidden(TokenBatch(IDS_BT)))


def their_logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS_BT).logits.float()


def adapted(name: str, tmp_path: Path, *targets: str) -> LanguageModel:
    """A model with LoRA layers that do something, saved as base and adapter."""
    model = make_model(name)
    save_model(tmp_path / "base", model, None)
    add_lora(model, LoRASpec(rank=3, alpha=5, targets=targets or None))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.b_OR.normal_(std=0.1)
    save_adapter(tmp_path / "adapter", model, tmp_path / "base")
    return model


@pytest.mark.parametrize("name", NAMES)
def test_peft_reads_our_adapter(name: str, tmp_path: Path) -> None:
    model = adapted(name, tmp_path)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    plain_BTV = their_logits(base)
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert (their_logits(theirs) - plain_BTV).abs().max() > 0.1
    torch.testing.assert_close(their_logits(theirs), our_logits(model), atol=1e-4, rtol=1e-4)
    again: Any = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
    assert torch.equal(their_logits(again), their_logits(theirs))


@pytest.mark.parametrize("name", ["llama-gqa", "llama-mqa-tied", "gpt2", "gpt2-untied"])
def test_tokens_that_learned_go_with_it(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    save_model(tmp_path / "base", model, None)
    before = our_logits(model)
    tokens = [int(IDS_BT[0, 3]), 5, 6]
    add_lora(model, LoRASpec(), tokens)
    with torch.no_grad():
        for rows in token_rows(model).values():
            for row in rows.rows:
                row.normal_()
    found = our_logits(model)
    assert (found - before).abs().max() > 0.1
    save_adapter(tmp_path / "adapter", model, tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs: Any = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(their_logits(theirs), found, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        our_logits(load_model(tmp_path / "adapter").model), found, atol=1e-4, rtol=1e-4
    )
    theirs.save_pretrained(str(tmp_path / "again"))
    torch.testing.assert_close(our_logits(load_model(tmp_path / "again").model), found, atol=1e-4, rtol=1e-4)
    change_config(tmp_path / "again", trainable_token_indices={"lm_head": tokens})
    with pytest.raises(UserError, match="no trainable_token_indices that fit"):
        load_model(tmp_path / "again")


@pytest.mark.parametrize("name", [*NAMES, "window-and-qk-norm"])
def test_our_adapter_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    model = adapted(name, tmp_path, "attention.qkv", "feed_forward.down")
    again = load_model(tmp_path / "base").model
    assert isinstance(again, LanguageModel)
    load_adapter(tmp_path / "adapter", again)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    assert torch.equal(our_logits(again), our_logits(model))
    merged = load_model(tmp_path / "adapter").model  # an adapter's folder, where a model's is wanted
    torch.testing.assert_close(our_logits(merged), our_logits(model), atol=1e-4, rtol=1e-4)
    assert not lora_layers(merged)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama-gqa", "all-linear"), ("llama-gqa", ["q_proj", "v_proj"]), ("qwen3", ["up_proj"]),
        ("gpt2", "all-linear"), ("gpt2-untied", ["c_attn"]),
    ],
)  # fmt: skip
def test_we_read_an_adapter_of_peft(name: str, targets: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "base", make_model(name), None)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False,
        fan_in_fan_out="gpt2" in name, use_rslora=name == "gpt2",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs: Any = peft.get_peft_model(base, config)
    theirs.save_pretrained(str(tmp_path / "adapter"))
    ours = load_model(tmp_path / "adapter").model
    torch.testing.assert_close(our_logits(ours), their_logits(theirs), atol=1e-4, rtol=1e-4)
    # q, k and v have A's of their own there: one LoRA of a higher rank here, which goes back out as it came
    layered = load_model(tmp_path / "base").model
    assert isinstance(layered, LanguageModel)
    load_adapter(tmp_path / "adapter", layered)
    save_adapter(tmp_path / "again", layered, tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(base, str(tmp_path / "again"))
    torch.testing.assert_close(their_logits(again), their_logits(theirs), atol=1e-4, rtol=1e-4)


def test_an_adapter_of_an_adapter(tmp_path: Path) -> None:
    adapted("llama", tmp_path)
    model = load_model(tmp_path / "adapter").model
    assert isinstance(model, LanguageModel)
    add_lora(model, LoRASpec())
    next(iter(lora_layers(model).values())).b_OR.data.normal_()
    save_adapter(tmp_path / "second", model, tmp_path / "adapter")
    torch.testing.assert_close(
        our_logits(load_model(tmp_path / "second").model), our_logits(model), atol=1e-4, rtol=1e-4
    )


def test_a_tokenizer_in_the_adapter_wins(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["말모이는 말을 모읍니다. we gather words"] * 9, "character", 40)
    model = make_model("llama")
    save_model(tmp_path / "base", model, tokenizer)
    add_lora(model, LoRASpec())
    tokenizer.config["chat_template"] = "{{ messages[0]['content'] }}"
    save_adapter(tmp_path / "adapter", model, tmp_path / "base", tokenizer)
    found = load_model(tmp_path / "adapter").tokenizer
    assert found is not None
    assert found.config["chat_template"] == tokenizer.config["chat_template"]


def test_what_no_library_expresses_says_so(tmp_path: Path) -> None:
    model = make_model("window-and-qk-norm")
    add_lora(model, LoRASpec())
    assert "only malmoi can load it" in save_adapter(tmp_path, model, tmp_path)


def change_config(folder: Path, **changes: Any) -> None:
    config = read_json(folder / ADAPTER_CONFIG) | changes
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_model_name_or_path": "/none/there"}, "an adapter for the model /none/there, which is not"),
        ({"base_model_name_or_path": None}, "which is not there"),
        ({"base_model_name_or_path": "."}, "for itself"),
        ({"base_model_name_or_path": "../adapter"}, "for itself"),
        ({"base_model_name_or_path": "a\0b"}, "which is not there"),
        ({"base_model_name_or_path": "x" * 5000}, "which is not there"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"use_dora": True}, "use_dora = True"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"r": "many"}, "cannot be used"),
        ({"r": 0}, "cannot be used"),
        ({"lora_alpha": float("nan")}, "cannot be used"),
        ({"lora_alpha": 10**200}, "cannot be used"),
    ],
)
def test_a_config_that_we_cannot_follow(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    adapted("llama", tmp_path)
    change_config(tmp_path / "adapter", **changes)
    with pytest.raises(UserError, match=said):
        load_model(tmp_path / "adapter")


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    adapted("llama", tmp_path)
    path = tmp_path / "adapter" / ADAPTER_WEIGHTS
    whole = load_weights(path)
    key = next(name for name in whole if "q_proj.lora_A" in name)
    for tensors, said in (
        ({name: tensor for name, tensor in whole.items() if name != key}, "does not fit.*q_proj"),
        (whole | {key: whole[key][:, 1:]}, "does not fit.*q_proj"),
        (
            whole | {"base_model.model.lm_head.lora_A.weight": whole[key].clone()},
            "lm_head.lora_A.weight, which",
        ),
    ):
        save_weights(path, tensors)
        with pytest.raises(UserError, match=said):
            load_model(tmp_path / "adapter")
    path.write_bytes(b"damage")
    with pytest.raises(UserError, match="cannot be read"):
        load_model(tmp_path / "adapter")
    (tmp_path / "adapter" / ADAPTER_CONFIG).write_text("[]")
    with pytest.raises(UserError, match="not a JSON object"):
        load_model(tmp_path / "adapter")


def test_an_ngram_model_has_no_layers(tmp_path: Path) -> None:
    adapted("llama", tmp_path)
    save_model(tmp_path / "ngram", make_ngram(), None)
    change_config(tmp_path / "adapter", base_model_name_or_path="../ngram")
    with pytest.raises(UserError, match="n-gram"):
        load_model(tmp_path / "adapter")
