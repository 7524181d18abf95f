"""What a model is made of: one small typed config for each family, saved as `config.json`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, TypeAdapter, model_validator

Dropout = Annotated[float, Field(ge=0, lt=1)]


class StrictModel(BaseModel):
    """A frozen pydantic model in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TransformerConfig(StrictModel):
    """A decoder Transformer, composed from blocks by these choices (never by a model's name)."""

    family: Literal["transformer"] = "transformer"
    vocab_size: PositiveInt
    context: PositiveInt  # the most positions that the model was made for
    layers: PositiveInt
    width: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt | None = None  # fewer than heads: grouped-query attention; None: as many as heads
    head_width: PositiveInt | None = None  # None: width / heads
    ff_width: PositiveInt | None = None  # None: 8/3 width (swiglu) or 4 width (gelu), rounded up to 64
    norm: Literal["rms", "layer"] = "rms"
    position: Literal["rotary", "learned"] = "rotary"
    feed_forward: Literal["swiglu", "gelu"] = "swiglu"
    bias: bool = False
    qk_norm: bool = False
    tied: bool = False  # one matrix for embedding and output
    window: PositiveInt | None = None  # each position sees at most this many, itself included
    rope_theta: PositiveFloat = 10_000.0
    norm_eps: PositiveFloat = 1e-5
    dropout: Dropout = 0.0  # on embeddings and residual branches, never inside attention

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.heads % self.num_kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.position == "rotary" and self.size_of_head % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.size_of_head}")
        return self

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def size_of_head(self) -> int:
        return self.head_width or self.width // self.heads

    @property
    def size_of_ff(self) -> int:
        wanted = self.width * 8 / 3 if self.feed_forward == "swiglu" else self.width * 4
        return self.ff_width or -(-int(wanted) // 64) * 64


class RecurrentConfig(StrictModel):
    """A recurrent language model: embedding, a stack of RNN, LSTM or GRU layers, output."""

    family: Literal["rnn", "lstm", "gru"]
    vocab_size: PositiveInt
    layers: PositiveInt
    width: PositiveInt
    tied: bool = True
    dropout: Dropout = 0.0

    @property
    def context(self) -> None:
        """A recurrent state has no longest input."""
        return None


class ReaderConfig(StrictModel):
    """What encoders and encoder-decoders share. heads: of a Transformer; recurrent networks have none."""

    family: Literal["transformer", "lstm", "gru", "rnn"]
    vocab_size: PositiveInt
    layers: PositiveInt = 2
    width: PositiveInt = 128
    heads: PositiveInt = 4
    dropout: Dropout = 0.0
    context: PositiveInt = 512  # positions prepared for a Transformer; rows may be longer

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


ModelConfig = Annotated[TransformerConfig | RecurrentConfig, Field(discriminator="family")]
model_config_adapter: TypeAdapter[TransformerConfig | RecurrentConfig] = TypeAdapter(ModelConfig)
