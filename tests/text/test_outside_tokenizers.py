"""Tokenizers of others, in every form that they come in, give the ids that their own library gives."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import processors

from malmoi.core.errors import UserError
from malmoi.text.sentencepiece import _merges, read_sentencepiece, to_backend
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.text.tokenizer_files import has_tokenizer
from malmoi.util.files import read_json, write_json
from tests.text.samples import BOTH, HARD, KOREAN

MIXED = [
    *BOTH, *(unicodedata.normalize("NFD", text) for text in KOREAN),
    "def f(x):\r\n\treturn x  # 두 배\n",
    "가나다 abc\x00\x07\x1b[0m 끝", "👩‍👩‍👧 ❤️ 🇰🇷 1️⃣", "  앞뒤  ",
    "한글 ㅋㅋㅋ ﬁ ① Ａ", "<0x41> <s> </s>", "",
]  # fmt: skip
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=40)  # Unicode as it comes
# What people write, odd orders of combining marks and single Hangul letters left out (see the module).
USUAL_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Mn", "Mc", "Me", "Cn", "Co")).filter(
        lambda letter: not "\u1100" <= letter <= "\u11ff" and not "\u3130" <= letter <= "\u318f"
        and not "\ua960" <= letter <= "\ua97f" and not "\ud7b0" <= letter <= "\ud7ff"
        and not "\uff9e" <= letter <= "\uffdf"
    ),
    max_size=40,
)  # fmt: skip
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused(read: Callable[[], object]) -> str:
    """The message that says why something cannot be read; '' where it can."""
    try:
        read()
    except UserError as error:
        return str(error)
    return ""


# ---- SentencePiece


@cache
def spm(model_type: str, rule: str, byte_fallback: bool, keep_spaces: bool, prefix: bool, own: str) -> bytes:
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(BOTH * 10), model_writer=content, vocab_size=600 if byte_fallback else 340,
        model_type=model_type, normalization_rule_name=rule, byte_fallback=byte_fallback,
        remove_extra_whitespaces=not keep_spaces, add_dummy_prefix=prefix, hard_vocab_limit=False,
        user_defined_symbols=own.split(), required_chars="</>sx041", minloglevel=2, num_threads=1,
    )  # fmt: skip
    return content.getvalue()


SPM = {
    "t5": ("unigram", "nmt_nfkc", False, False, True, ""),
    "unigram with bytes": ("unigram", "nmt_nfkc", True, True, True, ""),
    "unigram as it is": ("unigram", "identity", False, True, False, ""),
    "unigram with own": ("unigram", "identity", True, True, True, "<sep> 방앗간"),
    "llama": ("bpe", "identity", True, True, True, ""),
    "gemma": ("bpe", "identity", True, True, False, "<sep> 방앗간"),
    "bpe with own and a mark": ("bpe", "identity", True, True, True, "<sep> 방앗간"),
    "bpe of nfkc": ("bpe", "nmt_nfkc", False, False, True, ""),
}


def both(name: str, folder: Path) -> tuple[sentencepiece.SentencePieceProcessor, Tokenizer]:
    (folder / "tokenizer.model").write_bytes(spm(*SPM[name]))
    return sentencepiece.SentencePieceProcessor(model_proto=spm(*SPM[name])), Tokenizer.load(folder)


@pytest.mark.parametrize("name", SPM)
def test_sentencepiece_gives_its_ids(name: str, tmp_path: Path) -> None:
    theirs, ours = both(name, tmp_path)
    assert ours.vocab_size == theirs.vocab_size()
    assert (ours.specials.bos, ours.specials.eos) == (theirs.bos_id(), theirs.eos_id())
    for text in [*MIXED, "방앗간<sep>방앗간 <sep> 고양이", "the<sep>cat", "<s>", "<0x41>", "<unk>"]:
        assert ours.encode(text) == theirs.encode(text), text
        if theirs.unk_id() not in theirs.encode(text):
            assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text)), text


@pytest.mark.parametrize("name", SPM)
@QUICK
@given(data=st.data())
def test_sentencepiece_gives_its_ids_for_any_text(name: str, tmp_path: Path, data: st.DataObject) -> None:
    theirs, ours = both(name, tmp_path)
    texts = ANY_TEXT if SPM[name][1] == "identity" else USUAL_TEXT
    text = data.draw(texts)
    assert ours.encode(text) == theirs.encode(text)


def test_a_converted_tokenizer_saves_and_streams(tmp_path: Path) -> None:
    theirs, ours = both("llama", tmp_path)
    ours.save(tmp_path / "saved")
    saved = Tokenizer.load(tmp_path / "saved")
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in BOTH:
        ids = theirs.encode(text)
        assert saved.encode(text) == ids == fast(text, add_special_tokens=False)["input_ids"]
        push = saved.stream()
        assert "".join(map(push, [*ids, None])) == text
    assert saved.start == ours.start


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4), st.integers(0, 10**6))
def test_damaged_sentencepiece_is_one_line(tmp_path: Path, bytes_: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(spm(*SPM["llama"]))
    for at, byte in bytes_:
        content[at % len(content)] = byte
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content[: cut % (2 * len(content))])
    refusal = refused(lambda: to_backend(read_sentencepiece(path)))
    assert "\n" not in refusal


@given(st.lists(st.text("ab▁가😀", min_size=1, max_size=6), min_size=1, unique=True), st.data())
def test_a_piece_is_merged_from_every_two_that_join_to_it(texts: list[str], data: st.DataObject) -> None:
    made = data.draw(st.integers(0, len(texts)))
    cuts = [(text[:at], text[at:]) for text in texts[:made] for at in range(1, len(text))]
    assert _merges(texts, made) == [cut for cut in cuts if {*cut} <= {*texts}]


def test_sentencepiece_kinds_that_have_no_equal(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(spm("word", "identity", False, True, True, ""))
    with pytest.raises(UserError, match="unigram and BPE"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(spm(*SPM["llama"]))
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"})
    with pytest.raises(UserError, match="other ids"):
        Tokenizer.load(tmp_path)


# ---- vocabularies in other files


def byte_level_files(folder: Path, kind: str) -> None:
    model = json.loads(train_tokenizer(BOTH * 5, "bpe", 400).to_json())["model"]
    names = {"<|endoftext|>": len(model["vocab"]), "<|im_end|>": len(model["vocab"]) + 1}
    vocab = {token: id for token, id in model["vocab"].items() if not token.startswith("<|")}
    vocab = {token: at for at, token in enumerate(vocab)}
    write_json(folder / "vocab.json", vocab)
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    added = {
        str(len(vocab) + at): {"content": name, "special": True, "normalized": False}
        for at, name in enumerate(names)
    }
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": kind, "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>", "added_tokens_decoder": added,
    })  # fmt: skip


def wordpiece_files(folder: Path) -> None:
    words = sorted({word for text in BOTH for word in text.lower().split()})
    letters = sorted({letter for text in BOTH for letter in text.lower() if not letter.isspace()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{it}" for it in letters)]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})


FORMS: dict[str, tuple[Callable[[Path], None], Any]] = {
    "gpt2": (lambda folder: byte_level_files(folder, "GPT2Tokenizer"), transformers.GPT2Tokenizer),
    "qwen2": (lambda folder: byte_level_files(folder, "Qwen2Tokenizer"), transformers.Qwen2Tokenizer),
    "bert": (wordpiece_files, transformers.BertTokenizer),
}


@pytest.mark.parametrize("form", FORMS)
def test_older_files_give_the_ids_of_transformers(form: str, tmp_path: Path) -> None:
    make, theirs_class = FORMS[form]
    make(tmp_path)
    assert has_tokenizer(tmp_path)
    theirs, ours = theirs_class.from_pretrained(tmp_path), Tokenizer.load(tmp_path)

    @QUICK
    @given(ANY_TEXT)
    @example("")
    def check(text: str) -> None:
        assume(not any(name in text for name in theirs.all_special_tokens))  # text here, a special there
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)

    check()
    for text in [*MIXED, *HARD[:9]]:
        if not any(name in text for name in theirs.all_special_tokens):
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
    assert ours.specials.pad == (ours.specials.eos if theirs.pad_token_id is None else theirs.pad_token_id)


def test_a_tokenizer_json_with_tokens_of_its_own(tmp_path: Path) -> None:
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Backend.from_str(train_tokenizer(BOTH * 5, "bpe", 400).to_json()),
        eos_token="<|eos|>", bos_token="<|bos|>",
    )  # fmt: skip
    theirs.add_tokens(["<think>", "방앗간"])
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    for text in [*MIXED, "<think>방앗간 a<think>"]:
        if "<|" not in text:
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text


# ---- which tokens are special


def test_names_come_from_wherever_they_are(tmp_path: Path) -> None:
    backend = Backend.from_str(train_tokenizer(BOTH, "bpe", 400).to_json())
    backend.add_tokens(["<a>", "<b>", "<c>", "<d>"])
    id_of = {name: backend.token_to_id(name) for name in ("<a>", "<b>", "<c>", "<d>")}
    backend.save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path / "special_tokens_map.json", {"bos_token": {"content": "<a>"}})
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [id_of["<b>"], id_of["<c>"]]})
    write_json(tmp_path / "config.json", {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": id_of["<d>"]})
    found = Tokenizer.load(tmp_path).specials
    assert (found.bos, found.eos, found.pad) == (id_of["<a>"], id_of["<b>"], id_of["<d>"])
    assert id_of["<c>"] in found.ends


def test_a_text_begins_as_its_library_begins_it(tmp_path: Path) -> None:
    ours = train_tokenizer(BOTH, "bpe", 400)
    assert ours.start == ours.specials.eos
    backend = Backend.from_str(ours.to_json())
    template = processors.TemplateProcessing("<|bos|> $A", special_tokens=[("<|bos|>", ours.specials.bos)])
    backend.post_processor = template
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).start == ours.specials.bos
    write_json(tmp_path / "tokenizer_config.json", {"add_bos_token": False})
    assert Tokenizer.load(tmp_path).start == ours.specials.eos


# ---- what is wrong


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("vocab.json", {"a": "b"}, "is not a tokenizer"),
        ("added_tokens.json", {"<new>": 7}, "does not come out as 7"),
        ("special_tokens_map.json", [], "not a JSON object"),
        ("tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"}, "CLIPTokenizer"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}, "is not a tokenizer"),
        ("generation_config.json", 3, "not a JSON object"),
    ],
)
def test_files_that_do_not_fit_are_named(name: str, value: Any, message: str, tmp_path: Path) -> None:
    byte_level_files(tmp_path, "GPT2Tokenizer")
    write_json(tmp_path / name, value)
    with pytest.raises(UserError, match=message) as error:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**6) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["tokenizer_config.json", "vocab.json", "generation_config.json"]), st.data())
def test_any_json_is_read_or_refused_in_a_line(tmp_path: Path, name: str, data: st.DataObject) -> None:
    byte_level_files(tmp_path, "GPT2Tokenizer")
    found = read_json(tmp_path / name) if (tmp_path / name).exists() else {}
    keys = [*list(found)[:6], "eos_token", "eos_token_id", "chat_template"]
    changed = found | {data.draw(st.sampled_from(keys)): data.draw(JSON)}
    write_json(tmp_path / name, changed)
    assert "\n" not in refused(lambda: Tokenizer.load(tmp_path))
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
