"""What every task promises, and that it reads the data we have."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Entity, Example, Message, Question
from malmoi.data.opening import Record
from malmoi.data.splits import split_examples
from malmoi.demo.seven_tasks import SMALL
from malmoi.methods.neural.method import FORMS
from malmoi.serve.page import task_tabs as page
from malmoi.show import terminal
from malmoi.tasks import TASKS, make_task
from malmoi.tasks.base import is_korean
from malmoi.tasks.kinds import EVERY_KIND, Kind

DATA = Path(__file__).parents[3] / "shared" / "data"
ENGLISH, KOREAN = "The heron stood in the reeds.", "왜가리가 갈대밭에 서 있었다."
EXAMPLES: dict[str, list[Example[Any, Any]]] = {
    "classification": [Example(ENGLISH, "bird"), Example(KOREAN, "새")],
    "multi-label": [Example(ENGLISH, ("bird", "reed | water", "새")), Example(KOREAN, ())],
    "ner": [Example(ENGLISH, (Entity(4, 9, "BIRD"),)), Example(KOREAN, ())],
    "translation": [Example(ENGLISH, KOREAN), Example(KOREAN, ENGLISH)],
    "completion": [Example("The heron", " stood in the reeds."), Example("", KOREAN)],
    "summarization": [Example(ENGLISH, "A heron."), Example(KOREAN, "왜가리", "", ("갈대밭",))],
    "question-answering": [
        Example(Question("What stood?", ENGLISH), Answer("heron", 4)),
        Example(Question("어디에 있었나?", KOREAN), Answer("갈대밭", 5)),
    ],
    "chat": [
        Example((Message("user", ENGLISH),), KOREAN),
        Example((Message("system", "짧게"), Message("user", KOREAN)), "네."),
    ],
}
SETS = [
    ("classification", "classification"),
    ("ner", "ner"),
    ("translation", "translation"),
    ("completion", "completion"),
    ("summarization", "summarization"),
    ("question-answering", "qa"),
    ("chat", "chat"),
    ("chat", "instruct"),
]
each_task = pytest.mark.parametrize("name", TASKS)


def test_every_task_is_known_by_name() -> None:
    assert list(EXAMPLES) == list(TASKS)
    with pytest.raises(UserError, match=r"no task 'clasification'; did you mean 'classification'\?"):
        make_task("clasification")
    with pytest.raises(UserError, match="has no field 'sauce'; did you mean 'source'"):
        make_task("translation", {"sauce": "en"})


@pytest.mark.parametrize(
    "table", [FORMS, page.VIEWS, terminal.VIEWS, SMALL], ids=("forms", "page", "terminal", "demo")
)
def test_a_table_by_kind_has_every_kind(table: dict[Kind, Any]) -> None:
    assert set(table) == EVERY_KIND


@each_task
def test_a_task_is_frozen(name: str) -> None:
    task = make_task(name)
    with pytest.raises(FrozenInstanceError):
        task.labels = ("bird",)  # pyright: ignore[reportAttributeAccessIssue]
    other = task.with_labels(["bird", "새"])
    assert (type(other), other.fields, other.labels, task.labels) == (
        type(task), task.fields, ("bird", "새"), ()
    )  # fmt: skip


@each_task
def test_answers_and_json_come_back(name: str) -> None:
    task = make_task(name)
    for example in EXAMPLES[name]:
        assert task.parse(task.answer(example.target, example.input), example.input) == example.target
        shown = json.loads(json.dumps(task.to_json(example.target, example.input)))
        assert task.from_json(shown) == example.target
        assert task.from_json(task.to_json(None, example.input)) is None
        given = json.loads(json.dumps(task.input_json(example.input)))
        assert task.input_from(given) == example.input


FIELDS = {"classification": {"label": "별점"}, "ner": {"text": "body"}, "translation": {"source": "ko"},
          "summarization": {"document": "기사"}, "question-answering": {"answers": "답"},
          "chat": {"messages": "turns"}}  # fmt: skip


@each_task
def test_rows_are_read_back(name: str) -> None:
    for task in (make_task(name), make_task(name, FIELDS.get(name, {"text": "글"}))):
        for example in EXAMPLES[name]:
            row = json.loads(json.dumps(task.row(example)))
            if name == "completion":  # its files are texts, cut when they are read
                assert row == {task.named("text"): example.input + example.target}
                continue
            assert list(task.examples(Record(row, ""), lambda _: None)) == [example]


@each_task
def test_prompts_hold_the_input_and_end_with_the_user(name: str) -> None:
    task, (first, second) = make_task(name), EXAMPLES[name]
    for example, shot in ((first, second), (second, first)):
        turns = task.prompt(example.input, [shot])
        assert turns[-1].role == "user"
        assert turns[-2] == Message("assistant", task.answer(shot.target, shot.input))
        assert turns[-1] == task.prompt(example.input)[-1]
        last = (
            example.input[-1].content if name == "chat" else getattr(example.input, "context", example.input)
        )
        assert last in turns[-1].content
        if last and name != "chat":
            assert is_korean(turns[-1].content.replace(last, "")) == is_korean(last)


@each_task
@settings(max_examples=25, deadline=None)
@given(
    reply=st.text()
    | st.text('[]{}":,textlabelh1 \n가')
    | st.recursive(st.none() | st.text(), st.lists).map(json.dumps)
)
def test_any_reply_can_be_parsed(name: str, reply: str) -> None:
    for task in (make_task(name), make_task(name).with_labels(("bird", "새"))):
        for example in EXAMPLES[name]:
            found = task.parse(reply, example.input)
            json.dumps(task.to_json(found, example.input))
            task.statistics([found, None], [example] * 2, [-1.0, -2.0])


@each_task
def test_the_right_answers_score_best(name: str) -> None:
    task, examples = make_task(name), EXAMPLES[name]
    right = task.score([example.target for example in examples], examples, [-1.0, -2.0])
    nothing = task.score([None] * len(examples), examples, [-30.0, -40.0])
    assert task.primary in right
    best, worst = right[task.primary], nothing[task.primary]
    assert (best.value > worst.value) == best.higher_is_better
    assert all(metric.interval or "no interval" in metric.signature for metric in right.values())
    others = task.score([example.references[-1] for example in examples], examples, [-1.0, -2.0])
    assert others[task.primary].value == pytest.approx(best.value)


@each_task
def test_scores_do_not_depend_on_the_order(name: str) -> None:
    task, examples = make_task(name), EXAMPLES[name]
    predictions = [examples[0].target, None]
    there = task.statistics(predictions, examples, [-1.0, -2.0])
    back = task.statistics(predictions[::-1], examples[::-1], [-2.0, -1.0])
    assert {name: one.value for name, one in there.items()} == pytest.approx(
        {name: one.value for name, one in back.items()}
    )


@each_task
def test_a_missing_file_and_a_wrong_input_are_reported(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        make_task(name).load(tmp_path / "nothing.jsonl")
    with pytest.raises(UserError, match=f"{name} takes"):
        make_task(name).input_from({"other": 3})


@each_task
def test_any_file_is_read_or_told_about(name: str, tmp_path: Path) -> None:
    """Rows of every other shape are findings, never an exception."""
    odd: list[Any] = [{}, {"text": None}, {"messages": {}}, {"data": []}, 3, None, [[]], {"paragraphs": [{}]}]
    odd += [dict.fromkeys(make_task(name).roles, value) for value in (None, 1, [1], {"text": 1}, "", [[]])]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, odd)), encoding="utf-8")
    findings: list[Any] = []
    make_task(name).read(tmp_path / "a.jsonl", findings.append)
    assert findings
    assert all(":" in finding.where for finding in findings)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize(("name", "folder"), SETS)
def test_the_shared_data_are_read(name: str, folder: str) -> None:
    task = make_task(name)
    key: Callable[[Any], str] = task.key
    for path in sorted((DATA / folder).iterdir()):
        for file in sorted(path.iterdir()):
            examples = task.load(file)
            assert task.check({"train": examples}) is not None
            if len(examples) >= 100:
                found = split_examples(examples, key=key, group=task.group_of)
                assert not {key(one.input) for one in found.train} & {key(one.input) for one in found.test}
