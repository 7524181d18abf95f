"""Examples whose given label is probably wrong, by confident learning (Northcutt, Jiang & Chuang 2021).

A quick method predicts each example after learning from others (in folds; equal texts lie in one). A label's
threshold is the mean probability that it has where it was given. An example is a suspect where another label
is above its threshold and the given one is not the most probable of all. The list begins with those whose
given label is the least probable.

For entities the same is done with the units of a text (Wang & Mueller 2022, Detecting label errors in token
classification data): those of a given entity are judged together, by its kind alone, as names that a method
has not seen look like no entity; those without may be an entity that was missed, and side by side are one.

Shape letters: U units that have a class (texts, or units of a text), C classes, E examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from malmoi.core.errors import UserError
from malmoi.core.nouns import Examples, Json, Say, silent
from malmoi.data.splits import fold_numbers, folded
from malmoi.methods.traditional.choice import fit_head
from malmoi.methods.traditional.taggers import Crf
from malmoi.methods.traditional.text_classifiers import VIEWS
from malmoi.methods.traditional.vectors import Vectors
from malmoi.tasks import TASKS
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import LABEL, TAGS, Kind
from malmoi.text.units import OUTSIDE, bio_tags
from malmoi.util.units import counted

FOLDS = 5
FEWEST = 50  # different texts
STRENGTH, ITERATIONS = 4.0, 20  # of the regression: more change the order of the list little
CRF_OPTIONS = {"iterations": 40}
MOST_NAMES = 5  # in a line
Numbers, Floats = NDArray[np.int64], NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Suspect:
    """An example, or the characters start to end of it, whose given label is improbable.

    given, likely: labels; OUTSIDE: no entity. where: "file:line".
    """

    where: str
    text: str
    start: int
    end: int
    given: str
    likely: str
    given_probability: float
    likely_probability: float

    @property
    def row(self) -> Json:
        """One row of a file, with its place in the user's."""
        file, _, line = self.where.rpartition(":")
        place = {"file": file, "row": int(line)} if line.isdigit() else {"file": self.where, "row": None}
        return place | {name: value for name, value in asdict(self).items() if name != "where"}


@dataclass(frozen=True, slots=True)
class Suspects:
    """The suspects, the least probable first, among so many judged examples; notes: what was not judged."""

    rows: tuple[Suspect, ...]
    judged: int
    notes: tuple[str, ...]


class _Evidence(NamedTuple):
    """given_U and probs_UC, by classes; owner_U: which example a unit is of; spans: its characters."""

    classes: list[str]
    given_U: Numbers
    probs_UC: Floats
    owner_U: Numbers
    spans: list[tuple[int, int]]


def find_suspects(task: Task[Any, Any], examples: Examples, say: Say = silent) -> Suspects:
    """Judge every example by the others; `say` hears how far it is.

    Raises UserError for a task that gives no labels, and where there are fewer than FEWEST different texts or
    not two labels that can be judged.
    """
    if task.kind not in _EVIDENCE:
        able = " and ".join(name for name, it in TASKS.items() if it.kind in _EVIDENCE)
        raise UserError(f"`suspects` judges one label each, and works with {able}, not with {task.name}")
    different = {group_of(task, example.input) for example in examples}
    if len(different) < FEWEST:
        raise UserError(
            f"`suspects`: only {counted(len(different), 'different text')}, too few to judge labels by one "
            f"another; give {FEWEST} or more"
        )
    rare = rare_labels(task, examples)
    labels = {label for example in examples for label in task.kind.labels(example.target)}
    if len(labels - rare.keys()) < task.kind.fewest_labels:
        names = ", ".join(map(repr, sorted(labels)[:MOST_NAMES]))
        raise UserError(
            f"`suspects`: too few of the labels ({names or 'none'}) are given to {FOLDS} different texts",
            fix="give more examples of each",
        )
    fold_E = fold_numbers(examples, lambda one: group_of(task, one.input), task.kind.labels, FOLDS)
    evidence = _EVIDENCE[task.kind](task, examples, np.array(fold_E), say)
    return Suspects(tuple(_listed(examples, evidence, rare)), len(examples), tuple(_notes(rare)))


def group_of(task: Task[Any, Any], value: Any) -> str:
    """Equal for texts that differ in case and spacing at most."""
    return folded(task.key(value))


def rare_labels(task: Task[Any, Any], examples: Examples) -> dict[str, int]:
    """Labels at fewer than FOLDS different texts, which no other example can speak for; with how many."""
    pairs = {
        (label, group_of(task, example.input))
        for example in examples
        for label in task.kind.labels(example.target)
    }
    counts = Counter(label for label, _ in pairs)
    return {label: count for label, count in sorted(counts.items()) if count < FOLDS}


def _notes(rare: Mapping[str, int]) -> list[str]:
    if not rare:
        return []
    names = ", ".join(map(repr, list(rare)[:MOST_NAMES])) + ", ..." * (len(rare) > MOST_NAMES)
    return [f"not judged: {counted(len(rare), 'label')} with fewer than {FOLDS} different texts ({names})"]


# ---- predictions of examples that were held out


def _label_evidence(task: Task[Any, Any], examples: Examples, fold_E: Numbers, say: Say) -> _Evidence:
    """Of texts: logistic regression over TF-IDF. The n-grams are counted once, as that sees no label."""
    texts = [task.key(example.input) for example in examples]
    classes = sorted({example.target for example in examples})
    given_E = np.array([classes.index(example.target) for example in examples])
    rows_EF = Vectors(VIEWS[0]).fit(texts).rows(texts).tocsr()
    probs_EC = np.zeros((len(texts), len(classes)))
    for fold in range(FOLDS):
        inside_E, held_E = fold_E != fold, fold_E == fold
        known = np.unique(given_E[inside_E])
        weights_LF, bias_L = fit_head(
            rows_EF[inside_E], given_E[inside_E], None, STRENGTH, iterations=ITERATIONS
        )
        scores_EL = np.asarray(rows_EF[held_E] @ weights_LF.T, dtype=np.float64) + bias_L
        raised_EL = np.exp(scores_EL - scores_EL.max(axis=1, keepdims=True))
        probs_EC[np.ix_(held_E, known)] = raised_EL / raised_EL.sum(axis=1, keepdims=True)
        say(f"suspects: {fold + 1} of {FOLDS} parts are judged by the others")
    spans = [(0, len(text)) for text in texts]
    return _Evidence(classes, given_E, probs_EC, np.arange(len(texts)), spans)


def _tag_evidence(task: Task[Any, Any], examples: Examples, fold_E: Numbers, say: Say) -> _Evidence:
    """Of the units of texts: the marginal probabilities of a CRF, a kind's beginning and inside together."""
    classes = [OUTSIDE, *sorted({label for one in examples for label in task.kind.labels(one.target)})]
    number = {label: at for at, label in enumerate(classes)}
    rows: dict[int, tuple[list[tuple[int, int]], list[list[float]]]] = {}
    for fold in range(FOLDS):
        method = Crf(task, CRF_OPTIONS)
        method.fit([one for one, at in zip(examples, fold_E, strict=True) if at != fold], [])
        for owner in np.flatnonzero(fold_E == fold).tolist():
            spans, marginals = method.marginals(examples[owner].input)
            rows[owner] = spans, [_by_class(tags, number) for tags in marginals]
        say(f"suspects: {fold + 1} of {FOLDS} parts are judged by the others")
    spans = [span for owner in range(len(examples)) for span in rows[owner][0]]
    probs = [row for owner in range(len(examples)) for row in rows[owner][1]]
    owners = [owner for owner in range(len(examples)) for _ in rows[owner][0]]
    tags = [tag for at, one in enumerate(examples) for tag in bio_tags(rows[at][0], one.target)]
    given_U = np.array([number[_kind_of(tag)] for tag in tags])
    probs_UC = np.array(probs)
    probs_UC[given_U > 0, 0] = 0.0
    probs_UC /= probs_UC.sum(axis=1, keepdims=True)
    starts = np.flatnonzero([not tag.startswith("I-") for tag in tags])  # of entities, and units outside
    sizes = np.diff(np.append(starts, len(tags)))
    probs_UC = np.repeat(np.add.reduceat(probs_UC, starts) / sizes[:, None], sizes, axis=0)
    return _Evidence(classes, given_U, probs_UC, np.array(owners), spans)


def _kind_of(tag: str) -> str:
    return tag if tag == OUTSIDE else tag[2:]


def _by_class(tags: Mapping[str, float], number: Mapping[str, int]) -> list[float]:
    found = [0.0] * len(number)
    for tag, probability in tags.items():
        found[number[_kind_of(tag)]] += probability
    return found


_EVIDENCE: dict[Kind, Callable[[Task[Any, Any], Examples, Numbers, Say], _Evidence]] = {
    LABEL: _label_evidence,
    TAGS: _tag_evidence,
}


# ---- who is suspected


def confident_errors(given_U: Numbers, probs_UC: Floats) -> tuple[NDArray[np.bool_], Numbers]:
    """(suspected_U, likely_U): where a class above its own threshold is not the given one, and which it is.

    A class's threshold is its mean probability where it is given (Northcutt et al. 2021, equation 2). Where
    the given class is the most probable of all it is not suspected, whatever its threshold.
    """
    own_U = probs_UC[np.arange(len(given_U)), given_U]
    counts_C = np.bincount(given_U, minlength=probs_UC.shape[1])
    sums_C = np.bincount(given_U, own_U, minlength=probs_UC.shape[1])
    threshold_C = np.where(counts_C > 0, sums_C / np.maximum(1, counts_C), np.inf)
    confident_UC = np.where(probs_UC >= threshold_C, probs_UC, -1.0)
    likely_U = confident_UC.argmax(axis=1)
    suspected_U = (confident_UC.max(axis=1) >= 0) & (likely_U != given_U)
    return suspected_U & (probs_UC.argmax(axis=1) != given_U), likely_U


def _listed(examples: Examples, evidence: _Evidence, rare: Mapping[str, int]) -> list[Suspect]:
    """The suspects in order; neighbours of one text, one given and one likely class are one."""
    suspected_U, likely_U = confident_errors(evidence.given_U, evidence.probs_UC)
    suspected_U &= ~np.isin(evidence.given_U, [evidence.classes.index(label) for label in rare])
    found: list[Suspect] = []
    units = np.flatnonzero(suspected_U).tolist()
    owner_U, given_U = evidence.owner_U, evidence.given_U
    runs = groupby(
        enumerate(units), lambda it: (it[1] - it[0], owner_U[it[1]], given_U[it[1]], likely_U[it[1]])
    )
    for (_, owner, given, likely), run in runs:
        inside = [unit for _, unit in run]
        probs_C = evidence.probs_UC[inside].mean(axis=0)
        example = examples[int(owner)]
        text = example.input
        found.append(
            Suspect(
                example.source, text, evidence.spans[inside[0]][0], evidence.spans[inside[-1]][1],
                evidence.classes[given], evidence.classes[likely], float(probs_C[given]),
                float(probs_C[likely]),
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: (one.given_probability, -one.likely_probability))
