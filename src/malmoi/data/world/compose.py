"""From facts to a document: the article in both languages, its views, questions and a dialogue."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from malmoi.data.world.document import Document, Language, Question, Sentiment, Span, Turn
from malmoi.data.world.grammar import EN, KO, LANGUAGES, Mention, Pattern, Sentence, Word, join, render
from malmoi.data.world.world import Ask, Kind, Part, draw_facts, fingerprint, load

# Strengths of the opinions that add up to a score, in order; weak ones of the other sign are concessions.
_PLANS = {
    5: ((2, 2), (2, 1, 2), (1, 2, 2)),
    4: ((1, 1), (2, -1, 1), (-1, 1, 2), (1, 2)),
    3: ((2, -2), (-1, 1), (1, -1), (-2, 2), (1, 1, -2), (-1, -1, 2)),
    2: ((-1, -1), (1, -2, -1), (-2, -1), (-1, 1, -2)),
    1: ((-2, -2), (-2, -1, -2), (-1, -2, -2)),
}
_SENTIMENTS: dict[int, Sentiment] = {5: "positive", 4: "positive", 3: "mixed", 2: "negative", 1: "negative"}

Step = tuple[str, tuple[Pattern, ...]]  # separator, patterns that make one unit (connective and sentence)


def _opinions(kind: Kind, score: int, rng: random.Random) -> list[Step]:
    talk = load().talk
    plan = rng.choice(_PLANS[score])
    aspects = rng.sample(kind.opinions, len(plan))
    steps: list[Step] = []
    before = 0
    for strength, aspect in zip(plan, aspects, strict=True):
        link = "first" if not before else "and" if strength * before > 0 else "but"
        steps.append((" ", (rng.choice(talk[link]), rng.choice(aspect[strength]))))
        before = strength
    return steps


def _plan(parts: Sequence[Part], kind: Kind, facts: Mapping[str, Word], rng: random.Random) -> list[Step]:
    """The patterns to be told, chosen once for both languages."""
    steps: list[Step] = []
    for part in parts:
        if not part.holds(facts) or rng.random() >= part.chance:
            continue
        if part.opinions:
            steps += _opinions(kind, int(facts["score"].surface[EN]), rng)
        else:
            steps.append(("\n" if part.line else " ", (rng.choice(part.say),)))
    return steps


def _tell(steps: Sequence[Step], facts: Mapping[str, Word], language: int) -> list[tuple[str, Sentence]]:
    told: list[tuple[str, Sentence]] = []
    for separator, templates in steps:
        if len(templates) == 1:
            told.append((separator, render(templates[0], facts, language)))
        else:
            merged = (sum((t[EN] for t in templates), ()), sum((t[KO] for t in templates), ()))
            told.append((separator, render(merged, facts, language)))
    return told


def _text(
    parts: Sequence[Part], kind: Kind, facts: Mapping[str, Word], language: int, rng: random.Random
) -> str:
    return join(_tell(_plan(parts, kind, facts, rng), facts, language)).text


def _questions(
    asks: Sequence[Ask], facts: Mapping[str, Word], language: int, told: Sentence, rng: random.Random
) -> tuple[Question, ...]:
    first: dict[str, Mention] = {}
    for mention in told.mentions:
        first.setdefault(mention.slot, mention)
    found: list[Question] = []
    for ask in asks:
        if ask.slot in first:
            at = first[ask.slot]
            question = render(rng.choice(ask.ask), facts, language).text
            found.append(Question(question, told.text[at.start : at.end], at.start))
    return tuple(found)


def _dialogue(
    asks: Sequence[Ask],
    facts: Mapping[str, Word],
    language: int,
    sources: Sequence[Sentence],
    headline: str,
    rng: random.Random,
) -> tuple[Turn, ...]:
    """A talk that quotes the sentences it asks about, so that every answer can be read off it."""
    talk = load().talk

    def say(name: str) -> str:
        return render(rng.choice(talk[name]), facts, language).text

    source = rng.choice(sources)
    slots = {mention.slot for mention in source.mentions}
    open_asks = [ask for ask in asks if ask.slot in slots]
    rng.shuffle(open_asks)
    pairs: list[tuple[str, str]] = []
    for ask in open_asks[: rng.randint(1, 2)]:
        question, answer = rng.choice(ask.ask), rng.choice(ask.say)
        pairs.append((render(question, facts, language).text, render(answer, facts, language).text))
    if not pairs or rng.random() < 0.4:
        pairs.insert(rng.randint(0, len(pairs)), (say("ask_headline"), headline))
    if "score" in facts and rng.random() < 0.7:
        feeling = _SENTIMENTS[int(facts["score"].surface[EN])]
        pairs.append((say("ask_feeling"), say(f"feeling_{feeling}")))
    if len(pairs) < 3 and rng.random() < 0.3:
        pairs.append((say("thanks"), say("welcome")))
    pairs = pairs[:3]
    opening = " ".join([say("news"), source.text, pairs[0][0]])
    turns = [Turn("user", opening), Turn("assistant", pairs[0][1])]
    for question, answer in pairs[1:]:
        turns += [Turn("user", question), Turn("assistant", answer)]
    return tuple(turns)


def compose(rng: random.Random, split: str, language: Language, number: int) -> Document:
    """The document number `number`, wholly decided by `rng`."""
    world = load()
    kind = rng.choices(world.kinds, world.weights)[0]
    facts = draw_facts(kind, split, rng)
    ours = LANGUAGES.index(language)
    article = _plan(kind.article, kind, facts, rng)
    mine, theirs = _tell(article, facts, ours), _tell(article, facts, 1 - ours)
    told = join(mine)
    headline = _text(kind.headline, kind, facts, ours, rng)
    summary = join(_tell(_plan(kind.summary, kind, facts, rng), facts, ours))
    asks = [ask for ask in kind.questions if ask.part.holds(facts)]
    lead = join(mine[:2])
    score = int(facts["score"].surface[EN]) if "score" in facts else None
    return Document(
        id=f"{kind.name}-{fingerprint(kind, facts):08x}-{language}-{number}",
        language=language,
        kind=kind.name,
        text=told.text,
        headline=headline,
        summary=summary.text,
        translation=join(theirs).text,
        sentence_pairs=tuple((a.text, b.text) for (_, a), (_, b) in zip(mine, theirs, strict=True)),
        entities=tuple(Span(m.start, m.end, m.label) for m in told.mentions if m.label),
        questions=_questions(asks, facts, ours, told, rng),
        dialogue=_dialogue(asks, facts, ours, [lead, summary], headline, rng),
        sentiment=_SENTIMENTS[score] if score else None,
        score=score,
        facts={slot: word.surface[ours] for slot, word in facts.items() if slot not in world.constants},
    )
