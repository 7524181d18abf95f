"""Replies under a constraint are in its language, and a constraint touches nothing else."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from malmoi.core.errors import UserError
from malmoi.core.nouns import Entity
from malmoi.engine import Completion, Engine, Sampling
from malmoi.engine.constraints import (
    Constrainer,
    Grammar,
    choice,
    entity_list,
    json_object,
    json_schema,
    label_list,
    regex,
    substring,
)
from malmoi.engine.score import score_choices
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.tasks.multi_label import MultiLabel
from malmoi.tasks.ner import NamedEntities
from malmoi.text.sentencepiece import to_backend
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.world import documents
from tests.engine.fake_scorer import FakeScorer
from tests.hub.test_gguf_import import spm_model

BYTES = train_tokenizer([], "byte")
FEW = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
PROMPT = [9, 30, 40]
PROMPTS = st.sampled_from([PROMPT, [9, 30, 2]])  # a reply goes on with a text, or begins one after an end
NER, MULTI = NamedEntities(), MultiLabel()
LABELS = ("PER", "장소", 'a"b\\')
KOREAN = '민수는 서울에서 "영희"를 만났다.\n서울은 넓다.'
ENGLISH = "Ann met \\Bob\\ in Paris, and Bob's dog 😀."


@cache
def subwords() -> Tokenizer:
    """Pieces of words of both languages, many of which end inside a Korean syllable."""
    texts = [doc.text for language in ("en", "ko") for doc in documents(60, split="train", language=language)]
    return train_tokenizer(texts, "bpe", 500)


def fake() -> Engine:
    return Engine(FakeScorer(BYTES.vocab_size), BYTES)


@cache
def transformer() -> Engine:
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=subwords().vocab_size + 3, context=2048, layers=1, width=16, heads=2
    )  # three logits of padding
    return Engine(build_model(config).eval(), subwords())


@cache
def recurrent() -> Engine:
    torch.manual_seed(0)
    config = RecurrentConfig(family="gru", vocab_size=subwords().vocab_size, layers=1, width=16)
    return Engine(build_model(config).eval(), subwords())


@cache
def sentencepiece(*, is_bpe: bool = True, prefix: bool = True) -> Tokenizer:
    """Few words and all bytes, with a mark for the space; prefix: one before a text, which decoding drops."""
    model = replace(spm_model(), is_bpe=is_bpe, adds_prefix=prefix)
    return Tokenizer(to_backend(model))


def merging() -> Engine:
    return Engine(FakeScorer(sentencepiece().vocab_size), sentencepiece())


def unigram() -> Engine:
    tokenizer = sentencepiece(is_bpe=False)
    return Engine(FakeScorer(tokenizer.vocab_size), tokenizer)


ENGINES = st.sampled_from([fake, transformer, recurrent, merging, unigram])
SPELLING = {
    "byte": BYTES, "bpe": subwords(),
    "sentencepiece": sentencepiece(), "sentencepiece-plain": sentencepiece(prefix=False),
    "unigram": sentencepiece(is_bpe=False), "unigram-plain": sentencepiece(is_bpe=False, prefix=False),
}  # fmt: skip
SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.just(600),
    temperature=st.sampled_from([0.0, 1.5]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([0.5, 1.0]),
    min_p=st.sampled_from([0.0, 0.3]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 9),
)
TEXTS = st.text(st.sampled_from("ab \"\\\n\x01'{}[],:가각서울é😀\u2028"), min_size=1, max_size=30)


def reply(engine: Engine, grammar: Grammar, params: Sampling, prompt: Sequence[int] = PROMPT) -> Completion:
    return engine.generate([prompt], replace(params, constraint=grammar))[0]


def allows(tokenizer: Tokenizer, grammar: Grammar, ids: Sequence[int]) -> bool:
    """Whether a model may say exactly these tokens and end."""
    matcher = Constrainer(tokenizer).matcher(grammar)
    for id in ids:
        if not bool(matcher.mask()[id]):
            return False
        matcher.consume(id)
    return matcher.accepting


# --- replies are in the language

PATTERNS = st.recursive(
    st.sampled_from(["a", "[b-e]", "[가-힣]", r"\d", "긍정", "/", r"\\", '"', "<[|]end[|]>"]),
    lambda inner: st.one_of(
        st.builds("({}|{})".format, inner, inner),
        st.builds("({}{})".format, inner, inner),
        st.builds("({}){{{},3}}".format, inner, st.integers(0, 3)),
        st.builds("({})?".format, inner),
    ),
    max_leaves=6,
)


@FEW
@given(pattern=PATTERNS, make=ENGINES, params=SAMPLINGS, prompt=PROMPTS)
def test_a_reply_matches_the_regular_expression(
    pattern: str, make: Callable[[], Engine], params: Sampling, prompt: Sequence[int]
) -> None:
    answer = reply(make(), regex(pattern), params, prompt)
    assert answer.finish_reason == "stop"
    assert re.fullmatch(pattern, answer.text)


@FEW
@given(options=st.lists(TEXTS, min_size=1, max_size=8), make=ENGINES, params=SAMPLINGS, prompt=PROMPTS)
def test_a_reply_is_one_of_the_options(
    options: list[str], make: Callable[[], Engine], params: Sampling, prompt: Sequence[int]
) -> None:
    answer = reply(make(), choice(options), params, prompt)
    assert answer.finish_reason == "stop"
    assert answer.text in options


@FEW
@given(text=TEXTS, make=ENGINES, params=SAMPLINGS, prompt=PROMPTS)
def test_a_reply_is_a_part_of_the_text(
    text: str, make: Callable[[], Engine], params: Sampling, prompt: Sequence[int]
) -> None:
    answer = reply(make(), substring(text), params, prompt)
    assert answer.finish_reason == "stop"
    assert answer.text
    assert answer.text in text


@FEW
@given(text=TEXTS, make=ENGINES, params=SAMPLINGS, prompt=PROMPTS)
def test_entities_are_parts_of_the_text_with_known_labels(
    text: str, make: Callable[[], Engine], params: Sampling, prompt: Sequence[int]
) -> None:
    answer = reply(make(), entity_list(text, LABELS), params, prompt)
    if answer.finish_reason == "length":  # a model may list the same entity for ever
        return
    found = json.loads(answer.text)
    assert json.dumps(found, ensure_ascii=False) == answer.text
    assert all(one["text"] and one["text"] in text and one["label"] in LABELS for one in found)
    assert all(one.get("nth", 2) >= 2 for one in found)
    entities = NER.parse(answer.text, text)
    assert entities is not None
    assert all(0 <= one.start < one.end <= len(text) and one.label in LABELS for one in entities)
    assert bool(entities) == bool(found)


Check = Callable[[Any], bool]


def _array(inner: tuple[dict[str, Any], Check], most: int) -> tuple[dict[str, Any], Check]:
    schema, fits = inner
    return (
        {"type": "array", "items": schema, "minItems": 1, "maxItems": most},
        lambda value: isinstance(value, list) and 1 <= len(value) <= most and all(map(fits, value)),
    )


def _object(parts: dict[str, tuple[dict[str, Any], Check]]) -> tuple[dict[str, Any], Check]:
    properties = {name: schema for name, (schema, _) in parts.items()}
    schema = {"type": "object", "properties": properties, "required": list(parts)}
    return schema | {
        "additionalProperties": False
    }, lambda value: set(value) == set(parts) and all(fits(value[name]) for name, (_, fits) in parts.items())


SCHEMAS = st.recursive(
    st.sampled_from([
        ({"type": "null"}, lambda value: value is None),
        ({"type": "boolean"}, lambda value: isinstance(value, bool)),
        ({"type": "integer", "minimum": -3, "maximum": 12}, lambda value: value in range(-3, 13)),
        ({"enum": ["긍정", 'q"', 7]}, lambda value: value in ("긍정", 'q"', 7)),
        ({"type": "string", "maxLength": 4}, lambda value: isinstance(value, str) and len(value) <= 4),
        ({"type": "string", "pattern": "^[가-힣]{2}$"}, lambda value: re.fullmatch("[가-힣]{2}", value)),
    ]),
    lambda inner: st.one_of(
        st.builds(_array, inner, st.integers(1, 3)),
        st.builds(_object, st.dictionaries(st.sampled_from(["a", "이름", "x y"]), inner, max_size=2)),
    ),
    max_leaves=4,
)  # fmt: skip


@FEW
@given(made=SCHEMAS, make=ENGINES, params=SAMPLINGS, prompt=PROMPTS, as_text=st.booleans())
def test_json_fits_the_schema(
    made: tuple[dict[str, Any], Check],
    make: Callable[[], Engine],
    params: Sampling,
    prompt: Sequence[int],
    as_text: bool,
) -> None:
    schema, fits = made
    answer = reply(make(), json_schema(json.dumps(schema) if as_text else schema), params, prompt)
    assert answer.finish_reason == "stop"
    value = json.loads(answer.text)
    assert fits(value), (schema, answer.text)
    assert "\n" not in answer.text


def test_any_json_object() -> None:
    for seed in range(5):
        answer = reply(fake(), json_object(), Sampling(max_tokens=2000, seed=seed))
        assert answer.finish_reason == "length" or isinstance(json.loads(answer.text), dict)
    assert allows(BYTES, json_object(), BYTES.encode('{"이름": [1, null, {"b": "가"}]}'))


# --- what is allowed, and what is not


@pytest.mark.parametrize("tokenizer", SPELLING.values(), ids=SPELLING)
@pytest.mark.parametrize(
    ("text", "target"),
    [
        (KOREAN, (Entity(0, 2, "PER"), Entity(4, 6, "장소"), Entity(22, 24, "장소"))),
        (KOREAN, (Entity(22, 24, "장소"),)),  # the second place: "nth"
        (ENGLISH, (Entity(8, 13, "PER"), Entity(17, 22, 'a"b\\'), Entity(28, 31, "PER"))),
        (ENGLISH, ()),
        ("", ()),
        ("가" * 30, (Entity(25, 26, "PER"),)),
    ],
)
def test_what_tuning_teaches_can_be_said(tokenizer: Tokenizer, text: str, target: tuple[Entity, ...]) -> None:
    answer = NER.answer(target, text)
    assert allows(tokenizer, entity_list(text, LABELS), tokenizer.encode(answer))
    for wrong in (answer.replace(", ", ","), answer + " ", "[" + answer, '[{"text": "zz", "label": "PER"}]'):
        if wrong != answer:
            assert not allows(tokenizer, entity_list(text, LABELS), tokenizer.encode(wrong))


@FEW
@given(
    tokenizer=st.sampled_from([subwords(), sentencepiece(prefix=False)]),
    target=st.sets(st.sampled_from(LABELS)).map(lambda found: tuple(sorted(found))),
)
def test_every_set_of_labels_can_be_said_and_nothing_else(
    tokenizer: Tokenizer, target: tuple[str, ...]
) -> None:
    answer = MULTI.answer(target, "")
    assert allows(tokenizer, label_list(LABELS), tokenizer.encode(answer))
    for wrong in (answer + " ", "[" + answer, "[]", '["PER",]', '["zz"]', json.dumps(["PER"] * 4)):
        assert not allows(tokenizer, label_list(LABELS), tokenizer.encode(wrong))


@FEW
@given(
    tokenizer=st.sampled_from([subwords(), sentencepiece(prefix=False)]),
    options=st.lists(TEXTS, min_size=1, max_size=5), cut=st.integers(0, 30),
)  # fmt: skip
def test_an_option_may_be_said_in_any_tokens(tokenizer: Tokenizer, options: list[str], cut: int) -> None:
    """So a constraint changes no reply that would have fitted without it."""
    option = options[0]
    byte_by_byte = [by_byte(tokenizer)[byte] for byte in option[:cut].encode()]
    assert allows(tokenizer, choice(options), tokenizer.encode(option))
    assert allows(tokenizer, choice(options), [*byte_by_byte, *tokenizer.encode(option[cut:])])


@pytest.mark.parametrize("tokenizer", SPELLING.values(), ids=SPELLING)
def test_exactly_the_tokens_that_go_on_to_an_option_are_allowed(tokenizer: Tokenizer) -> None:
    """The first without the space that decoding drops; an option may begin with one all the same."""
    options = ["a b", " a", "  가", "가나", "\u2028"]
    text = range(len(tokenizer.specials.ids), tokenizer.vocab_size)
    constrainer, grammar = Constrainer(tokenizer), choice(options)

    def fits(*ids: int) -> bool:
        spelled = tokenizer.first_bytes(ids[0]) + b"".join(map(tokenizer.token_bytes, ids[1:]))
        return any(option.encode().startswith(spelled) for option in options)

    found = constrainer.matcher(grammar).mask()
    firsts = [id for id in text if fits(id)]
    assert found.nonzero().flatten().tolist() == firsts
    for first in firsts:
        matcher = constrainer.matcher(grammar)
        matcher.consume(first)
        if not matcher.finished:
            allowed = [id for id in matcher.mask().nonzero().flatten().tolist() if id in text]
            assert allowed == [id for id in text if tokenizer.token_bytes(id) and fits(first, id)]


def test_a_reply_may_begin_a_text_or_go_on_with_one() -> None:
    """SentencePiece's decoder drops the space that a text begins with, not one within a text."""
    spaced, engine = sentencepiece().encode("a")[0], merging()
    assert isinstance(engine.scorer, FakeScorer)
    for prompt, text in ((PROMPT, " a b"), ([9, 30, 2], "a b")):
        engine.scorer.always = {len(prompt): spaced}
        assert reply(engine, choice([" a b", "a b"]), Sampling(temperature=0), prompt).text == text


@cache
def by_byte(tokenizer: Tokenizer) -> dict[int, int]:
    pieces = {tokenizer.token_bytes(id): id for id in range(tokenizer.vocab_size)}
    return {byte: pieces[bytes([byte])] for byte in range(256)}


def test_characters_count_exactly_even_where_encoding_would_normalize_them() -> None:
    text = unicodedata.normalize("NFD", "가나다 é")
    for seed in range(10):
        params = Sampling(max_tokens=60, seed=seed, temperature=1.5)
        assert reply(transformer(), choice([text]), params).text == text
        assert reply(transformer(), substring(text), params).text in text


def test_special_text_in_an_option_stays_plain_text() -> None:
    engines = fake(), transformer(), merging(), unigram()
    for tokenizer, engine in ((engine.tokenizer, engine) for engine in engines):
        answer = reply(engine, choice(["<|end|> <|user|>"]), Sampling())
        assert answer.text == "<|end|> <|user|>"
        assert tokenizer.specials.ids.isdisjoint(answer.ids)


def test_a_long_text_can_be_quoted() -> None:
    text = " ".join(doc.text for doc in documents(80, split="train", language="ko"))[:20_000]
    assert len(text) > 9000
    for grammar in (substring(text), entity_list(text, ["PER"])):
        answer = reply(fake(), grammar, Sampling(max_tokens=400, seed=1))
        parts = [answer.text] if grammar.kind == "substring" else [e["text"] for e in json.loads(answer.text)]
        assert all(part in text for part in parts)


# --- ends


def test_the_mask_has_the_ends_exactly_where_the_grammar_accepts() -> None:
    matcher = Constrainer(BYTES).matcher(choice(["a", "ab"]))
    ends, (a, b) = sorted(BYTES.specials.ids), BYTES.encode("ab")
    assert matcher.mask().dtype == torch.bool
    assert matcher.mask().nonzero().flatten().tolist() == [a]
    assert (matcher.accepting, matcher.finished) == (False, False)
    matcher.consume(a)
    assert matcher.mask().nonzero().flatten().tolist() == [*ends, b]
    assert (matcher.accepting, matcher.finished) == (True, False)
    matcher.consume(b)
    assert (matcher.accepting, matcher.finished) == (True, True)


@pytest.mark.parametrize("end", sorted(BYTES.specials.ids))
def test_any_special_ends_a_reply_that_may_end(end: int) -> None:
    engine = fake()
    assert isinstance(engine.scorer, FakeScorer)
    engine.scorer.always = {len(PROMPT): end, len(PROMPT) + 1: end}  # too early, then in time
    answer = reply(engine, choice(["a", "ab"]), Sampling(temperature=0))
    assert (answer.text, answer.ids[-1], answer.finish_reason) == ("a", end, "stop")


def test_a_finished_reply_costs_no_further_step() -> None:
    engine = fake()
    assert isinstance(engine.scorer, FakeScorer)
    answer = reply(engine, choice(["말"]), Sampling())
    assert (answer.text, answer.finish_reason) == ("말", "stop")
    assert engine.scorer.tokens_read == len(PROMPT) + 2  # nothing after the last of three bytes
    assert not engine.busy


def test_the_token_limit_cuts_and_says_so() -> None:
    answer = reply(fake(), choice(["abcdef"]), Sampling(max_tokens=3))
    assert (answer.text, answer.finish_reason) == ("abc", "length")
    assert reply(fake(), choice(["abc"]), Sampling(max_tokens=3)).finish_reason == "stop"
    context = Engine(FakeScorer(BYTES.vocab_size, context=5), BYTES)
    assert reply(context, choice(["abcdef"]), Sampling()).finish_reason == "length"


def test_what_the_vocabulary_cannot_spell_stops() -> None:
    """Never a hang: "a" and then nothing."""
    vocab = {"<|eos|>": 0, "a": 1, "b": 2}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|eos|>", special=True)])
    engine = Engine(FakeScorer(3), Tokenizer(backend))
    free = Sampling(max_tokens=4, seed=3)
    alone = engine.generate([[1]], free)[0]
    params = [Sampling(constraint=choice(["az"])), free, Sampling(constraint=choice(["z"]), n=2)]
    cut, same, *empty = engine.generate([[1], [1], [2]], params)
    assert (cut.text, cut.finish_reason, cut.ids) == ("a", "stop", (1,))
    assert same == alone
    assert [(one.text, one.finish_reason, one.ids) for one in empty] == [("", "stop", ())] * 2


def test_an_empty_reply_may_be_all_that_fits() -> None:
    answer = reply(fake(), regex(""), Sampling())
    assert (answer.text, answer.finish_reason) == ("", "stop")


def test_one_special_for_unknown_and_end_still_ends() -> None:
    """As in GPT-2's own files."""
    config = {"eos_token": "<|eos|>", "unk_token": "<|eos|>"}
    tokenizer = Tokenizer.from_json(BYTES.to_json(), config)
    assert tokenizer.specials.unk == tokenizer.specials.eos
    scorer = FakeScorer(BYTES.vocab_size)
    scorer.always = {2: tokenizer.specials.eos}
    (answer,) = Engine(scorer, tokenizer).generate([[9]], Sampling(constraint=choice(["a", "ab"])))
    assert (answer.text, answer.finish_reason) == ("a", "stop")


# --- a constraint touches nothing else


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_rows_of_a_mixed_batch_answer_as_alone(temperature: float, deterministic: bool) -> None:
    engine = Engine(FakeScorer(BYTES.vocab_size), BYTES, deterministic=deterministic)
    free = Sampling(max_tokens=9, temperature=temperature, seed=5, logprobs=2)
    grammars = [None, choice(["긍정", "부정"]), None, entity_list(KOREAN, LABELS), regex("[a-z]{4}"), None]
    each = [replace(free, constraint=grammar) for grammar in grammars]
    prompts = [[9, 10 + i] for i in range(6)]
    together = engine.generate(prompts, each)
    assert together == [engine.generate([prompt], one)[0] for prompt, one in zip(prompts, each, strict=True)]
    assert together[1].text in ("긍정", "부정")


def test_every_sample_has_its_own_place() -> None:
    options = ["가나", "가다", "ab", "abc", "b"]
    answers = fake().generate(
        [PROMPT, PROMPT], Sampling(n=8, seed=0, temperature=1.5, constraint=choice(options))
    )
    assert {answer.text for answer in answers} <= set(options)
    assert len({answer.text for answer in answers}) > 1


def test_params_may_differ_by_prompt() -> None:
    each = [Sampling(n=2, constraint=choice(["a"])), Sampling(constraint=choice(["나"]))]
    assert [answer.text for answer in fake().generate(["x", "y"], each)] == ["a", "a", "나"]


def test_log_probabilities_stay_the_models_own() -> None:
    engine = fake()
    assert isinstance(engine.scorer, FakeScorer)
    answer = reply(engine, choice(["zq"]), Sampling(temperature=0, logprobs=1))
    history = list(PROMPT)
    for id, logprob, top in zip(answer.ids, answer.logprobs, answer.top_logprobs, strict=True):
        logprobs_V = engine.scorer.logits(history).log_softmax(-1)
        assert logprob == pytest.approx(float(logprobs_V[id]), abs=1e-5)
        assert top[0][0] == int(logprobs_V.argmax())
        history.append(id)
    assert answer.logprobs[0] < answer.top_logprobs[0][0][1]


# --- mistakes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: regex("a(b"), "unclosed group"),
        (lambda: regex("(?=a)b"), "look-ahead"),
        (lambda: regex("a\\"), "lone backslash"),
        (lambda: regex("a[b&&c]"), "no reply can ever satisfy this regular expression"),
        (lambda: regex("\ud800"), "half a character"),
        (lambda: choice([]), "at least one"),
        (lambda: choice(["긍정", ""]), "at least one character"),
        (lambda: choice(["\ud800"]), "half a character"),
        (lambda: substring(""), "empty text"),
        (lambda: substring("a\ud800"), "character 1"),
        (lambda: entity_list("a", []), "at least one label"),
        (lambda: entity_list("a", ["\ud800"]), "half a character"),
        (lambda: json_schema("{"), "is not JSON"),
        (lambda: json_schema("[" * 100_000), "is not JSON"),
        (lambda: json_schema("[]"), "must be an object"),
        (lambda: json_schema({"enum": [float("nan")]}), "is not JSON"),
        (lambda: json_schema({"enum": ["\ud800"]}), "half a character"),
        (lambda: json_schema({"type": "strin"}), "strin"),
        (lambda: json_schema({"not": {}}), "not"),
        (lambda: json_schema({"type": "integer", "minimum": 5, "maximum": 3}), r"minimum \(5\)"),
        (lambda: json_schema({"allOf": [{"type": "null"}, {"type": "string"}]}), "Unsatisfiable"),
        (lambda: json_schema({"type": "object", "required": ["a"], "properties": {"a": False}}), "'a'"),
        (lambda: Grammar("start: (", "grammar"), "this grammar cannot be used"),
    ],
)  # fmt: skip
def test_what_nothing_can_satisfy_is_one_clear_line(make: Callable[[], Grammar], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


@FEW
@given(st.text(st.characters(), max_size=20))
def test_any_pattern_and_schema_is_a_grammar_or_a_clear_line(text: str) -> None:
    messages = []
    for make in (regex, json_schema):
        try:
            make(text)
        except UserError as error:
            messages.append(str(error).replace(text, ""))
    assert not any("\n" in message for message in messages)


def test_a_schema_without_an_end_is_cut_and_not_hung() -> None:
    endless = json_schema({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})
    answer = reply(fake(), endless, Sampling(max_tokens=40))
    assert (answer.finish_reason, len(answer.ids)) == ("length", 40)


@pytest.mark.parametrize("kind", ["word", "character", "unigram", "wordpiece"])
def test_other_tokenizers_say_what_they_can_do(kind: str) -> None:
    tokenizer = train_tokenizer(["말 모이 a b"], kind, 40)
    engine = Engine(FakeScorer(tokenizer.vocab_size), tokenizer)
    params = Sampling(constraint=choice(["a"]))
    for ask in (lambda: engine.generate(["a"], params), lambda: engine.submit([8], params)):
        with pytest.raises(UserError, match=rf"{kind}.*score the choices"):
            ask()
    assert not engine.busy
    assert len(score_choices(engine, ["a"], [["b", "a"]])[0]) == 2
