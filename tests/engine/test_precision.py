"""What 8 bits cost is measured on text, in bits per byte."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import malmoi
from malmoi.core.errors import UserError
from malmoi.engine.engine import Engine
from malmoi.engine.loaded import Loaded
from malmoi.engine.score import bits_per_byte, score
from malmoi.hub.folder import load_model, save_model
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.ngram import KneserNey
from malmoi.serve.catalogue import languages, open_catalogue, quantization_loss
from malmoi.text.tokenizer import Tokenizer, train_tokenizer

TEXTS = ["The bread was warm.", "국이 식어 있었다."]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = train_tokenizer([], "byte")
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, context=64, layers=2, width=32, heads=2, tied=True
    )
    save_model(tmp_path, build_model(config), tokenizer)
    return tmp_path


def test_bits_per_byte_are_those_of_the_scores(folder: Path) -> None:
    model = Loaded(folder)
    engine = Engine(model.model, model.tokenizer)
    nats = -sum(score(engine, [[model.tokenizer.start]] * 2, TEXTS))
    wanted = nats / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert bits_per_byte(engine, TEXTS) == pytest.approx(wanted, rel=1e-5)


def test_what_8_bits_cost(folder: Path) -> None:
    (entry,) = languages(open_catalogue([folder], quantize="int8"))
    before, after = quantization_loss(entry)
    assert before != after
    assert after == pytest.approx(before, rel=0.02)


def test_every_precision_answers(folder: Path) -> None:
    exact_VD = load_model(folder)[0].head.weight.detach()  # pyright: ignore[reportAttributeAccessIssue]
    for options in ({}, {"dtype": "bf16"}, {"quantize": "int8"}):
        model = malmoi.load(folder, **options)
        assert isinstance(model, Loaded)
        weight_VD = model.model.head.weight.float()  # pyright: ignore[reportAttributeAccessIssue]
        assert torch.equal(weight_VD, exact_VD) == (options == {})
        assert float((weight_VD - exact_VD).norm() / exact_VD.norm()) < 0.02
        (found,) = model.complete("밤", max_tokens=3, temperature=0)
        assert 1 <= len(found.ids) <= 3


def test_a_wrong_precision_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dtype is 'fp8'; it can be fp32, bf16, fp16"):
        malmoi.load(folder, dtype="fp8")
    with pytest.raises(UserError, match="it can be int8, int4"):
        malmoi.load(folder, quantize="q4")
    with pytest.raises(UserError, match="leave dtype out"):
        malmoi.load(folder, quantize="int8", dtype="bf16")
    tokenizer: Tokenizer = train_tokenizer([], "byte")
    counts = KneserNey.fit(
        torch.tensor([*tokenizer.encode("가나다 가나다"), 0]).numpy(), tokenizer.vocab_size
    )
    save_model(tmp_path / "ngram", counts, tokenizer)
    with pytest.raises(UserError, match="n-gram"):
        malmoi.load(tmp_path / "ngram", quantize="int8")
