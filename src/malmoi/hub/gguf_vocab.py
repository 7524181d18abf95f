"""A tokenizer as llama.cpp has it: its tokens, merges or scores, and how text is cut before them.

llama.cpp does not read `tokenizer.json`. It knows ways to cut text by name (`tokenizer.ggml.pre`); here the
name is chosen by what `tokenizer.json` does, and where none does the same, the tokenizer is refused: wrong
ids would make a good model talk nonsense. Checked against llama.cpp's `llama-vocab.cpp` of 2025.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from malmoi.core.errors import UserError, nearest
from malmoi.core.nouns import Json
from malmoi.text.chat import chat_template
from malmoi.text.sentencepiece import SPACE, Piece, SentencePieceModel, to_backend
from malmoi.text.tokenizer import TURNS, Tokenizer
from malmoi.text.tokenizer_files import library_errors
from malmoi.util.hardware import without_collecting

_CASELESS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"


def _modern(digits: str) -> str:
    return f"{_CASELESS}|{_WORDS}|{digits}|{_SIGNS}|{_TAIL}"


# (the patterns that cut, whether a word that is a token is taken whole) -> llama.cpp's name. Its gpt-4o and
# tekken are not here: they take letters beyond a-z for large and small at once, and so cut elsewhere.
_PRE: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((r"\p{N}", _GPT2), False): "smollm",
    ((_modern(r"\p{N}{1,3}"),), True): "llama-bpe",
    ((_modern(r"\p{N}{1,3}"),), False): "smaug-bpe",
    ((_modern(r"\p{N}"),), False): "qwen2",
}


@dataclass(frozen=True)
class Vocabulary:
    """What of a tokenizer goes into a GGUF file."""

    model: str  # "gpt2": byte-level BPE; "llama": SentencePiece's BPE
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None  # of "llama"
    merges: list[str] | None  # of "gpt2"
    specials: dict[str, int]  # "bos", "eos", "pad", "unk", "eot"
    add_bos: bool
    add_space: bool
    template: str | None
    note: str  # what llama.cpp will do otherwise, or ''


def vocabulary(tokenizer: Tokenizer, size: int, ends: Sequence[int] = ()) -> Vocabulary:
    """The tokenizer for a model with `size` rows. ends: ids that end a reply, beside the end of a text.

    Raises UserError where llama.cpp has no way to cut text as this tokenizer does.
    """
    if tokenizer.vocab_size > size:
        raise UserError(f"the tokenizer has {tokenizer.vocab_size} tokens, but the model only {size} rows")
    file: Json = json.loads(tokenizer.to_json())
    steps = list(_flat(file["normalizer"] or {}, "normalizers"))
    if file["model"]["type"] == "BPE" and file["model"].get("byte_fallback"):
        model, pre, merges = "llama", "default", None
        scores, add_space = _scores(file["model"], size), _adds_space(steps, file["pre_tokenizer"])
    else:
        model, pre, scores, add_space = "gpt2", _pre(file, steps), None, False
        # llama.cpp wants a list, and an empty one cannot be written: this merge joins nothing
        merges = [" ".join(_pair(merge)) for merge in file["model"]["merges"]] or [""]
    tokens, types = _tokens(file, size, tokenizer)
    specials, add_bos = _specials(tokenizer, file, ends)
    changes = any(step["type"] == "NFC" for step in steps)
    note = "llama.cpp leaves text as it is: give it text in NFC, as most text is" if changes else ""
    return Vocabulary(
        model, pre, tokens, types, scores, merges, specials, add_bos, add_space, _template(tokenizer), note
    )


def _tokens(file: Json, size: int, tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    """Each id's token and its type; rows without a token are unused."""
    tokens = [f"[PAD{id}]" for id in range(size)]
    types = [int(TokenType.UNUSED)] * size
    for token, id in file["model"]["vocab"].items():
        is_byte = bool(file["model"].get("byte_fallback")) and len(token) == 6 and token.startswith("<0x")
        tokens[id], types[id] = token, int(TokenType.BYTE if is_byte else TokenType.NORMAL)
    for added in file["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], int(kind)
    for id in tokenizer.specials.ids:
        types[id] = int(TokenType.UNKNOWN if id == tokenizer.specials.unk else TokenType.CONTROL)
    return tokens, types


def _specials(tokenizer: Tokenizer, file: Json, ends: Sequence[int]) -> tuple[dict[str, int], bool]:
    """The special ids by role, and whether a text begins with bos."""
    found = tokenizer.specials
    specials = {"bos": found.bos, "eos": found.eos, "pad": found.pad}
    if found.unk is not None:
        specials["unk"] = found.unk
    if replies := [id for id in ends if id != found.eos]:
        specials["eot"] = replies[0]
    if set(TURNS) <= set(found.turns) and chat_template(tokenizer) is None:
        # ours are trained on documents that an eos parts, so that is what a text begins with
        return specials | {"bos": found.eos}, True
    named, kind = tokenizer.config.get("add_bos_token"), file["post_processor"]
    if named is None:  # a SentencePiece `.model` does not say; those who use them begin with it
        named = _begins(kind) if kind else bool(file["model"].get("byte_fallback"))
    return specials, bool(named)


def _begins(processor: Json | None) -> bool:
    """Whether `tokenizer.json` puts a special before a text."""
    parts = _flat(processor or {}, "processors")
    return any("SpecialToken" in (part.get("single") or [{}])[0] for part in parts)


def _template(tokenizer: Tokenizer) -> str | None:
    """The chat template; `{% generation %}`, which few programs know, only marks what is learned."""
    template = chat_template(tokenizer)
    if template is None:
        return None
    for tag, known in (("endgeneration", "endif"), ("generation", "if true")):
        for dash in ("-", "", "+"):
            template = template.replace(f"{{%{dash} {tag} ", f"{{%{dash} {known} ")
    return template


# ---- byte-level BPE


def _pre(file: Json, steps: list[Json]) -> str:
    """llama.cpp's name for how a byte-level BPE cuts text."""
    model = file["model"]
    if model["type"] != "BPE":
        raise UserError(f"llama.cpp has no tokenizer that cuts text as this {_described(file)}; use `to` hf")
    odd = [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    odd += [f"normalizer {step['type']}" for step in steps if step["type"] != "NFC"]
    if odd:
        raise UserError(f"llama.cpp has no BPE with {' and '.join(odd)}; use `to` hf")
    cuts = _cuts(file["pre_tokenizer"] or {})
    if cuts == () and not model["merges"]:
        return "gpt-2"  # nothing to merge, so it does not matter where words end
    name = _PRE.get((cuts or (), bool(model.get("ignore_merges"))))
    if name is None:
        raise UserError("llama.cpp has no pre-tokenizer that cuts text as this tokenizer.json; use `to` hf")
    return name


def _cuts(pre: Json) -> tuple[str, ...] | None:
    """The patterns that a byte-level pre-tokenizer cuts by, one after another; None: in another way."""
    found: list[str] = []
    parts = list(_flat(pre, "pretokenizers"))
    for part in parts:
        if part["type"] == "ByteLevel" and part is parts[-1] and not part["add_prefix_space"]:
            found += [_GPT2] if part["use_regex"] else []
        elif part["type"] == "Digits" and part["individual_digits"]:
            found.append(r"\p{N}")
        elif part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
            found.append(part["pattern"].get("Regex", ""))
        else:
            return None
    return tuple(found) if parts and parts[-1]["type"] == "ByteLevel" else None


def _described(file: Json) -> str:
    kind = file["model"]["type"]
    return f"{kind} tokenizer (only byte-level BPE and SentencePiece's BPE can be exported)"


# ---- SentencePiece's BPE


def _scores(model: Json, size: int) -> list[float]:
    """A score for each id: the earlier its merge, the higher. Equal to the merges only where they are made
    as SentencePiece's: all ways to join a piece stand together."""
    vocab: Mapping[str, int] = model["vocab"]
    pairs = [_pair(merge) for merge in model["merges"]]
    made = ["".join(pair) for pair in pairs]
    order = [piece for before, piece in pairwise(["", *made]) if piece != before]
    known = set(pairs)
    whole = all(
        (piece[:at], piece[at:]) in known
        for piece in order
        for at in range(1, len(piece))
        if piece[:at] in vocab and piece[at:] in vocab
    )
    if len(set(order)) != len(order) or not whole:
        raise UserError(
            "llama.cpp merges as SentencePiece does, and this tokenizer's merges are not made so; use `to` hf"
        )
    scores = [float(-len(order) - 1)] * size
    for rank, piece in enumerate(order):
        scores[vocab[piece]] = float(-rank)
    return scores


def _adds_space(steps: list[Json], pre: Json | None) -> bool:
    """Whether a space is put before a text. Raises UserError where text is changed in another way."""
    kinds = [step["type"] for step in steps]
    spaces = [s for s in steps if s["type"] == "Replace" and s["pattern"] == {"String": " "}]
    if kinds in (["Prepend", "Replace"], ["Replace"]) and spaces and spaces[0]["content"] == SPACE:
        if pre is None or _is_idle(pre):
            return kinds[0] == "Prepend"
    elif not steps and pre and pre["type"] == "Metaspace" and not pre.get("split", True):
        return pre["prepend_scheme"] != "never"
    raise UserError(
        "llama.cpp has no SentencePiece tokenizer that changes text as this tokenizer.json; use `to` hf"
    )


def _is_idle(pre: Json) -> bool:
    """Whether it cuts at spaces, of which there are none left (Gemma's does)."""
    return pre["type"] == "Split" and pre["pattern"] == {"String": " "}


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _flat(part: Json, inner: str) -> Iterator[Json]:
    """The steps of a part of `tokenizer.json`, which may be a sequence of such."""
    if part.get("type") == "Sequence":
        for one in part[inner]:
            yield from _flat(one, inner)
    elif part:
        yield part


# ---- the way back


@without_collecting()
def tokenizer_of(facts: Mapping[str, Any], path: Path) -> Tokenizer:
    """The tokenizer that a file describes. Raises UserError where none here has the same ids.

    Ids are llama.cpp's of plain text, its parse_special off: markers that control are letters, and what the
    file calls the user's own tokens (Gemma's `<start_of_image>`) are one token wherever they stand.
    """
    model = facts.get("tokenizer.ggml.model")
    if "tokenizer.ggml.tokens" not in facts or model not in _READERS:
        raise UserError(
            f"{path} has a tokenizer of the kind {model!r}; what can be read here is gpt2 (byte-level BPE) "
            "and llama (SentencePiece's BPE)"
        )
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    types = facts.get("tokenizer.ggml.token_type")
    kinds = [int(TokenType.NORMAL)] * len(tokens) if types is None else types.tolist()
    if len(kinds) != len(tokens):
        raise UserError(f"{path} has {len(tokens)} tokens and {len(kinds)} kinds of them; get the file again")
    # what looks like the end of a turn is one, whatever the file says; so llama.cpp takes it, too
    kinds = [
        int(TokenType.CONTROL) if token in _ENDS else kind for token, kind in zip(tokens, kinds, strict=True)
    ]
    ids = {role: _id(facts, key, _USUAL.get((model, role), -1)) for role, key in _ROLES.items()}
    roles = {role: tokens[id] for role, id in ids.items() if 0 <= id < len(tokens)}
    ends = {token for role, token in roles.items() if role not in ("pad", "unk")}
    with library_errors():
        backend = _READERS[model](facts, tokens, kinds, roles)
        backend.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in sorted(ends)]
        )
    config: Json = {f"{role}_token": roles[role] for role in ("bos", "eos", "pad", "unk") if role in roles}
    config["add_bos_token"] = bool(facts.get("tokenizer.ggml.add_bos_token", model == "llama"))
    if template := facts.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return Tokenizer(backend, config)


_ENDS = frozenset({
    "</s>", "<|endoftext|>", "<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<EOT>",
})  # fmt: skip
_ROLES = {
    "bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown", "eot": "eot", "eom": "eom",
}  # fmt: skip
# what llama.cpp takes where a file does not say
_USUAL = {
    ("llama", "bos"): 1, ("llama", "eos"): 2, ("llama", "unk"): 0, ("gpt2", "bos"): 11, ("gpt2", "eos"): 11,
}  # fmt: skip


def _id(facts: Mapping[str, Any], key: str, usual: int) -> int:
    return int(facts.get(f"tokenizer.ggml.{key}_token_id", usual))


def stated_ends(facts: Mapping[str, Any]) -> list[int]:
    """The ids that a file says end a reply, beside the end of a text."""
    found = (_id(facts, role, -1) for role in ("eot", "eom"))
    return [id for id in found if 0 <= id < len(facts["tokenizer.ggml.tokens"])]


def _sentencepiece(
    facts: Mapping[str, Any], tokens: list[str], kinds: list[int], roles: Mapping[str, str]
) -> Backend:
    scores = facts.get("tokenizer.ggml.scores")
    scores = [0.0] * len(tokens) if scores is None else scores.tolist()
    own = int(TokenType.USER_DEFINED)  # these are written with plain spaces there
    both = zip(tokens, kinds, strict=True)
    texts = (token.replace(" ", SPACE) if kind == own else token for token, kind in both)
    unknown = next((id for id, kind in enumerate(kinds) if kind == TokenType.UNKNOWN), None)
    if unknown is None:
        unknown = tokens.index(roles["unk"]) if "unk" in roles else 0
    return to_backend(SentencePieceModel(
        tuple(map(Piece, texts, scores, kinds)),
        is_bpe=True, charsmap=b"", byte_fallback=int(TokenType.BYTE) in kinds,
        adds_prefix=bool(facts.get("tokenizer.ggml.add_space_prefix", True)), joins_spaces=False,
        ids={"unk": unknown},
    ))  # fmt: skip


def _byte_level(
    facts: Mapping[str, Any], tokens: list[str], kinds: list[int], roles: Mapping[str, str]
) -> Backend:
    del roles
    name = str(facts.get("tokenizer.ggml.pre", "default"))
    if name not in _CUTS:
        raise UserError(f"it cuts text in the way {name!r}, which is not known here; {nearest(name, _CUTS)}")
    patterns, ignore_merges = _CUTS[name]
    merges = [_pair(merge) for merge in facts.get("tokenizer.ggml.merges", ()) if " " in merge]
    vocab = {token: id for id, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    splits: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    for kind, add in (
        (TokenType.CONTROL, backend.add_special_tokens), (TokenType.USER_DEFINED, backend.add_tokens)
    ):  # fmt: skip
        those = (token for token, of in zip(tokens, kinds, strict=True) if of == kind)
        add([AddedToken(it, special=kind == TokenType.CONTROL, normalized=False) for it in those])
    return backend


_READERS = {"llama": _sentencepiece, "gpt2": _byte_level}
# llama.cpp's names of the ways to cut that can be read: those that can be written, and others for the same
_CUTS: dict[str, tuple[tuple[str, ...], bool]] = {name: cut for cut, name in _PRE.items()}
_CUTS |= {
    **dict.fromkeys(("gpt2", "phi-2", "mpt", "olmo", "jais"), _CUTS["gpt-2"]),
    **dict.fromkeys(("llama3", "llama-v3", "falcon3"), _CUTS["llama-bpe"]),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone"), _CUTS["smollm"]),
    "deepseek-r1-qwen": _CUTS["qwen2"],
    "dbrx": _CUTS["smaug-bpe"],
}
