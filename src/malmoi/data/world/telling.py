"""From a planned telling to a document: the article in both languages, its views, questions and a dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from malmoi.data.world.document import (
    SENTIMENTS,
    Document,
    Language,
    Question,
    Sentiment,
    Span,
    Turn,
    other,
)
from malmoi.data.world.patterns import Writer
from malmoi.data.world.plots import Ask, Pair, Step, Telling, pick, talk

MOST_EXCHANGES = 3  # of a dialogue: one question and its answer each


def _writer(telling: Telling, language: Language, level: str, honorific: bool = True) -> Writer:
    plot = telling.plot
    titled = honorific and plot.honorific and level != "plain"
    return Writer(language, telling.facts, level, titled, plot.short_names)


def _of(pair: Pair, language: Language) -> str:
    return pair[language == "ko"]


def _article(telling: Telling, steps: Sequence[Step], language: Language, level: str) -> tuple[Writer, list[str]]:
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


def _questions(telling: Telling, article: Writer, rng: Random) -> tuple[Question, ...]:
    """The questions whose answers the article tells, each with the first place that tells it."""
    first: dict[str, tuple[int, int]] = {}
    for start, end, _, slot in article.spans:
        first.setdefault(slot, (start, end))
    text, found = article.text(), []
    for ask in telling.asks:
        if ask.slot in first:
            start, end = first[ask.slot]
            question = _sentence(telling, pick([ask.question], rng), article.language, "polite").text()
            found.append(Question(question, text[start:end], start))
    return tuple(found)


def _replies(telling: Telling, asks: Sequence[Ask], known: set[str], language: Language) -> list[tuple[str, str]]:
    """Questions and full answers that use no fact beyond `known` and those in the question."""
    replies: list[tuple[str, str]] = []
    for ask in asks:
        question, answer = (
            _sentence(telling, Step(pair, 0), language, "polite") for pair in (ask.question, ask.answer)
        )
        if ask.slot in known and _slots(answer) <= known | _slots(question):
            replies.append((question.text(), answer.text()))
    return replies


def _dialogue(telling: Telling, language: Language, rng: Random) -> tuple[Turn, ...]:
    """A talk that quotes the sentences which it asks about, so that every answer can be read off it."""

    def say(name: str) -> str:
        return _of(rng.choice(talk()[name]), language)

    length = rng.randint(2, 4)
    first = rng.randint(0, max(0, len(telling.steps) - length)) if rng.random() < 0.5 else 0
    steps = telling.steps[first : first + length]
    quoted, _ = _article(telling, steps, language, "polite")
    exchanges = _replies(telling, telling.asks, _slots(quoted), language)
    if not exchanges:
        steps = telling.steps
        quoted, _ = _article(telling, steps, language, "polite")
        exchanges = _replies(telling, telling.asks, _slots(quoted), language)
    exchanges = rng.sample(exchanges, min(rng.randint(1, 2), len(exchanges)))
    for name, step in (("ask_headline", telling.headline), ("ask_summary", telling.summary)):
        written = _sentence(telling, step, language, "polite", honorific=name == "ask_summary")
        if _slots(written) <= _slots(quoted) and rng.random() < 0.5:
            exchanges.append((say(name), written.text()))
    if telling.score and len(steps) >= len(telling.steps) - 1:
        exchanges.append((say("ask_feeling"), say(f"feeling_{SENTIMENTS[telling.score]}")))
    exchanges = exchanges[: rng.randint(1, MOST_EXCHANGES)]
    if len(exchanges) < MOST_EXCHANGES and rng.random() < 0.25:
        exchanges.append((say("thanks"), say("welcome")))
    opening = " ".join([say("open"), quoted.text().replace("\n", " "), exchanges[0][0]])
    turns = [Turn("user", opening), Turn("assistant", exchanges[0][1])]
    for question, answer in exchanges[1:]:
        turns += [Turn("user", question), Turn("assistant", answer)]
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
        entities=tuple(Span(start, end, label) for start, end, label, _ in article.spans if label),
        questions=_questions(telling, article, rng),
        dialogue=_dialogue(telling, language, rng),
        sentiment=sentiment,
        score=telling.score,
        facts={slot: term.text(language) for slot, term in telling.facts.items() if slot != "town"},
    )
