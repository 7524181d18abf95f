"""What the readers and writers of outside architectures share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from malmoi.core.errors import UserError
from malmoi.core.nouns import Json
from malmoi.models.config import (
    MOST_LAYERS,
    MOST_SIZE,
    MOST_VOCAB,
    RopeScaling,
    TransformerConfig,
    rope_scaling_adapter,
)


class Wanted(NamedTuple):
    """What the value of a key in a config of others must be: in words, and as a check."""

    words: str
    holds: Callable[[Any], bool]


def _whole(least: int, most: int) -> Wanted:
    words = f"a whole number from {least} to {most:,}"
    return Wanted(words, lambda it: type(it) is int and least <= it <= most)


def _real(least: float, most: float) -> Wanted:
    words = f"a number from {least:g} to {most:g}"
    return Wanted(words, lambda it: type(it) in (int, float) and least <= it <= most)


def _or_null(wanted: Wanted) -> Wanted:
    return Wanted(f"{wanted.words}, or null", lambda it: it is None or wanted.holds(it))


def _list_of(*kinds: type) -> Callable[[Any], bool]:
    return lambda it: it is None or (isinstance(it, list) and all(type(one) in kinds for one in it))


_SIZE, _LAYERS, _SCALE = _whole(1, MOST_SIZE), _whole(1, MOST_LAYERS), _or_null(_real(1e-6, 1e12))
# Every value that is read from a config of others, so that what reads it need not ask what it is.
_VALUES: dict[str, Wanted] = {
    "vocab_size": _whole(1, MOST_VOCAB),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), _LAYERS),
    **dict.fromkeys((
        "max_position_embeddings", "n_positions", "hidden_size", "n_embd", "dim", "num_attention_heads",
        "n_head", "n_heads", "hidden_dim",
    ), _SIZE),
    **dict.fromkeys((
        "intermediate_size", "n_inner", "num_key_value_heads", "head_dim", "sliding_window",
        "sliding_window_pattern", "no_rope_layer_interval", "original_max_position_embeddings",
    ), _or_null(_SIZE)),
    **dict.fromkeys(("max_window_layers", "type_vocab_size"), _or_null(_whole(0, MOST_SIZE))),
    "pad_token_id": _or_null(_whole(-1, MOST_VOCAB)),
    **dict.fromkeys(("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps"), _real(1e-30, 1.0)),
    **dict.fromkeys((
        "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "rope_theta",
        "rope_local_base_freq", "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow",
        "mscale", "mscale_all_dim", "attention_factor",
    ), _SCALE),
    **dict.fromkeys((
        "tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window",
    ), Wanted("true or false", lambda it: it is None or type(it) is bool)),
    **dict.fromkeys((
        "hidden_act", "hidden_activation", "activation", "rope_type",
    ), Wanted("text", lambda it: it is None or type(it) is str)),
    "layer_types": Wanted("a list of text", _list_of(str)),
    "no_rope_layers": Wanted("a list of 0 and 1", _list_of(int, bool)),
}  # fmt: skip
_ROPE = ("rope_scaling", "rope_parameters", "full_attention", "sliding_attention")  # objects inside a config


def check_values(found: Mapping[str, Any], where: str = "") -> None:
    """Raise UserError for the first value that is of another kind, or beyond what any model has.

    found: a config of others, or an object in it (`where` says which).
    """
    for name, value in found.items():
        wanted = _VALUES.get(name)
        if wanted is not None and not wanted.holds(value):
            raise UserError(f"config.json has {where}{name} = {value!r}; it must be {wanted.words}")
        if isinstance(value, dict) and name in _ROPE:
            check_values(value, f"{where}{name}.")


# What every architecture can say, whatever its value.
_SIZES = frozenset({
    "family", "vocab_size", "context", "layers", "width", "heads", "kv_heads", "head_width", "ff_width",
    "tied", "norm_eps", "dropout",
})  # fmt: skip


def choices(config: TransformerConfig, fixed: Mapping[str, Any], free: Collection[str]) -> list[str]:
    """The choices of `config` that an architecture cannot express, each as "name = value".

    fixed: the choices that it makes. free: those that it leaves to a model. All others are at their defaults,
    so that a choice which is new here is in no architecture until one says so.
    """
    allowed = {name: field.default for name, field in TransformerConfig.model_fields.items()} | dict(fixed)
    return [
        f"{name} = {getattr(config, name)}" for name, value in allowed.items()
        if name not in _SIZES and name not in free and getattr(config, name) != value
    ]  # fmt: skip


def require(found: Json, name: str, *known: Any, file: str = "config.json") -> None:
    """Raise UserError where an outside config asks for a value that would otherwise be ignored."""
    if name in found and found[name] not in known:
        allowed = " or ".join(map(repr, known))
        raise UserError(f"{file} has {name} = {found[name]!r}; only {allowed} is supported here")


def first_fault(error: ValidationError) -> str:
    """What a config's check found first, in a line: where, and what is wrong there."""
    first = error.errors()[0]
    where = [".".join(map(str, first["loc"]))] if first["loc"] else []
    return ": ".join([*where, first["msg"].removeprefix("Value error, ")])


_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_FROM_ORIGINAL = ("llama3", "yarn", "longrope")


def read_rope(found: Json, default_theta: float = 10_000.0) -> tuple[float, RopeScaling | None]:
    """The base and the scaling of a config. Raises UserError or ValidationError for what we do not have."""
    rope = rope_object(found, "rope_scaling") or rope_object(found, "rope_parameters")
    nested = [name for name, value in rope.items() if isinstance(value, dict)]
    if nested:
        raise UserError(f"config.json has rope_parameters for {nested[0]} alone; only one for all works here")
    old_kind = rope.pop("type", None)
    kind = rope.pop("rope_type", None) or old_kind or "default"
    for where in (rope, found):
        require(where, "partial_rotary_factor", None, 1)
    rope.pop("partial_rotary_factor", None)
    theta = rope.pop("rope_theta", None) or found.get("rope_theta") or default_theta
    if kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise UserError(f"config.json asks for rope_type {kind!r}; what works here is {known}")
    if kind == "default":
        return theta, None
    if kind in _FROM_ORIGINAL:
        _settle_context(kind, rope, found)
    given = {name: value for name, value in rope.items() if value is not None}
    return theta, rope_scaling_adapter.validate_python({"rope_type": kind} | given)


def rope_object(found: Json, name: str) -> Json:
    """A copy of the object of that name, {} where there is none. Raises UserError for anything else."""
    value = found.get(name) or {}
    if not isinstance(value, dict):
        raise UserError(f"config.json has {name} = {value!r}; it must be a JSON object")
    return dict(value)


def _settle_context(kind: str, rope: Json, found: Json) -> None:
    """Fill in what these scalings take from the model's context where they do not say it."""
    context = found["max_position_embeddings"]
    original = found.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    rope["original_max_position_embeddings"] = original or context
    if kind != "llama3" and rope.get("factor") is None:
        rope["factor"] = context / rope["original_max_position_embeddings"]


def write_rope(config: TransformerConfig) -> Json:
    """The inverse of `read_rope`, as transformers 4 and 5 and vLLM read it."""
    if config.rope is None:
        return {"rope_theta": config.rope_theta}
    scaling = config.rope.model_dump(mode="json", exclude_defaults=True)
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": {"rope_type": config.rope.rope_type} | scaling,
    }
