"""LoRA (Hu et al. 2021): frozen matrices learn a change of low rank, the product of two thin matrices.

Fused matrices (query-key-value, gate-up) share one A; outside they come apart with A copied, which is the
same function. Shape letters: I inputs, O outputs, R rank, V vocabulary, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError, nearest
from malmoi.models.config import Dropout
from malmoi.models.frozen import FewBits, FrozenEmbedding, FrozenLinear, TokenRows, computing_dtype
from malmoi.models.grouped import INT4, INT8, Grouped
from malmoi.models.language import LanguageModel
from malmoi.models.native.linear import GroupSource
from malmoi.models.packed import Sources, source_of

Base = Literal["bf16", "int8", "int4", "stored"]


class LoRASpec(StrictModel):
    """The change is alpha / rank times B A. targets: as "attention.qkv"; None: all matrices inside blocks.

    base: what the frozen matrices are held in; auto: bf16 where products are computed in it, else fp32;
    stored: the few bits of a GGUF file, bf16 for what is not in few bits there.
    """

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: Dropout = 0.0
    targets: tuple[str, ...] | None = None
    base: Literal["auto"] | Base = "auto"


class LoRALinear(FrozenLinear):
    """y = x W^T + bias + scale (x A^T) B^T. W and the bias are frozen; B is zero at first."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float, dropout: float = 0.0) -> None:
        """Takes over the linear layer's own parameters; A comes from torch's global generator."""
        super().__init__(linear)
        self.scale = scale
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.a_RI = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.b_OR = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.a_RI, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        y = LoRAProduct.apply(input, self.dropout(input), self.a_RI, self.b_OR, self)
        assert isinstance(y, Tensor)
        return y

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """A plain layer with W + scale B A, in the place of W."""
        plain = super().plain()
        plain.weight.addmm_(self.b_OR, self.a_RI, alpha=self.scale)
        return plain


class LoRAProduct(torch.autograd.Function):
    """What a LoRA layer computes, in few passes over memory."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor, a_RI: Tensor, b_OR: Tensor, layer: LoRALinear
    ) -> Tensor:
        dtype = computing_dtype(x)
        x_NI = x.reshape(-1, x.shape[-1]).to(dtype)
        is_same = dropped is x
        dropped_NI = x_NI if is_same else dropped.reshape(x_NI.shape).to(dtype)
        a_RI, b_OR = a_RI.to(dtype), b_OR.to(dtype)
        thin_NR = (dropped_NI @ a_RI.T).mul_(layer.scale)
        bias_O = None if layer.bias is None else layer.bias.to(dtype)
        y_NO = functional.linear(x_NI, layer.matrix(dtype), bias_O).addmm_(thin_NR, b_OR.T)
        ctx.save_for_backward(dropped_NI, thin_NR, a_RI, b_OR)
        ctx.layer, ctx.is_same, ctx.dtypes = layer, is_same, (dtype, x.dtype)
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, None]:
        dropped_NI, thin_NR, a_RI, b_OR = ctx.saved_tensors
        (dtype, given), shape = ctx.dtypes, (*grad_outputs[0].shape[:-1], -1)
        dy_NO = grad_outputs[0].reshape(len(dropped_NI), -1).to(dtype)
        dthin_NR = (dy_NO @ b_OR).mul_(ctx.layer.scale)
        da_RI, db_OR = (dthin_NR.T @ dropped_NI).float(), (dy_NO.T @ thin_NR).float()
        dx_NI = dy_NO @ ctx.layer.matrix(dtype) if ctx.needs_input_grad[0] else None
        ddropped_NI = None
        if dx_NI is not None and ctx.is_same:
            dx_NI.addmm_(dthin_NR, a_RI)
        elif ctx.needs_input_grad[1]:
            ddropped_NI = (dthin_NR @ a_RI).to(given).view(shape)
        return None if dx_NI is None else dx_NI.to(given).view(shape), ddropped_NI, da_RI, db_OR, None


def inner_layers(model: LanguageModel) -> dict[str, nn.Linear]:
    """The linear layers that LoRA can change, by the names of their modules; the output is not one."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not model.head
    }


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers that `add_lora` has made."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def token_layers(model: LanguageModel) -> tuple[str, ...]:
    """The layers whose matrices have a row for each token."""
    return ("embed",) if model.config.tied else ("embed", "head")


def token_rows(model: LanguageModel) -> dict[str, TokenRows]:
    """The rows of these layers that learn, by the layer's name."""
    found = {name: getattr(model.get_submodule(name), "learned", None) for name in token_layers(model)}
    return {name: rows for name, rows in found.items() if rows is not None}


def freeze_tokens(model: LanguageModel, ids: Mapping[str, Sequence[int]]) -> None:
    """Let nothing of the `token_layers` learn but some tokens' rows.

    ids: for each layer that has some. What the model computes stays as it is.
    """
    embed = model.embed
    rows = {
        name: TokenRows(model.get_parameter(f"{name}.weight").detach()[list(of)], of)
        for name, of in ids.items()
    }
    put_layer(model, "embed", FrozenEmbedding(embed, rows.get("embed")))
    learned = rows.get("embed" if model.config.tied else "head")
    put_layer(model, "head", FrozenLinear(model.head, learned))


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """What training changes."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}  # a shared one once


def add_lora(model: LanguageModel, spec: LoRASpec, tokens: Sequence[int] = ()) -> None:
    """Make the targets LoRA layers, in place, and freeze everything else but the vectors of `tokens`.

    tokens: those that the model has not met yet, as turn markers: no change of layers can make up for that.
    Raises UserError for a target that the model does not have, and for a model that has none.
    """
    layers = inner_layers(model)
    known = {_target(name) for name in layers}
    if not known:
        raise UserError(
            f"LoRA changes a Transformer's linear layers; an {model.config.family} has none: tune all of it"
        )
    wanted = known if spec.targets is None else set(spec.targets)
    if not wanted or not wanted <= known:
        unknown = min(wanted - known, default="")
        raise UserError(f"LoRA target {unknown!r} is not in this model; {nearest(unknown, known)}")
    model.requires_grad_(False)
    for name, layer in layers.items():
        learns = _target(name) in wanted
        scale = spec.alpha / spec.rank
        frozen = LoRALinear(layer, spec.rank, scale, spec.dropout) if learns else FrozenLinear(layer)
        put_layer(model, name, frozen)
    freeze_tokens(model, dict.fromkeys(token_layers(model), tokens) if tokens else {})


def hold_base(model: LanguageModel, base: Base, sources: Sources | None = None) -> None:
    """Hold the matrices that do not learn in the numbers of `base`, in place; `give_back` undoes it.

    sources: a file's own few bits, by the name of the weight that they stand for. Matrices with a row for
    each token are never brought to fewer than 8 bits, for what a token is read from and said by is dear.
    """
    held: dict[int, Tensor | list[FewBits]] = {}
    for name, layer in frozen_layers(model).items():
        weight = layer.weight
        assert weight is not None
        if id(weight) not in held:
            few = INT4 if base == "int4" and name not in token_layers(model) else INT8
            held[id(weight)] = _held(weight, base, few, (sources or {}).get(f"{name}.weight", ()))
        found = held[id(weight)]
        if isinstance(found, list):
            layer.hold(found)
        else:
            layer.weight = found


def _held(
    weight_OI: Tensor, base: Base, few: Grouped, sources: Sequence[GroupSource]
) -> Tensor | list[FewBits]:
    """The matrix in other numbers. few: which ones, where the file's own are not asked for or do not fit."""
    if base == "bf16" or (base == "stored" and not sources):
        return nn.Parameter(weight_OI.to(torch.bfloat16), requires_grad=False)
    if base == "stored" and sum(it.shape[0] for it in sources) == len(weight_OI):
        return [FewBits(source) for source in sources]
    return [FewBits(source_of(weight_OI, few))]  # also of a vocabulary that has grown


def give_back(model: LanguageModel, base: LanguageModel) -> None:
    """Let the matrices that do not learn be those of `base` again, the model that they were taken from."""
    for name, layer in frozen_layers(model).items():
        layer.take(base.get_parameter(f"{name}.weight"), layer.learned)


def is_held(model: nn.Module) -> bool:
    """Whether matrices that do not learn are in other numbers than they were."""
    return any(
        layer.weight is None or layer.weight.dtype != torch.float32 for layer in frozen_layers(model).values()
    )


def frozen_layers(model: nn.Module) -> dict[str, FrozenLinear | FrozenEmbedding]:
    """All layers whose matrix does not learn, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, FrozenLinear | FrozenEmbedding)
    }


def merge_lora(model: LanguageModel) -> None:
    """Make LoRA layers plain ones that do the same, in place; everything may be trained again."""
    for name, layer in frozen_layers(model).items():
        put_layer(model, name, layer.plain())
    model.requires_grad_(True)


def put_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace the module of that name; training or evaluation mode stays."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer.train(model.training))


def _target(name: str) -> str:
    """blocks.3.attention.qkv -> attention.qkv."""
    return ".".join(name.split(".")[-2:])
