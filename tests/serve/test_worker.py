"""The thread: joining and leaving at every step, turns, limits, cancelling, stopping."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from malmoi.core.errors import UserError
from malmoi.engine import Engine, Sampling
from malmoi.serve.worker import Busy, Failed, Stopping, Stream, Worker
from tests.engine.fake_scorer import FakeScorer
from tests.engine.scripted import BYTES

GREEDY = Sampling(temperature=0.0, max_tokens=30)
LONG = Sampling(temperature=0.0, max_tokens=100_000)


class Endless(FakeScorer):
    """Never ends a reply."""

    def logits(self, history: Any) -> Any:
        logits = super().logits(history)
        logits[:7] = -1000.0
        return logits


def an_engine(max_rows: int = 2, scorer: FakeScorer | None = None) -> Engine:
    return Engine(scorer or FakeScorer(BYTES.vocab_size), BYTES, max_rows=max_rows)


@contextmanager
def started(max_waiting: int = 64) -> Iterator[Worker]:
    worker = Worker(max_waiting=max_waiting)
    worker.start()
    try:
        yield worker
    finally:
        asyncio.run(worker.close(0.0))


async def text_of(worker: Worker, engine: Engine, prompt: str, params: Sampling = GREEDY) -> str:
    return "".join([event.text async for event in worker.stream(engine, BYTES.encode(prompt), params)])


async def all_of(stream: Stream) -> None:
    while await stream.take():
        pass


def alone(prompt: str, params: Sampling = GREEDY) -> str:
    return an_engine().generate([BYTES.encode(prompt)], params)[0].text


def test_many_at_once_get_what_each_gets_alone() -> None:
    prompts = [f"문서 {i} text" for i in range(20)]

    async def ask(worker: Worker) -> list[str]:
        engines = [an_engine(3), an_engine(3)]
        return await asyncio.gather(*(text_of(worker, engines[i % 2], p) for i, p in enumerate(prompts)))

    with started() as worker:
        assert asyncio.run(ask(worker)) == [alone(prompt) for prompt in prompts]


def test_closing_cancels_within_a_step() -> None:
    scorer = Endless(BYTES.vocab_size)
    engine = an_engine(1, scorer)

    async def go(worker: Worker) -> None:
        stream = worker.stream(engine, [9], LONG)
        for _ in range(5):
            await stream.__anext__()
        await stream.aclose()
        assert await text_of(worker, engine, "next")  # the only row is free again
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()

    with started() as worker:
        asyncio.run(asyncio.wait_for(go(worker), 20))
        assert not engine.busy


async def steps(worker: Worker, count: int) -> None:
    """Returns when every engine that has work has made at least so many steps more."""
    for _ in range(count + 1):  # there is a step between two calls
        await worker.call(int)


def test_a_pause_gathers_what_comes_and_ends_with_the_last_token() -> None:
    engine = an_engine(2, Endless(BYTES.vocab_size))

    async def go(worker: Worker) -> None:
        loop, ids = asyncio.get_running_loop(), BYTES.encode("ab")
        stream = worker.stream_batch(engine, [ids], GREEDY)
        assert len(await stream.take(loop.time() + 3600)) == GREEDY.max_tokens  # the last one ends the pause
        assert await stream.take() == []

        stream, timers = worker.stream_batch(engine, [ids, ids], LONG), list[Callable[[], None]]()
        await stream.take()
        with pytest.MonkeyPatch.context() as patch:  # no time passes unless a timer is called
            patch.setattr(loop, "call_later", lambda _, wake: timers.append(wake) or loop.call_soon(int))
            pause = asyncio.ensure_future(stream.take(loop.time() + 3600))
            await steps(worker, 5)
        assert not pause.done()
        (end,) = timers
        end()
        assert len(await pause) >= 2 * 5
        stream.close()
        assert await stream.take() == []

    with started() as worker:
        asyncio.run(asyncio.wait_for(go(worker), 30))


def test_what_runs_before_the_loop_runs_on_the_thread() -> None:
    with started() as worker:
        assert worker.run(threading.current_thread) is worker._thread
        with pytest.raises(UserError, match="no"):
            worker.run(refuse)


def refuse() -> None:
    raise UserError("no")


def test_a_dropped_or_cancelled_stream_leaves_the_engine() -> None:
    engine = an_engine(1, Endless(BYTES.vocab_size))

    async def go(worker: Worker) -> None:
        async for _ in worker.stream(engine, [9], LONG):
            break
        task = asyncio.ensure_future(text_of(worker, engine, "x", LONG))
        await asyncio.sleep(0)
        await steps(worker, 2)
        assert engine.busy
        task.cancel()
        assert await text_of(worker, engine, "next")

    with started() as worker:
        asyncio.run(asyncio.wait_for(go(worker), 20))


def test_a_full_queue_refuses_and_a_big_request_does_not_hold_up_a_small_one() -> None:
    engine = an_engine(1, Endless(BYTES.vocab_size))
    order: list[str] = []

    async def big(worker: Worker) -> None:
        prompts = [BYTES.encode(f"big {i}") for i in range(10)]
        stream = worker.stream_batch(engine, prompts, GREEDY)
        while found := await stream.take():
            order.extend(f"big {number}" for number, event in found if event.finished)

    async def small(worker: Worker) -> None:
        await text_of(worker, engine, "small")
        order.append("small")

    async def go(worker: Worker) -> None:
        tasks = [asyncio.ensure_future(big(worker)), asyncio.ensure_future(small(worker))]
        await asyncio.sleep(0)
        waiting = worker.stream(engine, [9], GREEDY)
        with pytest.raises(Busy, match="try again in"):
            worker.stream(engine, [9], GREEDY)
        await waiting.aclose()
        await asyncio.gather(*tasks)

    with started(max_waiting=2) as worker:
        asyncio.run(asyncio.wait_for(go(worker), 30))
    assert order.index("small") <= 2


def test_calls_run_on_the_thread_between_steps() -> None:
    engine = an_engine(1, Endless(BYTES.vocab_size))

    async def go(worker: Worker) -> None:
        stream = worker.stream(engine, [9], LONG)
        await stream.__anext__()
        assert await worker.call(threading.current_thread) is worker._thread
        assert await worker.calls(divmod, [(7, 2), (9, 4)]) == [(3, 1), (2, 1)]
        with pytest.raises(UserError, match="empty"):
            await worker.call(engine.encode_prompt, "")
        with pytest.raises(Failed):
            await worker.call(divmod, 1, 0)
        await stream.__anext__()
        await stream.aclose()

    with started() as worker:
        asyncio.run(asyncio.wait_for(go(worker), 20))


def test_what_the_engine_refuses_comes_to_the_reader() -> None:
    async def go(worker: Worker) -> None:
        engine = an_engine(2)
        for ids, params, expected in (
            ([], GREEDY, "empty"),
            ([9], Sampling(n=3), "n is 3"),
            ([9999], GREEDY, "id"),
        ):
            with pytest.raises(UserError, match=expected):
                await worker.stream(engine, ids, params).__anext__()
        assert await text_of(worker, engine, "still here") == alone("still here")

    with started() as worker:
        asyncio.run(go(worker))


class Faulty(FakeScorer):
    """Cannot read a text with the byte of "!" in it."""

    def logits(self, history: Any) -> Any:
        if BYTES.encode("!")[0] in history:
            raise RuntimeError("no memory")
        logits = super().logits(history)
        logits[BYTES.encode("!")[0]] = -1000.0
        return logits


def test_a_request_that_fails_leaves_the_others_alone() -> None:
    async def go(worker: Worker, engine: Engine) -> None:
        prompts = ["first", "bad!", "second", "worse!", "셋째"]
        found = await asyncio.gather(
            *(text_of(worker, engine, prompt) for prompt in prompts), return_exceptions=True
        )
        for prompt, one in zip(prompts, found, strict=True):
            if prompt.endswith("!"):
                assert isinstance(one, Failed)
            else:
                assert (
                    one
                    == an_engine(1, Faulty(BYTES.vocab_size)).generate([BYTES.encode(prompt)], GREEDY)[0].text
                )
        assert not worker.stopping

    with started() as worker:
        engine = an_engine(4, Faulty(BYTES.vocab_size))
        asyncio.run(asyncio.wait_for(go(worker, engine), 20))
        assert not engine.busy


def test_a_prompt_that_fails_ends_its_whole_request() -> None:
    async def go(worker: Worker, engine: Engine) -> None:
        prompts = [BYTES.encode(prompt) for prompt in ("good", "bad!", "waits", "waits too")]
        stream = worker.stream_batch(engine, prompts, LONG)
        with pytest.raises(Failed):
            await all_of(stream)
        assert await stream.take() == []
        assert await text_of(worker, engine, "next")

    with started() as worker:
        engine = an_engine(2, Faulty(BYTES.vocab_size))
        asyncio.run(asyncio.wait_for(go(worker, engine), 20))
        assert not engine.busy


def test_a_model_that_computes_nonsense_says_so() -> None:
    class Nonsense(FakeScorer):
        def logits(self, history: Any) -> Any:
            return super().logits(history) * float("nan")

    async def go(worker: Worker) -> None:
        with pytest.raises(Failed, match=r"failed on this request; .* not finite \(NaN or infinity\)"):
            await text_of(worker, an_engine(1, Nonsense(BYTES.vocab_size)), "text")
        assert await text_of(worker, an_engine(), "text") == alone("text")

    with started() as worker:
        asyncio.run(asyncio.wait_for(go(worker), 20))


def test_a_step_that_cannot_be_observed_is_answered_all_the_same() -> None:
    def breaks(engine: Engine, rows: int) -> None:
        raise RuntimeError(f"no gauge for {rows} of {engine}")

    with started() as worker:
        worker.observe = breaks
        assert asyncio.run(asyncio.wait_for(text_of(worker, an_engine(), "text"), 20)) == alone("text")
        assert not worker.stopping


class Unlucky(Worker):
    """Loses its way once beside the work of any request; with `lost`, it does not find back either."""

    lost = False
    _luck = 3

    def _turn(self) -> None:
        super()._turn()
        self._luck -= 1
        if self._luck == 0:
            raise RuntimeError("beside all requests")

    def _give_up(self, error: Exception) -> None:
        if self.lost and not self._ended:
            raise error
        super()._give_up(error)


@pytest.mark.parametrize("lost", [False, True])
def test_a_thread_that_loses_its_way_leaves_nobody_waiting(lost: bool) -> None:
    async def go(worker: Worker) -> None:
        engine = an_engine(1, Endless(BYTES.vocab_size))
        found = await asyncio.gather(
            *(text_of(worker, engine, prompt, LONG) for prompt in ("first", "second")), return_exceptions=True
        )
        assert [type(one) for one in found] == [Failed, Failed]
        assert worker.stopping == lost
        if lost:
            with pytest.raises(Stopping):
                await text_of(worker, engine, "third")
        else:
            assert await text_of(worker, engine, "third")

    worker = Unlucky()
    worker.lost = lost
    worker.start()
    asyncio.run(asyncio.wait_for(go(worker), 20))
    asyncio.run(worker.close(0.0))


def test_closing_finishes_what_runs_and_refuses_new_work() -> None:
    async def go() -> None:
        worker = Worker()
        worker.start()
        engine = an_engine(1)
        tasks = [asyncio.ensure_future(text_of(worker, engine, p)) for p in ("하나", "two")]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(worker.close(20))
        await asyncio.sleep(0)
        with pytest.raises(Stopping):
            worker.stream(engine, [9], GREEDY)
        assert await asyncio.gather(*tasks) == [alone("하나"), alone("two")]
        await closing

    asyncio.run(asyncio.wait_for(go(), 30))


def test_closing_gives_up_what_takes_too_long() -> None:
    async def go() -> None:
        worker = Worker()
        worker.start()
        stream = worker.stream(an_engine(1, Endless(BYTES.vocab_size)), [9], LONG)
        await stream.__anext__()
        await worker.close(0.05)
        with pytest.raises(Stopping):
            _ = [event async for event in stream]

    asyncio.run(asyncio.wait_for(go(), 20))


def test_whoever_closes_need_not_wait_for_a_long_call() -> None:
    begun, release, worker = threading.Event(), threading.Event(), Worker()

    def long_call() -> None:
        begun.set()
        release.wait()

    async def go() -> None:
        call = asyncio.ensure_future(worker.call(long_call))
        await asyncio.to_thread(begun.wait, 60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(worker.close(0), 0.2)
        call.cancel()

    worker.start()
    late = threading.Timer(60, release.set)  # so that a worker that does wait ends this test
    late.start()
    asyncio.run(go())  # which waits for what it has given to other threads
    assert not release.is_set()
    release.set()
    late.cancel()


def test_a_queue_has_room_for_someone() -> None:
    with pytest.raises(UserError, match="1 or more"):
        Worker(max_waiting=0)
