"""The parity matrix: families of the Hugging Face libraries, and what is checked for each of them.

A cell is a function that raises AssertionError where our model and that of `transformers` differ. All cells
are tests (test_parity.py); `python -m tests.hub.parity` runs them and writes the table of docs/formats.md.

To add a row, put a `Row` into ROWS: what it is called, and a dict from names in COLUMNS to functions without
arguments. A column that a row has no check for is a dash. A decoder needs a config only (DECODERS), an
encoder a folder that `write_encoder` can write (encoder_row).

Shape letters: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from malmoi.core.tensors import TokenBatch
from malmoi.hub.architectures import ARCHITECTURES
from malmoi.hub.bert import ENCODERS, load_bert
from malmoi.hub.folder import load_model, save_model
from malmoi.models.bert import BertEncoder
from malmoi.models.config import TransformerConfig
from malmoi.models.language import LanguageModel
from tests.hub.tiny_encoder import write_encoder

COLUMNS = (
    "forward", "cached decode", "padded rows", "packed documents", "beyond", "greedy text", "gradients",
    "export",
)  # fmt: skip
DOCUMENT = Path(__file__).parents[2] / "docs" / "formats.md"
BEGIN, END = "<!-- parity: begin -->", "<!-- parity: end -->"
VOCAB, CONTEXT, SHORT, LONG = 61, 32, 14, 44  # CONTEXT is what most models below are made for
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "bos_token_id": 1, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
DEEP: dict[str, Any] = SIZES | {"num_hidden_layers": 4}
GEMMA: dict[str, Any] = SIZES | {"head_dim": 12}
GPT2: dict[str, Any] = {
    "vocab_size": VOCAB, "n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 4,
    "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
OLD = {"original_max_position_embeddings": 8}


def rope(kind: str, **given: Any) -> dict[str, Any]:
    """Llama with scaled rotary positions."""
    return SIZES | {"rope_parameters": {"rope_type": kind, "rope_theta": 1000.0, **given}}


# fmt: off
DECODERS: dict[str, transformers.PretrainedConfig] = {
    "GPT-2": transformers.GPT2Config(**GPT2),
    "GPT-2, untied": transformers.GPT2Config(**GPT2, n_inner=48, tie_word_embeddings=False),
    "Llama 2": transformers.LlamaConfig(**SIZES),
    "Llama, biases": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "Llama, attention biases": transformers.LlamaConfig(**SIZES, attention_bias=True),
    "Llama, feed-forward biases": transformers.LlamaConfig(**SIZES, mlp_bias=True, head_dim=12),
    "Llama 3, rope llama3": transformers.LlamaConfig(
        **rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=3.0, **OLD)
    ),
    "Llama, rope linear": transformers.LlamaConfig(**rope("linear", factor=3.0)),
    "Llama, rope dynamic": transformers.LlamaConfig(**rope("dynamic", factor=2.0)),
    "Llama, rope yarn": transformers.LlamaConfig(**rope("yarn", factor=4.0, **OLD)),
    "Llama, rope yarn, mscale": transformers.LlamaConfig(
        **rope("yarn", factor=4.0, mscale=1.5, mscale_all_dim=0.7, beta_fast=4.0, truncate=False, **OLD)
    ),
    "Llama, rope longrope": transformers.LlamaConfig(
        **rope(
            "longrope", factor=2.0, short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.5, 2.0, 3.0, 4.0],
            original_max_position_embeddings=24,
        )
    ),
    "SmolLM2 (Llama, tied)": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "SmolLM3": transformers.SmolLM3Config(**DEEP),
    "SmolLM3, window": transformers.SmolLM3Config(
        **DEEP, use_sliding_window=True, sliding_window=6, no_rope_layers=[1, 0, 0, 1], attention_bias=True
    ),
    "Mistral": transformers.MistralConfig(**SIZES, sliding_window=6),
    "Mistral, head_dim, no window": transformers.MistralConfig(**SIZES, sliding_window=None, head_dim=12),
    "Phi-3": transformers.Phi3Config(**SIZES, sliding_window=6),
    "Phi-3, rope longrope, no window": transformers.Phi3Config(
        **rope(
            "longrope", short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.5, 2.0, 3.0, 4.0],
            original_max_position_embeddings=24,
        ),
    ),
    "Qwen2": transformers.Qwen2Config(**SIZES),
    "Qwen2.5, window in upper layers": transformers.Qwen2Config(
        **DEEP, use_sliding_window=True, sliding_window=6, max_window_layers=2, tie_word_embeddings=True
    ),
    "Qwen3": transformers.Qwen3Config(**SIZES, head_dim=12, attention_bias=True),
    "Qwen3, layer_types": transformers.Qwen3Config(
        **DEEP, head_dim=8, use_sliding_window=True, sliding_window=6,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "Gemma": transformers.GemmaConfig(**GEMMA),
    "Gemma 2": transformers.Gemma2Config(
        **GEMMA, sliding_window=6, query_pre_attn_scalar=20, attn_logit_softcapping=1.5,
        final_logit_softcapping=3.0,
    ),
    "Gemma 3": transformers.Gemma3TextConfig(
        **DEEP, head_dim=12, sliding_window=6, query_pre_attn_scalar=20,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    ),
    "Gemma 3, rope linear": transformers.Gemma3TextConfig(
        **DEEP, head_dim=8, sliding_window=6, query_pre_attn_scalar=8, final_logit_softcapping=5.0,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
}
# fmt: on


@dataclass(frozen=True)
class Row:
    """A family, and its checks by the columns they are in."""

    name: str
    checks: dict[str, Callable[[], None]]


def run_cells() -> Iterator[tuple[str, str, str]]:
    """Row, column, and what went wrong ('' where nothing did), for every cell that has a check."""
    for row in ROWS:
        for column, check in row.checks.items():
            try:
                check()
                yield row.name, column, ""
            except AssertionError as error:
                yield row.name, column, str(error) or "differs"


def table(failures: set[tuple[str, str]]) -> str:
    """The matrix in Markdown."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in ROWS:
        cells = [
            "-" if column not in row.checks else "**no**" if (row.name, column) in failures else "yes"
            for column in COLUMNS
        ]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def written_table() -> str:
    """What docs/formats.md has now."""
    text = DOCUMENT.read_text()
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()


# ---- decoders


@dataclass(frozen=True)
class Pair:
    """The same weights there and here."""

    theirs: Any
    ours: LanguageModel
    config: TransformerConfig


@cache
def pair(name: str) -> Pair:
    """A tiny model with large random weights, so that every part of it shows in the logits."""
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(DECODERS[name], attn_implementation="eager")
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(4) if parameter.ndim > 1 else parameter.add_(0.3 * torch.randn_like(parameter))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_model(Path(folder)).model
    assert isinstance(ours, LanguageModel)
    assert isinstance(ours.config, TransformerConfig)
    return Pair(theirs.eval(), ours, ours.config)


def assert_near(ours_BTV: Tensor, theirs_BTV: Tensor) -> None:
    """|ours - theirs| <= 1e-4 max(1, |theirs|), with logits that are not all alike."""
    assert theirs_BTV.std() > 0.05, "logits near zero would hide differences"
    error = ((ours_BTV - theirs_BTV).abs() / theirs_BTV.abs().clamp(min=1)).max()
    assert error <= 1e-4, f"differs by {error:.1e}"


def random_ids(rows: int, length: int) -> Tensor:
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(length))


@torch.inference_mode()
def their_logits(theirs: Any, ids_BT: Tensor, **given: Any) -> Tensor:
    _forget(theirs)
    return theirs(ids_BT, **given).logits


@torch.inference_mode()
def our_logits(ours: LanguageModel, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
    return ours.logits(ours.hidden(TokenBatch(ids_BT, documents_BT=documents_BT)))


@torch.inference_mode()
def their_decode(theirs: Any, ids_BT: Tensor, prompt: int) -> Tensor:
    """Logits of a prompt, then of one token at a time."""
    _forget(theirs)
    first = theirs(ids_BT[:, :prompt], use_cache=True)
    parts, cached = [first.logits], first.past_key_values
    for id_B1 in ids_BT[:, prompt:].split(1, dim=1):
        parts.append(theirs(id_B1, past_key_values=cached, use_cache=True).logits)
    return torch.cat(parts, dim=1)


def our_decode(ours: LanguageModel, ids_BT: Tensor, prompt: int) -> Tensor:
    state = ours.new_state(len(ids_BT))
    parts = (ids_BT[:, :prompt], *ids_BT[:, prompt:].split(1, dim=1))
    steps = [ours.step(part_BT, torch.full((len(ids_BT),), part_BT.shape[1]), state) for part_BT in parts]
    return torch.cat(steps, dim=1)


def _forget(theirs: Any) -> None:
    """A rotary table of `transformers` that has grown stays so; each comparison begins with a new one."""
    rotary = getattr(getattr(theirs, "model", None), "rotary_emb", None)
    if rotary is not None and getattr(rotary, "rope_type", None) == "dynamic":
        rotary.max_seq_len_cached = rotary.original_max_seq_len
        rotary.inv_freq = rotary.original_inv_freq


def check_forward(name: str) -> None:
    it, ids_BT = pair(name), random_ids(2, SHORT)
    assert_near(our_logits(it.ours, ids_BT), their_logits(it.theirs, ids_BT))


def check_decode(name: str) -> None:
    it, ids_BT = pair(name), random_ids(2, SHORT)
    assert_near(our_decode(it.ours, ids_BT, 5), their_decode(it.theirs, ids_BT, 5))


def check_padded(name: str) -> None:
    """Rows of 3, 11 and 7 tokens, padded on the left there and on the right here, and a token more."""
    it, counts_B, ids_BT = pair(name), torch.tensor([3, 11, 7]), random_ids(3, 12)
    state = it.ours.new_state(3)
    read_BTV = it.ours.step(ids_BT[:, :11], counts_B, state)
    next_B1V = it.ours.step(ids_BT[:, 11:], torch.ones(3, dtype=torch.int64), state)
    padded_BT, mask_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT)
    for row, count in enumerate(counts_B.tolist()):
        padded_BT[row, -count - 1 :] = torch.cat((ids_BT[row, :count], ids_BT[row, 11:]))
        mask_BT[row, -count - 1 :] = 1
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    theirs_BTV = their_logits(it.theirs, padded_BT, attention_mask=mask_BT, position_ids=positions_BT)
    assert_near(next_B1V, theirs_BTV[:, -1:])
    for row, count in enumerate(counts_B.tolist()):
        assert_near(read_BTV[row, :count], theirs_BTV[row, -count - 1 : -1])


def check_packed(name: str) -> None:
    """Documents in one row are each what they are alone."""
    it, ids_1T, lengths = pair(name), random_ids(1, 20), [9, 4, 7]
    documents_1T = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    alone = [their_logits(it.theirs, part_1T) for part_1T in ids_1T.split(lengths, dim=1)]
    assert_near(our_logits(it.ours, ids_1T, documents_1T), torch.cat(alone, dim=1))


def check_beyond(name: str) -> None:
    """Positions beyond the window, or beyond what positions were made for: at once, and one by one."""
    it, ids_BT = pair(name), random_ids(2, LONG)
    assert_near(our_logits(it.ours, ids_BT), their_logits(it.theirs, ids_BT))
    assert_near(our_decode(it.ours, ids_BT, 20), their_decode(it.theirs, ids_BT, 20))
    assert_near(our_decode(it.ours, ids_BT, 40), their_decode(it.theirs, ids_BT, 40))


def check_greedy(name: str) -> None:
    """The same 20 tokens."""
    it, ids_1T = pair(name), random_ids(1, 6)
    _forget(it.theirs)
    theirs_1T = it.theirs.generate(
        ids_1T, max_new_tokens=20, do_sample=False, attention_mask=torch.ones_like(ids_1T)
    )
    state, found = it.ours.new_state(1), ids_1T
    for _ in range(20):
        unread_1T = found[:, int(state.lengths_B) :]
        logits_11V = it.ours.step(unread_1T, torch.tensor([unread_1T.shape[1]]), state, last_only=True)
        found = torch.cat((found, logits_11V.argmax(-1)), dim=1)
    assert found.tolist() == theirs_1T.tolist()


def check_gradients(name: str) -> None:
    """Every gradient of one step's loss, ours under the names of theirs."""
    it, ids_BT = pair(name), random_ids(2, SHORT + 1)
    it.theirs.zero_grad()
    it.ours.zero_grad()
    _loss(it.theirs(ids_BT[:, :-1]).logits, ids_BT).backward()
    _loss(it.ours.logits(it.ours.hidden(TokenBatch(ids_BT[:, :-1]))), ids_BT).backward()
    architecture = ARCHITECTURES[it.theirs.config.model_type]
    grads = {ours: p.grad for ours, p in it.ours.named_parameters() if p.grad is not None}
    found = architecture.export_weights(grads, it.config)
    wanted = {theirs: p.grad for theirs, p in it.theirs.named_parameters()}
    assert set(found) == set(wanted)
    for theirs, grad in wanted.items():
        assert_same_grad(theirs, found[theirs], grad)


def assert_same_grad(name: str, ours: Tensor, theirs: Tensor) -> None:
    """Within a thousandth of the largest."""
    error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3)
    assert error < 1e-3, f"{name} differs by {error:.1e}"


def _loss(logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())


def check_export(name: str) -> None:
    """Saved by us, loaded there: the same logits; loaded here: the same bits."""
    it, ids_BT = pair(name), random_ids(2, SHORT)
    with tempfile.TemporaryDirectory() as folder:
        assert save_model(Path(folder), it.ours, None) == ""
        again, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", output_loading_info=True
        )
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        back = load_model(Path(folder)).model
    assert isinstance(back, LanguageModel)
    assert_near(their_logits(again.eval(), ids_BT), their_logits(it.theirs, ids_BT))
    assert torch.equal(our_logits(back, ids_BT), our_logits(it.ours, ids_BT))
    assert back.config == it.config


_CHECKS: dict[str, Callable[[str], None]] = {
    "forward": check_forward,
    "cached decode": check_decode,
    "padded rows": check_padded,
    "packed documents": check_packed,
    "beyond": check_beyond,
    "greedy text": check_greedy,
    "gradients": check_gradients,
    "export": check_export,
}


def decoder_row(name: str) -> Row:
    """Learned positions end: beyond them there is nothing to compare."""
    ends = DECODERS[name].model_type == "gpt2"
    checks = {column: partial(check, name) for column, check in _CHECKS.items()}
    return Row(name, {column: check for column, check in checks.items() if not (ends and column == "beyond")})


# ---- encoders


@cache
def encoder_pair(family: str) -> tuple[Any, BertEncoder]:
    """The same weights there and here."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = write_encoder(Path(folder), family)
        return theirs, load_bert(Path(folder))


def check_encoder_forward(family: str) -> None:
    theirs, ours = encoder_pair(family)
    ids_BT = random_ids(2, SHORT) + 10
    with torch.inference_mode():
        assert_near(ours(ids_BT, torch.ones_like(ids_BT).bool()), theirs(ids_BT).last_hidden_state)


def check_encoder_padded(family: str) -> None:
    theirs, ours = encoder_pair(family)
    mask_BT = torch.arange(11) < torch.tensor([[3], [11], [7]])
    ids_BT = (random_ids(3, 11) + 10).where(mask_BT, theirs.config.pad_token_id)
    with torch.inference_mode():
        wanted_BTD = theirs(ids_BT, attention_mask=mask_BT.long()).last_hidden_state
        assert_near(ours(ids_BT, mask_BT)[mask_BT], wanted_BTD[mask_BT])


def check_encoder_gradients(family: str) -> None:
    theirs, ours = encoder_pair(family)
    ids_BT = random_ids(2, SHORT) + 10
    theirs.zero_grad()
    ours.zero_grad()
    theirs(ids_BT).last_hidden_state[:, 1:].square().mean().backward()
    ours(ids_BT, torch.ones_like(ids_BT).bool())[:, 1:].square().mean().backward()
    found, wanted = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for name, parts in ENCODERS[family].sources(ours.config):
        grad = found[name].grad
        assert grad is not None
        assert_same_grad(name, grad, torch.cat([wanted[part].grad for part in parts])[-len(grad) :])


def encoder_row(name: str, family: str) -> Row:
    return Row(name, {
        "forward": partial(check_encoder_forward, family),
        "padded rows": partial(check_encoder_padded, family),
        "gradients": partial(check_encoder_gradients, family),
    })  # fmt: skip


ENCODER_FAMILIES = {
    "BERT": "bert",
    "RoBERTa": "roberta",
    "XLM-RoBERTa": "xlm-roberta",
    "DistilBERT": "distilbert",
}
ROWS: list[Row] = [
    *(decoder_row(name) for name in DECODERS),
    *(encoder_row(name, family) for name, family in ENCODER_FAMILIES.items()),
]


def main() -> int:
    """Run every cell and write the table; 1 where a cell is not green."""
    failures: set[tuple[str, str]] = set()
    for row, column, wrong in run_cells():
        if wrong:
            failures.add((row, column))
            print(f"{row}, {column}: {wrong}")
    text = DOCUMENT.read_text()
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    DOCUMENT.write_text(f"{before}\n{table(failures)}\n{after}")
    print(f"{sum(len(row.checks) for row in ROWS)} cells, {len(failures)} not green: {DOCUMENT}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
