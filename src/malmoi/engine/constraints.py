"""What a reply may be: a grammar, and where one reply stands in it, over the `llguidance` library.

A grammar is checked when it is made, so that what a model answers under one is in its language or was cut by
the token limit. Tokens are matched by their bytes, which needs a vocabulary that can spell every byte; with
any other, score the choices instead (`Engine.score_choices`).

Shape letters: B rows, V vocabulary, E ends; F ids that give other bytes where a reply begins with them, and S
that give none there.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, regex_to_lark
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.text.tokenizer import Tokenizer

# Enough to quote from 200,000 characters, which takes a second to compile; the library stops at fewer.
_LIMITS = LLParserLimits(initial_lexer_fuel=100_000_000, step_lexer_fuel=10_000_000, verbose_errors=False)
_JSON_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # json.dumps's
_PLACE = re.compile(r"^(at \d+\(\d+\): )?(failed to compile JSON schema: )?")  # where the user never looked


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a reply may be. source: as llguidance takes it. kind: what to call it in an error.

    Raises UserError where the source is wrong or no reply can be in the language (as far as the library can
    tell before the first token).
    """

    source: str
    kind: str

    def __post_init__(self) -> None:
        probe = LLMatcher(_byte_tokenizer(), self.source, log_level=0, limits=_LIMITS)
        if probe.is_error():
            raise UserError(f"this {self.kind} cannot be used: {_reason(probe)}; correct it")
        probe.compute_logit_bias()
        if probe.is_error():
            raise UserError(f"no reply can ever satisfy this {self.kind}; loosen it")


def choice(options: Sequence[str]) -> Grammar:
    """One of the options, as it is. Raises UserError where there is none or one is empty."""
    if not options or not all(options):
        raise UserError("a choice needs options of at least one character each; give at least one")
    return _grammar("choice", f"start: CHOICE\nCHOICE: {_any_of(options)}")


def regex(pattern: str) -> Grammar:
    r"""A whole match of the pattern, in the syntax of Rust's `regex` crate (no look-around, no \1)."""
    _checked_characters(pattern)
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:  # the library would drop it
        raise UserError("this regular expression cannot be used: it ends in a lone backslash; correct it")
    return _grammar("regular expression", f"start: PATTERN\nPATTERN: /(?:{regex_to_lark(pattern, '')})/")


def json_schema(schema: Mapping[str, Any] | str) -> Grammar:
    """JSON that fits the schema, with the spacing of `json.dumps`.

    Raises UserError for a keyword that cannot be enforced, too.
    """
    try:
        value = json.loads(schema) if isinstance(schema, str) else schema
        _checked_characters(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"this JSON schema is not JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise UserError('a JSON schema must be an object, such as {"type": "object"}')
    return _grammar("JSON schema", f"start: %json {json.dumps({**value, 'x-guidance': _JSON_SPACING})}")


def json_object() -> Grammar:
    """Any JSON object."""
    return json_schema({"type": "object"})


def substring(text: str, end: str = "") -> Grammar:
    """A non-empty part of the text, character for character, then `end`. UserError for an empty text."""
    _checked_characters(text)
    if not text:
        raise UserError("nothing can be quoted from an empty text; give at least one character")
    last = json.dumps(end) if end else ""
    return _grammar("substring", f"start: PART {last}\n{_part_of(list(text))}")


def entity_list(text: str, labels: Sequence[str]) -> Grammar:
    """`[{"text": "PART", "label": "LABEL"}, ...]`, spaced as `NamedEntities.answer` writes it.

    Every PART stands in the text; a second or later place may be said by "nth". Raises UserError where there
    is no label.
    """
    _checked_characters(text)
    if not labels:
        raise UserError("entities need at least one label; give it")
    if not text:
        return _grammar("entity list", 'start: "[]"')
    most = max(Counter(text).values())  # no part comes more often than its letters
    digits = "[2-9]" if most < 10 else f"[2-9]|[1-9][0-9]{{1,{len(str(most)) - 1}}}"
    nth = f'(", \\"nth\\": " /{digits}/)?' if most > 1 else ""
    source = f"""start: "[]" | "[" entity (", " entity)* "]"
entity: "{{\\"text\\": \\"" PART "\\", \\"label\\": " LABEL {nth} "}}"
LABEL: {_any_of([_quoted(label) for label in labels])}
{_part_of([_quoted(character)[1:-1] for character in text])}"""
    return _grammar("entity list", source)


def label_list(labels: Sequence[str]) -> Grammar:
    """`["LABEL", ...]`, spaced as `MultiLabel.answer` writes it, or `none`. UserError for no label."""
    if not labels:
        raise UserError("a list of labels needs at least one to choose from; give it")
    more = f'(", " LABEL){{0,{len(set(labels)) - 1}}}'
    source = f"""start: "none" | "[" LABEL {more} "]"
LABEL: {_any_of([_quoted(label) for label in labels])}"""
    return _grammar("label list", source)


def _grammar(kind: str, lark: str) -> Grammar:
    """Every token that fits is allowed: the library would force the only way on, in tokens of its own choice,
    but a model must be free to say what it learned to say.
    """
    return Grammar(f'%llguidance {{"no_forcing": true}}\n{lark}', kind)


def _any_of(texts: Sequence[str]) -> str:
    """A terminal's alternatives; the library reads JSON's escapes."""
    _checked_characters("".join(texts))
    return " | ".join(map(json.dumps, dict.fromkeys(texts)))


def _part_of(chunks: Sequence[str]) -> str:
    """A terminal PART: one or more chunks in a row, none of them cut."""
    return f'PART: CHUNKS & /(?s:.)+/\nCHUNKS: %regex {{"substring_chunks": {json.dumps(chunks)}}}\n'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _checked_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start} of a constraint is half a character (a lone surrogate); replace it"
        ) from None


def _reason(matcher: LLMatcher) -> str:
    """The library's words for what is wrong, in one line."""
    lines = matcher.get_error().strip().splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return _PLACE.sub("", [*errors, *lines][0])


# --- where a reply stands


class Matcher:
    """Where one reply stands in its grammar. Made by `Constrainer.matcher`."""

    def __init__(self, inner: LLMatcher, ends_E: Tensor, vocabulary: _Vocabulary, *, begun: bool) -> None:
        self._inner, self._ends_E, self._vocabulary, self._begun = inner, ends_E, vocabulary, begun

    @property
    def accepting(self) -> bool:
        """Whether the reply may end here."""
        return self._inner.is_accepting()

    @property
    def finished(self) -> bool:
        """Whether nothing can follow: the reply is whole, or its grammar was too much for the library."""
        return self._inner.is_stopped()

    def mask(self) -> Tensor:
        """A bool tensor (V,) of the ids that may come next; the ends where the grammar accepts.

        None is allowed where the vocabulary cannot spell what the grammar wants.
        """
        words = np.frombuffer(self._inner.compute_bitmask(), np.uint8)
        size = len(self._vocabulary.tokens)
        allowed = torch.from_numpy(np.unpackbits(words, count=size, bitorder="little").view(np.bool_))
        allowed_V, first_F = allowed.tensor_split([self._vocabulary.size])
        if not self._begun:
            allowed_V[self._vocabulary.first_F] = first_F
            allowed_V[self._vocabulary.silent_S] = True
        allowed_V[self._ends_E] = self.accepting
        return allowed_V

    def fitting(self, ids: Sequence[int]) -> int:
        """How many of these ids it takes, one after the other; only once a reply has begun."""
        assert self._begun
        return self._inner.validate_tokens(list(ids))

    def consume(self, id: int) -> None:
        """Go on by a token that the mask allows, an end apart."""
        begun, self._begun = self._begun, True
        if begun or id not in self._vocabulary.silent_S:
            self._inner.consume_token(id if begun else self._vocabulary.opening.get(id, id))


class Constrainer:
    """Makes matchers for one tokenizer. Raises UserError where its vocabulary cannot spell every byte."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.spells_bytes:
            raise UserError(
                f"a {tokenizer.kind} tokenizer without a token for each byte cannot constrain a reply; score "
                "the choices instead (Engine.score_choices), or use a byte or bpe tokenizer"
            )
        self.tokenizer = tokenizer
        self._ends_E = torch.tensor(sorted(tokenizer.specials.ends))

    def matcher(self, grammar: Grammar, *, follows_text: bool = False) -> Matcher:
        """A matcher at the start of a reply. follows_text: it goes on with a text that the prompt began."""
        vocabulary = _library_tokenizer(self.tokenizer)[0]
        inner = _compiled(self.tokenizer, grammar).deep_copy()
        return Matcher(inner, self._ends_E, vocabulary, begun=follows_text)


def constrain(logits_BV: Tensor, matchers: Sequence[Matcher | None]) -> set[int]:
    """Write -inf over what a row's matcher forbids; returns the rows for which that leaves nothing.

    The logits of those say nothing then.
    """
    stuck: set[int] = set()
    for b, matcher in enumerate(matchers):
        if matcher is None:
            continue
        logits_V = logits_BV[b]
        logits_V.masked_fill_(~matcher.mask()[: len(logits_V)].to(logits_V.device), float("-inf"))
        if bool(logits_V.amax() == float("-inf")):
            logits_V.zero_()
            stuck.add(b)
    return stuck


class _Vocabulary:
    """A tokenizer as the library's wrapper wants it.

    Where SentencePiece drops the space that a text begins with, a token has other bytes at the start of a
    reply. So beyond the tokenizer's own `size` ids there is one more for each of these. opening: which.
    first_F: the tokens in that order. silent_S: those of which nothing is left there.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id, self.bos_token_id = tokenizer.specials.eos, None
        self.special_token_ids = sorted(tokenizer.specials.ids)
        self.size, self._encode = tokenizer.vocab_size, tokenizer.encode
        own = [tokenizer.token_bytes(id) for id in range(self.size)]
        spaced = {id: piece for id, piece in enumerate(own) if piece.startswith(b" ")}
        first = {id: found for id, piece in spaced.items() if (found := tokenizer.first_bytes(id)) != piece}
        self.silent_S = torch.tensor([id for id, found in first.items() if not found], dtype=torch.long)
        self.opening = {id: self.size + at for at, id in enumerate(id for id in first if first[id])}
        self.first_F = torch.tensor([*self.opening], dtype=torch.long)
        names = (piece or tokenizer.token_text(id).encode() for id, piece in enumerate(own))
        self.tokens = [*names, *filter(None, first.values())]

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


@cache
def _byte_tokenizer() -> LLTokenizer:
    """One token for each byte, whose id it is: enough to check a grammar."""
    return LLTokenizer("byte")


@lru_cache(maxsize=4)  # making one takes up to a second, and each holds its vocabulary
def _library_tokenizer(tokenizer: Tokenizer) -> tuple[_Vocabulary, LLTokenizer]:
    vocabulary = _Vocabulary(tokenizer)
    return vocabulary, LLTokenizer(TokenizerWrapper(vocabulary))


@lru_cache(maxsize=8)  # the samples of a prompt, and prompts with the same labels, share one
def _compiled(tokenizer: Tokenizer, grammar: Grammar) -> LLMatcher:
    return LLMatcher(_library_tokenizer(tokenizer)[1], grammar.source, log_level=0, limits=_LIMITS)
