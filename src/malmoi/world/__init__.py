"""The sample world: readable, varied text about the small town of Noru, with the facts behind every document.

    for document in documents(1000, language="en"):
        print(document.headline, document.text, document.questions)

Every document is drawn from a seed and carries the labels of all seven tasks. Documents for `valid` and
`test` have combinations of facts, and some names, that no `train` document has. All text was written for
this project.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from malmoi.world.document import Document, tell
from malmoi.world.patterns import Language
from malmoi.world.plots import plan, plots
from malmoi.world.vocabulary import Split, load_yaml

__all__ = ["Document", "Language", "Split", "documents", "kinds", "story"]


def documents(
    count: int, *, split: Split = "train", language: Language | None = None, seed: int = 0
) -> Iterator[Document]:
    """Yield `count` documents, one at a time; without a `language`, English and Korean by turns.

    The n-th document depends on `seed`, `split`, `language` and n only, not on `count`.
    """
    for number in range(count):
        chosen: Language = language or ("ko" if number % 2 else "en")
        name = f"{split}-{seed}-{chosen}-{number}"
        rng = Random(name)
        telling = plan(rng.choice(plots()), split, rng)
        yield tell(telling, chosen, rng, name)


def kinds() -> tuple[str, ...]:
    """The kinds of documents, e.g. `lost_pet` or `film_review`."""
    return tuple(plot.name for plot in plots())


def story(language: Language) -> str:
    """One short story of the town, written by hand; long enough to read, short enough to learn by heart."""
    return load_yaml("stories.yaml")[language].strip()
