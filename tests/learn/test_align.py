"""The road from a chat model and a file of preferences to a better chat model, and the verb `align`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from malmoi.cli import commands as cli
from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.core.tensors import TokenBatch
from malmoi.hub.folder import load_model, save_model
from malmoi.learn.job import Job, prepare
from malmoi.learn.loop import StepReport
from malmoi.learn.objectives.preferences import Alignment, read_pairs
from malmoi.learn.run_config import load_alignment
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.text.chat import TEMPLATE, ChatFormat, chat_template
from malmoi.text.tokenizer import train_tokenizer
from malmoi.util.files import read_json, sha256

WORDS = ("goose", "river", "stone", "cloud", "paper", "house", "거위", "바다", "종이", "구름", "하늘", "나무")
TINY = ("train.batch=4", "train.lr=0.01", "train.steps=12", "train.eval_every=6", "train.checkpoint_every=3")
Run = Callable[..., tuple[int, str, str]]


def rows(words: tuple[str, ...] = WORDS) -> list[dict[str, Any]]:
    """Polite answers are preferred."""
    return [
        {"prompt": f"{asked} {word}", "chosen": f"{word} please", "rejected": f"{word} now"}
        for word in words for asked in ("say", "말해")
    ]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def save_chat(folder: Path, family: str = "transformer", *, template: bool = True) -> Path:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(WORDS, "byte", 300)
    size = tokenizer.vocab_size
    config = (
        TransformerConfig(vocab_size=size, context=48, layers=1, width=32, heads=2, tied=True)
        if family == "transformer"
        else RecurrentConfig(family="lstm", vocab_size=size, layers=1, width=32)
    )
    if template:
        ChatFormat.for_tuning(tokenizer).adopt()
    save_model(folder, build_model(config), tokenizer)
    return folder


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "prefs.jsonl", rows())


def prepared(
    model: Path, data: Path, out: Path, *settings: str, resume: bool = False, **options: Any
) -> Job[Alignment]:
    config = load_alignment(model, data, None, [*TINY, *settings], **options)
    run = prepare(Alignment, config, out, resume=resume, say=lambda _: None, device="cpu")
    assert run is not None
    return run


def logits(folder: Path, ids_BT: torch.Tensor) -> torch.Tensor:
    model = load_model(folder).model
    assert isinstance(model, LanguageModel)
    with torch.inference_mode():
        return model.logits(model.hidden(TokenBatch(ids_BT)))


@pytest.mark.parametrize("lora", [False, True])
def test_it_learns_and_saves_a_chat_model(chat: Path, data: Path, tmp_path: Path, lora: bool) -> None:
    before, out = sha256(chat / "model.safetensors"), tmp_path / "out"
    run = prepared(
        chat, data, out, "train.steps=24", *(["train.lr=0.03"] if lora else []), lora=lora, beta=0.3
    )
    assert run.trial.spec.beta == 0.3
    before_line, after = run.run(lambda _: None)
    assert "reward margin 0" in before_line
    assert "reward accuracy 100.0%" in after
    assert run.loop.evaluate()["margin"] > 0.1
    assert sha256(chat / "model.safetensors") == before
    tokenizer = load_model(out).tokenizer
    assert tokenizer is not None
    assert chat_template(tokenizer) == TEMPLATE
    ids_BT = torch.tensor([ChatFormat.of(tokenizer).prompt_ids([Message("user", "say 거위")])])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids_BT).logits, logits(out, ids_BT), atol=1e-4, rtol=1e-4)
    ends = ChatFormat.of(tokenizer).end_ids
    assert ends < set(read_json(out / "generation_config.json")["eos_token_id"])
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "reward accuracy 100.0%" in card
    assert sha256(data) in card
    assert (out / "adapter").is_dir() == lora
    if lora:
        torch.testing.assert_close(logits(out / "adapter", ids_BT), logits(out, ids_BT), atol=1e-4, rtol=1e-4)


def test_a_recurrent_model_learns_too(data: Path, tmp_path: Path) -> None:
    model = save_chat(tmp_path / "lstm", "lstm")
    _, after = prepared(model, data, tmp_path / "out").run(lambda _: None)
    assert "reward accuracy 100.0%" in after
    with pytest.raises(UserError, match="lstm has none"):
        prepared(model, data, tmp_path / "lora", lora=True)


@pytest.mark.parametrize("lora", [False, True])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    chat: Path, data: Path, tmp_path: Path, lora: bool
) -> None:
    def killed(report: StepReport) -> None:
        if report.step == 8:
            raise RuntimeError("killed")

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    found = prepared(chat, data, whole, lora=lora).run(lambda _: None)
    with pytest.raises(RuntimeError, match="killed"):
        prepared(chat, data, parts, lora=lora).run(killed)
    run = prepared(chat, data, parts, lora=lora, resume=True)
    assert run.loop.step == 6
    assert run.run(lambda _: None) == found
    assert sha256(parts / "model.safetensors") == sha256(whole / "model.safetensors")
    lines = [
        [json.loads(line) | {"tokens_per_s": 0} for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (whole, parts)
    ]
    assert lines[0] == lines[1]
    assert {"margin", "accuracy", "likelier", "chosen_reward"} <= lines[0][0].keys()


def test_only_the_last_answer_is_trained(chat: Path, tmp_path: Path) -> None:
    turns = [("user", "a"), ("assistant", "나"), ("user", "c")]
    prompt = [{"role": role, "content": content} for role, content in turns]
    path = write(tmp_path / "rows.jsonl", [{"prompt": prompt, "chosen": "네.", "rejected": "no"}])
    tokenizer = load_model(chat).tokenizer
    assert tokenizer is not None
    [(chosen, rejected)] = read_pairs(path, ChatFormat.of(tokenizer), 64, [])
    for row, said in ((chosen, "네."), (rejected, "no")):
        told = [id for id, trained in zip(row.ids, row.trained, strict=True) if trained]
        assert told == [*tokenizer.encode(said), tokenizer.specials.turns["<|end|>"]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def go(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["malmoi", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return go


def test_the_verb_says_what_it_reached_and_what_it_left_out(run: Run, chat: Path, tmp_path: Path) -> None:
    bad = {"prompt": "say", "chosen": "same", "rejected": "same"}
    path = write(
        tmp_path / "rows.jsonl", [*rows(), bad, {"prompt": "x" * 99, "chosen": "a", "rejected": "b"}]
    )
    valid = write(tmp_path / "valid.jsonl", rows(("oven", "산")))
    command = ("align", chat, "--data", path, "--valid", valid, "--out", tmp_path / "m")
    settings = [part for setting in TINY for part in ("--set", setting)]
    code, _, errors = run(*command, *settings)
    assert code == 2
    assert errors.count("\n") == 1
    assert f"2 of 26 rows cannot be used; the first, {path}:25: chosen and rejected are equal" in errors
    assert not (tmp_path / "m").exists()
    code, out, errors = run(*command, *settings, "--beta", "0.5", "--allow-skips")
    assert code == 0, errors
    for words in (
        "24 pairs",
        "4 more for validation",
        "beta 0.5",
        f"{path}:26: an answer with its prompt takes",
    ):
        assert words in out
    assert "before: the chosen answer was the likelier one in" in out
    assert "reward accuracy 100.0%" in out
    code, out, _ = run(*command, *settings, "--beta", "0.5", "--allow-skips", "--resume")
    assert (code, "is finished" in out) == (0, True)
    code, _, errors = run(*command, *settings, "--allow-skips", "--resume")
    assert code == 2
    assert "train.beta" in errors


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (rows(), ("--set", "train.betta=1"), "did you mean 'beta'"),
        (rows(), ("--set", "lora.rank=4"), "no effect without --lora"),
        (rows(), ("--beta", "0"), "train.beta"),
        (rows()[:1], (), "one pair only"),
        ([], (), "0 of 0 rows"),
        ([{"messages": []}], (), 'no "chosen" among messages'),
    ],
)
def test_a_mistake_is_one_line(
    content: list[Any], options: tuple[str, ...], said: str, run: Run, chat: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", content)
    code, _, errors = run("align", chat, "--data", path, "--out", tmp_path / "m", *options)
    assert code == 2
    assert errors.count("\n") == 1
    assert said in errors
    assert not (tmp_path / "m").exists()


def test_a_model_that_cannot_chat_is_refused(run: Run, data: Path, tmp_path: Path) -> None:
    plain = save_chat(tmp_path / "plain", template=False)
    code, _, errors = run("align", plain, "--data", data, "--out", tmp_path / "m")
    assert code == 2
    assert "no chat template" in errors
    assert "malmoi finetune" in errors
    code, _, errors = run("align", tmp_path / "none", "--data", data, "--out", tmp_path / "m")
    assert code == 2
