"""How good a model of the sample world is: every task, in each language, on what training never saw.

The combinations of facts are new, and so are some of the names. The model is asked plainly, without shots.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from malmoi.core.nouns import Example, Message, Metric, silent
from malmoi.data.opening import Record
from malmoi.engine import Engine, Sampling
from malmoi.engine.loaded import open_model
from malmoi.inside.probes import LANGUAGES, grammar_and_logic
from malmoi.methods.registry import make_method
from malmoi.metrics.statistics import accuracy
from malmoi.tasks import make_task, sampled_tasks
from malmoi.tasks.base import Task
from malmoi.text.chat import ChatFormat
from malmoi.world import Document, Language, documents
from malmoi.world.plots import in_language, talk

SEED = 7
MANY = 100_000  # documents; as many of them are made as are needed
REPLY_TOKENS = 96
EXACT = "exact_match"  # of an answer; a part of a name is no name

Scored = dict[str, Metric]


def quality_of_base(folder: Path, count: int = 200) -> Scored:
    """Bits per byte of how texts go on, and grammar and logic, of a model that completes; by "what/language".

    count: examples of each, in each language.
    """
    found = {
        f"completion/{language}": _score(folder, "completion", language, count) for language in LANGUAGES
    }
    return found | _of_sentences(Engine.for_many(*open_model(folder)), count)


def quality_of_chat(folder: Path, count: int = 200) -> Scored:
    """The main metric of every task (of an answer, whether it is exact), and what is right in a talk.

    "names" are questions whose answer is a name that training never saw. "not told" are those that the text
    does not answer, right where the reply says so. "facts" is the share of a talk's replies with the names,
    days and numbers that the right ones have.
    """
    engine = Engine.for_many(*open_model(folder))
    found: Scored = {}
    for language in LANGUAGES:
        for task in sampled_tasks():
            found[f"{task}/{language}"] = _score(folder, task, language, count)
        found[f"names/{language}"] = _score(folder, "question-answering", language, count, unseen=True)
        found[f"not told/{language}"] = _not_told(engine, language, count)
        found[f"facts/{language}"] = _facts(engine, language, count)
    return found | _of_sentences(engine, count)


def _of_sentences(engine: Engine, count: int) -> Scored:
    found = grammar_and_logic(engine, count=count)
    return {name: metric for name, metric in found.items() if name.count("/") == 1}


def _documents(language: Language) -> Iterator[Document]:
    return documents(MANY, split="test", language=language, seed=SEED)


def _score(folder: Path, name: str, language: Language, count: int, *, unseen: bool = False) -> Metric:
    """Of the first examples, or of those whose answer is an unseen name."""
    task = make_task(name)
    examples = list(islice(_examples(task, language, unseen=unseen), count))
    method = make_method("prompted", task, {"model": str(folder), "shots": 0})
    method.fit(examples, ())  # which only sees which labels there are, and how long replies may be
    inputs = [one.input for one in examples]
    nats = method.log_likelihood(inputs, [one.target for one in examples]) if task.kind.goes_on else None
    scores = task.score(method.predict(inputs).values, examples, nats)
    return scores.get(EXACT) or scores[task.primary]


def _examples(task: Task[Any, Any], language: Language, *, unseen: bool) -> Iterator[Example[Any, Any]]:
    for document in _documents(language):
        names = {document.facts[slot] for slot in document.unseen}
        for row in task.samples(document):
            for one in task.examples(Record(row, document.id), silent):
                if not unseen or one.target.text in names:
                    yield one


def _replies(engine: Engine, prompts: Sequence[Sequence[Message]]) -> list[str]:
    form = ChatFormat.of(engine.tokenizer)
    sampling = Sampling(max_tokens=REPLY_TOKENS, temperature=0)
    return [one.text for one in engine.generate([form.prompt_ids(turns) for turns in prompts], sampling)]


def _not_told(engine: Engine, language: Language, count: int) -> Metric:
    asked = ((one.text, question) for one in _documents(language) for question in one.unanswered)
    prompts = [[Message("user", f"{text} {question}")] for text, question in islice(asked, count)]
    nothing = {in_language(pair, language) for pair in talk()["nothing"]}
    return _share([reply in nothing for reply in _replies(engine, prompts)])


def _facts(engine: Engine, language: Language, count: int) -> Metric:
    asked = ((facts, turns) for document in _documents(language) for facts, turns in _turns(document))
    chosen = list(islice(asked, count))
    replies = _replies(engine, [turns[:-1] for _, turns in chosen])
    return _share(
        [all(fact in reply for fact in facts) for (facts, _), reply in zip(chosen, replies, strict=True)]
    )


def _share(right: Sequence[bool]) -> Metric:
    return accuracy(right, [True] * len(right)).metric()


def _turns(document: Document) -> Iterator[tuple[set[str], Sequence[Message]]]:
    """The facts and numbers in each reply of its talk that has some, and the talk up to there."""
    for at, turn in enumerate(document.dialogue):
        named = {fact for fact in document.facts.values() if fact in turn.content}
        numbers = set(re.findall(r"\d+", turn.content))
        if turn.role == "assistant" and (named or numbers):
            yield named | numbers, document.dialogue[: at + 1]
