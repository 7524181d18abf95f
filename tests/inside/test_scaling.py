from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
from typer.testing import CliRunner

from malmoi.cli.commands import app
from malmoi.core.errors import UserError
from malmoi.core.tensors import IGNORE, TokenBatch
from malmoi.inside import beyond, scaling
from malmoi.inside import scaling_bench as bench
from malmoi.inside.learning import learn
from malmoi.inside.recall import KEYS, VOCABULARY, RecallTask, recall_at
from malmoi.learn.losses import next_token_loss
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.show.draw_scaling import write_scaling
from malmoi.text.tokenizer import train_tokenizer
from tests.methods.tiny import write_model

TINY = bench.Size((16, 32, 64), RecallTask(16), recall_steps=2, read_steps=2, context=16, documents=60)
LENGTHS = (128, 256, 512, 1024)


def quiet(_: str) -> None:
    pass


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_growth_finds_the_power(power: float) -> None:
    assert scaling.growth(LENGTHS, [3 * n**power for n in LENGTHS]) == pytest.approx(power)


def test_crossing_of_n_and_n_squared() -> None:
    squared, straight = [n**2 / 300 for n in LENGTHS], [float(n) for n in LENGTHS]
    assert scaling.crossing(LENGTHS, squared, straight) == scaling.Crossing(pytest.approx(300))
    found = scaling.crossing(LENGTHS, [n**2 / 4000 for n in LENGTHS], straight)
    assert found == scaling.Crossing(pytest.approx(4000), predicted=True)
    assert scaling.crossing(LENGTHS, [n**2 / 1e6 for n in LENGTHS], straight) is None
    assert scaling.crossing(LENGTHS, squared, [value / 1e9 for value in straight]) == scaling.Crossing(0)
    assert scaling.crossing(LENGTHS, straight, squared) is None


def measured(name: str, step: float, power: float) -> scaling.Measured:
    seconds = tuple(step * n**power for n in LENGTHS)
    state = tuple(4096 if power == 1 else 512 * n for n in LENGTHS)
    return scaling.Measured(name, LENGTHS, seconds, LENGTHS, seconds, state)


def test_sentences_name_the_crossing() -> None:
    found = {"GPT": measured("GPT", 1e-6, 2.0), "LSTM": measured("LSTM", 3e-4, 1.0)}
    lines = scaling.sentences(found)
    assert "GPT: a training step on 1,024 tokens takes 1 s; it grows as n^2.0." in lines
    assert "From about 300 tokens on the LSTM trains faster than the GPT." in lines
    assert any("its memory is 4 KiB, however long the text" in line for line in lines)
    assert any("its memory has grown to 512 KiB" in line for line in lines)


def test_costs_are_those_of_the_state_and_the_graph() -> None:
    models = scaling.small_models(vocab_size=64, width=32)
    sizes = [model.num_parameters() for model in scaling.small_models(vocab_size=8).values()]
    assert max(sizes) < 1.1 * min(sizes)
    for name, model in models.items():
        short, long = scaling.decode_cost(model, 20), scaling.decode_cost(model, 80)
        assert (long[1] > 3 * short[1]) == (name == "GPT")
        assert scaling.train_cost(model, 256)[1] > 2 * scaling.train_cost(model, 64)[1]
        assert all(parameter.grad is None for parameter in model.parameters())


def test_learned_positions_are_measured_up_to_their_end() -> None:
    config = TransformerConfig(vocab_size=64, context=40, layers=1, width=16, heads=2, position="learned")
    assert scaling.measure("it", build_model(config), (16, 32, 64), quiet).lengths == (16, 32)
    assert scaling.measure("it", build_model(config), (64,), quiet).lengths == ()


def test_a_recall_row_asks_for_what_it_told() -> None:
    task = RecallTask(40)
    batch, distance_BT = task.batch(50, Random(1))
    assert batch.targets_BT is not None
    asked = (batch.targets_BT != IGNORE).nonzero().tolist()
    assert len(asked) > 100
    for b, ask in asked:
        told = ask - int(distance_BT[b, ask])
        assert batch.ids_BT[b, told] == batch.ids_BT[b, ask] < KEYS
        assert batch.ids_BT[b, told + 1] == batch.targets_BT[b, ask]
    assert int(distance_BT.max()) >= 30
    assert int(distance_BT[distance_BT > 0].min()) == 2


def test_a_model_learns_to_recall() -> None:
    torch.manual_seed(0)
    task, random = RecallTask(8), Random(0)
    model = build_model(TransformerConfig(vocab_size=VOCABULARY, context=8, layers=1, width=16, heads=1))
    before = loss(model, task)
    learn(model, lambda: task.batch(16, random)[0], 40, lr=1e-2, say=quiet)
    assert loss(model, task) < 0.7 * before
    shares = recall_at(model, task, (2, 4, 8))
    assert all(0 <= share <= 1 for share in shares)


def loss(model: LanguageModel, task: RecallTask) -> float:
    found = next_token_loss(model, task.batch(64, Random("other"))[0])
    return float(found.sum.detach()) / found.count


def test_bits_by_position_are_the_losses() -> None:
    model = build_model(RecurrentConfig(family="lstm", vocab_size=263, layers=1, width=8))
    tokenizer = train_tokenizer([], "byte")
    rows_BT = beyond.long_rows(["고양이 cat " * 40], tokenizer, 24, rows=3)
    bytes_V = beyond.bytes_of(tokenizer)
    (bits,) = beyond.bits_by_position(model, rows_BT, bytes_V, (0, 24))
    with torch.no_grad():
        logits_BTV = model.logits(model.hidden(TokenBatch(rows_BT[:, :-1])))
        nats = torch.nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), rows_BT[:, 1:].flatten(), reduction="sum"
        )
    assert bits == pytest.approx(
        float(nats / bytes_V[rows_BT[:, 1:]].sum() / torch.log(torch.tensor(2.0))), rel=1e-5
    )
    with pytest.raises(UserError, match="give more text"):
        beyond.long_rows(["cat"], tokenizer, 24)


def test_learned_positions_cannot_read_on() -> None:
    tokenizer = train_tokenizer([], "byte")
    config = TransformerConfig(vocab_size=263, context=16, layers=1, width=16, heads=2, position="learned")
    found = bench.beyond_the_context({"old": (build_model(config), tokenizer)}, TINY, 16, quiet)
    assert found.sentences == [
        "Beyond the context, old: learned positions end at 16: there is none for what comes after."
    ]


def test_the_whole_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "out"
    measured = bench.run_scaling([], out, size=TINY, say=quiet)
    assert write_scaling(measured, out) == out / "index.html"
    lines = measured.sentences
    found = json.loads((out / "scaling.json").read_text())
    assert found["sentences"] == lines
    assert set(found["scaling"]) == {"RNN", "LSTM", "GPT"}
    assert set(found["recall"]["right"]) == {"RNN", "LSTM", "GPT"}
    assert len(found["beyond"]["bits_per_byte"]) == 2
    for name in ("scaling", "recall", "beyond"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert any("LSTM trains faster than the GPT" in line or "GPT trains faster" in line for line in lines)
    bench.run_scaling([], out, size=TINY, say=quiet)


def test_models_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "QUICK", TINY)
    folder, out = write_model(tmp_path / "mine", context=16), tmp_path / "out"
    result = CliRunner().invoke(app, ["bench", "scaling", str(folder), "--out", str(out), "--quick"])
    assert result.exit_code == 0, result.output
    found = json.loads((out / "scaling.json").read_text())
    assert list(found["beyond"]["bits_per_byte"]) == ["mine"]
    assert found["scaling"]["mine"]["lengths"] == [16]
    assert "Beyond the context, mine" in result.output


def test_it_refuses_what_it_cannot_measure(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not a benchmark's folder"):
        bench.run_scaling([], tmp_path / "mine", size=TINY, say=quiet)
    for folders in ([tmp_path / "a" / "it", tmp_path / "b" / "it"], [tmp_path / "GPT"]):
        with pytest.raises(UserError, match="two models"):
            bench.run_scaling(folders, tmp_path / "out", size=TINY, say=quiet)
