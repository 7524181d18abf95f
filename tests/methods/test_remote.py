"""The remote method against a server of the test's own: right answers and everything that goes wrong."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Entity, Example, Message, Question
from malmoi.methods.base import Method
from malmoi.methods.folder import load_method, save_method
from malmoi.methods.llm.remote import Remote
from malmoi.methods.registry import make_method, methods_for
from malmoi.tasks import TASKS, make_task
from tests.methods.chat_server import ChatServer, Raw, completion, error, serving
from tests.methods.tiny import fitted_to

KEY = "sk-secret-0123456789"
REVIEWS = [Example(f"글 {n}: {'좋다' if n % 2 else '나쁘다'}", "good" if n % 2 else "bad") for n in range(40)]
TEXTS = [example.input for example in REVIEWS]
LABELS = [example.target for example in REVIEWS]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def right(text: str, number: int) -> str:
    del number
    return "good" if "좋다" in text else "bad"


def remote(server: ChatServer | str, folder: Path, task: str = "classification", **options: Any) -> Remote:
    url = server if isinstance(server, str) else server.url
    settings = {"base_url": url, "model": "m", "cache": str(folder / "cache"), "retries": 1} | options
    method = make_method("remote", make_task(task), settings)
    assert isinstance(method, Remote)
    return method


def fitted(server: ChatServer | str, folder: Path, **options: Any) -> Remote:
    return fitted_to(remote(server, folder, **options), REVIEWS, ())


def note(method: Method) -> str:
    return method.predict([]).note


# ---- what it is for


def test_labels_are_read_and_counted(tmp_path: Path) -> None:
    with serving(right) as server:
        method = fitted(server, tmp_path, price_in=1.0, price_out=2.0, currency="원")
        assert method.predict(TEXTS).values == LABELS
        report = method.predict([]).facts
        assert (report["requests"], report["cached"], report["tokens_out"]) == (40, 0, 40)
        assert "note" not in report
        assert report["spent"] == pytest.approx((report["tokens_in"] + 2 * 40) / 1e6)
        costs = method.costs()
        assert costs["price_per_1000"] == pytest.approx(25 * report["spent"])
        assert 0 < costs["latency_p50_s"] <= costs["latency_p95_s"]
        body = server.requests[0]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 16)
        assert "bad, good" in body["messages"][-1]["content"]
        assert server.keys == {f"Bearer {KEY}"}
    assert method.predict([]).values == []


CASES: list[tuple[str, Any, str, Any]] = [
    ("classification", "It is lovely.", "The label is good.", "good"),
    ("multi-label", "It is lovely.", 'Labels: ["good", "other"]', ("good",)),
    ("multi-label", "It is.", "None.", ()),
    ("ner", "미나는 한별로 갔다.", '[{"text": "한별", "label": "LOC"}]', (Entity(4, 6, "LOC"),)),
    ("ner", "Nobody came.", "Sorry, none.", None),
    ("translation", "눈이 온다.", " It snows.\n", "It snows."),
    ("completion", "Once upon", " a time", " a time"),
    ("summarization", "A long text.", "Short.", "Short."),
    ("question-answering", Question("언제?", "배는 아홉 시에 떠난다."), "아홉 시", Answer("아홉 시", 3)),
    ("question-answering", Question("When?", "The ferry leaves at nine."), "At ten.", None),
    ("chat", (Message("user", "안녕?"),), "안녕하세요!", "안녕하세요!"),
]


@pytest.mark.parametrize(("task", "value", "reply", "wanted"), CASES)
def test_every_task_is_asked_and_read(task: str, value: Any, reply: str, wanted: Any, tmp_path: Path) -> None:
    method_task = make_task(task).with_labels(("LOC", "PER") if task == "ner" else ("bad", "good"))
    with serving(lambda *_: reply) as server:
        options = {"base_url": server.url, "model": "m", "cache": str(tmp_path)}
        method = fitted_to(make_method("remote", method_task, options), (), ())
        assert method.predict([value]).values == [wanted]
        asked = [turn["content"] for turn in server.requests[0]["messages"]]
        assert asked == [turn.content for turn in method_task.prompt(value)]
    assert method.log_likelihood([value], [""]) is None
    assert method.probabilities([value]) is None


def test_it_suits_every_task_but_only_on_request() -> None:
    for task in TASKS:
        assert "remote" in methods_for(make_task(task), all_known=True)
        assert "remote" not in methods_for(make_task(task))


def test_shots_are_shown_and_never_the_question_itself(tmp_path: Path) -> None:
    with serving(right) as server:
        method = fitted(server, tmp_path, shots=3, choose="similar")
        assert method.predict(TEXTS[:5]).values == LABELS[:5]
        for body in server.requests:
            *shown, asked = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
            assert len(shown) == 3
            assert asked not in shown


def test_order_neighbours_and_folders_change_nothing(tmp_path: Path) -> None:
    with serving(right) as server:
        method = fitted(server, tmp_path, shots=1)  # fewer shots than labels: the labels are kept apart
        together = method.predict(TEXTS).values
        assert fitted(server, tmp_path / "2", shots=1).predict(TEXTS[::-1]).values == together[::-1]
        save_method(tmp_path / "saved", method)
        loaded = load_method(tmp_path / "saved")
        asked = len(server.requests)
        assert [loaded.predict([text]).values[0] for text in TEXTS] == together
        assert len(server.requests) == asked  # the very same questions, so all are in the cache
        assert loaded.task.labels == ("bad", "good")


# ---- many at once, and never twice


def test_requests_overlap(tmp_path: Path) -> None:
    barrier = threading.Barrier(5, timeout=20)  # opens only when five are under way

    def together(text: str, number: int) -> str:
        if number < 5:
            barrier.wait()
        return right(text, number)

    with serving(together) as server:
        assert fitted(server, tmp_path, concurrency=5).predict(TEXTS).values == LABELS
        assert server.most_at_once == 5


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    with serving(right) as server:
        method = fitted(server, tmp_path)
        assert method.predict(TEXTS + TEXTS).values == LABELS + LABELS
        assert len(server.requests) == 40
        again = fitted(server, tmp_path)
        assert again.predict(TEXTS).values == LABELS
        assert len(server.requests) == 40
        assert (again.predict([]).facts["requests"], again.predict([]).facts["cached"]) == (0, 40)
        assert again.costs() == pytest.approx(method.costs())
        for change in ({"model": "other"}, {"temperature": 1.0}, {"extra": {"top_p": 0.5}}):
            before = len(server.requests)
            fitted(server, tmp_path, **change).predict(TEXTS[:1])
            assert len(server.requests) == before + 1


def test_a_damaged_cache_is_asked_again(tmp_path: Path) -> None:
    with serving(right) as server:
        fitted(server, tmp_path).predict(TEXTS[:3])
        for number, path in enumerate(sorted((tmp_path / "cache").rglob("*.json"))):
            path.write_bytes([b"{", b'{"text": 1}', b"\xff"][number])
        assert fitted(server, tmp_path).predict(TEXTS[:3]).values == LABELS[:3]
        assert len(server.requests) == 6


def test_the_spending_limit_stops_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    with serving(right) as server:
        prices = {"price_in": 100.0, "price_out": 100.0, "currency": "USD"}
        with pytest.raises(UserError, match=r"spend_limit 0\.05 is reached.* spent on .* are left"):
            fitted(server, tmp_path, **prices, spend_limit=0.05).predict(TEXTS)
        asked = len(server.requests)
        tokens = [sum(len(turn["content"].split()) for turn in one["messages"]) for one in server.requests]
        assert 0 < asked < 40
        assert sum(tokens) * 100 / 1e6 <= 0.05
        assert fitted(server, tmp_path, **prices, spend_limit=5).predict(TEXTS).values == LABELS
        assert len(server.requests) == 40


def test_the_spending_limit_counts_the_replies_that_are_really_asked_for(tmp_path: Path) -> None:
    prices = {"price_in": 0.0, "price_out": 1.0, "spend_limit": 0.001}  # 1,000 tokens
    with serving(right) as server:
        for name in ("max_tokens", "max_completion_tokens"):
            with pytest.raises(UserError, match="spend_limit"):
                fitted(server, tmp_path, **prices, extra={name: 1001}).predict(TEXTS[:1])
        assert server.requests == []
        extra = {"max_tokens": None, "max_completion_tokens": 999}
        method = fitted(server, tmp_path, **prices, max_new_tokens=2000, extra=extra)
        assert method.predict(TEXTS[:1]).values == LABELS[:1]


def test_it_works_in_a_notebook(tmp_path: Path) -> None:
    async def cell() -> list[Any]:
        return fitted(server, tmp_path).predict(TEXTS[:4]).values

    # another test's browser may keep a loop in this thread
    with serving(right) as server, ThreadPoolExecutor() as thread:
        assert thread.submit(asyncio.run, cell()).result() == LABELS[:4]


# ---- what goes wrong

WRONG_FORMS = [b"<html>so sorry</html>", b"{", b"[]", b"null", b'{"choices": []}', b'{"choices": [{}]}',
               b'{"choices": null}', b'{"choices": [{"message": {"content": 3}}]}', b"\xff", b""]  # fmt: skip


@pytest.mark.parametrize("trouble", [
    error(429, "slow down", retry_after="0.05"), error(500, "oops", retry_after="0.05"), Raw(0),
    Raw(200, WRONG_FORMS[0], {"Content-Type": "text/html"}),
])  # fmt: skip
def test_what_may_pass_is_tried_again(trouble: Raw, tmp_path: Path) -> None:
    with serving(lambda text, number: right(text, number) if number else trouble) as server:
        method = fitted(server, tmp_path)
        assert method.predict(TEXTS[:1]).values == LABELS[:1]
        assert len(server.requests) == 2
        assert note(method) == ""


@pytest.mark.parametrize("body", WRONG_FORMS)
def test_garbage_is_counted(body: bytes, tmp_path: Path) -> None:
    with serving(lambda text, n: right(text, n) if "글 0" in text else Raw(200, body)) as server:
        method = fitted(server, tmp_path, retries=0)
        assert method.predict(TEXTS[:3]).values == [LABELS[0], None, None]
        assert note(method).startswith("2 of 3 requests failed: the answer ")


def test_some_failures_are_listed_and_asked_again_later(tmp_path: Path) -> None:
    broken = True

    def script(text: str, number: int) -> str | Raw:
        return error(503, "overloaded") if broken and "글 1:" in text else right(text, number)

    with serving(script) as server:
        method = fitted(server, tmp_path, retries=0)
        assert method.predict(TEXTS[:4]).values == [LABELS[0], None, *LABELS[2:4]]
        assert note(method) == "1 of 4 requests failed: HTTP 503 (overloaded)"
        broken = False
        assert method.predict(TEXTS[:4]).values == LABELS[:4]
        assert note(method) == ""


def test_a_question_that_is_refused_is_no_reason_to_stop(tmp_path: Path) -> None:
    with serving(lambda text, n: right(text, n) if "글 0" not in text else error(400, "too long")) as server:
        method = fitted(server, tmp_path)
        assert method.predict(TEXTS[:1]).values == [None]
        assert method.predict(TEXTS[1:3]).values == LABELS[1:3]
        assert note(method) == "1 of 3 requests failed: HTTP 400 (too long)"


def test_refusals_and_empty_replies_are_none(tmp_path: Path) -> None:
    replies: list[str | None] = [None, "", " \n", "what?"]
    with serving(lambda text, n: replies[n] if n < 4 else right(text, n)) as server:
        method = fitted(server, tmp_path, concurrency=1)
        assert method.predict(TEXTS[:5]).values == [None] * 4 + LABELS[4:5]
        assert note(method) == "3 of 5 replies are empty or a refusal"


def test_replies_that_were_cut_are_reported(tmp_path: Path) -> None:
    def cut(text: str, number: int) -> Raw:
        raw = completion(right(text, number), {"model": "m", "messages": []})
        return Raw(200, raw.body.replace(b'"stop"', b'"length"'))

    extras = {
        " at 3 tokens": {}, " at 5 tokens": {"max_tokens": None, "max_completion_tokens": 5},
        " at 7 tokens": {"max_tokens": 7}, "": {"max_tokens": None},
    }  # fmt: skip
    with serving(cut) as server:
        for where, extra in extras.items():
            method = fitted(server, tmp_path, max_new_tokens=3, extra=extra)
            method.predict(TEXTS[:2])
            assert note(method) == f"2 of 2 replies were cut{where}"


def test_without_usage_tokens_are_bounded_by_bytes(tmp_path: Path) -> None:
    body = json.dumps({"choices": [{"message": {"content": "good"}}]}).encode()
    with serving(lambda *_: Raw(200, body)) as server:
        method = fitted(server, tmp_path)
        assert method.predict(TEXTS[:1]).values == ["good"]
        sent = server.requests[0]["messages"][0]["content"]
        assert method.predict([]).facts["tokens_in"] == len(sent.encode()) + 16
        assert method.predict([]).facts["tokens_out"] == 4


def test_all_failing_is_an_error_with_the_cause(tmp_path: Path) -> None:
    with serving(lambda *_: error(500, "the GPU fell out")) as server:
        with pytest.raises(UserError, match=r"all 5 requests failed: HTTP 500 \(the GPU fell out\) \(5x\)"):
            fitted(server, tmp_path, retries=0).predict(TEXTS[:5])
        url = server.url
    with pytest.raises(UserError, match=r"the request failed: the connection failed \(.+\)"):
        fitted(url, tmp_path, retries=0).predict(TEXTS[:1])


def test_a_dead_server_is_given_up(tmp_path: Path) -> None:
    with serving(lambda text, n: right(text, n) if n < 10 else Raw(0)) as server:
        with pytest.raises(UserError, match=r"20 requests in a row failed.*answers before are kept"):
            fitted(server, tmp_path, retries=0, concurrency=1).predict(TEXTS)
        assert len(server.requests) == 30


def test_a_slow_server_is_not_waited_for(tmp_path: Path) -> None:
    free = threading.Event()

    def slow(text: str, number: int) -> str:
        if "글 2:" in text:
            free.wait(20)
        return right(text, number)

    with serving(slow) as server:
        method = fitted(server, tmp_path, timeout_s=0.3, retries=0)
        assert method.predict(TEXTS[:4]).values == [*LABELS[:2], None, LABELS[3]]
        assert note(method) == "1 of 4 requests failed: no answer within 0.3 s"
        free.set()


def test_a_server_that_drips_is_not_waited_for(tmp_path: Path) -> None:
    free = threading.Event()

    class Drip(bytes):
        """Each byte comes within the time-out, the whole never."""

    def script(text: str, number: int) -> str | Raw:
        return Raw(200, Drip(b"x" * 1000)) if "글 1:" in text else right(text, number)

    with serving(script) as server:
        handler = server.RequestHandlerClass
        plain = handler.answer  # pyright: ignore[reportAttributeAccessIssue]

        def answer(self: Any, raw: Raw) -> None:
            if not isinstance(raw.body, Drip):
                plain(self, raw)
                return
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            while not free.is_set():
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
            self.close_connection = True

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(handler, "answer", answer)
            method = fitted(server, tmp_path, timeout_s=0.4, retries=0)
            assert method.predict(TEXTS[:3]).values == [LABELS[0], None, LABELS[2]]
            free.set()


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "the key in OPENAI_API_KEY is refused"),
        (403, "the key in OPENAI_API_KEY is refused"),
        (404, "no model 'm' there, or a wrong address"),
    ],
)
def test_refused_keys_and_models_stop_at_once(status: int, says: str, tmp_path: Path) -> None:
    with serving(lambda *_: error(status, f"bad {KEY}")) as server:
        with pytest.raises(UserError, match=says) as caught:
            fitted(server, tmp_path, concurrency=2).predict(TEXTS)
        assert len(server.requests) <= 2
        assert "\n" not in str(caught.value)
        assert KEY not in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with (
        serving(lambda *_: error(401, "who are you?")) as server,
        pytest.raises(UserError, match="environment variable MY_KEY"),
    ):
        fitted(server, tmp_path, key_env="MY_KEY").predict(TEXTS[:1])
    with serving(right) as server:  # a server of one's own wants none
        assert fitted(server, tmp_path).predict(TEXTS[:1]).values == LABELS[:1]


def test_the_key_is_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    troubles = [f"your key is {KEY}", error(400, f"{KEY} is odd"), error(500, KEY), Raw(200, KEY.encode())]
    with serving(lambda _, n: troubles[n % 4] if n < 40 else troubles[2]) as server:
        method = fitted(server, tmp_path, retries=0)
        method.predict(TEXTS)
        save_method(tmp_path / "saved", method)
        with pytest.raises(UserError) as caught:
            fitted(server, tmp_path, concurrency=1, retries=0, temperature=1.0).predict(TEXTS[1:2])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    for shown in (*(path.read_bytes() for path in files), caplog.text, *capfd.readouterr(),
                  str(method.predict([])), repr(method.options), str(caught.value)):  # fmt: skip
        assert KEY not in (shown.decode() if isinstance(shown, bytes) else shown)


def test_a_key_that_no_header_can_carry_is_reported_but_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-비밀\n")
    with pytest.raises(UserError, match="the key in OPENAI_API_KEY has letters") as caught:
        fitted("http://127.0.0.1:9/v1", tmp_path).predict(TEXTS[:1])
    assert "비밀" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": "localhost:8000"}, "address like https://host/v1"),
        ({"base_url": "https://me:pass@host/v1"}, "without a name, password"),
        ({"key_env": KEY}, "the name of an environment variable"),
        ({"price_in": 1.0}, "belong together"),
        ({"spend_limit": 1.0}, "need price_in and price_out"),
        ({"extra": {"stream": True}}, "cannot set stream"),
        (
            {"price_in": 1.0, "price_out": 1.0, "spend_limit": 1.0, "extra": {"max_tokens": None}},
            "give extra max_completion_tokens",
        ),
        ({"concurrency": 0}, "concurrency"),
        ({"shot": 2}, "did you mean 'shots'"),
    ],
)
def test_wrong_options_are_reported(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as caught:
        remote("http://host/v1", tmp_path, **options)
    assert KEY not in str(caught.value)
    assert "pass" not in str(caught.value).replace("password", "")


def test_labels_must_be_known(tmp_path: Path) -> None:
    for task, says in (("classification", "there is no label"), ("ner", "no example has an entity")):
        with pytest.raises(UserError, match=says):
            fitted_to(remote("http://host/v1", tmp_path, task), (), ())


def test_odd_texts_are_sent_as_they_are(tmp_path: Path) -> None:
    strange = ["", " \n\t", "<|eos|><|im_end|>", "{input} {labels}", "😀 a\u0301 ㄱㅏ\u2028", "\ud800"]
    with serving(right) as server:
        method = fitted(server, tmp_path)
        assert method.predict(strange).values == ["bad"] * 5 + [None]
        sent = {body["messages"][-1]["content"] for body in server.requests}
        assert {method.task.prompt(text)[-1].content for text in strange[:5]} == sent
