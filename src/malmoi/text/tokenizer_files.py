"""The files that tokenizers come in, ours and others': each becomes one of the `tokenizers` library.

    tokenizer.json                        as it is
    tokenizer.model, spiece.model, ...    SentencePiece (see `malmoi.text.sentencepiece`)
    vocab.json and merges.txt             byte-level BPE of GPT-2, RoBERTa and Qwen
    vocab.txt                             WordPiece of BERT

Beside them `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`, `generation_config.json`
and `config.json` say which tokens are special. Nothing else is read, and no code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from malmoi.core.errors import UserError
from malmoi.text.sentencepiece import read_sentencepiece, specials_of, to_backend
from malmoi.util.files import DENIED, MOST_OBJECT_BYTES, read_object, read_text, unreadable

Config = dict[str, Any]

TOKENIZER_FILE, GENERATION = "tokenizer.json", "generation_config.json"
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model")
_VOCAB, _MERGES, _WORDPIECES = "vocab.json", "merges.txt", "vocab.txt"
_MOST_IDS, _MOST_TOKENIZER_BYTES = 1 << 31, 256 << 20
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
    _check_readable(path)
    file = _file_of(path) if path.is_dir() else path
    if file is None:
        raise UserError(f"it does not exist, nor a SentencePiece model, {_VOCAB} or {_WORDPIECES}")
    _check_readable(file)
    config = _read_config(file.parent)
    with library_errors():
        backend = _read_backend(file, config)
        if file.name != TOKENIZER_FILE:
            _add_tokens(backend, config, file.parent)
        _name_specials(backend, config, file.parent)
    return backend, config


def _check_readable(path: Path) -> None:
    if unreadable(path) == DENIED:
        raise UserError(f"it {DENIED}")


def parse_tokenizer(content: str) -> Backend:
    """The tokenizer that the text of a `tokenizer.json` describes. Raises UserError where it is none."""
    with library_errors():
        backend = Backend.from_str(content)
        if not backend.get_vocab_size():
            raise UserError("it has no tokens; restore it or train one")
        backend.no_padding()
        backend.no_truncation()
    return backend


@contextmanager
def library_errors() -> Iterator[None]:
    """What the `tokenizers` library finds wrong in a file becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise UserError(_no_tokenizer(error)) from None
    except BaseException as error:  # its panics are no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(_no_tokenizer(error)) from None


def _no_tokenizer(error: BaseException) -> str:
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
    return parse_tokenizer(read_text(file, _MOST_TOKENIZER_BYTES))


def _require_kind(kind: str, known: tuple[str, ...], file: Path) -> None:
    if kind not in known:
        raise UserError(
            f"{kind} may read its {file.name} in a way of its own; only its {TOKENIZER_FILE} is read"
        )


def _byte_level(file: Path, kind: str, config: Mapping[str, Any]) -> Backend:
    lines = read_text(file.with_name(_MERGES), MOST_OBJECT_BYTES).split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    unk = token_name(config.get("unk_token"))
    merges = [(left, right) for left, right in pairs]
    vocab = read_object(file)
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
    lines = read_text(file, MOST_OBJECT_BYTES).split("\n")
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
        config["chat_template"] = read_text(template, MOST_OBJECT_BYTES)
    elif config.get("chat_template") is None and "chat_template" in older:
        config["chat_template"] = older["chat_template"]
    if not is_chat_template(config.get("chat_template")):
        raise UserError('its chat_template is neither text nor a list of {"name", "template"}; restore it')
    added = config.get("added_tokens_decoder") or {}
    if not isinstance(added, dict) or not all(isinstance(token, dict) for token in added.values()):
        raise UserError("added_tokens_decoder in tokenizer_config.json is no object of tokens; restore it")
    return config


def is_chat_template(value: object) -> bool:
    """Whether a config can have this as its `chat_template`: none, text, or several with names."""
    if not isinstance(value, list):
        return value is None or isinstance(value, str)
    return all(
        isinstance(one, dict) and isinstance(one.get("name"), str) and isinstance(one.get("template"), str)
        for one in value
    )


def _object(path: Path) -> Config:
    return read_object(path) if path.exists() else {}


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
            ids = token_ids(source.get(f"{role}_token_id"), f"{role}_token_id")
            if config.get(f"{role}_token") is None and ids:
                name = backend.id_to_token(ids[0])
                config |= {f"{role}_token": name} if name is not None else {}
    ends = sources[0].get("eos_token_id")
    also = token_ids(ends, "eos_token_id") if isinstance(ends, list) else []
    names = [name for id in also if (name := backend.id_to_token(id)) is not None]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def token_ids(value: object, name: str) -> list[int]:
    """The ids that a config gives under `name`: one, a list, or null; -1 is none, as in some older ones.

    Raises UserError for anything else.
    """
    found: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    for id in found:
        if type(id) is not int or not -1 <= id < _MOST_IDS:
            raise UserError(
                f"{name} is {id!r}, which is no token's id; restore config.json and its neighbours"
            )
    return [id for id in found if id >= 0]


def named_ends(folder: Path) -> list[int]:
    """The ids that a model folder's generation config says end a text. Raises UserError for what are none."""
    path = folder / GENERATION
    return token_ids(_object(path).get("eos_token_id"), f"{path}: eos_token_id")


def token_name(token: object) -> str | None:
    """The text of a token in a config, which is the text itself or an object that holds it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
