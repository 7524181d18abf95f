"""What a user asks a fitted method is read as its examples were, and answered where it stands."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from malmoi.core.nouns import Answer, Entity, Predictions, Question
from malmoi.methods.use import answered
from malmoi.tasks import make_task

TEXT = "café에서 서미나는 갔다"


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("form", [str, decomposed])
def test_names_and_answers_stand_in_the_input_as_it_is(form: Any) -> None:
    text = form(TEXT)
    start = text.index(form("서미나"))
    name = Entity(start, start + len(form("서미나")), "PER")
    question = Question(form("누가?"), text)
    for task, value, found, expected in (
        ("ner", text, (Entity(7, 10, "PER"),), (name,)),
        ("question-answering", question, Answer("서미나", 7), Answer(form("서미나"), start)),
        ("question-answering", question, Answer("없다", -1), Answer("없다", -1)),
        ("classification", text, "긍정", "긍정"),
        ("ner", text, None, None),
    ):
        seen: list[Any] = []

        def predict(inputs: Sequence[Any], seen: list[Any] = seen, found: Any = found) -> Predictions:
            seen.extend(inputs)
            return Predictions([found])

        method: Any = SimpleNamespace(task=make_task(task))
        assert answered(method, [value], predict).values == [expected]
        assert seen == [TEXT if isinstance(value, str) else Question("누가?", TEXT)]
