"""Opinion words and TF-IDF: parity with scikit-learn and with the formula, written out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example
from malmoi.methods.base import Parts
from malmoi.methods.registry import make_method
from malmoi.methods.traditional.text_classifiers import PRIOR_WORDS, Lexicon, TfIdf, log_odds
from malmoi.methods.traditional.vectors import NgramView, Vectors
from malmoi.tasks import make_task
from tests.methods.tiny import fitted_to

GOOD = [
    "a warm and lovely soup",
    "lovely bread, kind people",
    "정말 좋아요 또 올게요",
    "국물이 좋았고 친절해요",
]
BAD = [
    "a cold and awful soup",
    "awful bread, rude people",
    "정말 싫어요 다시는 안 와요",
    "국물이 싫었고 불친절해요",
]
TRAIN = [
    Example(text + end, label)
    for end in ("", "!", " ...")
    for texts, label in ((GOOD, "good"), (BAD, "bad"))
    for text in texts
]


@pytest.fixture
def task():
    return make_task("classification")


@pytest.mark.parametrize("method", [Lexicon, TfIdf])
def test_new_texts_in_both_languages(task, method) -> None:
    fitted = fitted_to(method(task, {"max_words": 500} if method is Lexicon else {}), TRAIN * 20, TRAIN)
    assert (
        fitted.predict(["what a lovely day", "awful day", "좋아 좋아요", "싫어 싫어요"]).values
        == ["good", "bad"] * 2
    )


@pytest.mark.parametrize("method", [Lexicon, TfIdf])
def test_what_was_chosen_by_is_learned_at_the_end(task, method) -> None:
    """Of a label that only the held-out part has, too."""
    valid = [*TRAIN, *[Example("quixotic " * 3, "odd")] * 8]
    fitted = fitted_to(method(task, {}), TRAIN * 3, valid)
    assert fitted.predict(["a quixotic soup"]).values == ["odd"]
    assert fitted.report["learned_from"] == {"train": len(TRAIN) * 3, "valid": len(valid)}


def test_log_odds_are_those_of_the_paper() -> None:
    counts_LW = np.array([[90.0, 5.0, 405.0], [10.0, 5.0, 485.0]])
    found = log_odds(counts_LW)
    prior = PRIOR_WORDS * 100 / 1000
    odds = math.log((90 + prior) / (500 + PRIOR_WORDS - 90 - prior)) - math.log(
        (10 + prior) / (500 + PRIOR_WORDS - 10 - prior)
    )
    assert found[0, 0] == pytest.approx(odds)
    assert found[:, 1].tolist() == [0, 0]


def test_the_users_own_lexicon(task, tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_text("crisp\tgood\n\nsoggy\tbad\t2.5\n \n바삭\tgood\n", encoding="utf-8")
    method = fitted_to(Lexicon(task, {"lexicon": str(path)}), TRAIN, [])
    assert method.predict(["crisp but soggy", "Crisp!", "바삭해요"]).values == ["bad", "good", "good"]
    for line in ("soggy\tterrible", "soggy", "soggy\tbad\tnan", "soggy\tbad\t-inf", "soggy\tbad\tmuch"):
        path.write_text(f"crisp\tgood\n\n{line}\n", encoding="utf-8")
        with pytest.raises(UserError, match=r"words.tsv:3"):
            fitted_to(Lexicon(task, {"lexicon": str(path)}), TRAIN, [])
    path.write_text("\n")
    with pytest.raises(UserError, match=r"words.tsv has no words"):
        fitted_to(Lexicon(task, {"lexicon": str(path)}), TRAIN, [])


def test_without_known_words_the_commonest_label(task) -> None:
    method = fitted_to(Lexicon(task), [*TRAIN, Example("so so", "fair")] + [Example("hm", "bad")] * 3, [])
    assert method.predict(["zzz", ""]).values == ["bad", "bad"]


@pytest.mark.parametrize(("num_labels", "ratios"), [(2, False), (2, True), (3, False)])
def test_probabilities_equal_scikit_learns(task, num_labels: int, ratios: bool) -> None:
    train = [*TRAIN, *[Example("neither here nor there", "fair")] * 4][: len(TRAIN) + 4 * (num_labels - 2)]
    texts, labels = [e.input for e in train], [e.target for e in train]
    found = fitted_to(
        TfIdf(task, {"c": [3.0], "balanced": False, "ratios": ratios}), train, []
    ).probabilities(texts)
    views = [
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True),
    ]
    rows = np.hstack([view.fit_transform(texts).toarray() for view in views])
    if ratios:  # naive Bayes' difference of smoothed log-probabilities
        bayes = MultinomialNB(alpha=1.0).fit(rows, labels).feature_log_prob_
        rows = rows * (bayes[1] - bayes[0])
    solver = "liblinear" if num_labels == 2 else "lbfgs"
    expected = LogisticRegression(C=3.0, solver=solver, random_state=0).fit(rows, labels).predict_proba(rows)
    assert np.array([list(row.values()) for row in found or []]) == pytest.approx(expected, abs=2e-3)


def test_ratios_are_for_two_labels(task) -> None:
    with pytest.raises(UserError, match="ratios are for two labels, here are 3"):
        fitted_to(TfIdf(task, {"ratios": True}), [*TRAIN, Example("neither here nor there", "fair")], [])


def test_some_strength_must_be_tried(task) -> None:
    with pytest.raises(UserError, match=r"tfidf: c: .* at least 1 item"):
        make_method("tfidf", task, {"c": []})


def test_vectors_survive_their_parts_and_are_bounded() -> None:
    vectors, parts = Vectors([NgramView("word", 1, 2), NgramView("char", 1, 3)], 30).fit(GOOD + BAD), Parts()
    vectors.save(parts)
    rows = vectors.rows([*BAD, "새 문장 new"])
    assert (Vectors.restore(parts).rows([*BAD, "새 문장 new"]) != rows).nnz == 0
    assert rows.shape[1] == len(vectors.names) == 60
    parts.files["vocabulary.json"] = b'[["a"], ["b"]]'
    with pytest.raises(UserError, match="vocabulary"):
        Vectors.restore(parts)


def test_texts_without_words_are_refused() -> None:
    with pytest.raises(UserError, match="words"):
        Vectors([NgramView("word", 1, 1)]).fit(["", " "])
