"""DPO against its formula, and on preferences that can be learned. R rows, T positions, V vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from malmoi.core.nouns import Message
from malmoi.core.tensors import TokenBatch
from malmoi.learn.loop import Loop, compute_loss
from malmoi.learn.objectives.preferences import Pairs, Preferences, answer_log_probabilities, preference_loss
from malmoi.learn.run_config import PreferenceSpec
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.models.lora import LoRASpec, add_lora
from malmoi.text.chat import ChatFormat, ChatRow
from malmoi.text.tokenizer import train_tokenizer

WORDS = (
    "goose", "river", "stone", "cloud", "paper", "house", "table", "apple", "bread", "light", "water",
    "green", "plate", "chair", "spoon", "north",
)  # fmt: skip
LEARNED = 12
CONTEXT = 64
TOKENIZER = train_tokenizer(WORDS, "byte", 300)
FORM = ChatFormat.for_tuning(TOKENIZER)


def model_of(family: str = "transformer", seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    size = TOKENIZER.vocab_size
    if family == "transformer":
        return build_model(TransformerConfig(vocab_size=size, context=CONTEXT, layers=1, width=32, heads=2))
    return build_model(RecurrentConfig(family="lstm", vocab_size=size, layers=1, width=32))


def row(question: str, answer: str) -> ChatRow:
    return FORM.training_row((Message("user", question), Message("assistant", answer)))


def shouted(words: Sequence[str]) -> list[tuple[ChatRow, ChatRow]]:
    """It is better to answer in capital letters, and in polite Korean."""
    english = [(row(f"say {word}", word.upper()), row(f"say {word}", word)) for word in words]
    korean = [(row(f"{word}?", f"{word} 네요"), row(f"{word}?", f"{word} 그래")) for word in words]
    return english + korean


def preferences(spec: PreferenceSpec) -> Preferences:
    train, valid = Pairs(shouted(WORDS[:LEARNED]), CONTEXT), Pairs(shouted(WORDS[LEARNED:]), CONTEXT)
    return Preferences(train, valid, spec)


def spec_of(**changes: object) -> PreferenceSpec:
    known = {"steps": 12, "batch": 8, "micro_batch": 4, "dtype": "fp32", "lr": 3e-3, "warmup_steps": 2}
    return PreferenceSpec.model_validate(
        known | {"optimizer": "adamw", "eval_every": 4, "checkpoint_every": 4} | changes
    )


def trainer_of(model: LanguageModel, folder: Path, **changes: object) -> Loop:
    spec = spec_of(**changes)
    objective = preferences(spec)
    objective.refer(model, 4, "fp32")
    return Loop(model, objective, spec, folder)


def test_the_loss_is_the_formula() -> None:
    """log p: chosen -3 and -1, rejected -2 and -4; the reference: -2.5, -2, -2.5, -3. beta 0.5."""
    found = preference_loss(
        torch.tensor([-3.0, -1.0, -2.0, -4.0]), torch.tensor([-2.5, -2.0, -2.5, -3.0]), 0.5
    )
    margins = (0.5 * (-0.5) - 0.5 * 0.5, 0.5 * 1.0 - 0.5 * (-1.0))
    assert margins == (-0.5, 1.0)
    assert found.sum.item() == pytest.approx(math.log(1 + math.exp(0.5)) + math.log(1 + math.exp(-1.0)))
    assert found.count == 2
    assert found.measures == {
        "margin": pytest.approx(0.5), "chosen_reward": pytest.approx(0.25), "accuracy": 1, "likelier": 1
    }  # fmt: skip
    smooth = preference_loss(torch.tensor([1.0, 0.0]), torch.zeros(2), 1.0, 0.2).sum.item()
    assert smooth == pytest.approx(0.8 * math.log(1 + math.exp(-1)) + 0.2 * math.log(1 + math.exp(1)))


def summed_log_probability(model: LanguageModel, one: ChatRow) -> Tensor:
    """The same again, one id after another."""
    ids = torch.tensor([one.ids])
    logits_TV = model.logits(model.hidden(TokenBatch(ids)))[0]
    said = [logits_TV[at - 1].log_softmax(0)[one.ids[at]] for at in range(len(one.ids)) if one.trained[at]]
    return torch.stack(said).sum()


@pytest.mark.parametrize("family", ["transformer", "lstm"])
def test_loss_and_gradients_equal_an_independent_computation(family: str) -> None:
    model, reference = model_of(family), model_of(family, seed=1)
    objective = preferences(spec_of(beta=0.7, label_smoothing=0.1))
    objective.refer(reference, 3, "fp32")
    part = objective.part(1, 0, 5)
    objective.loss(model, part).sum.backward()
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    pairs = [shouted(WORDS[:LEARNED])[objective._pair(8 + place)] for place in range(5)]
    total = torch.zeros(())
    for chosen, rejected in pairs:
        ours = summed_log_probability(model, chosen) - summed_log_probability(model, rejected)
        with torch.no_grad():
            theirs = summed_log_probability(reference, chosen) - summed_log_probability(reference, rejected)
        right = functional.binary_cross_entropy_with_logits(0.7 * (ours - theirs), torch.tensor(0.9))
        total = total + right
    torch.testing.assert_close(objective.loss(model, part).sum, total)
    total.backward()
    wanted = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lora", [False, True])
def test_before_training_the_loss_is_ln_2_and_margins_are_0(lora: bool, tmp_path: Path) -> None:
    model = model_of()
    if lora:
        add_lora(model, LoRASpec())
    trainer = trainer_of(model, tmp_path)
    found = trainer.evaluate()
    assert found["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found["margin"] == pytest.approx(0, abs=1e-5)
    first = next(trainer.run())
    assert first.loss == pytest.approx(math.log(2), abs=1e-6)
    assert first.measures["margin"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("lora", [False, True])
def test_it_learns_what_is_preferred_and_it_holds_for_new_pairs(lora: bool, tmp_path: Path) -> None:
    model = model_of()
    if lora:
        add_lora(model, LoRASpec(rank=4))
    trainer = trainer_of(model, tmp_path, steps=60 if lora else 40, lr=1e-2, beta=0.5)
    reports = list(trainer.run())
    last = reports[-1]
    assert last.valid_loss is not None
    assert last.valid_loss < 0.5 * math.log(2)
    assert last.measures["valid_accuracy"] >= 0.9
    assert last.measures["valid_margin"] > 0.5
    assert last.measures.keys() == {
        f"{part}{name}"
        for part in ("", "valid_")
        for name in ("margin", "chosen_reward", "accuracy", "likelier")
    }


def test_each_epoch_has_each_pair_once() -> None:
    objective = preferences(spec_of())
    for epoch in (0, 1):
        assert sorted(objective._pair(24 * epoch + place) for place in range(24)) == list(range(24))
    assert [objective._pair(place) for place in range(24)] != [
        objective._pair(24 + place) for place in range(24)
    ]


def test_only_the_answers_count_and_padding_does_not() -> None:
    pairs = Pairs(shouted(WORDS), CONTEXT)
    model = model_of()
    together = answer_log_probabilities(model, pairs.batch([0, 12, 3]).tokens)
    alone = torch.cat([answer_log_probabilities(model, pairs.batch([at]).tokens) for at in (0, 12, 3)])
    torch.testing.assert_close(together.view(2, 3).T.flatten(), alone)


def test_stopping_and_going_on_changes_nothing(tmp_path: Path) -> None:
    def fresh(folder: str) -> Loop:
        model = model_of()
        add_lora(model, LoRASpec(dropout=0.2))
        return trainer_of(model, tmp_path / folder)

    whole = fresh("whole")
    reports = list(whole.run())
    stopped = fresh("parts")
    for report in stopped.run():
        if report.step == 5:
            break
    resumed = fresh("parts")
    resumed.resume(pytest.fail)
    assert resumed.step == 4
    again = list(resumed.run())
    assert [r.loss for r in again] == [r.loss for r in reports[4:]]
    assert again[-1].measures == reports[-1].measures
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    losses = []
    for rows in (2, 8):
        trainer = trainer_of(model_of(), tmp_path / str(rows), micro_batch=rows, steps=5)
        losses.append([report.loss for report in trainer.run()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_bf16_is_near_fp32() -> None:
    model = model_of()
    objective = preferences(spec_of())
    objective.refer(model_of(seed=1), 4, "fp32")
    part = objective.part(0, 0, 8)
    exact, rough = (compute_loss(model, objective, part, dtype).sum.item() for dtype in ("fp32", "bf16"))
    assert rough == pytest.approx(exact, rel=0.02)
