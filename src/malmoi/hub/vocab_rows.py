"""Another vocabulary for a model: only the tokens that some texts need, or a few new ones.

A vocabulary is most of a small model's weights. Texts that the kept tokens spell are cut as before: byte-pair
merges are applied by rank, and all that spell a kept token are kept, so at every step the best one that
was there is still there; of a unigram model only losing spellings go away. Other texts are spelled by shorter
tokens, in the end by bytes or characters.

Shape letters: V vocabulary, D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from malmoi.core.errors import UserError
from malmoi.core.nouns import Json, silent
from malmoi.core.tensors import TokenBatch
from malmoi.data.labelled import RECORD_EXTENSIONS, read_lines, read_records
from malmoi.data.opening import extension
from malmoi.data.readers import find_files
from malmoi.models.language import LanguageModel
from malmoi.text.tokenizer import Tokenizer

_CHECKED, _MOST_LETTERS = 2000, 2000  # texts whose ids are compared, and of each so much
_READ, _READ_TOKENS = 8, 64  # those whose logits are
_LOGITS = 1e-4  # by which those of kept tokens may differ from before
_EXTENSIONS = (".txt", *RECORD_EXTENSIONS)


class Trimmed(NamedTuple):
    """What is left. new_ids: of each id that was kept. words: what was done, for people."""

    tokenizer: Tokenizer
    new_ids: dict[int, int]
    words: str


def trimmed(model: LanguageModel, tokenizer: Tokenizer, texts: Path) -> Trimmed:
    """Leave in the model, in place, what the texts of a file or folder need of the vocabulary.

    Raises UserError where a text is then cut in another way, or a logit of a kept token differs.
    """
    ids = needed_ids(tokenizer, texts_in(texts))
    smaller, new = with_ids(tokenizer, ids), {old: number for number, old in enumerate(ids)}
    some = [text[:_MOST_LETTERS] for text in islice(texts_in(texts), _CHECKED)]
    both = zip(tokenizer.encode_batch(some), smaller.encode_batch(some), strict=True)
    rows = [row for row in both if row[0] and new.keys() >= set(row[0])]  # not those that the cut changes
    if any([new[id] for id in old] != found for old, found in rows):
        raise UserError(f"{texts}: a text would be cut in another way; keep the whole vocabulary")
    size, read = model.num_parameters(), rows[:_READ]
    before = [_logits(model, old)[:, ids] for old, _ in read]
    with_rows(model, ids)
    for was_TV, (_, row) in zip(before, read, strict=True):
        if float((_logits(model, row) - was_TV).abs().max()) > _LOGITS * float(was_TV.abs().max()):
            raise UserError(f"{texts}: a logit of a kept token differs; keep the whole vocabulary")
    words = (
        f"; {len(ids):,} of {tokenizer.vocab_size:,} tokens are kept, {model.num_parameters():,} of {size:,} "
        f"parameters; {len(rows):,} texts have the same ids, {len(read)} of them were read: the same logits"
    )
    return Trimmed(smaller, new, words)


@torch.inference_mode()
def _logits(model: LanguageModel, ids: Sequence[int]) -> Tensor:
    row = torch.tensor([ids[:_READ_TOKENS]], device=model.device)
    return model.logits(model.hidden(TokenBatch(row)))[0].float()


def texts_in(path: Path) -> Iterator[str]:
    """Every text of the lines and rows of a file or folder, whatever its column."""
    for file in find_files(path, _EXTENSIONS):
        if extension(file) == ".txt":
            yield from read_lines(file, silent)
        else:
            for record in read_records(file, silent):
                yield from _strings(record.values)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


def needed_ids(tokenizer: Tokenizer, texts: Iterable[str]) -> list[int]:
    """The ids that the texts, the chat template and the bytes need, in their order; with what spells them.

    Raises UserError for a tokenizer that is no byte-pair or unigram one.
    """
    file: Json = json.loads(tokenizer.to_json())
    kind = file["model"]["type"]
    if kind not in ("BPE", "Unigram"):
        raise UserError(f"a {kind} tokenizer cannot be made smaller; byte-pair and unigram ones can")
    found: set[int] = set()
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == 1000:
            found.update(*tokenizer.encode_batch(batch))
            batch = []
    found.update(*tokenizer.encode_batch(batch))
    if not found:
        raise UserError("there is no text to keep a vocabulary for; give a file or folder of texts")
    specials = tokenizer.specials
    template = json.dumps(tokenizer.config.get("chat_template", ""), ensure_ascii=False)
    named = {id for text, id in tokenizer.special_texts.items() if text in template}
    roles = {specials.bos, specials.eos, specials.pad, *specials.turns.values()}
    roles |= {specials.unk} if specials.unk is not None else set()
    single = {id for id in range(tokenizer.vocab_size) if len(tokenizer.token_bytes(id)) == 1}
    found |= named | roles | single
    if kind == "BPE":
        found |= _spelling(file["model"], found)
    return sorted(id for id in found if id < tokenizer.vocab_size)


def _spelling(model: Json, ids: Iterable[int]) -> set[int]:
    """The ids of all tokens that come about while the merges make these ones."""
    vocab: dict[str, int] = model["vocab"]
    ranks = {tuple(_pair(merge)): rank for rank, merge in enumerate(model["merges"])}
    wanted, names = set(ids), {id: token for token, id in vocab.items()}
    found: set[int] = set()
    for id in wanted & names.keys():
        parts = list(names[id])
        while len(parts) > 1:
            there = ((ranks.get(pair), at) for at, pair in enumerate(pairwise(parts)))
            best = min(((rank, at) for rank, at in there if rank is not None), default=None)
            if best is None:
                break
            at = best[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            found.add(vocab[parts[at]])
        found.update(vocab[letter] for letter in names[id] if letter in vocab)
    return found


def _pair(merge: str | Sequence[str]) -> Sequence[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def with_ids(tokenizer: Tokenizer, ids: Sequence[int]) -> Tokenizer:
    """The tokenizer with these tokens only, numbered anew in their order."""
    file: Json = json.loads(tokenizer.to_json())
    new = {old: number for number, old in enumerate(ids)}
    model = file["model"]
    if model["type"] == "BPE":
        model["vocab"] = {token: new[id] for token, id in model["vocab"].items() if id in new}
        known = model["vocab"].keys()
        model["merges"] = [
            merge for merge in model["merges"]
            if all(part in known for part in _pair(merge)) and "".join(_pair(merge)) in known
        ]  # fmt: skip
    else:
        model["vocab"] = [piece for id, piece in enumerate(model["vocab"]) if id in new]
        model["unk_id"] = new.get(model["unk_id"])
    file["added_tokens"] = [
        token | {"id": new[token["id"]]} for token in file["added_tokens"] if token["id"] in new
    ]
    file["post_processor"] = _renumbered(file.get("post_processor"), new)
    config = {name: value for name, value in tokenizer.config.items() if name != "added_tokens_decoder"}
    return Tokenizer.from_json(json.dumps(file, ensure_ascii=False), config)


def _renumbered(part: Any, new: dict[int, int]) -> Any:
    """A post-processor whose special tokens have their new ids."""
    if isinstance(part, list):
        return [_renumbered(one, new) for one in part]
    if not isinstance(part, dict):
        return part
    return {
        name: [new[id] for id in value] if name == "ids" else _renumbered(value, new)
        for name, value in part.items()
    }


def with_rows(model: LanguageModel, ids: Sequence[int]) -> None:
    """Leave these rows of the vocabulary in the model, in their order."""
    rows = torch.tensor(ids, device=model.device)
    set_rows(model, model.embed.weight.detach()[rows], model.head.weight.detach()[rows])


def set_rows(model: LanguageModel, embed_VD: Tensor, head_VD: Tensor) -> None:
    """Another vocabulary; a matrix that is both stays one."""
    tied = model.head.weight is model.embed.weight
    model.embed = nn.Embedding.from_pretrained(embed_VD.clone(), freeze=False)
    model.head.weight = model.embed.weight if tied else nn.Parameter(head_VD.clone())
    model.head.out_features = len(embed_VD)
    model.config = model.config.model_copy(update={"vocab_size": len(embed_VD)})
