"""Talk without a text: who one is and where one lives, what was said before, names, sums and stories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random

from malmoi.core.nouns import Message
from malmoi.world.document import Document, tell
from malmoi.world.names import Split, TermPool
from malmoi.world.patterns import Language, Term, Writer
from malmoi.world.plots import Pair, draw_numbers, draw_terms, in_language, plan, plots, read_pairs, talk
from malmoi.world.vocabulary import load_yaml, pools

STORY_SHARE = 0.25  # of the talks, those with a story on request
MOST_TOPICS = 4


@dataclass(frozen=True, slots=True)
class Topic:
    """What the user and the assistant say by turns, at once and after other topics."""

    name: str
    roles: dict[str, TermPool]
    numbers: dict[str, str]
    turns: tuple[Pair, ...]
    later: tuple[Pair, ...]


@cache
def topics() -> tuple[Topic, ...]:
    """The topics of small_talk.yaml, less those that begin and end a talk."""
    return tuple(topic for topic in _read_topics().values() if topic.name not in ("greeting", "goodbye"))


@cache
def _read_topics() -> dict[str, Topic]:
    return {
        name: Topic(
            name,
            {slot: pools()[pool] for slot, pool in spec.get("roles", {}).items()},
            spec.get("numbers", {}),
            read_pairs(spec["turns"]),
            read_pairs(spec.get("later", "")),
        )
        for name, spec in load_yaml("small_talk.yaml").items()
    }


def small_talk(
    count: int, *, split: Split = "train", language: Language | None = None, seed: int = 0
) -> Iterator[tuple[Message, ...]]:
    """`count` talks, English and Korean by turns without a `language`. A function of the arguments."""
    for number in range(count):
        chosen: Language = language or ("ko" if number % 2 else "en")
        rng = Random(f"small-talk-{split}-{seed}-{chosen}-{number}")
        said = _said(split, chosen, rng)
        roles = ("user", "assistant")
        yield tuple(Message(roles[place % 2], text) for place, text in enumerate(said))


def _said(split: Split, language: Language, rng: Random) -> list[str]:
    """The turns of one talk: topics, what is asked of them later, and a story in some."""
    said: list[str] = []
    later: list[str] = []
    ends = _read_topics()
    if rng.random() < 0.3:
        said += _turns(ends["greeting"], split, language, rng)[0]
    for topic in rng.sample(topics(), rng.randint(1, MOST_TOPICS)):
        now, then = _turns(topic, split, language, rng)
        said += now
        later += then if rng.random() < 0.8 else []
    if rng.random() < STORY_SHARE:
        said += _story(split, language, rng)
    said += later
    return said + (_turns(ends["goodbye"], split, language, rng)[0] if rng.random() < 0.15 else [])


def _turns(topic: Topic, split: Split, language: Language, rng: Random) -> tuple[list[str], list[str]]:
    """What is said of one topic, at once and later."""
    facts = draw_terms(topic.roles, split, rng)
    facts |= {slot: Term(str(n), str(n)) for slot, n in draw_numbers(topic.numbers, rng).items()}
    writer = Writer(language, facts, "polite", honorific=True)
    turns = (*topic.turns, *topic.later)
    choices = [rng.getrandbits(16) for _ in turns[::2]]  # of one exchange the same: a reply fits its question
    places = [
        writer.write(in_language(pair, language), choices[number // 2], "\n")
        for number, pair in enumerate(turns)
    ]
    texts = [writer.text()[start:end] for start, end in places]
    return texts[: len(topic.turns)], texts[len(topic.turns) :]


def _story(split: Split, language: Language, rng: Random) -> list[str]:
    """A story on request, and perhaps its title or what it says in a sentence."""
    telling = plan(rng.choice([plot for plot in plots() if plot.joins]), split, rng, level="polite")
    document: Document = tell(telling, language, rng, "story")
    said = [in_language(rng.choice(talk()["ask_story"]), language), document.text]
    more = {"ask_headline": document.headline, "ask_summary": document.summary}
    for name in rng.sample(list(more), rng.randint(0, 2)):
        said += [in_language(rng.choice(talk()[name]), language), more[name]]
    return said
