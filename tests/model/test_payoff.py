"""What is said of growing before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.model import payoff
from headwater.model.payoff import LAG, SAVED_COUNTED, SAVED_GIVEN, expect

NOTES = Path(__file__).parents[2] / "docs" / "lab-notes.md"


def test_a_deeper_model_is_told_what_to_expect_and_of_the_control(out, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(out, "note", told.append)
    facts = expect(4, 6, out)
    assert facts["saved_source_given"] == {"mean": SAVED_GIVEN.mean, "half": SAVED_GIVEN.half}
    assert f"{SAVED_GIVEN.mean:.0%} ± {SAVED_GIVEN.half:.0%} of the FLOPs" in told[0]
    assert f"{SAVED_COUNTED.mean:.0%} ± {SAVED_COUNTED.half:.0%} with its training counted" in told[0]
    assert "4 layers become 6: simply training the source on may be better" in out.warnings[0]
    assert all(f"{lag.mean:+.3f} ± {lag.half:.3f} after {tokens}" in out.warnings[0] for tokens, lag in LAG.items())


@pytest.mark.parametrize("after", [0, 3, 4])
def test_nothing_is_promised_of_what_does_not_get_deeper(out, after):
    assert expect(4, after, out) == {}
    assert not out.warnings


def test_the_numbers_are_those_of_the_lab_notes():
    text = NOTES.read_text(encoding="utf-8")
    section = text.partition("## Does growing pay?")[2].partition("\n## ")[0]
    for value in (SAVED_GIVEN, SAVED_COUNTED, *LAG.values()):
        assert f"{value.mean:.3f} ± {value.half:.3f}" in section
    assert payoff.PLACE.startswith("docs/guides/grow.md")
