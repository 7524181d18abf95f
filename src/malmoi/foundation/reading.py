"""What the models of the sample world read: documents to complete, then tasks and talks to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from malmoi.tasks import Completion, sampled_tasks, write_rows, write_samples
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.util.files import write_text
from malmoi.world import LICENCE, Split, documents
from malmoi.world.small_talk import small_talk

PLAIN, PAGES = 0.25, 0.2  # of the documents, those of a few plain sentences, and those of many
VALID_ROWS = 100  # of one task at most, to see how far the tuning is
# Of what is short or hard more rows: a label is one token, a sentence and its translation some sixty.
ROWS: Mapping[str, int] = {
    "classification": 6_800,
    "translation": 12_000,
    "question-answering": 4_400,
    "completion": 700,
}


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much of everything. plain: documents that are read first, to learn what copying is; mixed: then.

    documents, talks: to be tuned on; each task takes of the documents what it can use, `rows` of its own at
    most, else `rows_each`.
    """

    plain: int = 20_000
    mixed: int = 240_000
    valid: int = 600
    vocabulary: int = 4096
    sample: int = 20_000  # documents that the vocabulary is learned from
    documents: int = 40_000
    rows: Mapping[str, int] = field(default_factory=lambda: ROWS)
    rows_each: int = 2_200
    talks: int = 2_200
    judged: int = 100  # examples of each task in each language, of what is finished


def write_text_to_complete(folder: Path, amounts: Amounts) -> None:
    """train.jsonl, from plain to mixed, in the order in which it is meant to be read; valid.jsonl."""
    easy = documents(amounts.plain, seed=1, plain=1.0)
    mixed = documents(amounts.mixed, seed=2, plain=PLAIN, pages=PAGES)
    valid = documents(amounts.valid, split="valid", seed=3, plain=PLAIN, pages=PAGES)
    write_samples(folder / "train.jsonl", Completion.name, chain(easy, mixed))
    write_samples(folder / "valid.jsonl", Completion.name, valid)
    write_text(folder / "LICENSE", LICENCE)


def vocabulary(amounts: Amounts) -> Tokenizer:
    """Sub-words of both languages."""
    sample = documents(amounts.sample, seed=2, plain=PLAIN, pages=PAGES)
    return train_tokenizer((one.with_views() for one in sample), "bpe", amounts.vocabulary)


def write_talks(folder: Path, amounts: Amounts) -> None:
    """What to be tuned on, and to judge that by. Every task has documents of its own."""
    parts: tuple[tuple[Split, int, Callable[[str], int], int], ...] = (
        ("train", amounts.documents, lambda task: amounts.rows.get(task, amounts.rows_each), amounts.talks),
        ("valid", amounts.valid, lambda _: VALID_ROWS, VALID_ROWS),
    )
    for split, num_documents, most_of, num_talks in parts:
        about = {
            task: documents(num_documents, split=split, seed=10 + number, pages=PAGES)
            for number, task in enumerate(sampled_tasks())
        }
        write_rows(folder, split, about.__getitem__, most_of, small_talk(num_talks, split=split, seed=4))
    write_text(folder / "LICENSE", LICENCE)
