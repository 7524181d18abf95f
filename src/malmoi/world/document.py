"""A document of the sample world: the article in both languages, its views, questions and dialogue.

It is written from a planned `Telling`, whose facts give every task's labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from malmoi.core.nouns import Answer, Entity, Example, Message
from malmoi.world.patterns import Language, Writer
from malmoi.world.plots import SENTIMENTS, Pair, Sentiment, Step, Telling, pick, talk

MOST_EXCHANGES = 3  # of a dialogue: one question and its answer each

_LABELS = {  # in English and in Korean
    "headline": ("Headline:", "제목:"),
    "summary": ("Summary:", "요약:"),
    "question": ("Q:", "문:"),
    "answer": ("A:", "답:"),
    "translation": ("In Korean:", "영어로:"),
    "names": ("Names:", "이름:"),
    "opinion": ("Opinion:", "느낌:"),
    "user": ("User:", "사용자:"),
    "assistant": ("Assistant:", "도우미:"),
    "PER": ("person", "사람"),
    "ORG": ("group", "단체"),
    "LOC": ("place", "장소"),
    "DATE": ("date", "날짜"),
    "positive": ("positive", "긍정"),
    "negative": ("negative", "부정"),
    "mixed": ("mixed", "섞임"),
}


def other(language: Language) -> Language:
    """The language that a document is translated into."""
    return "ko" if language == "en" else "en"


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
    dialogue: tuple[Message, ...]
    sentiment: Sentiment | None
    score: int | None  # 1 (worst) .. 5 (best); None where the text gives no opinion
    facts: Mapping[str, str]

    def with_views(self) -> str:
        """The text and some other views of the same facts, chosen and ordered by the document's id."""
        rng = Random(self.id)
        views = [self._headline, self._summary, self._questions, self._translation, self._dialogue]
        views += [self._names] if self.entities else []
        views += [self._opinion] if self.sentiment else []
        chosen: list[Callable[[Random], str]] = rng.sample(views, rng.randint(2, min(5, len(views))))
        texts = [view(rng) for view in chosen]
        texts.insert(0 if rng.random() < 0.8 else 1, self.text)
        return "\n\n".join(texts)

    def _label(self, name: str) -> str:
        return _LABELS[name][self.language == "ko"]

    def _headline(self, _: Random) -> str:
        return f"{self._label('headline')} {self.headline}"

    def _summary(self, _: Random) -> str:
        return f"{self._label('summary')} {self.summary}"

    def _translation(self, rng: Random) -> str:
        if rng.random() < 0.6:
            return f"{self._label('translation')} {self.translation}"
        pairs = rng.sample(self.sentence_pairs, min(2, len(self.sentence_pairs)))
        return "\n".join(f"{ours}\n{self._label('translation')} {theirs}" for ours, theirs in pairs)

    def _questions(self, rng: Random) -> str:
        asked = rng.sample(self.questions, min(rng.randint(1, 3), len(self.questions)))
        q, a = self._label("question"), self._label("answer")
        return "\n".join(f"{q} {item.input}\n{a} {item.target.text}" for item in asked)

    def _dialogue(self, _: Random) -> str:
        return "\n".join(f"{self._label(turn.role)} {turn.content}" for turn in self.dialogue)

    def _names(self, _: Random) -> str:
        seen = dict.fromkeys((self.text[span.start : span.end], span.label) for span in self.entities)
        return f"{self._label('names')} " + ", ".join(f"{name} ({self._label(kind)})" for name, kind in seen)

    def _opinion(self, _: Random) -> str:
        assert self.sentiment is not None
        return f"{self._label('opinion')} {self._label(self.sentiment)} ({self.score}/5)"


def _writer(telling: Telling, language: Language, level: str, honorific: bool = True) -> Writer:
    plot = telling.plot
    titled = honorific and plot.honorific and level != "plain"
    return Writer(language, telling.facts, level, titled, plot.short_names)


def _of(pair: Pair, language: Language) -> str:
    return pair[language == "ko"]


def _article(
    telling: Telling, steps: Sequence[Step], language: Language, level: str
) -> tuple[Writer, list[str]]:
    """The steps written one after another, and each one's text."""
    writer = _writer(telling, language, level)
    places = [writer.write(_of(step.pair, language), step.choice, step.separator) for step in steps]
    text = writer.text()
    return writer, [text[start:end] for start, end in places]


def _sentence(telling: Telling, step: Step, language: Language, level: str, honorific: bool = True) -> Writer:
    writer = _writer(telling, language, level, honorific)
    writer.write(_of(step.pair, language), step.choice)
    return writer


def _slots(writer: Writer) -> set[str]:
    return {slot for _, _, _, slot in writer.spans}


def _questions(telling: Telling, article: Writer, rng: Random) -> tuple[Example[str, Answer], ...]:
    """The questions whose answers are in the article, each with the first place of the answer."""
    first: dict[str, tuple[int, int]] = {}
    for start, end, _, slot in article.spans:
        first.setdefault(slot, (start, end))
    text, found = article.text(), []
    for ask in telling.asks:
        if ask.slot in first:
            start, end = first[ask.slot]
            question = _sentence(telling, pick([ask.question], rng), article.language, "polite").text()
            found.append(Example(question, Answer(text[start:end], start)))
    return tuple(found)


def _replies(telling: Telling, quoted: Writer, rng: Random) -> list[tuple[str, str]]:
    """One or two questions and full answers that need no fact beyond the quoted text and the question."""
    known, wanted = _slots(quoted), rng.randint(1, 2)
    replies: list[tuple[str, str]] = []
    for ask in rng.sample(telling.asks, len(telling.asks)):
        if ask.slot in known and len(replies) < wanted:
            question, answer = (
                _sentence(telling, Step(pair, 0), quoted.language, "polite")
                for pair in (ask.question, ask.answer)
            )
            if _slots(answer) <= known | _slots(question):
                replies.append((question.text(), answer.text()))
    return replies


def _exchanges(telling: Telling, quoted: Writer, complete: bool, rng: Random) -> list[tuple[str, str]]:
    """Up to three questions about the quoted text and their answers; none if it answers no question."""

    def say(name: str) -> str:
        return _of(rng.choice(talk()[name]), quoted.language)

    exchanges = _replies(telling, quoted, rng)
    if not exchanges:
        return []
    for name, step in (("ask_headline", telling.headline), ("ask_summary", telling.summary)):
        written = _sentence(telling, step, quoted.language, "polite", honorific=name == "ask_summary")
        if _slots(written) <= _slots(quoted) and rng.random() < 0.5:
            exchanges.append((say(name), written.text()))
    if telling.score and complete:
        place = rng.randint(0, len(exchanges))
        exchanges.insert(place, (say("ask_feeling"), say(f"feeling_{SENTIMENTS[telling.score]}")))
    exchanges = exchanges[: rng.randint(1, MOST_EXCHANGES)]
    if len(exchanges) < MOST_EXCHANGES and rng.random() < 0.25:
        exchanges.append((say("thanks"), say("welcome")))
    return exchanges


def _dialogue(telling: Telling, language: Language, rng: Random) -> tuple[Message, ...]:
    """A talk that quotes the sentences which it asks about, so that every answer can be read off it."""
    length = rng.randint(2, 4)
    start = rng.randint(0, max(0, len(telling.steps) - length)) if rng.random() < 0.5 else 0
    some = telling.steps[start : start + length] if rng.random() < 0.7 else telling.steps
    quoted, _ = _article(telling, some, language, "polite")
    exchanges = _exchanges(telling, quoted, len(some) == len(telling.steps), rng)
    if not exchanges:
        quoted, _ = _article(telling, telling.steps, language, "polite")
        exchanges = _exchanges(telling, quoted, True, rng)
    assert exchanges, f"{telling.plot.name}: a telling that answers no question"
    gap = "\n" if "\n" in quoted.text() else " "
    opening = gap.join([_of(rng.choice(talk()["open"]), language), quoted.text(), exchanges[0][0]])
    pairs = [(opening, exchanges[0][1]), *exchanges[1:]]
    return tuple(turn for ask, reply in pairs for turn in (Message("user", ask), Message("assistant", reply)))


def tell(telling: Telling, language: Language, rng: Random, name: str) -> Document:
    """Write the telling as a document in `language`, with every label that follows from its facts."""
    article, ours = _article(telling, telling.steps, language, telling.level)
    translation, theirs = _article(telling, telling.steps, other(language), telling.level)
    sentiment: Sentiment | None = SENTIMENTS[telling.score] if telling.score else None
    return Document(
        id=name,
        language=language,
        kind=telling.plot.name,
        text=article.text(),
        headline=_sentence(telling, telling.headline, language, "plain").text(),
        summary=_sentence(telling, telling.summary, language, telling.level).text(),
        translation=translation.text(),
        sentence_pairs=tuple(zip(ours, theirs, strict=True)),
        entities=tuple(Entity(start, end, label) for start, end, label, _ in article.spans if label),
        questions=_questions(telling, article, rng),
        dialogue=_dialogue(telling, language, rng),
        sentiment=sentiment,
        score=telling.score,
        facts={slot: term.text(language) for slot, term in telling.facts.items() if slot != "town"},
    )
