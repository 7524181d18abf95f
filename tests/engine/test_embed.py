"""Vectors of texts: by a language model as its hidden states say, by an encoder as its folder says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from malmoi.cli import commands as cli
from malmoi.core.errors import UserError
from malmoi.core.tensors import TokenBatch
from malmoi.engine import embed
from malmoi.engine.embed import Embedder, save_vectors
from malmoi.hub.bert import load_encoder
from malmoi.hub.folder import load_model
from malmoi.models.language import LanguageModel
from tests.hub.tiny_encoder import write_encoder
from tests.methods.tiny import write_model

TEXTS = ["The ferry left at noon.", "빵이 따뜻했다.", "a", "The ferry left at noon. " * 9, "", " \n"]


@pytest.fixture(scope="module", params=["transformer", "lstm"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("lm") / "m", family=request.param)


def test_they_are_the_hidden_states(folder: Path) -> None:
    model, tokenizer = load_model(folder)
    assert isinstance(model, LanguageModel)
    assert tokenizer is not None
    found = Embedder(folder).all_vectors(TEXTS)
    for n, text in enumerate(TEXTS):
        ids = torch.tensor([[tokenizer.start, *tokenizer.encode(text)]])
        with torch.inference_mode():
            x_TD = model.hidden(TokenBatch(ids))[0]
        for way, x_D in (("mean", x_TD.mean(0)), ("last", x_TD[-1])):
            wanted_D = (x_D / x_D.norm()).numpy()
            np.testing.assert_allclose(found[way][n], wanted_D, rtol=0, atol=2e-5)


def test_neighbours_change_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder(folder)
    together = embedder.vectors(TEXTS, "last")
    monkeypatch.setattr(embed, "ROWS_TOKENS", 40)
    for order in (range(len(TEXTS)), reversed(range(len(TEXTS)))):
        numbers = list(order)
        alone = embedder.vectors([TEXTS[n] for n in numbers], "last")
        np.testing.assert_allclose(alone, together[numbers], rtol=0, atol=2e-5)
    assert embedder.vectors([]).shape == (0, embedder.width)


def test_long_texts_are_read_in_part(folder: Path) -> None:
    embedder = Embedder(folder, max_tokens=4)
    start = embedder.tokenizer.decode(embedder.tokenizer.encode(TEXTS[3])[:4])
    found = embedder.vectors([TEXTS[3], start])
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)


def test_an_encoder_has_a_vector_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "bert"
    write_encoder(path)
    embedder, known = Embedder(path), load_encoder(path)
    assert embedder.ways == ("own",)
    found = embedder.vectors(TEXTS[:2], "own")
    for n, text in enumerate(TEXTS[:2]):
        ids = torch.tensor([[known.frame.first, *known.tokenizer.encode(text), known.frame.last]])
        with torch.inference_mode():
            x_D = known.encoder(ids, torch.ones_like(ids, dtype=torch.bool))[0].mean(0)
        np.testing.assert_allclose(found[n], (x_D / x_D.norm()).numpy(), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="it makes: own"):
        embedder.way_named("mean")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    def go(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["malmoi", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out or printed.err

    return go


def test_the_command(run: Callable[..., tuple[int, str]], folder: Path, tmp_path: Path) -> None:
    lines, out = tmp_path / "lines.txt", tmp_path / "v.npy"
    lines.write_text("one\n\n둘\r\n", encoding="utf-8")
    code, said = run("embed", folder, "three", lines, "--vector", "last")
    rows = [json.loads(line) for line in said.splitlines()]
    assert code == 0
    assert [row["text"] for row in rows] == ["three", "one", "둘"]
    wanted = Embedder(folder).vectors(["three", "one", "둘"], "last")
    np.testing.assert_allclose([row["vector"] for row in rows], wanted, rtol=0, atol=1e-5)
    assert run("embed", folder, lines, "--out", out)[0] == 0
    np.testing.assert_allclose(np.load(out), Embedder(folder).vectors(["one", "둘"]), rtol=0, atol=1e-6)
    for options, why in (
        (("--out", out), "there already"), (("--out", tmp_path / "v.txt"), "no .npy file"),
        (("--vector", "max"), "it makes: mean, last"),
    ):  # fmt: skip
        code, said = run("embed", folder, "x", *options)
        assert (code, why in said) == (2, True), said
    assert run("embed", tmp_path, "x")[0] == 2
    with pytest.raises(UserError, match="there already"):
        save_vectors(out, wanted)
