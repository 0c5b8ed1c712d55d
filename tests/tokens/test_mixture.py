from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.core.errors import MismatchError
from headwater.tokens.mixture import PERIOD, Mixture, RowPattern

TOKENS = {"prose": 6_000, "code": 100_000}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=7))
def test_every_prefix_has_each_share_to_within_one_row(parts: list[int]):
    pattern = RowPattern({str(i): part for i, part in enumerate(parts)})
    counts = dict.fromkeys(pattern.names, 0)
    for row in range(2 * pattern.period):
        name, rank = pattern.row(row)
        assert rank == counts[name], "rows of a source are counted without a gap"
        counts[name] += 1
        assert counts == pattern.counts(row + 1)
        for i, part in enumerate(parts):
            assert abs(counts[str(i)] - Fraction((row + 1) * part, pattern.period)) < 1


def test_decimal_weights_are_exact_and_need_not_add_up_to_one():
    assert Mixture(weights={"prose": 0.7, "code": 0.3}).parts(TOKENS) == {"prose": 7, "code": 3}
    assert Mixture(weights={"prose": 2, "code": 6}).parts(TOKENS) == {"prose": 1, "code": 3}
    assert Mixture(weights={"prose": 1, "code": 0}).parts(TOKENS) == {"prose": 1}


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=9))
def test_rounded_weights_are_within_one_part(weights: list[float]):
    names = [str(i) for i in range(len(weights))]
    parts = Mixture(weights=dict(zip(names, weights, strict=True))).parts(dict.fromkeys(names, 1000))
    period = sum(parts.values())
    assert period <= PERIOD + len(weights)
    for name, weight in zip(names, weights, strict=True):
        assert abs(parts[name] / period - weight / sum(weights)) < (1 + len(weights)) / PERIOD


def test_without_weights_all_sources_last_equally_long():
    plan = Mixture(max_epochs=1).plan({"prose": 1_000_003, "code": 7_654_321}, 512, 8_654_324 // 512)
    assert [source.epochs for source in plan.sources] == pytest.approx([1, 1], abs=1e-3)
    assert sum(source.rows for source in plan.sources) == 8_654_324 // 512


def test_the_plan_is_in_whole_numbers():
    plan = Mixture(weights={"prose": 0.2, "code": 0.8}, max_epochs=4).plan(TOKENS, 100, 1000)
    prose, code = plan.sources
    assert (prose.rows, code.rows) == (200, 800)
    assert (prose.requested_tokens, prose.available_tokens, prose.deliverable_tokens) == (20_000, 6_000, 24_000)
    assert prose.epochs == pytest.approx(20 / 6)
    assert plan.to_json()["code"]["epochs"] == pytest.approx(0.8)


def test_too_many_epochs_are_refused_with_the_numbers():
    with pytest.raises(MismatchError) as caught:
        Mixture(weights={"prose": 0.5, "code": 0.5}, max_epochs=4).plan(TOKENS, 100, 1000)
    assert "source 'prose' cannot give 50,000 tokens: it has 6,000, which are 24,000 in 4 epochs" in str(caught.value)
    assert "at most 48k tokens in all" in str(caught.value)
    assert "max_epochs to 9" in str(caught.value)
    Mixture(weights={"prose": 0.5, "code": 0.5}, max_epochs=4).plan(TOKENS, 100, 480)
    Mixture(weights={"prose": 0.5, "code": 0.5}, max_epochs=9).plan(TOKENS, 100, 1000)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"prose": 1}, "source 'code' has no weight"),
        ({"prose": 1, "code": 1, "web": 1}, "weight for 'web', which is not a source"),
    ],
)
def test_weights_and_sources_must_agree(weights: dict[str, float], message: str):
    with pytest.raises(MismatchError, match=message):
        Mixture(weights=weights).parts(TOKENS)


def test_a_source_without_tokens_cannot_have_a_weight():
    with pytest.raises(MismatchError, match="'prose' has a weight but no tokens"):
        Mixture(weights={"prose": 1, "code": 1}).parts({"prose": 0, "code": 5})
    with pytest.raises(MismatchError, match="no source has any tokens"):
        Mixture().parts({"prose": 0})


@pytest.mark.parametrize("weights", [{"prose": -1.0}, {"prose": float("nan")}, {"prose": 0.0}, {}])
def test_weights_that_mean_nothing_are_refused(weights: dict[str, float]):
    with pytest.raises(ValidationError):
        Mixture(weights=weights)
