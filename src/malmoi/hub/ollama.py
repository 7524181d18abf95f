"""An Ollama Modelfile for an exported model: the file, its chat template in Go, where a turn stops.

Ollama does not run Jinja, so what a template puts around each turn is found out by trying it on a few
conversations. Where the text is not just that, there is no TEMPLATE, and Ollama uses what it knows itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise, takewhile
from typing import Literal, NamedTuple

from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.text.chat import ChatFormat, chat_template
from malmoi.text.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant"]
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")
_TEXTS = ("QzA1", "QzB2", "QzC3", "QzD4")
_SHAPES: tuple[tuple[Role, ...], ...] = (
    ("user",), ("system", "user"), ("user", "assistant", "user"), ("system", "user", "assistant", "user"),
)  # fmt: skip


class TurnMarkers(NamedTuple):
    """A chat format that puts the same text around every turn of a role."""

    head: str  # before everything, where there is no system turn
    before: dict[str, str]
    after: dict[str, str]
    opening: str  # where the reply begins
    first_user: str  # before a user's turn right after a system's

    def render(self, messages: Sequence[Message]) -> str:
        """The text up to where the reply begins."""
        parts = [] if messages[0].role == "system" else [self.head]
        for last, it in pairwise([None, *messages]):
            assert it is not None
            joined = last is not None and last.role == "system"
            before = self.first_user if joined and it.role == "user" else self.before[it.role]
            parts += [before, it.content, self.after[it.role]]
        return "".join([*parts, self.opening])

    def template(self) -> str:
        """The same in Go's template language."""
        parts = [f"{{{{ if not .System }}}}{_go(self.head)}{{{{ end }}}}" if self.head else ""]
        parts.append('{{ $last := "" }}{{ range .Messages }}')
        for at, role in enumerate(_ROLES):
            before = _go(self.before[role])
            if role == "user" and self.first_user != self.before[role]:
                first = _go(self.first_user)
                before = f'{{{{ if eq $last "system" }}}}{first}{{{{ else }}}}{before}{{{{ end }}}}'
            test = f'{{{{ {"else " if at else ""}if eq .Role "{role}" }}}}'
            parts.append(f"{test}{before}{{{{ .Content }}}}{_go(self.after[role])}")
        parts.append("{{ end }}{{ $last = .Role }}{{ end }}" + _go(self.opening))
        return "".join(parts)


def turns_of(form: ChatFormat) -> TurnMarkers | None:
    """The format as text around turns, or None where it is more than that (a date, a turn left out)."""
    if "strftime_now" in form.template:
        return None
    try:
        found = _learned(form)
        fits = all(found.render(it) == _rendered(form, it) for it in map(_conversation, _SHAPES))
    except (UserError, ValueError):
        return None
    return found if fits else None


def modelfile(file: str, tokenizer: Tokenizer, ends: Sequence[int], context: int) -> tuple[str, str]:
    """The Modelfile for the GGUF file `file` beside it, and a note for the user ('' where all is said)."""
    lines, note = [f"FROM ./{file}"], ""
    template = chat_template(tokenizer)
    if template is None:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    elif turns := turns_of(ChatFormat(tokenizer, template)):
        lines.append(f'TEMPLATE """{turns.template()}"""')
    else:
        note = "the chat template is not one that a Modelfile can say: Ollama uses the one in the gguf"
    texts = {id: text for text, id in tokenizer.special_texts.items()}
    stops = dict.fromkeys([tokenizer.specials.eos, *ends])
    lines += [f"PARAMETER stop {json.dumps(texts[id], ensure_ascii=False)}" for id in stops if id in texts]
    return "\n".join([*lines, f"PARAMETER num_ctx {context}", ""]), note


def _learned(form: ChatFormat) -> TurnMarkers:
    """What stands between the turns of a long conversation. Raises ValueError where a turn is not there.

    Where one turn ends and the next begins is not distinguished further than the rendering needs.
    """
    start, first_user, reply, again, end = _split(_rendered(form, _conversation(_SHAPES[3])), _TEXTS)
    begin, *_ = _split(_rendered(form, _conversation(_SHAPES[2])), _TEXTS[:3])
    after_user = _shared(reply, end)
    before_user = _shared(again[::-1], begin[::-1])[::-1]
    after_system = first_user.removesuffix(before_user) if first_user.endswith(before_user) else ""
    return TurnMarkers(
        begin.removesuffix(before_user),
        {"system": start, "user": before_user, "assistant": reply.removeprefix(after_user)},
        {"system": after_system, "user": after_user, "assistant": again.removesuffix(before_user)},
        end.removeprefix(after_user),
        first_user.removeprefix(after_system),
    )


def _conversation(roles: Sequence[Role]) -> list[Message]:
    return [Message(role, text) for role, text in zip(roles, _TEXTS, strict=False)]


def _shared(text: str, other: str) -> str:
    """The longest beginning that two texts have in common."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
    return "".join(one for one, _ in same)


def _split(text: str, marks: Sequence[str]) -> list[str]:
    """What stands around the marks, in order. Raises ValueError where one is missing or there twice."""
    parts: list[str] = []
    for mark in marks:
        before, text = text.split(mark)
        parts.append(before)
    return [*parts, text]


def _rendered(form: ChatFormat, messages: Sequence[Message]) -> str:
    """As the template writes it, less the bos that every program puts there itself."""
    bos = form.tokenizer.special_names.get("bos_token", "")
    return form.prompt_text(messages).removeprefix(bos)


def _go(text: str) -> str:
    """Plain text in a Go template within a Modelfile's three quotes."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if "{{" in text or '"""' in text else text
