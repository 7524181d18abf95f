"""Asking language models: formats, contexts that are too small, labels, parts of the input, folders."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Entity, Example, Message, Question, turns_error
from malmoi.engine.ask import Asker, AskSettings, ChatTurns, PlainText, calibrated, shortened, softmax, tidied
from malmoi.engine.engine import Engine
from malmoi.engine.prefixes import common
from malmoi.engine.request import Sampling
from malmoi.engine.score import score
from malmoi.hub.folder import load_model, save_model
from malmoi.methods.base import Method
from malmoi.methods.folder import load_method, save_method
from malmoi.methods.llm.prompted import Prompted
from malmoi.methods.registry import make_method
from malmoi.models.language import LanguageModel
from malmoi.models.ngram import KneserNey
from malmoi.tasks import TASKS, make_task
from malmoi.tasks.base import is_korean
from malmoi.tasks.kinds import LABEL, SPAN, closed
from malmoi.text.chat import TEMPLATE, ChatFormat
from malmoi.text.tokenizer import Tokenizer
from tests.engine.scripted import BYTES, FORM, Scripted
from tests.methods.tiny import fitted_to, tokenizer_of, world, write_model

REPLY = {LABEL: {}, SPAN: {"max_new_tokens": 8}}
TEXTS = ("The old goose sang in Noru Lake.\nIt was loud.", "거위가 노루 호수에서 노래했다. 아주 컸다.")
messages = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text()))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    small = write_model(folder / "small", context=288)
    return {
        "foundation": write_model(folder / "foundation"), "chat": write_model(folder / "chat", chat=True),
        "lstm": write_model(folder / "lstm", family="lstm"), "small": small,
        "unigram": write_model(folder / "unigram", chat=True, kind="unigram"),
    }  # fmt: skip


def prompted(task: str, model: Path, **options: Any) -> Method:
    made, examples = world(task)
    options = {"model": str(model)} | REPLY.get(made.kind, {"max_new_tokens": 12}) | options
    return fitted_to(make_method("prompted", made, options), examples[:50], examples[50:60])


def inputs(task: str, count: int = 6) -> list[Any]:
    return [example.input for example in world(task)[1][60 : 60 + count]]


def ask_settings(
    *, chat: bool = True, labels: Sequence[str] = (), reply_tokens: int = 200, goes_on: bool = False
) -> AskSettings:
    template = TEMPLATE if chat else None
    return AskSettings(
        template=template, goes_on=goes_on, labels=tuple(labels), one_line=True, reply_tokens=reply_tokens
    )


# ---- prompts


@pytest.mark.parametrize("text", TEXTS)
def test_a_foundation_model_reads_plain_text(text: str) -> None:
    said = [Message("user", text), Message("assistant", "네 yes"), Message("user", "그리고?")]
    plain = PlainText(BYTES, one_line=True)
    ids = plain.prompt_ids(said)
    assert ids[0] == BYTES.specials.eos
    assert BYTES.decode(ids[1:]) == f"{text}\n네 yes\n\n그리고?\n"
    assert (plain.stop, BYTES.decode(plain.end_ids)) == (("\n",), "\n")
    assert PlainText(BYTES, one_line=False).stop == ("\n\n",)


def test_a_chat_model_reads_its_template() -> None:
    turns = ChatTurns(FORM)
    assert turns.prompt_ids([Message("user", TEXTS[1])]) == FORM.prompt_ids([Message("user", TEXTS[1])])
    assert turns.end_ids == [BYTES.specials.turns["<|end|>"]]


@given(messages)
def test_any_messages_can_be_asked(said: list[Message]) -> None:
    found = tidied(said)
    assert not turns_error(found, ends_with="user")
    assert tidied(found) == found
    if not turns_error(said, ends_with="user"):
        assert found == said


def test_the_longest_text_is_cut_first() -> None:
    assert shortened(Question("who?", "a" * 50), 9) == Question("who?", "a" * 9)
    assert shortened((Message("user", "abc"),), 2) == (Message("user", "ab"),)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", ["small", "chat"])
def test_prompts_fit_whatever_the_input(task: str, model: str, models: dict[str, Path]) -> None:
    if model == "small" and task == "ner":  # its question alone is too long: tested elsewhere
        return
    method = prompted(task, models[model], max_new_tokens=4) if task != "classification" else (
        prompted(task, models[model])
    )  # fmt: skip
    assert isinstance(method, Prompted)
    for text in ("", "말 " * 2000, "x y\n" * 900):
        value: Any = Question(text, text) if task == "question-answering" else text
        value = (Message("user", "hi"), Message("assistant", text), Message("user", text)) if (
            task == "chat"
        ) else value  # fmt: skip
        asked = method.asker.ask(value)
        assert len(asked.ids) <= method.asker.most
        if text:
            assert asked.value != value or asked.dropped
        assert len(method.predict([value]).values) == 1


def test_the_oldest_shots_are_left_out_first(models: dict[str, Path]) -> None:
    method = prompted("translation", models["small"], shots=3, max_new_tokens=8)
    assert isinstance(method, Prompted)
    value = inputs("translation")[0]
    asked, shown = method.asker.ask(value), method.shots.pick(value)
    assert 0 < asked.dropped < 3
    text = method.asker.tokenizer.decode(asked.ids)
    assert all(shot.target in text for shot in shown[asked.dropped :])
    assert shown[asked.dropped - 1].target not in text
    assert asked.value == value
    lost = "to fit into 280 tokens, 10 of 10 prompts lost their oldest shots or turns, and 0 a part"
    assert lost in method.report["note"]


def test_a_context_that_holds_no_question_is_reported(tmp_path: Path) -> None:
    tiny = write_model(tmp_path / "tiny", context=24)
    with pytest.raises(UserError, match="context of 24 tokens cannot hold a question of question-answering"):
        prompted("question-answering", tiny)


def test_labels_that_take_too_much_are_not_listed() -> None:
    task = make_task("classification")
    labels = [f"card_{n:03}" for n in range(100)]
    engine = Engine(Scripted(lambda _: "card_007", context=400), BYTES)
    asker = Asker(engine, task, ask_settings(labels=labels, reply_tokens=9))
    assert "card_001" not in BYTES.decode(asker.ask("hello").ids)
    assert asker.note([]) == "the 100 labels are not listed in the question: too long"
    assert labels[int(asker.label_scores(["hello"]).argmax())] == "card_007"
    assert task.labels == ()  # others' tasks stay as they are
    few = Asker(
        Engine(Scripted(context=400), BYTES), task, ask_settings(labels=("good", "bad"), reply_tokens=9)
    )
    assert "good, bad" in BYTES.decode(few.ask("hello").ids)


# ---- labels


class Biased(Scripted):
    """Says "a" (by two nats) or "b", and then its end; "bee" in the text is worth three nats for "b"."""

    def logits(self, history: Sequence[int]) -> Tensor:
        logits = torch.full((self.vocab_size,), -30.0)
        asked = self.tokenizer.decode(history)
        if history[-1] == self.turns["<|assistant|>"]:
            a, b = (self.tokenizer.encode(label)[0] for label in "ab")
            logits[a], logits[b] = 2.0, 3.0 * ("bee" in asked or "벌" in asked)
        else:
            logits[self.turns["<|end|>"]] = 30.0
        return logits


@pytest.mark.parametrize(("bee", "other"), [("a bee is here", "a cow is here"), ("벌이 왔다", "소가 왔다")])
def test_calibration_by_hand(bee: str, other: str) -> None:
    asker = Asker(Engine(Biased(), BYTES), make_task("classification"), ask_settings(labels=("a", "b")))
    scores = asker.label_scores([bee, other])
    log = [math.log(1 / (1 + math.exp(gap))) for gap in (1, -1, -2, 2)]  # of 2 against 3, of 2 against 0
    assert scores[0].tolist() == pytest.approx(log[:2], abs=1e-4)
    assert scores[1].tolist() == pytest.approx(log[2:], abs=1e-4)
    free = asker.free_scores("벌" in bee)
    assert free.shape == (3, 2)  # "N/A", "" and "[MASK]"
    assert softmax(free).mean(0).tolist() == pytest.approx([math.exp(log[2]), math.exp(log[3])], abs=1e-4)
    found = calibrated(scores, free)
    assert found[1].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)  # nothing to judge
    assert found[0].tolist() == pytest.approx([1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))], abs=1e-4)


def test_calibration_divides_by_the_mean() -> None:
    scores = np.log([[0.8, 0.2]])
    free = np.log([[0.9, 0.1], [0.7, 0.3]]) - 5.0  # that labels are unlikely among all replies does not count
    assert calibrated(scores, free).tolist() == [pytest.approx([0.5, 0.5])]


def test_the_end_of_a_label_counts() -> None:
    asker = Asker(
        Engine(Scripted(lambda _: "card_lost"), BYTES),
        make_task("classification"),
        ask_settings(labels=("card", "card_lost")),
    )
    assert asker.label_scores(["어디 있나요?"]).argmax() == 1


def test_calibration_is_chosen_by_validation(models: dict[str, Path]) -> None:
    chosen = prompted("classification", models["foundation"])
    found = chosen.report["calibration"]
    assert found["examples"] == 10
    assert chosen.report["calibrated"] == (found["with"] > found["without"])
    both = [prompted("classification", models["foundation"], calibrate=it) for it in (True, False)]
    one, other = (method.probabilities(inputs("classification")) for method in both)
    assert one != other
    assert "calibration" not in both[0].report


@pytest.mark.parametrize("task", ["classification", "translation"])
def test_the_shots_are_read_once(task: str) -> None:
    made, examples = world(task)
    scorer = Scripted(lambda _: "네", context=None)
    settings = ask_settings(labels=("good", "bad") if made.kind is LABEL else (), reply_tokens=3)
    asker = Asker(Engine.for_many(scorer, BYTES), made, settings, lambda _: examples[:8])
    values = [text for text in inputs(task, 20) if not is_korean(text)]
    prompts = [asker.ask(value).ids for value in values]
    shared = min(common(prompts[0], ids) for ids in prompts)
    assert shared > 300
    ask = asker.label_scores if made.kind is LABEL else asker.answers
    done = list[int]()
    for at_once in (values[:1], values):
        scorer.tokens_read = 0
        ask(at_once, done.append)
        new = sum(len(ids) - shared for ids in prompts[: len(at_once)])
        replies = 2 * 7 * len(at_once) if made.kind is LABEL else 3 * len(at_once)
        assert scorer.tokens_read <= new + replies + (shared if at_once != values else 0)
    assert done[0] == 1
    assert done[-1] == len(values)


# ---- replies


def asked_of(task: str, reply: str, value: Any, labels: Sequence[str] = ()) -> Any:
    asker = Asker(Engine(Scripted(lambda _: reply), BYTES), make_task(task), ask_settings(labels=labels))
    return asker.answers([value])[0]


def test_entities_are_read() -> None:
    text = "수지는 노루에서 Ann 을 만났다"
    right = '[{"text": "수지", "label": "PER"}, {"text": "Ann", "label": "PER"}]'
    assert asked_of("ner", right, text, ["LOC", "PER"]) == (Entity(0, 2, "PER"), Entity(9, 12, "PER"))
    assert asked_of("ner", "[]", text, ["PER"]) == ()
    for wrong in ("no idea", '[{"text": "바다", "label": "PER"}]', '[{"text": "수지", "label": "SEA"}]'):
        found = asked_of("ner", wrong, text, ["PER"])
        assert found is None or {text[it.start : it.end] in text for it in found} <= {True}
        assert found is None or {it.label for it in found} <= {"PER"}
    assert asked_of("ner", "[]", "", ["PER"]) == ()


def test_a_cut_list_keeps_its_whole_entities() -> None:
    task = make_task("ner")
    text = "Ann met Bob and Ann"
    whole = task.answer((Entity(0, 3, "PER"), Entity(8, 11, "PER"), Entity(16, 19, "PER")), text)
    for length in range(len(whole)):
        found = task.parse(closed(whole[:length]), text)
        assert found is None or len(found) == whole[:length].count("}")


@pytest.mark.parametrize("text", TEXTS)
def test_answers_are_parts_of_the_context(text: str) -> None:
    part = text[4:9]
    assert asked_of("question-answering", part, Question("who?", text)) == Answer(
        part.strip(), text.find(part.strip())
    )
    found = asked_of("question-answering", "바다 sea", Question("무엇?", text))
    assert found is None or text[found.start :].startswith(found.text)
    assert asked_of("question-answering", part, Question("who?", "")) is None


@settings(max_examples=15, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60), st.integers(0, 3))
def test_any_model_answers_with_parts_of_any_input(text: str, seed: int) -> None:
    tokenizer = BYTES
    for chat, task in ((seed % 2 == 0, "question-answering"), (seed % 2 == 1, "ner")):
        labels = ("PER", "장소") if task == "ner" else ()
        scorer = Scripted(lambda _: "", context=None)
        scorer.logits = lambda history: torch.randn(
            tokenizer.vocab_size, generator=torch.Generator().manual_seed(hash((seed, *history)) % 2**31)
        )
        asked = ask_settings(chat=chat, labels=labels, reply_tokens=24)
        asker = Asker(Engine(scorer, tokenizer), make_task(task), asked)
        if task == "ner":
            found = asker.answers([text])[0]
            assert all(text[it.start : it.end] and it.label in labels for it in found or ())
        else:
            answer = asker.answers([Question("who?", text)])[0]
            assert answer is None or text[answer.start :].startswith(answer.text)


@pytest.mark.parametrize("task", ["ner", "question-answering"])
def test_a_tokenizer_that_is_not_byte_level_answers_freely(task: str, models: dict[str, Path]) -> None:
    method = prompted(task, models["unigram"])
    assert "replies are free, not held to a form: its unigram tokenizer" in method.report["note"]
    for value, found in zip(inputs(task), method.predict(inputs(task)).values, strict=True):
        assert not isinstance(found, Answer) or value.context[found.start :].startswith(found.text)


def test_a_foundation_model_goes_on_with_the_text(models: dict[str, Path]) -> None:
    method = prompted("completion", models["foundation"])
    assert isinstance(method, Prompted)
    loaded, tokenizer = load_model(models["foundation"])
    assert tokenizer is not None
    text = inputs("completion")[0]
    direct = Engine(loaded, tokenizer).generate([text], Sampling(max_tokens=12, temperature=0))
    assert method.predict([text]).values == [direct[0].text]
    nats = score(Engine(loaded, tokenizer), [text], [" and on it went 그리고"])
    assert method.log_likelihood([text], [" and on it went 그리고"]) == pytest.approx(nats, abs=1e-3)
    with pytest.raises(UserError, match="goes on with a text as it is; leave shots out"):
        prompted("completion", models["foundation"], shots=1)


def test_a_chat_model_is_asked_to_go_on(models: dict[str, Path]) -> None:
    method = prompted("completion", models["chat"])
    assert isinstance(method, Prompted)
    text = inputs("completion")[0]
    ids = method.asker.ask(text).ids
    assert ids == ChatFormat(method.asker.tokenizer, TEMPLATE).prompt_ids(
        make_task("completion").prompt(text)
    )


@pytest.mark.parametrize(
    "target", ["네", "a far longer answer, 아주 긴 대답, that has to go on and on " * 20]
)
def test_likelihoods_count_the_end_of_the_turn(target: str, models: dict[str, Path]) -> None:
    method = prompted("chat", models["chat"])
    assert isinstance(method, Prompted)
    value = (Message("user", "안녕 there"),)
    found = method.log_likelihood([value], [target])
    assert found is not None
    row = ChatFormat(method.asker.tokenizer, TEMPLATE).training_row([*value, Message("assistant", target)])
    model = method.asker.scorer
    assert isinstance(model, LanguageModel)
    if len(row.ids) <= 512:
        state = model.new_state(1, len(row.ids))
        logits_1TV = model.step(torch.tensor([row.ids]), torch.tensor([len(row.ids)]), state)
        nats_T = logits_1TV[0, :-1].log_softmax(-1)[range(len(row.ids) - 1), row.ids[1:]]
        assert found[0] == pytest.approx(float(nats_T[torch.tensor(row.trained[1:])].sum()), abs=1e-3)
    assert math.isfinite(found[0])
    assert found[0] < -len(target.split())


# ---- shots, models, folders


def test_shots_by_default(models: dict[str, Path]) -> None:
    counts = {name: prompted("translation", models[name]).report["shots"] for name in ("foundation", "chat")}
    assert counts == {"foundation": 4, "chat": 0}


@pytest.mark.parametrize("choose", ["random", "similar"])
@pytest.mark.parametrize("task", ["classification", "chat", "question-answering"])
def test_shots_survive_in_the_folder(
    task: str, choose: Literal["random", "similar"], models: dict[str, Path], tmp_path: Path
) -> None:
    method = prompted(task, models["chat"], shots=2, choose=choose)
    assert isinstance(method, Prompted)
    save_method(tmp_path / "saved", method)
    loaded = load_method(tmp_path / "saved")
    assert isinstance(loaded, Prompted)
    seen = [example.input for example in world(task)[1][:3]]
    for value in [*inputs(task), *seen]:
        assert loaded.asker.ask(value) == method.asker.ask(value)
        assert all(shot.input != value for shot in loaded.shots.pick(value))
    assert not any(
        "safetensors" in path.name and path.stat().st_size > 999 for path in (tmp_path / "saved").iterdir()
    )


@pytest.mark.parametrize("task", TASKS)
def test_every_kind_of_model_can_be_asked(task: str, models: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_json(tokenizer_of("bpe"))
    counted = KneserNey.fit(np.array(tokenizer.encode(" ".join(TEXTS) * 3)), tokenizer.vocab_size, order=3)
    save_model(tmp_path / "ngram", counted, tokenizer)
    plain = {"calibrate": False} if task == "classification" else {}
    for model in (models["lstm"], tmp_path / "ngram"):
        method = prompted(task, model, shots=None if task == "completion" else 1, **plain)
        assert len(method.predict(inputs(task, 2)).values) == 2


def test_a_gone_model_is_reported_and_a_changed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("lm"))
    made, examples = world("translation")
    method = make_method("prompted", made, {"model": "lm", "max_new_tokens": 4, "shots": 1})
    fitted_to(method, examples[:50], examples[50:60])
    save_method(Path("saved"), method)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = method.predict(inputs("translation", 2)).values
    assert (
        load_method(tmp_path / "saved").predict(inputs("translation", 2)).values == found
    )  # by its absolute path
    shutil.move(tmp_path / "lm", tmp_path / "elsewhere" / "lm")
    assert (
        load_method(tmp_path / "saved").predict(inputs("translation", 2)).values == found
    )  # by the path as given
    write_model(tmp_path / "elsewhere" / "lm", seed=1)
    with pytest.raises(UserError, match="lm has other weights now"):
        load_method(tmp_path / "saved")
    shutil.rmtree(tmp_path / "elsewhere" / "lm")
    with pytest.raises(UserError, match=r"its language model .*lm is gone"):
        load_method(tmp_path / "saved")


def test_folders_that_cannot_be_asked(models: dict[str, Path], tmp_path: Path) -> None:
    save_method(tmp_path / "fitted", prompted("translation", models["chat"]))
    (tmp_path / "empty").mkdir()
    for folder in ("fitted", "empty", "nowhere"):
        with pytest.raises(UserError, match=folder):
            prompted("translation", tmp_path / folder)


def test_wrong_options(models: dict[str, Path]) -> None:
    for task, options, says in (
        ("classification", {"max_new_tokens": 3}, "prompted has no option 'max_new_tokens'"),
        ("translation", {"calibrate": True}, "prompted has no option 'calibrate'"),
        ("translation", {"choose": "best"}, "choose"),
        ("translation", {"shots": -1}, "shots"),
    ):
        with pytest.raises(UserError, match=says):
            make_method("prompted", make_task(task), {"model": str(models["chat"])} | options)


def test_the_size_on_disk_is_the_models(models: dict[str, Path]) -> None:
    method = prompted("translation", models["chat"])
    assert method.costs()["disk_bytes"] >= (models["chat"] / "model.safetensors").stat().st_size
    assert json.dumps(method.report)


def test_a_chat_model_needs_no_examples_but_labels(models: dict[str, Path]) -> None:
    method = fitted_to(
        make_method("prompted", make_task("translation"), {"model": str(models["chat"])}), [], []
    )
    assert len(method.predict(["거위"]).values) == 1
    same = [Example("a", "x"), Example("b", "x")]
    with pytest.raises(UserError, match="at least two"):
        fitted_to(
            make_method("prompted", make_task("classification"), {"model": str(models["chat"])}), same, same
        )
