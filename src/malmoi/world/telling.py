"""From a planned telling to a document: the article in both languages, its views, questions and dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from malmoi.core.nouns import Answer, Entity, Example, Message
from malmoi.world.document import SENTIMENTS, Document, Language, Sentiment, other
from malmoi.world.patterns import Writer
from malmoi.world.plots import Pair, Step, Telling, pick, talk

MOST_EXCHANGES = 3  # of a dialogue: one question and its answer each


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
    """The questions whose answers the article tells, each with the first place that tells it."""
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
    turns = [Message("user", opening), Message("assistant", exchanges[0][1])]
    for question, answer in exchanges[1:]:
        turns += [Message("user", question), Message("assistant", answer)]
    return tuple(turns)


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
