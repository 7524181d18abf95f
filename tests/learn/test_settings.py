"""What `--set a.b=c` puts into a configuration: YAML of one line, and whatever else as text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.core.config import apply_setting, as_setting, pairs
from malmoi.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("1e-3", "1e-3"), ("0.5", 0.5), ("true", True), ("null", None), ("[1, a]", [1, "a"]),
        ("{a: 1}", {"a": 1}), ('"3"', "3"), ("Question:", "Question:"), ("Q: who: she?", "Q: who: she?"),
        ("- so it is", "- so it is"), ("a: b", "a: b"), ("*", "*"), ("@", "@"), ("질문:", "질문:"),
        ("", None),
    ],
)  # fmt: skip
def test_a_value_is_yaml_of_one_line_or_a_text(text: str, value: Any) -> None:
    found: dict[str, Any] = {}
    apply_setting(found, f"train.prompt={text}")
    assert found == {"train": {"prompt": value}}
    assert pairs([f"a={text}"], "set", typed=True) == {"a": value}


@given(st.text())
def test_a_text_in_quotes_is_that_text(text: str) -> None:
    found: dict[str, Any] = {}
    apply_setting(found, as_setting("a.b", text))
    assert found == {"a": {"b": text}}


def test_an_open_bracket_is_refused() -> None:
    with pytest.raises(UserError, match=r"'\[1' is not a YAML value"):
        apply_setting({}, "train.betas=[1")
