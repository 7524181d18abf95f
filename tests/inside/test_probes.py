"""Probes count what they say they count, whatever the model; files are read as they are published."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from malmoi.cli.commands import app
from malmoi.core.errors import UserError
from malmoi.engine.engine import Engine
from malmoi.engine.score import likelihoods, score, split_pair
from malmoi.hub.folder import save_model
from malmoi.inside.probe_files import Cloze, MultipleChoice, read_choices, read_cloze, read_pairs
from malmoi.inside.probes import chance, cloze, grammar_and_logic, minimal_pairs, multiple_choice, verdict
from malmoi.models.ngram import KneserNey
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.util.files import read_json
from malmoi.world.minimal_pairs import MinimalPair, world_probes
from tests.inside.tiny import tiny_model

LEARNED = ["The cat sleeps on the mat.", "고양이는 마당에서 잔다."] * 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(LEARNED, "bpe", 320)


@pytest.fixture(scope="module")
def engine(tokenizer: Tokenizer) -> Engine:
    """An n-gram model that knows two sentences by heart."""
    ids = [id for text in LEARNED for id in (tokenizer.specials.eos, *tokenizer.encode(text))]
    return Engine(KneserNey.fit(ids, tokenizer.vocab_size, order=4), tokenizer)


@pytest.mark.parametrize("name", ["llama", "lstm"])
def test_likelihoods_are_those_of_the_logits(name: str, tokenizer: Tokenizer) -> None:
    model = tiny_model(name, tokenizer)
    pairs = [([2, 9, 11], [12, 13]), ([2], [40, 41, 42]), ([2, 7], []), (list(range(3, 20)), [8])]
    found = likelihoods(Engine(model, tokenizer, max_rows=2), pairs)
    for (prompt, rest), (nats, greedy) in zip(pairs, found, strict=True):
        ids = torch.tensor([prompt + rest])
        logits = model.step(ids, torch.tensor([ids.shape[1]]), model.new_state(1, ids.shape[1]))[0]
        places = range(len(prompt) - 1, len(prompt) + len(rest) - 1)
        expected = sum(float(logits[t].log_softmax(-1)[id]) for t, id in zip(places, rest, strict=True))
        assert nats == pytest.approx(expected, abs=1e-4)
        assert greedy == all(int(logits[t].argmax()) == id for t, id in zip(places, rest, strict=True))


def test_long_prompts_lose_their_beginning(tokenizer: Tokenizer) -> None:
    model = tiny_model("llama", tokenizer)  # of 48 tokens
    long, rest = list(range(10, 110)), [7, 8]
    engine = Engine(model, tokenizer)
    assert likelihoods(engine, [(long, rest)]) == likelihoods(engine, [(long[-47:], rest)])
    with pytest.raises(UserError, match="100 tokens"):
        likelihoods(engine, [([2], long)])


def test_a_space_belongs_to_the_word_after_it(tokenizer: Tokenizer) -> None:
    for prompt in ("The cat", "The cat "):
        ids, rest = split_pair(tokenizer, prompt, " sleeps" if prompt[-1] != " " else "sleeps")
        assert tokenizer.decode(ids) == "The cat"
        assert tokenizer.decode(rest) == " sleeps"
    assert split_pair(tokenizer, "", "마당")[0] == []


def test_minimal_pairs(engine: Engine) -> None:
    pairs = [
        MinimalPair("The cat sleeps on the mat.", "The cat sleeps the on mat.", "order"),
        MinimalPair("고양이는 마당에서 잔다.", "고양이은 마당에서 잔다.", "particle"),
        MinimalPair("The mat sleeps.", "The cat sleeps.", "order"),
    ]
    found = minimal_pairs(engine, pairs)
    assert list(found) == ["accuracy", "accuracy/order", "accuracy/particle"]
    assert [one.value for one in found.values()] == pytest.approx([2 / 3, 1 / 2, 1])
    low, high = found["accuracy"].interval or (9, 9)
    assert low <= 2 / 3 <= high


def test_pairs_are_those_of_whole_sentences(tokenizer: Tokenizer) -> None:
    engine = Engine(tiny_model("llama", tokenizer), tokenizer)
    pairs = [MinimalPair("The cat sleeps on", "The cat on sleeps"), MinimalPair("고양이는", "고양이는 잔다")]
    scores = score(engine, [[2]] * 4, [text for pair in pairs for text in (pair.good, pair.bad)])
    expected = ((scores[0] > scores[1]) + (scores[2] > scores[3])) / 2
    assert minimal_pairs(engine, pairs)["accuracy"].value == expected
    with pytest.raises(UserError, match="48"):
        minimal_pairs(engine, [MinimalPair("cat " * 60, "mat " * 60)])


def test_multiple_choice(engine: Engine) -> None:
    items = [
        MultipleChoice("The cat sleeps on the", ("mat.", "잔다 마당에서."), 0, "en"),
        MultipleChoice("고양이는 ", ("mat.", "마당에서"), 1, "ko"),
        MultipleChoice("The", ("cat", "sleeps"), 1, "en"),
    ]
    found = multiple_choice(engine, items)
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["accuracy/ko"].value == 1
    assert list(found)[:2] == ["accuracy", "accuracy_norm"]
    assert multiple_choice(engine, items[:1] * 3) == multiple_choice(engine, items[:1] * 3)


def test_cloze(engine: Engine) -> None:
    items = [Cloze("The cat sleeps on the", " mat."), Cloze("The cat sleeps on the", " dog.")]
    found = cloze(engine, items)
    assert found["accuracy"].value == 0.5
    one = cloze(engine, items[:1])["perplexity"]
    (nats,) = score(engine, ["The cat sleeps on the"], [" mat."])
    assert one.value == pytest.approx(math.exp(-nats), rel=1e-4)
    assert not one.higher_is_better


def test_the_world_has_two_scores(engine: Engine) -> None:
    found = grammar_and_logic(engine, count=12)
    assert list(found)[:2] == ["grammar", "logic"]
    assert {"grammar/en", "logic/ko", "grammar/ko/particle", "grammar/en/article"} <= set(found)
    assert all(0 <= one.value <= 1 for one in found.values())
    assert found == grammar_and_logic(engine, count=12)
    assert "guessing gives 50%" in verdict(found)


def test_fluent_nonsense_is_called_so(engine: Engine) -> None:
    found = minimal_pairs(engine, world_probes("test", "ko", count=40)["logic"])
    assert chance(found["accuracy"])
    perfect = minimal_pairs(engine, [MinimalPair(LEARNED[0], "cat The")] * 9)["accuracy"]
    assert "need not follow" in verdict({"grammar": perfect, "logic": found["accuracy"]})


# ---- files


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_as_they_are_published(tmp_path: Path) -> None:
    blimp = {"sentence_good": "He is.", "sentence_bad": "He are.", "UID": "agreement", "field": "syntax"}
    assert read_pairs(write(tmp_path / "a.jsonl", blimp)) == [MinimalPair("He is.", "He are.", "agreement")]
    arc = {"question": "누구?", "choices": {"text": ["나", "너"], "label": ["A", "B"]}, "answerKey": "B"}
    hellaswag = {"ctx": "A man", "endings": ["sits", "flies"], "label": "1"}
    mmlu = {"question": "1+1?", "choices": ["1", "2", "3"], "answer": 1, "subject": "sums"}
    plain = {"context": "A", "choices": ["b", "c"], "gold": "c"}
    found = read_choices(write(tmp_path / "b.jsonl", arc, hellaswag, mmlu, plain))
    assert [one.choices[one.answer] for one in found] == ["너", "flies", "2", "c"]
    assert found[2].group == "sums"
    lambada = {"text": "고양이가 마당에서 잔다"}
    assert read_cloze(write(tmp_path / "c.jsonl", lambada)) == [Cloze("고양이가 마당에서", " 잔다")]


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (read_pairs, {"sentence_good": "a"}, "no field sentence_bad or bad"),
        (read_pairs, {"good": "a", "bad": "a"}, "the same"),
        (read_choices, {"question": "q", "choices": ["a"], "answer": 0}, "two or more"),
        (read_choices, {"question": "q", "choices": ["a", "b"], "answer": 2}, "none of the 2 choices"),
        (read_choices, {"question": "q", "choices": ["a", "b"], "answer": "x"}, "none of the 2 choices"),
        (read_cloze, {"text": "word"}, "two words"),
    ],
)
def test_wrong_rows_are_named(read: Any, row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"x.jsonl:1: .*{message}"):
        read(write(tmp_path / "x.jsonl", row))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "label"]), inner, max_size=2)
    ),
    max_leaves=6,
)
NAMES = ["sentence_good", "bad", "question", "choices", "answer", "text", "group"]


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
def test_any_row_is_read_or_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    for read in (read_pairs, read_choices, read_cloze):
        with suppress(UserError):
            assert len(read(write(tmp_path / "x.jsonl", row))) == 1


def test_the_command(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_model(tmp_path / "m", tiny_model("lstm", tokenizer), tokenizer)
    pairs = write(tmp_path / "p.jsonl", {"good": "The cat.", "bad": "cat The."}, {"good": "가", "bad": "나"})
    out = tmp_path / "found.json"
    asked = [
        "probe",
        str(tmp_path / "m"),
        "--pairs",
        str(pairs),
        "--world",
        "--count",
        "2",
        "--out",
        str(out),
    ]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "grammar" in done.output
    first, second = read_json(out)["probes"]
    assert first["num_items"] == 2
    assert len(first["sha256"]) == 64
    assert {"grammar", "logic"} <= set(second["metrics"])
    for wrong in (["probe", "m"], ["probe", "m", "--count", "3"]):
        assert isinstance(CliRunner().invoke(app, wrong).exception, UserError)
