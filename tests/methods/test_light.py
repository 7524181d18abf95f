"""A fitted method without a network answers without PyTorch, and without what else is slow to load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from malmoi.methods.folder import save_method
from malmoi.methods.registry import make_method, method_class, methods_for
from malmoi.tasks import TASKS, make_task, write_samples
from malmoi.world import documents

HEAVY = ("torch", "nltk", "transformers", "sklearn", "scipy.special", "sacrebleu")
CASES = [
    (task, name)
    for task in TASKS
    for name in methods_for(make_task(task))
    if getattr(method_class(name), "family", "") == "traditional" and name != "ngram"  # the engine's tensors
]
PROGRAM = """
import sys
from malmoi.cli.commands import main
sys.argv = ["malmoi", "predict", *sys.argv[1:]]
try:
    main()
finally:
    print("loaded", *(name for name in HEAVY if name in sys.modules))
"""


@pytest.mark.parametrize(("task", "name"), CASES)
def test_it_predicts_without_what_is_slow_to_load(task: str, name: str, tmp_path: Path) -> None:
    made = make_task(task)
    write_samples(tmp_path / "world.jsonl", task, documents(60), 40)
    examples = made.load(tmp_path / "world.jsonl")
    method = make_method(name, made)
    method.fit(examples[:30], examples[30:])
    save_method(tmp_path / "fitted", method)
    about = ("--context", "Mina has bread.") if made.kind.has_context else ()
    program = PROGRAM.replace("HEAVY", repr(HEAVY))
    command = [sys.executable, "-c", program, str(tmp_path / "fitted"), "What does Mina have?", *about]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    *answer, loaded = found.stdout.splitlines()
    assert answer
    assert loaded == "loaded"
