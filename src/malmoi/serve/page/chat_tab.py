"""The tab to talk in: a reply that streams, can be stopped and made again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from html import escape, unescape
from time import perf_counter
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component

from malmoi.core.errors import UserError
from malmoi.core.nouns import Message
from malmoi.engine.request import FinishReason, Sampling, TokenEvent
from malmoi.serve.catalogue import LanguageEntry
from malmoi.serve.page.look import clickable, joined, note, panel
from malmoi.serve.page.task_tabs import EACH, examples
from malmoi.serve.worker import REPORTED, Worker
from malmoi.tasks.chat import Chat
from malmoi.text.chat import fit_turns

MOST_TOKENS = 1024  # of a reply, on the page
MOST_CHARACTERS = 100_000  # of a conversation
SHOW_EVERY_S = 0.05  # the page is sent whole texts, so not one for every token
EXAMPLES = ("Hello! Who are you?", "안녕하세요! 누구세요?")
EMPTY = "<b>Say something below.</b><br>The reply appears here, word by word."

T = TypeVar("T")
Turns = list[dict[str, Any]]  # of gr.Chatbot: {"role", "content"}
Shown = tuple[Any, ...]  # the box, the conversation, the line below it, the buttons


@dataclass(frozen=True, slots=True)
class StreamedReply:
    """A reply so far. Seconds are from the moment of asking."""

    text: str = ""
    num_tokens: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    dropped: int = 0  # oldest turns that the model no longer sees
    finished: FinishReason | None = None

    def line(self) -> str:
        """What it cost, for people."""
        if not self.num_tokens:
            return "stopped" if self.finished else "reading ..."
        rate = (self.num_tokens - 1) / (self.last_s - self.first_s) if self.num_tokens > 1 else 0.0
        return joined(
            [
                f"first token after {1000 * self.first_s:.0f} ms",
                f"{self.num_tokens} token{'s' if self.num_tokens > 1 else ''}",
                f"{rate:.0f} tokens/s" if rate else "",
                f"the {self.dropped} oldest messages no longer fit" if self.dropped else "",
                {"length": "cut at the most tokens", "cancelled": "stopped"}.get(self.finished or "", ""),
            ]
        )


def chat_tab(entries: Mapping[str, LanguageEntry], worker: Worker, max_tokens: int) -> None:
    """Build the tab, within gr.Blocks. max_tokens: the server's limit for a reply."""
    if not entries:
        panel(note("No language model is served. Start the server with one: malmoi serve MODEL_DIR"))
        return
    talk, samples = ChatEvents(entries, worker), [row[0] for row in examples(Chat())[::EACH]]
    first = next((name for name, entry in entries.items() if entry.form), next(iter(entries)))
    model = gr.Dropdown(list(entries), value=first, label="Model", filterable=False, elem_id="chat-model")
    about = panel(note(talk.about(first)))
    conversation = gr.Chatbot(
        height="min(26rem, 50vh)", show_label=False, placeholder=EMPTY, elem_id="conversation",
        buttons=[], render_markdown=False, sanitize_html=True, latex_delimiters=[], allow_tags=False,
        feedback_options=None,
    )  # fmt: skip
    status = panel(note(""), elem_id="chat-status")
    box = gr.Textbox(
        placeholder="Write a message, Enter sends it ...", show_label=False, submit_btn="Send", max_lines=8,
        elem_id="chat-box", max_length=MOST_CHARACTERS,
    )  # fmt: skip
    with gr.Row():
        stop = gr.Button("Stop", size="sm", interactive=False, min_width=90, elem_id="chat-stop")
        again = gr.Button("Regenerate", size="sm", min_width=90, elem_id="chat-again")
        clear = gr.Button("Clear", size="sm", min_width=90, elem_id="chat-clear")
    clickable([[text] for text in (*EXAMPLES, *samples)], [box])
    settings = _settings(min(MOST_TOKENS, max_tokens))
    shown, asked = [box, conversation, status, stop, again], [conversation, model, *settings]
    box.submit(talk.say, [box, *asked], shown, **_EVENT)
    again.click(talk.again, asked, shown, **_EVENT)
    stop.click(talk.stop, **_EVENT)
    clear.click(talk.clear, None, [conversation, status], **_EVENT)
    model.change(lambda name: note(talk.about(name)), model, about, **_EVENT)


_EVENT: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}


def _settings(limit: int) -> list[Component]:
    """system prompt, temperature, top_p, max_tokens, seed."""
    with gr.Accordion("Settings", open=False):
        system = gr.Textbox(
            label="System prompt", info="What the model is told before all messages.", lines=2
        )
        with gr.Row():
            temperature = gr.Slider(
                0, 2, 0.7, step=0.05, label="Temperature", info="0: always the likeliest."
            )
            top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top p", info="1: choose among all tokens.")
        with gr.Row():
            usual = min(256, limit)
            most = gr.Slider(1, limit, usual, step=1, label="Most tokens", info="The reply is cut there.")
            seed = gr.Number(
                None, label="Seed", info="The same seed, the same reply.", precision=0, minimum=0
            )
    return [system, temperature, top_p, most, seed]


@dataclass(slots=True)
class _Running:
    """A reply that is being made. stop: set once it is to end. discarded: and is not wanted any more."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    discarded: bool = False


class ChatEvents:
    """What the tab's buttons do. A browser's page has one reply at a time, named by the page's session."""

    def __init__(self, entries: Mapping[str, LanguageEntry], worker: Worker) -> None:
        self._entries, self._worker = entries, worker
        self._running: dict[str, _Running] = {}  # by session
        self._cleared: set[str] = set()  # sessions whose conversation is to begin anew

    def about(self, name: str) -> str:
        """How a model answers."""
        if self._entries[name].form is not None:
            return "Answers messages, and remembers the conversation."
        return "Not tuned to chat: it goes on from your text."

    async def say(
        self, request: gr.Request, text: str | None, turns: Turns, model: str, *settings: Any
    ) -> AsyncIterator[Shown]:
        """Answer a new message; it stays in the box where it cannot be answered."""
        if not text or not text.strip():
            yield gr.skip(), turns, note("Write something first.", kind="warn"), *_buttons()
            return
        if self._is_running(request):  # Enter was pressed twice
            yield (gr.skip(),) * 5
            return
        if not turns:
            self._cleared.discard(str(request.session_hash))
        said = [*turns, _turn("user", text.strip())]
        box = "", text
        async for shown, failed in self._answer(request, said, model, *settings):
            yield (box[failed], turns if failed else shown[0], *shown[1:])
            box = gr.skip(), text  # the next message may be on its way

    async def again(
        self, request: gr.Request, turns: Turns, model: str, *settings: Any
    ) -> AsyncIterator[Shown]:
        """Answer the last message again."""
        if self._is_running(request):  # the button was pressed twice
            yield (gr.skip(),) * 5
            return
        kept = turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns
        if not kept:
            warning = note("There is no reply yet; say something first.", kind="warn")
            yield gr.skip(), turns, warning, *_buttons()
            return
        async for shown, failed in self._answer(request, kept, model, *settings):
            yield (gr.skip(), turns if failed else shown[0], *shown[1:])

    def _is_running(self, request: gr.Request) -> bool:
        """Whether this page has a reply on its way."""
        return str(request.session_hash) in self._running

    async def stop(self, request: gr.Request) -> None:
        """Have this page's reply end where it is."""
        if (running := self._running.get(str(request.session_hash))) is not None:
            running.stop.set()

    async def clear(self, request: gr.Request) -> tuple[Turns, str]:
        """Empty the page, whatever is on its way to it."""
        session = str(request.session_hash)
        self._cleared.add(session)
        if (running := self._running.get(session)) is not None:
            running.discarded = True
            running.stop.set()
        return [], note("")

    async def _answer(
        self, request: gr.Request, turns: Turns, model: str, system: str | None, temperature: float,
        top_p: float, most: float, seed: float | None,
    ) -> AsyncIterator[tuple[Shown, bool]]:  # fmt: skip
        """(the conversation as it grows, the line below, the buttons), and whether it has failed."""
        entry, session = self._entries[model], str(request.session_hash)
        if session in self._cleared:  # asked for before the page was emptied, and overtaken on the way
            yield ([], note(""), *_buttons()), False
            return
        running = self._running[session] = _Running()
        drawn = {"temperature": temperature, "top_p": top_p, "seed": None if seed is None else int(seed)}
        try:
            params = Sampling(max_tokens=int(most), **drawn)
            ids, dropped = await asyncio.to_thread(_prompt, entry, turns, system, int(most))
            yield (turns, note("reading ..."), *_buttons(running=True)), False
            async with aclosing(self._worker.stream(entry.engine, ids, params)) as events:
                async for reply in _replies(until(running.stop, events), dropped):
                    shown = [*turns, _turn("assistant", reply.text)]
                    buttons = _buttons(running=reply.finished is None)
                    yield (shown, note(reply.line()), *buttons), False
            if running.discarded:
                yield ([], note(""), *_buttons()), False
        except REPORTED as error:
            yield (turns, note(str(error), kind="warn"), *_buttons()), True
        finally:
            if self._running.get(session) is running:
                del self._running[session]


def _buttons(*, running: bool = False) -> tuple[dict[str, Any], ...]:
    """Stop, Regenerate. Clear always works."""
    return tuple(gr.update(interactive=on) for on in (running, not running))


async def until(stop: asyncio.Event, events: AsyncIterator[T]) -> AsyncIterator[T]:
    """The events up to the moment when `stop` is set, even where the next one is long in coming."""
    halt, step = asyncio.ensure_future(stop.wait()), None
    try:
        while True:
            step = asyncio.ensure_future(anext(events))
            await asyncio.wait({step, halt}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                return
            try:
                event = step.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        halt.cancel()
        if step is not None:
            step.cancel()


async def _replies(events: AsyncIterator[TokenEvent], dropped: int) -> AsyncIterator[StreamedReply]:
    """The reply so far, now and then, and whole at last."""
    start, shown_s = perf_counter(), 0.0
    reply = StreamedReply(dropped=dropped)
    async for event in events:
        now_s = perf_counter() - start
        reply = StreamedReply(
            reply.text + event.text, reply.num_tokens + (event.id is not None), reply.first_s or now_s,
            now_s, dropped, event.finished,
        )  # fmt: skip
        if now_s - shown_s >= SHOW_EVERY_S or event.finished or reply.num_tokens == 1:
            shown_s = now_s
            yield reply
    if reply.finished is None:
        yield replace(reply, finished="cancelled")


def _prompt(entry: LanguageEntry, turns: Turns, system: str | None, most: int) -> tuple[list[int], int]:
    """The ids, and how many of the oldest turns were dropped, with a chat session's room for the reply.

    Raises UserError for more than can be read. Not on the worker's thread, where others would wait for it.
    """
    messages = [Message(turn["role"], text_of(turn)) for turn in turns]
    if sum(len(message.content) for message in messages) > MOST_CHARACTERS:
        raise UserError(f"the conversation is over {MOST_CHARACTERS:,} characters; press Clear")
    if entry.form is None:
        return entry.engine.encode_prompt(messages[-1].content), 0
    context = entry.engine.scorer.context
    room = sys.maxsize if context is None else context - min(max(most, context // 4), context // 2)
    said = [Message("system", system.strip())] if system and system.strip() else []
    ids, _, dropped = fit_turns(entry.form, [*said, *messages], room)
    return ids, dropped


def text_of(turn: Mapping[str, Any]) -> str:
    """The text of one of gr.Chatbot's turns, which come back in parts."""
    content = turn["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return unescape(text)


def _turn(role: str, text: str) -> dict[str, Any]:
    """Escaped, for gr.Chatbot takes tags in a text for markup even where it renders no Markdown."""
    return {"role": role, "content": escape(text, quote=False)}
