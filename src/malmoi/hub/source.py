"""Models of others, from a folder or from the Hugging Face hub, as a whole folder of one's own.

Only weights in safetensors, JSON, vocabularies, templates and the texts about a model are fetched or copied:
nothing that could run.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from malmoi.core.errors import UserError
from malmoi.hub.bert import ENCODERS, load_encoder
from malmoi.hub.folder import load_model, model_path, read_config, save_model
from malmoi.hub.gguf_import import GGUFFile, is_gguf, stated_ends
from malmoi.hub.vocab_rows import trimmed
from malmoi.hub.weights import open_checkpoint
from malmoi.models.language import LanguageModel
from malmoi.text.chat import reply_ends
from malmoi.text.tokenizer import Tokenizer
from malmoi.text.tokenizer_files import TOKENIZER_FILE, has_tokenizer, named_ends
from malmoi.util import files
from malmoi.util.files import CARD
from malmoi.util.version import VERSION

IMPORT_RECORD = "import.json"
_WANTED = (
    "*.safetensors", "*.json", "*.model", "merges.txt", "vocab.txt", "*.jinja", "LICENSE*", "LICENCE*",
    "NOTICE*", "USE_POLICY*", CARD,
)  # fmt: skip
# The same weights for other programs, or in other numbers.
_OTHERS = ("onnx/*", "openvino/*", "original/*", "consolidated*", "*.fp16.safetensors", "*.fp32.safetensors")
_POOLING = "1_Pooling/config.json"  # of sentence encoders
_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


class ModelOrigin(NamedTuple):
    """Where a model came from: its files, what it is called, and its revision on the hub, if any."""

    folder: Path
    name: str
    revision: str = ""


def import_model(
    source: str, out: Path, say: Callable[[str], None] = print, *, keep_vocab_of: Path | None = None
) -> None:
    """Make the folder `out` of a model folder, a GGUF file or a hub id, and open it once to be sure.

    keep_vocab_of: texts; of the vocabulary only what they need is left (see `malmoi.hub.vocab_rows`).

    Its `import.json` says where it came from, under what licence, and the SHA-256 of each file. Raises
    UserError where the source cannot be had or used, or `out` holds something; then there is no `out`.
    """
    if not files.is_free(out):
        raise UserError(f"{out} already holds something; choose another `out`")
    files.check_folder(out)
    source = str(model_path(source))
    if is_gguf(Path(source)) or keep_vocab_of is not None:
        say(_import_anew(source, out, keep_vocab_of))
        return
    found = find_source(source)
    config = read_config(found.folder)
    open_checkpoint(found.folder)  # what is not there should be said before gigabytes are copied
    with files.new_folder(out) as folder:
        copied = _copy(found.folder, folder)
        if has_tokenizer(folder) and TOKENIZER_FILE not in copied:
            Tokenizer.load(folder).save(folder)
        try:
            what = _opened(folder, str(config.get("model_type")))
        except UserError as error:
            raise UserError(str(error).replace(str(folder), str(found.folder))) from None
        files.write_json(folder / IMPORT_RECORD, {
            "source": found.name, "revision": found.revision, "licence": _licence(folder), "malmoi": VERSION,
            "files": {name: files.sha256(folder / name) for name in copied},
        })  # fmt: skip
    say(f"{found.name}{' at ' + found.revision if found.revision else ''} is in {out}: {what}")


def _import_anew(source: str, out: Path, keep_vocab_of: Path | None) -> str:
    """Write the model of a folder or GGUF file as a folder, with the tokens asked for; a line about it."""
    path = Path(source)
    facts = GGUFFile(path).facts if is_gguf(path) else None
    origin = find_source(source) if facts is None else ModelOrigin(path, str(path.resolve()))
    model, tokenizer = load_model(origin.folder, dtype=None)
    named = named_ends(origin.folder) if facts is None else stated_ends(facts)
    fewer = ""
    if keep_vocab_of is not None:
        if not isinstance(model, LanguageModel) or tokenizer is None:
            raise UserError(f"{source} is no network with a vocabulary; leave `keep_vocab_of` out")
        smaller = trimmed(model, tokenizer, keep_vocab_of)
        named = [new for id in named if (new := smaller.new_ids.get(id)) is not None]
        tokenizer, fewer = smaller.tokenizer, smaller.words
    licence = _licence(origin.folder) if facts is None else str(facts.get("general.license", "unknown"))
    made_of = [path] if facts is not None else sorted(origin.folder.glob("*.safetensors"))
    with files.new_folder(out) as folder:
        ends = [] if tokenizer is None else reply_ends(tokenizer, named)[1:]
        save_model(folder, model, tokenizer, ends=ends)
        files.write_json(folder / IMPORT_RECORD, {
            "source": origin.name, "revision": origin.revision, "licence": licence, "malmoi": VERSION,
            "files": {one.name: files.sha256(one) for one in made_of},
        })  # fmt: skip
        what = _opened(folder, str(read_config(folder).get("model_type")))
    return f"{origin.name} is in {out}: {what}{fewer}"


def find_source(source: str) -> ModelOrigin:
    """A model folder, or `owner/name[@revision]`, which is fetched from the hub.

    Raises UserError where there is no such folder, and the hub cannot be reached or does not give it.
    """
    files.check_readable(Path(source))
    if Path(source).exists():
        if not Path(source).is_dir():
            raise UserError(f"{source} is a file, and no GGUF one; give the folder of a model")
        return ModelOrigin(Path(source), str(Path(source).resolve()))
    named = _HUB_ID.fullmatch(source)
    if named is None or source.startswith("."):
        raise UserError(
            f"{source} is no folder, and no hub id, which looks like owner/name or owner/name@main"
        )
    return _fetch(named["name"], named["revision"])


def _fetch(name: str, revision: str | None) -> ModelOrigin:
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(
            f"{name} is no folder here; to fetch it from the hub, pip install huggingface_hub"
        ) from None
    where = f"{name}@{revision}" if revision else name
    try:
        folder = Path(hub.snapshot_download(
            name, revision=revision, allow_patterns=list(_WANTED), ignore_patterns=list(_OTHERS)
        ))  # fmt: skip
    except errors.GatedRepoError:
        page = f"https://huggingface.co/{name}"
        raise UserError(
            f"{where} is given only with permission: ask at {page}, then: hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"the hub has {name}, but no revision {revision}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"there is no folder {name}, and no public model of that name on the hub") from None
    except errors.HFValidationError:
        raise UserError(f"{where} is no folder, and the hub allows no such name") from None
    except Exception as error:  # what a network can raise depends on the versions of three libraries
        raise UserError(
            f"{where} is no folder here, and the hub cannot be reached ({type(error).__name__}); "
            "try again online, or fetch it elsewhere and give its folder"
        ) from None
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{where} has no safetensors on the hub, and only these are read; convert it elsewhere: "
            "in transformers, from_pretrained and then save_pretrained"
        )
    return ModelOrigin(folder, name, folder.name)


def _copy(source: Path, folder: Path) -> list[str]:
    """Copy what belongs to a model; the files' names."""
    wanted = [
        path for path in sorted(source.iterdir())
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in _WANTED)
        and not any(fnmatch(path.name, pattern) for pattern in _OTHERS)
        and path.name not in (files.MANIFEST, IMPORT_RECORD)
    ]  # fmt: skip
    names = [path.name for path in wanted]
    if (source / _POOLING).is_file():
        (folder / _POOLING).parent.mkdir()
        names.append(_POOLING)
    for name in names:
        shutil.copyfile(source / name, folder / name)
    return names


def _opened(folder: Path, model_type: str) -> str:
    """What a folder holds, in a line. Raises UserError where it cannot be used."""
    if model_type in ENCODERS:
        encoder = load_encoder(folder).encoder
        return f"an encoder ({model_type}), {sum(p.numel() for p in encoder.parameters()):,} parameters"
    model, tokenizer = load_model(folder, dtype=None)
    size = "" if tokenizer is None else f", {tokenizer.vocab_size:,} tokens"
    chat = ", chats" if tokenizer is not None and tokenizer.config.get("chat_template") else ""
    count = getattr(model, "num_parameters", None)
    return f"{model_type}{f', {count():,} parameters' if count else ''}{size}{chat}"


def _licence(folder: Path) -> str:
    """What the model's card says, else which file tells."""
    card = folder / CARD
    if card.exists():
        named = re.search(r"^licen[sc]e: *(\S.*)$", card.read_text("utf-8", "replace"), re.MULTILINE)
        if named:
            return named[1].strip().strip("\"'")
    named = sorted(path.name for path in folder.glob("LICEN*"))
    return f"see {named[0]}" if named else "unknown"
