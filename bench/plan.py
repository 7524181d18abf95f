"""How good the forecasts of `malmoi plan` are: learn from n labels, forecast 4n, then learn from 4n.

    python bench/plan.py [SET:N ...] [--out DIR]

A row for each set, number of labels and quick method: today's value, the forecast for 4n with its 95%
interval, what 4n labels truly brought, and by how many points the forecast was off. Both are measured on the
validation file of ../shared/data. The last lines say how many sets are within 2 points (by their best method
of today), and how many intervals hold the truth. Each finished forecast is a file in --out: it is not made
again.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from malmoi.compare.label_plan import PlanSettings, make_plan
from malmoi.core.nouns import Examples
from malmoi.methods.registry import make_method, quick_methods
from malmoi.tasks import make_task
from malmoi.tasks.base import Task
from malmoi.util.files import read_json, write_json
from sets import SETS

TIMES = 4
OPTIONS = {"tfidf": {"c": (4.0,), "balanced": False}}  # its usual constants: it would try others at each size
WITHIN = 0.02  # of the scale
WANTED = ("nsmc:1500", "goemotions:1500", "clinc150:1500", "wnut17:848", "btc:1500")


@dataclass(frozen=True)
class Case:
    """A set and the number of labels to forecast from."""

    name: str
    labels: int
    seed: int

    def read(self) -> tuple[Task[Any, Any], list[Any], Examples]:
        """The task, 4n training examples in the seed's order, and the validation file."""
        task = make_task(SETS[self.name].task, SETS[self.name].fields)
        train, tests = SETS[self.name].read(task, "train"), SETS[self.name].read(task, "valid")
        random.Random(self.seed).shuffle(train)
        return task, train[: TIMES * self.labels], tests

    def measured(self, out: Path) -> dict[str, Any]:
        """The plan from n labels, and each method's true value with 4n."""
        path = out / f"{self.name}-{self.labels}-{self.seed}.json"
        if path.exists():
            return read_json(path)
        task, train, tests = self.read()
        methods = {name: OPTIONS.get(name, {}) for name in quick_methods(task)}
        plan = make_plan(task, train[: self.labels], tests, PlanSettings(methods=methods), print)
        splits = task.split(train, tests)
        truth: dict[str, float] = {}
        for name, options in methods.items():
            method = make_method(name, task, options)
            method.fit(splits.train, splits.valid)
            found = task.statistics(method.predict([one.input for one in splits.test]).values, splits.test)
            truth[name] = found[task.primary].value
        found = {"plan": asdict(plan), "truth": truth}
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="SET:N", help=f"default: {' '.join(WANTED)}")
    parser.add_argument("--seed", type=int, default=0, help="which n labels")
    parser.add_argument("--out", type=Path, default=Path("plans"))
    given = parser.parse_args()
    print("| set | labels | method | today | forecast at 4x | truth at 4x | off by (points) |")
    print("|---" * 7 + "|")
    best_within, cases, held, forecasts = 0, given.cases or WANTED, 0, 0
    for case in cases:
        name, _, labels = case.partition(":")
        found = Case(name, int(labels), given.seed).measured(given.out)
        families = [family for family in found["plan"]["families"] if not family["error"]]
        for family in families:
            outlook, truth = family["outlooks"][-1], found["truth"][family["name"]]
            low, high = outlook["interval"]
            off = outlook["value"] - truth
            held, forecasts = held + (low <= truth <= high), forecasts + 1
            best_within += family is families[0] and abs(off) <= WITHIN
            today = family["points"][-1]["value"]
            print(
                f"| {name} | {labels} | {family['name']} | {100 * today:.1f} | {100 * outlook['value']:.1f} "
                f"[{100 * low:.1f}, {100 * high:.1f}] | {100 * truth:.1f} | {100 * off:+.1f} |",
                flush=True,
            )
    print(f"within {100 * WITHIN:g} points by the best method of today: {best_within} of {len(cases)}")
    print(f"intervals that hold the truth: {held} of {forecasts}")


if __name__ == "__main__":
    main()
