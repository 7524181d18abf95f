from __future__ import annotations

import pytest
from pydantic import ValidationError

from malmoi.core.errors import UserError
from malmoi.learn.run_config import DEPTHS, RunConfig, load_run, recipe_names
from malmoi.models.config import TransformerConfig


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_is_a_valid_run(recipe: str) -> None:
    config = load_run(recipe)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_family_has_a_recipe_for_every_size() -> None:
    sized = {f"{family}-{size}" for family in ("gpt", "lstm") for size in DEPTHS}
    assert set(recipe_names()) == sized | {
        "ngram",
        "gpt2-124m",
        "shakespeare-char",
        "shakespeare-char-cpu",
        "noru",
    }
    config = load_run("lstm-mini")
    assert (config.size, config.model["family"], config.model["width"]) == ("mini", "lstm", 384)
    assert load_run("gpt-nano", size="mini").model == load_run("gpt-mini").model


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [("shakespeare-char", 10.6e6), ("shakespeare-char-cpu", 0.8e6), ("gpt2-124m", 124e6)],
)
def test_known_shapes(recipe: str, parameters: float) -> None:
    import torch

    from malmoi.models.build import build_model

    config = load_run(recipe)
    with torch.device("meta"):
        vocab_size = 65 if "char" in recipe else 50257
        model = build_model(config.model_config_for(vocab_size, config.train.context))
    # nanoGPT's published counts leave learned positions out
    positions = config.train.context * config.model["width"] if "char" in recipe else 0
    assert model.num_parameters() - positions == pytest.approx(parameters, rel=0.02)


def test_settings_win_over_size_and_size_over_the_recipe() -> None:
    config = load_run("gpt-nano", ["model.layers=3", "train.lr=0.5"], size="mini")
    model = config.model_config_for(100, 10)
    assert isinstance(model, TransformerConfig)
    assert (model.layers, model.width, model.heads) == (3, 384, 6)
    assert config.train.lr == 0.5
    assert config.train.context == 384
    assert config.size == "mini"


def test_a_recipe_keeps_what_its_size_does_not_say() -> None:
    config = load_run("gpt-micro", size="small")
    assert config.train.optimizer == "muon"


@pytest.mark.parametrize(
    ("recipe", "settings", "size", "message"),
    [
        ("gpt-mikro", [], None, "gpt-micro"),
        ("gpt-nano", ["train.step=3"], None, "steps"),
        ("gpt-nano", ["model.layer=3"], None, "layers"),
        ("gpt-nano", ["tokeniser.kind=bpe"], None, "tokenizer"),
        ("gpt-nano", ["train.steps=many"], None, "train.steps"),
        ("gpt-nano", ["train.steps=0"], None, "train.steps"),
        ("gpt-nano", ["train.steps"], None, "a.b=c"),
        ("gpt-nano", ["name.x=1"], None, "recipe"),
        ("gpt-nano", ["size=mini"], None, "`size`"),
        ("gpt-nano", ["train.steps=[1"], None, "train.steps"),
        ("gpt-nano", ["model.heads=3"], None, "heads"),
        ("gpt-nano", ["model=3"], None, "model"),
        ("gpt-nano", [], "huge", "size"),
        ("lstm-nano", ["model.heads=2"], None, "heads"),
        ("ngram", ["model.ordr=2"], None, "order"),
        ("ngram", [], "mini", "n-gram"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    recipe: str, settings: list[str], size: str | None, message: str
) -> None:
    with pytest.raises(UserError) as found:
        load_run(recipe, settings, size)
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_a_run_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_run("gpt-nano").name = "other"  # type: ignore[misc]
