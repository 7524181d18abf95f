"""The worked examples of docs/extending.md: the code on the page is registered and used as a reader would."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from malmoi.cli import commands as cli
from malmoi.compare.runner import run_comparison
from malmoi.compare.settings import ComparisonSettings
from malmoi.core.errors import UserError
from malmoi.core.nouns import Example
from malmoi.engine import Engine
from malmoi.engine.loaded import Loaded
from malmoi.engine.score import score
from malmoi.learn.mixture import Source, make_mixture
from malmoi.methods.registry import METHODS, make_method, methods_for
from malmoi.models.cells import cell_named
from malmoi.models.config import CELLS
from malmoi.serve.catalogue import open_catalogue
from malmoi.serve.page.task_tabs import NONE, Bench, choices
from malmoi.serve.settings import ServeSettings
from malmoi.serve.web import build
from malmoi.show.comparison_report import write_comparison
from malmoi.tasks import TASKS, make_task
from malmoi.tasks.base import Task
from tests.contracts import test_cells as cells
from tests.contracts import test_methods as contract
from tests.engine.scripted import FORM
from tests.methods.tiny import fitted_to, world
from tests.serve.running import running

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
    monkeypatch.setitem(CELLS, "mgu", code("MGU"))
    monkeypatch.setitem(METHODS, "mgu", METHODS["lstm"])  # as the table does for every line of CELLS


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


def test_the_task_is_served_and_on_the_page(run: Run, messages: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my-urgency"
    run("fit", "urgency", "--method", "tfidf", "--train", messages, "--out", folder)
    with running(open_catalogue([folder], max_rows=1)) as server:
        [listed] = server.get("/v1/tasks").json()["data"]
        assert listed == {"id": "urgency", "object": "task", "kind": "label", "models": ["my-urgency"]}
        asked = "The barn is on fire, come at once!"
        [found] = server.post("/v1/tasks/urgency", {"input": asked}).json()["predictions"]
        assert found["prediction"] == max(found["probabilities"], key=found["probabilities"].get) == "now"
        blocks = build(server.catalogue, server.worker, (), ServeSettings())
        config: Any = blocks.get_config_file()
        [tab] = [it["id"] for it in config["components"] if it["props"].get("elem_id") == "task-urgency"]
        inside = below(config["layout"], tab)
        props = [it["props"] for it in config["components"] if it["id"] in inside]
        assert "How soon a message wants an answer." in str(props)
        [box] = [it for it in props if it["name"] == "textbox" and it.get("interactive") is not False]
        assert box["label"] == "Text"
        assert [it["label"] for it in props if it["name"] == "label"] == ["Labels"] * 2
        task = make_task("urgency")
        bench = Bench(task, choices(server.catalogue, task), server.worker, 10_000)
        took, shown, *_ = asyncio.run(bench.run("my-urgency", NONE, asked))
        assert "my-urgency" in took
        assert max(shown, key=shown.get) == "now"


def below(tree: Any, root: int) -> set[int]:
    """The ids of all that stands in the component `root` of a page's layout."""
    found: set[int] = set()
    for child in tree.get("children", ()):
        inside = tree["id"] == root or tree.get("inside", False)
        found |= ({child["id"]} if inside else set()) | below(child | {"inside": inside}, root)
    return found


def test_the_task_is_compared(messages: Path, tmp_path: Path) -> None:
    methods = {name: {} for name in ("lexicon", "tfidf")}
    settings = ComparisonSettings(task="urgency", train=messages, methods=methods, measure_seconds=0.1)
    found = run_comparison(settings, tmp_path / "out", isolated=False)
    assert set(found.confusions) == set(methods)
    write_comparison(found)
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert {word for word in ("urgency", "accuracy", *methods, *SAID) if word not in report} == set()


def test_the_task_is_shown_in_colour_and_learned_by_language_models(
    run: Run, messages: Path, tmp_path: Path
) -> None:
    run("fit", "urgency", "--method", "tfidf", "--train", messages, "--out", tmp_path / "my-urgency")
    shown = run("predict", tmp_path / "my-urgency", "The barn is on fire, come at once!")
    assert shown.split()[0] == "now"
    assert shown.count("%") == len(SAID)
    found = make_mixture([Source.parse(f"urgency={messages}")], (), FORM, seed=0, context=4096)
    assert len(found.train) + len(found.valid) == 48
    for _, conversation, _ in found.valid:
        asked, answer = (message.content for message in conversation.messages)
        assert "now, today, later" in asked
        assert answer in SAID


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


def test_the_cell_keeps_the_contract() -> None:
    cell = cell_named("mgu")
    cells.check_layers(cell)
    cells.check_padding(cell)
    cells.check_step(cell)


def test_the_cell_is_a_language_model(run: Run, tmp_path: Path) -> None:
    text, folder = tmp_path / "text.txt", tmp_path / "mgu"
    text.write_text("\n\n".join(SAID["now"] * 40), encoding="utf-8")
    shape = (
        "model.family=mgu",
        "model.width=16",
        "tokenizer.vocab_size=300",
        "train.steps=3",
        "train.batch=2",
    )
    settings = [part for one in shape for part in ("--set", one)]
    run("pretrain", "lstm-nano", "--data", text, "--out", folder, *settings)
    assert run("complete", folder, "The barn", "--max-tokens", 4).startswith("The barn")
    run("inside", folder, "The barn is on fire.", "--out", tmp_path / "pictures")
    assert "What an MGU remembers" in (tmp_path / "pictures" / "index.html").read_text(encoding="utf-8")
    loaded = Loaded(folder)
    engine = Engine(
        loaded.model, loaded.tokenizer
    )  # what is written one token at a time is what is read at once
    ids = loaded.tokenizer.encode("The barn is on fire, come at once!")
    whole = score(engine, [[loaded.tokenizer.start]], [ids])[0]
    parts = [
        score(engine, [[loaded.tokenizer.start, *ids[:at]]], [ids[at : at + 1]])[0] for at in range(len(ids))
    ]
    assert whole == pytest.approx(sum(parts), abs=1e-3)


@pytest.mark.parametrize("task", ["classification", "ner", "translation"])
def test_the_cell_is_a_method(task: str) -> None:
    made, examples = world(task)
    method = make_method("mgu", made, {"epochs": 0.1, "width": 16, "batch": 4, "vocab_size": 300})
    fitted_to(method, examples[:24], examples[24:36])
    assert method.family == "recurrent"
    assert len(method.predict([one.input for one in examples[:3]]).values) == 3


def test_mistakes_are_reported(task: Task[Any, Any], tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"message": "Come!", "urgency": "soon"}\n', encoding="utf-8")
    with pytest.raises(
        UserError, match=r"bad.jsonl:1: \"urgency\" must be one of now, today, later, found 'soon'"
    ):
        task.load(path)
    with pytest.raises(UserError, match="there is only the label"):
        fitted_to(make_method("majority", task), [Example("Come!", "now")] * 3, [])
