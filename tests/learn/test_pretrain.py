from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import malmoi
from malmoi.cli import commands as cli
from malmoi.core.errors import UserError
from malmoi.learn import trial as trial_module
from malmoi.learn.counting import count_ngrams
from malmoi.learn.job import prepare
from malmoi.learn.objectives.next_token import Pretraining
from malmoi.learn.run_config import load_run
from tests.learn.conftest import TINY, start, tiny, train


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("recipe", ["gpt-nano", "lstm-nano"])
def test_a_run_learns_and_its_folder_completes(recipe: str, corpus: Path, tmp_path: Path) -> None:
    reports = train(tiny(recipe, "train.steps=40", "train.lr=0.02"), corpus, tmp_path / "out")
    assert [report.step for report in reports] == list(range(1, 41))
    assert reports[-1].loss < reports[0].loss - 1
    assert reports[-1].valid_loss is not None
    assert reports[-1].valid_bits_per_byte is not None
    # one token is one byte here, and eos is one more in many
    assert reports[-1].valid_bits_per_byte == pytest.approx(reports[-1].valid_loss / 0.6931, rel=0.01)
    model = malmoi.load(tmp_path / "out")
    found = model.complete("거위 goose", max_tokens=5, temperature=0)[0]
    assert len(found.ids) <= 5
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 41))
    assert f"{reports[-1].valid_loss:.4f}" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("recipe", ["gpt-nano", "lstm-nano"])
@pytest.mark.parametrize("settings", [(), ("model.dropout=0.2", "train.micro_batch=2")])
def test_stopping_and_going_on_changes_nothing(
    recipe: str, settings: tuple[str, ...], corpus: Path, tmp_path: Path
) -> None:
    config = tiny(recipe, *settings)
    train(config, corpus, tmp_path / "whole")
    for stop_after in (1, 3, 5):
        run = start(config, corpus, tmp_path / "parts", resume=True)
        for report in run.loop.run():
            if report.step == stop_after:
                break  # as if killed: nothing is saved here
    train(config, corpus, tmp_path / "parts", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def pretrain_until(killed_at: int, arguments: list[str]) -> None:
    """In a process of its own: SIGKILL just before so many writes to disk are final."""
    left = itertools.count(killed_at - 1, -1)

    def before(write: Callable[..., object]) -> Callable[..., object]:
        def call(*args: Any, **options: Any) -> object:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*args, **options)

        return call

    os.fsync, os.replace = before(os.fsync), before(os.replace)
    sys.argv = ["malmoi", *arguments]
    cli.main()


def test_a_killed_run_ends_with_the_same_weights(corpus: Path, tmp_path: Path) -> None:
    """SIGKILL at ten moments spread over the run, then one that is left alone."""
    settings = [s for item in (*TINY, "model.heads=2", "train.steps=80") for s in ("--set", item)]
    arguments = ["pretrain", "gpt-nano", "--data", str(corpus), "--resume", *settings]
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["malmoi.show.terminal", "malmoi.learn.objectives", "torch._dynamo"]
    )  # once

    def run(out: Path, killed_at: int = 0) -> int | None:
        process = processes.Process(
            target=pretrain_until, args=(killed_at, [*arguments, "--out", str(out)]), daemon=True
        )
        process.start()
        process.join()
        return process.exitcode

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole) == 0
    for killed_at in (1, 2, 3, 4, 5, 7, 10, 14, 19, 25):
        assert run(killed, killed_at) == -signal.SIGKILL
    assert run(killed) == 0
    assert_same(whole, killed)
    steps = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 81))


def test_accumulation_equals_one_large_batch(corpus: Path, tmp_path: Path) -> None:
    for rows in (1, 4):
        train(tiny("gpt-nano", f"train.micro_batch={rows}"), corpus, tmp_path / str(rows))
    left, right = weights(tmp_path / "1"), weights(tmp_path / "4")
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-4, rtol=1e-3)


def test_the_finished_run_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    config = tiny()
    train(config, corpus, tmp_path / "out")
    before = weights(tmp_path / "out")
    assert prepare(Pretraining, config, tmp_path / "out", data=corpus, resume=True, say=pytest.fail) is None
    assert before.keys() == weights(tmp_path / "out").keys()


def test_another_run_is_not_overwritten(corpus: Path, tmp_path: Path) -> None:
    start(tiny(), corpus, tmp_path / "out")
    with pytest.raises(UserError, match="`resume`"):
        start(tiny(), corpus, tmp_path / "out")
    with pytest.raises(UserError, match=r"train\.lr"):
        start(tiny("gpt-nano", "train.lr=0.5"), corpus, tmp_path / "out", resume=True)


def test_resume_says_when_the_text_has_changed(corpus: Path, tmp_path: Path) -> None:
    text = tmp_path / "town.txt"
    text.write_bytes(corpus.read_bytes())
    start(tiny(), text, tmp_path / "out")
    text.write_text("거위\n" * 500)
    said: list[str] = []
    prepare(Pretraining, tiny(), tmp_path / "out", data=text, resume=True, say=said.append)
    assert any("changed" in line for line in said)


def test_a_text_shorter_than_the_context_shrinks_it(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a goose sang at the mill")
    said: list[str] = []
    config = tiny("gpt-nano", "train.context=512")
    run = prepare(Pretraining, config, tmp_path / "out", data=short, resume=False, say=said.append)
    assert run is not None
    assert run.loop.context < 30
    assert any("shorter than the context" in line for line in said)
    run.run(lambda _: None)


def test_micro_batch_and_precision_are_settled_and_recorded(corpus: Path, tmp_path: Path) -> None:
    run = start(tiny(), corpus, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["config"]["train"]["micro_batch"] == run.loop.spec.micro_batch
    assert record["config"]["train"]["dtype"] == run.loop.spec.dtype in ("fp32", "bf16")
    assert record["data"].keys() == {"town.txt"}
    assert record["versions"]["torch"] == torch.__version__


def test_little_memory_means_a_small_micro_batch(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = start(tiny(), corpus, tmp_path / "roomy")
    assert roomy.loop.micro_rows == 4
    monkeypatch.setattr(trial_module, "memory_limit_bytes", trial_module.current_memory_bytes)
    tight = start(tiny(), corpus, tmp_path / "tight")
    assert tight.loop.micro_rows == 1
    monkeypatch.undo()
    resumed = start(tiny(), corpus, tmp_path / "tight", resume=True)
    assert resumed.loop.micro_rows == 1  # the recorded one, for a resume must be exact


def test_out_of_memory_means_the_next_smaller_one(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trial_module.compute_loss

    def limited(model: object, objective: object, part: object, dtype: str) -> object:
        if len(part.ids_BT) > 2:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("no room")
        return real(model, objective, part, dtype)  # type: ignore[arg-type]

    monkeypatch.setattr(trial_module, "compute_loss", limited)
    assert start(tiny(), corpus, tmp_path / "out").loop.micro_rows == 2


def test_the_trial_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    config = tiny("gpt-nano", "model.dropout=0.1")
    run = start(config, corpus, tmp_path / "out")
    torch.manual_seed(0)
    drawn = torch.rand(2)
    before = [p.detach().clone() for p in run.model.parameters()]
    torch.manual_seed(0)
    trial_module.try_step(run.model, run.loop.objective, config.train)
    assert torch.equal(torch.rand(2), drawn)
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    assert all(p.grad is None for p in run.model.parameters())


def test_tensorboard_gets_the_losses(corpus: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tiny(), corpus, tmp_path / "out")
    events = accumulator.EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_ngrams_are_counted_and_complete(corpus: Path, tmp_path: Path) -> None:
    config = load_run("ngram", ["tokenizer.kind=byte"])
    found = count_ngrams(config, corpus, tmp_path / "out", resume=False, say=lambda _: None)
    assert found is not None
    nats, bits = found
    assert 0 < nats < 5.5
    assert bits == pytest.approx(nats / 0.6931, rel=0.01)
    assert malmoi.load(tmp_path / "out").complete("goose", max_tokens=4)[0].text
    assert count_ngrams(config, corpus, tmp_path / "out", resume=True, say=pytest.fail) is None


# ---- going on with a finished model


def test_a_finished_model_goes_on_with_another_text(corpus: Path, tmp_path: Path) -> None:
    train(tiny("gpt-nano", "train.steps=20", "train.lr=0.02"), corpus, tmp_path / "base")
    other = tmp_path / "other.txt"
    other.write_text("the owl counts the stars. " * 400)
    further = load_run(str(tmp_path / "base"), ["train.steps=30", "train.context=16", "train.batch=4"])
    reports = train(further, other, tmp_path / "out")
    fresh = train(tiny("gpt-nano", "train.steps=30", "train.lr=0.02"), other, tmp_path / "fresh")
    assert reports[0].loss < fresh[0].loss
    assert reports[-1].loss < reports[0].loss
    same = [(tmp_path / name / "tokenizer.json").read_text() for name in ("base", "out")]
    assert same[0] == same[1]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: base" in card
    assert "pre-trained further" in card


def test_going_on_can_be_stopped_and_resumed_exactly(corpus: Path, tmp_path: Path) -> None:
    train(tiny("gpt-nano", "train.steps=4"), corpus, tmp_path / "base")
    further = load_run(
        str(tmp_path / "base"), ["train.steps=6", "train.checkpoint_every=3", "train.context=16"]
    )
    train(further, corpus, tmp_path / "whole")
    stopped = start(further, corpus, tmp_path / "halves")
    for report in stopped.loop.run():
        if report.step == 3:
            break
    train(further, corpus, tmp_path / "halves", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize("setting", ["model.layers=3", "tokenizer.vocab_size=300"])
def test_a_finished_model_keeps_its_shape_and_tokenizer(setting: str, corpus: Path, tmp_path: Path) -> None:
    train(tiny("gpt-nano", "train.steps=1"), corpus, tmp_path / "base")
    with pytest.raises(UserError, match=f"{setting} has no effect: .* keeps its shape"):
        load_run(str(tmp_path / "base"), [setting])
    with pytest.raises(UserError, match="`size` has no effect"):
        load_run(str(tmp_path / "base"), size="small")
