"""Encoders of others below our heads: they learn, they are saved whole, and what cannot work is refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Budget, Example, Question
from malmoi.inside.attention import record
from malmoi.inside.sources import Network
from malmoi.methods.base import Method
from malmoi.methods.folder import load_method, save_method
from malmoi.methods.neural.pretrained import PretrainedSpanForm
from malmoi.methods.registry import make_method, method_options
from malmoi.tasks import make_task
from tests.hub.tiny_encoder import FAMILIES, write_encoder
from tests.methods.test_neural import accuracy, reviews, visits
from tests.methods.tiny import fitted_to

QUICK: dict[str, Any] = {"lr": 5e-3, "dropout": 0.0, "warmup_steps": 0}


def learned(task: str, folder: Path, examples: list[Example[Any, Any]], steps: int, **options: Any) -> Method:
    method = make_method("pretrained", make_task(task), {"encoder": str(folder)} | options)
    return fitted_to(method, examples, examples, Budget(steps=steps))


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_learned_by_heart(family: str, tmp_path: Path) -> None:
    write_encoder(tmp_path, family)
    assert accuracy(learned("classification", tmp_path, reviews(), 30, **QUICK), reviews()) > 0.95


@pytest.mark.parametrize("pooling", ["mean", "max", "first", "last"])
def test_a_frozen_encoder_stays_as_it_is(pooling: str, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    method = learned("classification", tmp_path, reviews(), 0, frozen=True, pooling=pooling)
    assert accuracy(method, reviews()) > 0.8
    assert "steps" not in method.report
    again = learned("classification", tmp_path, reviews(), 0, frozen=True, pooling=pooling)
    assert again.probabilities(["최고였다", "dull"]) == method.probabilities(["최고였다", "dull"])


def test_fine_tuning_begins_with_the_head_of_the_frozen_encoder(tmp_path: Path) -> None:
    """Which has learned from the held-out part, too; here that is what it learned from once more."""
    write_encoder(tmp_path)
    frozen = learned("classification", tmp_path, reviews(), 0, frozen=True)
    options = {"encoder": str(tmp_path), "lr": 1e-9, "dropout": 0.0}
    method = make_method("pretrained", make_task("classification"), options)
    tuned = fitted_to(method, reviews() * 2, reviews(), Budget(steps=1))
    for ours, theirs in zip(
        *(it.raw_probabilities(["lovely", "추웠다"]) or [] for it in (frozen, tuned)), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("crf", [True, False])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_names_are_found_by_exact_characters(family: str, crf: bool, tmp_path: Path) -> None:
    write_encoder(tmp_path, family)
    assert accuracy(learned("ner", tmp_path, visits(), 60, crf=crf, **QUICK), visits()) > 0.9


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_answer_far_behind_is_found_in_its_own_piece(family: str, tmp_path: Path) -> None:
    write_encoder(tmp_path, family)
    rng, examples = random.Random(0), []
    for number in range(60):
        filler = " ".join(rng.choice(("rain", "바람", "snow", "sun")) for _ in range(rng.randint(0, 40)))
        context = f"{filler} The key is {1000 + number}. {filler}".strip()
        answer = str(1000 + number)
        examples.append(Example(Question("What is the key?", context), Answer(answer, context.index(answer))))
    method = learned("question-answering", tmp_path, examples, 100, max_context=24, **QUICK)
    assert accuracy(method, examples) > 0.9


def test_a_pair_is_framed_as_the_model_expects(tmp_path: Path) -> None:
    for family, between in (("bert", 1), ("roberta", 2)):
        write_encoder(tmp_path / family, family)
        options = {"encoder": str(tmp_path / family), "max_context": 16}
        method = make_method("pretrained", make_task("question-answering"), options)
        form = method.form  # pyright: ignore[reportAttributeAccessIssue]
        assert isinstance(form, PretrainedSpanForm)
        form.read_folder(99, "all")
        question = Question("Who came?", "Mina came.")
        [row] = form.rows([Example(question, Answer("Mina", 0))])
        ids_BP, mask_BT, first_BT1 = form.tensors([row.encoded])
        encode, (first, last, _) = form.tokenizer.encode, form.frame
        pair = [first, *encode("Who came?"), *[last] * between, *encode("Mina came."), last]
        assert ids_BP.tolist() == [pair]
        assert first_BT1 is not None
        assert mask_BT.all()
        assert all(ids_BP[0, at] not in (first, last) for at in first_BT1.flatten())


def test_long_words_lose_their_ends_and_no_row_is_too_long(tmp_path: Path) -> None:
    write_encoder(tmp_path, "roberta", max_position_embeddings=42)
    method = learned("ner", tmp_path, visits(), 1, max_units=38)
    texts = ["".join(chr(0x4E00 + i) for i in range(n)) + " Mina" * n for n in (1, 10, 38, 200)]
    assert all(found is not None for found in method.predict(texts).values)


@pytest.mark.parametrize("task", ["classification", "ner"])
def test_a_fitted_method_needs_its_encoder_no_more(task: str, tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder", "roberta")
    examples: list[Any] = reviews() if task == "classification" else visits()
    method = learned(task, tmp_path / "encoder", examples, 3)
    save_method(tmp_path / "saved", method)
    shutil.rmtree(tmp_path / "encoder")
    texts = [example.input for example in examples]
    assert load_method(tmp_path / "saved").predict(texts).values == method.predict(texts).values


def test_two_encoders_are_compared_as_variants(tmp_path: Path) -> None:
    task = make_task("classification")
    settings = {f"pretrained:{name}.encoder": str(tmp_path / name) for name in ("large", "small")}
    found = method_options(task, "tfidf,pretrained:large,pretrained:small", settings)
    assert found["pretrained:small"] == {"encoder": str(tmp_path / "small")}
    assert "pretrained" not in method_options(task, "all", {})


@pytest.mark.parametrize(
    ("task", "given", "says"),
    [
        ("classification", {"encoder": ""}, "encoder: give the folder of a pre-trained encoder"),
        ("classification", {"frozen": True, "lr": 1e-3}, "frozen encoder takes no steps, so lr"),
        ("classification", {"max_tokens": 2}, "max_tokens"),
        ("classification", {"width": 64}, "no option 'width'"),
        ("classification", {"word_dropout": 0.1}, "no option 'word_dropout'"),
        ("ner", {"frozen": True}, "no option 'frozen'"),
        ("ner", {"characters": False}, "no option 'characters'"),
        ("translation", {}, "no method 'pretrained' for translation"),
    ],
)
def test_options_that_say_nothing_are_refused(task: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_method("pretrained", make_task(task), {"encoder": "somewhere"} | given)


@pytest.mark.parametrize(
    ("task", "given"), [("classification", {"max_tokens": 600}), ("ner", {"max_units": 511})]
)
def test_rows_that_the_encoder_cannot_read_are_refused(
    task: str, given: dict[str, Any], tmp_path: Path
) -> None:
    write_encoder(tmp_path)
    examples: list[Any] = reviews() if task == "classification" else visits()
    with pytest.raises(UserError, match=r"but .* reads 512 at most"):
        learned(task, tmp_path, examples, 1, **given)


def test_a_folder_without_an_encoder_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config.json"):
        learned("classification", tmp_path, reviews(), 1)


def test_the_same_data_make_the_same_method(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    first, second = (learned("ner", tmp_path, visits(), 2) for _ in range(2))
    weights = [it.parts().tensors for it in (first, second)]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("task", ["classification", "ner", "question-answering"])
def test_what_the_encoder_read_can_be_looked_into(task: str, tmp_path: Path) -> None:
    write_encoder(tmp_path, "roberta")
    asked = Question("Who came?", "Mina came.")
    examples: dict[str, list[Any]] = {
        "classification": reviews(), "ner": visits(),
        "question-answering": [Example(asked, Answer("Mina", 0))] * 2,
    }  # fmt: skip
    method = learned(task, tmp_path, examples[task], 1)
    _, network = method.insides(asked if task == "question-answering" else "Mina came.")
    assert isinstance(network, Network)
    assert network.model is method.network
    layers = record(network.model, network.read).attended
    assert layers
    assert all(one.weights_HTS.shape[1:] == (len(network.source),) * 2 for one in layers)
