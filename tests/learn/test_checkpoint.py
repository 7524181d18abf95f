from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from malmoi.hub import weights
from malmoi.hub.weights import load_weights
from malmoi.learn import checkpoint
from malmoi.learn.checkpoint import load_checkpoint, save_checkpoint
from malmoi.learn.optim import make_optimizers
from malmoi.models.build import build_model
from malmoi.models.config import TransformerConfig
from malmoi.models.language import LanguageModel

CONFIG = TransformerConfig(vocab_size=12, context=4, layers=1, width=8, heads=2, tied=True)


def trained(seed: int) -> tuple[LanguageModel, list[torch.optim.Optimizer]]:
    torch.manual_seed(seed)
    model = build_model(CONFIG)
    optimizers = make_optimizers(model, "muon", lr=0.1, weight_decay=0.1, betas=(0.9, 0.95))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    return model, optimizers


def state(model: LanguageModel, optimizers: list[torch.optim.Optimizer]) -> list[torch.Tensor]:
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    moments = [s[index][name] for s in states for index in sorted(s) for name in sorted(s[index])]
    return [*model.state_dict().values(), *moments]


def test_everything_comes_back(tmp_path: Path) -> None:
    model, optimizers = trained(1)
    save_checkpoint(tmp_path, 7, model, optimizers)
    drawn = torch.rand(3)
    other, other_optimizers = trained(2)
    assert load_checkpoint(tmp_path, other, other_optimizers, pytest.fail) == (7, {}, {"step": 7})
    assert torch.equal(torch.rand(3), drawn)
    for ours, theirs in zip(state(model, optimizers), state(other, other_optimizers), strict=True):
        assert torch.equal(ours, theirs)


def test_frozen_weights_stay_out_of_it(tmp_path: Path) -> None:
    models: list[LanguageModel] = []
    for number in (1, 1, 2):
        torch.manual_seed(number)
        models.append(build_model(CONFIG))
        models[-1].blocks.requires_grad_(False)  # type: ignore[union-attr]
    first, same_base, other_base = models
    optimizers = [
        make_optimizers(model, "adamw", lr=0.1, weight_decay=0.1, betas=(0.9, 0.95)) for model in models
    ]
    for parameter in first.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizers[0][0].step()
    folder = save_checkpoint(tmp_path, 1, first, optimizers[0])
    assert not any("blocks" in name for name in load_weights(folder / checkpoint.TENSORS))
    load_checkpoint(tmp_path, same_base, optimizers[1], pytest.fail)
    load_checkpoint(tmp_path, other_base, optimizers[2], pytest.fail)
    for name, parameter in first.named_parameters():
        assert torch.equal(same_base.get_parameter(name), parameter)
        assert torch.equal(other_base.get_parameter(name), parameter) == (
            "blocks" not in name or "norm" in name
        )


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    model, optimizers = trained(1)
    for step in (1, 2, 30):
        save_checkpoint(tmp_path, step, model, optimizers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000030"]


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "no manifest"])
def test_a_damaged_one_is_named_and_the_older_one_taken(tmp_path: Path, damage: str) -> None:
    model, optimizers = trained(1)
    save_checkpoint(tmp_path, 1, model, optimizers)
    newest = save_checkpoint(tmp_path, 2, model, optimizers)
    tensors = newest / checkpoint.TENSORS
    content = bytearray(tensors.read_bytes())
    if damage == "cut":
        tensors.write_bytes(content[:-10])
    elif damage == "flip":
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif damage == "missing":
        tensors.unlink()
    else:
        (newest / "manifest.json").unlink()
    said: list[str] = []
    assert load_checkpoint(tmp_path, model, optimizers, said.append) == (1, {}, {"step": 1})
    assert len(said) == 1
    assert str(newest) in said[0]


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizers = trained(1)
    save_checkpoint(tmp_path, 1, model, optimizers)

    def full(_: object, path: Path, _metadata: object) -> None:
        path.write_bytes(b"part")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, 2, model, optimizers)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_checkpoint(tmp_path, model, optimizers, pytest.fail) == (1, {}, {"step": 1})


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    model, optimizers = trained(1)
    (tmp_path / ".step-00000001.abc").mkdir()
    save_checkpoint(tmp_path, 2, model, optimizers)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_nothing_to_load(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none", *trained(1), pytest.fail) is None
