"""A document of the sample world: the article in both languages, its views, questions and dialogue.

It is written from a planned `Telling`, whose facts give every task's labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random
from typing import TypeVar

from malmoi.core.nouns import Answer, Entity, Example, Message
from malmoi.world.patterns import Language, Writer, named_in, slots_of
from malmoi.world.plots import SENTIMENTS, Ask, Pair, Sentiment, Step, Telling, in_language, talk
from malmoi.world.talks import (
    Quote,
    computable,
    dialogue,
    names_in,
    other,
    sentence,
    slots,
    unanswerable,
    unknown,
    writer_of,
)

T = TypeVar("T")
PAGE = "page"  # the kind of a document of several paragraphs
GAP = "\n\n"  # between them

_LABELS = {  # in English and in Korean
    "PER": ("person", "사람"),
    "ORG": ("group", "단체"),
    "LOC": ("place", "장소"),
    "DATE": ("date", "날짜"),
    "positive": ("positive", "긍정"),
    "negative": ("negative", "부정"),
    "mixed": ("mixed", "섞임"),
}


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the sample world. `translation` and the second half of each pair are the other language."""

    id: str
    language: Language
    kind: str
    text: str
    headline: str
    summary: str
    translation: str
    sentence_pairs: tuple[tuple[str, str], ...]
    entities: tuple[Entity, ...]  # PER, ORG, LOC or DATE
    questions: tuple[Example[str, Answer], ...]  # the answers are parts of the text
    sums: tuple[Example[str, str], ...]  # questions with full answers, computed from numbers in the text
    unanswered: tuple[str, ...]  # questions that the text does not answer
    dialogue: tuple[Message, ...]
    sentiment: Sentiment | None
    score: int | None  # 1 (worst) .. 5 (best); None where the text gives no opinion
    facts: Mapping[str, str]
    unseen: frozenset[str]  # the facts that are names which no train document has
    plain: bool = False

    def with_views(self) -> str:
        """The text and some other views of the same facts, chosen and ordered by the document's id."""
        rng = Random(self.id)
        if self.plain:
            list_or_translation = self._names if rng.random() < 0.6 else self._translation
            return "\n".join([self.text, list_or_translation(rng), self._questions(rng)])
        views = [self._headline, self._summary, self._questions, self._translation, self._dialogue]
        views += [self._names] if self.entities else []
        views += [self._opinion] if self.sentiment else []
        least, most = (1, 3) if self.kind == PAGE else (2, min(5, len(views)))
        chosen: list[Callable[[Random], str]] = rng.sample(views, rng.randint(least, most))
        texts = [view(rng) for view in chosen]
        texts.insert(0 if rng.random() < 0.8 else 1, self.text)
        return "\n\n".join(texts)

    def _label(self, name: str, rng: Random) -> str:
        return in_language(rng.choice(talk()[f"label_{name}"]), self.language)

    def _word(self, name: str) -> str:
        return _LABELS[name][self.language == "ko"]

    def _headline(self, rng: Random) -> str:
        return f"{self._label('headline', rng)} {self.headline}"

    def _summary(self, rng: Random) -> str:
        return f"{self._label('summary', rng)} {self.summary}"

    def _translation(self, rng: Random) -> str:
        label = self._label("translation", rng)
        if rng.random() < 0.6:
            return f"{label} {self.translation}"
        pairs = rng.sample(self.sentence_pairs, min(2, len(self.sentence_pairs)))
        return "\n".join(f"{ours}\n{label} {theirs}" for ours, theirs in pairs)

    def _questions(self, rng: Random) -> str:
        """Up to five questions, of all kinds."""
        asked = [(item.input, item.target.text) for item in _some(self.questions, rng.randint(1, 3), rng)]
        asked += [(item.input, item.target) for item in _some(self.sums, 1, rng)]
        if rng.random() < 0.25:
            asked += [(question, self._nothing(rng)) for question in _some(self.unanswered, 1, rng)]
        labels = rng.choice(list(zip(talk()["label_question"], talk()["label_answer"], strict=True)))
        q, a = (in_language(label, self.language) for label in labels)
        return "\n".join(
            f"{q} {question}\n{a} {answer}" for question, answer in rng.sample(asked, len(asked))
        )

    def _nothing(self, rng: Random) -> str:
        return in_language(rng.choice(talk()["nothing"]), self.language)

    def _dialogue(self, rng: Random) -> str:
        return "\n".join(f"{self._label(turn.role, rng)} {turn.content}" for turn in self.dialogue)

    def _names(self, rng: Random) -> str:
        seen = dict.fromkeys((self.text[span.start : span.end], span.label) for span in self.entities)
        names = ", ".join(f"{name} ({self._word(kind)})" for name, kind in seen)
        return f"{self._label('names', rng)} {names}"

    def _opinion(self, rng: Random) -> str:
        assert self.sentiment is not None
        return f"{self._label('opinion', rng)} {self._word(self.sentiment)} ({self.score}/5)"


def _some(items: Sequence[T], most: int, rng: Random) -> list[T]:
    return rng.sample(items, min(most, len(items)))


def _article(telling: Telling, language: Language) -> tuple[Writer, list[str]]:
    """The text, and that of each step."""
    writer = writer_of(telling, language, telling.level)
    places = [
        writer.write(in_language(step.pair, language), step.choice, step.separator) for step in telling.steps
    ]
    text = writer.text()
    return writer, [text[start:end] for start, end in places]


def _quoted(telling: Telling, steps: Sequence[Step], language: Language) -> Writer:
    """Sentences of the text in the level of a talk."""
    writer = writer_of(telling, language, "polite")
    for step in steps:
        writer.write(in_language(step.pair, language), step.choice, step.separator)
    return writer


def _polite(telling: Telling, pair: Pair, article: Writer) -> str:
    """A question or an answer in the article's language."""
    return sentence(telling, Step(pair, 0), article.language, "polite").text()


def _questions(
    telling: Telling, asks: Sequence[Ask], article: Writer, before: int = 0
) -> tuple[Example[str, Answer], ...]:
    """The questions whose answers are in the article, each with the first place of the answer.

    before: characters of the text that stand before the article.
    """
    first: dict[str, tuple[int, int]] = {}
    for start, end, _, slot in article.spans:
        first.setdefault(slot, (start, end))
    text, found = article.text(), []
    for ask in asks:
        if ask.slot in first and named_in(in_language(ask.question, article.language)) <= first.keys():
            start, end = first[ask.slot]
            answer = Answer(text[start:end], before + start)
            found.append(Example(_polite(telling, ask.question, article), answer))
    return tuple(found)


def _sums(telling: Telling, article: Writer) -> tuple[Example[str, str], ...]:
    asks = computable(telling.sums, slots(article), article.language)
    pairs = ((_polite(telling, pair, article) for pair in (ask.question, ask.answer)) for ask in asks)
    return tuple(Example(question, answer) for question, answer in pairs)


def _unanswered(telling: Telling, asks: Sequence[Ask], article: Writer, rng: Random) -> tuple[str, ...]:
    known = slots(article)
    pairs = [ask.question for ask in unanswerable(asks, known, article.language)]
    general = unknown(telling, known, rng)
    return tuple(_polite(telling, pair, article) for pair in [*pairs, *([general] if general else [])])


def _talk(telling: Telling, language: Language, rng: Random) -> tuple[Message, ...]:
    """A talk that quotes the text or its beginning, so that every answer can be read off it.

    Of a beginning it asks for nothing that the rest mentions: who wins may be named long before the victory.
    """
    beginning = telling.steps[: rng.randint(2, 4)] if rng.random() < 0.5 else telling.steps
    for steps in (beginning, telling.steps):
        written = _quoted(telling, steps, language)
        people, places = names_in([written], "PER"), names_in([written], "LOC")
        left = telling.steps[len(steps) :]
        asks = [ask for ask in telling.asks if not any(ask.slot in slots_of(step.pair[0]) for step in left)]
        quote = Quote(written.text(), telling, slots(written), asks, people, places, complete=not left)
        if found := dialogue(quote, language, rng):
            return found
    raise AssertionError(f"{telling.plot.name}: a telling that answers no question")


def tell(telling: Telling, language: Language, rng: Random, name: str) -> Document:
    """Write the telling as a document in `language`, with every label that follows from its facts."""
    article, ours = _article(telling, language)
    translation, theirs = _article(telling, other(language))
    sentiment: Sentiment | None = SENTIMENTS[telling.score] if telling.score else None
    return Document(
        id=name,
        language=language,
        kind=telling.plot.name,
        text=article.text(),
        headline=sentence(telling, telling.headline, language, "plain").text(),
        summary=sentence(telling, telling.summary, language, telling.level).text(),
        translation=translation.text(),
        sentence_pairs=tuple(zip(ours, theirs, strict=True)),
        entities=tuple(Entity(start, end, label) for start, end, label, _ in article.spans if label),
        questions=_questions(telling, telling.asks, article),
        sums=_sums(telling, article),
        unanswered=_unanswered(telling, telling.asks, article, rng),
        dialogue=_talk(telling, language, rng),
        sentiment=sentiment,
        score=telling.score,
        facts={slot: term.text(language) for slot, term in telling.facts.items() if slot != "town"},
        unseen=frozenset(slot for slot, term in telling.facts.items() if term.unseen),
        plain=telling.plot.plain,
    )


def tell_page(tellings: Sequence[Telling], language: Language, rng: Random, name: str) -> Document:
    """Write tellings one below the other, as one document of several paragraphs."""
    tellings = [_clear(telling, language) for telling in tellings]
    parts = [tell(telling, language, rng, f"{name}.{number}") for number, telling in enumerate(tellings)]
    starts = list(accumulate((len(part.text) + len(GAP) for part in parts), initial=0))
    placed = list(zip(parts, starts, strict=False))
    asked = Counter(one.input for part in parts for one in part.questions)
    questions = tuple(
        Example(one.input, Answer(one.target.text, start + one.target.start))
        for part, start in placed
        for one in part.questions
        if asked[one.input] == 1  # "what did she sell?", where she sold in two paragraphs
    )
    talk_of_page = rng.random() < 0.5 and _talk_of_page(
        tellings, {one.input for one in questions}, language, rng
    )
    return Document(
        id=name,
        language=language,
        kind=PAGE,
        text=GAP.join(part.text for part in parts),
        headline="; ".join(part.headline for part in parts),
        summary=" ".join(part.summary for part in parts),
        translation=GAP.join(part.translation for part in parts),
        sentence_pairs=tuple(pair for part in parts for pair in part.sentence_pairs),
        entities=tuple(
            Entity(start + one.start, start + one.end, one.label)
            for part, start in placed
            for one in part.entities
        ),
        questions=questions,
        sums=tuple(one for part in parts for one in part.sums),
        unanswered=parts[0].unanswered[-1:],
        dialogue=talk_of_page or parts[0].dialogue,
        sentiment=None,
        score=None,
        facts={f"{slot}.{n}": fact for n, part in enumerate(parts) for slot, fact in part.facts.items()},
        unseen=frozenset(f"{slot}.{n}" for n, part in enumerate(parts) for slot in part.unseen),
    )


def _clear(telling: Telling, language: Language) -> Telling:
    """With the questions that name a fact: "who won?" may be asked of several paragraphs."""
    return replace(
        telling, asks=tuple(ask for ask in telling.asks if "{" in in_language(ask.question, language))
    )


def _talk_of_page(
    tellings: Sequence[Telling], questions: set[str], language: Language, rng: Random
) -> tuple[Message, ...]:
    """A talk that quotes the whole page and asks some of its questions about one of the paragraphs."""
    written = [_quoted(telling, telling.steps, language) for telling in tellings]
    number = rng.randrange(len(tellings))
    people, places = names_in(written, "PER"), names_in(written, "LOC")
    text = GAP.join(one.text() for one in written)
    known = slots(written[number])
    telling, article = tellings[number], written[number]
    asks = [ask for ask in telling.asks if _polite(telling, ask.question, article) in questions]
    quote = Quote(text, telling, known, asks, people, places, part=True)
    return dialogue(quote, language, rng)
