"""Checkpoints in one file or several: read lazily, filled into models, and refused with names and sizes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.core.tensors import TokenBatch
from malmoi.hub.folder import load_model, save_model, weights_hash
from malmoi.hub.weights import WEIGHTS_INDEX, open_checkpoint
from malmoi.models.language import LanguageModel
from malmoi.util.files import WEIGHTS, read_json, write_json
from tests.models.variants import make_model, random_ids

IDS_BT = random_ids(2, 9)


@torch.inference_mode()
def logits(folder: Path, **options: Any) -> Tensor:
    model = load_model(folder, **options).model
    assert isinstance(model, LanguageModel)
    return model.logits(model.hidden(TokenBatch(IDS_BT)))


def shard(folder: Path, parts: int = 3) -> None:
    """The same weights in several files."""
    tensors = load_file(folder / WEIGHTS)
    places = {name: f"model-{at % parts + 1:05}-of-{parts:05}.safetensors" for at, name in enumerate(tensors)}
    for place in set(places.values()):
        save_file({name: tensors[name].clone() for name in tensors if places[name] == place}, folder / place)
    write_json(folder / WEIGHTS_INDEX, {"metadata": {}, "weight_map": places})
    (folder / WEIGHTS).unlink()


def retype(folder: Path, dtype: torch.dtype) -> None:
    save_file({name: t.to(dtype) for name, t in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)


@pytest.mark.parametrize("name", ["llama-gqa", "gpt2", "qwen3", "window-and-qk-norm", "lstm"])
def test_several_files_are_one_checkpoint(name: str, tmp_path: Path) -> None:
    save_model(tmp_path, make_model(name), None)
    whole_BTV = logits(tmp_path)
    shard(tmp_path)
    assert torch.equal(logits(tmp_path), whole_BTV)


def test_shards_of_transformers(tmp_path: Path) -> None:
    save_model(tmp_path / "ours", make_model("llama"), None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="8KB")
    assert (tmp_path / "theirs" / WEIGHTS_INDEX).exists()
    assert torch.equal(logits(tmp_path / "theirs"), logits(tmp_path / "ours"))


def test_shards_have_a_hash_which_any_of_them_changes(tmp_path: Path) -> None:
    save_model(tmp_path, make_model("llama"), None)
    shard(tmp_path)
    before = weights_hash(tmp_path)
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    tensors = {name: tensor + 1 for name, tensor in load_file(last).items()}
    save_file(tensors, last)
    assert len(before) == 64
    assert weights_hash(tmp_path) != before


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_numbers_of_other_kinds(name: str, stored: torch.dtype, tmp_path: Path) -> None:
    save_model(tmp_path, make_model(name), None)
    exact_BTV = logits(tmp_path)
    retype(tmp_path, stored)
    assert load_model(tmp_path).model.head.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert (logits(tmp_path) - exact_BTV).abs().max() < 0.05 * exact_BTV.std()
    found = load_model(tmp_path, dtype=None).model
    assert isinstance(found, LanguageModel)
    assert {parameter.dtype for parameter in found.parameters()} == {stored}
    half = load_model(tmp_path, dtype=torch.bfloat16).model
    assert isinstance(half, LanguageModel)
    assert half.head.weight.dtype == torch.bfloat16


def test_loading_leaves_the_random_numbers_as_they_were(tmp_path: Path) -> None:
    save_model(tmp_path, make_model("gru"), None)
    before = torch.get_rng_state()
    load_model(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_a_checkpoint_is_read_when_asked(tmp_path: Path) -> None:
    save_model(tmp_path, make_model("llama"), None)
    found = open_checkpoint(tmp_path)
    assert found.unread == set(found)
    name = "model.norm.weight"
    assert found[name].shape == found.shapes[name]
    assert found.unread == set(found) - {name}


def test_a_stored_output_matrix_of_a_tied_model_must_be_the_embedding(tmp_path: Path) -> None:
    save_model(tmp_path, make_model("qwen3"), None)
    tensors = load_file(tmp_path / WEIGHTS)
    whole_BTV = logits(tmp_path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / WEIGHTS)
    assert torch.equal(logits(tmp_path), whole_BTV)
    tensors["lm_head.weight"] += 1
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=r"head\.weight is embed\.weight, but they differ"):
        load_model(tmp_path)


def test_tables_of_older_checkpoints_are_left(tmp_path: Path) -> None:
    save_model(tmp_path, make_model("gpt2"), None)
    whole_BTV = logits(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file({name.removeprefix("transformer."): t for name, t in tensors.items()}, tmp_path / WEIGHTS)
    assert torch.equal(logits(tmp_path), whole_BTV)


# ---- what does not fit


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, None])
def test_nan_and_infinity_are_named(
    bad: float, stored: torch.dtype, dtype: torch.dtype | None, tmp_path: Path
) -> None:
    save_model(tmp_path, make_model("llama"), None)
    tensors = {name: t.to(stored) for name, t in load_file(tmp_path / WEIGHTS).items()}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] = bad
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN .*\(1 of 4,096"):
        load_model(tmp_path, dtype=dtype)


def test_numbers_too_large_for_their_sum_are_finite(tmp_path: Path) -> None:
    save_file({"a": torch.full((100,), 6e4, dtype=torch.float16), "empty": torch.ones(0)}, tmp_path / WEIGHTS)
    found = open_checkpoint(tmp_path)
    assert [len(found[name]) for name in ("a", "empty")] == [100, 0]


def changed(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return apply


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / "config.json", read_json(folder / "config.json") | values)


def index(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        shard(folder)
        found = read_json(folder / WEIGHTS_INDEX)
        change(found["weight_map"])
        write_json(folder / WEIGHTS_INDEX, found)

    return apply


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def lose_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def cut_a_shard(folder: Path) -> None:
    shard(folder)
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


Q = "model.layers.0.self_attn.q_proj.weight"
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (changed(lambda t: t.pop(Q)), rf"lack {Q} \(32x32\)$"),
    "extra": (
        changed(lambda t: t.update({"model.layers.9.mlp.up_proj.weight": torch.ones(2, 3)})),
        r"have model\.layers\.9\.mlp\.up_proj\.weight \(2x3\)",
    ),
    "shape": (changed(lambda t: t.update({Q: torch.ones(7, 32)})), rf"{Q} is 7x32, not 32x32"),
    "a bias too many": (
        changed(lambda t: t.update({Q.replace("weight", "bias"): torch.ones(32)})), r"have .*bias \(32\)"
    ),
    "no output matrix": (changed(lambda t: t.pop("lm_head.weight")), r"lack lm_head\.weight \(61x32\)"),
    "config of another width": (config(intermediate_size=77), r"gate_proj\.weight is \d+x32, not 77x32"),
    "config with more layers": (config(num_hidden_layers=4), r"lack model\.layers\.\d.* and \d+ more"),
    "config with endless layers": (config(num_hidden_layers=10**9), "num_hidden_layers = 1000000000"),
    "config with fewer layers": (config(num_hidden_layers=1), r"have model\.layers\.1"),
    "gptq": (config(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised \(gptq\)"),
    "fp8": (config(quantization_config={"quant_method": "fp8"}), r"quantised \(fp8\)"),
    "int8 without saying so": (
        changed(lambda t: t.update({Q: torch.ones(32, 32, dtype=torch.int8)})), rf"{Q} is I8"
    ),
    "fp8 without saying so": (
        changed(lambda t: t.update({Q: torch.ones(32, 32).to(torch.float8_e4m3fn)})), rf"{Q} is F8_E4M3"
    ),
    "pickle": (pickled, r"pytorch_model\.bin.*save_pretrained"),
    "code of its own": (config(model_type="strange", auto_map={"AutoModel": "x.Y"}), "code .* never run"),
    "unknown": (config(model_type="mamba2"), "known: .*llama.*qwen3"),
    "an encoder": (config(model_type="bert"), "an encoder, which writes no text"),
    "a shard lost": (lose_a_shard, r"model-00002-of-00003\.safetensors does not exist"),
    "a shard cut": (cut_a_shard, r"model-00002-of-00003\.safetensors cannot be read"),
    "index with one more": (index(lambda m: m.update(new=next(iter(m.values())))), "does not hold new"),
    "index with one less": (index(lambda m: m.pop(Q)), rf"holds {Q}"),
    "index to a parent": (index(lambda m: m.update({Q: "../x.safetensors"})), "not a safetensors file of"),
    "index to a pickle": (index(lambda m: m.update({Q: "x.bin"})), "not a safetensors file of"),
    "index with numbers": (index(lambda m: m.update({Q: 3})), "not a safetensors file of"),
    "index empty": (index(lambda m: m.clear()), "no weight_map"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name: str, tmp_path: Path) -> None:
    save_model(tmp_path, make_model("llama"), None)
    damage, message = WRONG[name]
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def loads(folder: Path) -> str:
    """'' or the one line that refuses."""
    try:
        load_model(folder)
    except UserError as error:
        return str(error)
    return ""


FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_of_the_header_is_one_line(tmp_path: Path, damages: list[tuple[int, int]]) -> None:
    save_model(tmp_path, make_model("llama"), None)
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    size = 8 + int.from_bytes(content[:8], "little")
    for at, byte in damages:
        content[at % size] = byte
    (tmp_path / WEIGHTS).write_bytes(content)
    assert "\n" not in loads(tmp_path)


VALUES = st.none() | st.booleans() | st.integers(-2, 200) | st.floats() | st.text(max_size=5) | st.just([])


@FEW
@given(st.data(), st.sampled_from(["llama", "gpt2", "lstm"]))
def test_any_config_is_read_or_refused_in_a_line(tmp_path: Path, data: st.DataObject, name: str) -> None:
    save_model(tmp_path, make_model(name), None)
    found = read_json(tmp_path / "config.json")
    found[data.draw(st.sampled_from(sorted(found)))] = data.draw(VALUES)
    write_json(tmp_path / "config.json", found)
    assert "\n" not in loads(tmp_path)


# ---- memory

MEASURED = """
import sys
from pathlib import Path
import torch
from malmoi.hub.folder import load_model

def memory(kind):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(kind)) * 1024

torch.ones(9, 9) @ torch.ones(9, 9)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = memory("VmRSS:")
model = load_model(Path(sys.argv[1]), dtype=getattr(torch, sys.argv[2], None)).model
size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
print((memory("VmHWM:") - before) / size)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(("stored", "wanted"), [("float32", "float32"), ("bfloat16", "float32")])
def test_memory_holds_the_weights_once(stored: str, wanted: str, tmp_path: Path) -> None:
    """Fused matrices included; of 290 MB."""
    config = transformers.LlamaConfig(
        vocab_size=4_000, hidden_size=512, intermediate_size=1408, num_hidden_layers=24,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=128,
    )  # fmt: skip
    with torch.device("meta"):
        shapes = transformers.AutoModelForCausalLM.from_config(config).state_dict()
    tensors = {name: torch.zeros(t.shape, dtype=getattr(torch, stored)) for name, t in shapes.items()}
    config.save_pretrained(tmp_path)
    save_file(tensors, tmp_path / WEIGHTS)
    command = [sys.executable, "-c", MEASURED, str(tmp_path), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 1.0 <= float(done.stdout) < 1.2
