"""Whether adequacy tells texts that belong to their inputs from others, beside chrF and ROUGE-L.

    python bench/adequacy.py [--quick]

For each set, learned from its training part only. "pairs": of how many pairs of a true and a shuffled text
the true one fits the input better. "sets of 50": in how many draws of 50 examples the true texts are more
adequate than the shuffled ones. Then adequacy and the task's own metric of the right answers, of the right
answers shuffled, of what stands beside the nearest training input (fluent, and right for something else), and
of the input itself. Ends with code 1 where true texts win less than 95% of the sets of 50, or, in translation
and summarization, of the pairs. --quick: the sample world, tatoeba-enko and songys-ko.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np

from malmoi.core.nouns import Example
from malmoi.data.opening import Record
from malmoi.metrics.adequacy import Adequacy, bags, pieces
from malmoi.tasks import make_task
from malmoi.tasks.base import Task
from malmoi.world import Split, documents
from sets import SETS, read

LEAST, DRAWS, DRAWN = 0.95, 400, 50
LIMIT = 300  # test examples
WORLDS = ("translation", "summarization", "chat")
QUICK = ("tatoeba-enko", "songys-ko")
REAL = (
    "tatoeba-enko",
    "python-docs-enko",
    "tldr-enko",
    "msdocs-enko",
    "scitldr",
    "songys-ko",
    "self-dialogue-en",
)
Some = Sequence[Example[Any, Any]]


def world(task: Task[Any, Any], count: int, split: Split) -> list[Example[Any, Any]]:
    """Examples of as many documents of the sample world, English and Korean by turns."""
    rows = [(row, one.id) for one in documents(count, split=split) for row in task.samples(one)]
    return [one for row, where in rows for one in task.examples(Record(row, where), lambda _: None)]


def nearest(task: Task[Any, Any], train: Some, test: Some) -> list[str]:
    """What stands beside the training input that shares most pieces with each test input."""
    number: dict[str, int] = {}
    ids = [
        [number.setdefault(piece, len(number)) for piece in pieces(task.subject(one.input))]
        for one in (*train, *test)
    ]
    rows_IV = bags(ids, len(number))
    rare_V = np.log(1 + len(ids) / np.maximum(1, rows_IV.sum(axis=0)))
    rows_IV = rows_IV.multiply(rare_V).tocsr()
    norms_I = np.sqrt(rows_IV.multiply(rows_IV).sum(axis=1))
    near_NI = (rows_IV[len(train) :] @ rows_IV[: len(train)].T).toarray() / np.maximum(
        1e-9, norms_I[: len(train)]
    )
    return [train[at].target for at in near_NI.argmax(axis=1)]


def of_pairs(adequacy: Adequacy, task: Task[Any, Any], test: Some) -> float:
    """The share of (true, shuffled) pairs of which the true one fits better; half of the ties."""
    fits_OI = adequacy.fits([one.target for one in test], [task.subject(one.input) for one in test])
    own_O1, others = np.diag(fits_OI)[:, None], ~np.eye(len(test), dtype=bool)
    return float(((own_O1 > fits_OI) + 0.5 * (own_O1 == fits_OI))[others].mean())


def of_sets(right_E: np.ndarray, shuffled_E: np.ndarray) -> float:
    """The share of draws of DRAWN examples in which the right ones are more adequate."""
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(right_E), (DRAWS, DRAWN))
    return float((right_E[drawn].mean(axis=1) > shuffled_E[drawn].mean(axis=1)).mean())


def measure(name: str, task: Task[Any, Any], train: Some, test: Some) -> bool:
    """Print a set's rows; whether the shares are high enough."""
    start_s = time.perf_counter()
    adequacy = task.adequacy(train, test)
    assert adequacy is not None
    seconds = time.perf_counter() - start_s
    right = [one.target for one in test]
    order = Random(0).sample(range(len(test)), len(test))
    shuffled = [right[order[(order.index(at) + 1) % len(order)]] for at in range(len(order))]
    answers = {
        "right answers": right, "shuffled": shuffled, "nearest neighbour's": nearest(task, train, test),
        "the input": [task.subject(one.input) for one in test],
    }  # fmt: skip
    found = {words: adequacy.statistic(texts) for words, texts in answers.items()}
    values = [np.asarray(found[words].parts_EK)[:, 0] for words in ("right answers", "shuffled")]
    pairs, sets = of_pairs(adequacy, task, test), of_sets(*values)
    print(
        f"{name}: {len(train):,} to learn from ({seconds:.1f} s), {len(test)} measured; true above "
        f"shuffled in {pairs:.1%} of pairs, {sets:.1%} of sets of {DRAWN}"
    )
    for words, texts in answers.items():
        own = task.statistics(texts, test)[task.primary].metric()
        print(f"    {words:20} adequacy {found[words].metric()}  {task.primary} {own}", flush=True)
    return sets >= LEAST and (pairs >= LEAST or task.name == "chat")


def main() -> int:
    """All sets; 1 where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    good = True
    for kind in WORLDS:
        task = make_task(kind)
        test = world(task, 400, "test")[:LIMIT]
        good &= measure(f"sample world, {kind}", task, world(task, 1000, "train"), test)
    for name in QUICK if quick else REAL:
        data = SETS[name]
        task = make_task(data.task, data.fields)
        splits = read(data, task, LIMIT)
        good &= measure(name, task, splits.train, splits.test)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
