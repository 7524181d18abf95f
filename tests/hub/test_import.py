"""`malmoi import` makes a whole folder of a model of others, or nothing; the hub is played."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub import errors
from typer.testing import CliRunner

import malmoi
from malmoi.cli.commands import app
from malmoi.core.errors import UserError
from malmoi.hub.bert import load_encoder
from malmoi.hub.folder import load_model, save_model
from malmoi.hub.source import find_source, import_model
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.util.files import damage, read_json
from tests.models.variants import make_model, random_ids
from tests.text.samples import BOTH
from tests.text.test_outside_tokenizers import SPM, byte_level_files, spm, wordpiece_files

TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|eos|>{% endfor %}"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A Llama as `transformers` writes it, with a tokenizer, a chat template, a card and a licence."""
    torch.manual_seed(0)
    folder = tmp_path / "theirs"
    config = transformers.LlamaConfig(
        vocab_size=400, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)
    tokenizer = train_tokenizer(BOTH, "bpe", 400)
    tokenizer.config["chat_template"] = TEMPLATE
    tokenizer.save(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Theirs\n")
    (folder / "LICENSE").write_text("Apache License\n")
    (folder / "modeling_strange.py").write_text("raise SystemExit('this must never run')")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    return folder


def test_a_folder_is_copied_whole_and_nothing_that_could_run(theirs: Path, tmp_path: Path) -> None:
    said: list[str] = []
    import_model(str(theirs), tmp_path / "ours", said.append)
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        "README.md", "LICENSE", "config.json", "generation_config.json", "model.safetensors", "manifest.json",
        "tokenizer.json", "tokenizer_config.json", "import.json",
    }  # fmt: skip
    assert damage(tmp_path / "ours") is None
    record = read_json(tmp_path / "ours" / "import.json")
    assert record["source"] == str(theirs)
    assert record["licence"] == "apache-2.0"
    assert (
        record["files"]["model.safetensors"]
        == read_json(tmp_path / "ours" / "manifest.json")["model.safetensors"]
    )
    assert "llama" in said[0]
    assert "400 tokens" in said[0]
    ids_BT = random_ids(2, 9)
    ours = malmoi.load(tmp_path / "ours", dtype="fp32")
    reference = transformers.AutoModelForCausalLM.from_pretrained(theirs, dtype=torch.float32)
    with torch.inference_mode():
        assert torch.allclose(ours.logits(ids_BT), reference(ids_BT).logits, atol=1e-4)
    assert ours.complete("방앗간", max_tokens=3)[0].text is not None
    assert isinstance(ours.chat("hello", max_tokens=3), str)


def test_the_verb(theirs: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["import", str(theirs), "--out", str(tmp_path / "ours")])
    assert found.exit_code == 0, found.output
    assert load_model(tmp_path / "ours").tokenizer is not None


@pytest.mark.parametrize("form", ["sentencepiece", "gpt2"])
def test_older_tokenizers_become_a_tokenizer_json(form: str, theirs: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (theirs / name).unlink()
    if form == "gpt2":
        byte_level_files(theirs, "GPT2Tokenizer")
    else:
        (theirs / "tokenizer.model").write_bytes(spm(*SPM["bpe of nfkc"]))
    before = Tokenizer.load(theirs)
    import_model(str(theirs), tmp_path / "ours", lambda _: None)
    after = load_model(tmp_path / "ours").tokenizer
    assert after is not None
    assert (tmp_path / "ours" / "tokenizer.json").exists()
    for text in BOTH:
        assert after.encode(text) == before.encode(text)
    assert (after.specials, after.start) == (before.specials, before.start)


def test_an_encoder(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    wordpiece_files(tmp_path / "bert")
    size = Tokenizer.load(tmp_path / "bert").vocab_size
    config = transformers.BertConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=40,
        max_position_embeddings=40,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "1_Pooling").mkdir()
    (tmp_path / "bert" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    said: list[str] = []
    import_model(str(tmp_path / "bert"), tmp_path / "ours", said.append)
    assert "an encoder (bert)" in said[0]
    assert load_encoder(tmp_path / "ours").pooling == "first"
    assert "1_Pooling/config.json" in read_json(tmp_path / "ours" / "import.json")["files"]


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
    "pickles": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        r"pytorch_model\.bin",
    ),
    "cut": (lambda folder: (folder / "model.safetensors").write_bytes(b"123456789"), "cannot be read"),
    "tokenizer too large": (
        lambda folder: train_tokenizer(BOTH, "bpe", 500).save(folder),
        r"tokenizer has \d+ tokens, the model 400",
    ),
    "tokenizer broken": (lambda folder: (folder / "tokenizer.json").write_text("{"), "not a tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_leaves_nothing(name: str, theirs: Path, tmp_path: Path) -> None:
    spoil, message = WRONG[name]
    spoil(theirs)
    with pytest.raises(UserError, match=message) as error:
        import_model(str(theirs), tmp_path / "ours")
    assert str(theirs) in str(error.value), "the message names the source, not a copy"
    assert {path.name for path in tmp_path.iterdir()} == {"theirs"}


def test_an_embedding_with_spare_rows_is_fine(theirs: Path, tmp_path: Path) -> None:
    train_tokenizer(BOTH, "bpe", 390).save(theirs)
    import_model(str(theirs), tmp_path / "ours", lambda _: None)


def test_what_is_there_stays(theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already holds something"):
        import_model(str(theirs), tmp_path / "ours")
    assert (tmp_path / "ours" / "notes.txt").read_text() == "mine"


# ---- the hub


def hub_error(kind: type[Exception]) -> Exception:
    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
    return kind("no", response=response) if issubclass(kind, errors.HfHubHTTPError) else kind("no\nway")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "permission"),
        (errors.RepositoryNotFoundError, "no public model"),
        (errors.RevisionNotFoundError, "no revision v2"),
        (errors.LocalEntryNotFoundError, "cannot be reached"),
        (errors.HFValidationError, "no such name"),
        (httpx.ConnectError, "cannot be reached"),
        (OSError, "cannot be reached"),
    ],
)
def test_a_hub_that_does_not_give_it(
    kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise hub_error(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=message) as error:
        import_model("someone/small@v2", tmp_path / "ours")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ours").exists()


def test_a_hub_id_is_fetched_without_what_could_run(
    theirs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def give(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(theirs.rename(tmp_path / "abc123"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    import_model("someone/small@v2", tmp_path / "ours", lambda _: None)
    assert (asked["name"], asked["revision"]) == ("someone/small", "v2")
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in asked["allow_patterns"][:6])
    record = read_json(tmp_path / "ours" / "import.json")
    assert (record["source"], record["revision"]) == ("someone/small", "abc123")


def test_a_hub_model_without_safetensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(UserError, match="no safetensors on the hub"):
        find_source("someone/old")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    whole = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        find_source("someone/small")


@pytest.mark.parametrize("source", ["nothing", "./a/b", "a/b/c", "a b/c", "../x"])
def test_what_is_neither_folder_nor_id(source: str) -> None:
    with pytest.raises(UserError, match="no folder, and no hub id"):
        find_source(source)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        find_source(str(tmp_path / "model.gguf"))


def test_our_own_folders_can_be_imported(tmp_path: Path) -> None:
    save_model(tmp_path / "mine", make_model("lstm"), train_tokenizer(["a b"], "character", 20))
    import_model(str(tmp_path / "mine"), tmp_path / "copy", lambda _: None)
    assert load_model(tmp_path / "copy").tokenizer is not None
