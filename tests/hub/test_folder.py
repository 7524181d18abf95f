"""Folders of every family round-trip; what is missing, damaged or unknown is one line for the user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from malmoi.core.errors import UserError
from malmoi.hub.folder import load_model, load_stored, save_model
from malmoi.models.language import LanguageModel
from malmoi.models.native.library import kernels
from malmoi.models.packed import precision
from malmoi.models.state import Scorer
from malmoi.text.tokenizer import train_tokenizer
from malmoi.util.files import read_json, write_json
from tests.models.variants import NEURAL, make_model, make_ngram, random_ids

TOKENIZER = train_tokenizer(["small words, 작은 말"], "character", 40)  # fewer than the models have


def logits(scorer: Scorer) -> torch.Tensor:
    ids_BT = random_ids(2, 9)
    return scorer.step(ids_BT, torch.tensor([9, 9]), scorer.new_state(2, 9))


@pytest.mark.parametrize("name", [*NEURAL, "ngram"])
@pytest.mark.parametrize("tokenizer", [None, TOKENIZER])
def test_a_folder_keeps_the_model(name: str, tokenizer: Any, tmp_path: Path) -> None:
    model = make_ngram() if name == "ngram" else make_model(name)
    save_model(tmp_path / "new" / "folder", model, tokenizer, "# a card\n")
    found, found_tokenizer = load_model(tmp_path / "new" / "folder")
    assert torch.equal(logits(found), logits(model))
    assert (found_tokenizer is None) == (tokenizer is None)
    assert (tmp_path / "new" / "folder" / "README.md").read_text() == "# a card\n"
    assert (tmp_path / "new" / "folder" / "generation_config.json").exists() == (tokenizer is not None)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("window-and-qk-norm", ["post_norm = True"]),
        ("learned-rms", ["position = learned"]),
        ("gelu-rotary", ["feed_forward = gelu"]),
    ],
)
def test_what_no_architecture_expresses_is_a_malmoi_folder(
    name: str, reasons: list[str], tmp_path: Path
) -> None:
    note = save_model(tmp_path, make_model(name), TOKENIZER)
    assert any(reason in note for reason in reasons)
    assert "\n" not in note
    assert read_json(tmp_path / "config.json")["model_type"] == "malmoi_transformer"


@pytest.mark.parametrize(
    ("stored", "held"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16"), (torch.float16, "fp32")]
)
def test_weights_stay_as_they_are_stored_if_our_kernels_have_them_so(
    stored: torch.dtype, held: str, tmp_path: Path
) -> None:
    model = make_model("llama-gqa").to(stored)
    save_model(tmp_path, model, None)
    found = load_stored(tmp_path).model
    assert isinstance(found, LanguageModel)
    assert precision(found) == (held if kernels() else "fp32")
    exact = logits(load_model(tmp_path).model)
    off = float((logits(found) - exact).norm() / exact.norm())
    assert off < (0.02 if held == "bf16" else 1e-4)


def test_a_shared_matrix_is_stored_once(tmp_path: Path) -> None:
    for name in ("qwen3", "gpt2", "lstm"):
        save_model(tmp_path / name, make_model(name), None)
        stored = sum(t.numel() for t in load_file(tmp_path / name / "model.safetensors").values())
        assert stored == make_model(name).num_parameters()


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = read_json(folder / "config.json") | changes
        write_json(folder / "config.json", {k: v for k, v in config.items() if v != "gone"})

    return change


def cut(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, folder / "model.safetensors")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "config cut": cut("config.json"),
    "config is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "config is binary": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "weights cut": cut("model.safetensors"),
    "weights empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "weights are a folder": lambda folder: [
        (folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()
    ],
    "a tensor missing": drop_a_tensor,
    "tokenizer cut": cut("tokenizer.json"),
    "unknown type": edit(model_type="lama"),
    "no type": edit(model_type="gone"),
    "vocabulary too small": edit(vocab_size=7),
    "vocabulary a word": edit(vocab_size="many"),
    "vocabulary missing": edit(vocab_size="gone"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gru", "window-and-qk-norm", "ngram"])
def test_damage_is_one_line(name: str, damage: str, tmp_path: Path) -> None:
    save_model(tmp_path, make_ngram() if name == "ngram" else make_model(name), TOKENIZER)
    DAMAGES[damage](tmp_path)
    with pytest.raises(UserError) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama", "rope_scaling", {"rope_type": "yarn", "factor": 2.0, "speed": 3}),
        ("llama", "rope_scaling", "yarn"),
        ("llama", "hidden_act", "gelu"),
        ("llama", "num_attention_heads", 3),
        ("mistral", "sliding_window", 0),
        ("mistral", "attention_bias", True),
        ("qwen3", "mlp_bias", True),
        ("gpt2", "activation_function", "relu"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gru", "layers", 0),
        ("gru", "colour", "red"),
    ],
)
def test_a_choice_that_we_do_not_have_is_named(name: str, key: str, value: Any, tmp_path: Path) -> None:
    save_model(tmp_path, make_model(name), None)
    edit(**{key: value})(tmp_path)
    words = {"num_attention_heads": "heads 3", "sliding_window": "window", "rope_scaling": "yarn"}
    with pytest.raises(UserError, match=words.get(key, key)) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match="folder"):
            load_model(folder)


def test_saving_again_replaces_and_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    save_model(tmp_path, make_model("llama"), TOKENIZER)
    save_model(tmp_path, make_model("gru"), TOKENIZER)
    assert torch.equal(logits(load_model(tmp_path).model), logits(make_model("gru")))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
