"""How often the verdict of `malmoi compare` is wrong, and how often it finds out: simulated comparisons.

    python bench/verdict.py [--quick]

Error: a cheap method that is truly worse than the best by more than the margin (or below the goal) is called
good enough; that may happen in at most 5% of comparisons, however few their test examples are. The second
figure of a cell is how often it is recommended in all, which is also where its figure happens to be the best,
and nothing is claimed of it. Power: it is truly as good, or nearly, and is recommended. Ends with code 1
where a rate of errors is above 5% by more than the number of simulated comparisons explains.
`malmoi.compare.verdict:judge` itself is what judges.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binom, norm

from malmoi.compare.verdict import MARGIN, MethodRow, judge
from malmoi.metrics.statistics import Statistic, accuracy, mean, share
from malmoi.util.hardware import cpu_name

LEVEL = 0.05
CHEAP = 1.0
SIZES, FEW_SIZES = (20, 50, 100, 200, 500, 1000, 2000), (20, 50, 200, 500)
BEST = 0.86  # its true accuracy
Draw = Callable[[np.random.Generator, int, float], list[Statistic]]


@dataclass(frozen=True, slots=True)
class World:
    """A kind of comparison. draw: statistics of the methods, the cheap ones first, from a true gap."""

    name: str
    draw: Draw
    num_cheap: int = 1
    wanted: float | None = None


def nested(random: np.random.Generator, num: int, gap: float) -> list[Statistic]:
    """The cheap one errs where the best does, and in `gap` of the examples besides."""
    at_E = random.random(num)
    return [mean((at_E < limit).astype(float)) for limit in (BEST - gap, BEST)]


def apart(random: np.random.Generator, num: int, gap: float) -> list[Statistic]:
    """Both err, but not by the same reasons: independently of each other."""
    return [mean((random.random(num) < limit).astype(float)) for limit in (BEST - gap, BEST)]


def alike(random: np.random.Generator, num: int, gap: float) -> list[Statistic]:
    """Half of the errors are shared."""
    hard_E = random.random(num) < 1 - BEST  # nobody knows half of these
    lost_E = hard_E & (random.random(num) < 0.5)
    right = [
        ~lost_E & (random.random(num) < limit / (1 - (1 - BEST) / 2)) for limit in (BEST - gap, BEST)
    ]  # fmt: skip
    return [mean(each.astype(float)) for each in right]


def many(random: np.random.Generator, num: int, gap: float) -> list[Statistic]:
    """Four cheap ones, all as bad, and three that are equally the best."""
    limits = [BEST - gap] * 4 + [BEST] * 3
    shared_E = random.random(num)
    mixed = [np.where(random.random(num) < 0.5, shared_E, random.random(num)) for _ in limits]
    return [mean((each < limit).astype(float)) for each, limit in zip(mixed, limits, strict=True)]


def entities(random: np.random.Generator, num: int, gap: float) -> list[Statistic]:
    """F1 where examples have very different numbers of entities, and those of one example stand or fall."""
    true_E = 1 + random.poisson(1.5, num) + 12 * (random.random(num) < 0.05)
    luck_E = random.normal(0, 0.15, num)
    found = [
        random.binomial(true_E, np.clip(limit + luck_E, 0.02, 0.98)) for limit in (BEST - gap, BEST)
    ]  # fmt: skip
    return [share(2.0 * right_E.astype(np.float64), 2.0 * true_E.astype(np.float64)) for right_E in found]


def together(random: np.random.Generator, num: int, gap: float) -> list[Statistic]:
    """Five questions of each text: what one of them is too hard for, the others often are."""
    groups_E = np.arange(num) // 5
    hard_E = random.normal(0, 1, num)[groups_E] * 0.8
    noise = (random.normal(0, 0.6, num) for _ in range(2))
    rights = [hard_E + each < _limit(limit) for each, limit in zip(noise, (BEST - gap, BEST), strict=True)]
    return [replace(mean(right_E.astype(float)), groups_E=groups_E) for right_E in rights]


def _limit(probability: float) -> float:
    """Of a normal variable with deviation 1 (0.8 and 0.6 together)."""
    return float(norm.ppf(probability))


def several_labels(random: np.random.Generator, num: int, gap: float) -> list[Statistic]:
    """Accuracy of eight labels, one of them in half of the examples."""
    labels = random.choice(8, num, p=[0.5, *[0.5 / 7] * 7])
    told = [
        np.where(random.random(num) < limit, labels, (labels + 1) % 8) for limit in (BEST - gap, BEST)
    ]  # fmt: skip
    return [accuracy(list(map(str, each)), list(map(str, labels))) for each in told]


def three_seeds(random: np.random.Generator, num: int, gap: float) -> list[Statistic]:
    """Networks, each trained three times, which their seed makes better or worse by two points."""
    hard_E = random.random(num)

    def network(true: float, stream: int) -> Statistic:
        shared = (np.where(random.random(num) < 0.5, hard_E, random.random(num)) for _ in range(3))
        limits = true + 0.02 * random.standard_normal(3)
        runs = [mean((at_E < it).astype(float)) for at_E, it in zip(shared, limits, strict=True)]
        return replace(runs[0], others=tuple(runs[1:]), stream=stream)

    return [network(BEST - gap, 1), network(BEST, 2)]


WORLDS = (
    World("errors of the cheap one beside the best's", nested),
    World("independent errors", apart),
    World("half of the errors shared", alike),
    World("four cheap ones, three best", many, 4),
    World("entity F1", entities),
    World("five questions of a text", together),
    World("eight labels", several_labels),
    World("networks of three seeds", three_seeds),
)
GOAL = World(f"goal: accuracy {BEST:.0%}", apart, 1, BEST)


def rates_of(world: World, num: int, gap: float, runs: int) -> tuple[float, float]:
    """In what share of comparisons a cheap method is called good enough, and is recommended."""
    claimed = recommended = 0
    for run in range(runs):
        random = np.random.default_rng((num, round(gap * 1e4), run))
        found = world.draw(random, num, gap)
        if world.wanted is not None:
            found = found[:1]  # the only one there is
        rows = [_row(at, statistic, at < world.num_cheap) for at, statistic in enumerate(found)]
        verdict = judge(rows, "accuracy", world.wanted)
        winner = verdict.winner
        is_cheap = winner is not None and winner.costs["cost_per_1000"] == CHEAP
        recommended += is_cheap
        claimed += is_cheap and winner is not None and winner.name in verdict.shown
    return claimed / runs, recommended / runs


def _row(at: int, statistic: Statistic, cheap: bool) -> MethodRow:
    costs = {"cost_per_1000": CHEAP if cheap else 100.0 + at}
    return MethodRow(f"m{at}", "", "", {"accuracy": statistic}, {"accuracy": statistic.metric()}, costs)


def table(worlds: Sequence[World], sizes: Sequence[int], gap: float, runs: int) -> list[float]:
    """A line for each world, called good enough / recommended; returns the first of each."""
    found: list[float] = []
    for world in worlds:
        rates = [rates_of(world, num, gap, runs) for num in sizes]
        cells = " | ".join(f"{claimed:.1%} / {recommended:.0%}" for claimed, recommended in rates)
        print(f"| {world.name} | {cells} |", flush=True)
        found += [claimed for claimed, _ in rates]
    return found


def main() -> int:
    """Print the tables; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer comparisons: minutes")
    quick = parser.parse_args().quick
    runs, sizes, start_s = (200 if quick else 1000), (FEW_SIZES if quick else SIZES), time.perf_counter()
    head = " | ".join(f"{num:,} examples" for num in sizes)
    print(f"{cpu_name()}; {runs:,} comparisons each, margin {MARGIN:.0%}\n")
    # just beyond the margin is the worst case; by 5 and 10 points is what people fear
    errors: list[float] = []
    for gap in (MARGIN + 0.001, 0.05, 0.10):
        print(f"| error: truly {gap:.1%} worse | {head} |\n|---|" + "---|" * len(sizes))
        errors += table(WORLDS, sizes, gap, runs)
        print()
    print(f"| error: truly 0.1% below the goal | {head} |\n|---|" + "---|" * len(sizes))
    errors += table((GOAL,), sizes, 0.001, runs)
    print()
    for gap in (0.0, 0.01):
        print(f"| power: truly {gap:.0%} worse | {head} |\n|---|" + "---|" * len(sizes))
        table(WORLDS, sizes, gap, runs)
        print()
    most = binom.ppf(1 - 0.01 / len(errors), runs, LEVEL) / runs  # by chance, of as many cells
    print(f"highest rate of errors {max(errors):.1%}, {time.perf_counter() - start_s:.0f} s")
    return int(max(errors) > most)


if __name__ == "__main__":
    sys.exit(main())
