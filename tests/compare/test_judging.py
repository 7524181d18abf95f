"""A language model that judges texts: both orders, ties, what cannot be judged, and what is shown of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from malmoi.compare.comparison import Comparison
from malmoi.compare.judging import FIRST, POINTS, SECOND, Better, Judge, Pair, head_to_head, make_judge
from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.core.errors import UserError
from malmoi.methods.registry import make_method
from malmoi.show.comparison_report import REPORT, show_comparison, write_comparison
from malmoi.tasks import make_task, write_samples
from malmoi.world import documents
from tests.methods.chat_server import ChatServer, Script, error, serving

TWO = {"retrieval": {}, "ibm1": {}}


def longer(question: str, _: int) -> str:
    """Prefers the longer reply, whatever its place."""
    first, second = replies(question)
    return "The better one is 1." if size(first) > size(second) else "2"


def size(text: str | None) -> tuple[int, str]:
    return len(text or "-"), text or "-"


def replies(question: str) -> list[str]:
    for titles in (("Reply 1:", "Reply 2:", "Which reply"), ("답 1:", "답 2:", "어느 답")):
        if titles[0] in question:
            rest = question.split(titles[0])[1].split(titles[2], maxsplit=1)[0]
            return [part.strip() for part in rest.split(titles[1])]
    raise AssertionError(question)


@contextmanager
def compared(folder: Path, script: Script, **changes: Any) -> Iterator[tuple[Comparison, ChatServer]]:
    """Two methods on translations of the sample world, judged by a server of this machine."""
    train, test = folder / "train.jsonl", folder / "test.jsonl"
    write_samples(train, "translation", documents(60))
    write_samples(test, "translation", documents(30, split="test"), 40)
    with serving(script) as server:
        options = {"base_url": server.url, "model": "m", "cache": str(folder / "cache"), "retries": 0}
        found = ComparisonSettings(
            task="translation", train=train, test=test, methods=TWO, measure_seconds=0.001,
            **{"judge": "remote", "judge_options": options} | changes,
        )  # fmt: skip
        yield run_comparison(found, folder / "out", isolated=False), server


def test_a_judge_has_preferences_whatever_the_order(tmp_path: Path) -> None:
    with compared(tmp_path, longer) as (found, server):
        judged = found.judgement
        assert judged is not None
        (one,) = judged.preferences
        assert (judged.judge, judged.number, judged.total, judged.inconsistent) == ("m", 40, 40, 0.0)
        assert judged.first == 0.5
        rows = {row.name: row for row in found.rows}
        pairs = list(zip(rows[one.name].predictions, rows[one.against].predictions, strict=True))
        assert one.against == found.verdict.ranking[0].name
        assert one.won == sum(size(ours) > size(theirs) for ours, theirs in pairs)
        assert one.wins.value == pytest.approx((one.won + one.ties / 2) / 40)
        asked = len(server.requests)
        assert asked == 2 * sum(ours != theirs for ours, theirs in pairs)
        assert "The judge (m, 40 of 40 test examples) " in found.advice
        shown = json.loads((found.out / "results.json").read_text(encoding="utf-8"))["judgement"]
        assert shown["preferences"][0]["wins"]["value"] == one.wins.value
        again = run_comparison(found.settings, found.out, isolated=False)
        assert again.judgement == judged
        assert len(server.requests) == asked  # what was answered is not asked again


def test_a_judge_that_names_the_first_has_no_preference(tmp_path: Path) -> None:
    with compared(tmp_path, lambda *_: "1") as (found, _):
        judged = found.judgement
        assert judged is not None
        (one,) = judged.preferences
        assert (one.won, one.lost, one.ties, one.wins.value) == (0, 0, 40, 0.5)
        assert judged.first == judged.inconsistent == 1.0
        assert one.inconsistent == one.asked > 0
        assert found.advice.endswith(
            f"The judge (m, 40 of 40 test examples) tells no method from {one.against}. The order changed "
            "its mind in 100% of the pairs: trust it little."
        )
        write_comparison(found)
        page = (found.out / REPORT).read_text(encoding="utf-8")
        assert "The answer changed with the order in 100% of the pairs" in page
        console = Console(width=120, record=True, file=StringIO())
        console.print(show_comparison(found, 120))
        text = console.export_text()
        assert f"{one.name} against {one.against}" in text
        assert "adequacy" in text


def test_only_so_many_examples_are_judged(tmp_path: Path) -> None:
    with compared(tmp_path, lambda *_: "neither", judge_limit=7) as (found, server):
        assert found.judgement
        (one,) = found.judgement.preferences
        assert (found.judgement.number, one.ties) == (7, 7)
        assert 0 < one.unanswered <= 7
        assert one.inconsistent == 0
        assert len(server.requests) <= 14
        assert "7 of 40 test examples" in found.advice


def test_a_comparison_of_texts_measures_adequacy(tmp_path: Path) -> None:
    with compared(tmp_path, longer, judge=None, judge_options={}) as (found, _):
        assert found.judgement is None
        for row in found.rows:
            low, high = row.metrics["adequacy"].interval or (1.0, 0.0)
            assert 0 <= low <= row.metrics["adequacy"].value <= high <= 1
            assert "the right answers reach" in row.metrics["adequacy"].signature
        results = json.loads((found.out / "results.json").read_text(encoding="utf-8"))
        assert results["doubts"].keys() == found.verdict.doubts.keys()
        goal = found.settings.model_copy(update={"good_enough": ("adequacy", 0.05)})
        assert run_comparison(goal, found.out, isolated=False).verdict.metric == "adequacy"


@pytest.mark.parametrize(
    ("task", "judge", "words"),
    [
        ("classification", "malmoi-noru", "compares texts that answer something; classification has none"),
        ("completion", "malmoi-noru", "completion has none"),
        ("chat", "remote", "needs `set` judge.base_url=ADDRESS and `set` judge.model=NAME"),
        ("chat", "/nowhere", "neither a language model's folder or file, nor 'remote'"),
    ],
)
def test_what_cannot_judge_is_refused_before_any_work(
    task: str, judge: str, words: str, tmp_path: Path
) -> None:
    asked = ComparisonSettings(task=task, train=tmp_path / "x", methods={}, judge=judge)
    with pytest.raises(UserError, match="`judge`") as found:
        make_judge(asked, make_task(task), tmp_path)
    assert words in str(found.value)


def test_the_compared_endpoint_is_the_judge_where_none_is_named(tmp_path: Path) -> None:
    options = {"base_url": "http://h/v1", "model": "big", "shots": 3, "choose": "similar"}
    asked = ComparisonSettings(
        task="chat", train=tmp_path / "x", methods={"remote:a": options}, judge="remote"
    )  # fmt: skip
    judge = make_judge(asked, make_task("chat"), tmp_path)
    assert judge
    assert (judge.name, judge.method.options.base_url, judge.method.options.shots) == (
        "big",
        "http://h/v1",
        0,
    )


def test_a_dead_judge_ends_in_a_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="HTTP 401"),
        compared(tmp_path, lambda *_: error(401, "no")),
    ):
        pass


def test_a_model_on_this_machine_answers_with_a_number(tmp_path: Path) -> None:
    asked = ComparisonSettings(task="chat", train=tmp_path / "x", methods={}, judge="malmoi-noru")
    judge = make_judge(asked, make_task("chat"), tmp_path)
    assert judge
    judge.method.fit((), ())
    questions = [
        judge.question("Where is Suji?", *texts) for texts in (("At home.", "No."), ("아" * 9000, "집"))
    ]
    assert all(judge.method.cut_note([one]) == "" for one in questions)
    found = judge.answers(questions)
    assert set(found) <= {FIRST, SECOND}
    assert judge.answers(questions) == found


def test_the_question_is_in_the_language_of_the_request(tmp_path: Path) -> None:
    method = make_method(
        "remote", Better().with_labels((FIRST, SECOND)), {"base_url": "http://h", "model": "m"}
    )
    judge = Judge("m", method, tmp_path / "memory")
    english, korean = (judge.question(text, "a", "b") for text in ("Where is it?", "어디에 있나요?"))
    assert english.startswith("Request:\nWhere is it?\n\nReply 1:\na\n\nReply 2:\nb\n\nWhich reply")
    assert "답 2:\nb" in korean
    assert "1 또는 2" in korean
    assert method.task.ask(korean) == korean


answers = st.sampled_from([FIRST, SECOND, None])


@given(st.lists(st.tuples(answers, answers), min_size=1, max_size=30), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_wins_are_between_the_orders(pairs: list[Pair], same: int) -> None:
    numbers = range(len(pairs) + same)
    found = head_to_head("a", "b", dict(enumerate(pairs)), numbers)
    turned = head_to_head("b", "a", {at: (pair[1], pair[0]) for at, pair in enumerate(pairs)}, numbers)
    assert (found.won, found.lost, found.ties) == (turned.lost, turned.won, turned.ties)
    assert found.won + found.lost + found.ties == len(numbers)
    assert found.wins.value == pytest.approx(1 - turned.wins.value)
    assert found.wins.value == pytest.approx(
        np.mean([*[POINTS.get(pair, 0.5) for pair in pairs], *[0.5] * same])
    )
    assert found.ties >= found.inconsistent + found.unanswered
    assert found.asked == len(pairs)
    assert found.first == sum(answer == FIRST for pair in pairs for answer in pair)


def test_turns_of_one_talk_count_as_one() -> None:
    pairs: dict[int, Pair] = dict.fromkeys(range(20), (FIRST, SECOND))
    alone = head_to_head("a", "b", pairs, range(20)).wins.interval
    together = head_to_head("a", "b", pairs, range(20), np.repeat(np.arange(4), 5)).wins.interval
    assert alone
    assert together
    assert together[0] < alone[0]
