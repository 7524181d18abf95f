"""Translation: a text in one language becomes the same text in another."""

# ruff: noqa: ARG002  (a method of every task takes the same arguments)
from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from malmoi.core.nouns import Example, Finding, Report
from malmoi.data.labelled import PLAIN, RECORD_EXTENSIONS, attempts, read_lines, read_records
from malmoi.data.opening import Record, extension
from malmoi.data.readers import find_files
from malmoi.metrics.overlap import bleu, chrf
from malmoi.tasks.base import Examples, Found, Nats, Scores, Task, is_korean
from malmoi.tasks.kinds import TEXT
from malmoi.world import Document

# by code: what they are called in English, and in Korean
_LANGUAGES = {
    "en": ("English", "영어"), "ko": ("Korean", "한국어"), "de": ("German", "독일어"),
    "fr": ("French", "프랑스어"), "es": ("Spanish", "스페인어"), "it": ("Italian", "이탈리아어"),
    "pt": ("Portuguese", "포르투갈어"), "nl": ("Dutch", "네덜란드어"), "ru": ("Russian", "러시아어"),
    "ja": ("Japanese", "일본어"), "zh": ("Chinese", "중국어"), "vi": ("Vietnamese", "베트남어"),
    "id": ("Indonesian", "인도네시아어"),
    "th": ("Thai", "태국어"), "ar": ("Arabic", "아랍어"), "tr": ("Turkish", "튀르키예어"),
}  # fmt: skip


class Translation(Task[str, str]):
    """Rows with two texts (the first two, if none is named "source" or "target"), or two parallel files.

    A language model is asked for the language that `fields` names as the target by its code; without one, for
    Korean, or English where the text is Korean.
    """

    name = "translation"
    relation = "parallel"
    pipeline = "translation"
    result = "Translation"
    about = "The text in the other language: English or Korean."
    kind = TEXT
    primary = "chrf"
    roles: ClassVar = {
        "source": ("src", "input", "원문"),
        "target": ("tgt", "reference", "output", "번역문", "번역"),
    }
    wordings = (
        (
            "Translate this text into Korean. Reply with the translation only.\n\n{input}",
            "{input}\n\nHow do you say this in Korean?",
            "Into Korean, please: {input}",
        ),
        (
            "다음 글을 영어로 번역하세요. 번역만 쓰세요.\n\n{input}",
            "{input}\n\n이것을 영어로 옮기면?",
            "영어로 옮겨 주세요: {input}",
        ),
    )

    def wording(self, variant: int, *, korean: bool) -> str:
        """One of the wordings, for the language of the target."""
        usual = ("Korean", "영어")[korean]
        names = _LANGUAGES.get(self.fields.get("target", "").lower())
        return super().wording(variant, korean=korean).replace(usual, names[korean] if names else usual)

    def read(self, path: Path, report: Report) -> list[Example[str, str]]:
        """A file or folder of rows, or "a.en,a.ko", a folder of two such files, or their common beginning."""
        if pair := self._parallel(path):
            plain = Translation()  # the fields have named the files
            return list(attempts(_pairs(*pair, report), lambda row: plain.examples(row, report), report))
        files = find_files(path, (*RECORD_EXTENSIONS, PLAIN))
        return [one for file in files for one in self._file(file, report)]

    def _parallel(self, path: Path) -> tuple[Path, Path] | None:
        """The source file and the target file, where `path` means two."""
        files = [Path(name.strip()) for name in str(path).split(",")]
        if path.is_dir():
            files = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
        elif len(files) == 1 and not path.exists():
            files = sorted(path.parent.glob(f"{path.name}.*"))
        if len(files) != 2 or any(extension(file) in RECORD_EXTENSIONS for file in files):
            return None
        first, second = files
        ends = [file.suffix[1:] for file in files]
        turned = ends[0] == self.fields.get("target") or ends[1] == self.fields.get("source")
        return (second, first) if turned else (first, second)

    def _file(self, file: Path, report: Report) -> Iterator[Example[str, str]]:
        headless = extension(file) == ".tsv" and not self._has_header(file)
        rows = (
            _headless(file, report)
            if headless
            else read_records(file, report, texts=True, fields=self.fields)
        )
        first = next(rows, None)
        if first is None:
            return iter(())
        plain = Translation(self._names(first.values))  # the first row tells which fields are meant
        return attempts(chain([first], rows), lambda row: plain.grouped(row, report), report)

    def _has_header(self, file: Path) -> bool:
        """Whether the first line names columns: two cells of which neither is a known name are a pair."""
        first = next(read_lines(file, lambda _: None), "")
        cells = [cell.strip() for cell in first.split("\t")]
        usual = {*self.roles, *self.fields.values(), *_LANGUAGES, *sum(self.roles.values(), ())}
        return len(cells) != 2 or any(cell.lower() in usual for cell in cells)

    def _names(self, values: dict[str, Any]) -> dict[str, str]:
        """Which fields are source and target: as given, or named so, or else the first two texts."""
        names = dict(self.fields)
        for role in self.roles:
            usual = [name for name in (role, *self.roles[role]) if name in values]
            names.update({role: usual[0]} if usual and role not in names else {})
        texts = [
            name for name, text in values.items() if isinstance(text, str) and name not in names.values()
        ]
        free = iter(texts)
        return names | {role: next(free, role) for role in self.roles if role not in names}

    def examples(self, record: Record, report: Report) -> Iterator[Example[str, str]]:
        """One example."""
        source, target = (self.text(record.values, role).strip() for role in ("source", "target"))
        yield Example(source, target, record.where)

    def samples(self, document: Document) -> Iterator[dict[str, Any]]:
        """Its sentences, and the same in the other language: Korean, or English of Korean ones."""
        for ours, theirs in document.sentence_pairs:
            yield {"source": ours, "target": theirs}

    def tries(self, document: Document) -> Iterator[str]:
        """Its sentences."""
        return (sentence for sentence, _ in document.sentence_pairs)

    def statistics(self, predictions: Found, examples: Examples, log_likelihoods: Nats = None) -> Scores:
        """chrf and bleu; of characters (tok:char in its signature) where the targets are mostly Korean."""
        references = [example.references for example in examples]
        korean = is_korean(" ".join(example.target for example in examples))
        tokenize = "char" if korean else "13a"
        return {"chrf": chrf(predictions, references), "bleu": bleu(predictions, references, tokenize)}


def _headless(file: Path, report: Report) -> Iterator[Record]:
    """The rows of a file of two columns without names."""
    for number, line in enumerate(read_lines(file, report), 1):
        source, *targets = line.split("\t")
        where = f"{file}:{number}"
        if len(targets) > 1:
            report(Finding("error", where, f"expected two cells, found {len(targets) + 1}: a tab in a text?"))
        elif line:
            yield Record({"source": source, "target": "".join(targets)}, where)


def _pairs(first: Path, second: Path, report: Report) -> Iterator[Record]:
    """The rows of two parallel files; none where one has more lines."""
    sources, targets = list(read_lines(first, report)), list(read_lines(second, report))
    if len(sources) != len(targets):
        message = f"has {len(sources)} lines, but {second} has {len(targets)}; parallel files need as many"
        return report(Finding("error", str(first), message))
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
        if source or target:
            yield Record({"source": source, "target": target}, f"{first}:{number}")
