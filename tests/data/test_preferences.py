"""Preference rows in the formats that public sets have, and what is wrong with those that are skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malmoi.core.nouns import Finding, Message, turns_error
from malmoi.data.conversations import Preference, read_preferences

ASKED = Message("user", "뭐 해?")
GOOD, BAD = Message("assistant", "책을 읽어요."), Message("assistant", "몰라요.")


def read(folder: Path, *rows: Any) -> tuple[list[Preference], list[Finding]]:
    path, findings = folder / "rows.jsonl", []
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read_preferences(path, findings.append), findings


def turns(*messages: Message) -> list[dict[str, str]]:
    return [{"role": it.role, "content": it.content} for it in messages]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "뭐 해?", "chosen": "책을 읽어요.", "rejected": "몰라요."},
        {"prompt": turns(ASKED), "chosen": turns(GOOD), "rejected": turns(BAD)},
        {"prompt": turns(ASKED), "chosen": GOOD.content, "rejected": BAD.content},
        {"prompt": "뭐 해?", "chosen": turns(ASKED, GOOD), "rejected": turns(ASKED, BAD)},
        {"chosen": turns(ASKED, GOOD), "rejected": turns(ASKED, BAD), "score_chosen": 9.0},
    ],
)
def test_every_format_reads_the_same(row: Any, tmp_path: Path) -> None:
    assert read(tmp_path, row) == (
        [Preference((ASKED, GOOD), (ASKED, BAD), f"{tmp_path / 'rows.jsonl'}:1")], []
    )  # fmt: skip


def test_a_longer_conversation(tmp_path: Path) -> None:
    before = (Message("system", "Be kind."), ASKED, GOOD, Message("user", "Why?"))
    row = {"prompt": turns(*before), "chosen": "Because.", "rejected": "No."}
    found, findings = read(tmp_path, row)
    assert found[0].chosen == (*before, Message("assistant", "Because."))
    assert not findings


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are equal"),
        ({"prompt": "a", "chosen": "b", "rejected": "b "}, "are equal"),
        ({"prompt": "a", "chosen": "", "rejected": "c"}, "a message must be a text"),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, "a message must be a text"),
        ({"prompt": "a", "chosen": "b"}, 'no "rejected" among prompt, chosen'),
        ({"chosen": "b", "rejected": "c"}, 'no "prompt" among chosen, rejected'),
        ({"prompt": [], "chosen": "b", "rejected": "c"}, "expected a list of messages"),
        ({"prompt": turns(ASKED, GOOD), "chosen": "b", "rejected": "c"}, "both the assistant's"),
        ({"prompt": "a", "chosen": turns(ASKED, GOOD), "rejected": "c"}, "different conversations"),
        ({"chosen": turns(GOOD, ASKED), "rejected": turns(GOOD, ASKED)}, "chosen: the assistant speaks"),
        ({"prompt": "a", "chosen": 1, "rejected": 2}, "a message must be a text"),
    ],
)
def test_a_bad_row_is_skipped_and_listed(row: Any, reason: str, tmp_path: Path) -> None:
    found, findings = read(tmp_path, {"prompt": "a", "chosen": "b", "rejected": "c"}, row)
    assert len(found) == 1
    assert [finding.where.rpartition(":")[2] for finding in findings] == ["2"]
    assert reason in findings[0].message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "x"]), _JSON))
def test_any_row_is_used_or_listed(row: Any, tmp_path: Path) -> None:
    found, findings = read(tmp_path, {"prompt": "a", "chosen": "b", "rejected": "c"}, row)
    assert len(found) + len(findings) == 2
    for one in found:
        assert not turns_error(one.chosen, ends_with="assistant")
