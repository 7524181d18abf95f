"""Folders of models that are damaged or made to do harm: a UserError of one line, or they work."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import malmoi
from malmoi.cli.commands import main
from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.engine.loaded import Loaded
from malmoi.hub.adapter import save_adapter
from malmoi.hub.bert import load_encoder
from malmoi.hub.export import export
from malmoi.hub.folder import load_model, save_model
from malmoi.hub.source import import_model
from malmoi.models.language import LanguageModel
from malmoi.models.lora import LoRASpec, add_lora
from malmoi.text.chat import ChatFormat, chat_template
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.util.files import read_json, write_json
from tests.conftest import sentences
from tests.hub.tiny_encoder import write_encoder
from tests.models.variants import make_model

IDS_BT = torch.tensor([[3, 5, 7]])
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(sentences(60), "bpe", 300)


def write_decoder(folder: Path, name: str = "llama") -> None:
    """A tiny model with every file that a folder of others can have."""
    save_model(folder, make_model(name), tokenizer())
    write_json(folder / "special_tokens_map.json", {"eos_token": "<|eos|>"})
    write_json(folder / "chat_template.json", {"chat_template": TEMPLATE})
    write_json(folder / "added_tokens.json", {})
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def shard(folder: Path) -> None:
    """The weights as one file of several."""
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    write_json(
        folder / "model.safetensors.index.json", {"weight_map": dict.fromkeys(names, "model-1.safetensors")}
    )


def open_all(folder: Path) -> None:
    """What the first uses of a model do. Only a UserError of one line may come out."""
    try:
        found = malmoi.load(folder)
        assert isinstance(found, Loaded)
        assert bool(found.logits(IDS_BT).isfinite().all())
        if chat_template(found.tokenizer) is not None:
            ChatFormat.of(found.tokenizer).prompt_ids([Message("user", "hello")])
    except UserError as error:
        one_line(error)


def one_line(error: UserError) -> None:
    assert len(str(error).splitlines()) == 1
    assert str(error).isprintable()
    assert len(str(error)) < 1200


def every_key(value: Any) -> Callable[[Path], None]:
    """Each value of an object in turn becomes this one: the first that hurts shows."""

    def change(path: Path) -> None:
        found = json.loads(path.read_text())
        path.write_text(json.dumps(dict.fromkeys(found, value) if isinstance(found, dict) else value))

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DEEP = "[" * 100_000 + "]" * 100_000
DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "not UTF-8": lambda path: path.write_bytes(b'{"a": "\xff\xfe\xe9"}'),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "deep": lambda path: path.write_text('{"a":' + DEEP + "}"),
    "deep list": lambda path: path.write_text(DEEP),
    "deep value": lambda path: path.write_text('{"eos_token_id":' + "[" * 900 + "]" * 900 + "}"),
    "5,000 digits": lambda path: path.write_text('{"eos_token_id": ' + "9" * 5000 + "}"),
    "400 digits": lambda path: path.write_text('{"eos_token_id": ' + "9" * 400 + "}"),
    "a list": lambda path: path.write_text("[]"),
    "a number": lambda path: path.write_text("7"),
    "null": lambda path: path.write_text("null"),
    "all null": every_key(None),
    "all true": every_key(True),
    "all 2**33": every_key(2**33),
    "all -7": every_key(-7),
    "all lists of text": every_key(["a", "b"]),
    "all objects": every_key({"a": {}}),
    "all NaN": every_key(float("nan")),
    "all infinite": every_key(float("inf")),
    "all lone surrogates": every_key("\ud800"),
    "twice": lambda path: path.write_text('{"eos_token_id": 1, "eos_token_id": [2, true]}'),
    "a folder": lambda path: [path.unlink(), path.mkdir()],
}
JSON_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.json", "model.safetensors.index.json", "model-1.safetensors",
    "chat_template.jinja",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_decoder(folder)
    shard(folder)
    open_all(folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", JSON_FILES)
def test_a_damaged_file_is_one_line_or_does_no_harm(
    name: str, damage: str, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    if name == "chat_template.json":
        (folder / "chat_template.jinja").unlink()
    try:
        DAMAGES[damage](folder / name)
    except (json.JSONDecodeError, UnicodeDecodeError):
        pytest.skip("the file is no JSON, so it has no values")
    open_all(folder)


def edited(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        write_json(folder / name, read_json(folder / name) | values)

    return change


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "endless layers": (edited("config.json", num_hidden_layers=10**18), "num_hidden_layers"),
    "endless vocabulary": (edited("config.json", vocab_size=10**9), "vocab_size"),
    "eos beyond": (edited("generation_config.json", eos_token_id=2**33), "eos_token_id"),
    "eos of a flag": (edited("generation_config.json", eos_token_id=True), "eos_token_id"),
    "eos below": (edited("config.json", eos_token_id=[-5]), "eos_token_id"),
    "template of texts": (
        lambda folder: [
            (folder / "chat_template.jinja").unlink(),
            edited("chat_template.json", chat_template=["a", "b"])(folder),
        ],
        "chat_template",
    ),
    "template not UTF-8": (
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff\xfe"),
        r"chat_template\.jinja is not UTF-8",
    ),
    "width of a flag": (edited("config.json", hidden_size=True), "hidden_size"),
    "theta": (edited("config.json", rope_theta=1e300), "rope_theta"),
    "escape codes": (edited("config.json", model_type="\x1b[2J\nllama"), "unknown model_type"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_is_refused(name: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    change, said = REFUSED[name]
    change(folder)
    with pytest.raises(UserError, match=said) as error:
        malmoi.load(folder)
    one_line(error.value)
    with pytest.raises(UserError, match=said):
        import_model(str(folder), tmp_path / "ours", lambda _: None)
    assert not (tmp_path / "ours").exists()
    with pytest.raises(UserError, match=said):
        export(folder, "hf", tmp_path / "theirs")


def test_adapters_in_a_ring_are_refused(tmp_path: Path) -> None:
    model = make_model("llama")
    add_lora(model, LoRASpec(rank=2))
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        save_adapter(tmp_path / name, model, tmp_path)
        edited("adapter_config.json", base_model_name_or_path=f"../{base}")(tmp_path / name)
    for use in (load_model, malmoi.load, lambda folder: export(folder, "hf", tmp_path / "out")):
        with pytest.raises(UserError, match="for itself"):
            use(tmp_path / "a")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_encoder_is_one_line(damage: str, tmp_path: Path) -> None:
    write_encoder(tmp_path)
    DAMAGES[damage](tmp_path / "config.json")
    with pytest.raises(UserError) as error:
        load_encoder(tmp_path)
    one_line(error.value)


# ---- any value in a config

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 64, 10**4, 2**31, 2**33, 10**9, 10**18, 10**200, 0.0, -0.5, 0.5,
    1e-300, 1e300, float("nan"), float("inf"), "", "4", "many", "\ud800", "a\nb", [], [1], ["full_attention"],
    [None, {}], {}, {"a": 1}, {"rope_type": "dynamic", "factor": 1e9}, {"rope_type": "linear", "factor": 0},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}, {"type": ["yarn"]},
    {"full_attention": {"rope_theta": "x"}},
)  # fmt: skip
FAMILIES = ("llama", "gpt2", "qwen3", "mistral", "gru", "window-and-qk-norm")
MORE_KEYS = (
    "rope_scaling", "rope_parameters", "rope_theta", "sliding_window", "layer_types", "head_dim",
    "model_type", "max_window_layers", "use_sliding_window", "quantization_config", "text_config", "task",
    "family", "no_rope_layers",
)  # fmt: skip
MORE_TYPES = ("gemma2", "gemma3_text", "smollm3", "qwen2", "malmoi_ngram", "bert")


def fuzz(folders: dict[str, Path], count: int, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(count):
        name = FAMILIES[number % len(FAMILIES)]
        path = folders[name] / "config.json"
        before = path.read_text()
        config = json.loads(before)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            config[rng.choice((*sorted(config), *MORE_KEYS))] = rng.choice(ODD)
        if rng.random() < 0.3:
            config["model_type"] = rng.choice(MORE_TYPES)
        path.write_text(json.dumps(config))
        try:
            found = load_model(folders[name]).model
            assert isinstance(found, LanguageModel)
            state = found.new_state(1, 3)
            with torch.inference_mode():
                found.step(IDS_BT, torch.tensor([3]), state)
        except UserError as error:
            one_line(error)
        except Exception as error:
            raise AssertionError(f"{name} with {config}: {error!r}") from error
        finally:
            path.write_text(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in FAMILIES}
    for name, folder in made.items():
        save_model(folder, make_model(name), None)
    return made


def test_any_config_is_refused_or_works(folders: dict[str, Path]) -> None:
    fuzz(folders, 300, seed=0)


@pytest.mark.slow
def test_any_of_many_configs_is_refused_or_works(folders: dict[str, Path]) -> None:
    fuzz(folders, 5000, seed=random.randrange(10**9))


# ---- the command line


@pytest.mark.parametrize("damage", ["deep", "5,000 digits", "NaN", "endless"])
def test_the_command_line_says_it_in_a_line(
    damage: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    if damage == "NaN":
        tensors = load_file(folder / "model-1.safetensors")
        tensors["model.norm.weight"] *= float("nan")
        save_file(tensors, folder / "model-1.safetensors")
    elif damage == "endless":
        edited("config.json", num_hidden_layers=10**18)(folder)
    else:
        DAMAGES[damage](folder / "tokenizer_config.json")
    for verb in (["complete", str(folder), "a"], ["import", str(folder), "--out", str(tmp_path / "ours")]):
        monkeypatch.setattr(sys, "argv", ["malmoi", *verb])
        with pytest.raises(SystemExit) as done:
            main()
        said = capsys.readouterr().err
        assert done.value.code == 2
        assert len(said.splitlines()) == 1, said
        assert said.startswith("malmoi: ")
