"""Tuning a language model to one task: what is learned, for how long, and what is saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Budget, Entity, Example, Message, Question
from malmoi.hub.folder import load_model, save_model
from malmoi.learn import pace
from malmoi.learn.run_config import FULL_LR, LORA_LR
from malmoi.methods.base import Method
from malmoi.methods.folder import load_method, save_method
from malmoi.methods.llm.finetuned import FineTuned
from malmoi.methods.registry import make_method
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.models.lora import inner_layers, lora_layers
from malmoi.models.native.library import kernels
from malmoi.models.ngram import KneserNey
from malmoi.models.transformer import Transformer
from malmoi.tasks import TASKS, make_task
from malmoi.tasks.kinds import moved
from malmoi.text.chat import TEMPLATE, ChatFormat
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.files import sha256
from malmoi.util.tensor_files import read_tensors
from tests.methods.tiny import fitted_to, tokenizer_of, world, write_model

GOOD, BAD = ("lovely", "훌륭한"), ("dull", "지루한")
REVIEWS = [
    Example(f"{n}: a {(GOOD, BAD)[n % 2][n // 2 % 2]} thing", ("good", "나쁨")[n % 2]) for n in range(120)
]
WORDS = {"goose": "거위", "snow": "눈", "mill": "방앗간", "cat": "고양이"}
PAIRS = [Example(word, WORDS[word]) for _ in range(8) for word in WORDS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "lm")


def finetuned(task: str, model: Path, examples: Any = None, steps: int = 3, **options: Any) -> Method:
    made = make_task(task)
    examples = examples or world(task)[1]
    method = make_method("finetuned", made, {"model": str(model), "batch": 8} | options)
    return fitted_to(method, examples[:50], examples[50:60] or examples[:10], Budget(steps=steps))


def test_it_learns_labels_in_both_languages(model: Path) -> None:
    method = finetuned("classification", model, REVIEWS, steps=80, lr=1e-2)
    inputs = [example.input for example in REVIEWS[60:]]
    assert method.predict(inputs).values == [example.target for example in REVIEWS[60:]]
    found = method.probabilities(inputs[:2]) or []
    assert all(max(one.values()) > 0.9 for one in found)
    assert method.report["fit"]["best"] > -0.1


def test_it_learns_to_answer_and_to_stop(model: Path, tmp_path: Path) -> None:
    method = finetuned("translation", model, PAIRS, steps=140, lr=1e-2)
    assert method.predict(list(WORDS)).values == list(WORDS.values())
    likely = method.log_likelihood(["goose", "goose"], ["거위", "거위 눈"]) or []
    assert likely[0] > -1 > likely[1]
    save_method(tmp_path / "saved", method)
    assert load_method(tmp_path / "saved").predict(list(WORDS)).values == list(WORDS.values())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_lora_is_merged_and_the_base_stays(model: Path, dtype: str) -> None:
    before = sha256(model / "model.safetensors")
    method = finetuned("translation", model, PAIRS, steps=60, lora=True, dtype=dtype)
    assert isinstance(method, FineTuned)
    first, last = (value for _, _, value in method.report["fit"]["curve"])
    assert last > first
    tuned, base = method.asker.scorer, load_model(model).model
    assert isinstance(tuned, LanguageModel)
    assert isinstance(base, LanguageModel)
    assert not lora_layers(tuned)
    changed = {
        name.rpartition(".")[0]
        for (name, weight), (_, old) in zip(tuned.named_parameters(), base.named_parameters(), strict=True)
        if not weight.equal(old)
    }
    assert changed == {*inner_layers(base), "embed"}
    rows_changed = (tuned.embed.weight != base.embed.weight).any(dim=1)
    assert 0 < int(rows_changed.sum()) < 10  # the turn markers' vectors
    assert sha256(model / "model.safetensors") == before


def test_its_learning_rate_is_that_of_tuning_unless_given(model: Path, tmp_path: Path) -> None:
    wide = write_model(tmp_path / "wide", width=512)
    asked: list[tuple[Path, dict[str, Any], float]] = [
        (model, {}, FULL_LR), (model, {"lora": True}, LORA_LR), (model, {"lora": True, "lr": 0.01}, 0.01),
        (wide, {}, FULL_LR / 2), (wide, {"lora": True}, LORA_LR / 2), (wide, {"lr": 0.01}, 0.01),
    ]  # fmt: skip
    for folder, options, lr in asked:
        assert finetuned("classification", folder, REVIEWS, steps=1, **options).report["lr"] == lr


def test_its_folder_needs_no_other(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    method = finetuned("chat", base, max_new_tokens=8)
    save_method(tmp_path / "saved", method)
    shutil.rmtree(base)
    values = [example.input for example in world("chat")[1][60:64]]
    loaded = load_method(tmp_path / "saved")
    assert loaded.predict(values).values == method.predict(values).values
    assert loaded.log_likelihood(values, ["네"] * 4) == pytest.approx(
        method.log_likelihood(values, ["네"] * 4)
    )


def test_a_method_from_a_folder_is_packed_and_can_be_saved(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_json(tokenizer_of("bpe"))
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, context=256, layers=2, width=32, heads=2, bias=True, norm="layer"
    )
    save_model(tmp_path / "base", build_model(config), tokenizer)
    save_method(tmp_path / "first", finetuned("translation", tmp_path / "base", PAIRS, steps=2))
    loaded = load_method(tmp_path / "first")
    assert isinstance(loaded.network, Transformer)
    assert kernels() is None or loaded.network.fused is not None
    save_method(tmp_path / "second", loaded)
    first, second = (read_tensors(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all((array == second[name]).all() for name, array in first.items())
    assert load_method(tmp_path / "second").predict(list(WORDS)) == loaded.predict(list(WORDS))


def test_a_budget_becomes_steps_and_steps_are_replayed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LATE", 0.0)  # a plan that is changed on the way is more than its last number
    made, examples = world("translation")
    options = {"model": str(model), "batch": 4, "max_new_tokens": 6}
    first = fitted_to(
        make_method("finetuned", made, options), examples[:50], examples[50:60], Budget(seconds=2)
    )
    steps = first.report["steps"]
    assert 1 <= steps <= 4 * 13
    again = fitted_to(
        make_method("finetuned", made, options), examples[:50], examples[50:60], Budget(steps=steps)
    )
    values = [example.input for example in examples[60:]]
    assert again.report["steps"] == steps
    assert again.log_likelihood(values, ["네"] * len(values)) == first.log_likelihood(
        values, ["네"] * len(values)
    )
    assert 0 < first.report["fit"]["best_step"] <= steps


@pytest.mark.parametrize("task", [task for task in TASKS if task != "completion"])
def test_rows_are_the_formats_own(task: str, model: Path) -> None:
    method = finetuned(task, model, **({} if task == "classification" else {"max_new_tokens": 200}))
    assert isinstance(method, FineTuned)
    made, form = method.asker.task, ChatFormat(Tokenizer.load(model), TEMPLATE)
    examples = [one for one in world(task)[1] if method.asker.ask(one.input).value == one.input]
    whole = [example for example in examples if method.rows([example])]
    assert len(whole) > 30
    for example, row in zip(whole, method.rows(whole), strict=True):
        answer = Message("assistant", made.answer(example.target, example.input))
        same = form.training_row([*made.prompt(example.input), answer])
        assert row.ids == same.ids
        first = row.trained.index(True)
        assert row.trained[first:] == same.trained[first:] == [True] * (len(row.ids) - first)


def test_an_answer_that_was_cut_off_is_not_learned(tmp_path: Path) -> None:
    small = write_model(tmp_path / "small", context=200)
    near = [song(f"Ann{n} 노래 ", f"Ann{n}", 30 * (n % 2)) for n in range(60)]
    far = [song("말 ", f"Zoe{n}", 300, last=True) for n in range(5)]
    method = finetuned("question-answering", small, [*far, *near], max_new_tokens=8)
    assert isinstance(method, FineTuned)
    assert method.rows(far) == []
    assert len(method.rows(near)) == 60
    assert "5 of 50 training examples do not fit the context" in method.report["note"]


def song(text: str, answer: str, times: int, *, last: bool = False) -> Example[Question, Answer]:
    context = text * times + answer if last else answer + text * times
    return Example(Question("who?", context), Answer(answer, context.index(answer)))


def test_the_names_of_a_long_text_are_learned_in_its_windows(model: Path) -> None:
    text = "수지 met Ann." + " 말" * 900 + " Zoe"
    names = [Entity(0, 2, "PER"), Entity(7, 10, "PER"), Entity(len(text) - 3, len(text), "PER")]
    example = Example(text, tuple(names))
    method = finetuned("ner", model, [example] * 12)
    assert isinstance(method, FineTuned)
    rows, windows = method.rows([example]), method.asker.windows(text)
    assert len(rows) == len(windows) > 1
    for row, window in zip(rows, windows, strict=True):
        learned = [id for id, trained in zip(row.ids, row.trained, strict=True) if trained]
        here = tuple(name for name in names if window.start <= name.start and name.end <= window.end)
        found = method.task.parse(method.asker.tokenizer.decode(learned), window.value)
        assert moved(found or (), window.start) == here


def test_completion_reads_plain_text(model: Path) -> None:
    method = finetuned("completion", model)
    assert isinstance(method, FineTuned)
    example = world("completion")[1][0]
    rows = method.rows([example])
    tokenizer = Tokenizer.load(model)
    assert rows[0].ids[0] == rows[-1].ids[-1] == tokenizer.specials.eos
    assert tokenizer.decode(rows[0].ids[1:]).startswith((example.input + example.target)[:50])
    assert all(all(row.trained) for row in rows)
    before, after = (make.log_likelihood([example.input], [example.target]) or [0.0] for make in (
        fitted_to(make_method("prompted", make_task("completion"), {"model": str(model)}), [example], []),
        finetuned("completion", model, steps=20),
    ))  # fmt: skip
    assert after[0] > before[0]


def test_a_recurrent_model_can_be_tuned_but_no_counted_one(tmp_path: Path) -> None:
    lstm = write_model(tmp_path / "lstm", family="lstm")
    assert len(finetuned("translation", lstm, max_new_tokens=4).predict(["거위", "goose"]).values) == 2
    with pytest.raises(UserError, match="LoRA changes a Transformer's linear layers"):
        finetuned("translation", lstm, lora=True)
    tokenizer = Tokenizer.from_json(tokenizer_of("bpe"))
    counted = KneserNey.fit(np.array(tokenizer.encode("거위 goose " * 9)), tokenizer.vocab_size, order=2)
    save_model(tmp_path / "ngram", counted, tokenizer)
    with pytest.raises(UserError, match="only counts"):
        finetuned("translation", tmp_path / "ngram")


def test_a_tuned_model_keeps_its_own_template(tmp_path: Path) -> None:
    chat = write_model(tmp_path / "chat", chat=True)
    method = finetuned("translation", chat)
    assert isinstance(method, FineTuned)
    assert method.asker.settings.template == TEMPLATE
    assert isinstance(load_model(chat).model, LanguageModel)


@pytest.mark.parametrize("option", ["warmup_steps", "weight_decay"])
def test_an_option_below_nothing_is_refused(option: str, model: Path) -> None:
    with pytest.raises(UserError, match=option):
        make_method("finetuned", make_task("translation"), {"model": str(model), option: -1})


def test_too_little_is_refused(model: Path) -> None:
    made, examples = world("translation")
    for train, valid in ((examples[:5], []), ([], examples[:5])):
        with pytest.raises(UserError, match="give more data"):
            fitted_to(make_method("finetuned", made, {"model": str(model)}), train, valid)
