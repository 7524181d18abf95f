"""Rules of the design that tools do not check."""

from __future__ import annotations

import ast
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from malmoi.cli.words import _flags
from malmoi.tasks import TASKS
from malmoi.tasks.kinds import EVERY_KIND

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "malmoi"
SOURCES = sorted((ROOT / "src").rglob("*.py"))
# may be missing, or are heavy and seldom needed
OPTIONAL = {
    "torch.utils.tensorboard", "pyarrow", "openai", "datasets", "huggingface_hub", "spacy", "spacy.tokens",
}  # fmt: skip
# what a method without a network must not wait for when it predicts, nor a model's folder when it opens
HEAVY = re.compile(
    r"torch|sklearn\..*|sacrebleu\..*|scipy\..*|gguf|charset_normalizer|malmoi\.hub\.gguf_.*|malmoi\.methods\.inspect"
)
# `malmoi --help` must not wait for torch
LAZY = {SOURCE / name for name in ("__init__.py", "engine/loaded.py", "show/terminal.py")}
LAZY |= {*(SOURCE / "cli").glob("*.py")}
MODULES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCES
}
# What the library still has of what it should not have. These lists and numbers may only shrink.
MOST_LINES, MOST_MODULES, MOST_IMPORTS = 34_625, 307, 12
WIDE = {  # modules that import more of ours than MOST_IMPORTS, and how many
    "malmoi.cli.commands": 14, "malmoi.compare.cascades": 14, "malmoi.compare.distill": 17,
    "malmoi.compare.runner": 18, "malmoi.data.cleaning": 13,
    "malmoi.engine.loaded": 13, "malmoi.hub.export": 16, "malmoi.hub.folder": 20,
    "malmoi.inside.scaling_bench": 13, "malmoi.learn.objectives.preferences": 14,
    "malmoi.methods.llm.finetuned": 24, "malmoi.methods.llm.prompted": 15,
    "malmoi.methods.neural.continuations": 15, "malmoi.methods.neural.method": 21,
    "malmoi.methods.neural.pretrained": 17, "malmoi.methods.use": 18, "malmoi.serve.catalogue": 13,
    "malmoi.serve.generation": 13,
    "malmoi.show.terminal": 14, "malmoi.tasks": 13,
}  # fmt: skip
SAME_CLASSES = {"Completion"}  # public classes of one name
SAME_MODULES = {  # modules of one name
    "attention", "base", "bert", "chat", "config", "conversations", "engine", "folder", "metrics",
    "settings", "units", "worker",
}  # fmt: skip


def imports_of(module: str) -> set[str]:
    """The modules of ours that a module names in an import, at its top or within a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inner}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & set(MODULES)) - {module}


def shared(names: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """What has the same name as something else: name -> where; of (name, where)."""
    places: dict[str, set[str]] = defaultdict(set)
    for name, where in names:
        places[name].add(where)
    return {name: where for name, where in places.items() if len(where) > 1}


def code_lines(path: Path) -> int:
    """Lines with code: no blanks, comments or docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            docstring = node.body[0]
            documented |= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    skipped |= {tokenize.ENCODING, tokenize.ENDMARKER}
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in skipped]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(lines - documented)


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def test_the_library_is_small() -> None:
    assert sum(code_lines(path) for path in SOURCES) <= MOST_LINES
    assert len(SOURCES) <= MOST_MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_few_others(module: str) -> None:
    assert len(imports_of(module)) <= WIDE.get(module, MOST_IMPORTS)


def test_no_imports_go_in_a_circle() -> None:
    TopologicalSorter({module: imports_of(module) for module in MODULES}).prepare()


def test_two_public_classes_never_share_a_name() -> None:
    found = shared(
        (node.name, module)
        for module, path in MODULES.items()
        for node in public(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert set(found) <= SAME_CLASSES, found


def test_two_modules_never_share_a_name() -> None:
    found = shared((module.rpartition(".")[2], module) for module in MODULES)
    assert set(found) <= SAME_MODULES, found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_files_and_functions_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 500
    for function in functions(path):
        assert (function.end_lineno or 0) - function.lineno < 80, function.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_imports_stand_at_the_top(path: Path) -> None:
    if path in LAZY:
        return
    for function in functions(path):
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert all(name in OPTIONAL or HEAVY.fullmatch(name or "") for name in names), (
                    f"{path}:{node.lineno}"
                )


def public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_modules_and_public_names_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if tree.body:
        assert ast.get_docstring(tree), "a module says what it is for"
    undocumented = [node.name for node in public(tree) if not ast.get_docstring(node)]
    assert undocumented == []


def literals(path: Path) -> Iterator[ast.Constant]:
    """Every string of a file, less the docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_only_the_command_line_knows_flags() -> None:
    """Elsewhere a message names the option `out`; a whole command, as in "malmoi fit --help", may have some.

    Flags of others: --name in style sheets. The models that ship are made by commands.
    """
    for path in set(SOURCES) - set((SOURCE / "cli").glob("*.py")) - {SOURCE / "foundation" / "making.py"}:
        for node in literals(path):
            if re.search(r"\{ --|var\(--", node.value):
                continue
            told = re.sub(r"malmoi [a-z]+ .*", "", node.value)
            line = path.read_text(encoding="utf-8").splitlines()[node.lineno - 1]
            assert "malmoi " in line or not re.search(r"(?<![\w-])--[a-z]", told), f"{path}:{node.lineno}"


def test_options_in_messages_are_options() -> None:
    """What a message names between backticks the command line can show as a flag."""
    flags = set(_flags())
    for path in set(SOURCES) - set((SOURCE / "cli").glob("*.py")):
        named = {name for node in literals(path) for name in re.findall(r"`([a-z_]+)`", node.value)}
        assert named <= flags, path


# A dictionary by the names of tasks that the demo alone has: how much of each its mixture takes.
BY_TASK = {SOURCE / "demo" / "answering.py"}
NAMES = {*TASKS, *(kind.name for kind in EVERY_KIND)}


def constants(node: ast.AST | None) -> set[Any]:
    """The constants that a node is, or is a collection of."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return set().union(*map(constants, node.elts))
    return {node.value} if isinstance(node, ast.Constant) else set()


def names_compared(path: Path) -> Iterator[ast.AST]:
    """Where code asks which task or kind it has by a literal, or has a table by such literals."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Compare(left=left, comparators=others):
                asked, found = (left, *others), constants(left).union(*map(constants, others))
            case ast.Match(subject=subject, cases=cases):
                values = [
                    it.value for case in cases for it in ast.walk(case) if isinstance(it, ast.MatchValue)
                ]
                asked, found = (subject,), set[Any]().union(*map(constants, values))
            case ast.Set(elts=keys) | ast.Dict(keys=keys) if path not in BY_TASK:
                found = set[Any]().union(*map(constants, keys))
                if found <= set(TASKS) or (len(found) > 2 and found <= NAMES):
                    yield from [node] * bool(found)
                continue
            case _:
                continue
        if found & NAMES and {ast.unparse(side).split(".")[-1] for side in asked} & {"kind", "name", "task"}:
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_tasks_and_kinds_are_never_distinguished_by_name(path: Path) -> None:
    """What differs hangs on the kind or the task, in one table each layer."""
    assert [f"{path}: {ast.unparse(node)}" for node in names_compared(path)] == []


def test_no_pickle_is_ever_loaded() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bpickle\b.*import|import pickle|torch\.load\(|joblib", text), path


def test_models_are_never_distinguished_by_name() -> None:
    for path in (ROOT / "src" / "malmoi" / "models").glob("*.py"):
        text = path.read_text(encoding="utf-8").lower()
        assert not re.search(r"==\s*[\"'](gpt2|llama|mistral|qwen)", text), path
