"""What a model is made of: one small typed config for each family, saved as `config.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter, model_validator

from malmoi.core.config import StrictModel
from malmoi.core.errors import nearest

# Recurrent cells by name, simplest first: classes, or where they are, as they bring PyTorch.
CELLS: dict[str, Any] = {
    "rnn": "malmoi.models.cells:RNN",
    "gru": "malmoi.models.cells:GRU",
    "lstm": "malmoi.models.cells:LSTM",
}
# No model is larger: a damaged config is refused before memory or time is spent on it.
MOST_VOCAB, MOST_LAYERS, MOST_SIZE = 1 << 24, 10_000, (1 << 31) - 1

Dropout = Annotated[float, Field(ge=0, lt=1)]
VocabSize = Annotated[int, Field(gt=0, le=MOST_VOCAB)]
Layers = Annotated[int, Field(gt=0, le=MOST_LAYERS)]
Size = Annotated[int, Field(gt=0, le=MOST_SIZE)]
Scale = Annotated[float, Field(ge=1e-6, le=1e12)]  # what numbers are multiplied or divided by, in 32 bits
Theta = Annotated[float, Field(gt=1, le=1e12)]  # the base of rotary positions
Epsilon = Annotated[float, Field(gt=0, le=1)]
Part = Literal["qkv", "out", "ff", "norm"]  # what may have biases: attention in and out, feed-forward, norms


class LinearRope(StrictModel):
    """Positions divided by `factor` (Chen et al. 2023)."""

    rope_type: Literal["linear"] = "linear"
    factor: Scale


class DynamicRope(StrictModel):
    """NTK scaling: the base grows with rows that are longer than the model's context."""

    rope_type: Literal["dynamic"] = "dynamic"
    factor: Scale


class Llama3Rope(StrictModel):
    """Slow frequencies divided by `factor`, fast ones as they are, a ramp between (Llama 3.1)."""

    rope_type: Literal["llama3"] = "llama3"
    factor: Scale
    low_freq_factor: Scale
    high_freq_factor: Scale
    original_max_position_embeddings: Size

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor must be larger than low_freq_factor")
        return self


class YarnRope(StrictModel):
    """YaRN (Peng et al. 2023): a ramp over dimensions, and sharper attention."""

    rope_type: Literal["yarn"] = "yarn"
    factor: Scale
    original_max_position_embeddings: Size
    attention_factor: Scale | None = None
    beta_fast: Scale = 32.0
    beta_slow: Scale = 1.0
    mscale: Scale | None = None
    mscale_all_dim: Scale | None = None
    truncate: bool = True


class LongRope(StrictModel):
    """LongRoPE (Ding et al. 2024): a divisor for each frequency, another for longer rows."""

    rope_type: Literal["longrope"] = "longrope"
    factor: Scale
    original_max_position_embeddings: Annotated[int, Field(gt=1)]
    short_factor: tuple[Scale, ...]
    long_factor: tuple[Scale, ...]
    attention_factor: Scale | None = None


RopeScaling = Annotated[
    LinearRope | DynamicRope | Llama3Rope | YarnRope | LongRope, Field(discriminator="rope_type")
]
rope_scaling_adapter: TypeAdapter[LinearRope | DynamicRope | Llama3Rope | YarnRope | LongRope] = TypeAdapter(
    RopeScaling
)


class LayerKind(NamedTuple):
    """How a layer's attention differs from other layers'."""

    has_window: bool
    has_rope: bool


class TransformerConfig(StrictModel):
    """A decoder Transformer, composed from blocks by these choices (never by a model's name)."""

    family: Literal["transformer"] = "transformer"
    vocab_size: VocabSize
    context: Size  # the most positions that the model was made for
    layers: Layers
    width: Size
    heads: Size
    kv_heads: Size | None = None  # fewer than heads: grouped-query attention; None: as many as heads
    head_width: Size | None = None  # None: width / heads
    ff_width: Size | None = None  # None: 8/3 width (gated) or 4 width (gelu), rounded up to 64
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: bool = False  # RMSNorm's weights are stored minus one
    post_norm: bool = False  # what attention and feed-forward give is normed, too
    position: Literal["rotary", "learned"] = "rotary"
    feed_forward: Literal["swiglu", "geglu", "gelu"] = "swiglu"
    bias: bool | tuple[Part, ...] = False  # everywhere, nowhere, or in these parts
    qk_norm: bool = False
    tied: bool = False  # one matrix for embedding and output
    scaled_embedding: bool = False  # embeddings times sqrt(width)
    query_scalar: Size | None = None  # scores are divided by its root; None: by the head width's
    attention_softcap: Scale | None = None  # scores s become cap tanh(s / cap)
    logit_softcap: Scale | None = None  # the same for the final logits
    window: Size | None = None  # each position sees at most this many, itself included
    window_layers: tuple[bool, ...] | None = None  # a pattern, repeated over the layers; None: all have it
    rope_theta: Theta = 10_000.0
    rope: RopeScaling | None = None  # how rotary positions reach further; None: they do not
    rope_layers: tuple[bool, ...] | None = None  # a pattern; None: all layers turn by position
    window_rope_theta: Theta | None = None  # layers with a window: this base, unscaled; None: as all
    norm_eps: Epsilon = 1e-5
    dropout: Dropout = 0.0  # on embeddings and residual branches, never inside attention

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.heads % self.num_kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.position == "rotary" and self.size_of_head % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.size_of_head}")
        if self.norm_offset and self.norm != "rms":
            raise ValueError("norm_offset is for norm rms only")
        self._check_layers()
        return self

    def _check_layers(self) -> None:
        for name in ("window_layers", "rope_layers"):
            pattern = getattr(self, name)
            if pattern is not None and not 1 <= len(pattern) <= self.layers:
                raise ValueError(f"{name} has {len(pattern)} entries for {self.layers} layers")
        if self.window is None and (self.window_layers or self.window_rope_theta):
            raise ValueError("window_layers and window_rope_theta need a window")
        if self.position != "rotary" and (self.rope or self.rope_layers or self.window_rope_theta):
            raise ValueError("rope, rope_layers and window_rope_theta are for rotary positions")
        if isinstance(self.rope, DynamicRope) and self.size_of_head < 4:
            raise ValueError(f"rope_type dynamic needs a head width of at least 4, not {self.size_of_head}")
        if isinstance(self.rope, LongRope):
            for name in ("short_factor", "long_factor"):
                if len(getattr(self.rope, name)) != self.size_of_head // 2:
                    raise ValueError(f"rope.{name} needs half of the head width, {self.size_of_head // 2}")

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """Each layer's kind."""
        windows = _repeated(self.window_layers or (True,), self.layers)
        ropes = _repeated(self.rope_layers or (True,), self.layers)
        return tuple(
            LayerKind(self.window is not None and window, self.position == "rotary" and rope)
            for window, rope in zip(windows, ropes, strict=True)
        )

    @property
    def steady_context(self) -> int:
        """The longest row up to which a token's rotation does not depend on its row's length."""
        if isinstance(self.rope, LongRope):
            return min(self.context, self.rope.original_max_position_embeddings)
        return self.context

    def has_bias(self, part: Part) -> bool:
        return self.bias if isinstance(self.bias, bool) else part in self.bias

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def size_of_head(self) -> int:
        return self.head_width or self.width // self.heads

    @property
    def size_of_ff(self) -> int:
        wanted = self.width * 4 if self.feed_forward == "gelu" else self.width * 8 / 3
        return self.ff_width or -(-int(wanted) // 64) * 64


def _repeated(pattern: Sequence[bool], length: int) -> tuple[bool, ...]:
    return tuple(islice(cycle(pattern), length))


def _known_cell(name: str) -> str:
    if name not in CELLS:
        raise ValueError(f"no family {name!r}; {nearest(name, ('transformer', *CELLS))}")
    return name


def _known_family(name: str) -> str:
    return name if name == "transformer" else _known_cell(name)


class RecurrentConfig(StrictModel):
    """A recurrent language model: embedding, a stack of layers of one cell (see `CELLS`), output."""

    family: Annotated[str, AfterValidator(_known_cell)]
    vocab_size: VocabSize
    layers: Layers
    width: Size
    tied: bool = True
    dropout: Dropout = 0.0

    @property
    def context(self) -> None:
        """A recurrent state has no longest input."""
        return None


class ReaderConfig(StrictModel):
    """What encoders and encoder-decoders share. heads: of a Transformer; recurrent networks have none."""

    family: Annotated[str, AfterValidator(_known_family)]
    vocab_size: VocabSize
    layers: Layers = 2
    width: Size = 128
    heads: Size = 4
    dropout: Dropout = 0.0
    context: Size = 512  # positions prepared for a Transformer; rows may be longer

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.family == "transformer" and self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of twice the heads, {2 * self.heads}")
        if self.width % 2:
            raise ValueError(f"width {self.width} is odd, but each of two directions takes half of it")
        return self

    @property
    def blocks(self) -> TransformerConfig:
        """The choices of its Transformer blocks."""
        return TransformerConfig(
            vocab_size=self.vocab_size, context=self.context, layers=self.layers, width=self.width,
            heads=self.heads, dropout=self.dropout, tied=True,
        )  # fmt: skip


def _kind(config: Any) -> str:
    family = config.get("family") if isinstance(config, Mapping) else getattr(config, "family", None)
    return "transformer" if family == "transformer" else "recurrent"


ModelConfig = Annotated[
    Annotated[TransformerConfig, Tag("transformer")] | Annotated[RecurrentConfig, Tag("recurrent")],
    Discriminator(_kind),
]
model_config_adapter: TypeAdapter[TransformerConfig | RecurrentConfig] = TypeAdapter(ModelConfig)
