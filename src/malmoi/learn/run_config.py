"""A run as a typed value: from a recipe and settings `a.b=c` to a checked configuration."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from malmoi.core.config import StrictModel, apply_setting
from malmoi.core.errors import UserError, nearest
from malmoi.core.nouns import Json
from malmoi.learn.size import DEPTHS, Size, derived
from malmoi.learn.update import OptimSpec
from malmoi.models.config import RecurrentConfig, TransformerConfig, model_config_adapter


class TokenizerSpec(StrictModel):
    """path: an existing tokenizer; without one, `kind` and `vocab_size` say which to train."""

    kind: Literal["word", "character", "byte", "bpe", "unigram", "wordpiece"] = "bpe"
    vocab_size: PositiveInt = 8192
    path: str | None = None


class DataSpec(StrictModel):
    """valid: a path of its own, or none: the corpus's valid files, or a part held out of it."""

    valid: str | None = None
    field: str = "text"
    errors: Literal["strict", "replace"] = "strict"


class LoopSpec(OptimSpec):
    """The training loop. A step reads `batch` rows, `micro_batch` of them at a time."""

    steps: PositiveInt = 1000
    batch: PositiveInt = 16
    micro_batch: PositiveInt | None = None  # None: chosen, and recorded in run.json
    checkpoint_every: PositiveInt = 500
    eval_every: PositiveInt = 250


class TrainSpec(LoopSpec):
    """How to pre-train. A row has `context` tokens."""

    context: PositiveInt = 256
    eval_tokens: PositiveInt = 65_536
    sample_prompt: Annotated[str, Field(min_length=1)] | None = (
        None  # what samples while training begin with; None: as the validation text
    )


class NGramSpec(StrictModel):
    """An n-gram model: `order` tokens at most are counted together."""

    family: Literal["ngram"] = "ngram"
    order: PositiveInt = 5


class AnyRun(StrictModel):
    """What the configuration of every run has.

    licence: of the data, for the model card; None: a LICENSE beside them says it.
    """

    licence: str | None = None

    train: LoopSpec


class RunConfig(AnyRun):
    """Everything that decides a run, except the text. `model` lacks vocab_size and context."""

    name: str
    size: Size | None = None  # what the recipe and the settings leave open was derived from it
    model: Json
    tokenizer: TokenizerSpec = TokenizerSpec()
    data: DataSpec = DataSpec()
    train: TrainSpec = TrainSpec()  # pyright: ignore[reportIncompatibleVariableOverride]  (frozen)

    @property
    def is_ngram(self) -> bool:
        """Whether the model is counted, not trained."""
        return self.model.get("family") == "ngram"

    def check_model(self) -> None:
        """Raises UserError where `model` is not one that can be built."""
        if self.is_ngram:
            checked(TypeAdapter(NGramSpec), self.model, "model")
        else:
            self.model_config_for(vocab_size=1, context=self.train.context)

    def model_config_for(self, vocab_size: int, context: int) -> TransformerConfig | RecurrentConfig:
        """The model's config, now that the tokenizer and the text are known."""
        known = {"vocab_size": vocab_size}
        if self.model.get("family") == "transformer":
            known["context"] = context
        return checked(model_config_adapter, self.model | known, "model")


def recipe_names() -> list[str]:
    """The recipes that come with malmoi."""
    return sorted(_recipes())


def _recipes() -> dict[str, Json]:
    """Every recipe by its name: those that fix their shape, and each family in every size."""
    table = yaml.safe_load((files("malmoi.learn") / "recipes.yaml").read_text(encoding="utf-8"))
    sized = {
        f"{name}-{size}": value | {"size": size}
        for name, value in table["families"].items()
        for size in DEPTHS
    }
    return table["recipes"] | sized


def load_run(recipe: str, settings: Sequence[str] = (), size: str | None = None) -> RunConfig:
    """A recipe, resized if asked, with `a.b=c` settings applied: `settings` over `size` over the recipe.

    Raises UserError with the nearest valid name.
    """
    recipes = _recipes()
    if recipe not in recipes:
        raise UserError(f"unknown recipe {recipe!r}; {nearest(recipe, recipes)}")
    value = recipes[recipe]
    if size is not None:
        value = _merged(value, _derived(size, value) | {"size": size})
    elif "size" in value:
        value = _merged(_derived(value["size"], value), value)
    for setting in settings:
        apply_setting(value, setting)
    run = checked(TypeAdapter(RunConfig), value | {"name": recipe}, "")
    run.check_model()  # a wrong key fails before any work
    for setting in settings:
        _refuse_without_effect(run, setting.partition("=")[0])
    return run


def _derived(size: str, value: Json) -> Json:
    if size not in DEPTHS:
        raise UserError(f"unknown size {size!r}; {nearest(size, DEPTHS)}")
    if value["model"]["family"] == "ngram":
        raise UserError("an n-gram model has no `size`; give `set` model.order=5 and tokenizer.vocab_size")
    return derived(size, value["model"]["family"])


def _merged(under: Json, over: Json) -> Json:
    """The keys of both, `over` winning, one level deep."""
    return {
        key: under[key] | over[key]
        if isinstance(under.get(key), dict) and key in over
        else over.get(key, under.get(key))
        for key in under | over
    }


def _refuse_without_effect(run: RunConfig, path: str) -> None:
    """Raises UserError for a setting that the run would not look at."""
    if run.is_ngram and path.startswith("train.") and path != "train.eval_tokens":
        raise UserError(f"`set` {path}: an n-gram model is counted, not trained; leave it out")
    if path in ("tokenizer.kind", "tokenizer.vocab_size") and run.tokenizer.path:
        raise UserError(f"`set` {path}: tokenizer.path names a finished tokenizer; leave one of them out")


def checked(adapter: TypeAdapter[Any], value: Json, place: str, root: type[BaseModel] | None = None) -> Any:
    """Validate; turn pydantic's first finding into one line with the nearest valid name.

    root: what `value` is, where it is no `RunConfig`.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        if place:
            member = path[:1] == [str(value.get("family"))]  # the name of a union's member leads the path
            path = [place, *path[member:]]
        where = ".".join(path) or place
        if first["type"] == "extra_forbidden":
            raise UserError(
                f"unknown key {where!r}; {nearest(path[-1], _known(value, path, place, root or RunConfig))}"
            ) from None
        raise UserError(f"{where or 'configuration'}: {first['msg'].removeprefix('Value error, ')}") from None


def _known(value: Json, path: Sequence[str], place: str, root: type[BaseModel]) -> list[str]:
    """The field names valid where `path` points."""
    if place:
        families = {"transformer": TransformerConfig, "ngram": NGramSpec}
        return list(families.get(str(value.get("family")), RecurrentConfig).model_fields)
    for part in path[:-1]:
        annotation = root.model_fields[part].annotation
        root = next(it for it in (annotation, *get_args(annotation)) if isinstance(it, type))
        assert issubclass(root, BaseModel)
    return list(root.model_fields)
