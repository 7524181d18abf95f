"""Whether methods are right as often as they say, and whether the promise of a cascade is kept.

    python bench/confidence.py [SET:METHOD ...] [--train N] [--most SHARE]

A row for each set and method, learned from N training examples and calibrated by a tenth of these: the
share of right answers on the validation file, and the expected calibration error before and after (10 bins).
Then 200 times a random half of the file is to show a bound on the confidence: how often it did, what share is
answered alone above it, and how often more than the promised share of these answers is wrong (of the whole
file; a half alone would break promises by its own chance). Exits with 1 where that is more than 5% of the
times, and two deviations.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from malmoi.core.nouns import Examples
from malmoi.methods.base import Method
from malmoi.methods.registry import make_method
from malmoi.metrics.confidence import calibration_error
from malmoi.metrics.promise import promise
from malmoi.tasks import make_task
from malmoi.tasks.base import Task
from sets import SETS

SPLITS = 200
MOST_BROKEN = 0.05 * SPLITS + 2 * (SPLITS * 0.05 * 0.95) ** 0.5
WANTED = ("nsmc:tfidf", "nsmc:lexicon", "goemotions:tfidf", "clinc150:tfidf", "wnut17:crf", "squad:sentence")


@dataclass(frozen=True)
class Row:
    """What was found. before: None where the method's own number is no probability of being right."""

    right: float
    before: float | None
    after: float
    shown: int
    alone: float
    broken: int


def main() -> None:
    """Print a row for each; exit with 1 where a promise is broken too often."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wanted", nargs="*", default=WANTED, metavar="SET:METHOD")
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--most", type=float, default=0.05, help="share of wrong answers that is promised")
    given = parser.parse_args()
    print("set, method | right | error before, after | bounds shown | alone | broken | seconds")
    failed = False
    for name, method in (one.split(":") for one in given.wanted):
        start_s = time.perf_counter()
        row = measured(name, method, given.train, given.most)
        before = "-" if row.before is None else f"{row.before:.3f}"
        print(
            f"{name}, {method} | {row.right:.1%} | {before}, {row.after:.3f} | {row.shown} of {SPLITS} | "
            f"{row.alone:.0%} | {row.broken} | {time.perf_counter() - start_s:.0f}",
            flush=True,
        )
        failed |= row.broken > MOST_BROKEN
    sys.exit(int(failed))


def measured(name: str, method_name: str, count: int, most: float) -> Row:
    """Learn, and look at the validation file."""
    data = SETS[name]
    task = make_task(data.task, data.fields)
    rng = np.random.default_rng(0)
    known, test = (data.read(task, part) for part in ("train", "valid"))
    known = [known[at] for at in rng.permutation(len(known))[:count]]
    held_out = len(known) // 10
    method = make_method(method_name, task)
    method.fit(known[held_out:], known[:held_out])
    return judged(method, task, test, most)


def judged(method: Method, task: Task[Any, Any], test: Examples, most: float) -> Row:
    """Of the examples that nothing was chosen by."""
    inputs = [one.input for one in test]
    found = method.predict_with_confidence(inputs)
    assert found.confidences is not None
    assert method.calibration is not None
    sure_N = np.array(found.confidences)
    right_N = np.array([*map(task.is_right, found.values, test)])
    raw = method.raw_probabilities(inputs)
    before = raw and calibration_error([max(one.values()) for one in raw], right_N.tolist()).value
    rng, alone, broken = np.random.default_rng(1), list[float](), 0
    for _ in range(SPLITS):
        order = rng.permutation(len(test))
        shows, holds = order[: len(order) // 2], order[len(order) // 2 :]
        bound = promise(sure_N[shows].tolist(), right_N[shows].tolist(), method.calibration.levels, most)
        if bound is not None:
            above_N = sure_N >= bound.confidence
            alone.append(float(above_N[holds].mean()))
            # of all examples: a half alone would break a promise by its own chance
            broken += float((~right_N[above_N]).mean()) > most
    after = calibration_error(sure_N.tolist(), right_N.tolist()).value
    share = float(np.mean(alone)) if alone else 0.0
    return Row(float(right_N.mean()), before, after, len(alone), share, broken)


if __name__ == "__main__":
    main()
