"""What the models of the sample world read: documents to complete, then tasks and talks to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

from malmoi.core.nouns import Example, Message, silent
from malmoi.data.opening import Record
from malmoi.learn.mixture import conversation_of
from malmoi.tasks import (
    Classification,
    Completion,
    NamedEntities,
    QuestionAnswering,
    Translation,
    make_task,
    sampled_tasks,
    write_json_lines,
    write_rows,
    write_samples,
)
from malmoi.tasks.base import Task
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.util.files import write_text
from malmoi.world import LICENCE, Document, Language, Split, documents
from malmoi.world.plots import SENTIMENTS, in_language, talk
from malmoi.world.riddles import solved_riddles
from malmoi.world.small_talk import small_talk

PLAIN, PAGES = 0.25, 0.2  # of the documents, those of a few plain sentences, and those of many
# Of the documents read last, the shares of those told as before, and of opinions that are asked for; of those
# without an opinion the share that is read at all, for a label is one token; and of questions without a task.
TOLD, LABELLED, UNLABELLED, BARE = 0.35, 0.9, 0.5, 0.1
TALK_EVERY, RIDDLE_EVERY = 10, 2  # documents
LABELS: Mapping[str, Sequence[str]] = {
    Classification.name: sorted(set(SENTIMENTS.values())),
    NamedEntities.name: ["DATE", "LOC", "ORG", "PER"],
}
VALID_ROWS = 100  # of one task at most, to see how far the tuning is
# Of what is short or hard more rows: a label is one token, a sentence and its translation some sixty.
ROWS: Mapping[str, int] = {
    Classification.name: 6_800,
    Translation.name: 12_000,
    QuestionAnswering.name: 4_400,
    Completion.name: 700,
}


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much of everything. plain: documents that are read first, to learn what copying is; mixed: then.

    asked: documents read last, many of them as tasks that are asked and answered. documents, talks: to be
    tuned on; each task takes of the documents what it can use, `rows` of its own at most, else `rows_each`.
    """

    plain: int = 20_000
    mixed: int = 95_000
    asked: int = 42_500
    valid: int = 600
    vocabulary: int = 4096
    sample: int = 20_000  # documents that the vocabulary is learned from
    documents: int = 40_000
    rows: Mapping[str, int] = field(default_factory=lambda: ROWS)
    rows_each: int = 2_200
    talks: int = 2_200
    judged: int = 100  # examples of each task in each language, of what is finished


def write_text_to_complete(folder: Path, amounts: Amounts) -> None:
    """train.jsonl, from plain to mixed to asked, in the order in which it is to be read; valid.jsonl."""
    easy = documents(amounts.plain, seed=1, plain=1.0)
    mixed = documents(amounts.mixed, seed=2, plain=PLAIN, pages=PAGES)
    valid = documents(amounts.valid, split="valid", seed=3, plain=PLAIN, pages=PAGES)
    told = (document.with_views() for document in chain(easy, mixed))
    texts = chain(told, asked_and_told(amounts.asked))
    write_json_lines(folder / "train.jsonl", ({"text": text} for text in texts))
    write_samples(folder / "valid.jsonl", Completion.name, valid)
    write_text(folder / "LICENSE", LICENCE)


def asked_and_told(count: int) -> Iterator[str]:
    """Of that many documents texts in which tasks are asked and answered; talks and riddles between them.

    Tuning is short where a model has seen the tasks asked. The other documents are told as before, so that
    it forgets nothing.
    """
    talks = small_talk(count // TALK_EVERY + 1, seed=5)
    riddles = solved_riddles(count // RIDDLE_EVERY + 1, seed=5)
    for number, document in enumerate(islice(_rich_in_labels(), count)):
        rng = Random(f"asked-{document.id}")
        told = document.plain or rng.random() < (1 - LABELLED if document.sentiment else TOLD)
        yield document.with_views() if told else _as_text(_asked(document, rng), document.language)
        if number % TALK_EVERY == 0:
            yield _as_text(next(talks), "ko" if number // TALK_EVERY % 2 else "en")
        if number % RIDDLE_EVERY == 0:
            yield next(riddles)


def _rich_in_labels() -> Iterator[Document]:
    for document in documents(1 << 30, seed=5, plain=PLAIN, pages=PAGES):
        if document.sentiment or Random(f"read-{document.id}").random() < UNLABELLED:
            yield document


def _asked(document: Document, rng: Random) -> Sequence[Message]:
    """An example of one of the tasks; of an opinion its label, for few documents have one."""
    if document.unanswered and document.questions and rng.random() < BARE:
        return _question(document, rng)
    names = [name for name in sampled_tasks() if name not in (Completion.name, Classification.name)]
    names = [Classification.name] if document.sentiment else rng.sample(names, len(names))
    tasks = [make_task(name).with_labels(LABELS.get(name, ())) for name in names]
    found = (_examples(task, document) for task in tasks)
    task, examples = next((task, some) for task, some in zip(tasks, found, strict=True) if some)
    return conversation_of(task, rng.choice(examples), rng.randrange(1 << 16)).messages


def _question(document: Document, rng: Random) -> Sequence[Message]:
    """The text and a question, one that it answers as often as one that it does not."""
    asked = rng.choice(document.questions)
    question, answer = rng.choice([
        (asked.input, asked.target.text),
        (rng.choice(document.unanswered), in_language(rng.choice(talk()["nothing"]), document.language)),
    ])  # fmt: skip
    return Message("user", f"{document.text} {question}"), Message("assistant", answer)


def _examples(task: Task[Any, Any], document: Document) -> list[Example[Any, Any]]:
    rows = [Record(row, document.id) for row in task.samples(document)]
    return [one for row in rows for one in task.examples(row, silent)]


def _as_text(turns: Sequence[Message], language: Language) -> str:
    return "\n".join(
        f"{in_language(talk()[f'label_{turn.role}'][0], language)} {turn.content}" for turn in turns
    )


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
