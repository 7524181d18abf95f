"""Talks about a text: questions and answers that can be read off what was quoted, and that refer back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from malmoi.core.nouns import Message
from malmoi.world.patterns import Language, Writer, named_in, with_particle
from malmoi.world.plots import SENTIMENTS, Ask, Pair, Step, Telling, about, in_language, talk

MOST_EXCHANGES = 4  # of a talk: one question and its answer each, before the thanks
_COUNTS = {
    "en": ("One.", "Two.", "Three.", "Four.", "Five.", "Six.", "Seven.", "Eight.", "Nine.", "Ten."),
    "ko": ("한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉", "열"),
}

Exchange: TypeAlias = tuple[str, str]  # what the user says and the reply


def other(language: Language) -> Language:
    """The language that a document is translated into."""
    return "ko" if language == "en" else "en"


def writer_of(telling: Telling, language: Language, level: str, honorific: bool = True) -> Writer:
    """An empty text, to be written as the telling's plot asks."""
    plot = telling.plot
    titled = honorific and plot.honorific and level != "plain"
    return Writer(language, telling.facts, level, titled, plot.short_names)


def sentence(telling: Telling, step: Step, language: Language, level: str, honorific: bool = True) -> Writer:
    """One sentence by itself."""
    writer = writer_of(telling, language, level, honorific)
    writer.write(in_language(step.pair, language), step.choice)
    return writer


def slots(writer: Writer) -> set[str]:
    """The facts that a text names."""
    return {slot for _, _, _, slot in writer.spans}


def answerable(asks: Sequence[Ask], known: set[str], language: Language) -> list[Ask]:
    """The questions for a fact that the text names, whose answers say nothing that it does not."""
    return [
        ask
        for ask in asks
        if ask.slot in known
        and named_in(in_language(ask.answer, language))
        <= known | named_in(in_language(ask.question, language))
    ]


def unanswerable(asks: Sequence[Ask], known: set[str], language: Language) -> list[Ask]:
    """The questions for a fact that the text does not name, about what it does name."""
    return [
        ask
        for ask in asks
        if ask.slot not in known and named_in(in_language(ask.question, language)) <= known
    ]


def computable(sums: Sequence[Ask], known: set[str], language: Language) -> list[Ask]:
    """The sums of which every number is in the text."""
    return [
        ask
        for ask in sums
        if named_in(in_language(ask.answer, language)) | named_in(in_language(ask.question, language))
        <= known | {ask.slot}
    ]


def unknown(telling: Telling, known: set[str], rng: Random) -> Pair | None:
    """A question about somebody in the text that no text of the town answers; None without anybody."""
    people = sorted(slot for slot in known if telling.facts[slot].label == "PER")
    return about(rng.choice(talk()["unknown"]), rng.choice(people)) if people else None


@dataclass(frozen=True, slots=True)
class Quote:
    """What a talk is about. known: the facts of the telling that are in the text, which may tell more."""

    text: str
    telling: Telling
    known: set[str]
    asks: Sequence[Ask]
    people: Sequence[str]
    places: Sequence[str]
    complete: bool = False  # whether the text is all of the telling and nothing else
    part: bool = False  # whether the telling is one of several in the text


def names_in(writers: Sequence[Writer], label: str) -> list[str]:
    """The names of one kind in texts, each as it stands first."""
    found: dict[tuple[int, str], str] = {}
    for number, writer in enumerate(writers):
        text = writer.text()
        for start, end, kind, slot in writer.spans:
            if kind == label:
                found.setdefault((number, slot), text[start:end])
    return list(dict.fromkeys(found.values()))


@dataclass
class _Talk:
    quote: Quote
    language: Language
    rng: Random
    said: list[Exchange] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    last: Ask | None = None  # what was answered last, if it was by a fact

    def say(self, name: str) -> str:
        return in_language(self.rng.choice(talk()[name]), self.language)

    def wrote(self, pair: Pair, language: Language | None = None) -> str:
        return sentence(self.quote.telling, Step(pair, 0), language or self.language, "polite").text()

    def answer(self, asks: Sequence[Ask], question: str = "") -> Exchange | None:
        """An answer to one of the questions, in its own words or in those of `question`."""
        new = [ask for ask in asks if ask.slot not in self.asked]
        if not new:
            return None
        self.last = self.rng.choice(new)
        self.asked.add(self.last.slot)
        return question or self.wrote(self.last.question), self.wrote(self.last.answer)


def _fact(it: _Talk) -> Exchange | None:
    return it.answer(answerable(it.quote.asks, it.quote.known, it.language))


def _sum(it: _Talk) -> Exchange | None:
    return it.answer(computable(it.quote.telling.sums, it.quote.known, it.language))


def _nothing(it: _Talk) -> Exchange | None:
    asks = [] if it.quote.part else unanswerable(it.quote.asks, it.quote.known, it.language)
    pair = it.rng.choice(asks).question if asks and it.rng.random() < 0.7 else None
    pair = pair or unknown(it.quote.telling, it.quote.known, it.rng)
    it.last = None
    return (it.wrote(pair), it.say("nothing")) if pair else None


def _view(it: _Talk, name: str, step: Step) -> Exchange | None:
    telling = it.quote.telling
    written = sentence(telling, step, it.language, "polite", honorific=name == "ask_summary")
    return (it.say(name), written.text()) if it.quote.complete else None


def _headline(it: _Talk) -> Exchange | None:
    return _view(it, "ask_headline", it.quote.telling.headline)


def _summary(it: _Talk) -> Exchange | None:
    return _view(it, "ask_summary", it.quote.telling.summary)


def _feeling(it: _Talk) -> Exchange | None:
    if not it.quote.telling.score or not it.quote.complete:
        return None
    return it.say("ask_feeling"), it.say(f"feeling_{SENTIMENTS[it.quote.telling.score]}")


def _listed(names: Sequence[str], language: Language) -> str:
    """A, B and C."""
    if language == "ko":
        return ", ".join(names) + with_particle(names[-1], "이다", "polite") + "."
    return (", ".join(names[:-1]) + " and " if names[1:] else "") + names[-1] + "."


def _people(it: _Talk) -> Exchange | None:
    return (it.say("ask_people"), _listed(it.quote.people, it.language)) if it.quote.people else None


def _places(it: _Talk) -> Exchange | None:
    return (it.say("ask_places"), _listed(it.quote.places, it.language)) if it.quote.places else None


def _number_of_people(it: _Talk) -> Exchange | None:
    if not 0 < len(it.quote.people) <= len(_COUNTS["en"]):
        return None
    count = _COUNTS[it.language][len(it.quote.people) - 1]
    return it.say("ask_number_of_people"), f"{count} 명이에요." if it.language == "ko" else count


def _translated(it: _Talk) -> Exchange | None:
    if not it.last:
        return None
    return it.say("ask_again_translated"), it.wrote(it.last.answer, other(it.language))


def _for(it: _Talk, slots: Sequence[str], name: str) -> Exchange | None:
    """A question of two words, whose meaning is in the exchange before."""
    if not it.last or it.last.slot in slots or it.last.slot in it.quote.telling.plot.numbers:
        return None
    asks = [ask for ask in answerable(it.quote.asks, it.quote.known, it.language) if ask.slot in slots]
    return it.answer(asks, it.say(name))


def _when(it: _Talk) -> Exchange | None:
    return _for(it, ("date", "day"), "ask_when")


def _where(it: _Talk) -> Exchange | None:
    return _for(it, ("place",), "ask_where")


def _sure(it: _Talk) -> Exchange | None:
    return (it.say("ask_sure"), it.say("sure").format(it.wrote(it.last.answer))) if it.last else None


def _first(it: _Talk) -> Exchange | None:
    return (it.say("ask_first"), it.say("first").format(it.said[0][0])) if len(it.said) > 1 else None


def _again(it: _Talk) -> Exchange | None:
    return (it.say("ask_repeat"), it.said[-1][1]) if it.said else None


# What may be said, and how often first and later in a talk.
_TURNS: tuple[tuple[Callable[[_Talk], Exchange | None], int, int], ...] = (
    (_fact, 12, 10), (_sum, 12, 10), (_nothing, 3, 4), (_headline, 2, 3), (_summary, 2, 3), (_feeling, 3, 3),
    (_people, 1, 1), (_places, 1, 1), (_number_of_people, 1, 1), (_translated, 0, 3), (_when, 0, 4),
    (_where, 0, 4), (_sure, 0, 1), (_first, 0, 1), (_again, 0, 1),
)  # fmt: skip
_OF_FACTS = (_fact, _sum, _when, _where, _sure, _translated)  # after which one may ask: are you sure?


def _exchanges(quote: Quote, language: Language, rng: Random) -> list[Exchange]:
    """Up to MOST_EXCHANGES about the quoted text, and perhaps thanks."""
    it = _Talk(quote, language, rng)
    functions = [function for function, _, _ in _TURNS]
    for _ in range(rng.choice((1, 1, 2, 2, 3, MOST_EXCHANGES))):
        weights = [later if it.said else first for _, first, later in _TURNS]
        last, function = it.last, rng.choices(functions, weights)[0]
        found = function(it)
        if not found and not it.said:
            found, function = _fact(it) or _nothing(it), _fact
        if found and found[0] not in (question for question, _ in it.said):
            it.said.append(found)
            it.last = it.last if function in _OF_FACTS else None
        else:
            it.last = last
    return it.said


def dialogue(quote: Quote, language: Language, rng: Random) -> tuple[Message, ...]:
    """A talk that begins with the quoted text; () where nothing can be asked about it."""
    said = _exchanges(quote, language, rng)
    if not said:
        return ()
    gap = "\n" if "\n" in quote.text else " "
    text, question = quote.text, said[0][0]
    opening = in_language(rng.choice(talk()["open"]), language)
    first = gap.join([question, text] if rng.random() < 0.2 else [opening, text, question])
    pairs = [(first, said[0][1]), *said[1:]]
    if rng.random() < 0.2:
        thanks, welcome = (in_language(rng.choice(talk()[name]), language) for name in ("thanks", "welcome"))
        pairs.append((thanks, welcome))
    return tuple(turn for ask, reply in pairs for turn in (Message("user", ask), Message("assistant", reply)))
