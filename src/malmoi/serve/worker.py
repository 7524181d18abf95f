"""One thread owns all engines and does all computing; asyncio stays at the edge.

Requests join and leave at every step: the thread takes what has come in, runs one step of every engine that
has work, and hands the events of the step over at once. Between steps it runs calls (scoring, task
predictions, pictures), one at a time, so that neither starves the other. Whoever waits takes turns by group
(the prompts of one HTTP request), so that a request with a hundred prompts does not hold up a small one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from malmoi.core.errors import UserError
from malmoi.engine.engine import Engine
from malmoi.engine.queue import RoundRobin
from malmoi.engine.request import Sampling, TokenEvent

T = TypeVar("T")
Observe = Callable[[Engine, int], None]
POLL_S = 0.02  # how often `close` looks whether all is done
_log = logging.getLogger(__name__)


class Busy(Exception):
    """The queue is full; try again after `retry_after_s`."""

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__(f"the server is busy; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Stopping(Exception):
    """The server is stopping and takes no new work."""

    def __init__(self) -> None:
        super().__init__("the server is stopping; try again later, or another server")


class Failed(Exception):
    """The server could not do what it had accepted; reason: what the client may know, or the log has it."""

    def __init__(self, reason: str = "its log says why") -> None:
        super().__init__(f"the server failed on this request; {reason}")


REPORTED = (UserError, Busy, Stopping, Failed)  # to whoever asked, in the error's own words


class _Inbox:
    """What the thread sends to one task. The task's event loop is woken only where the task waits for it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._items: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._pausing = self._presses = False

    def put(self, item: Any, *, presses: bool) -> bool:
        """Whether the task must be woken, on its loop. presses: a pause ends with it. From the thread."""
        self._items.append(item)
        self._presses |= presses
        return self._waiter is not None and (presses or not self._pausing)

    def wake(self) -> None:
        """Whoever waits goes on. On the loop."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self, not_before: float) -> list[Any]:
        """All that has come, once there is something and either it presses or it is `not_before`."""
        while not self._items:
            await self._wait()
        pause_s = not_before - self.loop.time()
        if pause_s > 0:
            await self._wait(pause_s)
        self._presses = False
        return [self._items.popleft() for _ in range(len(self._items))]

    async def _wait(self, pause_s: float | None = None) -> None:
        """For anything, or in a pause for what presses."""
        self._pausing, self._waiter = pause_s is not None, self.loop.create_future()
        timer = None if pause_s in (None, math.inf) else self.loop.call_later(pause_s, self.wake)
        try:
            # it may have come before the thread could see that somebody waits
            if not (self._presses if self._pausing else self._items):
                await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


@dataclass(eq=False, slots=True)
class _Group:
    """What one HTTP request asks for: prompts of one engine, or calls (None). inbox: for the results."""

    number: int
    inbox: _Inbox
    engine: Engine | None
    closed: bool = False


@dataclass(slots=True)
class _Prompt:
    """What an engine was asked for. left: samples that have not ended."""

    group: _Group
    number: int
    left: int


class Stream:
    """The events of a group's prompts as (prompt number, event). Closing it cancels them."""

    def __init__(self, worker: Worker, group: _Group, left: int) -> None:
        self._worker, self._group, self._left = worker, group, left

    async def take(self, not_before: float = 0.0) -> list[tuple[int, TokenEvent]]:
        """All events that have come; none once all prompts have ended.

        Waits for the first, and on until the event loop's clock is at `not_before` or a prompt ends: it costs
        less to be said of several at once.
        """
        if self._group.closed:
            return []
        try:
            found = await self._group.inbox.take(not_before)
            for item in found:
                if isinstance(item, BaseException):
                    raise item
        except BaseException:
            self.close()
            raise
        self._left -= sum(event.finished is not None for _, event in found)
        if self._left == 0:
            self.close()
        return found

    @property
    def ended(self) -> bool:
        """Whether all that comes was taken."""
        return self._left == 0

    def close(self) -> None:
        """Give up what has not ended; the engine drops it before its next step."""
        if not self._group.closed:
            self._group.closed = True
            self._worker.leave(self._group, cancel=self._left > 0)

    async def aclose(self) -> None:
        """As `close`, for `contextlib.aclosing`."""
        self.close()

    def __del__(self) -> None:
        self.close()


class TokenStream(AsyncIterator[TokenEvent]):
    """The events of one prompt as they come. Closing it cancels the request."""

    def __init__(self, inner: Stream) -> None:
        self._inner = inner
        self._taken: deque[TokenEvent] = deque()

    async def __anext__(self) -> TokenEvent:
        if not self._taken:
            self._taken.extend(event for _, event in await self._inner.take())
        if not self._taken:
            raise StopAsyncIteration
        return self._taken.popleft()

    async def aclose(self) -> None:
        """Give up what has not ended."""
        self._taken.clear()
        self._inner.close()


class Worker:
    """Owns the thread. max_waiting: how many requests may wait beside those that have rows, for each engine.

    observe: called on the thread after each step of an engine, with the number of rows that took a token.
    """

    def __init__(self, *, max_waiting: int = 64) -> None:
        if max_waiting < 1:
            raise UserError(f"the queue has room for {max_waiting} requests; it must be 1 or more")
        self.max_waiting = max_waiting
        self.observe: Observe | None = None
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._asked: dict[Engine, dict[int, _Prompt]] = {}  # by the engine's number of a request
        self._calls: RoundRobin[tuple[_Group, Callable[[], Any]]] = RoundRobin()
        self._open: dict[Engine | None, set[int]] = {}  # groups that have not ended; None: of calls
        self._groups = 0
        self._stopping = self._ended = False
        self._thread = threading.Thread(target=self._run, name="malmoi-engine", daemon=True)

    # --- from the event loop

    @property
    def stopping(self) -> bool:
        """Whether `close` was called."""
        return self._stopping

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def run(self, function: Callable[[], T]) -> T:
        """What the function returns or raises, run on the thread; waits for it, so only before requests come.

        Models are opened so: OpenMP keeps threads for every thread that has computed, and where they are more
        than the processor has, none of them waits awake for its next part any more. A server that opens its
        models on another thread answers at two thirds of the speed.
        """
        future: Future[T] = Future()

        def fulfil() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._inbox.put(fulfil)
        return future.result()

    def drain(self) -> None:
        """Refuse new work from now on."""
        self._stopping = True

    async def close(self, timeout_s: float) -> None:
        """Refuse new work, finish what was taken within `timeout_s`, give up the rest, end the thread."""
        self.drain()
        until = time.monotonic() + timeout_s
        while any(self._open.values()) and time.monotonic() < until:
            await asyncio.sleep(POLL_S)
        if self._thread.is_alive():
            self._inbox.put(self._end)
        while self._thread.is_alive():  # not joined: a process that is asked to end at once can
            await asyncio.sleep(POLL_S)

    def stream(self, engine: Engine, ids: Sequence[int], params: Sampling) -> TokenStream:
        """The events of one prompt; closing it cancels the request within a step.

        Raises Busy where the queue is full, Stopping. Reading raises UserError for what the engine refuses.
        """
        return TokenStream(self.stream_batch(engine, [ids], params))

    def stream_batch(self, engine: Engine, prompts: Sequence[Sequence[int]], params: Sampling) -> Stream:
        """The events of several prompts, which take turns with other requests. Raises as `stream`."""
        group = self._enter(engine, engine.max_rows)
        self._inbox.put(lambda: self._submit(engine, group, prompts, params))
        return Stream(self, group, len(prompts) * params.n)

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """What the function returns or raises, run on the thread between steps. Raises Busy, Stopping."""
        return (await self.calls(function, [arguments]))[0]

    async def calls(self, function: Callable[..., T], each: Sequence[tuple[Any, ...]]) -> list[T]:
        """The same for several tuples of arguments; others' steps and calls come in between."""
        group = self._enter(None, 1)
        for arguments in each:
            call = partial(function, *arguments)
            self._inbox.put(partial(self._calls.add, group, (group, call)))
        found: list[T] = []
        try:
            while len(found) < len(each):
                for result in await group.inbox.take(0.0):
                    if isinstance(result, BaseException):
                        raise result
                    found.append(result[0])
        finally:
            group.closed = True
            self.leave(group, cancel=False)
        return found

    def leave(self, group: _Group, *, cancel: bool) -> None:
        """A group has ended, or is given up. From any thread."""
        self._open[group.engine].discard(group.number)
        if cancel:
            self._inbox.put(lambda: self._cancel(group))

    def waiting(self, engine: Engine) -> int:
        """Groups of this engine that have not ended, beyond those that could have a row each."""
        return max(0, len(self._open.get(engine, ())) - engine.max_rows)

    def _enter(self, engine: Engine | None, at_once: int) -> _Group:
        if self._stopping:
            raise Stopping
        groups = self._open.setdefault(engine, set())
        if len(groups) >= at_once + self.max_waiting:
            raise Busy(1 + len(groups) // (4 * at_once))
        self._groups += 1
        groups.add(self._groups)
        return _Group(self._groups, _Inbox(), engine)

    # --- on the thread

    def _run(self) -> None:
        try:
            while not self._ended:
                try:
                    self._turn()
                except Exception as error:  # beside a request's own work, so nobody is to blame alone
                    self._give_up(_public(error))
        except Exception as error:  # nothing here can be trusted any more
            self._break_down(_public(error))

    def _turn(self) -> None:
        """Take in what has come, run a call, and one step of every engine."""
        self._take()
        self._call()
        for engine in [engine for engine in self._asked if engine.busy]:
            _deliver(self._step(engine))

    def _take(self) -> None:
        """What has come in; waits for it where there is nothing to do."""
        if not (self._calls or any(engine.busy for engine in self._asked)):
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _submit(
        self, engine: Engine, group: _Group, prompts: Sequence[Sequence[int]], params: Sampling
    ) -> None:
        """Queue the prompts of a group with the engine; what it refuses ends the group."""
        asked = self._asked.setdefault(engine, {})
        try:
            for number, ids in enumerate(prompts):
                asked[engine.submit(ids, params, group.number)] = _Prompt(group, number, params.n)
        except Exception as error:
            self._cancel(group)
            _deliver([(group, _public(error))])

    def _step(self, engine: Engine) -> list[tuple[_Group, Any]]:
        events, asked = engine.step(), self._asked[engine]
        self._observe(engine, events)
        found: list[tuple[_Group, Any]] = []
        for event in events:
            prompt = asked.get(event.request)
            if prompt is None:  # cancelled
                continue
            if event.error is not None:
                self._cancel(prompt.group)
                found.append((prompt.group, _failure(event.error)))
                continue
            found.append((prompt.group, (prompt.number, event)))
            prompt.left -= event.finished is not None
            if not prompt.left:
                del asked[event.request]
        return found

    def _observe(self, engine: Engine, events: Sequence[TokenEvent]) -> None:
        if self.observe is None:
            return
        try:
            rows = {(event.request, event.index) for event in events if event.id is not None}
            self.observe(engine, len(rows))
        except Exception:  # no answer depends on it
            _log.exception("a step could not be observed, and none will be from now on")
            self.observe = None

    def _cancel(self, group: _Group) -> None:
        """Give up what has not ended of it."""
        self._calls.drop(lambda call: call[0] is group)
        for engine, asked in self._asked.items():
            for request in [request for request, prompt in asked.items() if prompt.group is group]:
                engine.cancel(request)
                del asked[request]

    def _call(self) -> None:
        """One call of the group whose turn it is."""
        if not self._calls:
            return
        group, call = self._calls.take()
        if group.closed:
            return
        try:
            result: Any = (call(),)
        except Exception as error:
            result = _public(error)
            self._cancel(group)
        _deliver([(group, result)])

    def _end(self) -> None:
        self._ended = True
        self._give_up(Stopping())

    def _give_up(self, error: Exception) -> None:
        """End all that waits or runs with this error; whoever comes next is served."""
        groups = self._groups_left()
        for group in groups:
            self._cancel(group)
        _deliver([(group, error) for group in groups])

    def _break_down(self, error: Exception) -> None:
        """Tell all who wait, and refuse who comes: `/health` says so, and no request hangs."""
        self._stopping = self._ended = True
        while not self._inbox.empty():
            with contextlib.suppress(Exception):
                self._inbox.get()()
        _deliver([(group, error) for group in self._groups_left()])

    def _groups_left(self) -> set[_Group]:
        """Those that have not ended."""
        prompts = [prompt for asked in self._asked.values() for prompt in asked.values()]
        return {prompt.group for prompt in prompts} | {group for group, _ in self._calls}


def _public(error: Exception) -> Exception:
    """What the client may know of an error: a user's mistake whole, anything else not; the log has it."""
    if isinstance(error, UserError):
        return error
    return _failure(error)


def _failure(error: Exception) -> Failed:
    """The same where the request was accepted, so that the mistake is not the client's."""
    _log.error("the engine failed", exc_info=error)
    return Failed(str(error)) if isinstance(error, UserError) else Failed()


def _deliver(outbox: Sequence[tuple[_Group, Any]]) -> None:
    """Hand results over, and wake those who wait for them: each event loop once."""
    woken: dict[asyncio.AbstractEventLoop, list[_Inbox]] = {}
    for group, item in outbox:
        ends = group.engine is None or isinstance(item, BaseException) or item[1].finished is not None
        if not group.closed and group.inbox.put(item, presses=ends):
            woken.setdefault(group.inbox.loop, []).append(group.inbox)
    for loop, inboxes in woken.items():
        with contextlib.suppress(RuntimeError):  # a loop that has ended reads no more
            loop.call_soon_threadsafe(_wake, inboxes)


def _wake(inboxes: Sequence[_Inbox]) -> None:
    for inbox in inboxes:
        inbox.wake()
