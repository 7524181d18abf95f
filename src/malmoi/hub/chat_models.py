"""Models to talk with, and models to be tuned to talk: the network and how it takes a conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from malmoi.core.errors import UserError
from malmoi.core.nouns import Json
from malmoi.hub.folder import load_model
from malmoi.hub.vocab_rows import set_rows
from malmoi.models.language import LanguageModel
from malmoi.text.chat import ChatFormat, chat_template, markers_of, new_markers
from malmoi.text.tokenizer import TURNS, Tokenizer


def with_new_tokens(model: LanguageModel, tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """The tokenizer with new special tokens, whose rows in the model are the mean of all others at first."""
    file: Json = json.loads(tokenizer.to_json())
    size = tokenizer.vocab_size
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    file["added_tokens"] += [{"id": size + n, "content": name, **flags} for n, name in enumerate(names)]
    made = Tokenizer.from_json(json.dumps(file, ensure_ascii=False), tokenizer.config)
    if made.vocab_size > model.vocab_size:
        rows_VD = [model.embed.weight.detach(), model.head.weight.detach()]
        added = made.vocab_size - model.vocab_size
        set_rows(model, *(torch.cat((it, it.mean(0, keepdim=True).expand(added, -1))) for it in rows_VD))
    return made


def tunable_format(model: LanguageModel, tokenizer: Tokenizer) -> ChatFormat:
    """How a model that is to be tuned takes a conversation; where its vocabulary has no markers of turns, it
    gets malmoi's as new tokens. Markers that it has not met begin with the meaning of words that it knows."""
    if chat_template(tokenizer) is None and not markers_of(tokenizer):
        tokenizer = with_new_tokens(model, tokenizer, TURNS)
    if new_markers(tokenizer) and markers_of(tokenizer) == TURNS:
        _begin_as_words(model, tokenizer)
    return ChatFormat.for_tuning(tokenizer)


@torch.no_grad()
def _begin_as_words(model: LanguageModel, tokenizer: Tokenizer) -> None:
    """Give markers the rows of the words for them, and the end of a turn that of the end of a text.

    Rows of tokens that no text has had are all alike in a finished model, so it could not tell who speaks.
    """
    said = [*map(tokenizer.encode, ("User:", "Assistant:", "System:")), [tokenizer.specials.eos]]
    for rows_VD in {id(it): it for it in (model.embed.weight, model.head.weight)}.values():
        for marker, ids in zip(TURNS, said, strict=True):
            rows_VD[tokenizer.special_texts[marker]] = rows_VD[ids or [tokenizer.specials.eos]].mean(0)


def load_chat(folder: Path) -> tuple[LanguageModel, ChatFormat]:
    """A chat model's network and format. Raises UserError where it is none."""
    model, tokenizer = load_model(folder)
    if not isinstance(model, LanguageModel) or tokenizer is None:
        raise UserError(
            f"{folder} is no chat model; make one with: malmoi finetune MODEL --data ... --out DIR"
        )
    return model, ChatFormat.of(tokenizer)


def load_trainable(folder: Path, device: torch.device | str = "cpu") -> tuple[LanguageModel, Tokenizer]:
    """A model folder's network and tokenizer. Raises UserError for one that cannot learn from text."""
    model, tokenizer = load_model(folder, device=device)
    if not isinstance(model, LanguageModel):
        raise UserError(f"{folder} is an n-gram model, which only counts; tune a GPT or an LSTM")
    if tokenizer is None:
        raise UserError(f"{folder} has no tokenizer.json; put the tokenizer of its model there")
    return model, tokenizer


def load_tunable(folder: Path) -> tuple[LanguageModel, ChatFormat]:
    """A model folder's network and chat format. Raises UserError for one that cannot be tuned."""
    model, tokenizer = load_trainable(folder)
    return model, tunable_format(model, tokenizer)
