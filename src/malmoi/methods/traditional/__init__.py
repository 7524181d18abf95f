"""The traditional methods: one small model for each task, without a neural network."""

from __future__ import annotations

from malmoi.methods.base import Method
from malmoi.methods.traditional.extractive import Lead, TextRank
from malmoi.methods.traditional.ngrams import NGram
from malmoi.methods.traditional.retrieval import Retrieval
from malmoi.methods.traditional.sentence_finder import SentenceSpan
from malmoi.methods.traditional.taggers import Crf
from malmoi.methods.traditional.text_classifiers import Lexicon, TfIdf
from malmoi.methods.traditional.word_alignment import Ibm1

TRADITIONAL: tuple[type[Method], ...] = (
    Lexicon, TfIdf, Crf, Ibm1, NGram, Lead, TextRank, SentenceSpan, Retrieval,
)  # fmt: skip
