"""What each of the other methods does that the contract does not say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Entity, Example, Message, Question
from malmoi.methods.folder import load_method, save_method
from malmoi.methods.registry import make_method
from malmoi.methods.traditional.extractive import DAMPING, Lead, TextRank, pagerank
from malmoi.methods.traditional.ngrams import NGram
from malmoi.methods.traditional.retrieval import Retrieval
from malmoi.methods.traditional.sentence_finder import SentenceSpan
from malmoi.methods.traditional.taggers import Crf
from malmoi.tasks import make_task
from malmoi.text.units import bio_tags, entities_of, units
from tests.methods.tiny import fitted_to

PEOPLE = ("Mina", "Otto", "Vera", "민수", "영희", "준호")
TOWNS = ("Rome", "Lima", "Oslo", "부산", "제주", "강릉")


def marked(text: str, **names: str) -> Example:
    entities = [
        Entity(text.index(name), text.index(name) + len(name), label) for label, name in names.items()
    ]
    return Example(text, tuple(sorted(entities)))


NAMES = [marked(f"{p} went to {t} today.", PER=p, LOC=t) for p in PEOPLE[:3] for t in TOWNS[:3]]
NAMES += [marked(f"{p}는 오늘 {t}에서 왔다.", PER=p, LOC=t) for p in PEOPLE[3:] for t in TOWNS[3:]]


def test_names_are_found_in_new_sentences() -> None:
    method = fitted_to(Crf(make_task("ner")), NAMES * 3, NAMES)
    text = "민수는 오늘 강릉에서 왔다."
    assert method.predict([text, "Vera went to Lima today.", ""]).values[0] == (
        Entity(0, 2, "PER"),
        Entity(7, 9, "LOC"),
    )


@given(st.text(alphabet="ab 가나.", max_size=30), st.randoms(use_true_random=False))
def test_entities_that_fit_units_survive_their_tags(text: str, random) -> None:
    spans = units(text)
    entities, i = [], 0
    while i < len(spans):
        last = min(len(spans) - 1, i + random.randrange(3))
        if random.random() < 0.5:
            entities.append(Entity(spans[i][0], spans[last][1], random.choice("XY")))
        i = last + 1
    assert entities_of(spans, bio_tags(spans, entities)) == tuple(entities)


def test_page_ranks_are_the_eigenvector() -> None:
    links_SS = np.random.default_rng(0).random((6, 6))
    links_SS += links_SS.T
    np.fill_diagonal(links_SS, 0)
    google_SS = (1 - DAMPING) / 6 + DAMPING * links_SS / links_SS.sum(axis=1, keepdims=True)
    values, vectors = np.linalg.eig(google_SS.T)
    first = np.real(vectors[:, np.argmax(values.real)])
    assert pagerank(links_SS) == pytest.approx(first / first.sum(), abs=1e-4)


def test_summaries_are_sentences_in_order() -> None:
    story = (
        "The mill burned. Nobody knew why. The mill by the river burned at night. Rain fell. The river rose."
    )
    korean = "방앗간이 탔다. 아무도 까닭을 몰랐다. 강가 방앗간이 탔고 비가 왔다. 비가 왔다. 강가는 멀다."
    train = [
        Example(story, "The mill burned. Nobody knew why."),
        Example(korean, "방앗간이 탔다. 아무도 까닭을 몰랐다."),
    ]
    lead = fitted_to(Lead(make_task("summarization")), train, train)
    assert lead.report["sentences"] == 2
    assert lead.predict([story, korean, ""]).values == [train[0].target, train[1].target, ""]
    central = (
        fitted_to(TextRank(make_task("summarization"), {"most": 1}), train, train)
        .predict([story, korean])
        .values
    )
    assert central == ["The mill by the river burned at night.", "강가 방앗간이 탔고 비가 왔다."]


def asked(question: str, context: str, answer: str) -> Example:
    return Example(Question(question, context), Answer(answer, context.index(answer)))


def test_answers_are_exact_spans() -> None:
    made = [(p, t, y) for p in PEOPLE[:3] for t in TOWNS[:3] for y in (1901, 1950, 1987)]
    train = [
        asked("When did the mill open?", f"In {t} the mill of {p} opened in {y}. It was red.", str(y))
        for p, t, y in made
    ]
    train += [
        asked("방앗간은 언제 열었나?", f"{t} 방앗간은 {y}년에 열었다. 빨간색이었다.", f"{y}년")
        for _, t, y in made
    ]
    method = fitted_to(SentenceSpan(make_task("question-answering")), train, [])
    new = [
        asked("When did the mill open?", "It was red. In Bonn the mill of Ada opened in 1966.", "1966").input,
        asked("방앗간은 언제 열었나?", "빨간색이었다. 대구 방앗간은 1977년에 열었다.", "1977년").input,
    ]
    found = method.predict([*new, Question("who", "")]).values
    assert [a and a.text for a in found] == ["1966", "1977년", None]
    assert all(q.context[a.start :].startswith(a.text) for q, a in zip(new, found[:2], strict=True))


def test_where_every_span_is_an_answer_nothing_is_learned(tmp_path: Path) -> None:
    train = [
        asked(f"Where is {person}?", f"{town}.", town) for person, town in zip(PEOPLE, TOWNS, strict=True)
    ]
    save_method(tmp_path / "m", fitted_to(SentenceSpan(make_task("question-answering")), train, []))
    (found,) = load_method(tmp_path / "m").predict([Question("Where is Mina?", "In Oslo now.")]).values
    assert found == Answer("Oslo", 3)


def test_likelihoods_are_of_the_target_only() -> None:
    texts = [f"{p} went to {t} and sang. {p}는 {t}에서 노래했다." for p in PEOPLE for t in TOWNS]
    train = [Example(text[:9], text[9:]) for text in texts]
    method = fitted_to(NGram(make_task("completion"), {"vocab_size": 400, "order": 3}), train, [])
    (whole,) = method.log_likelihood([""], [" went to"])
    first, second = method.log_likelihood(["", " went"], [" went", " to"])
    assert whole == pytest.approx(first + second, abs=1e-5)
    likely, not_likely = method.log_likelihood(["Mina went"] * 2, [" to", " 는"])
    assert likely > not_likely > -math.inf


def test_the_reply_of_the_nearest_turn() -> None:
    def turn(*texts: str) -> tuple[Message, ...]:
        return tuple(Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts))

    train = [
        Example(turn("What do cats eat?"), "Fish."),
        Example(turn("고양이는 뭘 먹어?"), "생선을 먹어요."),
        Example(turn("Tell me about dogs.", "They bark.", "And why?"), "To guard us."),
        Example(turn("Tell me about rain.", "It is wet.", "And why?"), "Clouds are water."),
    ]
    method = fitted_to(Retrieval(make_task("chat")), train, [])
    asked = [
        turn("what does a cat eat"),
        turn("고양이가 뭐 먹지?"),
        turn("Tell me about rain.", "It is wet.", "And why?"),
        turn(""),
    ]
    assert method.predict(asked).values == ["Fish.", "생선을 먹어요.", "Clouds are water.", None]


def test_the_translation_of_the_nearest_source() -> None:
    train = [
        Example("Open the file.", "파일을 엽니다."),
        Example("Close the window.", "창을 닫습니다."),
        Example("Delete the folder.", "폴더를 삭제합니다."),
    ]
    method = fitted_to(Retrieval(make_task("translation")), train, [])
    found = method.predict(["open a file", "Closing windows", "Delete folders."]).values
    assert found == ["파일을 엽니다.", "창을 닫습니다.", "폴더를 삭제합니다."]
    assert method.predict([""]).values == [None]


def test_the_held_out_part_chooses_characters_where_words_lead_astray() -> None:
    train = [Example("고양이가먹었다 그리고", "cat"), Example("강아지가먹었다 그런데", "dog")]
    valid = [Example("고양이가먹었네 그런데", "cat"), Example("강아지가먹었네 그리고", "dog")]
    method = fitted_to(Retrieval(make_task("translation")), train, valid)
    assert [list(view) for view in method.report["setting"]["views"]] == [["char_wb", 1, 4]]
    assert method.predict([example.input for example in valid]).values == ["cat", "dog"]


@pytest.mark.parametrize(("reply", "discount"), [("Rain.", 0.3), ("Dogs.", 0.6)])
def test_the_held_out_part_chooses_how_much_earlier_messages_count(reply: str, discount: float) -> None:
    """The last message is a little nearer to one talk, the message before it is the other's."""
    mill = "the old mill by the green river was built long ago and still grinds"

    def talk(before: str, last: str, reply: str) -> Example[tuple[Message, ...], str]:
        return Example((Message("assistant", before), Message("user", f"{mill} {last}")), reply)

    train = [talk("About rain.", "ones", "Rain."), talk("On dogs.", "twos", "Dogs.")]
    valid = [talk("On dogs.", "ones", reply)]
    method = fitted_to(Retrieval(make_task("chat")), train, valid)
    assert method.report["setting"]["discount"] == discount
    assert method.predict([valid[0].input]).values == [reply]


def test_the_held_out_part_chooses_the_consensus_of_the_neighbours() -> None:
    """The nearest question has an odd reply; most of those near to it have another."""
    place = ("at home", "in town", "by the sea", "on the farm", "at school")
    odd = Example((Message("user", "How are you today here?"),), "Wooden spoons.")
    usual = [Example((Message("user", f"How are you today {it}?"),), "I am fine.") for it in place]
    asked = Example((Message("user", "How are you here?"),), "I am fine.")
    method = Retrieval(make_task("chat"))
    assert fitted_to(method, [odd, *usual], []).predict([asked.input]).values == ["Wooden spoons."]
    assert fitted_to(method, [odd, *usual], [asked]).predict([asked.input]).values == ["I am fine."]
    assert method.report["setting"]["neighbours"] == 64
    one = fitted_to(make_method("retrieval", make_task("chat"), {"neighbours": 1}), [odd, *usual], [])
    assert one.predict([asked.input]).values == ["Wooden spoons."]
    with pytest.raises(UserError, match="no option 'turns'"):
        make_method("retrieval", make_task("translation"), {"turns": 2})
