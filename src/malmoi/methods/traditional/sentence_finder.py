"""Question answering: the sentences nearest to the question, and in them the best-looking span.

As the logistic regression of Rajpurkar et al. 2016, but without a parser: a span is a run of words, and what
it shows (shape, neighbours, distance to the question's words) is weighed as training answers have taught.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import PositiveInt

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Examples, FitReport, Json, Predictions, Question, Work
from malmoi.methods.base import Method, Parts
from malmoi.methods.traditional.choice import TimeKeeper
from malmoi.methods.traditional.vectors import LIBRARIES, NgramView, Vectors
from malmoi.tasks.kinds import SPAN
from malmoi.text.units import sentences
from malmoi.util.scripts import MARKS, SPACELESS, run_of

KINDS = {
    "how many": r"how (many|much|old|long|far|large|big|tall|often)|몇|얼마",
    "when": r"\bwhen\b|(what|which) (year|month|day|date|century|decade)|언제",
    "who": r"\bwho(m|se)?\b|누구|누가|누굴",
    "where": r"\bwhere\b|어디",
    "why": r"\bwhy\b|왜",
    "how": r"\bhow\b|어떻게",
    "what": r"\bwhat\b|\bwhich\b|무엇|무슨|어느|어떤|뭐|뭘",
}  # the first one that is found
STOP = frozenset(
    """a an the of in on at to for by from with and or but as is are was were be been being has have had do
    does did that this these those it its he she they his her their which who whom whose what when where why
    how than then not also into such there if 그 이 저 및 등 수 것""".split()  # noqa: SIM905 (a list of them would take a page)
)
PARTICLES = "에서|에게|으로|까지|부터|이다|였다|이었다|입니다|은|는|이|가|을|를|의|에|로|와|과|도|만|께서"
_RUN = run_of(rf"(?:(?![{SPACELESS}])\w)")
_WORD = re.compile(rf"[{SPACELESS}][{MARKS}]*|[$£€₩]?{_RUN}(?:[-'’.,:/]{_RUN})*%?")
_PARTICLE = re.compile(rf"(?<=[가-힣])(?:{PARTICLES})$")
_HEAD = re.compile(r"\b(?:what|which|how many|how much) (\w+)|(?:무슨|어느|어떤|몇) ?(\w+)", re.IGNORECASE)
AS_IT_IS: Any = list  # texts are lists of features already
FAR = 9  # words; what lies beyond is not looked at
MAX_ITERATIONS = 100
MOST_CALIBRATED_BY = 500  # questions
SEEN = 4  # a feature of fewer spans has no weight


class Candidate(NamedTuple):
    """context[start:end], and what it shows."""

    start: int
    end: int
    features: list[str]


class _Asked(NamedTuple):
    """What is looked at of a question."""

    kind: str
    head: str  # the noun of "which city"
    stems: frozenset[str]

    @classmethod
    def of(cls, question: str) -> Self:
        kind = next((kind for kind, form in KINDS.items() if re.search(form, question.lower())), "other")
        head = _HEAD.search(question)
        words = [word.lower() for word in _WORD.findall(question)]
        stems = frozenset(_stem(word) for word in words if word not in STOP)
        return cls(kind, (head[1] or head[2]).lower() if head else "", stems)


def _stem(word: str) -> str:
    return word[:2] if "가" <= word[0] <= "힣" else word.lower()[:5]


def _shape(word: str) -> str:
    if any(map(str.isdigit, word)):
        return "year" if re.fullmatch(r"[12]\d{3}", word) else "0"
    return "가" if "가" <= word[0] <= "힣" else "A" if word[0].isupper() else "a"


def spans(context: str, sentence: tuple[int, int], asked: _Asked, max_words: int) -> Iterator[Candidate]:
    """Runs of up to max_words words that begin and end with a content word; of Korean ones also the run
    without its particle."""
    found = list(_WORD.finditer(context, *sentence))
    words = [match[0].lower() for match in found]
    shapes = [_shape(match[0]) for match in found]
    asked_for = [word not in STOP and _stem(word) in asked.stems for word in words]
    content = [i for i, word in enumerate(words) if word not in STOP]
    runs = ((i, j) for at, i in enumerate(content) for j in content[at : at + max_words] if j < i + max_words)
    num_asked_for = sum(asked_for)
    for first, last in runs:
        begin, end, kind, size = found[first].start(), found[last].end(), asked.kind, last - first + 1
        shape = "".join(dict.fromkeys(shapes[first : last + 1]))
        before = context[found[first - 1].start() : begin].lower() if first else "^"
        after = context[end : found[last + 1].end()].lower() if last + 1 < len(found) else "$"
        row = [
            f"{kind} {shape}", f"{kind} {size}", f"{kind} {shape} {size}", f"{asked.head} {shape}",
            f"{kind} {before}_", f"{kind} _{after}", f"{kind} {words[first]}", f"ends {words[last][-3:]}",
            f"{before}_", f"_{after}", f"asked {sum(asked_for[first : last + 1])}/{size}",
            f"left {_distance(asked_for[max(0, first - FAR) : first][::-1])}",
            f"right {_distance(asked_for[last + 1 : last + 1 + FAR])}",
            f"all {num_asked_for}", f"comma {',' in context[begin:end]}",
        ]  # fmt: skip
        yield Candidate(begin, end, row)
        if particle := _PARTICLE.search(context[begin:end]):
            yield Candidate(begin, begin + particle.start(), [*row, f"less {particle[0]}"])


def _distance(asked_for: Sequence[bool]) -> int:
    """How many words away the question's next word is; FAR at most."""
    return next((d for d, is_asked in enumerate(asked_for) if is_asked), FAR)


class SentenceSpan(Method):
    """TF-IDF finds the sentences, logistic regression over hand-made features the span."""

    name, family, kinds = "sentence", "traditional", frozenset({SPAN})
    libraries = LIBRARIES

    class Options(StrictModel):
        """sentences: how many are searched. max_words: of an answer. max_questions: used for the weights."""

        sentences: PositiveInt = 3
        max_words: PositiveInt = 6
        max_questions: PositiveInt = 2000

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        """See `Method.fit`. Raises UserError where no answer is a short run of words of its context."""
        keeper, both = TimeKeeper.of(work), [*train, *valid]
        texts = sorted({example.input.context for example in both})
        texts = [text[start:end] for text in texts for start, end in sentences(text)]
        self._vectors = Vectors([NgramView("word", 1, 1), NgramView("char_wb", 2, 4)], 30_000).fit(texts)
        facts = keeper.timed(lambda: self._learn(train, keeper))
        self.calibrate(valid[:MOST_CALIBRATED_BY])
        if learned := keeper.also(valid, 1 + len(valid) / len(train)):
            facts = self._learn(both, keeper)
        return FitReport(facts | keeper.facts(train, learned))

    def _learn(self, examples: Examples, keeper: TimeKeeper) -> Json:
        """The weights. Raises UserError."""
        rows, right = self._training(examples, keeper)
        if not any(right):
            raise UserError("no training answer is a few words of its context; check answers and contexts")
        min_df = min(SEEN, 1 + len(examples) // 100)
        self._weights = {} if all(right) else _weights(rows, right, min_df, keeper)  # any span does, or some
        return {"spans": len(rows), "answers among them": sum(right), "features": len(self._weights)}

    def _training(self, examples: Examples, keeper: TimeKeeper) -> tuple[list[list[str]], list[bool]]:
        rows: list[list[str]] = []
        right: list[bool] = []
        order = np.random.default_rng(0).permutation(len(examples))[: self.options.max_questions]
        for example in keeper.some([examples[i] for i in order], 0.6, "questions"):
            question, answers = example.input, {_bare(answer.text) for answer in example.references}
            candidates = self._candidates(question)
            rows += [candidate.features for candidate in candidates]
            right += [question.context[c.start : c.end].lower() in answers for c in candidates]
        return rows, right

    def _candidates(self, question: Question) -> list[Candidate]:
        context, asked = question.context, _Asked.of(question.question)
        places = sentences(context)
        if not places:
            return []
        rows = self._vectors.rows([question.question, *(context[start:end] for start, end in places)])
        cosines = (rows[1:] @ rows[:1].T).toarray().ravel()
        found: list[Candidate] = []
        for rank, s in enumerate(np.argsort(-cosines, kind="stable")[: self.options.sentences]):
            shown = [f"rank {rank}", f"cosine {int(10 * cosines[s])}"]
            for candidate in spans(context, places[s], asked, self.options.max_words):
                found.append(candidate._replace(features=candidate.features + shown))
        return found

    def predict(self, inputs: Sequence[Question]) -> Predictions:
        """See `Method.predict`; None where the context has no words."""
        return Predictions([self._answer(question) for question in inputs])

    def _answer(self, question: Question) -> Answer | None:
        best = max(self._candidates(question), key=self._score, default=None)
        return best and Answer(question.context[best.start : best.end], best.start)

    def _score(self, candidate: Candidate) -> float:
        return sum(self._weights.get(feature, 0.0) for feature in candidate.features)

    def sureness(self, inputs: Sequence[Question], answers: Sequence[Any]) -> list[float] | None:
        """The logarithm of the best span's share of all."""
        del answers
        scores = (np.array([*map(self._score, self._candidates(one))] or [0.0]) for one in inputs)
        return [float(found.max() - np.logaddexp.reduce(found)) for found in scores]

    def parts(self) -> Parts:
        """See `Method.parts`."""
        names = json.dumps(list(self._weights), ensure_ascii=False).encode()
        weights = np.array(list(self._weights.values()), dtype=np.float64)
        parts = Parts(tensors={"weights": weights}, files={"features.json": names})
        self._vectors.save(parts)
        return parts

    def restore(self, parts: Parts) -> None:
        """See `Method.restore`."""
        self._vectors, names = Vectors.restore(parts), json.loads(parts.files["features.json"])
        self._weights = dict(zip(names, parts.tensors["weights"].tolist(), strict=True))


def _weights(
    rows: Sequence[list[str]], right: Sequence[bool], min_df: int, keeper: TimeKeeper
) -> dict[str, float]:
    """Of each feature that at least min_df spans show."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(analyzer=AS_IT_IS, binary=True, min_df=min_df)
    rows_NF = counter.fit_transform(rows)

    def fit(iterations: int) -> LogisticRegression:
        model = LogisticRegression(solver="liblinear", random_state=0, max_iter=iterations)
        with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
            return model.fit(rows_NF, right)

    model = fit(keeper.iterations(fit, MAX_ITERATIONS))
    return dict(zip(counter.get_feature_names_out().tolist(), model.coef_[0].tolist(), strict=True))


def _bare(text: str) -> str:
    """An answer as a span would have it: no article before it, small letters."""
    return re.sub(r"^(a|an|the) ", "", text.strip().lower())
