"""Published laws: constants give what their sources, and those who checked them, computed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.model import laws

BESIROGLU, HOFFMANN, PRINTED = (laws.LOSS_LAWS[name] for name in ("besiroglu", "hoffmann", "hoffmann_printed"))


@pytest.mark.parametrize(
    ("law", "flops", "ratio"),
    [
        (PRINTED, 1e18, 25.7), (PRINTED, 1e19, 32), (PRINTED, 1e22, 63), (PRINTED, 5.76e23, 92.6),
        (HOFFMANN, 1e18, 18.6), (HOFFMANN, 5.76e23, 58.9),
        (BESIROGLU, 1e19, 24.2), (BESIROGLU, 1e22, 20.4), (BESIROGLU, 5.76e23, 18.4),
    ],
)  # fmt: skip
def test_tokens_for_each_parameter(law: laws.LossLaw, flops: float, ratio: float) -> None:
    assert law.optimal_ratio(flops) == pytest.approx(ratio, rel=0.01)


@given(st.sampled_from(list(laws.LOSS_LAWS.values())), st.floats(1e16, 1e26))
def test_the_optimum_is_one(law: laws.LossLaw, flops: float) -> None:
    parameters, tokens = law.optimum(flops)
    assert 6 * parameters * tokens == pytest.approx(flops)
    assert law.optimal_tokens(parameters) == pytest.approx(tokens, rel=1e-6)
    best = law.loss(parameters, tokens)
    assert best <= min(law.loss(parameters * x, tokens / x) for x in (0.5, 0.9, 1.1, 2.0))


@given(st.floats(1e6, 1e12), st.floats(1e8, 1e13))
def test_more_is_better(parameters: float, tokens: float) -> None:
    for law in laws.LOSS_LAWS.values():
        assert law.loss(2 * parameters, tokens) < law.loss(parameters, tokens)
        assert law.loss(parameters, 2 * tokens) < law.loss(parameters, tokens)
        assert law.tokens_for(law.loss(parameters, tokens), parameters) == pytest.approx(tokens, rel=1e-3)
    assert BESIROGLU.tokens_for(BESIROGLU.E, parameters) == math.inf


def test_a_model_that_is_served_is_smaller_and_longer_trained() -> None:
    """Sardana et al.: 13B with 2T tokens served -> 7B and 1.7e22 FLOPs (17 %) less; unrounded constants give 1.63e22."""
    tokens = HOFFMANN.optimal_tokens(13e9)
    loss = HOFFMANN.loss(13e9, tokens)
    parameters, longer = laws.least_compute_for(HOFFMANN, loss, 2e12)
    before, after = (6 * n * d + 2 * n * 2e12 for n, d in ((13e9, tokens), (parameters, longer)))
    assert parameters == pytest.approx(7.1e9, rel=0.01)
    assert longer == pytest.approx(1.30e12, rel=0.01)
    assert before - after == pytest.approx(1.63e22, rel=0.01)
    assert (before - after) / before == pytest.approx(0.163, abs=0.001)
    with pytest.raises(ValueError, match="no model"):
        laws.least_compute_for(HOFFMANN, HOFFMANN.E, 1e12)


def test_seen_again() -> None:
    law = laws.DATA_CONSTRAINED
    assert law.loss(6.34e9, 242e9, 25e9) == pytest.approx(2.2256440889984477, rel=1e-12)
    assert law.loss(8.67e9, 178e9, 25e9) == pytest.approx(2.2269634075087867, rel=1e-12)
    assert [round(law.worth(n), 2) for n in (1, 2, 4)] == [1.0, 1.97, 3.73]
    assert [round(law.worth(n), 1) for n in (8, 16, 44)] == [6.6, 10.6, 15.4]
    assert law.worth(1e9) == pytest.approx(16.39, abs=0.01)
    assert law.worth(0.5) == 0.5


def test_llama_3_as_printed_is_another_law() -> None:
    assert laws.llama3_tokens(3.8e25) == pytest.approx(16.55e12, rel=0.01)
    assert pytest.approx(10.46e12, rel=0.01) == 0.29 * 3.8e25**0.53


@pytest.mark.parametrize(
    ("layers", "hidden", "rate", "batch", "used"),
    [(30, 4096, 4.246e-4, 9.22e6, (4.2e-4, 9.44e6)), (95, 8192, 3.12e-4, 20.6e6, (3.2e-4, 18.9e6))],
)
def test_deepseek_rate_and_batch(
    layers: int, hidden: int, rate: float, batch: float, used: tuple[float, float]
) -> None:
    flops = laws.deepseek_flops_per_token(layers, hidden, 4096) * 2e12
    assert laws.deepseek_rate(flops) == pytest.approx(rate, rel=0.005)
    assert laws.deepseek_batch(flops) == pytest.approx(batch, rel=0.005)
    assert laws.deepseek_rate(flops) == pytest.approx(used[0], rel=0.03)
    assert laws.deepseek_batch(flops) == pytest.approx(used[1], rel=0.1)


def test_step_law_and_power_lines() -> None:
    assert laws.step_law_rate(7e9, 1.4e12) == pytest.approx(9.17e-4, rel=0.01)
    assert laws.step_law_batch(1.4e12) == pytest.approx(5.00e6, rel=0.01)
    assert laws.power_lines_batch(5e9) == 2**19
    assert laws.power_lines_batch(40e9) == pytest.approx(2**19 * 8**0.383)


@pytest.mark.parametrize(
    ("size", "tokens", "grown"), [(8e9, 15e12, 6.58), (7e9, 2e12, 11.11), (13e9, 2e12, 15.84), (70e9, 2e12, 42.48)]
)
def test_growth(size: float, tokens: float, grown: float) -> None:
    assert laws.growth_tokens(size, 6 * size * tokens) / 1e9 == pytest.approx(grown, rel=0.001)


def test_warmup_is_a_share_of_the_steps() -> None:
    assert laws.warmup_steps(1e6, 2048) == 10
    assert laws.warmup_steps(100e9, 1e6) == 1000
    assert laws.warmup_steps(2e12, 4e6) == 2000


def test_advice_names_its_law() -> None:
    advice = laws.hyperparameters(6.5e9, 2e12, 9e22)
    assert {one.setting for one in advice} == {"batch_tokens", "learning_rate (AdamW)", "warmup_steps"}
    assert all(one.link.startswith("arXiv:") and one.law for one in advice)
