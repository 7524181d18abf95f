"""Texts as vectors: what a language model or an encoder makes of a whole text. One way for methods, the
command line and the server.

Shape letters: N texts, B rows, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from malmoi.core.errors import UserError
from malmoi.core.tensors import TokenBatch
from malmoi.data.batches import overlapping, reach, within
from malmoi.hub.bert import ENCODERS, load_encoder
from malmoi.hub.folder import load_model, read_config
from malmoi.hub.gguf_file import is_gguf
from malmoi.models.language import LanguageModel
from malmoi.util import files
from malmoi.util.threads import share_cores

Vector = Literal["mean", "last"]
VECTORS: tuple[Vector, ...] = get_args(Vector)
ROWS_TOKENS = 8192  # padded tokens that go through a model at once
MOST_TOKENS = 512  # of a text, where nothing else is asked for


class Embedder:
    """Makes vectors of texts, each of length one.

    A language model's are those behind its last layer: the "mean" over a text's tokens, or that of its "last"
    one, which has read all of it. An encoder's are pooled in its own way.
    """

    def __init__(
        self, path: Path, *, max_tokens: int = MOST_TOKENS, max_windows: int = 1, device: str = "cpu"
    ) -> None:
        """path: of a language model (folder or GGUF file), or an encoder's folder. Raises UserError else.

        max_windows: how many overlapping windows of `max_tokens` of a text are read at most; their vectors'
        mean, by length, is the text's.
        """
        share_cores()
        self.max_windows = max_windows
        self.path, self.max_tokens, self.encoder = path, max_tokens, None
        if not is_gguf(path) and str(read_config(path).get("model_type")) in ENCODERS:
            found = load_encoder(path)
            self.encoder, self.tokenizer, self.frame = found.encoder.to(device), found.tokenizer, found.frame
            self.pooling, self.width = found.pooling, found.encoder.width
            self.max_tokens = min(max_tokens, found.encoder.config.context - 2)
            return
        model, tokenizer = load_model(path, device=device)
        if not isinstance(model, LanguageModel):
            raise UserError(
                f"{path} is an n-gram model: counts, which make no vectors; give a GPT or an LSTM"
            )
        if tokenizer is None:
            raise UserError(f"{path} has no tokenizer.json; put the tokenizer of its model there")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.width = model.config.width
        self.max_tokens = min(max_tokens, (model.context or max_tokens) - 1)

    @property
    def most(self) -> int:
        """Tokens of a text that are read."""
        return reach(self.max_tokens, self.max_windows)

    @property
    def ways(self) -> tuple[str, ...]:
        """The kinds of vectors that it makes, the usual one first."""
        return VECTORS if self.encoder is None else ("own",)

    def way_named(self, name: str | None) -> str:
        """One of its `ways`, by default the first. Raises UserError for a name that is none."""
        if name is None:
            return self.ways[0]
        if name not in self.ways:
            raise UserError(f"{self.path} makes no vector {name!r}; it makes: {', '.join(self.ways)}")
        return name

    def vectors(self, texts: Sequence[str], way: str = "mean") -> NDArray[np.float32]:
        """vectors_ND of one of its `ways`. A text is read up to `most` tokens; the rest does not count."""
        return self.all_vectors(texts)[way]

    @torch.inference_mode()
    def all_vectors(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """vectors_ND of each of its ways, from one reading."""
        read = [ids[: self.most] for ids in self.tokenizer.encode_batch(list(texts))]
        cut = [overlapping(len(ids), self.max_tokens) for ids in read]
        rows = [ids[start:stop] for ids, of_text in zip(read, cut, strict=True) for start, stop in of_text]
        owners = np.repeat(np.arange(len(read)), [len(of_text) for of_text in cut])
        order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
        found = {way: np.zeros((len(read), self.width), np.float32) for way in self.ways}
        for part in within([len(rows[n]) + 1 for n in order], ROWS_TOKENS):
            numbers = order[part]
            lengths_B1 = np.array([[max(1, len(rows[n]))] for n in numbers], np.float32)
            for way, vectors_BD in self._read([rows[n] for n in numbers]).items():
                unit_BD = functional.normalize(vectors_BD.float(), dim=-1).cpu().numpy()
                np.add.at(found[way], owners[numbers], unit_BD * lengths_B1)
        return {way: _of_length_one(sums_ND) for way, sums_ND in found.items()}

    def _read(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """vectors_BD of each way, for rows that are read together; padding on the right takes no part."""
        if self.encoder is not None:
            framed = [[self.frame.first, *ids, self.frame.last] for ids in rows]
            ids_BT, mask_BT = _padded(framed, self.encoder.config.pad_id)
            x_BTD = self.encoder(ids_BT, mask_BT)
            return {"own": x_BTD[:, 0] if self.pooling == "first" else _mean(x_BTD, mask_BT)}
        ids_BT, mask_BT = _padded([[self.tokenizer.start, *ids] for ids in rows], self.tokenizer.specials.pad)
        x_BTD = self.model.hidden(TokenBatch(ids_BT.to(self.model.device)))
        last_B = mask_BT.sum(1) - 1
        return {
            "mean": _mean(x_BTD, mask_BT.to(x_BTD.device)),
            "last": x_BTD[torch.arange(len(x_BTD)), last_B.to(x_BTD.device)],
        }


def save_vectors(path: Path, vectors_ND: NDArray[np.float32]) -> None:
    """Write a .npy file, whole or absent. Raises UserError for another kind, and where one is there."""
    if path.suffix != ".npy":
        raise UserError(f"{path} is no .npy file; give `out` NAME.npy")
    if path.exists():
        raise UserError(f"{path} is there already; remove it or choose another `out`")
    with files.new_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, vectors_ND)


def _of_length_one(x_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """ids_BT and mask_BT (True: real)."""
    longest = max(map(len, rows))
    ids_BT = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    return ids_BT, torch.arange(longest) < torch.tensor([[len(row)] for row in rows])


def _mean(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """x_BD over the real positions."""
    kept_BT1 = mask_BT[..., None].to(x_BTD.dtype)
    return (x_BTD * kept_BT1).sum(1) / kept_BT1.sum(1)
