"""A run as a typed value: from a recipe and settings `a.b=c` to a checked configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from malmoi.core.config import StrictModel, apply_setting
from malmoi.core.errors import UserError, nearest
from malmoi.core.nouns import Json
from malmoi.hub.chat_models import load_trainable
from malmoi.hub.folder import model_path, weights_hash
from malmoi.hub.gguf_file import is_gguf
from malmoi.learn.optim import OptimizerKind, Schedule
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig, model_config_adapter
from malmoi.models.language import LanguageModel
from malmoi.models.lora import Base, LoRASpec
from malmoi.util.hardware import training_dtype

Beta = Annotated[float, Field(ge=0, lt=1)]
Size = Literal["nano", "micro", "mini", "small", "base"]
DEPTHS: dict[Size, int] = {"nano": 2, "micro": 4, "mini": 6, "small": 8, "base": 12}
FULL_LR, LORA_LR = 2e-3, 6e-3  # of Muon on all weights of a small model, of AdamW on LoRA's
SMALL_WIDTH = 256  # of the widest small model; wider ones are moved in smaller steps
EVALUATIONS = 5  # of a tuning on the way, the last step's included


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


class OptimSpec(StrictModel):
    """How weights move, in every kind of training."""

    lr_name: ClassVar[str] = "lr"  # what its user calls it

    optimizer: OptimizerKind = "adamw"
    lr: PositiveFloat = 1e-3
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    clip: PositiveFloat = 1.0
    schedule: Schedule = "cosine"
    warmup_steps: NonNegativeInt = 100
    floor: Annotated[float, Field(ge=0, le=1)] = 0.1
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


Spec = TypeVar("Spec", bound=OptimSpec)


def with_lr(spec: Spec, width: int, *, lora: bool) -> Spec:
    """The spec of a tuning with the usual learning rate for a model of that width, unless one is given."""
    lr = (LORA_LR if lora else FULL_LR) * min(1, SMALL_WIDTH / width)
    return spec if "lr" in spec.model_fields_set else spec.model_copy(update={"lr": lr})


class LoopSpec(OptimSpec):
    """The training loop. A step reads `batch` rows, `micro_batch` of them at a time."""

    lr_name = "train.lr"
    save_s: ClassVar[float] = 0.0  # at least so long between two checkpoints

    steps: PositiveInt = 1000
    batch: PositiveInt = 16
    micro_batch: PositiveInt | None = None  # None: chosen, and recorded in run.json
    checkpoint_every: PositiveInt = 500
    eval_every: PositiveInt = 250

    @property
    def tries(self) -> int | None:
        """After how many evaluations without a better one to end, with the best weights; None: never."""
        return None

    def evaluates_after(self, step: int) -> bool:
        """Whether the validation rows are looked at after `step` steps."""
        return step == self.steps or step % self.eval_every == 0

    def saves_after(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        return step == self.steps or step % self.checkpoint_every == 0

    def evaluations_in(self, steps: int) -> int:
        """How many evaluations there are in `steps` steps."""
        return -(-steps // self.eval_every)

    def planned(self, rows_per_epoch: int, most: int | None = None) -> Self:
        """The spec with its steps settled, `most` at most."""
        del rows_per_epoch, most
        return self

    @property
    def how(self) -> str:
        """By which optimizer, in a line."""
        return f"{self.optimizer}, learning rate {self.lr:g}, {self.schedule}"


class TrainSpec(LoopSpec):
    """How to pre-train. A row has `context` tokens. order: of the rows; as_written is for a text that begins
    with what is easy."""

    context: PositiveInt = 256
    order: Literal["shuffled", "as_written"] = "shuffled"
    eval_tokens: PositiveInt = 65_536
    sample_prompt: Annotated[str, Field(min_length=1)] | None = (
        None  # what samples while training begin with; None: as the validation text
    )

    def planned(self, rows_per_epoch: int, most: int | None = None) -> Self:
        """With a budget `most` steps, and a warm-up that is a part of them."""
        del rows_per_epoch
        steps = min(self.steps, most or self.steps)
        fewer = {"steps": steps, "warmup_steps": min(self.warmup_steps, steps // 10)}
        return self.model_copy(update=fewer) if steps < self.steps else self


class TuneSpec(LoopSpec):
    """How to tune. A window has `context` tokens (None: as many as the model's, at most 512); more than the
    model was made for are learned where its positions are rotary.

    epochs: how often each row is seen, unless `steps` are given. lr: unless given it is less for wide models.
    """

    optimizer: OptimizerKind = "muon"
    schedule: Schedule = "cosine"
    warmup_steps: int = 20
    lr: PositiveFloat = FULL_LR
    weight_decay: float = 0.0
    epochs: PositiveFloat = 3
    context: PositiveInt | None = None

    def evaluations_in(self, steps: int) -> int:
        asked = "eval_every" in self.model_fields_set
        found = super().evaluations_in(steps) if asked else min(steps, EVALUATIONS)
        return found + 1  # for the card

    def planned(self, rows_per_epoch: int, most: int | None = None) -> Self:
        """As many steps as the epochs are, unless they are given; how often to evaluate and to save."""
        steps = math.ceil(self.epochs * rows_per_epoch / self.batch)
        steps = self.steps if "steps" in self.model_fields_set else min(steps, most or steps)
        every = math.ceil(steps / EVALUATIONS)
        warmup_steps = min(self.warmup_steps, steps // 10)
        derived = {
            "steps": steps, "eval_every": every, "checkpoint_every": every, "warmup_steps": warmup_steps
        }  # fmt: skip
        asked = {name: getattr(self, name) for name in derived if name in self.model_fields_set}
        return self.model_copy(update=derived | asked)


class PreferenceSpec(TuneSpec):
    """How to learn preferences. beta: how dear it is to leave the reference; the larger, the nearer to it.

    label_smoothing: the share of pairs that are thought to be the wrong way round (Mitchell 2023).
    """

    optimizer: OptimizerKind = "adamw"
    lr: PositiveFloat = 5e-5  # of all weights; small, or answers of both kinds become unlikely
    epochs: PositiveFloat = 1
    beta: PositiveFloat = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


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


class BaseSpec(StrictModel):
    """A finished model that training goes on with: its folder, and the SHA-256 of its weights."""

    path: str
    weights: str


class RunConfig(AnyRun):
    """Everything that decides a run, except the text. `model` lacks vocab_size and context.

    base: the model to go on with; then it has the shape, `model` says nothing, and the tokenizer is its own.
    budget_seconds: there are at most as many steps as it affords, going by a few of them.
    """

    name: str
    budget_seconds: PositiveFloat | None = None
    base: BaseSpec | None = None
    size: Size | None = None  # what the recipe and the settings leave open was derived from it
    model: Json
    tokenizer: TokenizerSpec = TokenizerSpec()
    data: DataSpec = DataSpec()
    train: TrainSpec = TrainSpec()  # pyright: ignore[reportIncompatibleVariableOverride]  (frozen)

    @property
    def is_ngram(self) -> bool:
        """Whether the model is counted, not trained."""
        return self.model.get("family") == "ngram"

    @property
    def settings_of_size(self) -> str:
        """What the size stands for, or ''."""
        if self.size is None:
            return ""
        groups = derived(self.size, str(self.model["family"]))
        shown = (f"{group}.{key}={it}" for group, keys in groups.items() for key, it in keys.items())
        return f"{self.size} stands for {', '.join(shown)}; change any with `set`"

    def check_model(self) -> None:
        """Raises UserError where `model` is not one that can be built."""
        if self.is_ngram:
            checked(TypeAdapter(NGramSpec), self.model, "model")
        elif self.base is None:
            self.model_config_for(vocab_size=1, context=self.train.context)

    def model_config_for(self, vocab_size: int, context: int) -> TransformerConfig | RecurrentConfig:
        """The model's config, now that the tokenizer and the text are known."""
        known = {"vocab_size": vocab_size}
        if self.model.get("family") == "transformer":
            known["context"] = context
        return checked(model_config_adapter, self.model | known, "model")

    def first_model(self, vocab_size: int, context: int) -> LanguageModel:
        """The model before the first step: new, or the one to go on with, made to read `context` tokens."""
        if self.base is None:
            return build_model(self.model_config_for(vocab_size, context))
        model, _ = load_trainable(Path(self.base.path))
        model.extend(context)
        return model


class TuneConfig(AnyRun):
    """Everything that decides a tuning, except the data. model: the folder that it begins with.

    budget_seconds: there are at most as many steps as it affords, going by a few of them.
    """

    with_lora: ClassVar[Json] = {"optimizer": "adamw"}  # what is usual there

    model: str
    weights: str  # their SHA-256
    data: tuple[str, ...]
    valid: tuple[str, ...] = ()
    budget_seconds: PositiveFloat | None = None
    fields: dict[str, str] = Field(default_factory=dict)
    allow_skips: bool = False
    lora: LoRASpec | None = None
    train: TuneSpec = TuneSpec()  # pyright: ignore[reportIncompatibleVariableOverride]  (frozen)

    @property
    def how(self) -> str:
        """What of the model is tuned."""
        return f"LoRA of rank {self.lora.rank}" if self.lora else "all weights"

    def base_of(self, model: LanguageModel) -> Base | None:
        """What LoRA's frozen matrices are held in; None: in fp32, as they were loaded."""
        assert self.lora is not None
        if self.lora.base != "auto":
            return self.lora.base
        is_bf16 = training_dtype(self.train.dtype, model.device, model.config.width) == "bf16"
        return "bf16" if is_bf16 else None


class AlignConfig(TuneConfig):
    """Everything that decides a preference tuning, except the data."""

    with_lora: ClassVar[Json] = {"lr": 5e-4}

    train: PreferenceSpec = PreferenceSpec()  # pyright: ignore[reportIncompatibleVariableOverride]  (frozen)


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

    recipe: its name, or the folder of a model to go on with. Raises UserError with the nearest valid name.
    """
    recipes = _recipes()
    if recipe not in recipes and model_path(recipe).exists():
        return _going_on(model_path(recipe), settings, size)
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


def _going_on(folder: Path, settings: Sequence[str], size: str | None) -> RunConfig:
    """The run that trains a finished model further. Raises UserError for a setting without effect."""
    if is_gguf(folder):
        raise UserError(f"{folder} is one file; make a folder of it first: malmoi import {folder} ...")
    taken = next((it for it in settings if it.startswith(("model.", "tokenizer."))), size and "`size`")
    if taken:
        raise UserError(f"{taken} has no effect: {folder} keeps its shape and its tokenizer; leave it out")
    value: Json = {
        "name": folder.resolve().name, "model": {"family": "transformer"},
        "tokenizer": {"path": str(folder.resolve())}, "train": {"optimizer": "muon", "schedule": "wsd"},
        "base": {"path": str(folder.resolve()), "weights": weights_hash(folder)},
    }  # fmt: skip
    for setting in settings:
        apply_setting(value, setting)
    return checked(TypeAdapter(RunConfig), value, "")


def configured(kind: type[AnyRun], settings: Sequence[str]) -> AnyRun:
    """What `a.b=c` settings make of a configuration. Raises UserError, with the nearest valid name."""
    value: Json = {"train": {}}
    for setting in settings:
        apply_setting(value, setting)
    return checked(TypeAdapter(kind), value, "", kind)


def load_tuning(
    model: Path, data: Sequence[str], valid: Sequence[str], settings: Sequence[str], *, lora: bool = False,
    fields: Mapping[str, str] | None = None, allow_skips: bool = False, budget_seconds: float | None = None,
    licence: str | None = None, kind: type[TuneConfig] = TuneConfig,
) -> TuneConfig:  # fmt: skip
    """What is asked for, with `train.a=b` and `lora.a=b` settings applied.

    Raises UserError, with the nearest valid name, for a wrong one, and for a `model` that is none.
    """
    value: Json = {"train": {**kind.with_lora}, "lora": {}} if lora else {"train": {}}
    for setting in settings:
        if setting.startswith("lora.") and not lora:
            raise UserError(f"`set` {setting} has no effect without `lora`")
        if not setting.startswith(("lora.", "train.")):
            raise UserError(f"`set` {setting}: known places are train and lora, for example train.epochs=2")
        apply_setting(value, setting)
    model = model_path(model)
    if budget_seconds and "steps" in value["train"]:
        raise UserError("`budget` and train.steps both say how long to tune; give one of them")
    known = {
        "model": str(model.resolve()), "weights": weights_hash(model), "data": tuple(data),
        "valid": tuple(valid), "fields": dict(fields or {}), "allow_skips": allow_skips,
        "budget_seconds": budget_seconds, "licence": licence,
    }  # fmt: skip
    config = checked(TypeAdapter(kind), value | known, "", kind)
    if config.lora and config.lora.base == "stored" and not is_gguf(model):
        raise UserError(
            f"`set` lora.base=stored keeps the bits of a GGUF file, and {model} is none; take int8 or int4"
        )
    return config


def load_alignment(
    model: Path, data: Path, valid: Path | None, settings: Sequence[str], *, beta: float | None = None,
    lora: bool = False, allow_skips: bool = False, licence: str | None = None,
) -> AlignConfig:  # fmt: skip
    """What is asked for; see `load_tuning`."""
    asked = [*settings, *([] if beta is None else [f"train.beta={beta}"])]
    config = load_tuning(
        model, [str(data)], [str(valid)] if valid else [], asked, lora=lora, allow_skips=allow_skips,
        licence=licence, kind=AlignConfig,
    )  # fmt: skip
    assert isinstance(config, AlignConfig)
    return config


def derived(size: Size, family: str) -> dict[str, dict[str, Any]]:
    """The settings that a size stands for, for a Transformer or a recurrent model of the same width.

    Depth d gives 64 d wide vectors, d heads, a context of 64 d tokens and a vocabulary of 1024 d. Wider
    models want smaller steps: the learning rate falls as width^-0.7, near what tuning finds at these sizes.
    """
    depth = DEPTHS[size]
    width = 64 * depth
    shape = {"layers": depth, "width": width, "heads": depth}
    if family != "transformer":
        shape = {"layers": 2, "width": width}
    train = {
        "steps": 125 * depth**2,
        "batch": 16 if depth <= 6 else 4 * depth,
        "context": 64 * depth,
        "lr": float(f"{0.003 * (128 / width) ** 0.7:.2g}"),
    }
    return {"model": shape, "tokenizer": {"vocab_size": 1024 * depth}, "train": train}


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
            member = path[:1] in (["transformer"], ["recurrent"])  # the union's member leads the path
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
