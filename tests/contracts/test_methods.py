"""What every registered method promises, on every task that it suits, in English and Korean."""

from __future__ import annotations

import itertools
import json
import tempfile
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, Budget, Entity, Example, FitReport, Message, Question, Work
from malmoi.methods.base import Method
from malmoi.methods.folder import load_method, load_report, save_method
from malmoi.methods.llm.finetuned import FineTuned
from malmoi.methods.neural.method import Neural
from malmoi.methods.registry import make_method, method_class, method_options, methods_for, quick_methods
from malmoi.metrics.confidence import LEAST
from malmoi.tasks import TASKS, make_task, write_samples
from malmoi.tasks.base import Task
from malmoi.tasks.kinds import CONTINUATION, LABEL, LABELS, SPAN, TAGS, TEXT
from malmoi.world import documents
from tests.hub.tiny_encoder import write_encoder
from tests.methods.tiny import fitted_to, write_model

TINY = {
    LABEL: {"vocab_size": 400},
    LABELS: {"vocab_size": 400},
    TAGS: {},
    SPAN: {},
    TEXT: {"vocab_size": 400, "beams": 2, "max_target": 16},
    CONTINUATION: {"vocab_size": 400, "max_new_tokens": 8, "context": 64},
}
SMALL = {"width": 16, "layers": 1}
REPLY = {LABEL: {}, SPAN: {"max_new_tokens": 8}}  # of the methods that ask a language model
# of methods that need no server; for "remote" see tests/methods/test_remote.py
HERE = {task: [m for m in methods_for(make_task(task), all_known=True) if m != "remote"] for task in TASKS}
CASES = [(task, method) for task in TASKS for method in HERE[task]]
every_case = pytest.mark.parametrize(("task", "name"), CASES)
STRANGE = ("", " \n\t", "!", "<|eos|><|pad|> [SEP]", "\u200b", "😀 a\u0301 ㄱㅏ", "a" * 3000, "말 " * 400)


@lru_cache
def language_model() -> tempfile.TemporaryDirectory[str]:
    """A folder that is there as long as this module."""
    folder = tempfile.TemporaryDirectory()
    write_model(Path(folder.name))
    return folder


@lru_cache
def encoder() -> tempfile.TemporaryDirectory[str]:
    """As `language_model`, of an untrained encoder."""
    folder = tempfile.TemporaryDirectory()
    write_encoder(Path(folder.name))
    return folder


@lru_cache
def cheap(task: str) -> tempfile.TemporaryDirectory[str]:
    """A method that knows how sure it is, for a cascade to begin with."""
    folder = tempfile.TemporaryDirectory()
    method = copy(fitted(task, quick_methods(make_task(task))[-1]))
    method.calibrate(data(task)[1][:24])
    save_method(Path(folder.name) / "cheap", method)
    return folder


def options(task: Task[Any, Any], name: str) -> dict[str, Any]:
    if name == "cascade":
        return {
            "cheap": f"{cheap(task.name).name}/cheap",
            "strong": f"{cheap(task.name).name}/cheap",
            "max_error": 0.999,
        }
    if name == "pretrained":
        return {"encoder": encoder().name}
    if name == "features":
        return {"model": language_model().name}
    method = method_class(name, task)
    assert method
    if method.needs_model:
        return {"model": language_model().name} | REPLY.get(task.kind, {"max_new_tokens": 12})
    neural = issubclass(method, Neural)
    heads = {"heads": 2} if name == "transformer" else {}
    return SMALL | heads | TINY[task.kind] if neural else {}


@lru_cache
def data(task: str) -> tuple[Task[Any, Any], list[Example[Any, Any]]]:
    """Fifty examples or so, half of them Korean."""
    made = make_task(task)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.jsonl"
        write_samples(path, task, documents(400 if task == "classification" else 60), 70)
        return made, made.load(path)[:70]


@lru_cache
def fitted(task: str, name: str) -> Any:
    made, examples = data(task)
    method = make_method(name, made, options(made, name))
    return fitted_to(method, examples[:50], examples[50:60], Budget(steps=4))


def inputs(task: str, count: int = 8) -> list[Any]:
    return [example.input for example in data(task)[1][60 : 60 + count]]


def strange(task: Task[Any, Any]) -> list[Any]:
    if task.kind is SPAN:
        return [Question(a, b) for a, b in itertools.product(STRANGE[:6], STRANGE)]
    if task.name == "chat":
        return [(Message("user", text),) for text in STRANGE]
    return list(STRANGE)


def check_kind(task: Task[Any, Any], value: Any, found: Any) -> None:
    if found is None:
        return
    if task.kind is TAGS:
        assert all(isinstance(entity, Entity) for entity in found)
        assert all(0 <= e.start < e.end <= len(value) for e in found)
        assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    elif task.kind is LABELS:
        assert isinstance(found, tuple)
        assert list(found) == sorted(set(found) & {"PER", "LOC", "ORG", "DATE"})
    elif task.kind is SPAN:
        assert isinstance(found, Answer)
        assert value.context[found.start : found.start + len(found.text)] == found.text
    else:
        assert isinstance(found, str)


def test_every_task_has_every_family() -> None:
    for task in TASKS:
        families = {getattr(method_class(name), "family", "") for name in methods_for(make_task(task))}
        assert families >= {"traditional", "recurrent", "transformer"}, task


@every_case
def test_predictions_have_the_tasks_form(task: str, name: str) -> None:
    method, values = fitted(task, name), inputs(task)
    found = method.predict(values).values
    assert len(found) == len(values)
    for value, one in zip(values, found, strict=True):
        check_kind(method.task, value, one)
    assert method.predict([]).values == []


@every_case
def test_neighbours_and_order_change_nothing(task: str, name: str) -> None:
    method, values = fitted(task, name), inputs(task)
    together = method.predict(values).values
    assert method.predict(values[::-1]).values == together[::-1]
    assert [method.predict([value]).values[0] for value in values] == together


@every_case
def test_a_folder_keeps_the_predictions(task: str, name: str, tmp_path: Path) -> None:
    method, values = fitted(task, name), inputs(task)
    save_method(tmp_path / "saved", method, FitReport(method.report))
    loaded = load_method(tmp_path / "saved")
    assert loaded.predict(values).values == method.predict(values).values
    assert loaded.name == method.name
    assert load_report(tmp_path / "saved").facts == json.loads(json.dumps(method.report))
    files = (path for path in (tmp_path / "saved").rglob("*") if path.is_file())
    assert {path.suffix for path in files} <= {
        ".json", ".jsonl", ".safetensors", ".md", ".crfsuite", ".txt",
    }  # fmt: skip


@every_case
def test_a_budget_is_kept(task: str, name: str) -> None:
    """It is spent before anything is done: the least is learned, the report says what was not, all works."""
    made, examples = data(task)
    method = make_method(name, made, options(made, name))
    report = method.fit(examples[:50], examples[50:60], Work(Budget(seconds=1e-9)))
    if name == "cascade":  # it learns one number, and looks at every example for that
        return
    if name != "prompted" or made.kind is LABEL:  # of other kinds a prompted model chooses nothing
        assert "budget" in report.note
    values = inputs(task, 2)
    for value, one in zip(values, method.predict(values).values, strict=True):
        check_kind(method.task, value, one)


@every_case
def test_the_report_says_what_was_learned_from(task: str, name: str) -> None:
    """What stops by the held-out part cannot learn from it; what chooses by it learns from it afterwards."""
    found = fitted(task, name).report.get("learned_from")
    stops_by_it = issubclass(method_class(name) or Method, Neural | FineTuned)
    assert found == (None if name == "prompted" else {"train": 50, "valid": 0 if stops_by_it else 10})


@every_case
def test_strange_inputs_are_answered(task: str, name: str) -> None:
    method = fitted(task, name)
    values = strange(method.task)
    for value, one in zip(values, method.predict(values).values, strict=True):
        check_kind(method.task, value, one)


@every_case
def test_probabilities_agree_with_predictions(task: str, name: str) -> None:
    method, values = fitted(task, name), inputs(task)
    found = method.probabilities(values)
    if found is None:
        assert not method.task.kind.is_choice
        return
    chosen: list[tuple[dict[str, float], set[str]]] = []
    for one, label in zip(found, method.predict(values).values, strict=True):
        assert all(0 <= share <= 1 for share in one.values())
        if method.task.kind is LABELS:  # each label by itself, from its threshold on
            chosen.append((one, set(label)))
            continue
        assert sum(one.values()) == pytest.approx(1, abs=1e-4)
        assert one[label] == max(one.values())
    for each in chosen[0][0] if chosen else ():
        given = [one[each] for one, label in chosen if each in label]
        others = [one[each] for one, label in chosen if each not in label]
        assert min(given, default=1) > max(others, default=0)


@every_case
def test_confidence_is_of_each_answer_and_is_kept(task: str, name: str, tmp_path: Path) -> None:
    """Of every method that has labels, entities or answers, once some examples are held out for it."""
    method = copy(fitted(task, name))
    method.calibrate(data(task)[1][:24])
    if method.task.kind.is_text or name == "remote":
        assert method.predict_with_confidence(inputs(task)).confidences is None
        return
    if (
        method.calibration is None and name != "cascade"
    ):  # a model that has learned nothing may say nothing that can be read
        answers = method.predict([example.input for example in data(task)[1][:24]]).values
        assert method.needs_model
        assert sum(answer is not None for answer in answers) < LEAST
        return
    found, values = method.predict_with_confidence(inputs(task)), inputs(task)
    assert found.values == method.predict(values).values
    assert all(0 <= sure <= 1 for sure in found.confidences)
    assert method.predict_with_confidence(values[:1]).confidences == pytest.approx(
        found.confidences[:1], abs=1e-4
    )
    save_method(tmp_path / "saved", method)
    again = load_method(tmp_path / "saved").predict_with_confidence(values)
    assert again.confidences == pytest.approx(found.confidences, abs=1e-4)
    assert found.at_least(2.0).values == [None] * len(values)


@every_case
def test_likelihoods_are_of_each_target_alone(task: str, name: str) -> None:
    method = fitted(task, name)
    examples = data(task)[1][60:66]
    values, targets = [e.input for e in examples], [e.target for e in examples]
    if not method.task.kind.is_text:
        return
    found = method.log_likelihood(values, targets)
    if found is None:
        assert method.family == "traditional"
        return
    assert all(value < 0 for value in found)
    alone = [(method.log_likelihood([x], [y]) or [0.0])[0] for x, y in zip(values, targets, strict=True)]
    assert found == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize(("task", "name"), [case for case in CASES if case[1] in ("tfidf", "crf", "lstm")])
def test_the_same_data_make_the_same_method(task: str, name: str) -> None:
    made, examples = data(task)
    again = fitted_to(
        make_method(name, made, options(made, name)), examples[:50], examples[50:60], Budget(steps=4)
    )
    assert again.predict(inputs(task)).values == fitted(task, name).predict(inputs(task)).values


@pytest.mark.parametrize("name", [name for name in HERE["classification"] if name != "cascade"])
def test_one_label_only_is_refused(name: str) -> None:
    task, examples = data("classification")
    same = [Example(example.input, "good") for example in examples]
    with pytest.raises(UserError, match="label"):
        fitted_to(make_method(name, task, options(task, name)), same[:50], same[50:])


@pytest.mark.parametrize("name", [name for name in HERE["ner"] if name != "cascade"])
def test_no_entity_at_all_is_refused(name: str) -> None:
    task, examples = data("ner")
    bare = [Example(example.input, ()) for example in examples]
    with pytest.raises(UserError, match="entit"):
        fitted_to(make_method(name, task, options(task, name)), bare[:50], bare[50:])


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("tfid", {}, "did you mean 'tfidf'"),
        ("crf", {}, "no method 'crf' for classification"),
        ("lstm", {"widht": 3}, "did you mean 'width'"),
        ("lstm", {"width": -1}, "width"),
        ("transformer", {"pooling": "sum"}, "pooling"),
    ],
)
def test_wrong_names_and_options_are_reported(name: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_method(name, make_task("classification"), given)


def test_options_go_to_the_methods_named() -> None:
    task = make_task("classification")
    assert method_options(task, "tfidf, lstm", {"lstm.width": 64}) == {"tfidf": {}, "lstm": {"width": 64}}
    assert list(method_options(task, "all", {})) == methods_for(task)
    assert method_options(task, "lstm,lstm:big", {"lstm:big.width": 96}) == {
        "lstm": {},
        "lstm:big": {"width": 96},
    }
    for wrong in ({"gru.width": 1}, {"width": 1}, {"lstm.depth": 1}):
        with pytest.raises(UserError):
            method_options(task, "lstm", wrong)


def test_methods_that_need_a_model_come_with_one() -> None:
    task = make_task("classification")
    found = method_options(task, "all", {"prompted.shots": 2, "finetuned.model": "b"}, model="a")
    assert found["prompted"] == {"model": "a", "shots": 2}
    assert found["finetuned"] == {"model": "b"}
    assert "prompted" not in method_options(task, "all", {})
    own = method_options(task, "all", {"prompted:one.model": "a"})
    assert own["prompted:one"] == {"model": "a"}
    assert set(own) == {*methods_for(task), "prompted:one"}
    with pytest.raises(UserError, match="prompted: model: give the folder of a language model: `model` DIR"):
        method_options(task, "tfidf,prompted", {})
    with pytest.raises(UserError, match="none of tfidf needs a language model"):
        method_options(task, "tfidf", {}, model="a")
    with pytest.raises(UserError, match="after the colon"):
        make_method("lstm:a.b", task)


def damaged(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-9] + b"123456789")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_folder_is_refused(name: str, tmp_path: Path) -> None:
    save_method(tmp_path / "saved", fitted("classification", "tfidf"))
    damaged(tmp_path / "saved", name)
    with pytest.raises(UserError, match=r"saved"):
        load_method(tmp_path / "saved")


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all my work")
    with pytest.raises(UserError, match="`out`"):
        save_method(tmp_path / "mine", fitted("classification", "tfidf"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all my work"
