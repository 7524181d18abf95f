"""Every kind of model gives the pictures that fit it, in English and Korean."""

from __future__ import annotations

import io
import json
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from matplotlib.text import Text
from typer.testing import CliRunner

from malmoi.cli.words import app
from malmoi.core.errors import UserError
from malmoi.core.nouns import Budget
from malmoi.engine.loaded import Loaded
from malmoi.hub.folder import save_model
from malmoi.inside.tokens import cuts_of, orders_of
from malmoi.methods.folder import save_method
from malmoi.methods.registry import make_method
from malmoi.methods.use import LoadedMethod
from malmoi.models.ngram import KneserNey
from malmoi.show.draw_tokens import draw_tokens
from malmoi.show.gallery import pictures_of
from malmoi.show.picture import Picture, drawing, printable, shown
from malmoi.text.tokenizer import Tokenizer
from tests.methods.tiny import fitted_to, tokenizer_of, world, write_model

ENGLISH, KOREAN = "The goose sang at the mill.", "거위가 노래를 불렀다."
READ = ["embedding", "neighbours", "map", "losses", "next"]
QUICK = Budget(steps=1)


def names(pictures: list[Picture]) -> list[str]:
    return [picture.name for picture in pictures]


def assert_shows(picture: Picture, *words: str) -> None:
    """Something is drawn on the white, inside of the picture, and these words are."""
    pixels = imread(io.BytesIO(picture.png()))[..., :3]
    drawn = (pixels < 0.99).any(-1)
    assert drawn.mean() > 0.005
    for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert not edge.any()
    said = {text.get_text() for text in picture.figure.findobj(Text) if text.get_visible()}
    assert {*words} <= said


def tokens_of(loaded: Loaded, text: str) -> list[str]:
    return [shown(loaded.tokenizer.token_text(id)) for id in loaded.tokenizer.encode(text)]


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "gpt")


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "lstm", family="lstm")


@pytest.fixture(scope="module")
def ngram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("models") / "ngram", Tokenizer.from_json(tokenizer_of("bpe"))
    ids = tokenizer.encode(f"{ENGLISH} {KOREAN} " * 3)
    save_model(folder, KneserNey.fit(np.array(ids), tokenizer.vocab_size, order=3), tokenizer)
    return folder


@pytest.mark.parametrize("text", [ENGLISH, KOREAN])
def test_a_gpt(gpt: Path, text: str) -> None:
    loaded = Loaded(gpt)
    pictures = pictures_of(loaded, text)
    assert names(pictures) == ["tokens", *READ, "attention", "attention-head"]
    pieces = [piece for one in cuts_of(text, loaded.tokenizer) for piece in one.pieces]
    words = {"tokens": pieces, **dict.fromkeys(("losses", "attention-head"), tokens_of(loaded, text))}
    for picture in pictures:
        assert_shows(picture, *words.get(picture.name, ()))
        assert picture.title
        assert picture.explanation.endswith((".", ")"))


def test_a_chosen_layer_and_head(gpt: Path) -> None:
    *_, head = pictures_of(Loaded(gpt), ENGLISH, layer=1, head=2)
    assert "Layer 1, head 2." in head.explanation
    for layer, number, wrong in ((9, None, "layer 9"), (0, None, "layer 0"), (None, 3, "head 3")):
        with pytest.raises(UserError, match=f"{wrong} is not there; this model has"):
            pictures_of(Loaded(gpt), ENGLISH, layer=layer, head=number)


def test_an_lstm(lstm: Path) -> None:
    pictures = pictures_of(Loaded(lstm), KOREAN)
    assert names(pictures) == ["tokens", *READ, "gates"]
    assert "forget gate" in pictures[-1].explanation


def test_an_ngram_model_says_which_order_answered(ngram: Path) -> None:
    model = Loaded(ngram)
    assert names(pictures_of(model, ENGLISH)) == ["tokens", "orders", "losses", "next"]
    ids = model.tokenizer.encode(ENGLISH)
    assert isinstance(model.model, KneserNey)
    orders, counts = orders_of(model.model, ids)
    assert orders == [1, 2, *[3] * (len(ids) - 2)]
    assert counts[-5:] == [3] * 5  # where the text begins, no space stands before it
    never = next(id for id in range(20, 700) if id not in ids + model.tokenizer.encode(KOREAN))
    assert orders_of(model.model, [ids[0], never, ids[0]])[0] == [1, 0, 1]


def test_a_long_text_is_shown_in_part(gpt: Path) -> None:
    pictures = {picture.name: picture for picture in pictures_of(Loaded(gpt), ENGLISH * 30)}
    assert "(The first 40 of " in pictures["losses"].explanation
    assert "One row: 40 predictions" in pictures["losses"].title


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused(gpt: Path, text: str) -> None:
    with pytest.raises(UserError, match="the text is empty"):
        pictures_of(Loaded(gpt), text)


def test_one_token_is_enough(gpt: Path, lstm: Path, ngram: Path) -> None:
    for folder in (gpt, lstm, ngram):
        loaded = Loaded(folder)
        for picture in pictures_of(loaded, "a"):
            assert_shows(picture, *(tokens_of(loaded, "a") if picture.name == "losses" else ()))


@settings(max_examples=15, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_any_text_can_be_drawn(text: str) -> None:
    if text.split():
        with drawing():
            picture = draw_tokens(text, None)
        pieces = {piece for one in cuts_of(" ".join(text.split()), None) for piece in one.pieces}
        assert_shows(picture, *map(printable, pieces))


def test_cuts_are_the_text() -> None:
    for text in (ENGLISH, KOREAN):
        for one in cuts_of(text, None):
            assert "".join(one.pieces) == text
    assert [one.name for one in cuts_of(ENGLISH, None)] == ["words", "characters"]


def test_tokens_on_one_line() -> None:
    assert shown(" a\nb\t") == "␣a⏎b⇥"
    assert shown(r"\xeb\xb9") == "‹eb b9›"
    assert shown("a" * 30) == "a" * 13 + "…"
    assert shown("\x00") == "·"


# --- fitted methods


@cache
def fitted(task: str, name: str, **options: object) -> LoadedMethod:
    made, examples = world(task)
    method = fitted_to(make_method(name, made, options), examples[:50], examples[50:], QUICK)
    with TemporaryDirectory() as folder:
        save_method(Path(folder) / name, method)
        return LoadedMethod(Path(folder) / name)


GATES = ["gates-encoder-forwards", "gates-encoder-backwards"]
ATTENTION = ["attention-encoder", "attention-head-encoder"]
SMALL = {"width": 16, "layers": 1, "epochs": 1}


@pytest.mark.parametrize(
    ("task", "name", "wanted"),
    [
        ("classification", "lstm", GATES),
        ("classification", "gru", GATES),
        ("classification", "transformer", ATTENTION),
        ("ner", "rnn", GATES),
        ("question-answering", "transformer", ATTENTION),
        ("translation", "lstm", ["alignment", *GATES, "gates-decoder"]),
        (
            "translation",
            "transformer",
            [*ATTENTION, "attention-decoder", "attention-head-decoder", "alignment"],
        ),
        ("completion", "ngram", ["orders", "losses", "next"]),
        ("completion", "lstm", [*READ, "gates"]),
        ("summarization", "lead", []),
    ],
)
def test_fitted_methods(task: str, name: str, wanted: list[str]) -> None:
    options = SMALL if wanted and name != "ngram" else {}
    if name == "transformer":
        options = options | {"heads": 2}
    loaded = fitted(task, name, **options)
    asked = {"question": "누가 노래를 불렀나?", "context": KOREAN}
    text = json.dumps(asked) if task == "question-answering" else KOREAN
    pictures = pictures_of(loaded, text)
    assert names(pictures) == ["tokens", *wanted]
    assert_shows(pictures[-1])


@pytest.mark.parametrize("text", [ENGLISH, KOREAN, "  wonderful  bread!! 정말 좋았다, wonderful ", "zzz"])
@pytest.mark.parametrize("name", ["tfidf", "lexicon"])
def test_words_add_up_to_the_scores(name: str, text: str) -> None:
    loaded = fitted("classification", name)
    _, bag = loaded.insides(text)
    scores_L = torch.from_numpy(bag.added_LW.sum(1) + bag.bias_L)  # pyright: ignore
    (wanted,) = loaded.method.raw_probabilities([text])  # pyright: ignore
    for label, share in zip(bag.labels, scores_L.softmax(0).tolist(), strict=True):  # pyright: ignore
        assert share == pytest.approx(wanted[label], abs=1e-4)
    assert bag.words == tuple(text.split())  # pyright: ignore
    assert names(pictures_of(loaded, text)) == ["tokens", "words"]


def test_an_input_of_another_form_is_refused() -> None:
    loaded = fitted("question-answering", "sentence")
    with pytest.raises(UserError, match="question"):
        pictures_of(loaded, ENGLISH)


# --- files


def test_the_command_line(gpt: Path, tmp_path: Path) -> None:
    text = "<b>거위</b> & goose"
    result = CliRunner().invoke(
        app, ["inside", str(gpt), text, "--out", str(tmp_path / "out"), "--head", "2"]
    )
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    files = sorted(path.stem for path in (tmp_path / "out").glob("*.png"))
    assert files == sorted(["tokens", *READ, "attention", "attention-head"])
    assert page.count("data:image/png;base64,") == len(files)
    assert "&lt;b&gt;거위&lt;/b&gt; &amp; goose" in page
    assert "<b>" not in page
    assert not re.search(r"(src|href)=\"(?!data:)|@import|url\(|<script", page)


def test_the_command_line_says_what_is_wrong(gpt: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["inside", str(gpt), "goose", "--out", str(tmp_path / "out"), "--layer", "7"]
    )
    assert isinstance(result.exception, UserError)
    assert not (tmp_path / "out").exists()
