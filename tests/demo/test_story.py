"""The demo's story from its first act to its report, with next to no time for training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import malmoi
from malmoi.demo import language_models, material, story
from malmoi.engine.loaded import Loaded
from malmoi.show.terminal import console
from malmoi.tasks import sampled_tasks
from malmoi.world import documents

SHORT = replace(
    story.QUICK, models_s=1.0, tuning_s=4.0, reading_s=4.0, network_s=0.3, rows=100, test_rows=12, pairs=4
)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "QUICK", SHORT)
    monkeypatch.setattr(material, "SETTINGS", (*material.SETTINGS, "train.eval_tokens=2048"))
    monkeypatch.setattr(language_models, "FINAL_EVAL_TOKENS", 2048)


@pytest.mark.usefixtures("short")
def test_four_acts_end_with_one_model_that_does_seven_tasks(tmp_path: Path) -> None:
    with console.capture() as seen:
        story.run_demo(None, tmp_path / "demo", quick=True)
    for number, act in enumerate(story.ACTS, 1):
        assert f"Act {number} of 4" in seen.get()
        assert act in seen.get()
    found = json.loads((tmp_path / "demo" / "one_model.json").read_text())
    assert list(found) == sampled_tasks()
    for line in found.values():
        assert {"metric", "small", "one_model", "one_model_en", "one_model_ko"} == set(line)
        assert set(line["small"]) == {"name", "value"}
        assert line["one_model_en"] is not None
        assert line["one_model_ko"] is not None
    chat = malmoi.load(tmp_path / "demo" / "chat")
    assert isinstance(chat, Loaded)
    chat.chat("Hello!", max_tokens=4)
    page = (tmp_path / "demo" / "report.html").read_text()
    for words in ("1. Text is a sequence", "2. One minute", "3. Hours of reading", "4. Seven tasks"):
        assert words in page


@pytest.mark.usefixtures("short")
def test_on_ones_own_text_the_foundation_model_goes_on_with_it(tmp_path: Path) -> None:
    text = "\n\n".join(document.text for document in documents(120, language="en"))
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    with console.capture() as seen:
        story.run_demo(tmp_path / "mine.txt", tmp_path / "out", quick=True)
    assert "Act 3 of 3" in seen.get()
    assert "bits per byte become" in seen.get()
    assert (tmp_path / "out" / "foundation" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "tasks").exists()
    assert "went on with your text" in (tmp_path / "out" / "report.html").read_text()
