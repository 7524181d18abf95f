"""What differs between forms: options that change the model, warm-up, long inputs, imbalance, overfitting."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Budget, Entity, Example, Question
from malmoi.methods.base import Method
from malmoi.methods.neural.spans import SpanForm
from malmoi.methods.registry import make_method
from malmoi.models.encoder import Encoder, EncoderConfig
from malmoi.models.heads import Classifier, EncoderBatch
from malmoi.tasks import make_task
from tests.methods.tiny import fitted_to

SMALL: dict[str, Any] = {"width": 32, "dropout": 0.0, "warmup_steps": 0}
NAMES = ("Mina", "Oscar", "Vera", "민수", "지우", "하늘")
PLACES = ("Noru", "Plum Street", "the mill", "노루마을", "방앗간", "자두길")


def learned(task: str, name: str, examples: list[Example[Any, Any]], steps: int, **options: Any) -> Method:
    method = make_method(name, make_task(task), SMALL | options)
    return fitted_to(method, examples, examples, Budget(steps=steps))


def reviews(count: int = 60) -> list[Example[Any, Any]]:
    words = {"good": ("lovely", "warm", "최고였다"), "bad": ("dull", "cold", "지루했다")}
    rng = random.Random(0)
    labels = [rng.choice(("good", "bad")) for _ in range(count)]
    return [Example(f"The film was {rng.choice(words[x])} {n}", x) for n, x in enumerate(labels)]


def visits(count: int = 60) -> list[Example[Any, Any]]:
    found, rng = [], random.Random(0)
    for _ in range(count):
        name, place = rng.choice(NAMES), rng.choice(PLACES)
        text = f"{name} went to {place} today." if name.isascii() else f"{name}는 오늘 {place}에 갔다."
        spans = [(name, "PER"), (place, "LOC")]
        entities = tuple(sorted(Entity(text.index(s), text.index(s) + len(s), x) for s, x in spans))
        found.append(Example(text, entities))
    return found


def accuracy(method: Method, examples: list[Example[Any, Any]]) -> float:
    found = method.predict([example.input for example in examples]).values
    return sum(y == e.target for y, e in zip(found, examples, strict=True)) / len(examples)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "transformer"])
@pytest.mark.parametrize("pooling", ["mean", "last", "attention", "max"])
def test_classifiers_learn_by_heart(name: str, pooling: str) -> None:
    assert accuracy(learned("classification", name, reviews(), 60, pooling=pooling), reviews()) > 0.95


@pytest.mark.parametrize("options", [{}, {"crf": False}, {"characters": False}])
@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_taggers_find_exact_spans_in_both_languages(name: str, options: dict[str, Any]) -> None:
    assert accuracy(learned("ner", name, visits(), 80, **options), visits()) > 0.9


@pytest.mark.parametrize("copying", [True, False])
@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_encoder_decoders_learn_by_heart(name: str, copying: bool) -> None:
    pairs = [Example(f"{a} sees {b}.", f"{b} 옆에 {a} 있다.") for a in NAMES[:3] for b in PLACES[:3]]
    method = learned("translation", name, pairs, 150, copying=copying, vocab_size=400, batch=9)
    assert accuracy(method, pairs) > 0.8


def test_an_answer_far_behind_is_found_in_its_own_piece() -> None:
    rng = random.Random(0)
    examples = []
    for number in range(80):
        filler = " ".join(rng.choice(("rain", "wind", "snow", "sun")) for _ in range(rng.randint(0, 60)))
        context = f"{filler} The key is {1000 + number}. {filler}".strip()
        answer = str(1000 + number)
        examples.append(Example(Question("What is the key?", context), Answer(answer, context.index(answer))))
    method = learned("question-answering", "lstm", examples, 120, max_context=24)
    assert isinstance(method.form, SpanForm)
    assert len(method.form.rows(examples)) > len(examples)  # pieces overlap
    assert accuracy(method, examples) > 0.8


def test_a_text_longer_than_a_piece_is_tagged_to_its_end() -> None:
    method = learned("ner", "lstm", visits(), 80, max_units=32)
    text = " ".join(example.input for example in visits(40)[::2])
    found = method.predict([text]).values[0]
    assert found
    assert found[-1].end > len(text) * 0.9


WORDS = ("rain", "wind", "snow", "sun", "비", "바람", "눈", "해")


def long_reviews(seed: int, count: int) -> list[Example[str, str]]:
    """Of some 60 tokens, the last word of which alone decides."""
    rng = random.Random(seed)
    return [
        Example(" ".join(rng.choice(WORDS) for _ in range(60)) + f" {word}", label)
        for word, label in (("lovely", "good"), ("awful", "bad")) for _ in range(count // 2)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_a_label_that_the_far_end_of_a_long_text_decides_is_learned(name: str) -> None:
    method = learned("classification", name, long_reviews(0, 48), 60, max_tokens=16)
    assert accuracy(method, long_reviews(1, 48)) > 0.95
    values = [example.input for example in long_reviews(1, 8)]
    together = method.probabilities(["lovely", *values])
    alone = [method.probabilities([value])[0] for value in ["lovely", *values]]
    assert [one["good"] for one in together] == pytest.approx([one["good"] for one in alone], abs=1e-5)
    assert method.cut_note(values) == ""


@pytest.mark.parametrize("pooling", ["max", "mean", "first"])
def test_the_windows_of_a_text_make_one_vector(pooling: Any) -> None:
    torch.manual_seed(0)
    model = Classifier(Encoder(EncoderConfig(family="lstm", vocab_size=9, width=4)), 2, pooling).eval()
    ids_BT, mask_BT = torch.randint(9, (3, 5)), torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [1] * 5]).bool()
    apart_BD = model.vectors(EncoderBatch(ids_BT, mask_BT))
    joined_ND = model.vectors(EncoderBatch(ids_BT, mask_BT, texts_B=torch.tensor([0, 0, 1])))
    first, second = apart_BD[0], apart_BD[1]
    whole = torch.maximum(first, second) if pooling == "max" else (5 * first + 3 * second) / 8
    torch.testing.assert_close(joined_ND, torch.stack((whole, apart_BD[2])))


def test_what_is_not_read_of_a_text_is_counted() -> None:
    method = learned("classification", "lstm", long_reviews(0, 32), 2, max_tokens=16, max_windows=3)
    near, far = ("snow " * 38, "snow " * 38 + "sun " * 40)
    assert method.probabilities([near * 2]) == method.probabilities([near * 2 + "awful"])
    assert method.cut_note(["sun", far, near * 3]) == "2 of 3 texts cut at 40 tokens"
    assert len(method.insides(far)) == 2, "its first window can be looked into"


@pytest.mark.parametrize(("name", "most"), [("lstm", 16), ("transformer", 24)])
def test_names_lie_whole_in_a_window_wherever_they_stand(name: str, most: int) -> None:
    """Each is found once, at its place, though windows begin and end within some."""
    method = learned("ner", name, visits(), 100, max_units=most)
    text, targets = "", list[Entity]()
    for example in visits(60)[::3]:
        shift = len(text)
        targets += [Entity(e.start + shift, e.end + shift, e.label) for e in example.target]
        text += example.input + " "
    found = method.predict([text]).values[0]
    right = len(set(found) & set(targets))
    assert right / len(targets) > 0.9
    assert right / len(found) > 0.9
    assert len(method.form.rows([Example(text, tuple(targets))])) > 10


def test_warm_up_teaches_the_encoder(tmp_path: Path) -> None:
    text = tmp_path / "town.txt"
    text.write_text("\n".join(example.input for example in visits(200)), encoding="utf-8")
    cold = learned("ner", "transformer", visits(20), 1)
    warm = learned("ner", "transformer", visits(20), 1, unlabelled=str(text), warm_up_epochs=5)
    assert warm.report["warm_up_steps"] > 0
    weights = [m.model.encoder.embed.weight for m in (cold, warm)]
    assert (weights[0] - weights[1]).abs().max() > 0.01
    replayed = make_method("transformer", make_task("ner"), SMALL | {"unlabelled": str(text)})
    fitted_to(replayed, visits(20), visits(20), Budget(steps=1, warm_up_steps=2))
    assert replayed.report["warm_up_steps"] == 2


def test_a_step_of_warm_up_may_have_nothing_to_guess(tmp_path: Path) -> None:
    text = tmp_path / "short.jsonl"
    text.write_text(40 * '{"text": "a"}\n', encoding="utf-8")  # rows of one letter: few are hidden
    warm = learned("classification", "lstm", reviews(), 1, unlabelled=str(text), batch=1, warm_up_epochs=1)
    assert all(np.isfinite(list(row.values())).all() for row in warm.probabilities(["최고였다"]) or [])


def test_warm_up_needs_text(tmp_path: Path) -> None:
    (tmp_path / "little.txt").write_text("a", encoding="utf-8")
    with pytest.raises(UserError, match="too little text"):
        learned("classification", "lstm", reviews(), 1, unlabelled=str(tmp_path / "little.txt"))


def test_rare_labels_weigh_more() -> None:
    examples = [*reviews(55), *(Example(f"Nobody knows {n}", "rare") for n in range(5))]
    for balance, ratio in ((0.0, 1.0), (1.0, None)):
        method = learned("classification", "lstm", examples, 1, balance=balance)
        weights = dict(zip(method.form.labels, method.form.weights_L.tolist(), strict=True))
        if ratio:
            assert weights["rare"] == pytest.approx(weights["good"])
        else:
            counts = {x: sum(e.target == x for e in examples) for x in weights}
            assert weights["rare"] / weights["good"] == pytest.approx(counts["good"] / counts["rare"])


def test_a_label_unseen_in_training_is_measured_as_wrong() -> None:
    examples = reviews()
    valid = [*examples[:10], Example("Never seen", "new")]
    method = make_method("lstm", make_task("classification"), SMALL)
    fitted_to(method, examples, valid, Budget(steps=60))
    assert "new" not in (method.probabilities(["Never seen"]) or [{}])[0]
    assert accuracy(method, valid) < 1


def test_heads_belong_to_transformers() -> None:
    with pytest.raises(UserError, match="heads"):
        make_method("lstm", make_task("ner"), {"heads": 2})
    with pytest.raises(UserError, match="width"):
        make_method("transformer", make_task("ner"), {"width": 30})


def test_the_random_state_outside_does_not_matter() -> None:
    torch.manual_seed(1)
    first = learned("classification", "lstm", reviews(), 5).probabilities(["The film was warm"])
    torch.manual_seed(2)
    assert learned("classification", "lstm", reviews(), 5).probabilities(["The film was warm"]) == first


@pytest.mark.parametrize(("steps", "told"), [(1, "1 step only"), (3, "3 steps only"), (40, "")])
def test_a_budget_that_was_too_small_is_reported(steps: int, told: str) -> None:
    note = learned("classification", "lstm", reviews(), steps).report.get("note", "")
    assert told in note
    assert bool(told) == bool(note)


def test_little_data_is_no_small_budget() -> None:
    method = make_method("lstm", make_task("classification"), {"epochs": 2, "vocab_size": 300, "width": 16})
    assert "note" not in fitted_to(method, reviews(), reviews()[:4]).report


LINES = [Example(f"{name} goes to {place} ", "and comes home.") for name in NAMES for place in PLACES]
TINY: dict[str, Any] = {"width": 16, "heads": 2, "layers": 1, "vocab_size": 300, "batch": 8}


def test_a_continuation_leaves_room_for_its_prompt() -> None:
    with pytest.raises(UserError, match=r"max_new_tokens 64 leaves no room .* lower max_new_tokens or raise"):
        make_method("transformer", make_task("completion"), {"context": 64})
    make_method("lstm", make_task("completion"), {"context": 64})  # there is no limit


def test_likelihoods_need_no_room_for_a_reply() -> None:
    texts, ends = ["The mill stands at the end of Plum Street. " * 3] * 2, ["Mina", "longer than all " * 9]
    few, many = (
        learned("completion", "transformer", LINES, 1, context=32, max_new_tokens=n, **TINY) for n in (1, 31)
    )
    assert few.log_likelihood(texts, ends) == many.log_likelihood(texts, ends)


def test_recurrent_networks_read_all_of_a_long_prompt() -> None:
    method = learned("completion", "lstm", LINES, 1, context=4, width=16, vocab_size=300, batch=8)
    one, other = method.log_likelihood([f"{first} is at home" for first in "MV"], ["."] * 2) or ()
    assert one != other
