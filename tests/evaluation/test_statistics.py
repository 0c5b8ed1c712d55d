from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from headwater.evaluation.score import bits_per_byte
from headwater.evaluation.statistics import (
    Estimate,
    above_chance,
    bootstrap,
    exponential,
    holm,
    mcnemar,
    mean,
    minimum_detectable,
    paired,
    pass_at_k,
    ratio,
    sign_flip,
)

RANDOM = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Each test draws the same numbers, whichever ran before it."""
    global RANDOM
    RANDOM = np.random.default_rng(0)


marks = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def test_mean_is_that_of_scipy():
    values = RANDOM.normal(size=50)
    found = mean(values)
    assert found.value == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(stats.sem(values))
    low, high = found.interval(0.9)
    assert (low, high) == pytest.approx(stats.norm.interval(0.9, values.mean(), stats.sem(values)))


def test_one_item_has_no_error():
    assert mean([1.0]) == Estimate(1.0, None, 1)
    assert mean([1.0, 0.0, 1.0], clusters=["a", "a", "a"]).standard_error is None
    assert mean([1.0]).interval() is None
    assert exponential(Estimate(0.0, None, 1)).standard_error is None


def test_error_of_a_ratio_is_that_of_many_samples():
    """Documents drawn again and again: their ratios scatter as the error of one sample says."""
    sizes = RANDOM.integers(20, 400, (4000, 200)).astype(float)
    bits = sizes * RANDOM.normal(1.5, 0.3, sizes.shape)
    ratios = bits.sum(axis=1) / sizes.sum(axis=1)
    told = [ratio(y, x).standard_error for y, x in zip(bits[:200], sizes[:200], strict=True)]
    assert np.mean(told) == pytest.approx(ratios.std(), rel=0.05)


def test_error_of_perplexity_is_that_of_many_samples():
    nats = RANDOM.normal(3.0, 0.8, (4000, 300))
    told = exponential(mean(nats[0])).standard_error
    assert told == pytest.approx(np.exp(nats.mean(axis=1)).std(), rel=0.1)


def test_score_of_documents_and_ratio_agree():
    losses, sizes = RANDOM.uniform(5, 50, 30), RANDOM.integers(10, 90, 30)
    score, found = bits_per_byte(losses, sizes, sizes // 3), ratio(losses / math.log(2), sizes)
    assert (score.value, score.standard_error) == pytest.approx((found.value, found.standard_error))


def test_clusters_count_as_one_draw():
    """The same items four times over tell no more than once; four times as many of them would halve the error."""
    values = RANDOM.normal(size=40)
    once, copied = mean(values), mean(np.repeat(values, 4), clusters=np.repeat(np.arange(40), 4))
    assert copied.standard_error == pytest.approx(once.standard_error)
    assert mean(np.repeat(values, 4)).standard_error == pytest.approx(once.standard_error / 2, rel=0.02)
    assert copied.items == 160


def test_paired_is_that_of_scipy():
    first, second = RANDOM.normal(size=80), RANDOM.normal(0.2, 1, size=80)
    found = paired(first, second)
    assert found.difference / found.standard_error == pytest.approx(stats.ttest_rel(second, first).statistic)
    assert found.low < found.difference < found.high
    assert found.better + found.worse == found.items == 80


def test_pairing_takes_away_what_both_find_hard():
    hard = RANDOM.normal(0, 5, 200)
    found = paired(hard + RANDOM.normal(size=200), hard + 0.5 + RANDOM.normal(size=200))
    assert found.standard_error < mean(hard).standard_error / 3
    assert found.low > 0


@given(marks)
def test_mcnemar_is_the_binomial_test(items):
    first, second = zip(*items, strict=True)
    better = sum(b and not a for a, b in items)
    worse = sum(a and not b for a, b in items)
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)


def test_mcnemar_of_many_items_is_finite():
    first, second = np.zeros(20_000), np.r_[np.ones(10_400), np.zeros(9_600)]
    assert mcnemar(first, second) < 1e-300
    assert mcnemar(second, np.roll(second, 5_000)) == pytest.approx(1.0)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_sign_flip_tries_every_sign(gains):
    """Brute force over all signs, differences of 0 included."""
    every = [
        abs(sum(s * g for s, g in zip(signs, gains, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(gains))
    ]
    expected = np.mean(np.array(every) >= abs(sum(gains)))
    assert sign_flip(np.zeros(len(gains)), gains) == pytest.approx(expected)


def test_sign_flip_of_many_is_that_of_scipy():
    gain = RANDOM.normal(0.15, 1, 120)
    options = {"permutation_type": "samples", "n_resamples": 20_000, "rng": np.random.default_rng(1)}
    expected = stats.permutation_test(
        (gain, np.zeros(120)), lambda a, b, axis: (a - b).mean(axis), vectorized=True, **options
    )
    assert sign_flip(np.zeros(120), gain, draws=20_000) == pytest.approx(expected.pvalue, abs=0.02)
    assert sign_flip(np.zeros(120), gain) == sign_flip(np.zeros(120), gain)  # the same signs are drawn again
    together = sign_flip(np.zeros(120), np.ones(120), clusters=np.arange(120) // 60)
    assert together == 0.5  # two clusters: four signs, two of them as large


def test_bootstrap_of_a_mean_is_that_of_scipy():
    values = RANDOM.exponential(size=100)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert bootstrap(values) == pytest.approx(tuple(expected), abs=0.02)


def test_bootstrap_of_a_ratio_agrees_with_the_delta_method():
    sizes = RANDOM.integers(20, 400, 300).astype(float)
    bits = sizes * RANDOM.normal(1.5, 0.3, 300)
    assert bootstrap(bits, sizes) == pytest.approx(ratio(bits, sizes).interval(), abs=0.01)
    clusters = np.arange(300) // 3
    assert bootstrap(bits, sizes, clusters) == pytest.approx(ratio(bits, sizes, clusters).interval(), abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test(values):
    """Closed testing by brute force: a hypothesis falls when every group of hypotheses with it falls by Bonferroni."""
    names = [str(n) for n in range(len(values))]
    found = holm(dict(zip(names, values, strict=True)))
    for n, name in enumerate(names):
        groups = [
            g for size in range(1, len(values) + 1) for g in itertools.combinations(range(len(values)), size) if n in g
        ]
        expected = max(min(len(g) * min(values[i] for i in g), 1.0) for g in groups)
        assert found[name] == pytest.approx(expected)
    assert list(found) == names


def test_minimum_detectable_difference_is_found_four_times_in_five():
    error, items = 0.02, 20_000
    true = minimum_detectable(error)
    seen = RANDOM.normal(true, error, items)
    assert np.mean(np.abs(seen) > stats.norm.ppf(0.975) * error) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("right", "items", "chance"), [(3, 10, 0.25), (0, 10, 0.5), (10, 10, 0.5), (260, 1000, 0.25), (5, 5, 0.0)]
)
def test_above_chance_is_the_binomial_test(right, items, chance):
    assert above_chance(right, items, chance) == pytest.approx(stats.binomtest(right, items, chance, "greater").pvalue)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_counts_every_choice(samples, data):
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    choices = list(itertools.combinations([1] * right + [0] * (samples - right), k))
    assert pass_at_k(samples, right, k) == pytest.approx(np.mean([any(choice) for choice in choices]))
