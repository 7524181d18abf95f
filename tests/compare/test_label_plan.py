from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from malmoi.compare import label_plan
from malmoi.compare.label_plan import FamilyPlan, LabelPlan, Outlook, PlanSettings, advice, make_plan
from malmoi.compare.next_labels import plan_files
from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Example, Examples, FitReport, Predictions, Work
from malmoi.data.label_files import DOCCANO, SPREADSHEET
from malmoi.methods import registry
from malmoi.methods.base import Method, Parts
from malmoi.methods.next_texts import next_inputs
from malmoi.tasks import make_task
from malmoi.tasks.kinds import LABEL

TASK = make_task("classification")
EXAMPLES = [Example(f"text {number}", "even" if number % 2 == 0 else "odd", "") for number in range(1000)]


class Learner(Method):
    """Errs by a power law of what it has learned from: 0.05 + scale * n ** -power."""

    name, family, kinds = "learner", "traditional", frozenset({LABEL})

    class Options(StrictModel):
        """scale, power: of the law. most: the most labels that it can learn from."""

        scale: float = 2.0
        power: float = 0.5
        fails_below: int = 0

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        del work
        count = len(train) + len(valid)
        if count < self.options.fails_below:
            raise UserError("there is only the label 'odd'; give examples of at least two")
        self._error = 0.05 + self.options.scale * count**-self.options.power
        return FitReport()

    def predict(self, inputs: Any) -> Predictions:
        values: list[str] = []
        for text in inputs:
            number = int(text.split()[1])
            wrong = random.Random(number).random() < self._error
            values.append("odd" if (number % 2 == 0) == wrong else "even")
        return Predictions(list(values))

    def parts(self) -> Parts:
        return Parts()

    def restore(self, parts: Parts) -> None:
        del parts


@pytest.fixture(autouse=True)
def learner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.METHODS, "learner", Learner)


def accuracy(error: float, tests: int = 600) -> float:
    """Of a learner with that error."""
    return sum(random.Random(number).random() >= error for number in range(tests)) / tests


def planned(tests: int = 600, **methods: dict[str, Any]) -> LabelPlan:
    named = {f"learner:{name}": options for name, options in methods.items()}
    return make_plan(TASK, EXAMPLES[tests:], EXAMPLES[:tests], PlanSettings(methods=named))


def test_the_forecast_holds_what_more_labels_bring() -> None:
    [family] = planned(one={}).families
    assert [point.labels for point in family.points] == [25, 50, 100, 200, 400]
    for outlook in family.outlooks:
        truth = accuracy(0.05 + 2.0 * outlook.labels**-0.5)
        low, high = outlook.interval
        assert low <= truth <= high
        assert abs(outlook.value - truth) < 0.03
        assert outlook.gain_interval[0] <= outlook.gain <= outlook.gain_interval[1]
    assert family.outlooks[0].value < family.outlooks[1].value
    assert family.outlooks[1].win == 1.0


def test_the_family_that_learns_faster_is_said_to_win_later() -> None:
    plan = planned(slow={"scale": 0.3, "power": 0.1}, fast={"scale": 6.0, "power": 0.55})
    assert [family.name for family in plan.families] == ["learner:slow", "learner:fast"]
    assert plan.families[1].outlooks[-1].win > 0.9
    assert "With 400 labels, learner:slow is best" in plan.sentence
    assert "learner:fast would then win" in plan.sentence


def test_equals_cannot_be_told_apart() -> None:
    plan = planned(a={}, b={})
    assert "which family would then win cannot be told" in plan.sentence
    assert sum(family.outlooks[0].win for family in plan.families) == pytest.approx(1, abs=0.1)


def test_a_flat_curve_is_no_promise() -> None:
    plan = planned(flat={"scale": 0.2, "power": 1e-9})
    assert plan.families[0].outlooks[-1].gain < 0.02
    assert plan.families[0].outlooks[-1].gain_interval[0] < 0.01


def test_a_method_that_learns_nothing_is_not_promised_anything() -> None:
    """Although each repeat is measured on another part, which is harder or easier."""
    settings = PlanSettings(methods={"learner": {"scale": 0.3, "power": 1e-9}})
    [family] = make_plan(TASK, EXAMPLES[:150], None, settings).families
    values = [point.value for point in family.points]
    assert values == pytest.approx([values[-1]] * len(values))
    assert family.outlooks[-1].gain_interval[1] < 0.02


def test_labels_that_would_bring_little_are_hardly_worth_it() -> None:
    last = Outlook(4, 400, 0.803, (0.78, 0.82), 0.003, (0.001, 0.006), 1.0)
    family = FamilyPlan("tfidf", (label_plan.CurvePoint(100, 0.8, 0.01, 1),), (last, last))
    said = advice(LabelPlan("classification", "accuracy", True, 100, 50, (), (family,), ""))
    assert said.endswith("4x the labels would bring tfidf 0.1 to 0.6 points: hardly worth labelling.")


def test_without_valid_each_repeat_holds_out_another_part() -> None:
    plan = make_plan(TASK, EXAMPLES[:200], None, PlanSettings(methods={"learner": {}}))
    assert (plan.labels, plan.tests) == (160, 40)
    assert plan.families[0].points[-1].fits == label_plan.MOST_REPEATS


def test_a_family_that_cannot_learn_is_left_out_with_its_reason() -> None:
    plan = planned(one={}, never={"fails_below": 10_000})
    assert [(family.name, bool(family.error)) for family in plan.families] == [
        ("learner:one", False),
        ("learner:never", True),
    ]
    with pytest.raises(UserError, match="no method has a learning curve; learner:never: there is only"):
        planned(never={"fails_below": 10_000})
    some = planned(some={"fails_below": 90})
    assert [point.labels for point in some.families[0].points] == [100, 200, 400]


def test_too_few_labels_are_one_line() -> None:
    with pytest.raises(
        UserError, match="only 50 labels to learn from, too few for a learning curve; give 80"
    ):
        make_plan(TASK, EXAMPLES[:50], EXAMPLES[50:90], PlanSettings(methods={"learner": {}}))


def test_words_of_a_measure_that_is_lower_where_better() -> None:
    outlooks = tuple(
        Outlook(times, 100 * times, 2.0 / times, (1.9 / times, 2.1 / times), 0.5, (0.2, 0.8), 1.0)
        for times in (2, 4)
    )
    points = (label_plan.CurvePoint(100, 2.4, 0.1, 1),)
    families = (FamilyPlan("ngram", points, outlooks),)
    said = advice(LabelPlan("completion", "bits_per_byte", False, 100, 10, (), families, ""))
    assert "ngram is best: bits per byte 2.4." in said
    assert said.endswith("4x the labels would bring ngram 0.2 to 0.8 bits per byte.")


# ---- what to label next


def test_the_next_texts_are_unsure_and_unlike_each_other() -> None:
    texts = ["택배가 늦게 왔어요"] * 30 + ["환불이 안 됩니다", "where is my parcel", "sure of this one"]
    unsure = [0.9] * 30 + [0.8, 0.8, 0.01]
    chosen = next_inputs(texts, unsure, 3)
    assert {texts[at] for at in chosen} == {"택배가 늦게 왔어요", "환불이 안 됩니다", "where is my parcel"}
    assert sorted(next_inputs(texts, unsure, 100)) == list(range(33))
    assert chosen == next_inputs(texts, unsure, 3)
    assert len({texts[at] for at in next_inputs(texts, None, 4)}) == 4


@pytest.mark.parametrize("texts", [["!"], ["a", "a"], ["하나", "둘 둘", "…"]])
@pytest.mark.parametrize("count", [1, 5])
def test_any_texts_are_chosen_from(texts: list[str], count: int) -> None:
    found = next_inputs(texts, [0.0] * len(texts), count)
    assert len(found) == len(set(found)) == min(count, len(texts))


def test_what_to_label_leaves_out_what_has_a_label(tmp_path: Path) -> None:
    words = {"good": "warm bread kind baker 따뜻한 빵", "bad": "cold soup rude waiter 차가운 국"}
    draw = random.Random(0)
    rows = [
        {"text": f"{' '.join(draw.choices(words[label].split(), k=4))} {number}", "label": label}
        for number in range(120)
        for label in words
    ]
    train, pool = tmp_path / "train.jsonl", tmp_path / "pool.txt"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    new = [f"{' '.join(draw.choices(' '.join(words.values()).split(), k=4))} new {n}" for n in range(40)]
    pool.write_text("\n".join([*(row["text"] for row in rows[:50]), *new]), encoding="utf-8")
    settings = PlanSettings(methods={"lexicon": {}})
    found = plan_files(TASK, train, None, settings, unlabelled=pool, out=tmp_path / "plan", count=7)
    texts = [row["text"] for row in found.chosen]
    assert len(set(texts)) == 7
    assert set(texts) <= set(new)
    lines = (tmp_path / "plan" / DOCCANO).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == texts
    assert (tmp_path / "plan" / SPREADSHEET).exists()
    assert json.loads((tmp_path / "plan" / "plan.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(found.json)
    )
    with pytest.raises(UserError, match="exists; choose another `out`"):
        plan_files(TASK, train, None, settings, out=tmp_path / "plan")
    with pytest.raises(UserError, match="every input is a training example"):
        plan_files(TASK, train, None, settings, unlabelled=train, out=tmp_path / "other")
    with pytest.raises(UserError, match="`unlabelled` needs `out`"):
        plan_files(TASK, train, None, settings, unlabelled=pool)
    with pytest.raises(UserError, match="nothing to label"):
        plan_files(
            replace(make_task("completion")), train, None, settings, unlabelled=pool, out=tmp_path / "x"
        )
