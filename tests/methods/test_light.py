"""What only answers loads nothing slow that it does not need: no PyTorch for a method without a network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from malmoi.methods.folder import save_method
from malmoi.methods.registry import make_method, method_class, methods_for
from malmoi.tasks import TASKS, make_task, write_samples
from malmoi.world import documents
from tests.hub.test_gguf_import import written
from tests.methods.tiny import write_model

HEAVY = ("torch", "nltk", "transformers", "sklearn", "scipy.special", "sacrebleu")
CASES = [
    (task, name)
    for task in TASKS
    for name in methods_for(make_task(task))
    if getattr(method_class(name), "family", "") == "traditional" and name != "ngram"  # the engine's tensors
]
# beside PyTorch itself, which a language model needs
HEAVY_BESIDE = (
    *("nltk", "transformers", "sklearn", "scipy", "sacrebleu", "pandas", "matplotlib", "sympy", "gguf"),
    *("torch._dynamo", "torch._inductor", "torch.utils.cpp_extension", "pyarrow", "openai", "fastapi"),
)
PROGRAM = """
import sys
from malmoi.cli.commands import main
sys.argv = ["malmoi", *sys.argv[1:]]
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
    assert loaded_by(HEAVY, "predict", tmp_path / "fitted", "What does Mina have?", *about) == []


def test_a_language_model_completes_without_what_else_is_slow_to_load(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    assert loaded_by(HEAVY_BESIDE, "complete", tmp_path / "model", "Mina", "--max-tokens", "2") == []


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_gguf_file_completes_without_what_else_is_slow_to_load(family: str, tmp_path: Path) -> None:
    _, path = written(tmp_path, family)
    heavy = [name for name in HEAVY_BESIDE if name != "gguf"]
    assert loaded_by(heavy, "complete", path, "Mina", "--max-tokens", "2") == []


def loaded_by(heavy: Sequence[str], *words: object) -> list[str]:
    """Those of the modules that the command loads."""
    command = [sys.executable, "-c", PROGRAM.replace("HEAVY", repr(heavy)), *map(str, words)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    *answer, loaded = found.stdout.splitlines()
    assert answer
    return loaded.split()[1:]
