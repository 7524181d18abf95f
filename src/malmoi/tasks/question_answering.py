"""Question answering: the answer is a part of a given text."""

# ruff: noqa: ARG002  (a method of every task takes the same arguments)
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from malmoi.core.errors import UserError
from malmoi.core.nouns import Answer, BadRow, Example, Finding, Question, Report
from malmoi.data.characters import READ_COMPOSED, composed, composed_offset, original_offset
from malmoi.data.labelled import attempts, read_records
from malmoi.data.opening import Record, short
from malmoi.metrics.overlap import squad_scores
from malmoi.tasks.base import Examples, Found, Nats, Scores, Task
from malmoi.tasks.kinds import SPAN
from malmoi.world import Document


class QuestionAnswering(Task[Question, Answer]):
    """SQuAD's JSON (v1.1, or v2 less what has no answer), or rows of question, context and answers."""

    name = "question-answering"
    about = "The part of the text that answers the question."
    kind = SPAN
    primary = "f1"
    roles: ClassVar = {
        "question": ("query", "질문"),
        "context": ("passage", "document", "지문", "본문", "문맥"),
        "answers": ("answer", "답변", "정답", "답"),
    }
    wordings = (
        (
            "Answer the question with a short part of the text, copied exactly.\n\n"
            "Text: {input.context}\n\nQuestion: {input.question}\nAnswer:",
            "{input.context}\n\nAccording to this text: {input.question}",
            "{input.question} Answer from the following text, in its own words.\n\n{input.context}",
        ),
        (
            "글에서 질문의 답을 찾아 글에 있는 그대로 짧게 답하세요.\n\n"
            "글: {input.context}\n\n질문: {input.question}\n답:",
            "{input.context}\n\n이 글에 따르면, {input.question}",
            "{input.question} 다음 글에 있는 말로 답하세요.\n\n{input.context}",
        ),
    )

    def read(self, path: Path, report: Report) -> list[Example[Question, Answer]]:
        """The questions that have an answer; an id that was seen before is an error."""
        seen: dict[str, Record] = {}  # by id

        def make(row: Record) -> Iterator[Example[Question, Answer]]:
            id = row.values.get("id")
            if id not in (None, "") and (first := seen.setdefault(str(id), row)) is not row:
                raise BadRow(f"the id {id!r} stands at {first.where} already")
            return self.grouped(row, report)

        rows = attempts(read_records(path, report, report_ids=False, fields=self.fields), _flat, report)
        return list(attempts(rows, make, report))

    def examples(self, record: Record, report: Report) -> Iterator[Example[Question, Answer]]:
        """One example, none where the question cannot be answered; different answers become `others`."""
        values = record.values
        question, context = self.text(values, "question"), self.text(values, "context")
        found = [] if values.get("is_impossible") else _answers(self.find(values, "answers"), values)
        if not found:
            report(Finding("note", record.where, "a question without an answer; left out"))
            return
        asked, texts = composed((Question(question, context), [text for text, _ in found]))
        if asked != Question(question, context) or texts != [text for text, _ in found]:
            report(Finding("warning", record.where, READ_COMPOSED))
        starts = [start if start is None else composed_offset(context, start) for _, start in found]
        places = zip(texts, starts, strict=True)
        answers = [_placed(text, start, asked.context, record.where, report) for text, start in places]
        first, *others = dict.fromkeys(answers)
        yield Example(asked, first, record.where, tuple(others))

    def restored(self, target: Answer | None, value: Question) -> Answer | None:
        """The answer as `value` has it."""
        if target is None or target.start < 0:
            return target
        ends = target.start, target.start + len(target.text)
        start, end = (original_offset(value.context, at) for at in ends)
        return Answer(value.context[start:end], start)

    def input_from(self, value: Any) -> Question:
        """The question in {"question": TEXT, "context": TEXT}. Raises UserError for anything else."""
        form = '{"question": TEXT, "context": TEXT}'
        if not isinstance(value, dict):
            raise UserError(f"{self.name} takes {form} (or a text and `context`), found {short(value)}")
        question, context = (self.find_input(value, role) for role in ("question", "context"))
        if not all(isinstance(text, str) and text.strip() for text in (question, context)):
            raise UserError(f"{self.name} takes {form}, neither empty, found {short(value)}")
        return Question(question, context)

    def row(self, example: Example[Question, Answer]) -> dict[str, Any]:
        """Question, context and every right answer."""
        answers = [{"text": one.text, "answer_start": one.start} for one in example.references]
        values = self.input_json(example.input) | {"answers": answers}
        return {self.named(role): value for role, value in values.items()}

    def input_json(self, value: Question) -> Any:
        """{"question", "context"}."""
        return {"question": value.question, "context": value.context}

    def to_json(self, target: Answer | None, value: Question) -> Any:
        """{"text", "start"}."""
        return None if target is None else {"text": target.text, "start": target.start}

    def from_json(self, value: Any) -> Answer | None:
        """The inverse of `to_json`."""
        return None if value is None else Answer(value["text"], value["start"])

    def key(self, value: Question) -> str:
        """Question and context."""
        return f"{value.question}\n{value.context}"

    def group(self, value: Question) -> str:
        """Questions about one context stay together."""
        return value.context

    def answer(self, target: Answer, value: Question) -> str:
        """The answer's text."""
        return target.text

    def parse(self, reply: str, value: Question) -> Answer | None:
        """The reply, or its first line less quotes and stop, where it first stands in the context."""
        plain = reply.strip()
        bare = plain.partition("\n")[0].strip(" \t\"'“”‘’.。")
        for text in filter(str.strip, (reply, plain, bare)):
            if (start := value.context.find(text)) >= 0:
                return Answer(text, start)
        if bare and (found := re.search(re.escape(bare), value.context, re.IGNORECASE)):
            return Answer(found[0], found.start())
        return Answer(plain) if plain else None

    def is_right(self, prediction: Answer | None, example: Example[Question, Answer]) -> bool:
        """Wherever it stands in the text."""
        return prediction is not None and prediction.text in {one.text for one in example.references}

    def samples(self, document: Document) -> Iterator[dict[str, Any]]:
        """The questions about the text."""
        for asked in document.questions:
            answer = {"text": asked.target.text, "answer_start": asked.target.start}
            yield {"question": asked.input, "context": document.text, "answers": [answer]}

    def statistics(self, predictions: Found, examples: Examples, log_likelihoods: Nats = None) -> Scores:
        """f1 and exact_match, the best over the right answers."""
        texts = [found.text if found else None for found in predictions]
        return squad_scores(texts, [[answer.text for answer in each.references] for each in examples])


def _flat(record: Record) -> Iterator[Record]:
    """The questions of an article in SQuAD's form; any other record is one itself."""
    if "paragraphs" not in record.values:
        yield record
        return
    try:
        for paragraph in record.values["paragraphs"]:
            for asked in paragraph["qas"]:
                where = f"{record.where} ({asked['id']})" if "id" in asked else record.where
                yield Record({**asked, "context": paragraph["context"]}, where)
    except (KeyError, TypeError) as error:
        raise BadRow(f"not an article in SQuAD's form ({error!r})") from None


def _answers(value: Any, values: Mapping[str, Any]) -> list[tuple[str, int | None]]:
    """(text, start if known) of each answer: SQuAD's list, columns as in parquet files, texts, or one."""
    starts = values.get("answer_start")
    if isinstance(value, dict):
        value, starts = value.get("text"), value.get("answer_start")
    texts = value if isinstance(value, list) else [] if value is None else [value]
    starts = starts if isinstance(starts, list) else [starts] * len(texts)
    return [_answer(text, start) for text, start in zip(texts, starts, strict=False)]


def _answer(text: Any, start: Any) -> tuple[str, int | None]:
    if isinstance(text, dict):
        text, start = text.get("text"), text.get("answer_start")
    if (isinstance(start, str) and start.strip().isdecimal()) or start == "":  # a cell of a table
        start = int(start) if start else None
    if not isinstance(text, str) or not text.strip() or not isinstance(start, int | None):
        raise BadRow(f"an answer must have a text and a whole number, found {short((text, start))}")
    return text, start


def _placed(text: str, start: int | None, context: str, where: str, report: Report) -> Answer:
    """The answer where it says, else at the nearest place in the context. Raises BadRow for nowhere."""
    if start is not None and start >= 0 and context.startswith(text, start):
        return Answer(text, start)
    places = [found.start() for found in re.finditer(re.escape(text), context)]
    if not places:
        raise BadRow(f"the answer {short(text)!r} is not in the context")
    nearest = min(places, key=lambda place: abs(place - (start or 0)))
    if start is not None:
        message = f"the answer {short(text)!r} is at {nearest}, not at {start}; mended"
        report(Finding("warning", where, message))
    return Answer(text, nearest)
