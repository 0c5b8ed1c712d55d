"""What growing has paid where we measured it: said before anything is trained, because often it does not pay.

Source of all numbers: `python bench/growth.py`, docs/lab-notes.md, "Does growing pay?".
"""

from __future__ import annotations

from typing import Any, NamedTuple

from headwater.core.stage import Workspace

PLACE = "docs/guides/grow.md, 'Does it pay?'"


class Measured(NamedTuple):
    """A mean over seeds, and half of its 95 % confidence band (Student's t)."""

    mean: float
    half: float

    def share(self) -> str:
        """As percent."""
        return f"{self.mean:.0%} ± {self.half:.0%}"

    def nats(self) -> str:
        """As a difference of losses."""
        return f"{self.mean:+.3f} ± {self.half:.3f}"


SAVED_GIVEN = Measured(0.820, 0.092)
"""Share of the FLOPs of a model from scratch, of the same depth and of the whole cost, that a grown one needs not."""
SAVED_COUNTED = Measured(0.116, 0.092)
"""The same with the training of its source counted."""
LAG: dict[str, Measured] = {
    "4 layers to 6 after 20 tokens per parameter": Measured(0.007, 0.013),
    "after 40": Measured(0.005, 0.007),
    "after 80": Measured(0.003, 0.036),
    "2 layers to 4 after 20": Measured(-0.040, 0.028),
    "2 layers to 4 after 80": Measured(-0.039, 0.012),
}
"""What was grown, after how much training of the source -> loss of the grown model less that of the source trained on for
the same FLOPs [nats per token]; above 0, growing was the worse choice."""


def expect(before: int, after: int, out: Workspace) -> dict[str, Any]:
    """Say what growing from `before` to `after` layers can be expected to save, and that not growing may be better.

    Returns:
        The numbers, for the manifest.
    """
    if after <= before:
        return {}
    out.note(
        f"growing saved {SAVED_GIVEN.share()} of the FLOPs of training from scratch in our measurements if the source was "
        f"given, {SAVED_COUNTED.share()} with its training counted; so did training the source on ({PLACE})"
    )
    lags = ", ".join(f"{lag.nats()} ({what})" for what, lag in LAG.items())
    out.warn(
        f"{before} layers become {after}: simply training the source on may be as good or better. In our measurements the "
        f"grown model's loss was apart from that of the source trained on for the same FLOPs by {lags}, in nats per token, "
        f"where above 0 growing was worse; compare with that control ({PLACE})"
    )
    return {
        "saved_source_given": SAVED_GIVEN._asdict(),
        "saved_source_counted": SAVED_COUNTED._asdict(),
        "lag": {what: lag._asdict() for what, lag in LAG.items()},
    }
