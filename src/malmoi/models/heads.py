"""What stands on an encoder: one label for a row, a tag for each unit, a span, or the units that were hidden.

Every head has `loss(batch) -> Loss`, so that one training loop serves all of them.

Shape letters: B rows, T positions, C characters of a unit, D width, L labels or tags, N hidden units,
W positions of a span at most, or windows of a text; N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from malmoi.core.tensors import IGNORE, Loss
from malmoi.models.bert import BertEncoder
from malmoi.models.encoder import Encoder
from malmoi.models.output import target_log_probabilities

AnyEncoder = Encoder | BertEncoder
Pooling = Literal["mean", "last", "first", "attention", "max"]
NUM_FEATURES = 4  # of a unit of a question and its context: 2 * in the context + in the question as well


class EncoderBatch(NamedTuple):
    """Rows for an encoder, padding on the right; every row has at least one unit.

    ids_BT, mask_BT (True: real), chars_BTC (0: padding), features_BT (where the encoder has features).
    targets: label_B, given_BL (of sets of labels), tags_BT, (start, end)_B2 or ids_BT, with IGNORE where
    there is none. texts_B: the number of the text that each row is a window of, in order; then label_B and
    given_BL are of the texts.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    chars_BTC: Tensor | None = None
    features_BT: Tensor | None = None
    targets: Tensor | None = None
    texts_B: Tensor | None = None

    @property
    def truth(self) -> Tensor:
        """The targets, which must be there."""
        assert self.targets is not None, "a loss needs targets"
        return self.targets


class Head(nn.Module):
    """An encoder and a final layer, `head`, with the encoder's dropout between."""

    def __init__(self, encoder: AnyEncoder, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.dropout = nn.Dropout(encoder.config.dropout) if encoder.config.dropout else nn.Identity()

    def encoded(self, batch: EncoderBatch) -> Tensor:
        """x_BTD, dropped out."""
        return self.dropout(self.encoder(*batch[:4]))


class Classifier(Head):
    """One label for each text, from all of its positions pooled into one vector (of length one, if asked).

    A long text is several rows, its windows: of their vectors the largest values count where positions are
    pooled so, else their mean by length.
    """

    def __init__(
        self, encoder: AnyEncoder, num_labels: int, pooling: Pooling = "mean", *, unit_length: bool = False
    ) -> None:
        super().__init__(encoder, nn.Linear(encoder.width, num_labels))
        self.pooling: Pooling = pooling
        self.unit_length = unit_length
        self.attention = nn.Linear(encoder.width, 1) if pooling == "attention" else None

    def forward(self, batch: EncoderBatch) -> Tensor:
        """logits_BL of the texts, in fp32."""
        return self.head(self.vectors(batch)).float()

    def vectors(self, batch: EncoderBatch) -> Tensor:
        """x_BD of whole texts, as the final layer reads them."""
        x_BD = self._pooled(self.encoded(batch), batch.mask_BT)
        if batch.texts_B is not None:
            x_BD = self._joined(x_BD, batch.texts_B, batch.mask_BT.sum(1, keepdim=True))
        return functional.normalize(x_BD, dim=-1) if self.unit_length else x_BD

    def loss(
        self, batch: EncoderBatch, weights_L: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Loss:
        """Cross-entropy of the labels.

        weights_L: how much an example of each label counts; 1 on average over the data, by right.
        label_smoothing: this much of a target is spread over all labels (Szegedy et al. 2016).
        """
        total = functional.cross_entropy(
            self(batch), batch.truth, weights_L, reduction="sum", ignore_index=IGNORE,
            label_smoothing=label_smoothing,
        )  # fmt: skip
        return Loss(total, _count(batch.truth))

    def set_loss(self, batch: EncoderBatch) -> Loss:
        """Binary cross-entropy of every label by itself, of targets given_BL."""
        total = functional.binary_cross_entropy_with_logits(self(batch), batch.truth, reduction="sum")
        return Loss(total, len(batch.truth))

    def _joined(self, x_BD: Tensor, texts_B: Tensor, lengths_B1: Tensor) -> Tensor:
        """x_ND of the N texts whose windows the rows are."""
        counts_N = torch.bincount(texts_B)
        if self.pooling == "max":
            of_texts = x_BD.split(counts_N.tolist())
            return torch.stack([x_WD.amax(0) for x_WD in of_texts])
        weights_B1 = lengths_B1.to(x_BD.dtype)
        sums_ND = x_BD.new_zeros(len(counts_N), x_BD.shape[1]).index_add(0, texts_B, x_BD * weights_B1)
        return sums_ND / weights_B1.new_zeros(len(counts_N), 1).index_add(0, texts_B, weights_B1)

    def _pooled(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """x_BD; padding takes no part."""
        if self.pooling == "last":
            return self.encoder.ends(x_BTD, mask_BT)
        if self.pooling == "first":
            return x_BTD[:, 0]
        if self.pooling == "max":
            return x_BTD.masked_fill(~mask_BT[..., None], float("-inf")).amax(1)
        if self.attention is not None:
            return attention_pooled(x_BTD, self.attention(x_BTD), mask_BT)
        return attention_pooled(x_BTD, torch.zeros_like(x_BTD[..., :1]), mask_BT)


class Tagger(Head):
    """A tag for each unit; with `crf`, the best row of tags as a whole (Huang et al. 2015).

    tags: how many there are; or their BIO names, and then no decoded row breaks the rules of BIO.
    """

    def __init__(self, encoder: AnyEncoder, tags: int | Sequence[str], crf: bool) -> None:
        num_tags = tags if isinstance(tags, int) else len(tags)
        super().__init__(encoder, nn.Linear(encoder.width, num_tags))
        self.crf = CRF(num_tags, None if isinstance(tags, int) else bio_rules(tags)).requires_grad_(crf)
        self.has_crf = crf

    def forward(self, batch: EncoderBatch) -> Tensor:
        """logits_BTL in fp32."""
        return self.head(self.encoded(batch)).float()

    def log_likelihood(self, batch: EncoderBatch) -> Tensor:
        """log p_B of each row's tags; every real unit needs one where there is a CRF."""
        logits_BTL, tags_BT = self(batch), batch.truth
        if self.has_crf:
            return self.crf.log_likelihood(logits_BTL, tags_BT, batch.mask_BT)
        nats_BT = functional.cross_entropy(logits_BTL.mT, tags_BT, reduction="none", ignore_index=IGNORE)
        return -nats_BT.sum(1)

    def loss(self, batch: EncoderBatch) -> Loss:
        """-log p of the tags, summed."""
        return Loss(-self.log_likelihood(batch).sum(), _count(batch.truth))

    @torch.inference_mode()
    def decode(self, batch: EncoderBatch) -> list[list[int]]:
        """The best tags of each row's real units."""
        return self.crf.decode(self(batch), batch.mask_BT)


class SpanReader(Head):
    """Where in a context the answer to a question stands.

    A row is the question's units, a separator, the context's units; features_BT is 2 * in the context +
    occurs on the other side as well. Each context position is compared with the question as a whole, as in
    DrQA (Chen et al. 2017).
    """

    def __init__(self, encoder: AnyEncoder) -> None:
        super().__init__(encoder, nn.Linear(2 * encoder.width, 2))
        encoder.add_features(NUM_FEATURES)
        self.attention = nn.Linear(encoder.width, 1)
        self.question = nn.Linear(encoder.width, encoder.width)

    @staticmethod
    def context_mask(batch: EncoderBatch) -> Tensor:
        """mask_BT of the context's units."""
        assert batch.features_BT is not None
        return batch.mask_BT & (batch.features_BT >= 2)

    def forward(self, batch: EncoderBatch) -> tuple[Tensor, Tensor]:
        """start_BT and end_BT, fp32 logits of the answer's first and last unit; -inf outside the context."""
        x_BTD, context_BT = self.encoded(batch), self.context_mask(batch)
        question_BD = attention_pooled(x_BTD, self.attention(x_BTD), batch.mask_BT & ~context_BT)
        alike_BTD = x_BTD * self.question(question_BD)[:, None]
        logits_BT2 = self.head(torch.cat((x_BTD, alike_BTD), dim=-1)).float()
        start_BT, end_BT = logits_BT2.masked_fill(~context_BT[..., None], float("-inf")).unbind(-1)
        return start_BT, end_BT

    def log_likelihood(self, batch: EncoderBatch) -> Tensor:
        """log p(start) + log p(end), of each row; 0 where it has no answer."""
        both = zip(self(batch), batch.truth.unbind(1), strict=True)
        nats = [
            functional.cross_entropy(logits_BT, position_B, reduction="none", ignore_index=IGNORE)
            for logits_BT, position_B in both
        ]
        return -torch.stack(nats).sum(0)

    def loss(self, batch: EncoderBatch) -> Loss:
        """-log p of the answers, summed over the rows that have one."""
        return Loss(-self.log_likelihood(batch).sum(), _count(batch.truth[:, 0]))


class MaskedLanguageModel(Head):
    """Guesses hidden units (Devlin et al. 2019); the output matrix is the embedding."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, nn.Linear(encoder.width, encoder.config.vocab_size, bias=False))
        self.head.weight = encoder.embed.weight

    def loss(self, batch: EncoderBatch) -> Loss:
        """-log p of the hidden units; the others are not even scored."""
        hidden_BT = batch.truth != IGNORE
        x_ND, targets_N = self.encoded(batch)[hidden_BT], batch.truth[hidden_BT]
        return Loss(-target_log_probabilities(x_ND, self.head.weight, targets_N).sum(), len(targets_N))


def attention_pooled(x_BTD: Tensor, scores_BT1: Tensor, mask_BT: Tensor) -> Tensor:
    """x_BD, the mean over the positions of the mask (or, of none, over all), weighted by softmax(scores)."""
    scores_BT1 = scores_BT1.float().masked_fill(~mask_BT[..., None], torch.finfo(torch.float32).min)
    return (x_BTD * scores_BT1.softmax(1)).sum(1)


def best_spans(
    start_BT: Tensor, end_BT: Tensor, context_mask_BT: Tensor, max_length: int = 30
) -> list[tuple[int, int]]:
    """(first, last) position, both within, of each row's best span of at most `max_length` units."""
    outside_BT = ~context_mask_BT
    start_BT, end_BT = (x_BT.masked_fill(outside_BT, float("-inf")) for x_BT in (start_BT, end_BT))
    ends_BTW = functional.pad(end_BT, (0, max_length - 1), value=float("-inf")).unfold(1, max_length, 1)
    best_B = (start_BT[..., None] + ends_BTW).flatten(1).argmax(1)
    starts_B = best_B // max_length
    return list(zip(starts_B.tolist(), (starts_B + best_B % max_length).tolist(), strict=True))


def _count(targets: Tensor) -> int:
    return int((targets != IGNORE).sum())


_FORBIDDEN = -1e4  # finite, so that no gradient is 0 times infinity


def bio_rules(tags: Sequence[str]) -> Tensor:
    """allowed_FL: I-X may follow B-X and I-X only, never begin a row. Tags are "O", "B-X", "I-X"."""
    before = [*tags, ""]
    return torch.tensor([[tag[:2] != "I-" or old[1:] == tag[1:] for tag in tags] for old in before])


class CRF(nn.Module):
    """A score for every pair of neighbours, for every first and for every last tag.

    allowed_FL: which tag may follow which; its last row says which may be first. Everything, if None.
    """

    def __init__(self, num_tags: int, allowed_FL: Tensor | None = None) -> None:
        super().__init__()
        self.neighbours_FL = nn.Parameter(torch.zeros(num_tags + 1, num_tags))
        self.last_L = nn.Parameter(torch.zeros(num_tags))
        if allowed_FL is None:
            allowed_FL = torch.ones(num_tags + 1, num_tags, dtype=torch.bool)
        self.register_buffer("penalty_FL", _FORBIDDEN * ~allowed_FL, persistent=False)

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """before_LL (from, to), first_L, last_L."""
        scores_FL = self.neighbours_FL + self.get_buffer("penalty_FL")
        return scores_FL[:-1], scores_FL[-1], self.last_L

    def log_likelihood(self, emissions_BTL: Tensor, tags_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """log p_B of each row's tags (fp32). Padding stands on the right; its tags are ignored."""
        tags_BT = tags_BT.where(mask_BT, 0)
        return self._score(emissions_BTL, tags_BT, mask_BT) - self._log_partition(emissions_BTL, mask_BT)

    def decode(self, emissions_BTL: Tensor, mask_BT: Tensor) -> list[list[int]]:
        """The best tags of each row (Viterbi 1967)."""
        before_LL, first_L, last_L = self.scores()
        best_BL, steps = first_L + emissions_BTL[:, 0], []
        for t in range(1, emissions_BTL.shape[1]):
            through_BL, from_BL = (best_BL[:, :, None] + before_LL).max(1)
            here_B1 = mask_BT[:, t, None]
            best_BL = torch.where(here_B1, through_BL + emissions_BTL[:, t], best_BL)
            steps.append(torch.where(here_B1, from_BL, torch.arange(len(last_L), device=from_BL.device)))
        tags = [(best_BL + last_L).argmax(1)]
        for from_BL in reversed(steps):
            tags.append(from_BL.gather(1, tags[-1][:, None])[:, 0])
        paths_BT = torch.stack(tags[::-1], dim=1).tolist()
        return [path[:length] for path, length in zip(paths_BT, mask_BT.sum(1).tolist(), strict=True)]

    def _score(self, emissions_BTL: Tensor, tags_BT: Tensor, mask_BT: Tensor) -> Tensor:
        before_LL, first_L, last_L = self.scores()
        emitted_BT = emissions_BTL.gather(2, tags_BT[..., None])[..., 0]
        moved_BT = before_LL[tags_BT[:, :-1], tags_BT[:, 1:]]
        ends_B = tags_BT.gather(1, mask_BT.sum(1, keepdim=True) - 1)[:, 0]
        inside_B = (emitted_BT * mask_BT).sum(1) + (moved_BT * mask_BT[:, 1:]).sum(1)
        return first_L[tags_BT[:, 0]] + inside_B + last_L[ends_B]

    def _log_partition(self, emissions_BTL: Tensor, mask_BT: Tensor) -> Tensor:
        """log of the summed scores of all rows of tags, by the forward algorithm."""
        before_LL, first_L, last_L = self.scores()
        alpha_BL = first_L + emissions_BTL[:, 0]
        for emissions_BL, here_B in zip(emissions_BTL.unbind(1)[1:], mask_BT.unbind(1)[1:], strict=True):
            next_BL = torch.logsumexp(alpha_BL[:, :, None] + before_LL, dim=1) + emissions_BL
            alpha_BL = torch.where(here_B[:, None], next_BL, alpha_BL)
        return torch.logsumexp(alpha_BL + last_L, dim=1)
