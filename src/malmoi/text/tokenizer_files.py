"""The files that tokenizers come in, ours and others': each becomes one of the `tokenizers` library.

    tokenizer.json                        as it is
    tokenizer.model, spiece.model, ...    SentencePiece (see `malmoi.text.sentencepiece`)
    vocab.json and merges.txt             byte-level BPE of GPT-2, RoBERTa and Qwen
    vocab.txt                             WordPiece of BERT

Beside them `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`, `generation_config.json`
and `config.json` say which tokens are special. Nothing else is read, and no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from malmoi.text.sentencepiece import read_sentencepiece, specials_of, to_backend
from malmoi.util.errors import UserError
from malmoi.util.files import read_json

Config = dict[str, Any]

TOKENIZER_FILE = "tokenizer.json"
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model")
_VOCAB, _MERGES, _WORDPIECES = "vocab.json", "merges.txt", "vocab.txt"
_ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
# The classes of `transformers` whose ids are what the files say; others shift them or cut texts differently.
_BYTE_LEVEL = ("", "GPT2Tokenizer", "RobertaTokenizer", "Qwen2Tokenizer", "PreTrainedTokenizer")
_WORDPIECE = ("", "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "PreTrainedTokenizer")
_SHIFTED = ("XLMRoberta", "Camembert", "Barthez", "MBart", "MBart50", "Nllb", "XGLM", "Pegasus", "M2M100")
_ADDS_BOS = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def has_tokenizer(folder: Path) -> bool:
    """Whether `folder` holds a tokenizer that `Tokenizer.load` reads."""
    return _file_of(folder) is not None


def read_tokenizer(path: Path) -> tuple[Backend, Config]:
    """A folder's tokenizer, or a file's, and what `tokenizer_config.json` and its neighbours say.

    Raises UserError where a file is missing, broken or of a kind that cannot be read with the same ids.
    """
    file = _file_of(path) if path.is_dir() else path
    if file is None:
        raise UserError(f"it does not exist, nor a SentencePiece model, {_VOCAB} or {_WORDPIECES}")
    config = _read_config(file.parent)
    try:
        backend = _read_backend(file, config)
        if file.name != TOKENIZER_FILE:
            _add_tokens(backend, config, file.parent)
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise UserError(_no_tokenizer(error)) from None
    _name_specials(backend, config, file.parent)
    return backend, config


def parse_tokenizer(content: str) -> Backend:
    """The tokenizer that the text of a `tokenizer.json` describes. Raises UserError where it is none."""
    try:
        backend = Backend.from_str(content)
    except Exception as error:  # the library raises plain Exception
        raise UserError(_no_tokenizer(error)) from None
    backend.no_padding()
    backend.no_truncation()
    return backend


def _no_tokenizer(error: Exception) -> str:
    return f"it is not a tokenizer ({' '.join(str(error).split())[:200]}); restore it or train one"


def _file_of(folder: Path) -> Path | None:
    for name in (TOKENIZER_FILE, *_SENTENCEPIECE, _VOCAB, _WORDPIECES):
        if (folder / name).is_file() and (name != _VOCAB or (folder / _MERGES).is_file()):
            return folder / name
    return None


def _read_backend(file: Path, config: Config) -> Backend:
    kind = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    if file.suffix == ".model":
        if kind.removesuffix("Tokenizer") in _SHIFTED:
            raise UserError(
                f"{kind} has other ids than its {file.name}; only its {TOKENIZER_FILE} can be read"
            )
        model = read_sentencepiece(file)
        for role, name in specials_of(model).items():
            config.setdefault(role, name)
        config.setdefault("add_bos_token", kind in _ADDS_BOS)
        return to_backend(model)
    if file.name == _VOCAB:
        _require_kind(kind, _BYTE_LEVEL, file)
        return _byte_level(file, kind, config)
    if file.name == _WORDPIECES:
        _require_kind(kind, _WORDPIECE, file)
        return _wordpiece(file, config)
    return parse_tokenizer(json.dumps(read_json(file)))


def _require_kind(kind: str, known: tuple[str, ...], file: Path) -> None:
    if kind not in known:
        raise UserError(
            f"{kind} may read its {file.name} in a way of its own; only its {TOKENIZER_FILE} is read"
        )


def _byte_level(file: Path, kind: str, config: Mapping[str, Any]) -> Backend:
    lines = file.with_name(_MERGES).read_text(encoding="utf-8").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    unk = token_name(config.get("unk_token"))
    merges = [(left, right) for left, right in pairs]
    vocab = read_json(file)
    backend = Backend(models.BPE(vocab, merges, unk_token=unk if unk in vocab else None))
    prefix = bool(config.get("add_prefix_space", False))
    if kind == "Qwen2Tokenizer":
        words = pre_tokenizers.Split(Regex(_QWEN_WORDS), behavior="isolated")
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    return backend


def _wordpiece(file: Path, config: Mapping[str, Any]) -> Backend:
    lines = file.read_text(encoding="utf-8").split("\n")
    vocab = {line.rstrip("\r"): id for id, line in enumerate(lines) if line or id < len(lines) - 1}
    backend = Backend(models.WordPiece(vocab, unk_token=token_name(config.get("unk_token")) or "[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


# ---- special and added tokens


def _read_config(folder: Path) -> Config:
    config = _object(folder / "tokenizer_config.json")
    for name, value in _object(folder / "special_tokens_map.json").items():
        if config.get(name) is None:
            config[name] = value
    template, older = folder / "chat_template.jinja", _object(folder / "chat_template.json")
    if template.exists():  # where newer versions of `transformers` keep it
        config["chat_template"] = template.read_text(encoding="utf-8")
    elif config.get("chat_template") is None and "chat_template" in older:
        config["chat_template"] = older["chat_template"]
    return config


def _object(path: Path) -> Config:
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise UserError(f"{path.name} is not a JSON object; restore it")
    return found


def _add_tokens(backend: Backend, config: Mapping[str, Any], folder: Path) -> None:
    """Give a vocabulary of an older form the tokens that were added to it, and say which are special."""
    found = {int(id): _added(token) for id, token in (config.get("added_tokens_decoder") or {}).items()}
    for name, id in _object(folder / "added_tokens.json").items():
        found.setdefault(id, AddedToken(name, normalized=False))
    for id, token in sorted(found.items()):
        add = backend.add_special_tokens if token.special else backend.add_tokens
        add([token])
        if backend.token_to_id(token.content) != id:
            raise UserError(
                f"the added token {token.content!r} does not come out as {id}; restore the folder"
            )
    named = [token_name(config.get(f"{role}_token")) for role in _ROLES] + ["[CLS]", "[SEP]", "[MASK]"]
    known = [name for name in named if name and backend.token_to_id(name) is not None]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in known])


def _added(token: Mapping[str, Any]) -> AddedToken:
    flags = {
        flag: bool(token[flag])
        for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")
        if flag in token
    }
    return AddedToken(token["content"], **flags)


def _name_specials(backend: Backend, config: Config, folder: Path) -> None:
    """Where the tokenizer's own files do not name bos, eos or pad, the model's may, by their ids."""
    sources = (_object(folder / "generation_config.json"), _object(folder / "config.json"))
    for role in ("bos", "eos", "pad"):
        for source in sources:
            ids = source.get(f"{role}_token_id")
            first = ids[0] if isinstance(ids, list) and ids else ids
            if config.get(f"{role}_token") is None and isinstance(first, int) and first >= 0:
                name = backend.id_to_token(first)
                config |= {f"{role}_token": name} if name is not None else {}
    ends = sources[0].get("eos_token_id")
    also = [id for id in ends if isinstance(id, int) and id >= 0] if isinstance(ends, list) else []
    names = [name for id in also if (name := backend.id_to_token(id)) is not None]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def token_name(token: object) -> str | None:
    """The text of a token in a config, which is the text itself or an object that holds it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
