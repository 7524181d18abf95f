"""Our folders in `transformers`, and theirs here: the same numbers (see parity.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.hub.architectures import ARCHITECTURES
from malmoi.hub.bert import ENCODERS
from malmoi.hub.folder import load_model, save_model
from malmoi.models.language import LanguageModel
from malmoi.text.tokenizer import train_tokenizer
from malmoi.util.files import read_json, write_json
from tests.hub import parity
from tests.models.variants import TRANSFORMERS, make_model, random_ids

OWN = ("window-and-qk-norm", "learned-rms", "gelu-rotary")  # what no outside architecture can say
IDS_BT = random_ids(2, 24)
CELLS = {f"{row.name}: {column}": check for row in parity.ROWS for column, check in row.checks.items()}


@pytest.mark.parametrize("cell", CELLS)
def test_cell_of_the_matrix(cell: str) -> None:
    CELLS[cell]()


def test_the_table_in_the_document_is_what_the_tests_cover() -> None:
    assert parity.written_table() == parity.table(set()), "run python -m tests.hub.parity"


def test_every_architecture_has_a_row() -> None:
    covered = {config.model_type for config in parity.DECODERS.values()}
    assert covered == set(ARCHITECTURES)
    assert set(parity.ENCODER_FAMILIES.values()) == set(ENCODERS)


def test_a_cell_that_differs_is_shown() -> None:
    name = next(iter(parity.DECODERS))
    assert "**no**" in parity.table({(name, "forward")})


def our_logits(model: object) -> Tensor:
    assert isinstance(model, LanguageModel)
    return parity.our_logits(model, IDS_BT)


@pytest.mark.parametrize("name", [name for name in TRANSFORMERS if name not in OWN])
def test_transformers_reads_our_folder(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    assert save_model(tmp_path, model, None) == ""
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert theirs.config.model_type == {"gemma3": "gemma3_text"}.get(name, name.partition("-")[0])
    parity.assert_near(our_logits(model), parity.their_logits(theirs.eval(), IDS_BT))
    assert torch.equal(our_logits(load_model(tmp_path).model), our_logits(model))


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


# ---- what config.json may say


def saved(folder: Path, name: str) -> dict[str, Any]:
    """The config.json of a parity row as `transformers` writes it, beside its weights."""
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(parity.DECODERS[name]).save_pretrained(folder)
    return read_json(folder / "config.json")


def old_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """As transformers 4 wrote it."""
    rope = dict(config.pop("rope_parameters"))
    local = rope.pop("sliding_attention", None)
    if local is not None:
        config["rope_local_base_freq"], rope = local["rope_theta"], rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    return config


@pytest.mark.parametrize("name", [name for name in parity.DECODERS if "rope" in name or name == "Qwen2"])
def test_both_spellings_of_rope_mean_the_same(name: str, tmp_path: Path) -> None:
    config = saved(tmp_path, name)
    new = load_model(tmp_path).model
    write_json(tmp_path / "config.json", old_spelling(config))
    old = load_model(tmp_path).model
    assert isinstance(new, LanguageModel)
    assert isinstance(old, LanguageModel)
    assert old.config == new.config


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown architecture": ("Llama 2", {"model_type": "lama"}, "llama"),
    "pictures, too": (
        "Gemma 3", {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, "(gemma3_text)",
    ),
    "activation": ("Llama 2", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
    "rope type": ("Llama 2", {"rope_parameters": {"rope_type": "proportional"}}, "'proportional'"),
    "rope option": (
        "Llama 2", {"rope_scaling": {"type": "linear", "factor": 2.0, "speed": 3}}, "speed",
    ),
    "rope without its factor": ("Llama 2", {"rope_scaling": {"type": "linear"}}, "factor"),
    "rope turned round": (
        "Llama 2",
        {"rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 1}},
        "high_freq_factor",
    ),
    "rope of a part": ("Llama 2", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    "longrope of another width": (
        "Llama 2",
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0], "factor": 2.0}},
        "short_factor",
    ),
    "biases that are not there": ("Mistral", {"mlp_bias": True}, "mlp_bias = True"),
    "a window that is not there": ("Llama 2", {"use_sliding_window": True}, "use_sliding_window"),
    "layer types": ("Qwen3, layer_types", {"layer_types": ["full_attention"]}, "4 layer_types"),
    "other layer types": ("Gemma 2", {"layer_types": ["chunked_attention"] * 2}, "2 layer_types"),
    "sliding without a window": ("Gemma 2", {"sliding_window": None}, "no sliding_window"),
    "both ways": ("Gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    "a cap that is not there": ("Gemma 3", {"attn_logit_softcapping": 9.0}, "attn_logit_softcapping"),
    "local rope": (
        "Gemma 3",
        {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
        "rope_type = 'linear'",
    ),
    "flat rope": ("Gemma 3", {"rope_parameters": {"rope_type": "default"}}, "rope_parameters"),
    "too few rope layers": ("SmolLM3", {"no_rope_layers": [1, 0]}, "4 no_rope_layers"),
    "heads that do not divide": ("Llama 2", {"num_key_value_heads": 3}, "kv_heads 3"),
    "a negative size": ("Llama 2", {"hidden_size": -1}, "hidden_size = -1; it must be"),
    "more layers than weights": ("Llama 2", {"num_hidden_layers": 3}, "model.layers.2."),
    "a word for a number": ("Llama 2", {"num_hidden_layers": "two"}, "layers"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_config_that_we_cannot_follow_is_refused_in_a_line(case: str, tmp_path: Path) -> None:
    name, change, words = BAD[case]
    write_json(tmp_path / "config.json", saved(tmp_path, name) | change)
    with pytest.raises(UserError) as error:
        load_model(tmp_path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_of_several_lengths_are_refused_where_their_rotation_would_depend_on_the_longest() -> None:
    model = parity.pair("Llama, rope dynamic").ours
    assert model.context == parity.CONTEXT
    state = model.new_state(2)
    model.step(parity.random_ids(2, 30), torch.tensor([30, 20]), state)
    model.step(parity.random_ids(2, 9), torch.tensor([1, 9]), state)  # only padding lies beyond
    with pytest.raises(UserError, match="one row at a time"):
        model.step(parity.random_ids(2, 5), torch.tensor([5, 5]), state)


def test_a_longrope_model_serves_rows_of_its_original_context() -> None:
    it = parity.pair("Llama, rope longrope")
    assert it.config.context == parity.CONTEXT
    assert it.ours.context == 24
