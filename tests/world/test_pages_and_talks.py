"""Pages, plain documents, sums, what a text does not say, and talks that can be read off what they quote."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from random import Random

import pytest

from malmoi.world import Document, Language, documents
from malmoi.world.patterns import named_in
from malmoi.world.plots import draw_numbers, plan, plots
from malmoi.world.talks import answerable, computable, unanswerable

LANGUAGES: tuple[Language, Language] = ("en", "ko")
SUM = re.compile(r"(\d+(?: [-+x] \d+)+) = (\d+)")


@cache
def sample(language: Language, plain: float = 0.0, pages: float = 0.0, count: int = 300) -> list[Document]:
    return list(documents(count, language=language, plain=plain, pages=pages, seed=7))


def test_shares_of_plain_documents_and_pages() -> None:
    found = Counter(
        "plain" if document.plain else document.kind == "page"
        for document in sample("en", plain=0.3, pages=0.2, count=600)
    )
    assert 130 < found["plain"] < 230
    assert 80 < found[True] < 160
    assert not any(document.plain or document.kind == "page" for document in sample("en"))


def test_every_plot_is_told() -> None:
    assert len(plots()) >= 54
    assert {document.kind for document in sample("ko", plain=1.0)} == {
        plot.name for plot in plots(plain=True)
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_is_paragraphs_about_some_of_the_same_people(language: Language) -> None:
    lengths: list[int] = []
    for page in sample(language, pages=1.0):
        paragraphs = page.text.split("\n\n")
        assert 2 <= len(paragraphs) == len(page.translation.split("\n\n")) <= 4
        lengths.append(len(page.text))
        names = {page.text[it.start : it.end] for it in page.entities if it.label == "PER"}
        for paragraph in paragraphs[1:]:  # it begins with somebody whom the first has named
            first = re.split(r"(?<=[.!?]) ", paragraph)[0]
            assert [name for name in names if name in first and name in paragraphs[0]], page.text
        for asked in page.questions:
            assert page.text.startswith(asked.target.text, asked.target.start)
        questions = [asked.input for asked in page.questions]
        assert len(questions) == len(set(questions))
        assert questions
        assert page.entities == tuple(sorted(page.entities))
    assert max(lengths) > (1300 if language == "en" else 700)


@pytest.mark.parametrize("language", LANGUAGES)
def test_sums_are_right(language: Language) -> None:
    counted = 0
    for document in (*sample(language), *sample(language, plain=1.0)):
        for asked in document.sums:
            (found,) = SUM.findall(asked.target)
            text = f"{document.text} {asked.input}"
            assert set(re.findall(r"\d+", found[0])) <= set(re.findall(r"\d+", text))
            assert eval(found[0].replace("x", "*")) == int(found[1])
            assert asked.target.count(found[1]) >= 2  # computed, then said in words
            counted += 1
    assert counted > 50


def test_numbers_follow_their_rules() -> None:
    rules = {
        "had": "20..60",
        "sold": "3..19",
        "left": "had - sold",
        "price": "2..9",
        "all": "left * price + 1",
    }
    for seed in range(200):
        found = draw_numbers(rules, Random(seed))
        assert found["left"] == found["had"] - found["sold"]
        assert found["all"] == found["left"] * found["price"] + 1
        assert len(set(found.values())) == 5
        assert min(found.values()) > 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_name_only_what_the_text_does(language: Language) -> None:
    asked: Counter[bool] = Counter()
    for document in (*sample(language), *sample(language, pages=1.0)):
        names = [name for name in document.facts.values() if name[0].isupper() or len(name) > 4]
        answered = {question.input for question in document.questions}
        for question in (*answered, *document.unanswered):
            missing = [
                name
                for name in names
                if re.search(rf"(?<!\w){re.escape(name)}", question)
                and name.lower() not in document.text.lower()
            ]
            assert not missing, (question, document.text)
            asked[question in answered] += 1
        assert not answered & set(document.unanswered)
    assert min(asked.values()) > 300


def test_headlines_and_summaries_name_only_what_the_text_does() -> None:
    for plot in (*plots(), *plots(plain=True)):
        for telling in (plan(plot, "train", Random(seed)) for seed in range(20)):
            for side in (0, 1):
                named = {slot for step in telling.steps for slot in named_in(step.pair[side])}
                for view in (telling.headline, telling.summary):
                    assert named_in(view.pair[side]) <= named, (plot.name, view)


def test_what_is_answerable_unanswerable_and_computable() -> None:
    plot = next(plot for plot in plots() if plot.name == "fruit_stall")
    telling = plan(plot, "train", Random(1))
    known = {"seller", "had", "fruit", "buyer"}
    assert {ask.slot for ask in answerable(telling.asks, known, "en")} == known
    assert {ask.slot for ask in unanswerable(telling.asks, known, "en")} == {
        "sold",
        "place",
        "date",
        "remark",
    }
    assert not computable(telling.sums, known, "en")
    assert computable(telling.sums, known | {"sold"}, "en")


def test_replies_need_nothing_but_the_talk_before_them() -> None:
    """Every name that a reply says was quoted or asked before, unless the reply is a translation."""
    replies = 0
    for document in (*sample("en"), *sample("en", pages=0.5)):
        before = ""
        for turn in document.dialogue:
            if turn.role == "assistant" and not re.search("[가-힣]", turn.content):
                for fact in filter(str.istitle, document.facts.values()):
                    if re.search(rf"\b{re.escape(fact)}\b", turn.content):
                        assert fact.lower() in before.lower(), document.dialogue
                replies += 1
            before += turn.content + "\n"
    assert replies > 800


def test_talks_refer_back() -> None:
    turns = [turn.content for document in sample("en", count=900) for turn in document.dialogue]
    for wanted in ("And when?", "And where?", "Please say that in Korean.", "Say that again, please."):
        assert wanted in turns
    for document in sample("en", count=900):
        said = [turn.content for turn in document.dialogue]
        for question, reply in zip(said[::2], said[1::2], strict=True):
            if question in ("What did I ask you first?", "Do you remember my first question?"):
                assert re.fullmatch('You asked: "(.*)"', reply)[1] in said[0]  # type: ignore[index]


def test_nothing_is_asked_of_a_beginning_that_the_rest_decides() -> None:
    """Who wins is named in the second sentence, and wins in a later one."""
    for document in sample("en", count=900):
        if document.kind != "baking_contest":
            continue
        opening, reply = document.dialogue[0].content, document.dialogue[1].content
        if "Who won the contest?" in opening and "text" not in reply:
            assert re.search("won|went to", opening.replace("Who won the contest?", ""))


def test_plain_documents_list_names_and_ask() -> None:
    for document in sample("en", plain=1.0):
        text, *lines = document.with_views().split("\n")
        assert text == document.text
        assert lines[-1].startswith(("A:", "Answer:"))
        assert len(document.text) < 320
