"""The peers: what other libraries reach on a task, independent of malmoi's own models and methods.

A peer gets the examples that malmoi's methods get, chooses its constants by the same held-out part, and its
predictions are scored by the same metrics. Nothing is downloaded, so every one is trained from scratch.
"""

from __future__ import annotations

import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import fasttext
import networkx
import numpy as np
import spacy
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example as SpacyExample
from spacy.training import offsets_to_biluo_tags
from spacy.training.batchers import minibatch_by_words
from thinc.api import fix_random_seed
from tokenizers import ByteLevelBPETokenizer
from transformers import BartConfig, BartForConditionalGeneration, LlamaConfig, LlamaForCausalLM

from malmoi.core.nouns import Answer, Entity, Example, Examples, Message, Question
from malmoi.util.hardware import has_fast_bf16, pick_device

PAD, BOS, EOS = 0, 1, 2
BPE_SIZE = 8000


class Peer(Protocol):
    """Like a malmoi method, less its folder. `limits` says after `fit` what was cut short."""

    limits: str

    def fit(self, train: Examples, valid: Examples, seconds: float) -> None:
        """Learn from `train`, choose by `valid`; whoever trains in steps stops after `seconds`."""
        ...

    def predict(self, inputs: Sequence[Any]) -> list[Any]: ...


Predict = Callable[[Sequence[Any]], list[str]]


class Classifier:
    """A classifier whose setting is chosen: each is fitted, the one right most often on `valid` stays."""

    limits = ""
    settings: tuple[Any, ...]

    def fit(self, train: Examples, valid: Examples, seconds: float) -> None:
        stop_s, best = time.perf_counter() + seconds, -1
        for tried, predict in enumerate(self.fitted([e.input for e in train], [e.target for e in train]), 1):
            guesses = predict([e.input for e in valid])
            right = sum(guess == e.target for guess, e in zip(guesses, valid, strict=True))
            if right > best:
                best, self.best = right, predict
                self.limits = f"setting {self.settings[tried - 1]} of {self.settings}"
            if time.perf_counter() > stop_s and tried < len(self.settings):
                self.limits += f", time for {tried}"
                break

    def predict(self, inputs: Sequence[str]) -> list[str]:
        return self.best(inputs)

    def fitted(self, texts: list[str], labels: list[str]) -> Iterator[Predict]:
        """One prediction function for each of `settings`."""
        raise NotImplementedError


# ---- scikit-learn


class LogCountRatio(TransformerMixin, BaseEstimator):
    """Features times the naive Bayes log-count ratio of two classes (Wang & Manning 2012)."""

    def fit(self, X: sparse.csr_matrix, y: np.ndarray) -> LogCountRatio:
        yes, no = (1 + np.asarray(X[y == c].sum(axis=0)).ravel() for c in (1, 0))
        self.ratio_ = sparse.diags(np.log(yes / yes.sum()) - np.log(no / no.sum()))
        return self

    def transform(self, X: sparse.csr_matrix) -> sparse.csr_matrix:
        return X @ self.ratio_


class Sklearn(Classifier):
    """N-gram features and a logistic regression, after naive Bayes weights if wanted. settings: its C."""

    def __init__(self, vectorizer: CountVectorizer, costs: tuple[float, ...], naive_bayes: bool = False):
        self.vectorizer, self.settings, self.naive_bayes = vectorizer, costs, naive_bayes

    def fitted(self, texts: list[str], labels: list[str]) -> Iterator[Predict]:
        features = self.vectorizer.fit_transform(texts)
        for cost in self.settings:
            model = LogisticRegression(C=cost, max_iter=300)
            if self.naive_bayes:
                binary = LogisticRegression(C=cost, solver="liblinear")
                model = OneVsRestClassifier(make_pipeline(LogCountRatio(), binary))
            model.fit(features, labels)
            yield lambda texts, model=model: list(map(str, model.predict(self.vectorizer.transform(texts))))


WORDS = {"ngram_range": (1, 2), "token_pattern": r"\w+"}  # words of one letter count: Korean has many


def characters(analyzer: str) -> TfidfVectorizer:
    return TfidfVectorizer(analyzer=analyzer, ngram_range=(1, 4), sublinear_tf=True, min_df=2)


# ---- fastText


class FastText(Classifier):
    """Words, pairs of words and n-grams of up to `longest` characters. settings: learning rate and epochs."""

    settings = ((0.1, 5), (0.5, 10), (0.5, 25), (1.0, 100))

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def fitted(self, texts: list[str], labels: list[str]) -> Iterator[Predict]:
        names, usual = sorted(set(labels)), Counter(labels).most_common(1)[0][0]
        rows = zip(labels, texts, strict=True)
        lines = [f"__label__{names.index(label)} {self._line(text)}" for label, text in rows]
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write("".join(lines))
            file.flush()
            for rate, epochs in self.settings:
                model = fasttext.train_supervised(
                    file.name, lr=rate, epoch=epochs, wordNgrams=2, minn=min(1, self.longest),
                    maxn=self.longest, bucket=500_000, thread=1, verbose=0, seed=0,
                )  # fmt: skip
                yield lambda texts, model=model: [self._label(model, text, names, usual) for text in texts]

    def _label(self, model: Any, text: str, names: list[str], usual: str) -> str:
        """`model.predict` fails on numpy 2, what it wraps does not; a text of unknown words has no label."""
        found = model.f.predict(self._line(text), 1, 0.0, "strict")
        return names[int(found[0][1].removeprefix("__label__"))] if found else usual

    @staticmethod
    def _line(text: str) -> str:
        """Signs stand alone, as in fastText's own examples."""
        return " ".join(re.sub(r"([^\w\s])", r" \1 ", text.lower()).split()) + "\n"


# ---- spaCy


class SpacyPeer:
    """A blank pipeline of one component. Stops when `valid` has not got better for five looks, or in time."""

    def __init__(self, component: str, model: dict[str, Any] | None = None) -> None:
        self.component, self.config, self.limits = component, {"model": model} if model else {}, ""

    def fit(self, train: Examples, valid: Examples, seconds: float) -> None:
        stop_s = time.perf_counter() + seconds
        self.nlp = blank(" ".join(e.input for e in train[:1000]))
        if self.component == "ner" and all(on_spaces(e) for e in train):
            self.nlp.tokenizer = lambda text: Doc(self.nlp.vocab, text.split(" "))  # the data's own tokens
        self.nlp.add_pipe(self.component, config=self.config)
        fix_random_seed(0)
        self.labels = sorted({e.target for e in train}) if self.component == "textcat" else []
        self._learn([self._gold(e) for e in train], valid[:1000], stop_s)

    def _learn(self, gold: list[SpacyExample], valid: Examples, stop_s: float) -> None:
        """Looks at `valid` after each epoch, or 20,000 examples if sooner; 1,000 words a batch."""
        optimizer, best, weights, worse, seen = self.nlp.initialize(lambda: gold), -1.0, b"", 0, 0
        while worse < 5 and time.perf_counter() < stop_s:
            for batch in minibatch_by_words(random.sample(gold, min(20_000, len(gold))), 1000):
                self.nlp.update(batch, drop=0.2, sgd=optimizer)
                seen += len(batch)
                if time.perf_counter() > stop_s:
                    break
            with self.nlp.use_params(optimizer.averages):
                value, worse = self._quality(valid), worse + 1
                if value > best:
                    best, weights, worse = value, self.nlp.to_bytes(exclude=["tokenizer"]), 0
        self.nlp.from_bytes(weights, exclude=["tokenizer"])
        self.limits = f"{'stopped by time' if worse < 5 else 'done'} after {seen / len(gold):.1f} epochs"

    def _gold(self, example: Example[str, Any]) -> SpacyExample:
        doc = self.nlp.make_doc(example.input)
        if self.component == "ner":
            spans = [(e.start, e.end, e.label) for e in example.target]
            return SpacyExample.from_dict(doc, {"entities": offsets_to_biluo_tags(doc, spans)})
        cats = {label: float(label == example.target) for label in self.labels}
        return SpacyExample.from_dict(doc, {"cats": cats})

    def _quality(self, valid: Examples) -> float:
        guesses = self.predict([e.input for e in valid])
        if self.component == "textcat":
            return sum(g == e.target for g, e in zip(guesses, valid, strict=True)) / len(valid)
        right = sum(len(set(g) & set(e.target)) for g, e in zip(guesses, valid, strict=True))
        return 2 * right / max(1, sum(len(g) + len(e.target) for g, e in zip(guesses, valid, strict=True)))

    def predict(self, inputs: Sequence[str]) -> list[Any]:
        docs = self.nlp.pipe(inputs, batch_size=256)
        if self.component == "textcat":
            return [max(doc.cats, key=lambda label: doc.cats[label]) for doc in docs]
        return [tuple(Entity(e.start_char, e.end_char, e.label_) for e in doc.ents) for doc in docs]


def blank(sample: str) -> Language:
    """English, or Korean by rules where the sample is mostly Hangul (spaCy's own way needs MeCab)."""
    if len(re.findall(r"[가-힣]", sample)) * 2 < len(re.findall(r"\w", sample)):
        return spacy.blank("en")
    return spacy.blank("ko", config={"nlp": {"tokenizer": {"@tokenizers": "spacy.Tokenizer.v1"}}})


def on_spaces(example: Example[str, Any]) -> bool:
    """Whether every entity begins and ends at a space or an end, as in files that come in tokens."""
    text = f" {example.input} "
    return all(text[e.start] == " " and text[e.end + 1] == " " for e in example.target)


BOW = {
    "@architectures": "spacy.TextCatBOW.v3", "exclusive_classes": True, "ngram_size": 2, "length": 262144,
    "no_output_layer": False,
}  # fmt: skip


# ---- transformers: a plain loop


def train_for(model: torch.nn.Module, batches: Iterator[dict[str, torch.Tensor]], seconds: float) -> int:
    """AdamW with a warm-up and a cosine over `seconds`, in bf16 where the machine has it: the steps taken."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.95), weight_decay=0.1)
    start_s, steps, spent = time.perf_counter(), 0, 0.0
    model.train()
    while spent < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, 0.01 + 20 * spent) * (0.55 + 0.45 * np.cos(np.pi * spent))
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16(pick_device())):
            model(**next(batches)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps, spent = steps + 1, (time.perf_counter() - start_s) / seconds
    model.eval()
    return steps


def bpe(texts: Iterable[str]) -> ByteLevelBPETokenizer:
    tokenizer = ByteLevelBPETokenizer()
    specials = ["<pad>", "<s>", "</s>"]
    tokenizer.train_from_iterator(texts, BPE_SIZE, show_progress=False, special_tokens=specials)
    return tokenizer


def padded(rows: Sequence[list[int]], fill: int = PAD) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


class PlainLlama:
    """A `LlamaForCausalLM` of 4 layers, 256 wide, from scratch; it reads and scores windows of `context`."""

    context = 512

    def fit(self, train: Examples, valid: Examples, seconds: float) -> None:  # noqa: ARG002
        torch.manual_seed(0)
        texts = [e.input + e.target for e in random.Random(0).sample(list(train), len(train))]
        self.tokenizer = bpe(texts[:5000])
        config = LlamaConfig(
            vocab_size=BPE_SIZE, hidden_size=256, intermediate_size=688, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=4096, tie_word_embeddings=True,
            pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
        )  # fmt: skip
        self.model: Any = LlamaForCausalLM(config)
        steps = train_for(self.model, self._batches(texts), seconds)
        self.limits = f"{steps} steps of {8 * self.context} tokens"

    def _batches(self, texts: list[str]) -> Iterator[dict[str, torch.Tensor]]:
        ids: list[int] = []
        while True:
            for text in texts:
                ids += [BOS, *self.tokenizer.encode(text).ids]
                while len(ids) >= 8 * self.context:
                    rows = torch.tensor(ids[: 8 * self.context]).view(8, self.context)
                    yield {"input_ids": rows, "labels": rows}
                    ids = ids[8 * self.context :]

    @torch.no_grad()
    def predict(self, inputs: Sequence[str]) -> list[str]:
        """Greedy, at most 64 tokens; rows are padded at the left."""
        replies = []
        for start in range(0, len(inputs), 32):
            rows = [[BOS, *self.tokenizer.encode(text).ids] for text in inputs[start : start + 32]]
            ids = padded([row[::-1] for row in rows]).flip(1)
            found = self.model.generate(
                ids, attention_mask=(ids != PAD).long(), max_new_tokens=64, do_sample=False
            )
            replies += [self.tokenizer.decode(row) for row in found[:, ids.shape[1] :].tolist()]
        return replies

    @torch.no_grad()
    def log_likelihood(self, inputs: Sequence[str], targets: Sequence[str]) -> list[float]:
        return [self._nats(i, t) for i, t in zip(inputs, targets, strict=True)]

    def _nats(self, text: str, target: str) -> float:
        """Each window but the first scores what the one before it did not reach, half of its length."""
        given = [BOS, *self.tokenizer.encode(text).ids]
        ids, total = torch.tensor([*given, *self.tokenizer.encode(target).ids]), 0.0
        done = len(given)
        while done < len(ids):
            start = max(0, min(done - self.context // 2, len(ids) - self.context))
            part = ids[start : start + self.context]
            logps = self.model(part[None, :-1]).logits[0].float().log_softmax(-1)
            scores = logps.gather(1, part[1:, None])[done - start - 1 :]
            total, done = total + float(scores.sum()), start + len(part)
        return total


class PlainBart:
    """A `BartForConditionalGeneration` of 2+2 layers, 256 wide, from scratch, greedy: text to text."""

    longest = 256

    def fit(self, train: Examples, valid: Examples, seconds: float) -> None:  # noqa: ARG002
        torch.manual_seed(0)
        self.tokenizer = bpe(text for e in train for text in (as_text(e.input), e.target))
        config = BartConfig(
            vocab_size=BPE_SIZE, d_model=256, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=1024, decoder_ffn_dim=1024,
            max_position_embeddings=self.longest, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
            decoder_start_token_id=BOS, forced_eos_token_id=None,
        )  # fmt: skip
        self.model: Any = BartForConditionalGeneration(config)
        pairs = [(self._encode(as_text(e.input)), self._encode(e.target)) for e in train]
        steps = train_for(self.model, self._batches(pairs), seconds)
        self.limits = f"{steps} steps of 32 pairs, {32 * steps / len(pairs):.1f} epochs"

    def _encode(self, text: str) -> list[int]:
        return [*self.tokenizer.encode(text).ids[: self.longest - 1], EOS]

    def _batches(self, pairs: list[tuple[list[int], list[int]]]) -> Iterator[dict[str, torch.Tensor]]:
        """Rows of about one length together, in random order."""
        shuffle = random.Random(0)
        while True:
            order = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]) + 8 * shuffle.random())
            starts = list(range(0, len(order), 32))
            shuffle.shuffle(starts)
            for start in starts:
                sources, targets = zip(*order[start : start + 32], strict=True)
                ids = padded(sources)
                yield {
                    "input_ids": ids,
                    "attention_mask": (ids != PAD).long(),
                    "labels": padded(targets, -100),
                }

    @torch.no_grad()
    def predict(self, inputs: Sequence[Any]) -> list[str]:
        rows = [self._encode(as_text(value)) for value in inputs]
        order, replies = sorted(range(len(rows)), key=lambda i: len(rows[i])), [""] * len(rows)
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            ids = padded([rows[i] for i in part])
            found = self.model.generate(
                ids, attention_mask=(ids != PAD).long(), num_beams=1, do_sample=False, max_new_tokens=128
            )
            for i, reply in zip(part, found.tolist(), strict=True):
                replies[i] = self.tokenizer.decode(reply, skip_special_tokens=True).strip()
        return replies


def as_text(value: str | tuple[Message, ...]) -> str:
    """A text, or the last two turns of a conversation."""
    return value if isinstance(value, str) else "\n".join(message.content for message in value[-2:])


# ---- simple references


class Rule:
    """What needs no training: a function of the input."""

    limits = ""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer

    def fit(self, train: Examples, valid: Examples, seconds: float) -> None:
        """Nothing to learn."""

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        return [self.answer(value) for value in inputs]


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text.strip())


def textrank(text: str) -> str:
    """The sentence with the highest PageRank among TF-IDF likenesses (Mihalcea & Tarau 2004)."""
    parts = sentences(text)
    vectors = TfidfVectorizer(token_pattern=r"\w+").fit_transform(parts)
    ranks = networkx.pagerank(networkx.from_scipy_sparse_array(vectors @ vectors.T))
    return parts[max(ranks, key=lambda i: ranks[i])]


def nearest_sentence(question: Question) -> Answer:
    """The sentence of the context nearest to the question by TF-IDF."""
    parts = sentences(question.context)
    vectors = TfidfVectorizer(token_pattern=r"\w+").fit_transform([*parts, question.question])
    best = parts[int((vectors[:-1] @ vectors[-1].T).toarray().argmax())]
    return Answer(best, question.context.index(best))


class Nearest:
    """The answer to the training input that is nearest by TF-IDF of characters: retrieval, a memory."""

    limits = ""

    def fit(self, train: Examples, valid: Examples, seconds: float) -> None:  # noqa: ARG002
        self.vectorizer, self.answers = characters("char_wb"), [e.target for e in train]
        self.vectors = self.vectorizer.fit_transform(as_text(e.input) for e in train)

    def predict(self, inputs: Sequence[Any]) -> list[str]:
        asked = self.vectorizer.transform(as_text(value) for value in inputs)
        parts = (asked[i : i + 100] @ self.vectors.T for i in range(0, len(inputs), 100))
        return [self.answers[i] for part in parts for i in part.toarray().argmax(axis=1)]


PEERS: dict[str, dict[str, Callable[[], Peer]]] = {
    "classification": {
        "sklearn words": lambda: Sklearn(TfidfVectorizer(**WORDS, sublinear_tf=True), (4, 1, 16, 64)),
        "sklearn char_wb 1-4": lambda: Sklearn(characters("char_wb"), (4, 1, 16, 64)),
        "sklearn char 1-4": lambda: Sklearn(characters("char"), (4, 1, 16, 64)),
        "sklearn NB-LR words": lambda: Sklearn(CountVectorizer(**WORDS, binary=True), (1, 0.3, 3), True),
        "sklearn NB-LR char 1-4": lambda: Sklearn(characters("char"), (4, 1, 16, 64), True),
        "fastText words": lambda: FastText(0),
        "fastText char 1-4": lambda: FastText(4),
        "spaCy bag of words": lambda: SpacyPeer("textcat", BOW),
        "spaCy default textcat": lambda: SpacyPeer("textcat"),
    },
    "ner": {"spaCy ner": lambda: SpacyPeer("ner")},
    "translation": {
        "copy the source": lambda: Rule(str),
        "sklearn nearest": Nearest,
        "transformers BART": PlainBart,
    },
    "completion": {"transformers Llama": PlainLlama},
    "summarization": {
        "first sentence": lambda: Rule(lambda text: sentences(text)[0]),
        "networkx TextRank": lambda: Rule(textrank),
        "transformers BART": PlainBart,
    },
    "question-answering": {"sklearn nearest sentence": lambda: Rule(nearest_sentence)},
    "chat": {"sklearn nearest": Nearest, "transformers BART": PlainBart},
}  # fmt: skip
MISSING = {
    "ner": "no CRF of another project: python-crfsuite is malmoi's own trainer",
    "question-answering": "no trained span reader of this kind installs without downloading a model",
}
