"""What the models of the sample world read: documents to complete, then tasks and talks to answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from malmoi.core.nouns import Json
from malmoi.tasks import sampled_tasks, write_samples, write_small_talk
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.util.files import new_file, write_text
from malmoi.world import Split, documents
from malmoi.world.small_talk import small_talk

LICENCE = "SPDX-License-Identifier: Apache-2.0\n"  # all of it was written for malmoi
PLAIN, PAGES = 0.25, 0.2  # of the documents, those of a few plain sentences, and those of many
SMALL_TALK = "small-talk"
VALID_ROWS = 100  # of one task at most, to see how far the tuning is


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much of everything. plain: documents that are read first, to learn what copying is; mixed: then.

    documents, talks: to be tuned on; each task takes of the documents what it can use, `rows` at most.
    """

    plain: int = 20_000
    mixed: int = 240_000
    valid: int = 600
    vocabulary: int = 4096
    sample: int = 20_000  # documents that the vocabulary is learned from
    documents: int = 9_000
    rows: int = 2_200  # of one task at most
    talks: int = 2_200
    judged: int = 200  # examples of each task in each language, of what is finished


def write_text_to_complete(folder: Path, amounts: Amounts) -> None:
    """train.jsonl, from plain to mixed, in the order in which it is meant to be read; valid.jsonl."""
    easy = documents(amounts.plain, seed=1, plain=1.0)
    mixed = documents(amounts.mixed, seed=2, plain=PLAIN, pages=PAGES)
    valid = documents(amounts.valid, split="valid", seed=3, plain=PLAIN, pages=PAGES)
    _write(folder / "train.jsonl", ({"text": one.with_views()} for one in chain(easy, mixed)))
    _write(folder / "valid.jsonl", ({"text": one.with_views()} for one in valid))
    write_text(folder / "LICENSE", LICENCE)


def vocabulary(amounts: Amounts) -> Tokenizer:
    """Sub-words of both languages."""
    sample = documents(amounts.sample, seed=2, plain=PLAIN, pages=PAGES)
    return train_tokenizer((one.with_views() for one in sample), "bpe", amounts.vocabulary)


def write_talks(folder: Path, amounts: Amounts) -> None:
    """What to be tuned on: TASK/train.jsonl and TASK/valid.jsonl for every task, and for small talk.

    Every task has documents of its own.
    """
    parts: tuple[tuple[Split, int, int, int], ...] = (
        ("train", amounts.documents, amounts.rows, amounts.talks),
        ("valid", amounts.valid, VALID_ROWS, VALID_ROWS),
    )
    for split, num_documents, num_rows, num_talks in parts:
        for number, task in enumerate(sampled_tasks()):
            about = documents(num_documents, split=split, seed=10 + number, pages=PAGES)
            write_samples(folder / task / f"{split}.jsonl", task, about, num_rows)
        talks = small_talk(num_talks, split=split, seed=4)
        write_small_talk(folder / SMALL_TALK / f"{split}.jsonl", talks)
    write_text(folder / "LICENSE", LICENCE)


def sources(folder: Path, split: Split) -> list[str]:
    """The same as `malmoi finetune` calls them."""
    tasks = [f"{task}={folder / task / split}.jsonl" for task in sampled_tasks()]
    return [*tasks, f"{folder / SMALL_TALK / split}.jsonl"]


def _write(path: Path, rows: Iterable[Json]) -> None:
    """Rows as JSON lines, one at a time."""
    with new_file(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
