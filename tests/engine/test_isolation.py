"""What goes wrong with one sample ends it, says why, and changes no other."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from malmoi.core.errors import UserError
from malmoi.engine import Engine, Sampling, TokenEvent
from malmoi.engine.beam import beam_search
from malmoi.engine.constraints import Matcher, choice
from malmoi.engine.prefixes import Prefixes
from malmoi.engine.score import score, score_choices, token_logprobs
from malmoi.models.build import build_model
from malmoi.models.config import RecurrentConfig, TransformerConfig
from malmoi.models.state import Scorer, State
from tests.engine.fake_scorer import FakeScorer, Histories
from tests.engine.scripted import BYTES

VOCAB = BYTES.vocab_size
GREEDY = Sampling(temperature=0, max_tokens=8, logit_bias=tuple((id, -100.0) for id in range(7)))
PROMPTS = [[20 + i] * (3 + 2 * i) for i in range(4)]
BAD = 33  # a token that something goes wrong with


class Fault(RuntimeError):
    """What a test injects."""


def model(family: str) -> Scorer:
    torch.manual_seed(3)
    config = (
        TransformerConfig(vocab_size=VOCAB, context=64, layers=2, width=16, heads=2)
        if family == "transformer"
        else RecurrentConfig(family="lstm", vocab_size=VOCAB, layers=1, width=16)
    )
    made = build_model(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3.0)
    return made


SCORERS: dict[str, Scorer] = {
    "fake": FakeScorer(VOCAB),
    "transformer": model("transformer"),
    "lstm": model("lstm"),
}


@dataclass
class Faulty:
    """A scorer that answers as `inner` unless `fault` objects, before or after it has changed the state."""

    inner: Scorer
    fault: Callable[[Tensor, State], None]
    late: bool = False

    @property
    def vocab_size(self) -> int:
        return self.inner.vocab_size

    @property
    def context(self) -> int | None:
        return self.inner.context

    def new_state(self, rows: int, capacity: int = 0) -> State:
        return self.inner.new_state(rows, capacity)

    def step(self, ids_BT: Tensor, counts_B: Tensor, state: State, *, last_only: bool = False) -> Tensor:
        if not self.late:
            self.fault(ids_BT, state)
        logits = self.inner.step(ids_BT, counts_B, state, last_only=last_only)
        if self.late:
            self.fault(ids_BT, state)
        return logits


def reads_bad(ids_BT: Tensor, state: State) -> None:
    del state
    if bool((ids_BT == BAD).any()):
        raise Fault


def run(engine: Engine, requests: Sequence[int], begun: Sequence[TokenEvent] = ()) -> list[list[TokenEvent]]:
    """The events of each request, those that have come already included."""
    events = list(begun)
    while engine.busy:
        events += engine.step()
    return [[event for event in events if event.request == request] for request in requests]


def alone(scorer: Scorer, prompt: Sequence[int], params: Sampling = GREEDY) -> list[int]:
    (answer,) = Engine(scorer, BYTES).generate([prompt], params)
    return list(answer.ids)


def ids_of(events: Sequence[TokenEvent]) -> list[int]:
    return [event.id for event in events if event.id is not None]


def expect(
    scorer: Scorer, events: Sequence[Sequence[TokenEvent]], failed: int, error: type[Exception]
) -> None:
    """Only this request has failed; the others answer as alone."""
    for i, of_request in enumerate(events):
        last = of_request[-1]
        if i == failed:
            assert last.finished == "failed"
            assert isinstance(last.error, error)
            assert last.id is None
        else:
            assert last.error is None
            assert ids_of(of_request) == alone(scorer, PROMPTS[i])


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", SCORERS)
def test_a_prompt_that_cannot_be_read(name: str, late: bool, deterministic: bool) -> None:
    engine = Engine(Faulty(SCORERS[name], reads_bad, late), BYTES, deterministic=deterministic)
    prompts = [*PROMPTS[:2], [9, BAD, 9], PROMPTS[3]]
    events = run(engine, [engine.submit(prompt, GREEDY) for prompt in prompts])
    expect(SCORERS[name], events, 2, Fault)


@pytest.mark.parametrize("prefix_bytes", [0, 1 << 20])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", SCORERS)
def test_a_row_that_cannot_be_continued(name: str, late: bool, prefix_bytes: int) -> None:
    """What the others' state has become meanwhile does not show in what they say."""
    rows: list[int] = []

    def fault(ids_BT: Tensor, state: State) -> None:
        rows.append(len(ids_BT))
        if int(state.lengths_B.max()) + (0 if late else ids_BT.shape[1]) >= 24:
            raise Fault

    engine = Engine(Faulty(SCORERS[name], fault, late), BYTES, prefix_bytes=prefix_bytes)
    prompts = [*PROMPTS[:2], [22] * 20, PROMPTS[3]]
    events = run(engine, [engine.submit(prompt, GREEDY) for prompt in prompts])
    expect(SCORERS[name], events, 2, Fault)
    assert len(ids_of(events[2])) == 4
    assert max(rows) > 1


@pytest.mark.parametrize("name", SCORERS)
def test_rows_that_fail_together_only_go_on_apart(name: str) -> None:
    failed: list[int] = []

    def fault(ids_BT: Tensor, state: State) -> None:
        del state
        if ids_BT.shape[0] > 1 and ids_BT.shape[1] == 1:
            failed.append(len(ids_BT))
            raise Fault

    engine = Engine(Faulty(SCORERS[name], fault, late=True), BYTES)
    events = run(engine, [engine.submit(prompt, GREEDY) for prompt in PROMPTS])
    assert [ids_of(of_request) for of_request in events] == [alone(SCORERS[name], p) for p in PROMPTS]
    assert failed == [len(PROMPTS)], "the rows were joined again"


def test_a_state_that_cannot_drop_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(self: Histories, rows: Sequence[int]) -> None:
        self.rows = []  # broken on the way
        raise Fault(rows)

    scorer = FakeScorer(VOCAB)
    expected = [alone(scorer, prompt) for prompt in PROMPTS]
    monkeypatch.setattr(Histories, "keep", keep)
    engine = Engine(scorer, BYTES)
    short = engine.submit([9], replace(GREEDY, max_tokens=2))
    numbers = [engine.submit(prompt, GREEDY) for prompt in PROMPTS]
    gone = engine.submit([10], GREEDY)
    begun = engine.step()
    engine.cancel(gone)
    of_short, *events = run(engine, [short, *numbers], begun)
    assert [ids_of(of_request) for of_request in events] == expected
    assert of_short[-1].finished == "length"


def test_states_that_cannot_be_joined_go_on_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def join(self: Histories, others: Sequence[Histories]) -> Histories:
        raise Fault(self, others)

    scorer = FakeScorer(VOCAB)
    expected = [alone(scorer, prompt) for prompt in PROMPTS]
    monkeypatch.setattr(Histories, "join", join)
    engine, numbers, begun = Engine(scorer, BYTES), list[int](), list[TokenEvent]()
    for prompt in PROMPTS:
        numbers.append(engine.submit(prompt, GREEDY))
        begun += engine.step()
    assert [ids_of(of_request) for of_request in run(engine, numbers, begun)] == expected


@pytest.mark.parametrize("name", ["find", "add"])
def test_what_was_read_before_is_a_help_and_no_need(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise Fault

    monkeypatch.setattr(Prefixes, name, fails)
    scorer = FakeScorer(VOCAB)
    answers = Engine(scorer, BYTES, prefix_bytes=1 << 20).generate(PROMPTS, GREEDY)
    assert [list(answer.ids) for answer in answers] == [alone(FakeScorer(VOCAB), one) for one in PROMPTS]


@pytest.mark.parametrize("name", ["mask", "consume"])
def test_a_constraint_that_breaks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise Fault

    monkeypatch.setattr(Matcher, name, fails)
    scorer = FakeScorer(VOCAB)
    engine = Engine(scorer, BYTES)
    each = [replace(GREEDY, constraint=choice(["yes"]) if i == 1 else None) for i in range(4)]
    events = run(engine, [engine.submit(*one) for one in zip(PROMPTS, each, strict=True)])
    expect(scorer, events, 1, Fault)


def test_a_request_whose_rows_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FakeScorer(VOCAB), BYTES)
    engine._batch.constrainer  # noqa: B018 - the property is made, so that only its matcher fails
    monkeypatch.setattr("malmoi.engine.constraints.Constrainer.matcher", lambda *_: pairwise(None))  # type: ignore[arg-type]
    bad = engine.submit([9], replace(GREEDY, constraint=choice(["yes"]), n=2))
    good = engine.submit(PROMPTS[0], GREEDY)
    of_bad, of_good = run(engine, [bad, good])
    assert [(event.index, event.finished, type(event.error)) for event in of_bad] == [
        (0, "failed", TypeError),
        (1, "failed", TypeError),
    ]
    assert ids_of(of_good) == alone(FakeScorer(VOCAB), PROMPTS[0])


def test_text_that_cannot_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = iter(range(4))

    def stream() -> Callable[[int | None], str]:
        number, decode = next(decoders), BYTES.__class__.stream(BYTES)
        count = iter(range(100))

        def decoded(id: int | None) -> str:
            if number == 2 and next(count) > len(PROMPTS[2]) + 2:
                raise Fault
            return decode(id)

        return decoded

    scorer = FakeScorer(VOCAB)
    expected = [alone(scorer, prompt) for prompt in PROMPTS]
    monkeypatch.setattr(BYTES, "stream", stream)
    engine = Engine(scorer, BYTES)
    events = run(engine, [engine.submit(prompt, GREEDY) for prompt in PROMPTS])
    assert [of_request[-1].finished for of_request in events] == ["length", "length", "failed", "length"]
    assert ids_of(events[2]) == expected[2][:3]
    for i in (0, 1, 3):
        assert ids_of(events[i]) == expected[i]


# --- numbers that are not finite


class NotFinite(FakeScorer):
    """A logit of texts with BAD in them is `value`."""

    value = torch.nan
    place: int | slice = 50

    def logits(self, history: Sequence[int]) -> Tensor:
        logits = super().logits(history)
        if BAD in history:
            logits[self.place] = self.value
        return logits


@pytest.mark.parametrize(
    ("value", "place"),
    [(torch.nan, 50), (torch.inf, 50), (-torch.inf, slice(None)), (torch.nan, slice(None))],
)
@pytest.mark.parametrize(
    "params",
    [
        GREEDY,
        Sampling(max_tokens=3, seed=1),
        Sampling(max_tokens=3, seed=1, top_p=0.5, top_k=9, min_p=0.1),
        Sampling(max_tokens=3, repetition_penalty=1.5, presence_penalty=1.0, logprobs=3),
        replace(GREEDY, constraint=choice(["yes", "no"])),
    ],
)
def test_a_row_whose_numbers_are_not_finite_ends_alone(
    params: Sampling, value: float, place: int | slice
) -> None:
    scorer = NotFinite(VOCAB)
    scorer.value, scorer.place = value, place
    engine = Engine(scorer, BYTES)
    bad, *others = [engine.submit(ids, params) for ids in ([9, BAD], *PROMPTS)]
    (last,), *events = run(engine, [bad, *others])
    assert last.finished == "failed"
    assert isinstance(last.error, UserError)
    assert "not finite" in str(last.error)
    assert "\n" not in str(last.error)
    if params.temperature == 0:
        for prompt, of_request in zip(PROMPTS, events, strict=True):
            assert ids_of(of_request) == alone(FakeScorer(VOCAB), prompt, params)
    else:
        assert all(of_request[-1].error is None for of_request in events)


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine: engine.generate([[9], [BAD]], GREEDY),
        lambda engine: list(engine.stream([BAD], Sampling(n=2))),
        lambda engine: score(engine, [[9], [BAD]], [[9], [10]]),
        lambda engine: score_choices(engine, [[9]], [[[9, 10], [BAD, 9]]]),
        lambda engine: token_logprobs(engine, [9, BAD, 9]),
        lambda engine: beam_search(engine.scorer, Histories([[BAD]]), 9, 8, 2, [5]),
    ],
)
def test_damaged_weights_are_a_clear_error(ask: Callable[[Engine], object]) -> None:
    engine = Engine(NotFinite(VOCAB), BYTES)
    with pytest.raises(UserError, match="not finite"):
        ask(engine)
    while engine.busy:
        engine.step()
    assert list(engine.generate([PROMPTS[0]], GREEDY)[0].ids) == alone(FakeScorer(VOCAB), PROMPTS[0])


# --- what no sample is to blame for


def test_an_interrupted_step_ends_what_runs_and_the_engine_goes_on() -> None:
    asked = iter(range(100))

    def interrupt(*_: object) -> None:
        if next(asked) == 2:
            raise KeyboardInterrupt

    engine = Engine(Faulty(FakeScorer(VOCAB), interrupt, late=True), BYTES)
    other = engine.submit(PROMPTS[1], GREEDY)
    with pytest.raises(KeyboardInterrupt):
        engine.generate([PROMPTS[0]], GREEDY)
    (of_other,) = run(engine, [other])
    assert of_other[-1].finished == "cancelled"
    assert list(engine.generate([PROMPTS[0]], GREEDY)[0].ids) == alone(FakeScorer(VOCAB), PROMPTS[0])


def test_a_failure_beside_all_samples_ends_those_that_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FakeScorer(VOCAB), BYTES, max_rows=2)
    numbers = [engine.submit(prompt, GREEDY) for prompt in PROMPTS[:3]]
    with monkeypatch.context() as patch:
        patch.setattr("malmoi.engine.step.Batch._forward", lambda _: pairwise(None))  # type: ignore[arg-type]
        failed = engine.step()
    assert [(event.request, event.finished) for event in failed] == [(n, "failed") for n in numbers[:2]]
    assert ids_of(run(engine, numbers)[2]) == alone(FakeScorer(VOCAB), PROMPTS[2])


# --- cancelling


def test_a_stream_that_is_collected_within_a_step_changes_nothing_else() -> None:
    """The collector may close a forgotten stream at any time, between any two lines of a step."""
    held: list[object] = []

    def collect(ids_BT: Tensor, state: State) -> None:
        del state
        if len(ids_BT) == 3:
            held.clear()
            gc.collect()

    engine = Engine(Faulty(SCORERS["transformer"], collect, late=True), BYTES)
    *streams, forgotten = [engine.stream(prompt, GREEDY) for prompt in PROMPTS[:3]]
    begun = [next(stream) for stream in (*streams, forgotten)]
    held.append(forgotten)
    del forgotten
    for prompt, first, rest in zip(PROMPTS, begun, streams, strict=False):
        assert ids_of([first, *rest]) == alone(SCORERS["transformer"], prompt)
    assert not held
    assert not engine.busy


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_rows_that_leave_from_anywhere_change_no_answer(name: str) -> None:
    engine = Engine(SCORERS[name], BYTES, prefix_bytes=1 << 20)
    gone = engine.submit(PROMPTS[0], replace(GREEDY, n=3))
    stays = [engine.submit(prompt, GREEDY) for prompt in PROMPTS[1:3]]
    middle = engine.submit(PROMPTS[0], replace(GREEDY, n=2))
    late = engine.submit(PROMPTS[3], GREEDY)
    begun = engine.step()
    engine.cancel(gone)
    begun += engine.step()
    engine.cancel(middle)
    assert engine.num_running == 3
    events = run(engine, [*stays, late], begun)
    assert [ids_of(of_request) for of_request in events] == [alone(SCORERS[name], p) for p in PROMPTS[1:]]
