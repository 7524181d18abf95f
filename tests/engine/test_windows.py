"""Texts to label and to tag that do not fit into a model's context: read in overlapping windows."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.nouns import Entity, Message, Question
from malmoi.engine.ask import MOST_WINDOWS, Asker, AskSettings, softmax
from malmoi.engine.engine import Engine
from malmoi.tasks import make_task
from malmoi.tasks.kinds import joined_entities, moved
from malmoi.text.chat import TEMPLATE
from tests.engine.scripted import BYTES, Scripted

LABELS = ("bad", "good")


def asker(task: str, scorer: Scripted, labels: tuple[str, ...]) -> Asker:
    asked = AskSettings(template=TEMPLATE, goes_on=False, labels=labels, one_line=True, reply_tokens=100)
    return Asker(Engine(scorer, BYTES), make_task(task), asked)


def judge(asked: str) -> str:
    return "good" if "lovely" in asked else "bad"


def names(asked: str) -> str:
    text = asked.partition("Text: ")[2]
    return json.dumps(
        [{"text": name, "label": "PER"} for name in re.findall("Zoe|민수", text)], ensure_ascii=False
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 900), st.sampled_from(["x ", "말 ", "날씨, "]))
def test_windows_cover_a_text_and_fit(count: int, word: str) -> None:
    asking = asker("classification", Scripted(judge, context=540), LABELS)
    text = word * count
    windows = asking.windows(text)
    assert all(len(one.ids) <= asking.most and text.startswith(one.value, one.start) for one in windows)
    assert len(windows) <= MOST_WINDOWS
    assert windows[0].start == 0
    assert all(a.start < b.start < a.end < b.end for a, b in pairwise(windows))
    whole = windows[-1].end == len(text)
    assert whole or len(windows) == MOST_WINDOWS
    assert (asking.cut_note([text]) == "") is whole


def test_a_label_is_that_of_the_mean_of_the_windows() -> None:
    asking = asker("classification", Scripted(judge, context=540), LABELS)
    short, end = "a lovely soup", "a soup " * 80 + "that is lovely"
    windows = asking.windows(end)
    assert len(windows) > 1
    alone = softmax(asking.label_scores([one.value for one in windows]))
    seen: list[int] = []
    first, last = asking.label_probabilities([short, end], done=seen.append)
    assert first["good"] == pytest.approx(1)
    assert list(last.values()) == pytest.approx(alone.mean(0).tolist())
    assert 0 < last["good"] < 1
    assert np.argmax(alone[-1]) == LABELS.index("good")
    assert seen[-1] == 2


def test_names_of_every_window_are_found_once() -> None:
    asking = asker("ner", Scripted(names, context=700), ("PER",))
    text = "Zoe met 민수. " + "The soup was warm. " * 90 + "Then Zoe " + "ate soup " * 60 + "with 민수"
    assert len(asking.windows(text)) > 3
    expected = [Entity(*found.span(), "PER") for found in re.finditer("Zoe|민수", text)]
    assert asking.answers([text, "Zoe", ""]) == [tuple(expected), (Entity(0, 3, "PER"),), ()]
    learned = [asking.part_of(tuple(expected), one) for one in asking.windows(text)]
    assert joined_entities(
        [(one.start, one.end) for one in asking.windows(text)],
        [moved(part or (), one.start) for part, one in zip(learned, asking.windows(text), strict=True)],
    ) == tuple(expected)  # fmt: skip


def test_what_is_no_label_or_tag_is_asked_once() -> None:
    long = "soup " * 300
    for task, value in (
        ("summarization", long), ("question-answering", Question("who?", long)),
        ("chat", (Message("user", long),)),
    ):  # fmt: skip
        asking = asker(task, Scripted(context=540), ())
        (asked,) = asking.windows(value)
        assert asked == asking.ask(value)
        assert "1 a part of their input" in asking.cut_note([value])


SPANS = st.lists(st.tuples(st.integers(0, 90), st.integers(1, 6)), max_size=8)


@settings(deadline=None)
@given(SPANS, st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_joined_windows_give_every_entity_that_all_of_them_see(
    spans: list[tuple[int, int]], steps: list[int]
) -> None:
    entities: list[Entity] = []
    for start, length in sorted(spans):
        if not entities or start >= entities[-1].end:
            entities.append(Entity(start, start + length, "PER"))
    starts = [0, *np.cumsum(steps).tolist()]
    windows = [(start, start + 30) for start in starts]
    found = [[one for one in entities if a <= one.start and one.end <= b] for a, b in windows]
    seen = {one for part in found for one in part}
    assert joined_entities(windows, found) == tuple(one for one in entities if one in seen)
