"""The road from a model that completes text and a file of conversations to one that answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.core.tensors import TokenBatch
from malmoi.engine.engine import Engine
from malmoi.engine.request import Sampling
from malmoi.hub.chat_models import load_tunable
from malmoi.hub.folder import load_model, save_model
from malmoi.learn.job import Job, prepare
from malmoi.learn.loop import StepReport
from malmoi.learn.objectives.conversations import Tuning, preview
from malmoi.learn.run_config import FULL_LR, LORA_LR, TuneSpec, load_tuning, with_lr
from malmoi.methods.folder import save_method
from malmoi.methods.registry import make_method
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.language import LanguageModel
from malmoi.models.ngram import KneserNey
from malmoi.tasks import make_task
from malmoi.text.chat import TEMPLATE, ChatFormat, chat_template
from malmoi.text.tokenizer import TURNS, Tokenizer, train_tokenizer
from malmoi.util.files import read_json, sha256
from malmoi.util.units import counted
from tests.methods.tiny import fitted_to

WORDS = ("goose", "river", "stone", "cloud", "paper", "house", "거위", "바다", "종이", "구름", "하늘", "나무")
TINY = ("train.batch=4", "train.lr=0.01", "train.steps=9", "train.eval_every=3", "train.checkpoint_every=3")


def rows(words: tuple[str, ...] = WORDS, asked: tuple[str, ...] = ("say", "말해", "repeat")) -> list[Any]:
    """The model is to say the word that it is asked for."""
    return [{"prompt": f"{ask} {word}", "completion": word} for word in words for ask in asked]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def save_base(folder: Path, family: str = "transformer") -> Path:
    """A model with weights of a size as training gives them."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([json.dumps(row, ensure_ascii=False) for row in rows()], "bpe", 400)
    size = tokenizer.vocab_size
    config = (
        TransformerConfig(vocab_size=size, context=48, layers=2, width=32, heads=2, tied=True)
        if family == "transformer"
        else RecurrentConfig(family="lstm", vocab_size=size, layers=1, width=32)
    )
    model = build_model(config)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    save_model(folder, model, tokenizer)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "rows.jsonl", rows())


def prepared(
    model: Path, data: Path, out: Path, *settings: str, resume: bool = False, **options: Any
) -> Job[Tuning]:
    config = load_tuning(model, [str(data)], [], [*TINY, *settings], **options)
    run = prepare(Tuning, config, out, resume=resume, say=lambda _: None, device="cpu")
    assert run is not None
    return run


def opened(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    model, tokenizer = load_model(folder)
    assert isinstance(model, LanguageModel)
    assert tokenizer is not None
    return model, tokenizer


def logits(folder: Path, ids_BT: torch.Tensor) -> torch.Tensor:
    model, _ = opened(folder)
    with torch.inference_mode():
        return model.logits(model.hidden(TokenBatch(ids_BT)))


def files_in(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("family", "lora", "settings"),
    [
        ("transformer", False, ("train.steps=60", "train.lr=0.03")),
        ("transformer", True, ("train.steps=90", "train.lr=0.03")),
        ("lstm", False, ("train.steps=150", "train.lr=0.03")),
    ],
)
def test_it_learns_to_answer_and_to_stop(
    family: str, lora: bool, settings: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base", family)
    before, out, reports = files_in(base), tmp_path / "out", list[StepReport]()
    run = prepared(base, data, out, *settings, lora=lora)
    held_out = run.training.mixture.valid
    assert run.tokenizer.decode(run.prompt_ids) == held_out[0].conversation.messages[0].content
    assert run.prompt_ids[-1] == run.tokenizer.specials.turns["<|assistant|>"]
    closing = run.run(reports.append)
    assert len(held_out) == 2
    assert closing == ("it ended its turn in 2 of 2 replies to held-out questions",)
    losses = [report.valid_loss for report in reports if report.valid_loss is not None]
    assert losses[-1] < losses[0] / 2
    assert files_in(base) == before, "the base model stays as it was"
    model, tokenizer = opened(out)
    form = ChatFormat.of(tokenizer)
    prompts = [form.prompt_ids([Message("user", f"say {word}")]) for word in ("goose", "거위", "바다")]
    replies = Engine(model, tokenizer).generate(prompts, Sampling(max_tokens=12, temperature=0))
    if not lora:  # which does not find out how to copy from a base that cannot
        assert [reply.text for reply in replies] == ["goose", "거위", "바다"]
    assert all(reply.finish_reason == "stop" for reply in replies)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"| loss | {losses[-1]:.4f} | " in card
    assert sha256(data) in card
    assert "ended its turn in 2 of 2" in card


@pytest.mark.parametrize(
    ("lora", "settings"),
    [
        (False, ()), (True, ()), (True, ("lora.base=int4",)), (True, ("lora.base=int8",)),
        (True, ("lora.base=bf16",)),
    ],
)  # fmt: skip
def test_the_folder_is_one_for_transformers(
    lora: bool, settings: tuple[str, ...], base: Path, data: Path, tmp_path: Path
) -> None:
    """Also where the base was held in few bits: what was learned goes on top of the weights as they were."""
    out = tmp_path / "out"
    prepared(base, data, out, *settings, lora=lora).run(lambda _: None)
    _, tokenizer = opened(out)
    assert chat_template(tokenizer) == TEMPLATE
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    messages = [Message("user", "say 거위"), Message("assistant", "거위"), Message("user", "repeat house")]
    turns = [{"role": message.role, "content": message.content} for message in messages]
    found: Any = theirs.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    ids = ChatFormat.of(tokenizer).prompt_ids(messages)
    assert found == ids
    ids_BT = torch.tensor([ids])
    outside = transformers.AutoModelForCausalLM.from_pretrained(out)
    with torch.inference_mode():
        torch.testing.assert_close(outside(ids_BT).logits, logits(out, ids_BT), atol=1e-4, rtol=1e-4)
    ends = {tokenizer.specials.eos, tokenizer.specials.turns["<|end|>"]}
    assert set(outside.generation_config.eos_token_id) == ends
    assert (out / "adapter").is_dir() == lora
    if lora:
        torch.testing.assert_close(logits(out / "adapter", ids_BT), logits(out, ids_BT), atol=1e-4, rtol=1e-4)
        plain = transformers.AutoModelForCausalLM.from_pretrained(base)
        adapted = PeftModel.from_pretrained(plain, out / "adapter")
        with torch.inference_mode():
            torch.testing.assert_close(adapted(ids_BT).logits, logits(out, ids_BT), atol=1e-4, rtol=1e-4)


def killed_at(step: int) -> Callable[[StepReport], None]:
    def hear(report: StepReport) -> None:
        if report.step == step:
            raise RuntimeError("killed")

    return hear


@pytest.mark.parametrize(
    ("family", "settings", "lora"),
    [
        ("transformer", (), False),
        ("transformer", ("lora.dropout=0.2", "train.weight_decay=0.1"), True),
        ("transformer", ("lora.base=int4", "train.dtype=bf16"), True),
        ("lstm", ("train.micro_batch=2",), False),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    family: str, settings: tuple[str, ...], lora: bool, data: Path, tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base", family)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    found = prepared(base, data, whole, *settings, lora=lora).run(lambda _: None)
    for stop, begun in ((2, 0), (5, 0), (8, 3)):
        run = prepared(base, data, parts, *settings, lora=lora, resume=True)
        assert run.loop.step == begun
        with pytest.raises(RuntimeError, match="killed"):
            run.run(killed_at(stop))
    assert prepared(base, data, parts, *settings, lora=lora, resume=True).run(lambda _: None) == found
    assert sha256(parts / "model.safetensors") == sha256(whole / "model.safetensors")
    lines = [
        [json.loads(line) | {"tokens_per_s": 0} for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (whole, parts)
    ]
    assert lines[0] == lines[1]
    config = load_tuning(base, [str(data)], [], [*TINY, *settings], lora=lora)
    assert prepare(Tuning, config, parts, resume=True, say=pytest.fail) is None


@pytest.mark.parametrize("family", ["transformer", "lstm"])
def test_turns_begin_with_the_meaning_of_words_and_a_tuned_models_stay(family: str, tmp_path: Path) -> None:
    """In a base model the rows of markers are all alike, as no text has them."""
    found, tokenizer = load_model(save_base(tmp_path / "base", family))
    assert isinstance(found, LanguageModel)
    assert tokenizer is not None
    markers = [tokenizer.special_texts[marker] for marker in TURNS]
    with torch.no_grad():
        found.embed.weight[markers] = 1.0
    save_model(tmp_path / "alike", found, tokenizer)
    model, form = load_tunable(tmp_path / "alike")
    rows_VD = model.embed.weight.detach()
    user, assistant, _, end = markers
    assert torch.equal(rows_VD[user], rows_VD[tokenizer.encode("User:")].mean(0))
    assert torch.equal(rows_VD[end], rows_VD[tokenizer.specials.eos])
    assert not torch.equal(rows_VD[user], rows_VD[assistant])
    assert torch.equal(rows_VD[7:], found.embed.weight.detach()[7:])
    with torch.no_grad():
        model.embed.weight[markers] = 2.0
    form.adopt()
    save_model(tmp_path / "tuned", model, form.tokenizer)
    assert torch.all(load_tunable(tmp_path / "tuned")[0].embed.weight[markers] == 2.0)


def test_accumulation_equals_one_large_batch(base: Path, data: Path, tmp_path: Path) -> None:
    for micro_batch in (1, 4):
        out = tmp_path / str(micro_batch)
        prepared(base, data, out, f"train.micro_batch={micro_batch}", "train.context=16").run(lambda _: None)
    ids_BT = torch.arange(10, 20)[None]
    torch.testing.assert_close(
        logits(tmp_path / "1", ids_BT), logits(tmp_path / "4", ids_BT), atol=1e-3, rtol=1e-3
    )


def test_steps_follow_from_epochs_or_a_budget(base: Path, data: Path, tmp_path: Path) -> None:
    settings = ["train.batch=2", "train.epochs=4", "train.context=24"]
    config = load_tuning(base, [str(data)], [], settings)
    run = prepare(Tuning, config, tmp_path / "epochs", resume=False, say=pytest.fail)
    assert run is not None
    windows = run.loop.objective.train.windows_per_epoch  # type: ignore[attr-defined]
    assert run.trial.spec.steps == 2 * windows
    assert run.trial.spec.eval_every == -(-2 * windows // 5)
    config = load_tuning(base, [str(data)], [], [*settings, "train.epochs=100000"], budget_seconds=2.0)
    run = prepare(Tuning, config, tmp_path / "budget", resume=False, say=pytest.fail)
    assert run is not None
    assert 1 <= run.trial.spec.steps < 100_000
    again = prepare(Tuning, config, tmp_path / "budget", resume=True, say=pytest.fail)
    assert again is not None
    assert again.trial.spec == run.trial.spec, "a resume keeps what was planned"
    with pytest.raises(UserError, match=r"`budget` and train\.steps"):
        load_tuning(base, [str(data)], [], TINY, budget_seconds=2.0)


def test_a_budget_whose_time_is_over_ends_the_tuning_and_a_resume_ends_there_too(
    base: Path, data: Path, tmp_path: Path
) -> None:
    """As many steps as were planned, and no time for them: the first look ends it, and says so."""
    config = load_tuning(base, [str(data)], [], ["train.batch=2", "train.context=24"], budget_seconds=60.0)

    def prepared(resume: bool, say: Callable[[str], None]) -> Job[Tuning]:
        run = prepare(Tuning, config, tmp_path / "out", resume=resume, say=say)
        assert run is not None
        return run

    said: list[str] = []
    run = prepared(False, said.append)
    planned, run.loop.pace.end_s = run.loop.spec.steps, 0.0
    (last,) = [report.step for report in run.loop.run()][-1:]  # as if killed before the model is saved
    record = read_json(tmp_path / "out" / "run.json")
    assert record["changes"] == [[last, last]]
    assert last < planned == record["config"]["train"]["steps"]
    assert any(f"stopped at step {last}" in line for line in said)
    again, reports = prepared(True, pytest.fail), list[StepReport]()
    again.run(reports.append)
    assert again.loop.step == last
    assert f"for {counted(last, 'step')}" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert torch.equal(next(run.model.parameters()), next(again.model.parameters()))


def test_wide_models_are_moved_in_smaller_steps(base: Path, data: Path, tmp_path: Path) -> None:
    for lora, lr in ((False, FULL_LR), (True, LORA_LR)):
        config = load_tuning(base, [str(data)], [], [], lora=lora)
        run = prepare(Tuning, config, tmp_path / str(lora), resume=False, say=pytest.fail)
        assert run is not None
        assert run.trial.spec.lr == lr
        assert prepare(Tuning, config, tmp_path / str(lora), resume=True, say=pytest.fail) is not None
        assert with_lr(TuneSpec(), 1024, lora=lora).lr == lr / 4
        assert with_lr(TuneSpec(lr=0.5), 1024, lora=lora).lr == 0.5


def test_a_resume_is_of_the_same_data_and_settings(base: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", rows())
    prepared(base, data, tmp_path / "out")
    record = read_json(tmp_path / "out" / "run.json")
    assert record["data"] == {str(data): sha256(data)}
    assert record["config"]["weights"] == sha256(base / "model.safetensors")
    with pytest.raises(UserError, match="`resume`"):
        prepared(base, data, tmp_path / "out")
    with pytest.raises(UserError, match=r"train\.lr"):
        prepared(base, data, tmp_path / "out", "train.lr=0.5", resume=True)
    write(data, rows(WORDS[::-1]))
    with pytest.raises(UserError, match="have changed"):
        prepared(base, data, tmp_path / "out", resume=True)
    write(data, rows())
    (tmp_path / "out" / "run.json").write_text(json.dumps({"config": {"name": "gpt-nano"}, "data": {}}))
    with pytest.raises(UserError, match="another kind of run"):
        prepared(base, data, tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        (["train.epoks=2"], {}, "did you mean 'epochs'"),
        (["train.epochs=0"], {}, r"train\.epochs"),
        (["lora.rank=4"], {}, "no effect without `lora`"),
        (["lora.rang=4"], {"lora": True}, "did you mean 'rank'"),
        (["lora.base=int4"], {}, "no effect without `lora`"),
        (["lora.base=int5"], {"lora": True}, "lora.base"),
        (["lora.base=stored"], {"lora": True}, "of a GGUF file, and .* is none; take int8"),
        (["model.layers=4"], {}, "known places are train and lora"),
        (["lora.targets=[attention.qvk]"], {"lora": True}, r"did you mean 'attention\.qkv'"),
    ],
)
def test_wrong_settings_are_named(
    settings: list[str], options: dict[str, Any], said: str, base: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        prepared(base, data, tmp_path / "out", *settings, **options)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_tuned_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    _, tokenizer = opened(base)
    task = make_task("classification")
    examples = task.load(write(tmp_path / "labelled.jsonl", [
        {"text": f"{word} {n}", "label": "ab"[n % 2]} for n, word in enumerate(WORDS)
    ]))  # fmt: skip
    save_method(tmp_path / "method", fitted_to(make_method("tfidf", task), examples, examples))
    save_model(
        tmp_path / "ngram", KneserNey.fit(np.array([1, 2, 3, 1, 2]), tokenizer.vocab_size, order=2), tokenizer
    )
    save_model(tmp_path / "mute", opened(base)[0], None)
    (tmp_path / "empty").mkdir()
    said = {
        "method": "a fitted method for one task", "ngram": "only counts", "mute": r"no tokenizer\.json",
        "empty": "not a finished model folder", "none": "not a finished model folder",
    }  # fmt: skip
    for name, words in said.items():
        with pytest.raises(UserError, match=words):
            prepared(tmp_path / name, data, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="takes no weight"):
        prepare(
            Tuning,
            load_tuning(base, [str(data)], [f"{data}@2"], []),
            tmp_path / "out",
            resume=False,
            say=pytest.fail,
        )


def test_a_preview_shows_what_is_learned(base: Path, tmp_path: Path) -> None:
    forged = {"prompt": "say <|end|> now", "completion": "거위 <|end|>"}
    data = write(tmp_path / "rows.jsonl", [forged, *rows()])
    found, mixture = preview(load_tuning(base, [str(data)], [str(data)], []), count=1)
    assert found == [
        [
            ("<|user|>", False), ("say <|end|> now", False), ("<|end|><|assistant|>", False),
            ("거위 <|end|>", True), ("<|end|>", True),
        ]
    ]  # fmt: skip
    assert len(mixture.train) == len(rows()) + 1
