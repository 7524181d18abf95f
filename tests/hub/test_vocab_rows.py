"""A smaller vocabulary: the texts that it is for keep their ids and logits, others can still be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.core.tensors import TokenBatch
from malmoi.hub.folder import load_model, save_model
from malmoi.hub.source import import_model
from malmoi.hub.vocab_rows import needed_ids, texts_in, with_ids
from malmoi.learn.job import prepare
from malmoi.learn.objectives.conversations import Tuning
from malmoi.learn.run_config import load_tuning
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.text.chat import ChatFormat
from malmoi.text.sentencepiece import to_backend
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.world import documents
from tests.hub.test_gguf import BPE, CHATML
from tests.hub.test_gguf_import import spm_model
from tests.methods.tiny import write_model
from tests.text.test_chat import plain

TEXTS = [document.text for document in documents(120)]
KEPT = ["The bread was warm.", "빵이 따뜻했다. 미나가 웃었다.", "It rained.\n\n비가 왔다!"]


def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "sentencepiece":
        return Tokenizer(to_backend(spm_model()), {"add_bos_token": True})
    return train_tokenizer(TEXTS, kind, 1500)


@pytest.fixture(scope="module", params=["bpe", "unigram", "sentencepiece"])
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, Tokenizer, dict[int, int]]:
    old = tokenizer_of(request.param)
    ids = needed_ids(old, KEPT)
    assert len(ids) < old.vocab_size or request.param == "sentencepiece"
    return old, with_ids(old, ids), {id: number for number, id in enumerate(ids)}


def test_kept_texts_keep_their_ids(both: tuple[Tokenizer, Tokenizer, dict[int, int]]) -> None:
    old, new, numbers = both
    for text in (*KEPT, " ".join(KEPT), KEPT[1][::-1]):
        ids = old.encode(text)
        if numbers.keys() >= set(ids):
            assert new.encode(text) == [numbers[id] for id in ids]
    assert all(numbers.keys() >= set(old.encode(text)) for text in KEPT)
    assert new.start == numbers[old.start]
    assert new.specials.eos == numbers[old.specials.eos]


@given(st.text(alphabet=st.sampled_from("The bread was warm.빵이 따뜻했다미나가웃었\n!?"), max_size=30))
@settings(max_examples=60)
def test_whatever_the_kept_tokens_spell_is_cut_as_before(text: str) -> None:
    old = BPE
    ids = needed_ids(old, KEPT)
    new, numbers = with_ids(old, ids), {id: number for number, id in enumerate(ids)}
    found = old.encode(text)
    if numbers.keys() >= set(found):
        assert new.encode(text) == [numbers[id] for id in found]
    assert new.decode(new.encode(text)) == text


def test_other_texts_are_spelled_by_bytes() -> None:
    new = with_ids(BPE, needed_ids(BPE, ["a"]))
    for text in (*TEXTS[:5], "😀 \x00 \t"):
        assert new.decode(new.encode(text)) == old_text(text)


def old_text(text: str) -> str:
    return BPE.decode(BPE.encode(text))


def logits(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(model.hidden(TokenBatch(torch.tensor([ids]))))[0]


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_gives_the_same_logits(tied: bool, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_json(BPE.to_json(), {"chat_template": CHATML.replace("<|im_end|>", "<|end|>")})
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size + 5, context=64, layers=1, width=16, heads=2, tied=tied
    )
    save_model(tmp_path / "whole", build_model(config), tokenizer)
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"any": {"column": [text]}}, ensure_ascii=False) + "\n" for text in KEPT),
        encoding="utf-8",
    )
    assert list(texts_in(tmp_path / "rows.jsonl")) == KEPT
    said: list[str] = []
    import_model(
        str(tmp_path / "whole"), tmp_path / "small", said.append, keep_vocab_of=tmp_path / "rows.jsonl"
    )
    assert "tokens are kept" in said[0]
    (whole, old), (small, new) = load_model(tmp_path / "whole"), load_model(tmp_path / "small")
    assert isinstance(whole, LanguageModel)
    assert isinstance(small, LanguageModel)
    assert old is not None
    assert new is not None
    assert small.vocab_size == new.vocab_size < whole.vocab_size
    ids = needed_ids(old, KEPT)
    for text in KEPT:
        wanted = logits(whole, old.encode(text))[:, ids]
        torch.testing.assert_close(logits(small, new.encode(text))[:, : len(ids)], wanted)
    assert set(new.specials.turns) == set(old.specials.turns)
    stops = json.loads((tmp_path / "small" / "generation_config.json").read_text())["eos_token_id"]
    assert {new.token_text(id) for id in ([stops] if isinstance(stops, int) else stops)} >= {"<|eos|>"}


def test_what_cannot_be_made_smaller_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="WordLevel tokenizer cannot be made smaller"):
        needed_ids(tokenizer_of("word"), KEPT)
    with pytest.raises(UserError, match="no text to keep a vocabulary for"):
        needed_ids(BPE, [])
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError):
        import_model(str(write_model(tmp_path / "m")), tmp_path / "out", keep_vocab_of=tmp_path / "empty.txt")
    assert not (tmp_path / "out").exists()


def test_a_model_without_markers_gets_new_tokens_to_be_tuned(tmp_path: Path) -> None:
    tokenizer = plain()
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, context=128, layers=1, width=16, heads=2, tied=True
    )
    save_model(tmp_path / "base", build_model(config), tokenizer)
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "b"}]}
        for n in range(40)
    ]
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = load_tuning(
        tmp_path / "base", [str(tmp_path / "talk.jsonl")], (), ["train.steps=2", "train.batch=2"], lora=True
    )
    job = prepare(Tuning, config, tmp_path / "tuned", resume=False, say=lambda _: None, device="cpu")
    assert job is not None
    job.run(lambda _: None)
    (base, _), (tuned, known) = load_model(tmp_path / "base"), load_model(tmp_path / "tuned")
    assert isinstance(base, LanguageModel)
    assert isinstance(tuned, LanguageModel)
    assert known is not None
    assert tuned.vocab_size == base.vocab_size + 4
    assert (
        ChatFormat.of(known).prompt_ids([Message("user", "<|end|>")]).count(known.special_texts["<|end|>"])
        == 1
    )
    old_VD, new_VD = (model.embed.weight.detach() for model in (base, tuned))
    torch.testing.assert_close(new_VD[: len(old_VD)], old_VD)
