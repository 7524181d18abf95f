"""What is inside a fitted method, for the pictures of `malmoi.inside`.

Shape letters: L labels, W words, F features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from malmoi.core.nouns import Example, Message, Question
from malmoi.inside.sources import BagOfWords, Floats, Network, NextToken, PlainText, Source
from malmoi.methods.base import Method
from malmoi.methods.llm.finetuned import FineTuned
from malmoi.methods.llm.prompted import Prompted
from malmoi.methods.neural.continuations import ContinuationForm
from malmoi.methods.neural.form import Form
from malmoi.methods.neural.labels import LabelForm
from malmoi.methods.neural.method import Neural
from malmoi.methods.neural.spans import SpanForm
from malmoi.methods.neural.tags import TagForm
from malmoi.methods.neural.texts import TextForm
from malmoi.methods.traditional.ngrams import NGram
from malmoi.methods.traditional.text_classifiers import Lexicon, TfIdf, counted_words
from malmoi.methods.traditional.vectors import WORD
from malmoi.text.tokenizer import Tokenizer
from malmoi.util.files import parse_json

STRONGEST = 12


def insides(method: Method, text: str) -> tuple[Source, ...]:
    """What can be looked into once `method` has read `text`: a text, or the task's input as a JSON object.

    Raises UserError where it is no input of the task.
    """
    value = method.task.input_from(_object(text))
    read = _plain(value)
    for kind, look in _LOOKS.items():
        if isinstance(method, kind):
            tokenizer, sources = look(method, value, read)
            return (PlainText(read, tokenizer), *sources)
    return (PlainText(read),)


def _object(text: str) -> Any:
    """The JSON object that `text` is; else the text itself."""
    try:
        found = parse_json(text)
    except ValueError:
        return text
    return found if isinstance(found, dict) else text


def _plain(value: Any) -> str:
    """An input of any task as one text."""
    if isinstance(value, Question):
        return f"{value.question}\n{value.context}"
    if isinstance(value, tuple):
        return "\n".join(message.content for message in value if isinstance(message, Message))
    return value


Looked = tuple[Tokenizer | None, tuple[Source, ...]]


def _counting(method: NGram, value: Any, text: str) -> Looked:
    del value
    return method._tokenizer, (NextToken(method._model, method._tokenizer, text),)


def _asking(method: Prompted | FineTuned, value: Any, text: str) -> Looked:
    del value
    asker = method.asker
    return asker.tokenizer, (NextToken(asker.scorer, asker.tokenizer, text),)


def _neural(method: Neural, value: Any, text: str) -> Looked:
    form, model = method.form, method.model
    if isinstance(form, ContinuationForm):
        return form.tokenizer, (NextToken(model, form.tokenizer, text),)
    example = Example(value, method.predict([value])[0])
    rows = form.rows([example])[:1]
    if not rows:  # no answer, so there is no row that holds it
        return getattr(form, "tokenizer", None), ()
    source, target = _TOKENS[type(form)](form, rows[0], value)
    network = Network(model, lambda: form.loss(model, rows, None), tuple(source), tuple(target))
    return getattr(form, "tokenizer", None), (network,)


def _label_tokens(form: LabelForm, row: Any, value: Any) -> tuple[list[str], list[str]]:
    del value
    return [form.tokenizer.token_text(id) for id in row.ids], []


def _tag_tokens(form: TagForm, row: Any, value: str) -> tuple[list[str], list[str]]:
    del form
    return [value[start:end] for start, end in row.encoded.spans], []


def _span_tokens(form: SpanForm, row: Any, value: Question) -> tuple[list[str], list[str]]:
    """The question's units, then the context's."""
    asked = form.vocabulary.encode(value.question).spans
    question = [value.question[start:end] for start, end in asked]
    context = [value.context[start:end] for start, end in row.encoded.spans]
    before = len(row.features) - len(context)
    return (question or ["?"])[:before] + context, []


def _text_tokens(form: TextForm, row: Any, value: Any) -> tuple[list[str], list[str]]:
    del value
    tokenizer = form.tokenizer
    source, target = row.source, [tokenizer.specials.bos, *row.target]
    return [tokenizer.token_text(id) for id in source], [tokenizer.token_text(id) for id in target]


_TOKENS: dict[type[Form[Any, Any]], Callable[[Any, Any, Any], tuple[list[str], list[str]]]] = {
    LabelForm: _label_tokens, TagForm: _tag_tokens, SpanForm: _span_tokens, TextForm: _text_tokens,
}  # fmt: skip


# --- bags of words


def _lexicon(method: Lexicon, value: str, text: str) -> Looked:
    del value
    words = text.split()
    added_LW = np.zeros((len(method.labels), len(words)))
    known = False
    for place, word in enumerate(words):
        for part in counted_words(word):
            if (number := method._number(part)) is not None:
                added_LW[:, place] += method._weights_WL[number]
                known = True
    bias_L = np.zeros(len(method.labels)) if known else np.asarray(method._prior_L)
    return None, (BagOfWords(tuple(words), tuple(method.labels), added_LW, bias_L),)


def _tfidf(method: TfIdf, value: str, text: str) -> Looked:
    """Each n-gram's part in the scores, divided among the words that it was found in."""
    del value
    words = text.split()
    row_F = method._vectors.rows([text]).tocsr()
    added_FL = row_F.data[:, None].astype(np.float64) * method._weights_FL[row_F.indices]
    names = method._vectors.names
    terms = [names[feature] for feature in row_F.indices]
    added_LW = np.zeros((len(method.labels), len(words)))
    for term, added_L in zip(terms, added_FL, strict=True):
        added_LW += np.outer(added_L, _shares(term, words))
    bias_L = method._bias_L.astype(np.float64)
    return None, (
        BagOfWords(tuple(words), tuple(method.labels), added_LW, bias_L, _strongest(terms, added_FL, bias_L)),
    )


def _strongest(terms: list[str], added_FL: Floats, bias_L: Floats) -> tuple[tuple[str, Floats], ...]:
    """The n-grams that say most about the winner."""
    winner = int((added_FL.sum(0) + bias_L).argmax())
    said_F = np.abs(added_FL[:, winner] - added_FL.mean(1))
    return tuple((terms[f], added_FL[f]) for f in np.argsort(-said_F, kind="stable")[:STRONGEST])


def _shares(term: str, words: Sequence[str]) -> Floats:
    """How much of an n-gram belongs to each word: 1 in all."""
    touched = np.zeros(len(words))
    for first, last in _places(term, words):
        touched[first : last + 1] += 1 / (last + 1 - first)
    return touched / touched.sum() if touched.any() else np.full(len(words), 1 / max(1, len(words)))


def _places(term: str, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(first, last) word of each place where an n-gram of words, or of characters («»), stands."""
    if term.startswith("«"):
        text, gram = f" {' '.join(words)} ".lower(), term[1:-1]
        owners = np.cumsum([letter == " " for letter in text]) - 1
        start = text.find(gram)
        while start >= 0:
            inner = [place for place in range(start, start + len(gram)) if text[place] != " "] or [start]
            yield min(owners[inner[0]], len(words) - 1), min(owners[inner[-1]], len(words) - 1)
            start = text.find(gram, start + 1)
        return
    pairs = [(part, w) for w, word in enumerate(words) for part in re.findall(WORD, word.lower())]
    wanted = term.split(" ")
    for start in range(len(pairs) - len(wanted) + 1):
        if [part for part, _ in pairs[start : start + len(wanted)]] == wanted:
            yield pairs[start][1], pairs[start + len(wanted) - 1][1]


_LOOKS: dict[type[Method], Callable[[Any, Any, str], Looked]] = {
    NGram: _counting, Prompted: _asking, FineTuned: _asking, Neural: _neural, Lexicon: _lexicon,
    TfIdf: _tfidf,
}  # fmt: skip
