"""Spans that no method can find are trimmed, or reported with what they are."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.core.nouns import Entity, Finding
from malmoi.tasks.ner import NamedEntities
from malmoi.tasks.span_checks import checked_spans, is_within_word


def check(text: str, start: int, end: int) -> tuple[Entity, list[str]]:
    findings: list[Finding] = []
    (found,) = checked_spans(text, [Entity(start, end, "PER")], "a:1", findings.append)
    return found, [one.message for one in findings]


@pytest.mark.parametrize("space", [" ", "\u00a0", "\u3000", "\n", "\u200b", "\t "])
def test_white_space_at_the_ends_is_trimmed_and_reported(space: str) -> None:
    text = f"said{space}Sora Park{space}today"
    start = text.index("Sora")
    found, (message,) = check(text, 4, start + 9 + len(space))
    assert text[found.start : found.end] == "Sora Park"
    assert message.endswith("trimmed")


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [("Sora Lee", 2, 6), ("Sora Lee", 0, 7), ("in 1945", 3, 5), ("हिन्दी", 0, 2), ("cafe\u0301", 0, 4)],
)
def test_spans_inside_words_are_reported_as_they_are(text: str, start: int, end: int) -> None:
    found, (message,) = check(text, start, end)
    assert found == Entity(start, end, "PER")
    assert "inside a word" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [("서미나는 갔다", "서미나"), ("Seoul에서", "Seoul"), ("5kg", "5"), ("Kim's dog", "Kim"),
     ("我在北京。", "北京"),
     ("東京タワーの", "タワー"), ("(Mina)", "Mina"), ("#Mina_x", "Mina"), ("วันนี้ไปเชียงใหม่", "เชียงใหม่")],
)  # fmt: skip
def test_whole_words_have_no_findings(text: str, said: str) -> None:
    start = text.index(said)
    assert check(text, start, start + len(said)) == (Entity(start, start + len(said), "PER"), [])


@pytest.mark.parametrize(
    ("text", "said", "encoding", "size", "unit"),
    [("😀 Mina Seo visited", "Mina Seo", "utf-16-le", 2, "UTF-16"),
     ("👩‍💻🦆 on Monday Noel", "Noel", "utf-16-le", 2, "UTF-16"),
     ("café — Noel x", "Noel", "utf-8", 1, "UTF-8")],
)  # fmt: skip
def test_offsets_in_other_units_are_suspected(
    text: str, said: str, encoding: str, size: int, unit: str, tmp_path: Path
) -> None:
    before = text[: text.index(said)]
    start = len(before.encode(encoding)) // size
    end = len((before + said).encode(encoding)) // size
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": text, "entities": [[start, end, "PER"]]}), encoding="utf-8")
    (finding,) = NamedEntities().check_files({"train": path})[:1]
    assert unit in finding.message
    assert repr(said) in finding.message


def test_names_of_a_decomposed_text_are_those_of_the_composed_one(tmp_path: Path) -> None:
    text = "café에서 서미나는 갔다"
    nfd = unicodedata.normalize("NFD", text)
    start = len(unicodedata.normalize("NFD", "café에서 "))
    end = start + len(unicodedata.normalize("NFD", "서미나"))
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": nfd, "entities": [[start, end, "PER"]]}), encoding="utf-8")
    findings: list[Finding] = []
    task = NamedEntities()
    (found,) = task.read(path, findings.append)
    assert (found.input, found.target) == (text, (Entity(7, 10, "PER"),))
    assert [it.level for it in findings] == ["warning"]
    assert task.restored(found.target, nfd) == (Entity(start, end, "PER"),)


@given(st.text("ab 1한é\u0301का나😀\n\u200b", min_size=1, max_size=12), st.data())
def test_a_trimmed_span_is_its_visible_text(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    if text[start:end].strip(" \n\u200b"):
        found, _ = check(text, start, end)
        assert start <= found.start < found.end <= end
        assert text[found.start : found.end] in text[start:end]
    assert not is_within_word(text, 0)
    assert not is_within_word(text, len(text))
