"""Exported folders load in `transformers`; LoRA, merged, keeps its logits there; nothing is half-written."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from typer.testing import CliRunner

from malmoi.cli.commands import app
from malmoi.core.errors import UserError
from malmoi.core.tensors import TokenBatch
from malmoi.hub import export as module
from malmoi.hub import verify
from malmoi.hub.adapter import load_adapter, save_adapter
from malmoi.hub.export import TARGETS, export
from malmoi.hub.folder import load_model, save_model
from malmoi.hub.verify import TEXTS, agreement, greedy
from malmoi.models.language import LanguageModel
from malmoi.models.lora import LoRASpec, add_lora, lora_layers
from malmoi.text.chat import TEMPLATE
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from malmoi.util.files import read_json
from tests.models.variants import VOCAB, make_model, make_ngram

BPE = train_tokenizer([*TEXTS, "the ferry and the bridge, 배와 다리 " * 20], "bpe", 400)


def saved(folder: Path, name: str = "llama", tokenizer: Tokenizer | None = None) -> LanguageModel:
    model = make_model(name)
    save_model(folder, model, tokenizer)
    return model


def outside(folder: Path) -> None:
    """A tiny Llama of `transformers` with a tokenizer trained on Korean and English, as others share one."""
    sizes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 96, "vocab_size": BPE.vocab_size,
    }  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4) if parameter.ndim > 1 else None
    model.save_pretrained(folder)
    BPE.save(folder)


def tuned(model: LanguageModel, steps: int = 3) -> None:
    """A few steps of learning the next token, of the LoRA layers only."""
    learned = [it for it in model.parameters() if it.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=1e-2)
    ids_BT = torch.tensor([BPE.encode(TEXTS[0] + TEXTS[1])[:24]])
    for _ in range(steps):
        logits_BTV = model.logits(model.hidden(TokenBatch(ids_BT)))
        torch.nn.functional.cross_entropy(logits_BTV[0, :-1], ids_BT[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_import_lora_merge_export_and_load_there(tmp_path: Path) -> None:
    outside(tmp_path / "theirs")
    imported = load_model(tmp_path / "theirs")
    assert isinstance(imported.model, LanguageModel)
    before_TV = imported.model.logits(imported.model.hidden(TokenBatch(torch.tensor([[5, 6, 7]]))))[0]
    add_lora(imported.model, LoRASpec(rank=4, alpha=8.0))
    assert lora_layers(imported.model)
    tuned(imported.model)
    save_adapter(tmp_path / "adapter", imported.model, tmp_path / "theirs")
    told = export(tmp_path / "adapter", "hf", tmp_path / "out")
    assert "12 texts to equal ids" in told[1]
    assert "tokens equal in transformers" in told[1]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids_BT = torch.tensor([BPE.encode("말모이는 words 😀")])
    with torch.inference_mode():
        ours_TV = imported.model.eval().logits(imported.model.hidden(TokenBatch(ids_BT)))[0]
        theirs_TV = theirs(ids_BT).logits[0]
        now_TV = theirs(torch.tensor([[5, 6, 7]])).logits[0]
    assert bool(((ours_TV - theirs_TV).abs() <= 1e-4 * theirs_TV.abs().clamp(min=1)).all())
    assert (now_TV - before_TV).abs().max() > 0.01, "the adapter must have changed something"


@pytest.mark.parametrize("name", ["llama-mqa-tied", "mistral", "qwen3", "gpt2"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_the_type_is_honoured(name: str, dtype: str, tmp_path: Path) -> None:
    saved(tmp_path / "m", name, None)
    told = export(tmp_path / "m", "hf", tmp_path / "out", dtype)
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert {it.dtype for it in load_file(tmp_path / "out" / "model.safetensors").values()} == {kind}
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == kind
    assert f"{name.partition('-')[0]}, {dtype}" in told[0]
    if dtype != "f32":  # the type that is stored is the one that is written unless one is given
        export(tmp_path / "out", "hf", tmp_path / "again")
        assert (
            read_json(tmp_path / "again" / "config.json")["torch_dtype"]
            == read_json(tmp_path / "out" / "config.json")["torch_dtype"]
        )


def test_a_native_folder_is_copied(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_json(BPE.to_json(), {"chat_template": TEMPLATE})
    model = make_model("llama")
    model_sizes = model.config.model_copy(update={"vocab_size": tokenizer.vocab_size})
    torch.manual_seed(0)
    model = type(model)(model_sizes).eval()  # pyright: ignore[reportCallIssue]
    save_model(tmp_path / "m", model, tokenizer, "# a card\n", ends=[6])
    export(tmp_path / "m", "hf", tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()
    before, after = (load_file(tmp_path / it / "model.safetensors") for it in ("m", "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ngram", "n-gram"),
        ("lstm", "lstm"),
        ("learned-rms", "position = learned"),
        ("gelu-rotary", "cannot be in"),
    ],
)
def test_what_others_do_not_run_is_named(name: str, why: str, to: str, tmp_path: Path) -> None:
    save_model(tmp_path / "m", make_ngram() if name == "ngram" else make_model(name), None)
    with pytest.raises(UserError, match=why) as error:
        export(tmp_path / "m", to, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("to", TARGETS)
def test_an_adapter_without_its_base(to: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "m", "llama", None)
    add_lora(model, LoRASpec(rank=2, alpha=4.0))
    save_adapter(tmp_path / "a", model, tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="which is not there"):
        export(tmp_path / "a", to, tmp_path / "out")
    load_adapter(tmp_path / "a", make_model("llama"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("there", ["a file", "a folder"])
def test_what_is_there_is_left_alone(to: str, there: str, tmp_path: Path) -> None:
    saved(tmp_path / "m", "llama", None)
    out = tmp_path / ("out.gguf" if to == "gguf" else "out")
    out.write_text("mine") if there == "a file" else (out.mkdir(), (out / "x").write_text("mine"))
    with pytest.raises(UserError, match="is there already"):
        export(tmp_path / "m", to, out)
    assert (out if there == "a file" else out / "x").read_text() == "mine"


@pytest.mark.parametrize("to", TARGETS)
def test_a_place_that_cannot_be_is_named(to: str, tmp_path: Path) -> None:
    saved(tmp_path / "m", "llama", None)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is no folder to write to"):
        export(tmp_path / "m", to, tmp_path / "file" / "out")


def test_what_ends_a_reply_of_its_base_ends_an_adapters(tmp_path: Path) -> None:
    model, tokenizer = make_model("llama"), train_tokenizer(["abc"], "character", 20)
    save_model(tmp_path / "m", model, tokenizer, ends=[5])
    add_lora(model, LoRASpec(rank=2, alpha=4.0))
    save_adapter(tmp_path / "a", model, tmp_path / "m", tokenizer)
    export(tmp_path / "a", "hf", tmp_path / "out")
    assert read_json(tmp_path / "out" / "generation_config.json")["eos_token_id"] == [2, 5]


def test_another_modelfile_is_left_alone(tmp_path: Path) -> None:
    saved(tmp_path / "m")
    (tmp_path / "m.Modelfile").write_text("mine")
    model = make_model("llama")
    save_model(tmp_path / "m", model, train_tokenizer(["abc"], "word", 20))
    with pytest.raises(UserError, match=r"is there already|llama\.cpp has no"):
        export(tmp_path / "m", "gguf", tmp_path / "m.gguf")
    assert (tmp_path / "m.Modelfile").read_text() == "mine"


@pytest.mark.parametrize(
    ("to", "dtype", "why"),
    [("onnx", None, "unknown format"), ("hf", "q8_0", "hf has no type"), ("gguf", "f64", "gguf has no type")],
)
def test_a_format_that_there_is_not(to: str, dtype: str | None, why: str, tmp_path: Path) -> None:
    saved(tmp_path / "m")
    with pytest.raises(UserError, match=why):
        export(tmp_path / "m", to, tmp_path / "out", dtype)


def test_a_gguf_needs_a_tokenizer(tmp_path: Path) -> None:
    saved(tmp_path / "m")
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        export(tmp_path / "m", "gguf", tmp_path / "out")


@pytest.mark.parametrize("to", TARGETS)
def test_a_full_disk_leaves_nothing(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer([], "byte")
    torch.manual_seed(0)
    made = make_model("llama")
    config = made.config.model_copy(update={"vocab_size": tokenizer.vocab_size})
    save_model(tmp_path / "m", type(made)(config).eval(), tokenizer)  # pyright: ignore[reportCallIssue]

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.files, "sync_file", full)
    with pytest.raises(OSError, match="No space"):
        export(tmp_path / "m", to, tmp_path / "new" / "out")
    left = [path for path in tmp_path.rglob("*") if path.is_file() and tmp_path / "m" not in path.parents]
    assert left == []


def test_what_comes_out_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "m")
    monkeypatch.setattr(verify, "_TIE", {"transformers": -1.0})
    real = verify.greedy

    def wrong(*given: Any) -> tuple[list[int], list[float]]:
        ids, margins = real(*given)
        return [*ids[:-1], (ids[-1] + 1) % VOCAB], margins

    monkeypatch.setattr(verify, "greedy", wrong)
    with pytest.raises(UserError, match="transformers would choose 1 of"):
        export(tmp_path / "m", "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_transformers_that_cannot_open_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise ValueError("the model type `llama`\nis not known")

    saved(tmp_path / "m")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", unknown)
    with pytest.raises(
        UserError, match=r"transformers \d.* cannot open the folder \(the model type `llama` is"
    ):
        export(tmp_path / "m", "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_transformers_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "m")
    monkeypatch.setattr(verify, "library", lambda _: None)
    assert "transformers is not installed" in export(tmp_path / "m", "hf", tmp_path / "out")[1]


def test_greedy_is_one_position_at_a_time() -> None:
    model = make_model("llama")
    ids, margins = greedy(model, [1, 2, 3], 8)
    with torch.inference_mode():
        logits_TV = model.logits(model.hidden(TokenBatch(torch.tensor([ids]))))[0]
    assert ids[3:] == logits_TV[2:-1].argmax(-1).tolist()
    assert min(margins) >= 0
    found = agreement(
        model,
        None,
        lambda ids: -model.logits(model.hidden(TokenBatch(torch.tensor([ids]))))[0],
        "transformers",
    )
    assert found.same < found.asked


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=80), st.just(json.dumps({"model_type": "llama"}).encode())))
def test_a_folder_of_noise_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "m" / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        export(tmp_path / "m", "gguf", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_verb(tmp_path: Path) -> None:
    saved(tmp_path / "m")
    arguments = ["export", str(tmp_path / "m"), "--to", "hf", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    assert "verified: greedy" in found.output
    assert isinstance(CliRunner().invoke(app, arguments).exception, UserError)
