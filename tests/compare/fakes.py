"""Methods that learn, fail, hang back, or take their process with them; small data to compare them on."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from malmoi.core.config import StrictModel
from malmoi.core.nouns import Examples, FitReport, Predictions, Work
from malmoi.learn.record import recorded
from malmoi.learn.trial import Affordable
from malmoi.methods.base import Method, Parts
from malmoi.tasks.kinds import LABEL


class Words(Method):
    """Votes by the telling words of at least `letters` letters."""

    class Options(StrictModel):
        """What to look at."""

        letters: int = 1

    name = "words"
    family = "traditional"
    kinds = frozenset({LABEL})
    pause_s = 0.0
    planned = 0

    def fit(self, train: Examples, valid: Examples, work: Work = Work()) -> FitReport:
        steps = recorded(work.folder, {}, lambda: Affordable(self.planned or len(train))).steps
        self._begin(work)
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for example in train:
            for word in example.input.split():
                counts[word][example.target] += 1
        best = {word: found.most_common(1)[0] for word, found in counts.items() if found.total() > 3}
        self.votes = {word: label for word, (label, n) in best.items() if n / counts[word].total() > 0.7}
        self.usual = Counter(example.target for example in train).most_common(1)[0][0]
        work.say(f"learned {len(self.votes)} words")
        return FitReport({"steps": steps, "num_valid": len(valid)})

    def _begin(self, work: Work) -> None:
        """Where others fail."""

    def predict(self, inputs: Sequence[str]) -> Predictions:
        time.sleep(self.pause_s * len(inputs))
        return Predictions([self._one(text.split()) for text in inputs])

    def _one(self, words: list[str]) -> str:
        letters = getattr(self.options, "letters", 1)
        found = Counter(self.votes[word] for word in words if word in self.votes and len(word) >= letters)
        return found.most_common(1)[0][0] if found else self.usual

    def parts(self) -> Parts:
        return Parts(config={"votes": self.votes, "usual": self.usual})

    def restore(self, parts: Parts) -> None:
        self.votes, self.usual = parts.config["votes"], parts.config["usual"]


class Slow(Words):
    """The same, and each prediction takes a while."""

    name = "slow"
    family = "recurrent"
    pause_s = 0.002
    portion = 10


class Usual(Words):
    """Always the most frequent label."""

    name = "usual"

    def parts(self) -> Parts:
        return Parts(config={"votes": {}, "usual": self.usual})


class Raises(Words):
    """Fails while it learns."""

    name = "raises"

    def _begin(self, work: Work) -> None:
        work.say("it begins well")
        raise RuntimeError("the loss is <not> a number\nat step 7")


class Forgets(Words):
    """Fails when it is loaded."""

    name = "forgets"

    def parts(self) -> Parts:
        return Parts()


class Killed(Words):
    """Its process is killed, as for want of memory."""

    name = "killed"

    def _begin(self, work: Work) -> None:
        work.say("it begins well")
        os.kill(os.getpid(), signal.SIGKILL)


class Interrupted(Words):
    """The user presses Ctrl-C while it learns, as long as `armed`; 123 steps were planned."""

    name = "interrupted"
    armed = True

    def _begin(self, work: Work) -> None:
        del work
        if self.armed:
            raise KeyboardInterrupt


FAKES = {fake.name: fake for fake in (Words, Slow, Usual, Raises, Forgets, Killed, Interrupted)}

GOOD = ("lovely", "warm", "brilliant", "훌륭한", "따뜻한")
BAD = ("dull", "noisy", "broken", "지루한", "시끄러운")
THINGS = ("kettle", "bicycle", "garden", "우산", "의자", "<script>alert(1)</script>", 'lamp & "shade"')


def write_reviews(path: Path, count: int = 120) -> Path:
    """Reviews of things, one word of which says the label, and some noise in the labels."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = (GOOD, BAD)[number % 2]
            label = ("positive", "negative")[number % 2 if number % 9 else 1 - number % 2]
            text = f"number {number}: a {words[number % 5]} {THINGS[number % 7]}"
            file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")
    return path
