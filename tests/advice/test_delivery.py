"""What a mixture takes from its sources."""

from __future__ import annotations

from fractions import Fraction

from headwater.advice.delivery import Delivery
from headwater.tokens.mixture import MixturePlan, SourcePlan


def test_tokens_of_a_source_that_is_hardly_read_make_up_for_no_repetition() -> None:
    often = SourcePlan("small", Fraction(4, 5), 80, 80_000, 16_000, 8)
    seldom = SourcePlan("large", Fraction(1, 5), 20, 20_000, 94_000, 8)
    assert Delivery({"": MixturePlan(100_000, 0, (often, seldom))}, "counted", "tokens").unique_tokens == 36_000
