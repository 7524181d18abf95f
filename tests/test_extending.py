"""The worked examples of docs/extending.md: the code on the page is registered and used as a reader would."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from malmoi.cli import commands as cli
from malmoi.core.errors import UserError
from malmoi.core.nouns import Example
from malmoi.methods.registry import METHODS, make_method, methods_for
from malmoi.tasks import TASKS, make_task
from malmoi.tasks.base import Task
from tests.contracts import test_methods as contract

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SAID = {
    "now": ("The {} is on fire, come at once!", "{}에 불이 났어요, 당장 와 주세요!"),
    "today": ("Please look at the {} this afternoon.", "오늘 오후에 {} 좀 봐 주세요."),
    "later": ("Some day the {} could be painted.", "언젠가 {}에 칠을 하면 좋겠어요."),
}
THINGS = ("mill", "boat", "stove", "library", "창고", "부엌", "다리", "시장")
Run = Any


def code(name: str) -> type[Any]:
    """The class `name` of the page's code, run as a module of its own."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    [block] = [block for block in blocks if f"class {name}(" in block]
    module: dict[str, Any] = {"__name__": f"page_{name}"}
    exec(compile(block, name, "exec", dont_inherit=True), module)
    return module[name]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "urgency", code("Urgency"))
    monkeypatch.setitem(METHODS, "majority", code("Majority"))


@pytest.fixture
def task() -> Task[Any, Any]:
    return make_task("urgency")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def malmoi(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["malmoi", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        assert not end.value.code, printed.err
        return printed.out

    return malmoi


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    rows = [
        {"body": text.format(thing), "urgency": level.upper()}
        for level, texts in SAID.items() for text in texts for thing in THINGS
    ]  # fmt: skip
    path = tmp_path / "messages.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_task_is_learned_and_done(run: Run, messages: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my-urgency"
    assert "accuracy" in run("fit", "urgency", "--method", "tfidf", "--train", messages, "--out", folder)
    asked = tmp_path / "asked.txt"
    asked.write_text("The barn is on fire, come at once!\n오늘 오후에 우물 좀 봐 주세요.\n", encoding="utf-8")
    found = [json.loads(line) for line in run("predict", folder, asked).splitlines()]
    assert [row["prediction"] for row in found] == ["now", "today"]
    assert "levels_off" in run("evaluate", folder, "--data", messages)


def test_the_method_is_fitted_and_saved(run: Run, messages: Path, tmp_path: Path) -> None:
    folder = tmp_path / "most"
    run("fit", "urgency", "--method", "majority", "--train", messages, "--out", folder)
    shares = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]["shares"]
    assert set(shares) == set(SAID)
    assert shares[run("predict", folder, "Anything at all").split()[0]] == max(shares.values())


def test_the_method_keeps_the_contract(tmp_path: Path) -> None:
    case = ("classification", "majority")
    contract.test_predictions_have_the_tasks_form(*case)
    contract.test_neighbours_and_order_change_nothing(*case)
    contract.test_a_folder_keeps_the_predictions(*case, tmp_path)
    contract.test_strange_inputs_are_answered(*case)
    contract.test_probabilities_agree_with_predictions(*case)
    contract.test_likelihoods_are_of_each_target_alone(*case)
    contract.test_one_label_only_is_refused("majority")


def test_the_task_keeps_the_contract(task: Task[Any, Any], messages: Path) -> None:
    examples = task.load(messages)
    assert len(examples) == 48
    assert "majority" in methods_for(task)
    for example in examples:
        assert task.parse(task.answer(example.target, example.input), example.input) == example.target
    perfect = task.score([example.target for example in examples], examples)
    assert (perfect["accuracy"].value, perfect["levels_off"].value) == (1, 0)
    assert task.score([None], [Example("Help!", "now")])["levels_off"].value == 2
    assert task.score(["later"], [Example("Help!", "today")])["levels_off"].value == 1


def test_mistakes_are_told(task: Task[Any, Any], tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"message": "Come!", "urgency": "soon"}\n', encoding="utf-8")
    with pytest.raises(
        UserError, match=r"bad.jsonl:1: \"urgency\" must be one of now, today, later, found 'soon'"
    ):
        task.load(path)
    with pytest.raises(UserError, match="there is only the label"):
        make_method("majority", task).fit([Example("Come!", "now")] * 3, [])
