"""What stands behind the page, without a browser: what it shows, what it lets through, what it sends."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.nouns import Answer, Entity, Message, Question
from malmoi.methods.registry import make_method
from malmoi.serve.catalogue import Catalogue, TaskEntry
from malmoi.serve.page.chat_tab import ChatEvents, StreamedReply, until
from malmoi.serve.page.look import note
from malmoi.serve.page.reports import Run, find_runs, table_of
from malmoi.serve.page.task_tabs import (
    NONE,
    VIEWS,
    Bench,
    Outcome,
    answer_value,
    asked,
    boxes,
    choices,
    chosen_labels,
    examples,
    task_to_ask,
)
from malmoi.serve.settings import Keys, ServeSettings
from malmoi.serve.web import mount_page
from malmoi.serve.worker import Worker
from malmoi.tasks import TASKS, make_task
from malmoi.tasks.kinds import EVERY_KIND, marked
from malmoi.text.chat import ChatFormat
from tests.engine.scripted import Scripted
from tests.serve.conftest import scripted_entry
from tests.serve.running import Running, running

HOSTILE = "<script>alert(1)</script>\n\n# not a title <img src=x onerror=alert(1)> 거위 & 말모이"
SETTINGS = ("", 0.0, 1.0, 40, None)  # system prompt, temperature, top p, most tokens, seed


TAB: Any = SimpleNamespace(session_hash="tab")


# --- chat


def talk(act: Callable[[ChatEvents], Any]) -> list[Any]:
    """All that the tab shows, one after the other, for a model that echoes."""

    async def all_shown() -> list[Any]:
        worker = Worker()
        worker.start()
        entries = {"talker": scripted_entry("talker", Scripted(context=128), chats=True)}
        try:
            return [shown async for shown in act(ChatEvents(entries, worker))]
        finally:
            await worker.close(5)

    return asyncio.run(all_shown())


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def test_a_reply_streams_and_ends_with_what_it_cost() -> None:
    shown = talk(lambda it: it.say(TAB, "안녕?", [], "talker", *SETTINGS))
    _, turns, line, stop, again = shown[-1]
    assert shown[0][0] == ""
    assert turns[-1] == {"role": "assistant", "content": "네, 안녕? 🐢 yes"}
    assert "first token after" in line
    assert "tokens/s" in line
    assert [button["interactive"] for button in (stop, again)] == [False, True]
    assert [button["interactive"] for button in shown[0][3:]] == [True, False]
    texts = [turns[-1]["content"] for _, turns, *_ in shown[1:]]
    assert len(texts) > 1
    assert all(texts[-1].startswith(text) for text in texts)


def test_regenerate_answers_the_last_message_again() -> None:
    before = [said("user", "하나"), said("assistant", "old")]
    _, turns, *_ = talk(lambda it: it.again(TAB, before, "talker", *SETTINGS))[-1]
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
    assert turns[-1]["content"] == "네, 하나 🐢 yes"
    assert "no reply yet" in talk(lambda it: it.again(TAB, [], "talker", *SETTINGS))[-1][2]


def test_what_cannot_be_answered_stays_in_the_box() -> None:
    long = "word " * 60
    box, turns, line, *_ = talk(lambda it: it.say(TAB, long, [], "talker", *SETTINGS))[-1]
    assert (box, turns) == (long, [])
    assert "tokens" in line
    assert "first" in talk(lambda it: it.say(TAB, "  ", [], "talker", *SETTINGS))[-1][2]


def test_old_messages_leave_when_they_no_longer_fit() -> None:
    before = [said(role, "가나다라마바사") for _ in range(6) for role in ("user", "assistant")]
    _, turns, line, *_ = talk(lambda it: it.say(TAB, "hi", before, "talker", *SETTINGS))[-1]
    assert len(turns) == len(before) + 2  # the page keeps them
    assert "no longer fit" in line


@pytest.mark.parametrize("how", ["stop", "clear", "page closed"])
def test_a_stopped_reply_leaves_the_engine_free(how: str) -> None:
    async def stopped() -> tuple[list[Any], bool]:
        worker = Worker()
        worker.start()
        entry = scripted_entry("slow", Scripted(lambda _: "word " * 200, context=4096), chats=True)
        talk = ChatEvents({"slow": entry}, worker)
        try:
            shown = talk.say(TAB, "hi", [], "slow", "", 0.0, 1.0, 1000, None)
            seen = [await anext(shown), await anext(shown)]
            twice = [one async for one in talk.say(TAB, "hi", [], "slow", "", 0.0, 1.0, 1000, None)]
            assert twice == [(gr.skip(),) * 5]  # Enter pressed again while it streams changes nothing
            if how != "page closed":
                await (talk.stop if how == "stop" else talk.clear)(TAB)
                seen += [one async for one in shown]
            await shown.aclose()  # pyright: ignore[reportAttributeAccessIssue]
            await worker.call(lambda: None)
            await worker.call(lambda: None)
            return seen, entry.engine.busy
        finally:
            await worker.close(5)

    seen, busy = asyncio.run(stopped())
    assert not busy
    if how != "page closed":
        assert ("stopped" in seen[-1][2]) == (how == "stop")
        assert bool(seen[-1][1]) == (how == "stop")
        assert len(seen) < 10
        assert [button["interactive"] for button in seen[-1][3:]] == [False, True]


def test_stop_does_not_wait_for_the_next_token() -> None:
    async def waited() -> list[int]:
        async def events() -> AsyncIterator[int]:
            yield 1
            await asyncio.sleep(60)

        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, stop.set)
        return [event async for event in until(stop, events())]

    assert asyncio.run(asyncio.wait_for(waited(), 5)) == [1]


def test_a_line_of_a_reply_names_what_is_known() -> None:
    assert StreamedReply("a", 1, 0.02, 0.02).line() == "first token after 20 ms \u00b7 1 token"
    whole = StreamedReply("a", 11, 0.1, 1.1, 2, "length").line()
    assert "10 tokens/s" in whole
    assert "2 oldest messages" in whole
    assert "cut" in whole


# --- tasks


def test_every_task_has_a_view_and_examples_in_both_languages() -> None:
    assert set(VIEWS) == EVERY_KIND
    for task in map(make_task, TASKS):
        rows = examples(task)
        assert len(rows) == 4
        assert all(len(row) == len(boxes(task)) and all(row) for row in rows)
        assert task.input_from(asked(task, rows[0]))
        assert any("가" <= letter <= "힣" for row in rows for letter in "".join(row))
        assert any(letter.isascii() and letter.isalpha() for letter in "".join(rows[0]))


def test_models_are_offered_where_they_can_do_the_task(catalogue: Catalogue) -> None:
    assert next(iter(choices(catalogue, make_task("classification")))) == "topics"
    assert "talker" in choices(catalogue, make_task("classification"))  # the fitted method knows the labels
    assert "talker" not in choices(catalogue, make_task("ner"))
    assert "writer" in choices(catalogue, make_task("completion"))
    assert "writer" not in choices(catalogue, make_task("chat"))


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=4))
@settings(max_examples=60, deadline=None)
def test_marked_pieces_are_the_whole_text(text: str, places: list[tuple[int, int]]) -> None:
    entities, end = [], 0
    for start, length in sorted(places):
        if end <= start and start + length <= len(text):
            entities.append(Entity(start, start + length, "PER"))
            end = start + length
    pieces = marked(text, entities)
    assert "".join(piece for piece, _ in pieces) == text
    assert [label for _, label in pieces if label] == ["PER"] * len(entities)


def test_an_answer_is_shown_in_its_context_or_before_it() -> None:
    asked = Question("누가?", "어제 거위가 왔다")
    assert answer_value(Outcome(asked, Answer("거위", 3), 0.0)) == [
        ("어제 ", None), ("거위", "answer"), ("가 왔다", None)
    ]  # fmt: skip
    assert answer_value(Outcome(asked, Answer("거위"), 0.0))[1] == ("거위", "answer")
    assert answer_value(Outcome(asked, Answer("고양이"), 0.0))[0] == ("고양이", "not in the text")


def test_labels_that_fit_stand_before_the_others() -> None:
    shares = {"a": 0.2, "b": 0.9, "c": 0.4}
    assert chosen_labels(Outcome("", ("a", "b"), 0.0, shares)) == [
        ("a 20%", "fits"), ("b 90%", "fits"), ("c 40%", None)
    ]  # fmt: skip
    assert chosen_labels(Outcome("", (), 0.0, shares))[:2] == [("(no label)", None), ("b 90%", None)]
    assert chosen_labels(Outcome("", ("a",), 0.0)) == [("a", "fits")]


def test_what_is_too_long_is_refused_on_the_page_too(catalogue: Catalogue) -> None:
    """A browser keeps to the boxes' limits; others need not."""

    async def ran() -> list[Any]:
        worker = Worker()
        task = make_task("classification")
        bench = Bench(task, choices(catalogue, task), worker, 10)
        return await bench.run("topics", "talker", "a" * 11)

    shown = asyncio.run(ran())
    assert "at most 10" in shown[0]
    assert "at most 10" in shown[2]
    assert [shown[1], shown[3]] == [None, None]
    before = [said(role, "a" * 30_000) for _ in range(2) for role in ("user", "assistant")]
    assert "100,000" in talk(lambda it: it.say(TAB, "hi", before, "talker", *SETTINGS))[-1][2]


def test_the_page_makes_tokens_off_the_engines_thread(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    prompt_ids = ChatFormat.prompt_ids

    def watched(form: ChatFormat, messages: Sequence[Message]) -> list[int]:
        threads.append(threading.current_thread().name)
        return prompt_ids(form, messages)

    async def ran() -> list[Any]:
        worker = Worker()
        worker.start()
        task = make_task("chat")
        bench = Bench(task, choices(catalogue, task), worker, 100)
        try:
            return await bench.run("talker", "(no second model)", "안녕")
        finally:
            await worker.close(5)

    monkeypatch.setattr(ChatFormat, "prompt_ids", watched)
    assert asyncio.run(ran())[1] == "네, 안녕 🐢 yes"
    talk(lambda it: it.say(TAB, "hi", [], "talker", *SETTINGS))
    assert len(threads) >= 2
    assert "malmoi-engine" not in threads


@pytest.mark.parametrize(
    ("name", "labels"),
    [("classification", ("news", "poem", "recipe")), ("ner", ("LOC", "PER")), ("question-answering", ()),
     ("summarization", ()), ("completion", ())],
)  # fmt: skip
def test_the_page_asks_a_language_model_as_a_comparison_does(
    name: str, labels: Sequence[str], catalogue: Catalogue
) -> None:
    task = make_task(name).with_labels(labels)
    method = make_method("prompted", task, {"model": str(catalogue["tiny"].folder)})
    method.fit((), ())

    async def shown(texts: Sequence[str]) -> Any:
        worker = Worker()
        worker.start()
        try:
            return (await Bench(task, catalogue, worker, 10_000).run("tiny", NONE, *texts))[1]
        finally:
            await worker.close(5)

    long = [("Ann met 민수. " * 300,)] if name == "ner" else []  # more than fits into the context
    for texts in [*examples(task)[:2], *long]:
        value = task.input_from(asked(task, texts))
        ((prediction,), found) = method.predict([value]).values, method.probabilities([value])
        wanted = VIEWS[task.kind].show(Outcome(value, prediction, 0.0, found and found[0]))
        assert asyncio.run(shown(texts)) == (pytest.approx(wanted, abs=1e-5) if found else wanted)


def test_language_models_are_asked_with_the_labels_that_a_fitted_method_knows(catalogue: Catalogue) -> None:
    topics = catalogue["topics"]
    assert isinstance(topics, TaskEntry)
    labels = topics.method.report.facts["labels"]
    assert len(labels) > 1
    assert task_to_ask(make_task("classification"), catalogue).labels == tuple(labels)
    assert task_to_ask(make_task("ner"), catalogue).labels == ()


# --- text and reports


@given(st.text(max_size=80))
@settings(max_examples=100, deadline=None)
def test_text_of_users_is_one_line_without_markup(text: str) -> None:
    line = note(text)
    inner = line.removeprefix('<div class="soft status">').removesuffix("</div>")
    assert len(inner) == len(line) - 31
    assert not set(inner) & set('<>"\n\r')


def comparison(folder: Path, name: str = HOSTILE) -> Path:
    """A comparison's folder as far as the page reads it."""
    folder.mkdir(parents=True)
    (folder / "report.html").write_text(f"<title>보고서</title><p>{folder.name}", encoding="utf-8")
    costs = {"latency_p50_s": 0.002, "disk_bytes": 2048, "cost_per_1000": 0.5}
    metrics = {"accuracy": {"value": 0.9, "interval": [0.8, 1.0], "higher_is_better": True, "signature": ""}}
    methods = {
        name: {"family": "traditional", "metrics": metrics, "costs": costs},
        "broken": {"family": "remote", "metrics": {}, "costs": {}, "error": "no <key>"},
    }
    results = {
        "metric": "accuracy", "winner": name, "advice": HOSTILE, "methods": methods, "cost_unit": "s"
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_the_table_names_quality_cost_and_winner_and_runs_no_text(tmp_path: Path) -> None:
    table = table_of(Run("one", comparison(tmp_path / "one")))
    for text in ("90.0%", "80.0% to 100.0%", "2 ms", "2 KiB", "0.5", "winner", "no &lt;key&gt;", "거위"):
        assert text in table
    assert "<script" not in table
    assert "<img" not in table
    assert "\n" not in table


@pytest.mark.parametrize("broken", ["{", "[]", "{}", '{"methods": 3}', '{"metric": "a", "winner": 1}'])
def test_a_table_that_cannot_be_read_is_said(tmp_path: Path, broken: str) -> None:
    folder = comparison(tmp_path / "one")
    (folder / "results.json").write_text(broken, encoding="utf-8")
    assert "cannot be read" in table_of(Run("one", folder))


def test_runs_are_found_once_and_links_do_not_lead_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "runs", comparison(tmp_path / "outside")
    comparison(root / "a" / "b")
    (root / "link").symlink_to(outside)
    (root / "c").mkdir()
    (root / "c" / "report.html").symlink_to(outside / "report.html")
    served = comparison(tmp_path / "served")
    (served / "comparison.json").write_text("{}")
    found = find_runs([root, root, tmp_path / "missing"], [served / "winner", served, root])
    assert [run.name for run in found] == ["a/b", "served"]


# --- over HTTP


@pytest.fixture(scope="module")
def site(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    runs = tmp_path_factory.mktemp("runs")
    comparison(runs / "one")
    with running(catalogue, settings=ServeSettings(runs=(runs,)), mount=mount_page) as found:
        yield found


def test_the_page_forbids_foreign_and_inline_scripts(site: Running) -> None:
    answer = site.get("/page/", **{"accept-encoding": "br, gzip"})
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    nonce = policy["script-src"].removeprefix("'self' 'nonce-").removesuffix("'")
    assert len(nonce) >= 16
    assert policy["default-src"] == policy["connect-src"] == "'self'"
    assert answer.text.count("<script") == answer.text.count(f'<script nonce="{nonce}"') > 2
    assert nonce not in site.get("/page/").headers["content-security-policy"]
    assert 'rel="manifest"' not in answer.text
    assert site.get("/").headers["location"] == "/page/"


@pytest.mark.parametrize(
    "path",
    ["upload", "proxy=https://example.org/", "file=/etc/passwd", "run/predict", "call/say", "openapi.json"],
)  # fmt: skip
def test_gradios_other_doors_are_shut(site: Running, path: str) -> None:
    for method in ("GET", "POST"):
        assert httpx.request(method, f"{site.url}/page/gradio_api/{path}", timeout=30).status_code == 404


def test_a_report_is_sent_by_number_in_a_sandbox_and_nothing_else_is(site: Running) -> None:
    answer = site.get("/page/reports/0")
    assert "보고서" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "sandbox" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    for path in ("1", "-1", "../one/report.html", "%2e%2e/one", "..%2f..%2fetc%2fpasswd", "one"):
        assert site.get(f"/page/reports/{path}").status_code >= 400


def test_the_interface_stays_as_it_was(site: Running) -> None:
    assert site.get("/health").json() == {"status": "ok"}
    assert site.get("/v1/nothing").status_code == 404
    assert "content-security-policy" not in site.get("/v1/models").headers


def test_a_key_is_asked_for_before_the_page(catalogue: Catalogue) -> None:
    settings = ServeSettings(keys=Keys(("a-key-of-this-test",)))
    with running(catalogue, settings=settings, mount=mount_page) as site:
        refused = site.get("/page/")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert site.get("/page/config").status_code == 401
        assert httpx.get(f"{site.url}/page/", auth=("", "a-key-of-this-test"), timeout=30).status_code == 200
