"""lm_eval's scores of a malmoi folder are those of its own Hugging Face model on the same folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from malmoi.core.errors import UserError
from malmoi.engine.lm_eval import MalmoiLM
from malmoi.hub.folder import save_model
from malmoi.models.ngram import KneserNey
from malmoi.text.chat import TEMPLATE
from malmoi.text.tokenizer import Tokenizer, train_tokenizer
from tests.inside.tiny import tiny_model

CONTEXT = 48
TEXTS = [
    "The baker of Noru sells warm bread. The geese come home late every evening.",
    "노루마을의 빵집은 따뜻한 빵을 판다. 거위들은 저녁마다 늦게 집에 온다.",
    "Sol climbed the tower and set the clock right. 솔은 탑에 올라가 시계를 맞추었다.",
]
ROWS: dict[str, list[dict[str, Any]]] = {
    "choice": [
        {"question": "Who sells bread?", "choices": ["the baker", "the geese", "a clock"], "gold": 0},
        {"question": "거위들은 언제 집에 오나?", "choices": ["저녁", "아침마다 일찍"], "gold": 0},
        {"question": " ".join(TEXTS), "choices": ["late", "early evening"], "gold": 1},  # over the context
    ],
    "cloze": [{"text": text.rstrip(".")} for text in TEXTS],
    "perplexity": [{"text": text * 3} for text in TEXTS],
    "generate": [{"question": text[:30], "answer": "the"} for text in TEXTS],
}
YAML = {
    "choice": """output_type: multiple_choice
doc_to_text: "{{question}} "
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]""",
    "cloze": """output_type: loglikelihood
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
metric_list: [{metric: perplexity}, {metric: acc}]""",
    "perplexity": """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]""",
    "generate": """output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["e", "\\n"], max_gen_toks: 12}
metric_list: [{metric: exact_match}]""",
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = train_tokenizer(TEXTS * 3, "bpe", 340)
    made.config["chat_template"] = TEMPLATE
    return made


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "llama"
    model = tiny_model("llama", tokenizer)
    save_model(made, model, tokenizer)
    return made


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    """Four tasks of local JSON lines."""
    place = tmp_path_factory.mktemp("tasks")
    for name, rows in ROWS.items():
        data = place / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        head = f"task: local_{name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        (place / f"{name}.yaml").write_text(f"{head}test_split: test\n{YAML[name]}\n", encoding="utf-8")
    return TaskManager(include_path=str(place), include_defaults=False)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def scores(model: str, arguments: dict[str, Any], tasks: TaskManager, **options: Any) -> dict[str, Any]:
    names = [f"local_{name}" for name in ROWS]
    found = simple_evaluate(
        model, model_args=arguments, tasks=names, task_manager=tasks, batch_size=2, device="cpu",
        bootstrap_iters=0, **options,
    )  # fmt: skip
    assert found is not None
    replies = [one["resps"] for one in found["samples"]["local_generate"]]
    return {
        f"{task}/{name}": value
        for task, metrics in found["results"].items()
        for name, value in metrics.items()
        if isinstance(value, float)
    } | {"replies": replies}


@pytest.mark.parametrize("chat", [False, True])
def test_scores_are_those_of_the_hugging_face_model(folder: Path, tasks: TaskManager, chat: bool) -> None:
    ours = scores("malmoi", {"path": str(folder)}, tasks, apply_chat_template=chat)
    theirs = scores("hf", {"pretrained": str(folder), "dtype": "float32"}, tasks, apply_chat_template=chat)
    assert ours.pop("replies") == theirs.pop("replies")
    assert len(ours) >= 7
    assert ours == pytest.approx(theirs, rel=1e-4)


def instances(*arguments: Any) -> list[Instance]:
    return [Instance("loglikelihood", {}, one, number) for number, one in enumerate(arguments)]


@pytest.mark.parametrize("kind", ["lstm", "ngram"])
def test_other_kinds_of_models_work_too(kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    ids = [id for text in TEXTS for id in (tokenizer.specials.eos, *tokenizer.encode(text))]
    model = (
        KneserNey.fit(ids, tokenizer.vocab_size, order=3) if kind == "ngram"
        else tiny_model("lstm", tokenizer)
    )  # fmt: skip
    save_model(tmp_path / "m", model, tokenizer)
    lm = MalmoiLM(str(tmp_path / "m"), batch_size="auto")
    (nats, _), (longer, _) = lm.loglikelihood(instances(("The baker", " of"), ("", "The baker of Noru")))
    assert longer < nats < 0
    (whole,) = lm.loglikelihood_rolling(instances((TEXTS[0],)))
    assert whole < longer
    (text,) = lm.generate_until(instances((TEXTS[1][:9], {"until": ["다"], "max_gen_toks": 8})))
    assert "다" not in text
    sampled = {"until": [], "do_sample": True, "temperature": 1.5, "seed": 3, "max_gen_toks": 8}
    assert lm.generate_until(instances(("a", sampled))) == lm.generate_until(instances(("a", sampled)))


def test_prompts_can_begin_with_the_start_of_a_text(folder: Path) -> None:
    plain, begun = MalmoiLM(str(folder)), MalmoiLM(str(folder), add_bos_token=True, prefix_token_id=2)
    assert begun.tok_encode("The") == [2, *plain.tok_encode("The")]
    assert begun.tok_encode("<|eos|>The") == begun.tok_encode("The")
    assert plain.loglikelihood(instances(("The", " baker"))) != begun.loglikelihood(
        instances(("The", " baker"))
    )


def test_an_open_turn_can_go_on(folder: Path) -> None:
    turns = [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "Well,"}]
    lm = MalmoiLM(str(folder))
    assert lm.apply_chat_template(turns[:1]).endswith("<|assistant|>")
    assert lm.apply_chat_template(turns, add_generation_prompt=False).endswith("<|assistant|>Well,")


def test_what_cannot_be_done_is_said(folder: Path) -> None:
    lm = MalmoiLM(str(folder))
    with pytest.raises(UserError, match="num_beams"):
        lm.generate_until(instances(("The", {"until": [], "num_beams": 4})))
    with pytest.raises(UserError, match="max_gen_toks"):
        lm.generate_until(instances(("The", {"until": [], "max_gen_toks": 500})))


@pytest.mark.slow
def test_the_command_runs(folder: Path, tasks: TaskManager, tmp_path: Path) -> None:
    place = tasks.include_path
    command = [sys.executable, "-m", "malmoi.engine.lm_eval", "run", "--model", "malmoi", "--model_args",
               f"path={folder}", "--tasks", "local_cloze", "--include_path", str(place), "--output_path",
               str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "local_cloze" in done.stdout, done.stderr[-2000:]


def test_scores_through_a_server_are_the_same(folder: Path, tasks: TaskManager) -> None:
    pytest.importorskip("tenacity")  # what lm_eval needs to ask servers
    serve = pytest.importorskip("tests.serve.running")
    catalogue = pytest.importorskip("malmoi.serve.catalogue")
    with serve.running(catalogue.open_catalogue([folder])) as server:
        asked = {"base_url": f"{server.url}/v1/completions", "model": folder.name, "tokenizer": str(folder),
                 "tokenizer_backend": "huggingface", "max_length": CONTEXT}  # fmt: skip
        theirs = scores("local-completions", asked, tasks)
    # it keeps a place for the token that the endpoint must add, and another one
    ours = scores("malmoi", {"path": str(folder), "max_length": CONTEXT - 2}, tasks)
    replies, expected = ours.pop("replies"), theirs.pop("replies")
    for at in (0, 2):  # the other prompt is cut elsewhere there; an answer's end may be half a character
        assert replies[at][0][0].rstrip("\ufffd") == expected[at][0][0].rstrip("\ufffd")
    assert ours == pytest.approx(theirs, rel=1e-4)
