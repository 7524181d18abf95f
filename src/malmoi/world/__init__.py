"""The sample world: readable, varied text about the small town of Noru, with the facts behind every document.

    for document in documents(1000, language="en"):
        print(document.headline, document.text, document.questions)

Every document is drawn from a seed and carries the labels of all tasks. Documents for `valid` and
`test` have combinations of facts, and some names, that no `train` document has. All text was written for
this project.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random

from malmoi.world.document import Document, tell, tell_page
from malmoi.world.names import Split
from malmoi.world.patterns import Language
from malmoi.world.plots import Plot, plan, plan_page, plots
from malmoi.world.vocabulary import load_yaml

LICENCE = "SPDX-License-Identifier: Apache-2.0\n"  # all of its text was written for malmoi

__all__ = ["LICENCE", "Document", "Language", "Split", "documents", "kinds", "story"]


def documents(
    count: int,
    *,
    split: Split = "train",
    language: Language | None = None,
    seed: int = 0,
    plain: float = 0.0,
    pages: float = 0.0,
) -> Iterator[Document]:
    """Yield `count` documents, one at a time; without a `language`, English and Korean by turns.

    plain: the share of documents of a few plain sentences, from which copying a name is learned first;
    pages: the share of long documents, of several paragraphs about some of the same people.
    The n-th document depends on the arguments and n only, not on `count`.
    """
    for number in range(count):
        chosen: Language = language or ("ko" if number % 2 else "en")
        name = f"{split}-{seed}-{chosen}-{number}"
        yield _document(split, chosen, Random(name), name, plain, pages)


def _document(
    split: Split, language: Language, rng: Random, name: str, plain: float, pages: float
) -> Document:
    kind = rng.random() if plain or pages else 1.0
    if plain <= kind < plain + pages:
        return tell_page(plan_page(split, rng), language, rng, name)
    telling = plan(rng.choice(_plots_by_share(kind < plain)), split, rng)
    return tell(telling, language, rng, name)


@cache
def _plots_by_share(plain: bool) -> tuple[Plot, ...]:
    """Every plot, reviews twice: few kinds have an opinion, which a quarter of the documents should have."""
    found = plots(plain=plain)
    return (*found, *(plot for plot in found if plot.opinions))


def kinds() -> tuple[str, ...]:
    """The kinds of documents, e.g. `lost_pet` or `film_review`, less the plain ones and the pages."""
    return tuple(plot.name for plot in plots())


def story(language: Language) -> str:
    """One short story of the town, written by hand; long enough to read, short enough to learn by heart."""
    return load_yaml("stories.yaml")[language].strip()
