"""The ranking, the winner and the advice: a table of cases."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.compare.settings import parse_good_enough
from malmoi.compare.verdict import (
    Floor,
    MethodRow,
    Verdict,
    advice,
    count_of_costs,
    floor_of,
    judge,
    saving,
    show,
    show_cost,
)
from malmoi.core.errors import UserError
from malmoi.core.nouns import Metric
from malmoi.metrics.statistics import mean
from malmoi.tasks import TASKS, make_task, write_samples
from malmoi.world import documents

NUM = 400


def row(
    name: str, right: int, cost: float, *, metric: str = "accuracy", less: bool = False, last: bool = False
) -> MethodRow:
    """A method that is right on the first (or last) `right` of NUM examples."""
    values_E = (np.arange(NUM) < right).astype(np.float64)[:: -1 if last else 1]
    found = mean(values_E, higher_is_better=not less)
    return MethodRow(
        name, "traditional", "", {metric: found}, {metric: found.metric()}, {"cost_per_1000": cost}
    )


def failed(name: str) -> MethodRow:
    return MethodRow(name, "transformer", "out of memory")


LEAD = "wins: accuracy 97.5% against"
BAG, LSTM, GPT = row("bag", 344, 0.1), row("lstm", 346, 40.0), row("gpt", 390, 90.0)


@pytest.mark.parametrize(
    ("rows", "wanted", "winner", "words"),
    [
        ([BAG], None, "bag", "bag reaches accuracy 86.0%; there is no other"),
        ([BAG, LSTM], None, "bag", "bag wins: accuracy 86.0% against 86.5% of lstm, "
         "difference not significant, and 400x cheaper."),
        ([BAG, GPT], None, "gpt",
         f"gpt {LEAD} 86.0% of bag, difference significant. bag (86.0%) is 900x cheaper."),
        ([row("bag", 390, 1.0), row("lstm", 300, 2.0)], None, "bag",
         f"bag {LEAD} 75.0% of lstm, difference significant. No method is much cheaper."),
        ([row("a", 344, 1.0), row("b", 345, 1.4), row("c", 346, 1.6)], None, "b",
         "b wins: accuracy 86.2% against 86.5% of c, difference not significant, and 1.1x cheaper. "
         "a (86.0%) is 1.4x cheaper; costs within 1.5x count as equal."),
        ([row("a", 344, 1.0), row("b", 346, 1.02)], None, "b",
         "b wins: accuracy 86.5% against 86.0% of a, difference not significant. No method is much cheaper. "
         "a (86.0%) is about as cheap; costs within 1.5x count as equal."),
        ([row("a", 344, 1.0), row("b", 346, 1.4), row("gpt", 390, 90.0)], 0.85, "b",
         "it is the best of the cheapest of the 3 methods that are. While the best is gpt with 97.5% "
         "(difference significant), b is 64x cheaper. a (86.0%) is 1.4x cheaper; costs within 1.5x count"),
        ([BAG, LSTM, GPT], 0.85, "bag", "bag is good enough: 86.0% for accuracy of at least 85.0%; it is the "
         "cheapest of the 3 methods that are. While the best is gpt with 97.5% (difference significant), "
         "bag is 900x cheaper."),
        ([BAG, LSTM, GPT], 0.9, "gpt",
         "gpt is good enough: 97.5% for accuracy of at least 90.0%; it is the only method that is."),
        ([BAG, LSTM], 0.95, None,
         "No method reaches accuracy of at least 95.0%; the best is lstm with 86.5%."),
        ([BAG], 0.86, "bag", "it is the only method that is."),
        ([failed("lstm"), failed("gpt")], None, None,
         "No method can be compared by accuracy: lstm (out of memory); gpt (out of memory)."),
        ([failed("lstm"), BAG], None, "bag", "Failed: lstm; the table says why."),
        ([], None, None, "No method can be compared by accuracy"),
    ],
)  # fmt: skip
def test_cases(rows: list[MethodRow], wanted: float | None, winner: str | None, words: str) -> None:
    verdict = judge(rows, "accuracy", wanted)
    assert (verdict.winner.name if verdict.winner else None) == winner
    assert words in advice(verdict, NUM)


def answered(share: float, metric: str = "accuracy", *, less: bool = False) -> Floor:
    return Floor('answering "good" to everything', {metric: Metric(share, higher_is_better=not less)})


@pytest.mark.parametrize(
    ("rows", "wanted", "floor", "winner", "words"),
    [
        # by chance not significant, and yet a constant
        ([row("lexicon", 190, 0.1), row("tfidf", 230, 9.0)], None, 0.525, "tfidf", "wins: accuracy 57.5%"),
        ([row("lexicon", 190, 0.1), row("tfidf", 200, 9.0)], None, 0.525, None,
         'No method beats answering "good" to everything (52.5%) in accuracy: the best is tfidf with 50.0%. '
         "None is recommended."),
        ([row("usual", 210, 0.1)], None, 0.525, None, "None is recommended."),
        ([row("usual", 210, 0.1), row("tfidf", 230, 9.0)], 0.5, 0.525, "tfidf", "tfidf is good enough"),
        ([row("usual", 210, 0.1)], 0.5, 0.525, None, "None is recommended."),
        # above the floor, but by more than the margin below the best, which chance may explain
        ([row("bag", 337, 0.1, last=True), LSTM], None, 0.5, "lstm",
         "lstm wins: accuracy 86.5% against 84.2% of bag, difference not significant. bag (84.2%) is 400x"),
        ([row("bag", 338, 0.1, last=True), LSTM], None, 0.5, "bag",
         "bag wins: accuracy 84.5% against 86.5% of lstm"),
    ],
)  # fmt: skip
def test_a_constant_is_not_recommended(
    rows: list[MethodRow], wanted: float | None, floor: float, winner: str | None, words: str
) -> None:
    verdict = judge(rows, "accuracy", wanted, answered(floor))
    assert (verdict.winner.name if verdict.winner else None) == winner
    assert words in advice(verdict, NUM)
    assert all(one.metrics["accuracy"].value > floor for one in verdict.front)
    assert winner is None or verdict.winner in verdict.front


def test_the_margin_is_on_the_scale_of_the_metric() -> None:
    assert judge([BAG], "accuracy").margin == 0.02
    chrf = row("a", 200, 1.0, metric="chrf")
    assert judge([chrf], "chrf").margin == 2
    assert judge([row("a", 200, 1.0, metric="bits_per_byte", less=True)], "bits_per_byte").margin == 0.01


def test_what_falls_short_is_said() -> None:
    rows = [row("usual", 210, 0.1), row("bag", 337, 0.1, last=True), row("near", 345, 1.0), LSTM]
    verdict = judge(rows, "accuracy", None, answered(0.525))
    found = {one.name: verdict.shortfall(one) for one in rows}
    assert found == {"usual": "not above the floor", "bag": "lower, maybe by chance", "near": "", "lstm": ""}
    assert verdict.floor_words == 'answering "good" to everything (52.5%)'
    less = judge([row("a", 80, 1.0, metric="x", less=True)], "x", None, answered(0.2, "x", less=True))
    assert less.winner is None


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_floor(name: str, tmp_path: Path) -> None:
    task, path = make_task(name), tmp_path / "rows.jsonl"
    write_samples(path, name, documents(80), 12)
    examples = task.load(path)
    floor = floor_of(task, examples, examples)
    if task.kind.is_choice:
        most = Counter(one.target for one in examples).most_common(1)[0][1]
        assert floor.metrics["accuracy"].value == most / len(examples)
    else:
        assert floor.metrics.get(task.primary, Metric(0.0)).value == 0
    assert "None is recommended" in advice(judge([row("a", 0, 1.0)], "accuracy", None, answered(0.0)), NUM)


def test_less_may_be_better() -> None:
    few, many = (row(name, right, cost, metric="bits_per_byte", less=True)
                 for name, right, cost in (("gpt", 80, 9.0), ("counts", 300, 1.0)))  # fmt: skip
    verdict = judge([many, few], "bits_per_byte")
    assert [found.name for found in verdict.ranking] == ["gpt", "counts"]
    assert verdict.winner is few
    assert verdict.against_best["counts"].value == pytest.approx(0.55)
    enough = judge([many, few], "bits_per_byte", wanted=0.8)
    assert enough.winner is many
    assert "counts is good enough: 0.75 for bits per byte of at most 0.8" in advice(enough, NUM)
    assert judge([many, few], "bits_per_byte", wanted=0.1).winner is None


def test_a_method_without_the_metric_is_left_out() -> None:
    other = row("chat", 10, 1.0, metric="chrf")
    verdict = judge([other, BAG], "accuracy")
    assert verdict.left_out == [other]
    assert verdict.winner is BAG
    assert "chat (offers no such measure)" in advice(judge([other], "accuracy"), NUM)


def test_few_examples_are_said() -> None:
    assert "With only 40 test examples" in advice(judge([BAG, LSTM], "accuracy"), 40)
    assert "With only" not in advice(judge([BAG], "accuracy"), 40)


def test_neighbours_and_the_best_are_tested() -> None:
    verdict = judge([BAG, LSTM, GPT], "accuracy")
    assert set(verdict.against_best) == {"lstm", "bag"}
    assert set(verdict.against_next) == {"gpt", "lstm"}
    assert verdict.against_best["bag"].significant
    assert not verdict.against_next["lstm"].significant


def beaten(one: MethodRow, by: MethodRow) -> bool:
    a, b = one.metrics["accuracy"].value, by.metrics["accuracy"].value
    return b >= a and by.cost <= one.cost and (b > a or by.cost < one.cost)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, NUM), st.integers(1, 9)), min_size=1, max_size=6, unique=True))
def test_the_front_is_what_wins_for_some_wanted_quality(pairs: list[tuple[int, int]]) -> None:
    rows = [row(f"m{number}", right, float(cost)) for number, (right, cost) in enumerate(pairs)]
    verdict = judge(rows, "accuracy")
    wanted = [one.metrics["accuracy"].value for one in rows]
    winners = [winner for value in wanted if (winner := judge(rows, "accuracy", value).winner)]
    assert {one.name for one in verdict.front} == {one.name for one in winners}
    assert not any(beaten(one, other) for one in verdict.front for other in rows)
    assert verdict.winner in verdict.front
    assert [one.cost for one in verdict.front] == sorted(one.cost for one in verdict.front)
    assert re.search(r"wins|reaches", advice(verdict, NUM))


@pytest.mark.parametrize(
    ("times", "words"),
    [(1.0, "about as cheap"), (1.5, "1.5x cheaper"), (9.96, "10x cheaper"), (412.0, "410x cheaper"),
     (1_234_567.0, "1,200,000x cheaper")],
)  # fmt: skip
def test_savings_have_two_digits(times: float, words: str) -> None:
    assert saving(row("a", 1, 2.0), row("b", 1, 2.0 * times)) == words


@pytest.mark.parametrize(
    ("name", "value", "less", "words"),
    [("accuracy", 0.8614, False, "86.1%"), ("chrf", 0.8, False, "0.8"), ("chrf", 41.234, False, "41.23"),
     ("bits_per_byte", 0.95, True, "0.95"), ("word_perplexity", 123.456, True, "123.5"),
     ("word_perplexity", 12_345_678.9, True, "12,350,000"), ("word_perplexity", 1.5e30, True, "1.5e+30")],
)  # fmt: skip
def test_shares_are_percentages(name: str, value: float, less: bool, words: str) -> None:
    assert show(name, Metric(value, higher_is_better=not less)) == words


@pytest.mark.parametrize(
    ("costs", "shown"),
    [([0.0169, 0.461], (1_000_000, ["16.9", "461"])), ([0.3, 1234.5], (1_000, ["0.3", "1,230"])),
     ([2e-6], (1_000_000_000, ["2"])), ([0.0, 50.0], (1_000, ["0", "50"]))],
)  # fmt: skip
def test_costs_are_of_as_many_predictions_as_makes_them_legible(costs: list[float], shown: object) -> None:
    count = count_of_costs(costs)
    assert (count, [show_cost(cost, count) for cost in costs]) == shown


def test_good_enough_is_parsed() -> None:
    assert parse_good_enough("accuracy=0.85") == ("accuracy", 0.85)
    assert parse_good_enough("macro_f1 = 85% ") == ("macro_f1", 0.85)
    assert parse_good_enough("chrf=50%") == parse_good_enough("chrf=50") == ("chrf", 50)
    for wrong in ("accuracy", "accuracy=", "accuracy=high"):
        with pytest.raises(UserError, match="METRIC=VALUE"):
            parse_good_enough(wrong)


def test_nothing_is_judged_without_rows() -> None:
    assert judge([], "accuracy") == Verdict("accuracy", None, [], [], {}, {})
