"""Rotary positions in configs of the Hugging Face libraries: `rope_scaling`, or `rope_parameters` since 5."""

from __future__ import annotations

from malmoi.hub.outside import Json, require
from malmoi.models.config import RopeScaling, TransformerConfig, rope_scaling_adapter
from malmoi.util.errors import UserError

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
