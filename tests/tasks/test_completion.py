from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example, Finding
from malmoi.data import opening
from malmoi.tasks.completion import MOST, MOST_INPUT, Completion, pieces_of

TEXT = st.lists(
    st.sampled_from(["가나다라 마바사", "a longer line of words.", "x" * 700, "\n\n", "\n", " ", "? "]),
    max_size=40,
).map("".join)


@settings(deadline=None)
@given(TEXT)
def test_pieces_are_the_text_less_the_space_between_them(text: str) -> None:
    pieces = list(pieces_of(text))
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= MOST and piece == piece.strip() for piece in pieces)
    assert len(pieces) <= 1 + 2 * len(text) // (MOST // 2)


def test_paragraphs_are_kept_whole_where_they_fit() -> None:
    paragraphs = ["가" * 900, "나. " * 300, "다" * 900]
    assert list(pieces_of("\n\n".join(paragraphs))) == [paragraphs[0], "\n\n".join(paragraphs[1:])]
    assert next(pieces_of("a b. " * 500)).endswith("b.")


def test_input_and_target_are_a_piece(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"body": "One two three four five"}\n{"body": "음"}\n', encoding="utf-8"
    )
    (tmp_path / "b.txt").write_text("긴 글 " * 900, encoding="utf-8")
    findings: list[Finding] = []
    found = Completion({"text": "body"}).read(tmp_path, findings.append)
    assert [replace(one, document="") for one in found[:2]] == [
        Example("One", " two three four five", f"{tmp_path / 'a.jsonl'}:1"),
        Example("", "음", f"{tmp_path / 'a.jsonl'}:2"),
    ]
    assert len({one.document for one in found}) == 3
    assert all(len(one.input) <= MOST_INPUT and one.target.startswith(" ") for one in found[2:])
    assert [one.input + one.target for one in found[2:]] == list(pieces_of("긴 글 " * 900))
    assert findings == []


def test_the_pieces_of_a_text_are_held_out_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is a document, and so is a plain text file, which is read in parts where it is long."""
    monkeypatch.setattr(opening, "PIECE", 4_000)
    rows = [json.dumps({"text": f"row {n} has words. " * 300}) for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"a line of {name}\n" * 2_000, encoding="utf-8")
    task = Completion()
    found = task.load(tmp_path)
    files = {name: {one.document for one in found if f"/{name}.txt" in one.source} for name in "ab"}
    assert [len(documents) for documents in files.values()] == [1, 1]
    assert len({one.source for one in found if "/a.txt" in one.source}) > 1
    assert len({one.document for one in found}) == 32
    parts = task.split(found)
    held = [{one.document for one in part} for part in (parts.train, parts.valid, parts.test)]
    assert sum(map(len, held)) == 32
    assert "held out by whole documents" in parts.notes[0]


def test_the_users_groups_win(tmp_path: Path) -> None:
    rows = [{"text": f"row {n} has words. " * 300, "author": f"{n % 12}"} for n in range(36)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = Completion({"group": "author"})
    found = task.load(tmp_path / "a.jsonl")
    assert {task.group_of(one) for one in found} == {f"{n}" for n in range(12)}
    parts = task.split(found)
    assert not {one.group for one in parts.train} & {one.group for one in parts.test}
    assert "held out by whole groups" in parts.notes[0]


def test_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"txt": "One"}', encoding="utf-8")
    with pytest.raises(UserError, match=r"holds no example for completion.*did you mean 'txt'"):
        Completion().load(tmp_path / "a.jsonl")


def test_the_true_texts_are_scored_where_their_likelihood_is_known() -> None:
    examples = [Example("비가", " 온다"), Example("It", " rains now")]
    scores = Completion().score([None, None], examples, [-4.0, -6.0])
    assert list(scores) == ["bits_per_byte", "word_perplexity"]
    assert scores["bits_per_byte"].value == pytest.approx(10 / math.log(2) / (7 + 10))
    assert list(Completion().score([" 온다", " rains now"], examples)) == ["chrf"]
