"""LoRA (Hu et al. 2021): frozen matrices learn a change of low rank, the product of two thin matrices.

Fused matrices (query-key-value, gate-up) share one A; outside they come apart with A copied, which is the
same function. Shape letters: I inputs, O outputs, R rank, V vocabulary, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from malmoi.core.config import StrictModel
from malmoi.core.errors import UserError, nearest
from malmoi.models.config import Dropout
from malmoi.models.language import LanguageModel


class LoRASpec(StrictModel):
    """The change is alpha / rank times B A. targets: as "attention.qkv"; None: all matrices inside blocks."""

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: Dropout = 0.0
    targets: tuple[str, ...] | None = None


class LoRALinear(nn.Linear):
    """y = x W^T + bias + scale (x A^T) B^T. W and the bias are frozen; B is zero at first."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float, dropout: float = 0.0) -> None:
        """Takes over the linear layer's own parameters; A comes from torch's global generator."""
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias = linear.requires_grad_(False).weight, linear.bias
        self.scale = scale
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.a_RI = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.b_OR = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.a_RI, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        thin = functional.linear(self.dropout(input), self.a_RI) * self.scale
        return super().forward(input) + functional.linear(thin, self.b_OR)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer with W + scale B A, in the place of W."""
        self.weight.addmm_(self.b_OR, self.a_RI, alpha=self.scale)
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight, plain.bias = self.weight, self.bias
        return plain


class TokenRows(nn.Module):
    """Rows of a frozen matrix that learn: views, so that the matrix has their values at any time."""

    def __init__(self, weight_VD: nn.Parameter, ids: Sequence[int]) -> None:
        super().__init__()
        self.ids = list(ids)
        self.rows = nn.ParameterList(nn.Parameter(weight_VD.data[id]) for id in ids)
        self.whole = [weight_VD.requires_grad_(True)]  # in a list: it is not this module's to train
        self._hook = weight_VD.register_post_accumulate_grad_hook(self._take)

    def _take(self, weight_VD: Tensor) -> None:
        """Gradients of the rows are theirs, all others are forgotten."""
        assert weight_VD.grad is not None
        for id, row in zip(self.ids, self.rows, strict=True):
            before = 0 if row.grad is None else row.grad
            row.grad = weight_VD.grad[id] + before
        weight_VD.grad = None

    def release(self) -> None:
        """Let the matrix be trained as any other again."""
        self._hook.remove()


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


def token_rows(model: nn.Module) -> dict[str, TokenRows]:
    """Those that `train_rows` has made, by the name of their layer."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, TokenRows)}
    return {name.removesuffix("_rows"): module for name, module in found.items()}


def train_rows(model: LanguageModel, name: str, ids: Sequence[int]) -> None:
    """Let these tokens' rows of one of the `token_layers` of a frozen model learn."""
    weight_VD = model.get_parameter(f"{name}.weight")
    model.add_module(f"{name}_rows", TokenRows(weight_VD, ids))


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """What training changes."""
    whole = {id(weight) for module in token_rows(model).values() for weight in module.whole}
    parameters = model.named_parameters()  # a shared matrix once
    return {name: p for name, p in parameters if p.requires_grad and id(p) not in whole}


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
        if _target(name) in wanted:
            put_layer(model, name, LoRALinear(layer, spec.rank, spec.alpha / spec.rank, spec.dropout))
    for name in token_layers(model) if tokens else ():
        train_rows(model, name, tokens)


def merge_lora(model: LanguageModel) -> None:
    """Make LoRA layers plain ones that do the same, in place; everything may be trained again."""
    for name, layer in lora_layers(model).items():
        put_layer(model, name, layer.merged())
    for name, rows in token_rows(model).items():
        rows.release()
        delattr(model, f"{name}_rows")
    model.requires_grad_(True)


def put_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace the module of that name; training or evaluation mode stays."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer.train(model.training))


def _target(name: str) -> str:
    """blocks.3.attention.qkv -> attention.qkv."""
    return ".".join(name.split(".")[-2:])
