"""The models that come with malmoi can be made again, whole, by one command; here tiny ones are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

import malmoi
from malmoi.engine.loaded import Loaded
from malmoi.foundation.making import build
from malmoi.foundation.quality import quality_of_chat
from malmoi.foundation.reading import Amounts, asked_and_told, write_talks
from malmoi.hub.shipped import BASE, CHAT
from malmoi.learn.mixture import Source, sources
from malmoi.tasks import sampled_tasks
from malmoi.util.files import damage

TINY = Amounts(
    plain=20, mixed=60, asked=40, valid=40, vocabulary=500, sample=60, documents=150,
    rows={"translation": 40}, rows_each=20, talks=60, judged=3,
)  # fmt: skip
PRETRAINING = (
    "model.layers=1", "model.width=32", "model.heads=2", "model.ff_width=64", "train.steps=4",
    "train.context=256", "train.warmup_steps=1", "train.eval_every=2", "train.checkpoint_every=2",
)  # fmt: skip
TUNING = ("train.steps=2", "train.context=1024", "train.batch=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What was built, and what was said."""
    out, said = tmp_path_factory.mktemp("foundation"), list[str]()
    build(out / "runs", out / "shipped", TINY, pretraining=PRETRAINING, tuning=TUNING, say=said.append)
    return out, said


def test_two_folders_come_of_it_in_bf16_that_load_by_themselves(made: tuple[Path, list[str]]) -> None:
    out, _ = made
    for name in (BASE, CHAT):
        folder = out / "shipped" / name
        assert damage(folder) is None
        with safe_open(folder / "model.safetensors", "pt") as stored:
            assert {stored.get_slice(key).get_dtype() for key in stored.keys()} == {"BF16"}  # noqa: SIM118
    base, chat = (malmoi.load(out / "shipped" / name) for name in (BASE, CHAT))
    assert isinstance(base, Loaded)
    assert isinstance(chat, Loaded)
    assert base.complete("On Monday,", max_tokens=4)[0].text
    chat.chat("Hello!", max_tokens=4)


def test_the_card_says_what_it_can_do_and_how_it_was_made(made: tuple[Path, list[str]]) -> None:
    out, _ = made
    base, chat = ((out / "shipped" / name / "README.md").read_text() for name in (BASE, CHAT))
    assert base.startswith("---\nlicense: apache-2.0\n")
    assert f"\n# {BASE}\n" in base
    assert f"malmoi pretrain noru --data {out / 'runs' / 'text'}" in base
    assert f'malmoi.load("{CHAT}")' in chat.replace("'", '"')
    assert f"base_model: {BASE}" in chat
    for task in sampled_tasks():
        assert f"| {task}/ko |" in chat
    assert "| grammar/en |" in base
    assert "curve.svg" in base
    assert (out / "shipped" / BASE / "curve.svg").read_text().startswith("<svg")


def test_what_is_finished_is_not_made_again(made: tuple[Path, list[str]]) -> None:
    out, said = made
    assert [line.split(" ")[:3] for line in said if line.startswith("$")] == [
        ["$", "malmoi", "pretrain"], ["$", "malmoi", "finetune"],
    ]  # fmt: skip
    stamps = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.safetensors")}
    again: list[str] = []
    build(out / "runs", out / "shipped", TINY, pretraining=PRETRAINING, tuning=TUNING, say=again.append)
    assert stamps == {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.safetensors")}
    assert not [line for line in again if line.startswith("writing")]


def test_translations_are_learned_both_ways_and_nothing_is_judged_by_what_was_learned(tmp_path: Path) -> None:
    write_talks(tmp_path, TINY)
    rows = [json.loads(line) for line in (tmp_path / "translation" / "train.jsonl").read_text().splitlines()]
    korean = [any("가" <= letter <= "힣" for letter in row["source"]) for row in rows]
    assert True in korean
    assert False in korean
    for train, valid in zip(sources(tmp_path, "train"), sources(tmp_path, "valid"), strict=True):
        learned, judged = (set(Source.parse(text).path.read_text().splitlines()) for text in (train, valid))
        assert learned
        assert judged
        assert not learned & judged


def test_every_aim_has_a_figure_in_each_language(made: tuple[Path, list[str]]) -> None:
    found = quality_of_chat(made[0] / "shipped" / CHAT, count=2)
    wanted = [*sampled_tasks(), "names", "not told", "facts", "grammar", "logic"]
    assert set(found) == {f"{name}/{language}" for name in wanted for language in ("en", "ko")}


def test_the_end_of_the_reading_asks_every_task_and_answers_it() -> None:
    """In both languages, with the labels named, among documents that are told as before."""
    texts = list(asked_and_told(600))
    asked = [text for text in texts if text.startswith(("User: ", "사용자: "))]
    assert 0.25 < len(asked) / len(texts) < 0.6
    assert len(texts) == 600 + 60 + 300
    labels = "(mixed, negative, positive)"
    for words in (labels, "DATE, LOC, ORG, PER", "Translate", "Sum up", "요약", "번역"):
        assert any(words in text for text in asked), words
    assert len([text for text in asked if text.endswith((": positive", ": negative", ": mixed"))]) > 30
    assert texts[:160] == list(asked_and_told(100))
    riddles = [text for text in texts if re.search(r"\. (So|그래서) [^:]*\. (So|그래서) ", text)]
    assert len(riddles) >= 300
