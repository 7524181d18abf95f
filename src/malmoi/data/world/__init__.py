"""The built-in sample world: a small town, told in English and Korean, with every task's labels.

Everything follows from facts. A document's kind (a lost pet, a bridge repair, a film review) says which
facts it needs; the facts are drawn; both languages, the headline, the summary, the names, the questions,
the dialogue and the opinion are told from the same facts. Documents of valid and test tell combinations
of facts, and partly names, that training never sees.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from malmoi.data.world.compose import compose
from malmoi.data.world.document import Document, Language, Question, Sentiment, Span, Split, Turn
from malmoi.data.world.world import load

__all__ = [
    "Document",
    "Language",
    "Question",
    "Sentiment",
    "Span",
    "Split",
    "Turn",
    "documents",
    "story",
]


def documents(
    count: int, *, split: Split = "train", language: Language | None = None, seed: int = 0
) -> Iterator[Document]:
    """Yield `count` documents, one at a time. No language: English and Korean by turns.

    The n-th document is a function of (seed, split, language, n) only, whatever `count` is.
    """
    by_turns: tuple[Language, ...] = (language,) if language else ("en", "ko")
    for number in range(count):
        chosen = by_turns[number % len(by_turns)]
        yield compose(random.Random(f"{seed}/{split}/{chosen}/{number}"), split, chosen, number)


def story(language: Language) -> str:
    """One hand-written story of the town, about 120 words."""
    return load().stories[language].strip()
