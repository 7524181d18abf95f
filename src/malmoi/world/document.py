"""What the sample world hands out: a document, the facts behind it and every task's labels."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from malmoi.core.nouns import Answer, Entity, Example, Message

Split = Literal["train", "valid", "test"]
Language = Literal["en", "ko"]
Sentiment = Literal["positive", "negative", "mixed"]

# The sentiment that a score stands for.
SENTIMENTS: dict[int, Sentiment] = {1: "negative", 2: "negative", 3: "mixed", 4: "positive", 5: "positive"}

_LABELS: dict[Language, dict[str, str]] = {
    "en": {
        "headline": "Headline:",
        "summary": "Summary:",
        "question": "Q:",
        "answer": "A:",
        "translation": "In Korean:",
        "names": "Names:",
        "opinion": "Opinion:",
        "user": "User:",
        "assistant": "Assistant:",
        "PER": "person",
        "ORG": "group",
        "LOC": "place",
        "DATE": "date",
        "positive": "positive",
        "negative": "negative",
        "mixed": "mixed",
    },
    "ko": {
        "headline": "제목:",
        "summary": "요약:",
        "question": "문:",
        "answer": "답:",
        "translation": "영어로:",
        "names": "이름:",
        "opinion": "느낌:",
        "user": "사용자:",
        "assistant": "도우미:",
        "PER": "사람",
        "ORG": "단체",
        "LOC": "장소",
        "DATE": "날짜",
        "positive": "긍정",
        "negative": "부정",
        "mixed": "섞임",
    },
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

    def retold(self) -> str:
        """The text and some other views of the same facts, chosen and ordered by the document's id."""
        rng = random.Random(self.id)
        views = [self._headline, self._summary, self._questions, self._translation, self._dialogue]
        views += [self._names] if self.entities else []
        views += [self._opinion] if self.sentiment else []
        chosen: list[Callable[[random.Random], str]] = rng.sample(views, rng.randint(2, min(5, len(views))))
        told = [view(rng) for view in chosen]
        told.insert(0 if rng.random() < 0.8 else 1, self.text)
        return "\n\n".join(told)

    def _label(self, name: str) -> str:
        return _LABELS[self.language][name]

    def _headline(self, _: random.Random) -> str:
        return f"{self._label('headline')} {self.headline}"

    def _summary(self, _: random.Random) -> str:
        return f"{self._label('summary')} {self.summary}"

    def _translation(self, rng: random.Random) -> str:
        if rng.random() < 0.6:
            return f"{self._label('translation')} {self.translation}"
        pairs = rng.sample(self.sentence_pairs, min(2, len(self.sentence_pairs)))
        return "\n".join(f"{ours}\n{self._label('translation')} {theirs}" for ours, theirs in pairs)

    def _questions(self, rng: random.Random) -> str:
        asked = rng.sample(self.questions, min(rng.randint(1, 3), len(self.questions)))
        q, a = self._label("question"), self._label("answer")
        return "\n".join(f"{q} {item.input}\n{a} {item.target.text}" for item in asked)

    def _dialogue(self, _: random.Random) -> str:
        return "\n".join(f"{self._label(turn.role)} {turn.content}" for turn in self.dialogue)

    def _names(self, _: random.Random) -> str:
        seen = dict.fromkeys((self.text[span.start : span.end], span.label) for span in self.entities)
        return f"{self._label('names')} " + ", ".join(f"{name} ({self._label(kind)})" for name, kind in seen)

    def _opinion(self, _: random.Random) -> str:
        assert self.sentiment is not None
        return f"{self._label('opinion')} {self._label(self.sentiment)} ({self.score}/5)"
