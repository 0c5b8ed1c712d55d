"""Numbers with units are read and written as people do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from headwater.core import units


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("300B tokens", 300 * 10**9),
        ("10k", 10_000),
        ("1.5M", 1_500_000),
        ("10_000", 10_000),
        ("2,048", 2048),
        ("2e6", 2_000_000),
    ],
)
def test_counts(text: str, value: int) -> None:
    assert units.parse_count(text) == value


@pytest.mark.parametrize("text", ["", "many", "3 apples", "1.5", "-3", "1.2.3"])
def test_bad_counts(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        units.parse_count(text)


def test_booleans_are_not_numbers() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(units.Tokens).validate_python(True)


def test_durations_and_sizes() -> None:
    assert units.parse_seconds("1h 30m") == 5400
    assert units.parse_seconds(0.5) == 0.5
    assert units.parse_bytes("1 MiB") == 1048576
    assert units.parse_bytes("1MB") == 1_000_000
    with pytest.raises(ValueError, match="duration"):
        units.parse_seconds("soon")


@given(st.integers(min_value=1, max_value=10**14))
def test_formatted_counts_keep_three_digits(value: int) -> None:
    assert units.parse_count(units.format_count(value)) == pytest.approx(value, rel=5.1e-3)


@given(st.integers(min_value=0, max_value=10**14))
def test_formatted_bytes_keep_three_digits(value: int) -> None:
    assert units.parse_bytes(units.format_bytes(value)) == pytest.approx(value, rel=5.1e-3)


@given(st.floats(min_value=0.05, max_value=10**7))
def test_formatted_seconds_can_be_read_back(value: float) -> None:
    assert units.parse_seconds(units.format_seconds(value)) == pytest.approx(value, rel=0.03, abs=0.06)
