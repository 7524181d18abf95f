"""Messages to token ids, and which of them the assistant says. The only place that knows turn markers.

A chat template (Jinja, kept in `tokenizer_config.json` as other libraries keep it) turns messages into text
with markers. The text is cut at the markers and each piece between two is encoded as plain text, so the ids
are those of `transformers`' `apply_chat_template`; but what looks like a marker inside a message stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from malmoi.core.errors import DAMAGE, UserError
from malmoi.core.nouns import Message, turns_error
from malmoi.text.tokenizer import TURNS, Tokenizer
from malmoi.text.tokenizer_files import is_chat_template

Span = tuple[int, int]  # where something begins and ends in a text
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _style(
    before: str, of_role: str, after_role: str, end: str, *, between: str = "", reply: str = "assistant"
) -> str:
    """A template of turns like ours, with other markers. reply: what the assistant is called."""
    said = "{{ message['content'] }}" + end
    return (
        f"{before}{{% for message in messages %}}{of_role}"
        f"{{{{ '{reply}' if message['role'] == 'assistant' else message['role'] }}}}{after_role}"
        f"{{% if message['role'] == 'assistant' %}}{{% generation %}}{said}{{% endgeneration %}}"
        f"{{% else %}}{said}{{% endif %}}{between}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{of_role}{reply}{after_role}{{% endif %}}"
    )


# What a model that only completes is tuned with: the first of these whose markers its vocabulary has.
STYLES: dict[tuple[str, ...], str] = {
    TURNS: TEMPLATE,
    ("<|im_start|>", "<|im_end|>"): _style("", "<|im_start|>", "\n", "<|im_end|>", between="\n"),
    ("<start_of_turn>", "<end_of_turn>"): _style(
        "{{ bos_token }}", "<start_of_turn>", "\n", "<end_of_turn>", between="\n", reply="model"
    ),
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"): _style(
        "{{ bos_token }}", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"
    ),
}
# Characters that stand in no text (Unicode's noncharacters): one of them breaks up a forged marker.
_GUARDS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


@dataclass(frozen=True, slots=True)
class ChatRow:
    """A conversation as ids. trained: whether each one is the assistant's, its end of turn included."""

    ids: list[int]
    trained: list[bool]


class ChatFormat:
    """How one tokenizer's model takes a conversation."""

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        """Raises UserError for a template that is not Jinja."""
        self.tokenizer, self.template = tokenizer, template
        try:
            self._compiled = _environment().from_string(template)
        except (TemplateError, SyntaxError, *DAMAGE) as error:  # nested too deep for Jinja, or for Python
            raise UserError(f"the chat template cannot be read ({error}); restore it") from None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatFormat:
        """The format that was saved with a tuned model. Raises UserError where there is none."""
        template = chat_template(tokenizer)
        if template is None:
            raise UserError(
                "this model has no chat template, so it only completes text; "
                "tune it with: malmoi finetune MODEL --data CONVERSATIONS --out DIR"
            )
        return cls(tokenizer, template)

    @classmethod
    def for_tuning(cls, tokenizer: Tokenizer) -> ChatFormat:
        """The format that the tokenizer has, or one for the markers in its vocabulary. Raises UserError where
        it has none."""
        if (template := chat_template(tokenizer)) is not None:
            return cls(tokenizer, template)
        markers = markers_of(tokenizer)
        if not markers:
            raise UserError(f"the tokenizer has no tokens to mark turns with, such as {', '.join(TURNS)}")
        return cls(tokenizer, STYLES[markers])

    def adopt(self) -> None:
        """Have the template saved with the tokenizer, as other libraries look for it."""
        self.tokenizer.config["chat_template"] = self.template

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids up to where the assistant's reply begins. Which turns may follow which is left to the
        template. Raises UserError where it refuses them, and where there are none."""
        if not messages:
            raise UserError("the conversation cannot be answered: it has no turn")
        guarded, guard = self._guarded(messages)
        rendered = self._render(guarded, reply=True)
        return [id for piece in self._pieces(rendered) for id in self._encode(piece, guard)]

    def prompt_text(self, messages: Sequence[Message], *, reply: bool = True) -> str:
        """The text as the template writes it, up to where the assistant's next reply begins (if `reply`)."""
        return self._render(messages, reply=reply)

    def training_row(self, messages: Sequence[Message]) -> ChatRow:
        """The whole conversation, with what the assistant says marked; only its last turn, where the template
        changes earlier turns when a new one comes (see `training_rows`).

        Raises UserError for turns out of order.
        """
        return self._row(*self._laid_out(messages))

    def training_rows(self, messages: Sequence[Message]) -> list[ChatRow]:
        """What a conversation is learned as: one row, or, where the template changes earlier turns when a new
        one comes (Qwen3's drops what was thought), one up to each turn of the assistant, which alone is
        learned. Raises as `training_row`."""
        rendered, guard, spans = self._laid_out(messages)
        row = self._row(rendered, guard, spans)
        if all(spans):
            return [row]
        said = [at for at, message in enumerate(messages) if message.role == "assistant"]
        return [*(self.training_row(messages[: at + 1]) for at in said[:-1]), row]

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The specials that end the assistant's turn."""
        row = self.training_row((Message("user", "a"), Message("assistant", "b")))
        specials = self.tokenizer.specials.ids
        return frozenset(
            id for id, learned in zip(row.ids, row.trained, strict=True) if learned and id in specials
        )

    def _laid_out(self, messages: Sequence[Message]) -> tuple[str, str, list[Span | None]]:
        """A conversation as the template writes it, its guard, and where each turn of the assistant stands
        there; None for one that stands in another way. Raises as `training_row`."""
        if wrong := turns_error(messages, ends_with="assistant"):
            raise UserError(f"the conversation cannot be learned from: {wrong}")
        guarded, guard = self._guarded(messages)
        rendered = self._render(guarded)
        said = [at for at, message in enumerate(guarded) if message.role == "assistant"]
        spans = [self._span(guarded, at, rendered) for at in said]
        if spans[-1] is None:
            raise UserError(
                "the chat template changes earlier turns for the reply to them, so it cannot be tuned with"
            )
        return rendered, guard, spans

    def _row(self, rendered: str, guard: str, spans: Sequence[Span | None]) -> ChatRow:
        kept = [span for span in (spans if all(spans) else spans[-1:]) if span]
        row, place = ChatRow([], []), 0
        for piece in self._pieces(rendered):
            ids = self._encode(piece, guard)
            row.ids.extend(ids)
            row.trained.extend(self._trained(piece, place, guard, kept, len(ids)))
            place += len(piece)
        return row

    # ---- text with markers

    def _render(self, messages: Sequence[Message], *, reply: bool = False) -> str:
        tokens = self.tokenizer.special_names
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._compiled.render(messages=turns, add_generation_prompt=reply, **tokens)
        except (TemplateError, *DAMAGE) as error:
            raise UserError(f"the chat template refuses this conversation: {error}") from None

    def _span(self, messages: Sequence[Message], at: int, rendered: str) -> Span | None:
        """Where in the text the turn `at` stands: from the reply's first character to its end of turn; None
        where the template writes the turns up to it in another way."""
        before, after = self._render(messages[:at], reply=True), self._render(messages[: at + 1])
        if not (after.startswith(before) and rendered.startswith(after)):
            return None
        return len(before), len(after.rstrip()) if after.rstrip().endswith(self._markers) else len(after)

    @cached_property
    def _markers(self) -> tuple[str, ...]:
        return tuple(self.tokenizer.special_texts)

    @cached_property
    def _marker(self) -> re.Pattern[str]:
        longest_first = sorted(self.tokenizer.special_texts, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    def _guarded(self, messages: Sequence[Message]) -> tuple[list[Message], str]:
        """The messages, with a character inside all that looks like a marker, and that character."""
        texts = "".join(message.content for message in messages)
        guard = next((guard for guard in _GUARDS if guard not in texts), None)
        if guard is None:
            raise UserError("the conversation holds every noncharacter of Unicode; remove them")

        def broken(found: re.Match[str]) -> str:
            return guard.join(found[0])

        guarded = [Message(it.role, self._marker.sub(broken, it.content)) for it in messages]
        return guarded, guard

    # ---- text to ids

    def _pieces(self, rendered: str) -> Iterator[str]:
        """The text, cut before and after every marker."""
        cuts = sorted(
            {0, len(rendered), *(at for found in self._marker.finditer(rendered) for at in found.span())}
        )
        yield from (rendered[start:end] for start, end in pairwise(cuts))

    def _encode(self, piece: str, guard: str) -> list[int]:
        id = self.tokenizer.special_texts.get(piece)
        return self.tokenizer.encode(piece.replace(guard, "")) if id is None else [id]

    def _trained(
        self, piece: str, place: int, guard: str, spans: Sequence[tuple[int, int]], count: int
    ) -> list[bool]:
        """For each of the piece's ids whether it ends within one of `spans`; the piece begins at `place`."""
        within = [start < place + len(piece) and place < end for start, end in spans]
        if not any(within):
            return [False] * count
        start, end = spans[within.index(True)]
        if start <= place and place + len(piece) <= end:
            return [True] * count
        plain = piece.replace(guard, "")  # a template with words of its own beside the reply
        first, last = (len(piece[: max(0, at - place)].replace(guard, "")) for at in (start, end))
        return [first < to <= last for _, to in self.tokenizer.offsets(plain)]


def reply_ends(tokenizer: Tokenizer, named: Iterable[int]) -> list[int]:
    """The ids that end a reply: the end of a text, those named, those of the chat template."""
    found, template = list(named), chat_template(tokenizer)
    if template is not None:
        with suppress(UserError):  # a template for something else than one turn after another
            found += sorted(ChatFormat(tokenizer, template).end_ids)
    return list(dict.fromkeys([tokenizer.specials.eos, *found]))


def chat_template(tokenizer: Tokenizer) -> str | None:
    """The template that the tokenizer was saved with; of several the one named "default"."""
    found = tokenizer.config.get("chat_template")
    if isinstance(found, list) and is_chat_template(found):
        found = {one["name"]: one["template"] for one in found}.get("default")
    return found if isinstance(found, str) else None


def markers_of(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The markers of the first of `STYLES` that are all special tokens of the vocabulary, or ()."""
    known = tokenizer.special_texts.keys()
    return next((markers for markers in STYLES if known >= set(markers)), ())


def new_markers(tokenizer: Tokenizer) -> list[int]:
    """The turn markers, where no chat template tells that the model has met them."""
    if chat_template(tokenizer):
        return []
    return sorted(tokenizer.special_texts[marker] for marker in markers_of(tokenizer))


def fit_turns(
    form: ChatFormat, messages: Sequence[Message], most_tokens: int
) -> tuple[list[int], list[Message], int]:
    """The prompt's ids within `most_tokens`, the messages in it, and how many of the oldest were dropped.

    The system's turn stays; turns are dropped in pairs. Raises UserError where the last is empty, or alone is
    too long.
    """
    if not messages[-1].content.strip():
        raise UserError("the message is empty; write something")
    system = [message for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    ids: list[int] = form.prompt_ids(messages)
    for dropped in range(0, len(turns), 2):
        kept = [*system, *turns[dropped:]]
        ids = form.prompt_ids(kept)
        if len(ids) <= most_tokens:
            return ids, kept, dropped
    raise UserError(
        f"the message takes {len(ids)} tokens with what belongs to it, but only {most_tokens} fit; shorten it"
    )


# ---- Jinja, as `transformers` sets it up


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says; what stands in it is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own class attribute)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    found.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
    found.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    return found


def _refuse(message: str) -> Any:
    raise TemplateError(message)
