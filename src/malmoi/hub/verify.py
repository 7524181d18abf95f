"""An exported model, run by the program that it is for: the same ids, the same greedy tokens.

Shape letters: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.models.language import LanguageModel
from malmoi.text.tokenizer import Tokenizer

TEXTS = (
    "The ferry leaves at nine, and it won't wait for us.",
    "배는 아홉 시에 떠나고, 우리를 기다려 주지 않는다.",
    "말모이는 영어 words와 한국어 낱말을 함께 읽습니다.",
    "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a  # Euclid\n",
    '{"name": "서미나", "age": 31, "tags": ["a-b", "c_d"]}',
    "Smile 😀, wave 👋🏽, a family 👨‍👩‍👧 and 🇰🇷!",
    "In 1999 there were 1,234,567 of them; 3.14159 is pi, ½ a half.",
    "  two  spaces,\ttabs\t\tand\n\n\nnew lines  \r\n",
    "I'LL SAY IT'S y'all's; naïve café Zürich, Ελλάδα, Привет",
    "값이 없어 읽다 만 책, 꽃밭에서 닭이 흙을 밟고… ㅋㅋㅋ ㅠㅠ",
    "漢字とカタカナ、然后中文。 العربية हिन्दी ไทย",
    "x" * 40 + " " + "아" * 20 + "!?" * 5,
)
_PROMPTS = TEXTS[:2]
_PROMPT_TOKENS, _NEW_TOKENS = 16, 32
_TIE = {"transformers": 1e-3, "llama.cpp": 1e-2}  # logits nearer than this may change places


class Agreement(NamedTuple):
    """How many of the greedy tokens another program would choose, too."""

    same: int
    asked: int


def library(name: str) -> Any | None:
    """A library that is not required, or None where it is not here or does not start."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError):  # the last two: what it is built on is missing
        return None


def in_transformers(folder: Path, model: LanguageModel, tokenizer: Tokenizer | None) -> str:
    """Load the folder there and compare it with `model`, which was read from it in fp32.

    Returns what was compared. Raises UserError where something differs.
    """
    there = library("transformers")
    if there is None:
        return "transformers is not installed, so the folder was not loaded there"
    there.logging.set_verbosity_error()
    there.logging.disable_progress_bar()
    try:
        theirs = there.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).float().eval()
    except (ValueError, LookupError) as error:  # as an older version, which does not know the architecture
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"transformers {there.__version__} cannot open the folder ({reason})") from None
    checked: list[str] = []
    if tokenizer is not None:
        other = there.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        _check_ids(tokenizer, lambda text: other(text, add_special_tokens=False)["input_ids"], "transformers")
        checked.append(f"{len(TEXTS)} texts to equal ids")

    @torch.inference_mode()
    def logits(ids: list[int]) -> Tensor:
        return theirs(torch.tensor([ids])).logits[0].float()

    found = agreement(model, tokenizer, logits, "transformers")
    if found.same < found.asked:
        raise UserError(f"transformers would choose {found.asked - found.same} of {found.asked} other tokens")
    return f"verified: {', '.join([*checked, f'greedy {found.asked} tokens equal'])} in transformers"


def in_llama_cpp(path: Path, model: LanguageModel, tokenizer: Tokenizer, context: int, *, exact: bool) -> str:
    """Run the GGUF file and compare it with `model` in fp32, within `context` tokens.

    exact: every greedy token must be equal.

    Returns what was compared. Raises UserError where ids differ, or tokens that should not.
    """
    there = library("llama_cpp")
    if there is None:
        return "llama.cpp is not installed, so the file was not run"
    try:
        theirs = there.Llama(
            str(path), n_ctx=_PROMPT_TOKENS + _NEW_TOKENS, logits_all=True, verbose=False,
            type_k=0, type_v=0, n_gpu_layers=0,  # the cache in f32, on the processor
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"llama.cpp cannot open the file ({error})") from None

    def logits(ids: list[int]) -> Tensor:
        theirs.reset()
        theirs.eval(ids)
        return torch.from_numpy(theirs.scores[: len(ids)].copy())

    try:
        _check_ids(tokenizer, lambda text: theirs.tokenize(text.encode(), add_bos=False), "llama.cpp")
        found = agreement(model, tokenizer, logits, "llama.cpp", context)
    finally:
        theirs.close()
    if exact and found.same < found.asked:
        raise UserError(f"llama.cpp would choose {found.asked - found.same} of {found.asked} other tokens")
    same = f"{found.asked}" if found.same == found.asked else f"{found.same} of {found.asked}"
    return f"verified: {len(TEXTS)} texts to equal ids, greedy {same} tokens equal in llama.cpp"


def agreement(
    model: LanguageModel,
    tokenizer: Tokenizer | None,
    logits: Callable[[list[int]], Tensor],
    program: str,
    context: int | None = None,
) -> Agreement:
    """Our greedy tokens, and whether another's logits_TV after the same tokens say so too."""
    same, asked, most = 0, 0, context or model.context or _PROMPT_TOKENS + _NEW_TOKENS
    for prompt in _prompts(model, tokenizer, most):
        ids, margins = greedy(model, prompt, min(_NEW_TOKENS, most - len(prompt)))
        new = ids[len(prompt) :]
        best = logits(ids[:-1])[len(prompt) - 1 :].argmax(-1).tolist()
        ties = (margin < _TIE[program] for margin in margins)
        same += sum(a == b or tie for a, b, tie in zip(new, best, ties, strict=True))
        asked += len(new)
    return Agreement(same, asked)


@torch.inference_mode()
def greedy(model: LanguageModel, prompt: Sequence[int], count: int) -> tuple[list[int], list[float]]:
    """The prompt and `count` tokens after it, each the likeliest, and by how much each leads the second."""
    ids, state, margins = list(prompt), model.new_state(1, len(prompt) + count), []
    rest = ids
    for _ in range(count):
        step = torch.tensor([rest])
        logits_V = model.step(step, torch.tensor([len(rest)]), state, last_only=True)[0, -1]
        (first, second), (best, _) = (it.tolist() for it in logits_V.topk(2))
        margins.append(first - second)
        rest = [int(best)]
        ids += rest
    return ids, margins


def _prompts(model: LanguageModel, tokenizer: Tokenizer | None, context: int) -> list[list[int]]:
    most = min(_PROMPT_TOKENS, context - 1)
    if not most:
        return []
    if tokenizer is None:
        return [[id % model.vocab_size for id in range(1, most + 1)]]
    return [tokenizer.encode(text)[:most] for text in _PROMPTS]


def _check_ids(tokenizer: Tokenizer, encode: Callable[[str], list[int]], program: str) -> None:
    for text in TEXTS:
        ours, theirs = tokenizer.encode(text), list(encode(text))
        if ours != theirs:
            raise UserError(f"{program} cuts {text[:30]!r} into {theirs[:12]}, malmoi into {ours[:12]}")
