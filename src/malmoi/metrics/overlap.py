"""How much a predicted text has in common with right ones: BLEU, chrF, ROUGE, and the answers of SQuAD.

What counts as a word depends on the script: where it has no spaces between words, each letter is one.
Shape letters: E examples, K numbers of each, R resamples.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from malmoi.metrics.statistics import Floats, References, Statistic, Texts, counts_at, mean
from malmoi.util.scripts import HAN, KANA, MARKS, SPACELESS, run_of

if TYPE_CHECKING:  # each is loaded by the metrics that need it
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF


_WORD = re.compile(rf"[{SPACELESS}][{MARKS}]*|" + run_of(rf"(?:(?![{SPACELESS}_])\w)"))


def bleu(predictions: Texts, references: References, tokenize: Literal["13a", "char"]) -> Statistic:
    """sacrebleu's corpus BLEU, 0 to 100 (Papineni et al. 2002; Post 2018).

    13a takes the words between spaces. Where most letters of the references are of a script without spaces,
    its signature says what takes their place: zh of Chinese, else char.
    """
    from sacrebleu.metrics.bleu import BLEU

    text = "".join(one for texts in references for one in texts)
    cut: str = tokenize
    if tokenize == "13a" and _are_most(f"[{SPACELESS}]", text):
        cut = "zh" if _are_most(f"[{HAN}]", text) and not re.search(f"[{KANA}]", text) else "char"
    return _sacrebleu(BLEU(tokenize=cut, force=True), predictions, references)


def _are_most(letter: str, text: str) -> bool:
    """Whether a pattern of one letter fits more than half of a text's letters."""
    return 2 * len(re.findall(letter, text)) > sum(map(str.isalpha, text))


def chrf(predictions: Texts, references: References) -> Statistic:
    """sacrebleu's corpus chrF2, 0 to 100 (Popovic 2015): character n-grams, so good for Korean too."""
    from sacrebleu.metrics.chrf import CHRF

    return _sacrebleu(CHRF(), predictions, references)


def _sacrebleu(metric: BLEU | CHRF, predictions: Texts, references: References) -> Statistic:
    from sacrebleu.metrics.bleu import BLEU

    most = max(map(len, references), default=1)
    streams = [[texts[at] if at < len(texts) else None for texts in references] for at in range(most)]
    # private, but the only door to the sums of single sentences; sacrebleu's own bootstrap goes through it
    texts = [found or "" for found in predictions]
    parts = metric._extract_corpus_statistics(texts, streams)  # pyright: ignore[reportArgumentType]

    def combine(sums_RK: Floats) -> Floats:
        # BLEU smooths counts of 0: a fraction of a match must not be worth less than none
        counts_RK = np.rint(sums_RK) if isinstance(metric, BLEU) else sums_RK
        return np.array([metric._compute_score_from_stats(sums).score for sums in counts_RK.tolist()])

    signature, rows_EK = str(metric.get_signature()), np.array(parts, dtype=np.float64)
    if not len(rows_EK):
        return Statistic(rows_EK, combine, signature=signature)
    silent, right = (
        np.mean(metric._extract_corpus_statistics(said, streams), axis=0)  # pyright: ignore[reportArgumentType]
        for said in ([""] * len(texts), [each[0] for each in references])
    )
    return Statistic(rows_EK, combine, signature=signature, ends=(silent, right))


def words_of(text: str) -> list[str]:
    """Lower-case runs of letters and digits of any script, without stemming; where a script has no spaces
    between words (Chinese, Japanese, Thai), its letters."""
    return _WORD.findall(text.lower())


def rouge(predictions: Texts, references: References) -> dict[str, Statistic]:
    """ROUGE-L, -1 and -2 F as rouge-score has them, the mean over examples of the best reference (Lin 2004).

    Its own words are a-z and 0-9 only, so that a Korean text would have none; for ours see `words_of`.
    """
    pairs = [
        (words_of(found or ""), [words_of(text) for text in texts])
        for found, texts in zip(predictions, references, strict=True)
    ]
    shared = {"rouge_l": _longest_common, "rouge_1": partial(_common, 1), "rouge_2": partial(_common, 2)}
    signature = "ROUGE F, Unicode words (letters of scripts without spaces), no stemming"
    return {
        name: mean(
            np.array(
                [max(_f1(*overlap(found, true)) for true in texts) for found, texts in pairs], np.float64
            ),
            signature=signature,
        )
        for name, overlap in shared.items()
    }


def _common(order: int, found: Sequence[str], true: Sequence[str]) -> tuple[int, int, int]:
    """How many n-grams the two share, and how many each has."""
    a, b = (Counter(ngrams_of(words, order)) for words in (found, true))
    return (a & b).total(), a.total(), b.total()


def _longest_common(found: Sequence[str], true: Sequence[str]) -> tuple[int, int, int]:
    """How long the longest common subsequence is, and each of the two."""
    before = [0] * (len(true) + 1)
    for word in found:
        row = [0]
        for at, other in enumerate(true):
            row.append(before[at] + 1 if word == other else max(row[at], before[at + 1]))
        before = row
    return before[-1], len(found), len(true)


def _f1(shared: int, num_found: int, num_true: int) -> float:
    precision, recall = shared / max(1, num_found), shared / max(1, num_true)
    return 2 * precision * recall / (precision + recall) if shared else 0.0


def ngrams_of(words: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    """Runs of `order` words."""
    return zip(*(words[start:] for start in range(order)), strict=False)


def squad_scores(predictions: Texts, references: References) -> dict[str, Statistic]:
    """F1 over words and exact match of answers as SQuAD v1.1 defines them (Rajpurkar et al. 2016), 0 to 1;
    signs of every script count as punctuation, and letters of scripts without spaces as words.

    Where most letters of the references are Hangul F1 is over characters, as KorQuAD 1.0 has it (Lim et al.
    2019): a Korean particle is written with its noun, so one of them would make the whole word wrong.
    """
    pairs = list(zip(predictions, references, strict=True))
    korean = _are_most("[가-힣]", "".join(text for texts in references for text in texts))
    pieces, plain = (_characters, _plain) if korean else (_answer_words, normalize_answer)
    f1_E = [
        max(_f1(*_common(1, pieces(found or ""), pieces(text))) for text in texts) for found, texts in pairs
    ]
    exact_E = [found is not None and plain(found) in map(plain, texts) for found, texts in pairs]
    scores = {"f1": np.array(f1_E, np.float64), "exact_match": np.array(exact_E, np.float64)}
    signature = f"{'KorQuAD 1.0, characters' if korean else 'SQuAD v1.1'}, Unicode punctuation"
    return {name: mean(values_E, signature=signature) for name, values_E in scores.items()}


def normalize_answer(text: str) -> str:
    """Lower case, composed (NFC), no punctuation of any script, no English article, single spaces."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", _plain(text)).split())


def _plain(text: str) -> str:
    """The same with its articles."""
    lower = unicodedata.normalize("NFC", text).lower()
    kept = (it for it in lower if it not in string.punctuation and unicodedata.category(it)[0] != "P")
    return " ".join("".join(kept).split())


def _answer_words(text: str) -> list[str]:
    """Words between spaces, and letters of scripts without spaces."""
    return re.sub(f"([{SPACELESS}][{MARKS}]*)", r" \1 ", normalize_answer(text)).split()


def _characters(text: str) -> list[str]:
    return list(_plain(text).replace(" ", ""))


def distinct(predictions: Texts, order: int) -> Statistic:
    """Different n-grams of words / words, over all predictions: low where replies repeat (Li et al. 2016).

    It has no interval: a resample holds fewer different examples than the whole, and so lies below it.
    """
    words = [words_of(text or "") for text in predictions]
    column: dict[tuple[str, ...], int] = {}
    cells = [
        (row, column.setdefault(ngram, len(column) + 1))
        for row, each in enumerate(words)
        for ngram in ngrams_of(each, order)
    ]
    cells += [(row, 0) for row, each in enumerate(words) for _ in each]  # column 0 counts the words

    def combine(sums_RK: Floats) -> Floats:
        return np.count_nonzero(sums_RK[:, 1:], axis=1) / np.maximum(1, sums_RK[:, 0])

    signature = "no interval: examples drawn again and again repeat themselves"
    return Statistic(counts_at(cells, len(words), len(column) + 1), combine, True, signature, False)
