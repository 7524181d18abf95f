"""Each metric against an independent implementation, on all examples and on resamples."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace

import numpy as np
import pytest
import sacrebleu
import seqeval.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

from malmoi.core.nouns import Entity
from malmoi.metrics import overlap
from malmoi.metrics import statistics as metrics
from malmoi.metrics.statistics import Resampled, Statistic, difference

LABELS = st.lists(
    st.tuples(st.sampled_from("가나다라"), st.sampled_from("가나다라마")), min_size=1, max_size=30
)
TEXT = "the cat sat on a mat . river 고양이가 강가 에서 낮잠을 잤다 물고기 를 보았다 !"


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(TEXT.split(), k=rng.randint(0, 14))) for _ in range(count)]


def drawn(statistic: Statistic, seed: int) -> tuple[list[int], float]:
    """Some of the examples, each as often as it is drawn, and the value of whole weights that say so."""
    counts_1E = np.random.default_rng(seed).integers(0, 3, (1, statistic.shape[0]))
    counts_1E[0, 0] = 1
    value = statistic.combine(np.asarray(counts_1E @ statistic.parts_EK, np.float64))[0]
    return [at for at, count in enumerate(counts_1E[0]) for _ in range(count)], float(value)


@settings(max_examples=30, deadline=None)
@given(LABELS)
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    true, found = (list(side) for side in zip(*pairs, strict=True))
    assert metrics.accuracy(found, true).value == pytest.approx(accuracy_score(true, found))
    macro = metrics.macro_f1(found, true)
    assert macro.value == pytest.approx(f1_score(true, found, average="macro", zero_division=0))
    some, value = drawn(macro, 3)
    expected = f1_score([true[at] for at in some], [found[at] for at in some], average="macro")
    assert value == pytest.approx(expected)


def test_no_prediction_is_wrong() -> None:
    assert metrics.accuracy([None, "a"], ["a", "a"]).value == 0.5
    assert metrics.macro_f1([None, "a"], ["a", "a"]).value == pytest.approx(2 / 3)
    assert metrics.entity_scores([None], [(Entity(0, 1, "x"),)])["entity_f1"].value == 0
    assert overlap.chrf([None], [["a"]]).value == 0
    assert overlap.bleu([None], [["a"]], "13a").value == 0
    assert overlap.rouge([None], [["a"]])["rouge_l"].value == 0
    assert overlap.squad_scores([None], [["the"]])["exact_match"].value == 0
    assert overlap.distinct([None], 1).value == 0


TAGS = st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=6))
def test_entity_scores_are_those_of_seqeval(pairs: list[tuple[list[str], list[str]]]) -> None:
    pairs = [(true, (found * 8)[: len(true)]) for true, found in pairs]
    true, found = (list(side) for side in zip(*pairs, strict=True))
    scores = metrics.entity_scores(list(map(spans, found)), list(map(spans, true)))
    expected = {
        "entity_f1": seqeval.metrics.f1_score(true, found, zero_division=0),
        "precision": seqeval.metrics.precision_score(true, found, zero_division=0),
        "recall": seqeval.metrics.recall_score(true, found, zero_division=0),
    }
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected)


def spans(tags: list[str]) -> list[Entity]:
    """Tokens of three characters with a space between."""
    found = seqeval.metrics.sequence_labeling.get_entities(tags)
    return [Entity(4 * start, 4 * stop + 3, label) for label, start, stop in found]


@pytest.mark.parametrize("tokenize", ["13a", "char"])
@pytest.mark.parametrize("num_references", [1, 2])
def test_bleu_and_chrf_are_those_of_sacrebleu(tokenize: str, num_references: int) -> None:
    found, streams = texts(40, 0), [texts(40, 1 + at) for at in range(num_references)]
    references = [list(each) for each in zip(*streams, strict=True)]
    ours = {"bleu": overlap.bleu(found, references, tokenize), "chrf": overlap.chrf(found, references)}
    theirs = {"bleu": sacrebleu.BLEU(tokenize=tokenize), "chrf": sacrebleu.CHRF()}
    for name, statistic in ours.items():
        assert statistic.value == pytest.approx(theirs[name].corpus_score(found, streams).score)
        assert statistic.signature == str(theirs[name].get_signature())
        some, value = drawn(statistic, 5)
        again = theirs[name].corpus_score(
            [found[at] for at in some], [[one[at] for at in some] for one in streams]
        )
        assert value == pytest.approx(again.score)


def test_bleu_has_the_published_value() -> None:
    # sacrebleu's README: BLEU = 48.53 with two references
    found = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    assert overlap.bleu(found, references, "13a").value == pytest.approx(48.53, abs=0.005)


def test_a_varying_number_of_references() -> None:
    found = ["a cat sat", "고양이 가 있다"]
    several = overlap.chrf(found, [["a cat sat"], ["강", "고양이 가 있다"]])
    assert several.value == pytest.approx(100)


def test_bits_per_byte_and_word_perplexity() -> None:
    nats, targets = [-3.0, -5.0], ["두 말", "two words"]
    bits = metrics.bits_per_byte(nats, targets)
    assert bits.value == pytest.approx(8 / math.log(2) / (7 + 9))
    assert not bits.higher_is_better
    assert metrics.word_perplexity(nats, targets).value == pytest.approx(math.exp(8 / 4))


def test_rouge_is_that_of_rouge_score_for_english() -> None:
    pairs = [("The cat sat, on a mat.", "A cat sat on the mat"), ("river 9", "the river!"), ("", "x")]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    expected = [scorer.score(true, found) for found, true in pairs]
    ours = overlap.rouge([found for found, _ in pairs], [[true] for _, true in pairs])
    for name, theirs in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        assert ours[name].value == pytest.approx(np.mean([score[theirs].fmeasure for score in expected]))


def test_rouge_is_that_of_rouge_score_with_our_words() -> None:
    class Words:
        tokenize = staticmethod(overlap.words_of)

    rng = random.Random(0)
    draw = [
        " ".join(rng.choices(("a", "b,", "개가", "집에", "잔다"), k=rng.randrange(12))) for _ in range(90)
    ]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Words())
    found, references = draw[:30], list(zip(draw[30:60], draw[60:], strict=True))
    expected = [scorer.score_multi(texts, text) for text, texts in zip(found, references, strict=True)]
    ours = overlap.rouge(found, references)
    for name, theirs in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        assert ours[name].parts_EK[:, 0].tolist() == [score[theirs].fmeasure for score in expected]


def test_rouge_knows_korean() -> None:
    korean = "고양이가 강가에서 낮잠을 잤다."
    assert overlap.rouge([korean], [["개", korean]])["rouge_l"].value == 1
    assert overlap.rouge(["고양이가 잤다"], [[korean]])["rouge_1"].value == pytest.approx(2 * 2 / 6)


@pytest.mark.parametrize(
    ("found", "true", "exact", "f1"),
    [
        ("The Denver Broncos!", "denver broncos", 1, 1),
        ("a  b-c an the", "bc", 1, 1),
        ("Santa Clara", "Santa Clara, California", 0, 0.8),
        ("서울", "서울", 1, 1),
        ("theory", "the", 0, 0),
        ("the", "an", 1, 0),  # nothing is left: equal, but no word is shared, as in SQuAD's v1.1 script
    ],
)
def test_answers_are_compared_as_squad_does(found: str, true: str, exact: float, f1: float) -> None:
    scores = overlap.squad_scores([found], [["nothing of it", true]])
    assert scores["exact_match"].value == exact
    assert scores["f1"].value == pytest.approx(f1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("ab 가", max_size=12), min_size=1, max_size=6), st.integers(1, 2))
def test_distinct_counts_different_ngrams(found: list[str], order: int) -> None:
    statistic = overlap.distinct(found, order)
    assert statistic.metric().interval is None
    assert "no interval" in statistic.metric().signature
    for some, value in ((list(range(len(found))), statistic.value), drawn(statistic, 2)):
        words = [found[at].split() for at in some]
        ngrams = {tuple(each[at : at + order]) for each in words for at in range(len(each) - order + 1)}
        assert value == pytest.approx(len(ngrams) / max(1, sum(map(len, words))))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.booleans(), min_size=5, max_size=40))
def test_intervals_hold_the_value_and_equals_do_not_differ(right: list[bool]) -> None:
    statistic = metrics.mean(np.array(right, dtype=float))
    low, high = statistic.metric().interval or (1, 0)
    assert low <= statistic.value <= high
    same = Resampled.of(statistic)
    assert difference(same, same).p == 1


@pytest.mark.parametrize(("right", "of"), [(40, 40), (0, 40), (49, 50), (80, 100), (3, 12), (430, 500)])
def test_intervals_of_shares_are_those_of_clopper_and_pearson(right: int, of: int) -> None:
    interval = metrics.mean((np.arange(of) < right).astype(float)).metric().interval
    exact = binomtest(right, of).proportion_ci(method="exact")
    assert interval == pytest.approx((exact.low, exact.high), abs=0.005)


@pytest.mark.parametrize(
    ("of", "a", "b"), [(40, 5, 0), (100, 10, 4), (100, 8, 8), (200, 30, 18), (300, 25, 5)]
)
def test_p_values_of_right_and_wrong_are_those_of_mcnemars_exact_test(of: int, a: int, b: int) -> None:
    """a, b: examples that only the first, only the second gets right."""
    at_E = np.arange(of)
    one, other = ((at_E < a), (at_E >= a) & (at_E < a + b))
    found = difference(*(Resampled.of(metrics.mean(right.astype(float))) for right in (one, other)))
    assert found.p == pytest.approx(binomtest(a, a + b).pvalue, abs=0.015)
    assert found.value == pytest.approx((a - b) / of)


def test_examples_of_one_group_are_no_more_than_one_of_them() -> None:
    """Ten copies of each of 30 examples tell as much as the 30 do, not as 300."""
    few = (np.random.default_rng(0).random(30) < 0.7).astype(float)
    many = metrics.mean(np.repeat(few, 10))
    grouped = replace(many, groups_E=np.repeat(np.arange(30), 10))
    assert grouped.metric().interval == pytest.approx(metrics.mean(few).metric().interval)
    wide, narrow = (one.metric().interval or (0, 0) for one in (grouped, many))
    assert wide[1] - wide[0] > 2.5 * (narrow[1] - narrow[0])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("abc")), min_size=2, max_size=20))
def test_every_metric_has_bounds_around_its_value(pairs: list[tuple[str, str]]) -> None:
    true, found = (list(side) for side in zip(*pairs, strict=True))
    texts = [[f"{one} man in a town"] for one in true]
    for statistic in (
        metrics.macro_f1(found, true), overlap.chrf([f"{one} man in a hat" for one in found], texts),
        overlap.bleu([f"{one} man in a house" for one in found], texts, "13a"),
        metrics.bits_per_byte([-float(len(one) + at) for at, one in enumerate(found)], true),
    ):  # fmt: skip
        low, high = statistic.metric().interval or (1, 0)
        assert low <= statistic.value <= high
        if "smooth" in statistic.signature:  # BLEU: a count of 0 is worth more than one of little
            continue
        worst_R, best_R = statistic.resampled("worst"), statistic.resampled("best")
        assert bool((statistic.sign * (best_R - worst_R) >= -1e-9).all())


def test_holm_stops_at_the_first_that_fails() -> None:
    assert metrics.holm({"a": 0.01, "b": 0.02, "c": 0.04}) == {"a", "b", "c"}
    assert metrics.holm({"a": 0.01, "b": 0.03, "c": 0.04}) == {"a"}
    assert metrics.holm({"a": 0.02, "b": 0.001, "c": 0.9}) == {"a", "b"}
    assert metrics.holm({"a": 0.03, "b": 0.04}) == set()
    assert metrics.holm({}) == set()


@pytest.mark.slow
def test_five_thousand_examples_are_scored_and_the_time_reported() -> None:
    found, true = texts(5000, 0), texts(5000, 1)
    for name, make in {
        "macro_f1": lambda: metrics.macro_f1(found, true),
        "bleu": lambda: overlap.bleu(found, [[one] for one in true], "13a"),
        "chrf": lambda: overlap.chrf(found, [[one] for one in true]),
        "rouge": lambda: overlap.rouge(found, [[one] for one in true])["rouge_l"],
        "squad": lambda: overlap.squad_scores(found, [[one] for one in true])["f1"],
        "distinct": lambda: overlap.distinct(found, 2),
    }.items():
        start = time.perf_counter()
        metric = make().metric()
        print(f"{name}: {metric}, {time.perf_counter() - start:.2f} s")
        assert (metric.interval is None) == (name == "distinct")
