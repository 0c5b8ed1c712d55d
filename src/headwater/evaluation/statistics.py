"""What can be said of scores: errors of means and ratios, paired differences of two models, tests, and what is too small to see.

Values are of items: 1 and 0 for right and wrong, or any measure. Items that belong together, such as questions about one
passage, have one number in `clusters` and count as one draw. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

Values = Sequence[float] | np.ndarray
Clusters = Sequence[object] | np.ndarray | None
"""For each item which cluster it is of; None: each item is its own."""

_ENUMERATED = 14  # 2^14 sign vectors are tried one by one; of more a sample is drawn
_DRAWN_AT_ONCE = 1 << 22  # numbers of a resampling held at a time: 32 MB


class Estimate(NamedTuple):
    """A number with how far another sample of items would move it."""

    value: float
    standard_error: float | None
    """None where there are fewer than two clusters."""
    items: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Between which two values the truth lies with this confidence, by the normal distribution; None without error."""
        if self.standard_error is None:
            return None
        reach = NormalDist().inv_cdf(0.5 + confidence / 2) * self.standard_error
        return self.value - reach, self.value + reach


class Paired(NamedTuple):
    """How much more one of two models scores on the same items."""

    difference: float
    """Mean of second minus first."""
    standard_error: float | None
    low: float | None
    high: float | None
    """Confidence interval of the difference."""
    better: int
    """Items on which the second scores more."""
    worse: int
    items: int


def ratio(numerators: Values, denominators: Values, clusters: Clusters = None) -> Estimate:
    """Ratio of two sums over items, such as bits over bytes, with the delta method's error.

    Source: Cochran 1977, "Sampling techniques", section 6.4: sqrt(g / (g - 1) x sum of (y - ratio x)^2) / sum of x over
    g clusters, where y and x are a cluster's sums. With x = 1 it is the error of a mean, and with clusters the one that
    Miller 2024 (arXiv:2411.00640), section 2.2, gives for questions that share a passage, times sqrt(g / (g - 1)).

    >>> ratio([1, 3], [1, 1]).value, round(ratio([1, 3], [1, 1]).standard_error, 6)
    (2.0, 1.0)
    """
    y, x = _sums(numerators, clusters), _sums(denominators, clusters)
    whole = float(x.sum())
    value = float(y.sum()) / whole
    count = len(y)
    spread = float(np.square(y - value * x).sum())
    error = math.sqrt(count / (count - 1) * spread) / whole if count > 1 else None
    return Estimate(value, error, len(np.atleast_1d(numerators)))


def mean(values: Values, clusters: Clusters = None) -> Estimate:
    """Mean of items with its standard error; `ratio` says how."""
    return ratio(values, np.ones(len(values)), clusters)


def exponential(estimate: Estimate) -> Estimate:
    """The exponential of an estimate, such as perplexity from nats per token; the error by the delta method.

    >>> exponential(Estimate(0.0, 0.1, 5))
    Estimate(value=1.0, standard_error=0.1, items=5)
    """
    value = math.exp(estimate.value) if estimate.value < 700 else math.inf
    error = None if estimate.standard_error is None else value * estimate.standard_error
    return Estimate(value, error, estimate.items)


def paired(first: Values, second: Values, clusters: Clusters = None, confidence: float = 0.95) -> Paired:
    """Compare two models item by item: what both find hard or easy does not blur the difference.

    Source: Miller 2024 (arXiv:2411.00640), section 4.
    """
    gain = _differences(first, second)
    estimate = mean(gain, clusters)
    low, high = estimate.interval(confidence) or (None, None)
    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    return Paired(estimate.value, estimate.standard_error, low, high, better, worse, len(gain))


def mcnemar(first: Values, second: Values) -> float:
    """Exact McNemar test of two models' right and wrong on the same items: the p-value, two-sided.

    Source: McNemar 1947; of the items that only one has right, each model has half when they are equally good.

    >>> mcnemar([1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0])
    0.0625
    """
    gain = _differences(first, second)
    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    return _binomial_two_sided(min(better, worse), better + worse)


def sign_flip(first: Values, second: Values, clusters: Clusters = None, *, draws: int = 10_000, seed: int = 0) -> float:
    """Permutation test of the mean difference of two models on the same items: the p-value, two-sided.

    When the models are equally good, each item's (or cluster's) difference could as well have the other sign. All signs
    are tried for up to 14 clusters that differ; of more, `draws` are drawn, and the p-value counts what was seen as one.

    Source: Fisher 1935; (hits + 1) / (draws + 1) by Phipson and Smyth 2010 (arXiv:1603.05766).
    """
    sums = _sums(_differences(first, second), clusters)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    seen = abs(float(sums.sum())) * (1 - 1e-12)  # sums in another order differ in their last digits
    if len(sums) <= _ENUMERATED:
        signs = 1 - 2 * (np.arange(1 << len(sums))[:, None] >> np.arange(len(sums)) & 1)
        return float((np.abs(signs @ sums) >= seen).mean())
    random, hits, left = np.random.default_rng(seed), 0, draws
    while left:
        rows = min(left, max(_DRAWN_AT_ONCE // len(sums), 1))
        signs = 1 - 2 * random.integers(0, 2, (rows, len(sums)), dtype=np.int8).astype(np.float64)
        hits += int((np.abs(signs @ sums) >= seen).sum())
        left -= rows
    return (hits + 1) / (draws + 1)


def bootstrap(
    numerators: Values,
    denominators: Values | None = None,
    clusters: Clusters = None,
    *,
    draws: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Confidence interval of a mean or a ratio of sums, by drawing clusters anew with replacement.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13 (percentiles); whole clusters are
    drawn as in Field and Welsh 2007.
    """
    y = _sums(numerators, clusters)
    x = _sums(np.ones(len(numerators)) if denominators is None else denominators, clusters)
    random, found, left = np.random.default_rng(seed), [], draws
    while left:
        rows = min(left, max(_DRAWN_AT_ONCE // len(y), 1))
        picked = random.integers(0, len(y), (rows, len(y)))
        found.append(y[picked].sum(axis=1) / x[picked].sum(axis=1))
        left -= rows
    low, high = np.quantile(np.concatenate(found), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tests, adjusted so that among all of them one false alarm is as rare as each one says.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted, worst = {}, 0.0
    for done, (name, value) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        worst = max(worst, min((len(p_values) - done) * value, 1.0))
        adjusted[name] = worst
    return {name: adjusted[name] for name in p_values}


def minimum_detectable(standard_error: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference that a two-sided test at `alpha` finds with this probability.

    Args:
        standard_error: of the difference: for two models that are scored independently sqrt(2) times that of one score.
        power: probability to find it.
        alpha: probability to see a difference where there is none.

    Source: Miller 2024 (arXiv:2411.00640), section 5: (z_(1 - alpha / 2) + z_power) x standard error.

    >>> round(minimum_detectable(0.01), 4)
    0.028
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * standard_error


def above_chance(right: int, items: int, chance: float) -> float:
    """The p-value that guessing has so many items right, or more: the exact binomial test, one-sided.

    >>> above_chance(2, 2, 0.5)
    0.25
    """
    return min(math.fsum(_binomial(hits, items, chance) for hits in range(right, items + 1)), 1.0)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Probability that one of `k` of a problem's `samples` is right, without bias.

    Source: Chen et al. 2021 (arXiv:2107.03374), equation 1: 1 - C(n - c, k) / C(n, k).

    >>> pass_at_k(2, 1, 1), pass_at_k(10, 3, 10)
    (0.5, 1.0)
    """
    assert 0 < k <= samples, "draw no more than there are"
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def _sums(values: Values, clusters: Clusters) -> np.ndarray:
    """Sum of each cluster's values [clusters] float64."""
    found = np.asarray(values, np.float64)
    if clusters is None:
        return found
    assert len(clusters) == len(found), "each item is of one cluster"
    _, of = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(of, weights=found)


def _differences(first: Values, second: Values) -> np.ndarray:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    assert a.shape == b.shape, "both models have scores for the same items"
    return b - a


def _binomial(hits: int, trials: int, chance: float) -> float:
    """Probability of so many hits."""
    if chance in (0.0, 1.0):
        return float(hits == trials * chance)
    ways = math.lgamma(trials + 1) - math.lgamma(hits + 1) - math.lgamma(trials - hits + 1)
    return math.exp(ways + hits * math.log(chance) + (trials - hits) * math.log1p(-chance))


def _binomial_two_sided(fewer: int, trials: int) -> float:
    """Probability of so uneven a split of fair trials, on either side."""
    return min(2 * math.fsum(_binomial(hits, trials, 0.5) for hits in range(fewer + 1)), 1.0)
