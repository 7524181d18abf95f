"""The page in a real browser, with tiny models: every tab, in two languages, nothing asked from outside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect
from torch import Tensor

from malmoi.serve.catalogue import LanguageEntry, open_catalogue
from malmoi.serve.page.chat_tab import EXAMPLES
from malmoi.serve.page.insides import EXAMPLES as inside_examples
from malmoi.serve.page.task_tabs import examples, title
from malmoi.serve.settings import ServeSettings
from malmoi.serve.web import mount_page
from malmoi.tasks import TASKS, make_task
from tests.engine.scripted import Scripted
from tests.methods.tiny import write_model
from tests.serve.conftest import fitted, scripted_entry
from tests.serve.running import Running, running
from tests.serve.test_page_parts import comparison

pytestmark = pytest.mark.browser
FITTED = {
    "classification": "tfidf", "multi-label": "tfidf", "ner": "crf", "question-answering": "sentence",
    "translation": "ibm1", "summarization": "lead", "completion": "ngram", "chat": "retrieval",
}  # fmt: skip
HOSTILE = "<img src=x onerror=\"document.title='forged'\"> <b>굵게</b> **별**"
WAIT_MS = 60_000  # one machine may do many things at once


class Slow(Scripted):
    """Takes its time for a long reply, so that it can be stopped."""

    def logits(self, history: Sequence[int]) -> Tensor:
        time.sleep(0.01)
        return super().logits(history)


def reply(asked: str) -> str:
    return "끝이 없는 이야기 " * 300 if asked == "story" else f"네, {asked}"


def slow_entry() -> LanguageEntry:
    return scripted_entry("slow", Slow(reply, context=8192), chats=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("site")
    folders = [fitted(root / f"my-{task}", task, method) for task, method in FITTED.items()]
    folders.append(fitted(root / "lexicon", "classification", "lexicon"))
    folders.append(write_model(root / "tiny", chat=True))
    made = [scripted_entry("talker", Scripted(reply, context=8192), chats=True), slow_entry()]
    catalogue = {entry.name: entry for entry in made} | open_catalogue(folders, max_rows=4)
    runs = comparison(root / "runs" / "보고").parent
    with running(catalogue, settings=ServeSettings(runs=(runs,)), mount=mount_page) as found:
        yield found


@pytest.fixture(scope="module")
def page(browser: Any, site: Running) -> Iterator[Any]:
    """The page, opened once; it must ask this server only and have nothing to complain of."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(site.url)
    expect(page.locator("#chat-box textarea")).to_be_visible()
    yield page
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert wrong == []
    assert page.title() == "malmoi"
    page.close()


def ask(page: Any, text: str) -> None:
    """Send a message; again where the reply before it had not quite ended, for then Enter does nothing."""
    box, said = page.locator("#chat-box textarea"), page.locator("#conversation .user")
    before, until = said.count(), time.monotonic() + WAIT_MS / 1000
    while said.count() == before and time.monotonic() < until:
        box.fill(text)
        box.press("Enter")
        with suppress(AssertionError):
            expect(said).to_have_count(before + 1, timeout=2000)


def is_soon_idle(page: Any, site: Running) -> bool:
    """Whether the slow model does nothing any more, well before the end of the story."""
    entry = site.catalogue["slow"]
    assert isinstance(entry, LanguageEntry)
    for _ in range(40):
        if not entry.engine.busy:
            return True
        page.wait_for_timeout(50)
    return False


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).first.click()


def pick(page: Any, label: str, name: str) -> None:
    """Choose in a list."""
    page.locator(f"input[aria-label='{label}']:visible").click()
    page.get_by_role("option", name=name).click()


def test_a_chat_streams_is_stopped_made_again_and_cleared(page: Any, site: Running) -> None:
    bot, status, stop = (
        page.locator("#conversation .bot"),
        page.locator("#chat-status"),
        page.locator("#chat-stop"),
    )
    ask(page, "안녕하세요")
    expect(bot.last).to_contain_text("네, 안녕하세요")
    expect(status).to_contain_text("tokens/s")
    expect(stop).to_be_disabled()
    pick(page, "Model", "slow")
    ask(page, "story")
    expect(status).to_contain_text("tokens")
    expect(bot.last).to_contain_text("이야기 끝이 없는 이야기")  # while it goes on
    stop.click()
    expect(stop).to_be_disabled()
    expect(status).to_contain_text("stopped")
    assert is_soon_idle(page, site)  # the rest is never computed
    assert 0 < bot.last.inner_text().count("이야기") < 300
    ask(page, HOSTILE)
    expect(bot.last).to_contain_text(f"네, {HOSTILE}")
    page.locator("#chat-again").click()
    expect(page.locator("#conversation .user")).to_have_count(3)
    expect(bot).to_have_count(3)
    page.locator("#chat-clear").click()
    expect(bot).to_have_count(0)


@pytest.mark.parametrize("wait_ms", [0, 20, 100, 500])
def test_clear_leaves_nothing_whatever_is_on_its_way(page: Any, site: Running, wait_ms: int) -> None:
    """Pressed before the server has heard of the reply, and while it streams."""
    bot, clear = page.locator("#conversation .bot"), page.locator("#chat-clear")
    pick(page, "Model", "slow")
    ask(page, "안녕")
    expect(bot.last).to_contain_text("네, 안녕")
    expect(page.locator("#chat-stop")).to_be_disabled()
    page.evaluate(
        """wait => {
            document.querySelector("#chat-again").click();
            setTimeout(() => document.querySelector("#chat-clear").click(), wait);
        }""",
        wait_ms,
    )
    expect(bot).to_have_count(0)
    page.wait_for_timeout(1000)  # what comes later must not be shown
    expect(bot).to_have_count(0)
    expect(clear).to_be_enabled()
    assert is_soon_idle(page, site)


def test_every_task_runs(page: Any) -> None:
    tab(page, "Tasks")
    for task in TASKS:
        page.get_by_role("tab", name=title(make_task(task)), exact=True).last.click()
        page.locator(".run:visible").click()
        took = page.locator(".took:visible")
        expect(took.first).to_contain_text(f"my-{task} \u00b7 ")
        expect(took.first).to_contain_text("s")
        expect(took.last).to_contain_text("s")
    tab(page, "Tasks")
    page.get_by_role("tab", name="Classification", exact=True).click()
    page.locator("textarea:visible").first.fill(HOSTILE)
    page.locator(".run:visible").click()
    expect(page.locator(".took:visible").last).to_contain_text("lexicon")
    page.locator("textarea:visible").first.fill(" ")
    refused = page.locator(".took:visible").first.get_by_text("write something first")
    for _ in range(10):  # a click while the run before is under way is not heard
        page.locator(".run:visible").click()
        with suppress(AssertionError):
            expect(refused).to_be_visible(timeout=6000)
            break
    expect(refused).to_be_visible()


def test_an_example_fills_the_boxes_when_it_is_clicked_on(page: Any) -> None:
    tab(page, "Chat")
    page.locator(".examples:visible").get_by_text(EXAMPLES[1]).click()
    expect(page.locator("#chat-box textarea")).to_have_value(EXAMPLES[1])
    page.locator("#chat-box textarea").fill("")
    tab(page, "Tasks")
    for task in map(make_task, TASKS):
        page.get_by_role("tab", name=title(task), exact=True).last.click()
        page.wait_for_timeout(100)
        boxes = page.locator(f"#task-{task.name} textarea:not([disabled]):visible")
        for row in (examples(task)[-1], examples(task)[0]):
            page.locator(".examples:visible").get_by_text(row[-1][:20]).click()
            for at, text in enumerate(row):
                expect(boxes.nth(at)).to_have_value(text)
    tab(page, "Inside")
    page.locator(".examples:visible").get_by_text(inside_examples[1]).click()
    expect(page.locator("#inside-text textarea")).to_have_value(inside_examples[1])


def test_the_inside_is_shown_in_pictures(page: Any) -> None:
    tab(page, "Inside")
    pick(page, "Model", "tiny")
    page.locator("#inside-text textarea").fill("거위가 <b>노래</b>한다")
    page.locator("#inside-run").click()
    pictures = page.locator("#inside-pictures figure")
    expect(pictures.first).to_be_visible()
    assert pictures.count() >= 6
    assert all(pictures.nth(at).locator("figcaption").inner_text() for at in range(pictures.count()))
    wide = page.evaluate("[...document.querySelectorAll('#inside-pictures img')].map(it => it.naturalWidth)")
    assert len(wide) == pictures.count()
    assert min(wide) > 200
    pick(page, "Model", "my-classification")
    page.locator("#inside-run").click()
    expect(pictures).not_to_have_count(len(wide))


def test_a_report_is_shown_beside_its_table(page: Any) -> None:
    tab(page, "Compare")
    expect(page.locator("#compare-table tr.winner")).to_contain_text("90.0%")
    expect(page.frame_locator("iframe.report").locator("p")).to_have_text("보고")
    assert page.locator("iframe.report").get_attribute("sandbox") == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page: Any, scheme: str) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.emulate_media(color_scheme=scheme)
    for name in ("Chat", "Tasks", "Inside", "Compare"):
        tab(page, name)
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_page_that_is_closed_or_left_open_keeps_nothing_busy(page: Any, browser: Any) -> None:
    slow = slow_entry()
    with running({slow.name: slow}, settings=ServeSettings(stop_timeout_s=5), mount=mount_page) as site:
        closed, left = browser.new_page(), browser.new_page()
        for it in (closed, left):
            it.set_default_timeout(WAIT_MS)
            it.goto(site.url)
        ask(left, "안녕")
        expect(left.locator("#conversation .bot").last).to_contain_text("네, 안녕")
        closed.get_by_text("Settings").click()
        closed.get_by_label("number input for Most tokens").fill("1000")
        ask(closed, "story")
        expect(closed.locator("#conversation .bot").last).to_contain_text("이야기")
        closed.close()
        assert is_soon_idle(page, site)
    left.close()  # only after `running` has seen the server stop
