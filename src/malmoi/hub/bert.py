"""Folders of encoders that others trained: BERT, RoBERTa, DistilBERT, and sentence encoders of these.

Read whole or not at all: every tensor that the model needs is there with the shape that `config.json` says,
and none is left that would change its answers. The heads of their training (pooler, masked words) are left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from malmoi.core.errors import DAMAGE, UserError, nearest
from malmoi.core.nouns import Json
from malmoi.hub.outside import check_values, first_fault, require
from malmoi.hub.weights import Checkpoint, open_checkpoint
from malmoi.models.bert import BertConfig, BertEncoder
from malmoi.text.tokenizer import Tokenizer
from malmoi.text.tokenizer_files import token_name
from malmoi.util import files

CONFIG = "config.json"
_WORDS = "embeddings.word_embeddings"
_ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh", "relu"]] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_HEADS = re.compile(
    r"(.*\.)?position_ids|(\w+\.)?(pooler|cls|lm_head|classifier|pre_classifier|qa_outputs|vocab_\w+)\..*"
)
SentencePooling = Literal["mean", "first", "max"]
_POOLINGS: dict[str, SentencePooling] = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first", "pooling_mode_max_tokens": "max",
}  # fmt: skip


class Frame(NamedTuple):
    """The ids of the marks round a text, and how many marks stand between the two texts of a pair."""

    first: int
    last: int
    between: int = 1


@dataclass(frozen=True, slots=True)
class EncoderFolder:
    """A loaded folder. pooling: how it makes a vector of a whole text, where it says so, else the mean."""

    encoder: BertEncoder
    tokenizer: Tokenizer
    frame: Frame
    pooling: SentencePooling = "mean"


@dataclass(frozen=True, slots=True)
class EncoderFamily:
    """How one family names things.

    sizes: its config's name of each size; layers: where its blocks are; names: ours -> theirs in a block.
    """

    sizes: Mapping[str, str]
    layers: str
    names: Mapping[str, tuple[str, ...]]
    between: int = 1
    positions_after_pad: bool = False  # the first position's row stands behind the padding's

    def config(self, found: Json, dropout: float) -> BertConfig:
        """Of their config.json. Raises UserError for a choice that we cannot express, KeyError, TypeError."""
        require(found, "position_embedding_type", "absolute", None)
        for name in ("is_decoder", "add_cross_attention"):
            require(found, name, False, None)
        pad_id = found.get("pad_token_id", 0)
        skipped = pad_id + 1 if self.positions_after_pad else 0
        given = {ours: found[theirs] for ours, theirs in self.sizes.items()}
        activation = found.get("hidden_act", found.get("activation", "gelu"))
        if activation not in _ACTIVATIONS:
            raise UserError(f"unknown activation {activation!r}; {nearest(str(activation), _ACTIVATIONS)}")
        return BertConfig(
            vocab_size=found["vocab_size"], context=found["max_position_embeddings"] - skipped,
            pad_id=pad_id, norm_eps=found.get("layer_norm_eps", 1e-12), dropout=dropout,
            activation=_ACTIVATIONS[activation], **given,
        )  # pyright: ignore[reportArgumentType]  # fmt: skip

    def sources(self, config: BertConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Our name of each tensor with theirs, which are joined."""
        top = {"embed": _WORDS, "positions": "embeddings.position_embeddings"}
        top |= {"types": "embeddings.token_type_embeddings"} if config.types else {}
        for ours, theirs in top.items():
            yield f"{ours}.weight", (f"{theirs}.weight",)
        for end in ("weight", "bias"):
            yield f"norm.{end}", (f"embeddings.LayerNorm.{end}",)
            for layer in range(config.layers):
                for ours, theirs in self.names.items():
                    names = tuple(f"{self.layers}.{layer}.{name}.{end}" for name in theirs)
                    yield f"blocks.{layer}.{ours}.{end}", names


_BERT_SIZES = {
    "layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads",
    "ff_width": "intermediate_size", "types": "type_vocab_size",
}  # fmt: skip
_BERT_NAMES = {
    "attention.qkv": tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
    "attention.out": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
    "norm": ("output.LayerNorm",),
}
_BERT = EncoderFamily(_BERT_SIZES, "encoder.layer", _BERT_NAMES)
_ROBERTA = EncoderFamily(_BERT_SIZES, "encoder.layer", _BERT_NAMES, between=2, positions_after_pad=True)
_DISTILBERT = EncoderFamily(
    {"layers": "n_layers", "width": "dim", "heads": "n_heads", "ff_width": "hidden_dim"},
    "transformer.layer",
    {
        "attention.qkv": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out": ("attention.out_lin",),
        "attention_norm": ("sa_layer_norm",),
        "up": ("ffn.lin1",),
        "down": ("ffn.lin2",),
        "norm": ("output_layer_norm",),
    },
)
ENCODERS: dict[str, EncoderFamily] = {
    "bert": _BERT, "distilbert": _DISTILBERT, "roberta": _ROBERTA, "xlm-roberta": _ROBERTA,
}  # fmt: skip


def load_encoder(folder: Path, *, dropout: float = 0.0) -> EncoderFolder:
    """An encoder with its tokenizer. Raises UserError where a part is missing or does not fit."""
    family, encoder = _load(folder, dropout)
    tokenizer = Tokenizer.load(folder)
    rows = encoder.config.vocab_size
    if tokenizer.vocab_size > rows:
        raise UserError(f"{folder}: its tokenizer has {tokenizer.vocab_size} ids, its embedding {rows} rows")
    frame = Frame(_mark(tokenizer, "cls"), _mark(tokenizer, "sep"), family.between)
    return EncoderFolder(encoder, tokenizer, frame, _pooling(folder))


def load_bert(folder: Path, *, dropout: float = 0.0) -> BertEncoder:
    """The encoder alone, in fp32, for evaluation. Raises UserError as `load_encoder`."""
    return _load(folder, dropout)[1]


def _load(folder: Path, dropout: float) -> tuple[EncoderFamily, BertEncoder]:
    files.check_readable(folder)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} has no {CONFIG}; give the folder of a BERT, RoBERTa or DistilBERT encoder")
    found = files.read_object(folder / CONFIG)
    model_type = str(found.get("model_type"))
    if model_type not in ENCODERS:
        raise UserError(
            f"{folder} holds no encoder that can be read here: its model_type is {model_type!r}; "
            f"known: {', '.join(ENCODERS)}"
        )
    family = ENCODERS[model_type]
    try:
        check_values(found)
        config = family.config(found, dropout)
        checkpoint = open_checkpoint(folder)
        if config.layers > len(checkpoint):
            raise UserError(f"it has {config.layers} layers, but there are only {len(checkpoint)} tensors")
        with torch.device("meta"):  # the weights come from the files: none are made
            encoder = BertEncoder(config)
    except KeyError as error:
        raise UserError(f"{folder / CONFIG} has no {error}") from None
    except DAMAGE as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else str(error)
        raise UserError(
            reason if str(folder) in reason else f"{folder / CONFIG} cannot be used: {reason}"
        ) from None
    encoder.load_state_dict(_weights(folder, family, encoder, found, checkpoint), assign=True)
    return family, encoder.eval()


def _weights(
    folder: Path, family: EncoderFamily, encoder: BertEncoder, found: Json, checkpoint: Checkpoint
) -> dict[str, Tensor]:
    """All of the encoder's tensors by our names."""
    prefix = next(
        (name[: -len(f"{_WORDS}.weight")] for name in checkpoint if name.endswith(f"{_WORDS}.weight")), ""
    )
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    weights = {}
    for ours, theirs in family.sources(encoder.config):
        first, *rest = expected[ours]
        rows = found["max_position_embeddings"] if ours == "positions.weight" else first // len(theirs)
        parts = [_tensor(folder, checkpoint, prefix + name, (rows, *rest)) for name in theirs]
        weights[ours] = torch.cat(parts)[-first:] if len(parts) > 1 or rows != first else parts[0]
    extra = sorted(name for name in checkpoint.unread if not _HEADS.fullmatch(name))
    if extra:
        raise UserError(
            f"{folder} has {len(extra)} tensors that its {CONFIG} does not speak of, the first "
            f"{extra[0]} ({checkpoint.shape(extra[0])}); {CONFIG} and weights are of different models"
        )
    return weights


def _tensor(folder: Path, checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor in fp32, checked before it is read."""
    if name not in checkpoint:  # how LayerNorms were named once
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    sizes = "x".join(map(str, shape))
    if name not in checkpoint:
        raise UserError(f"{folder} has no tensor {name} ({sizes}); copy the folder again")
    if checkpoint.shapes[name] != shape:
        raise UserError(f"{folder}: {name} is {checkpoint.shape(name)}, but {CONFIG} makes it {sizes}")
    tensor = checkpoint[name]
    if not tensor.is_floating_point():
        raise UserError(f"{folder}: {name} is {tensor.dtype}: a quantised encoder cannot be read here")
    return tensor.float()


def _mark(tokenizer: Tokenizer, role: Literal["cls", "sep"]) -> int:
    """The id of the mark before ("cls") or behind ("sep") a text."""
    usual = tokenizer.specials.bos if role == "cls" else tokenizer.specials.eos
    return tokenizer.special_texts.get(token_name(tokenizer.config.get(f"{role}_token")) or "", usual)


def _pooling(folder: Path) -> SentencePooling:
    """What a sentence encoder's own files say. Raises UserError for several poolings side by side."""
    path = folder / "1_Pooling" / CONFIG
    if not path.is_file():
        return "mean"
    found = files.read_object(path)
    wanted = [name for name in found if name.startswith("pooling_mode_") and found[name] is True]
    if len(wanted) != 1 or wanted[0] not in _POOLINGS:
        raise UserError(f"{path} asks for {', '.join(wanted) or 'no pooling'}; known: {', '.join(_POOLINGS)}")
    return _POOLINGS[wanted[0]]
