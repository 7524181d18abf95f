"""What a model is tuned on: sources, mixtures, held-out rows, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.learn.mixture import Mixture, Source, make_mixture
from malmoi.tasks import TASKS, make_task, write_samples
from malmoi.text.chat import ChatFormat
from malmoi.text.tokenizer import train_tokenizer
from malmoi.world import Language, documents


@pytest.fixture(scope="module")
def form() -> ChatFormat:
    texts = [one.text for language in ("en", "ko") for one in documents(40, language=language)]
    return ChatFormat.for_tuning(train_tokenizer(texts, "bpe", 700))


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def told(count: int, word: str = "거위") -> list[dict[str, Any]]:
    return [{"prompt": f"say {word} {n}", "completion": f"{word} {n}"} for n in range(count)]


def material(
    form: ChatFormat, train: list[str], valid: tuple[str, ...] = (), context: int = 512, **how: Any
) -> Mixture:
    sources = ([Source.parse(text) for text in of] for of in (train, valid))
    return make_mixture(*sources, form, 0, context, **how)  # type: ignore[misc]


def test_a_source_is_a_task_a_path_and_a_weight(tmp_path: Path) -> None:
    (tmp_path / "odd=name@2").touch()
    assert Source.parse("chat.jsonl") == Source(Path("chat.jsonl"))
    assert Source.parse("ner=a/b.conll@0.5") == Source(Path("a/b.conll"), "ner", 0.5)
    assert Source.parse("rows.jsonl@3") == Source(Path("rows.jsonl"), "", 3.0)
    assert Source.parse("me@home.jsonl") == Source(Path("me@home.jsonl"))
    assert Source.parse(f"{tmp_path}/odd=name@2") == Source(tmp_path / "odd=name@2")
    with pytest.raises(UserError, match="did you mean 'classification'"):
        Source.parse("clasification=rows.jsonl")
    with pytest.raises(UserError, match="weight of 0"):
        Source.parse("rows.jsonl@0")


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("name", TASKS)
def test_every_task_asks_in_several_wordings(
    name: str, language: Language, form: ChatFormat, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    count = write_samples(path, name, documents(60, language=language), most=24)
    found = material(form, [f"{name}={path}"], context=4096)
    assert len(found.train) + len(found.valid) == count
    task = make_task(name)
    examples = {example.source: example for example in task.load(path)}  # of a conversation the last turn
    for row, conversation, _ in found.valid:
        example = examples[conversation.source]
        assert conversation.messages[-1] == Message("assistant", task.answer(example.target, example.input))
        said = [id for id, trained in zip(row.ids, row.trained, strict=True) if trained]
        assert form.tokenizer.decode(said).endswith(conversation.messages[-1].content)
    if name in ("classification", "summarization", "translation", "question-answering"):
        starts = {form.tokenizer.decode(row.ids)[-20 - sum(row.trained) :] for row in found.train}
        assert len(starts) > 1
    again = material(form, [f"{name}={path}"], context=4096)
    assert again == found


def test_validation_asks_with_the_labels_of_training(form: ChatFormat, tmp_path: Path) -> None:
    train = write(
        tmp_path / "a", [{"text": f"거위 {n}", "label": ("good", "나쁨", "so-so")[n % 3]} for n in range(9)]
    )
    valid = write(tmp_path / "b", [{"text": f"goose {n}", "label": "good"} for n in range(3)])
    train, valid = train.rename(tmp_path / "a.jsonl"), valid.rename(tmp_path / "b.jsonl")
    found = material(form, [f"classification={train}"], (f"classification={valid}",))
    for _, conversation, _ in found.valid:
        assert all(label in conversation.messages[0].content for label in ("good", "나쁨", "so-so"))


def test_a_mixture_keeps_weights_and_holds_out_of_each_source(form: ChatFormat, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", told(100))
    two = write(tmp_path / "two.jsonl", told(40, "goose"))
    found = material(form, [f"{one}@0.5", str(two)])
    assert (found.weights.count(0.5), found.weights.count(1.0)) == (95, 38)
    assert [conversation.source.split(":")[0] for _, conversation, _ in found.valid] == [str(one)] * 5 + [
        str(two)
    ] * 2
    learned = {tuple(row.ids) for row in found.train}
    assert learned.isdisjoint(tuple(row.ids) for row, *_ in found.valid)
    given = material(form, [str(one)], (str(two),))
    assert (len(given.train), len(given.valid)) == (100, 40)


def test_what_belongs_together_is_held_out_together(form: ChatFormat, tmp_path: Path) -> None:
    texts = [f"{name} baked bread on day {n}." for n, name in enumerate(("Ann", "소라", "Leo", "준호"))]
    rows = [
        {
            "context": text, "question": f"What was it, {asked}?",
            "answers": [{"text": "bread", "answer_start": text.index("bread")}],
        }
        for text in texts for asked in range(5)
    ]  # fmt: skip
    found = material(form, [f"question-answering={write(tmp_path / 'qa.jsonl', rows)}"])
    assert len(found.valid) == 5, "the questions about one text"
    assert len({one.group for one in found.valid}) == 1
    turns = [{"role": role, "content": role + "!"} for role in ("user", "assistant") * 2]
    for source in ("chat={}", "{}"):
        path = write(tmp_path / "chat.jsonl", [{"messages": turns}, *told(20)])
        found = material(form, [source.format(path)])
        assert len(found.train) + len(found.valid) == 21, "a conversation is one row, of all its turns"
    twice = write(tmp_path / "twice.jsonl", told(20) + told(20))
    assert len(material(form, [f"chat={twice}"]).train) == 38, "what is said twice is learned twice"
    with pytest.raises(UserError, match="too little"):
        material(form, [str(write(tmp_path / "same.jsonl", told(1) * 30))])


def test_what_cannot_be_used_is_listed_or_refused(form: ChatFormat, tmp_path: Path) -> None:
    long = {"prompt": "긴 " * 200, "completion": "short"}
    few = write(tmp_path / "few.jsonl", [*told(150), long])
    found = material(form, [str(few)], context=64)
    assert len(found.train) + len(found.valid) == 150
    assert [finding.where for finding in found.findings] == [f"{few}:151"]
    assert "train.context is 64" in found.findings[0].message
    many = write(tmp_path / "many.jsonl", [*told(50), long, long])
    with pytest.raises(UserError, match=r"many\.jsonl:51.*2 of 52.*`allow_skips`"):
        material(form, [str(many)], context=64)
    assert len(material(form, [str(many)], context=64, allow_skips=True).findings) == 2


def test_a_row_with_nothing_to_learn_is_refused_by_name(form: ChatFormat, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", told(3))
    silent = ChatFormat(form.tokenizer, "{% for message in messages if message['role'] == 'user' %}"
        "<|user|>{{ message['content'] }}<|end|>{% endfor %}")  # fmt: skip
    with pytest.raises(UserError, match=r"rows\.jsonl:1: there is nothing in the conversation to learn"):
        material(silent, [str(path)])


@pytest.mark.parametrize(
    ("rows", "source", "fields", "said"),
    [
        ([], "{}", {}, "holds no example"),
        ([{"prompt": "a", "completion": " "}], "{}", {}, "a message must be a text"),
        ([{"prompt": "a", "completion": "b"}], "{}", {}, "too little to learn from"),
        ([{"text": "a"}], "{}", {}, 'no "messages"'),
        (told(5), "{}", {"text": "body"}, "conversations have no fields"),
        (told(5), "classification={}", {"txt": "body"}, "did you mean 'text'"),
        (told(5), "ner={}", {"text": "body"}, 'no "body"'),
    ],
)
def test_a_mistake_is_one_line(
    rows: list[Any], source: str, fields: dict[str, str], said: str, form: ChatFormat, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=said) as error:
        material(form, [source.format(path)], fields=fields)
    assert "\n" not in str(error.value)


def test_fields_go_to_the_tasks_that_have_them(form: ChatFormat, tmp_path: Path) -> None:
    labelled = [{"body": f"거위 {n}", "label": "good"} for n in range(4)]
    one, two = write(tmp_path / "one.jsonl", labelled), write(tmp_path / "two.jsonl", told(4))
    found = material(form, [f"classification={one}", str(two)], fields={"text": "body"})
    assert len(found.train) == 6


def test_a_missing_file_is_named(form: ChatFormat, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl"):
        material(form, [f"{tmp_path}/none.jsonl"])
