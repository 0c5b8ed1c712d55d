from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.training.schedule import Constant, Cosine, WarmupStableDecay


def test_cosine_of_the_gpt2_reproduction():
    # Karpathy's build-nanogpt: 715 steps of warm-up, 19,073 in all, from 6e-4 to a tenth of it
    schedule = Cosine(use="cosine", warmup_steps=715, final_share=0.1)
    rates = [6e-4 * schedule(step, 19_073) for step in (0, 714, 715, 9894, 19_073)]
    assert rates == pytest.approx([6e-4 / 715, 6e-4, 6e-4, 3.3e-4, 6e-5], rel=1e-4)


def test_the_decay_of_wsd_goes_in_a_line_to_its_end():
    schedule = WarmupStableDecay(use="wsd", warmup_steps=10, decay_share=0.25, final_share=0.2)
    shares = [schedule(step, 100) for step in range(100)]
    assert shares[10:76] == [1.0] * 66
    falls = [before - after for before, after in pairwise(shares[75:])]
    assert falls == pytest.approx([0.8 / 25] * 24)
    assert shares[-1] == pytest.approx(0.2 + 0.8 / 25)


def test_a_decay_to_a_power_falls_early_and_lingers_low():
    line, bent = (
        WarmupStableDecay(use="wsd", warmup_steps=0, decay_share=0.5, final_share=0.1, power=p) for p in (1, 2)
    )
    assert [bent(step, 100) for step in (0, 49, 50)] == [line(step, 100) for step in (0, 49, 50)] == [1.0] * 3
    assert bent(75, 100) == pytest.approx(0.1 + 0.9 * 0.5**2)
    assert line(75, 100) == pytest.approx(0.1 + 0.9 * 0.5)
    assert bent(100, 100) == line(100, 100) == pytest.approx(0.1)


@given(st.integers(0, 10_000), st.floats(0.01, 1.0))
def test_a_decay_that_is_decided_on_the_way_begins_there(stable_steps: int, decay_share: float):
    schedule = WarmupStableDecay(use="wsd", warmup_steps=0, decay_share=decay_share)
    total = schedule.total_steps(stable_steps)
    assert total > stable_steps
    if decay_share < 1:
        assert schedule(stable_steps - 1, None) == schedule(stable_steps - 1, total) == 1.0 or stable_steps == 0
        assert total * (1 - decay_share) == pytest.approx(stable_steps, abs=1)


@given(st.integers(1, 500), st.integers(0, 600))
def test_shares_are_between_0_and_1(total: int, warmup_steps: int):
    for schedule in (
        Constant(use="constant", warmup_steps=warmup_steps),
        Cosine(use="cosine", warmup_steps=warmup_steps),
        WarmupStableDecay(use="wsd", warmup_steps=warmup_steps),
    ):
        assert all(0 < schedule(step, total) <= 1 for step in {0, total // 2, total - 1})
