from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmoi.learn.optim import Schedule, learning_rate_factor

KINDS: tuple[Schedule, ...] = ("cosine", "wsd", "constant")


def factors(kind: Schedule, steps: int = 100, warmup: int = 10, floor: float = 0.1) -> list[float]:
    return [
        learning_rate_factor(n, steps=steps, kind=kind, warmup_steps=warmup, floor=floor, decay_fraction=0.2)
        for n in range(steps)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_warms_up_linearly(kind: Schedule) -> None:
    assert factors(kind)[:10] == pytest.approx([n / 10 for n in range(1, 11)])


def test_cosine_is_halfway_at_half_time() -> None:
    found = factors("cosine", steps=110)
    assert found[60] == pytest.approx(0.55)
    assert found[-1] == pytest.approx(0.1, abs=1e-3)


def test_wsd_is_stable_then_falls_to_its_floor() -> None:
    found = factors("wsd")
    assert set(found[9:81]) == {1.0}
    assert found[90] == pytest.approx(0.55)
    assert found[-1] == pytest.approx(0.145)


def test_constant_stays() -> None:
    assert set(factors("constant")[9:]) == {1.0}


@given(st.sampled_from(KINDS), st.integers(1, 200), st.integers(0, 300), st.floats(0, 1), st.floats(0.01, 1))
def test_is_always_a_share(
    kind: Schedule, steps: int, warmup: int, floor: float, decay_fraction: float
) -> None:
    for step in range(steps):
        factor = learning_rate_factor(
            step, steps=steps, kind=kind, warmup_steps=warmup, floor=floor, decay_fraction=decay_fraction
        )
        assert 0 <= factor <= 1 + 1e-9
