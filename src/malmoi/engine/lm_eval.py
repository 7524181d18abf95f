"""EleutherAI's lm_eval on a malmoi model folder, whatever its kind (GPT, LSTM, n-gram).

    python -m malmoi.engine.lm_eval run --model malmoi --model_args path=DIR --tasks lambada_openai

takes all that `lm_eval run` takes; by itself lm_eval finds no model that lies outside of it.
Scores are those of its own `hf` model on the same folder: texts are encoded as `transformers` encodes them,
specials included, and cut where it cuts them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend

from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.engine.engine import Engine
from malmoi.engine.loaded import Loaded
from malmoi.engine.request import Sampling
from malmoi.engine.score import fitted, likelihoods
from malmoi.text.chat import ChatFormat
from malmoi.util.hardware import pick_device

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    raise UserError("lm_eval is not installed; install it with: pip install 'malmoi[eval]'") from None

MAX_LENGTH = 2048  # as lm_eval's hf model: of a model that has no limit of its own
MAX_GEN_TOKS = 256  # of an answer where neither the task nor the context says less
_SAMPLING = {field.name for field in fields(Sampling)} & {
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"
}  # fmt: skip


@register_model("malmoi")
class MalmoiLM(TemplateLM):
    """A model folder as lm_eval asks it. The arguments are those of `--model_args`.

    path: the folder. batch_size: rows at a time, or "auto" (16). max_length: fewer tokens than the context.
    add_bos_token: begin every prompt with the prefix token. prefix_token_id: what an empty prompt is; else
    bos, as in lm_eval's hf model (models trained here know eos as the start of a text).
    """

    def __init__(
        self, path: str, *, device: str | None = None, batch_size: int | str = 1,
        max_batch_size: int | None = None, max_length: int | None = None, add_bos_token: bool = False,
        prefix_token_id: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        given = device or "cuda"  # as lm_eval says unless asked otherwise, with a GPU or without
        wanted = "auto" if given.startswith("cuda") and not torch.cuda.is_available() else given
        self.loaded = Loaded(Path(str(path)), device=str(pick_device(wanted)))
        self.model, self.own_tokenizer = self.loaded.model, self.loaded.tokenizer
        # its own copy, for this one lets the text hold specials, as transformers does
        self._backend = Backend.from_str(self.own_tokenizer.to_json())
        self._add_bos, self._prefix = bool(add_bos_token), prefix_token_id
        rows = 16 if str(batch_size).startswith("auto") else int(batch_size)
        self.batch_size = min(rows, max_batch_size or rows)
        context = self.model.context
        self.max_length = min(int(max_length or context or MAX_LENGTH), context or sys.maxsize)
        self.engine = Engine(self.model, self.own_tokenizer, max_rows=self.batch_size)

    # ---- tokens

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        return self.own_tokenizer.specials.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty prompt."""
        return self.own_tokenizer.specials.bos if self._prefix is None else int(self._prefix)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As `transformers`: the tokenizer's own specials are added, unless the text begins with one."""
        assert not kwargs, kwargs
        prefix = self._backend.id_to_token(self.prefix_token_id) or ""
        begun = bool(prefix) and string.startswith(prefix)
        wanted = not begun if add_special_tokens is None else add_special_tokens
        ids = self._backend.encode(string, add_special_tokens=wanted).ids
        if self._add_bos and wanted and ids[:1] != [self.prefix_token_id]:
            return [self.prefix_token_id, *ids]
        return ids

    # ---- what lm_eval asks

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(nats, greedy) of each continuation; prompts are cut from the left."""
        del disable_tqdm, kwargs
        pairs = [fitted((prompt, rest), self.max_length) for _, prompt, rest in requests]
        found = likelihoods(self.engine, pairs)
        for (asked, _, _), one in zip(requests, found, strict=True):
            if asked is not None:
                self.cache_hook.add_partial("loglikelihood", asked, (one.nats, one.greedy))
        return [(one.nats, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Nats of whole texts, each token predicted once, in windows where a text exceeds the context."""
        totals: list[float] = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(nats for nats, _ in self._loglikelihood_tokens(pairs, disable_tqdm)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to a stop string; greedy unless the task asks for sampling."""
        del disable_tqdm
        arguments: list[Any] = [request.args for request in requests]
        asked = [self._sampling(given) for _, given in arguments]
        prompts = [
            self.tok_encode(text)[-(self.max_length - params.max_tokens) :]
            for (text, _), params in zip(arguments, asked, strict=True)
        ]
        texts = [completion.text for completion in self.engine.generate(prompts, asked)]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _sampling(self, given: dict[str, Any]) -> Sampling:
        """lm_eval's generation arguments as ours. Raises UserError for one that we do not know."""
        usual = min(MAX_GEN_TOKS, self.max_length // 2)
        found: dict[str, Any] = dict(normalize_gen_kwargs(given, usual))
        sampled, until, most = found.pop("do_sample"), found.pop("until"), found.pop("max_gen_toks")
        if unknown := set(found) - _SAMPLING:
            raise UserError(f"gen_kwargs: {', '.join(sorted(unknown))} is not known here; leave it out")
        if most >= self.max_length:
            raise UserError(
                f"max_gen_toks is {most}, but a prompt and its answer are {self.max_length} tokens at most; "
                "lower max_gen_toks of its gen_kwargs"
            )
        found["temperature"] = found.get("temperature", 1.0) if sampled else 0.0
        eos = self._backend.id_to_token(self.eot_token_id)
        return Sampling(max_tokens=most, stop=tuple(filter(None, dict.fromkeys([*until, eos]))), **found)

    # ---- chat

    @property
    def tokenizer_name(self) -> str:
        """What tells the tokenizer apart in lm_eval's caches."""
        return str(self.loaded.folder.absolute()).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template of the folder, where one is asked for; a folder has no more than one."""
        return self._template() if chat_template else None

    def _template(self) -> str:
        """The template's text. Raises UserError for a model that only completes."""
        return ChatFormat.of(self.own_tokenizer).template

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns as text with markers; without a generation prompt the last turn stays open.

        A template that knows no system role gets none, as with lm_eval's hf model.
        """
        form = ChatFormat.of(self.own_tokenizer)
        messages = [Message(turn["role"], turn["content"]) for turn in chat_history]  # pyright: ignore
        try:
            text = form.prompt_text(messages, reply=add_generation_prompt)
        except UserError:
            messages = [message for message in messages if message.role != "system"]
            text = form.prompt_text(messages, reply=add_generation_prompt)
        if add_generation_prompt:
            return text
        last = messages[-1].content.strip()
        return text[: text.rindex(last) + len(last)]

    def get_model_info(self) -> dict[str, Any]:
        """What lm_eval writes beside its results."""
        return {
            "model_folder": str(self.loaded.folder),
            "model_type": type(self.model).__name__,
            "model_dtype": str(next((t.dtype for t in _tensors(self.model)), "")),
        }


def _tensors(model: Any) -> list[torch.Tensor]:
    return list(model.parameters()) if isinstance(model, torch.nn.Module) else []


if __name__ == "__main__":
    cli_evaluate()
