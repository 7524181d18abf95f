"""The traditional methods: one small model for each task, without a neural network."""

from __future__ import annotations

from malmoi.methods.base import Method
from malmoi.methods.traditional.classification import Lexicon, TfIdf
from malmoi.methods.traditional.completion import NGram
from malmoi.methods.traditional.ner import Crf
from malmoi.methods.traditional.question_answering import SentenceSpan
from malmoi.methods.traditional.retrieval import Retrieval
from malmoi.methods.traditional.summarization import Lead, TextRank
from malmoi.methods.traditional.translation import Ibm1

TRADITIONAL: tuple[type[Method], ...] = (
    Lexicon, TfIdf, Crf, Ibm1, NGram, Lead, TextRank, SentenceSpan, Retrieval,
)  # fmt: skip
