"""Tiny untrained encoders of other people's kinds, in folders as `transformers` writes them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from malmoi.world import documents

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert")
BERT_MARKS = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}  # fmt: skip
ROBERTA_MARKS = {
    "cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>",
    "mask_token": "<mask>",
}  # fmt: skip


@cache
def vocabulary(family: str) -> str:
    """tokenizer.json: WordPiece in lower case, or byte-level BPE, of both languages."""
    texts = [document.text for document in documents(120)]
    if family.endswith("roberta"):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=list(ROBERTA_MARKS.values()),
            initial_alphabet=alphabet,
            show_progress=False,
        )
    else:
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=600, special_tokens=list(BERT_MARKS.values()), show_progress=False
        )
    backend.train_from_iterator(texts, trainer)
    return backend.to_str()


def write_encoder(folder: Path, family: str = "bert", kind: Any = AutoModel, **choices: Any) -> Any:
    """Write an encoder of width 32 (`kind`: with that head) with its tokenizer; returns it."""
    marks = ROBERTA_MARKS if family.endswith("roberta") else BERT_MARKS
    backend = Tokenizer.from_str(vocabulary(family))
    PreTrainedTokenizerFast(tokenizer_object=backend, **marks).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    sizes["max_position_embeddings"] = 514 if family.endswith("roberta") else 512
    given = {"vocab_size": backend.get_vocab_size(), "pad_token_id": backend.token_to_id(marks["pad_token"])}
    config = AutoConfig.for_model(family, **given | sizes | choices)
    torch.manual_seed(0)
    model = kind.from_config(config).eval()
    with torch.no_grad():  # all that starts as 0 or 1 counts, too
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model
