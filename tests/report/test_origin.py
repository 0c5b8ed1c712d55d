"""Where the weights come from, as the report tells it."""

from __future__ import annotations

from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.core.store import write_json
from headwater.model.payoff import LAG, SAVED_GIVEN, expect
from headwater.report.blocks import Text
from headwater.report.evidence import Evidence
from headwater.report.sections.origin import origin


def test_a_grown_model_comes_with_what_growing_can_be_expected_to_save(tmp_path):
    sizes = {"loss": 3.5, "bits_per_byte": 1.7, "parameters": 1_000}
    facts = {f"{name}_{when}": value for name, value in sizes.items() for when in ("before", "after")}
    facts |= {"calibration_tokens": 100, "expected": expect(4, 6, Workspace(tmp_path, Machine()))}
    write_json(tmp_path / "manifest.json", {"counts": {"grown": facts}})
    blocks = list(origin(Evidence({"initialize": tmp_path}, Machine())))
    said = next(block.text for block in blocks if isinstance(block, Text))
    assert f"saved {SAVED_GIVEN.mean * 100:.1f} % ± {SAVED_GIVEN.half * 100:.1f} % of the arithmetic" in said
    assert all(f"{lag.mean:+.3f} ± {lag.half:.3f} after {tokens}" in said for tokens, lag in LAG.items())
