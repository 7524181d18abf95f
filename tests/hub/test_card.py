"""The model card: metadata that the hub's own library reads, and what a person should know."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from malmoi.cli.commands import app
from malmoi.compare.distill import DistillSettings, distill
from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.core.nouns import Metric
from malmoi.hub.card import Card, DataFile, data_files, languages_of, licence_beside
from malmoi.methods.folder import load_method
from malmoi.tasks import write_samples
from malmoi.util.files import read_json
from malmoi.world import documents

ModelCard: Any = pytest.importorskip("huggingface_hub").ModelCard
CC_BY = "Creative Commons Attribution 4.0 International Public License"
FAST = ["--set", "train.steps=3", "--set", "train.batch=2"]


def read(folder: Path) -> Any:
    """A folder's card as the hub reads it."""
    return ModelCard.load(folder / "README.md")


def run(*arguments: object) -> None:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output + repr(done.exception)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Apache License\n   Version 2.0, January 2004", "apache-2.0"),
        ("MIT License\n\nCopyright", "mit"),
        (CC_BY, "cc-by-4.0"),
        ("Attribution-ShareAlike 4.0 International", "cc-by-sa-4.0"),
        ("SPDX-License-Identifier: ODbL-1.0", "odbl-1.0"),
        ("무단 배포를 금합니다.", "other"),
    ],
)
@pytest.mark.parametrize("place", ["LICENSE", "data/LICENCE.txt", "data/COPYING"])
def test_licences_beside_the_data(text: str, name: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / place).write_text(text, encoding="utf-8")
    assert licence_beside(tmp_path / "data" / "a.txt") == name


def test_a_folder_above_that_may_not_be_read_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "LICENSE").write_text(CC_BY)
    (tmp_path / "data").mkdir()

    def closed(folder: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", closed)
    assert licence_beside(tmp_path / "data" / "a.txt") == "unknown"


def test_a_licence_that_nothing_says_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "licensed.txt").write_text(CC_BY)
    assert licence_beside(tmp_path / "a.txt") == "unknown"
    files = (DataFile("a", "0", "mit"), DataFile("b", "1", "cc0-1.0"))
    assert Card("t", "s", "k", data=files).licence == "other"
    assert Card("t", "s", "k", data=(*files, DataFile("c", "2"))).licence == "unknown"
    assert Card("t", "s", "k", data=files[:1]).licence == "mit"
    assert Card("t", "s", "k").licence == "unknown"


def test_data_sets_are_named_after_their_folders(tmp_path: Path) -> None:
    for place in ("town/a.txt", "owner--name/train/data.arrow"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text("a")
    found = data_files({place: tmp_path / place for place in ("town/a.txt", "owner--name/train/data.arrow")})
    assert [one.dataset for one in found] == ["town", "owner/name"]


def test_languages() -> None:
    english, korean = (next(documents(1, language=one)).text for one in ("en", "ko"))
    assert languages_of([english]) == ("en",)
    assert languages_of([korean]) == ("ko",)
    assert languages_of([english, korean]) == ("en", "ko")
    assert languages_of(["x = y + 1\nfoo(bar)", "12 34"]) == ()
    assert languages_of([]) == ()


TEXT = st.text(max_size=30)


@example(title="\u2028", results={}, names=["\x85가"], base="\x85")
@given(TEXT, st.dictionaries(TEXT, st.floats(allow_nan=False)), st.lists(TEXT, max_size=3), TEXT)
def test_any_values_make_a_card_that_reads(title: str, results: Any, names: list[str], base: str) -> None:
    metrics = {name: Metric(value, (0.0, 1.0)) for name, value in results.items()}
    data = tuple(DataFile(name, "00", dataset=name) for name in names)
    card = Card(title, "s", "text-generation", base=base, data=data, results=metrics, settings=results)
    found = ModelCard(card.render())
    assert found.data.license == "unknown"
    assert found.data.pipeline_tag == "text-generation"
    assert (found.data.base_model or "") == base


def test_what_was_not_measured_is_said() -> None:
    text = Card("말모이", "Words.", "text-generation", results={"loss": Metric(1.5)}).render()
    assert "| loss | 1.5000 | not measured |" in text
    assert "- training time: unknown" in text
    assert "- energy: not measured" in text


# ---- every training command


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "town"
    folder.mkdir()
    for number, document in enumerate(documents(24)):
        (folder / f"{number}.txt").write_text(document.with_views(), encoding="utf-8")
    (folder / "LICENSE").write_text(CC_BY)
    return folder


@pytest.fixture(scope="module")
def chat(corpus: Path) -> Path:
    """A chat model and its base, trained for a moment."""
    base, chat = corpus.parent / "base", corpus.parent / "chat"
    run("pretrain", "gpt-nano", "--data", corpus, "--out", base, *FAST, "--set", "train.context=48",
        "--set", "train.eval_tokens=512", "--set", "tokenizer.vocab_size=400")  # fmt: skip
    turns = corpus.parent / "turns.jsonl"
    write_samples(turns, "chat", documents(30))
    run(
        "finetune",
        base,
        "--data",
        turns,
        "--out",
        chat,
        *FAST,
        "--set",
        "train.context=512",
        "--licence",
        "mit",
    )
    return chat


def test_pretraining(chat: Path, corpus: Path) -> None:
    found = read(chat.parent / "base")
    assert found.data.license == "cc-by-4.0"
    assert found.data.language == ["en", "ko"]
    assert found.data.datasets == ["town"]
    assert {"loss", "bits_per_byte"} <= set(found.data.metrics)
    digest = sha256((corpus / "3.txt").read_bytes()).hexdigest()
    assert f"| 3.txt | {digest} | cc-by-4.0 |" in found.text
    assert "| train.steps | 3 |" in found.text
    loss = next(line for line in found.text.splitlines() if line.startswith("| loss |"))
    assert " to " in loss
    assert "training time: unknown" not in found.text


def test_counting(corpus: Path, tmp_path: Path) -> None:
    run("pretrain", "ngram", "--data", corpus, "--out", tmp_path / "m", "--set", "tokenizer.vocab_size=400")
    found = read(tmp_path / "m")
    assert found.data.license == "cc-by-4.0"
    assert all(" to " in line for line in found.text.splitlines() if line.startswith(("| loss", "| bits")))


def test_tuning(chat: Path, tmp_path: Path) -> None:
    found = read(chat)
    assert found.data.license == "mit"
    assert found.data.base_model == "base"
    assert "conversational" in found.data.tags
    assert "ended its turn" in found.text
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n}?", "chosen": f"{n} 거위", "rejected": f"{n} goose"} for n in range(12)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("align", chat, "--data", pairs, "--out", tmp_path / "aligned", *FAST)
    aligned = read(tmp_path / "aligned")
    assert aligned.data.base_model == "chat"
    assert "reward accuracy" in aligned.text
    assert aligned.data.license == "unknown"


def test_fitting_comparing_and_distilling(tmp_path: Path) -> None:
    train, test, texts = tmp_path / "train.jsonl", tmp_path / "test.jsonl", tmp_path / "texts.txt"
    write_samples(train, "classification", documents(300), 80)
    write_samples(test, "classification", documents(150, split="test"), 30)
    told = (one.text.replace("\n", " ") for one in documents(30, seed=5))
    texts.write_text("".join(f"{text}\n" for text in told), encoding="utf-8")
    (tmp_path / "LICENSE").write_text(CC_BY)
    fitted, compared, distilled = (tmp_path / name for name in ("fit", "compare", "distill"))
    run("fit", "classification", "--train", train, "--valid", test, "--method", "tfidf", "--out", fitted)
    common: Any = {"task": "classification", "test": test, "measure_seconds": 0.1}
    settings = ComparisonSettings(train=train, methods={"tfidf": {}, "lexicon": {}}, **common)
    run_comparison(settings, compared, isolated=False)
    asked = {"teacher": str(fitted), "student": "tfidf", "unlabelled": texts, "licence": "cc0-1.0"}
    distill(DistillSettings(**asked, **common), distilled, isolated=False)
    folders = (fitted, compared / "winner", distilled / "student")
    for folder, licence in zip(folders, ("cc-by-4.0", "cc-by-4.0", "cc0-1.0"), strict=True):
        found = read(folder)
        assert found.data.pipeline_tag == "text-classification"
        assert found.data.license == licence
        assert "accuracy" in found.data.metrics
        assert sha256(test.read_bytes()).hexdigest() in found.text
        assert found.data.language == ["en", "ko"]
        load_method(folder)  # its manifest knows the card
        card = (folder / "README.md").read_bytes()
        assert read_json(folder / "manifest.json")["README.md"] == sha256(card).hexdigest()
