"""Learning-rate schedules: the share of the peak rate that a step trains with, a pure function of the step.

Every schedule is called with the number of updates done so far and the number of updates in all. The latter may be
unknown as long as only warm-up and constant phases depend on it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from headwater.core.config import Config
from headwater.core.units import Count


class Constant(Config):
    """Warm up, then stay at the peak rate.

    >>> schedule = Constant(use="constant", warmup_steps=4)
    >>> [schedule(step, 10) for step in (0, 1, 3, 9)]
    [0.25, 0.5, 1.0, 1.0]
    """

    use: Literal["constant"]
    """`constant`: the peak rate after warm-up."""
    warmup_steps: Count = Field(default=20, ge=0)
    """Steps over which the rate rises in a line from 0 to its peak."""

    def __call__(self, step: int, total_steps: int | None) -> float:  # noqa: ARG002  # called like the others
        """The share of the peak rate for the update after `step` updates."""
        return warmup(step, self.warmup_steps)


class Cosine(Config):
    """Warm up, then fall in half a cosine. Source: Loshchilov and Hutter 2016 (arXiv:1608.03983), without restarts.

    >>> schedule = Cosine(use="cosine", warmup_steps=0, final_share=0.1)
    >>> [round(schedule(step, 10), 3) for step in (0, 5, 10)]
    [1.0, 0.55, 0.1]
    """

    use: Literal["cosine"]
    """`cosine`: half a cosine from the peak rate to `final_share` of it."""
    warmup_steps: Count = Field(default=20, ge=0)
    """Steps over which the rate rises in a line from 0 to its peak."""
    final_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the peak rate at the end. Source: GPT-3 (arXiv:2005.14165, appendix B)."""

    def __call__(self, step: int, total_steps: int | None) -> float:
        """The share of the peak rate for the update after `step` updates."""
        assert total_steps is not None, "a cosine must know where it ends"
        if step < self.warmup_steps:
            return warmup(step, self.warmup_steps)
        done = (step - self.warmup_steps) / max(total_steps - self.warmup_steps, 1)
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


class WarmupStableDecay(Config):
    """Warm up, stay at the peak rate, then fall in a line. The end may be decided on the way.

    Source: MiniCPM (arXiv:2404.06395); a linear decay to zero over the last part: Bergsma et al. 2025
    (arXiv:2502.15938).

    >>> schedule = WarmupStableDecay(use="wsd", warmup_steps=2, decay_share=0.4)
    >>> [schedule(step, 10) for step in (0, 1, 5, 6, 8, 9)], schedule(1_000, None)
    ([0.5, 1.0, 1.0, 1.0, 0.5, 0.25], 1.0)
    """

    use: Literal["wsd"]
    """`wsd`: warm-up, stable, decay."""
    warmup_steps: Count = Field(default=20, ge=0)
    """Steps over which the rate rises in a line from 0 to its peak."""
    decay_share: float = Field(default=0.3, gt=0, le=1)
    """Share of all steps over which the rate falls."""
    final_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the peak rate that the decay aims at."""
    power: float = Field(default=1.0, gt=0)
    """The share of the decay that is left is raised to this: 1 is a line, above 1 the rate falls early and lingers low.
    Source: 1.2 in modded-nanogpt's optimizer track (2026)."""

    def __call__(self, step: int, total_steps: int | None) -> float:
        """The share of the peak rate for the update after `step` updates."""
        rising = warmup(step, self.warmup_steps)
        if total_steps is None:
            return rising
        decay_steps = max(round(self.decay_share * total_steps), 1)
        left = max(min((total_steps - step) / decay_steps, 1.0), 0.0)
        return min(rising, self.final_share + (1 - self.final_share) * left**self.power)

    def total_steps(self, stable_steps: int) -> int:
        """The number of steps in all when the decay is to begin after `stable_steps` steps."""
        return max(math.ceil(stable_steps / (1 - self.decay_share)) if self.decay_share < 1 else 0, stable_steps + 1)


Schedule = Annotated[Constant | Cosine | WarmupStableDecay, Field(discriminator="use")]
"""How the learning rate goes over the run."""


def warmup(step: int, warmup_steps: int) -> float:
    """The share of the peak rate while it rises: the first step trains with 1 / `warmup_steps` of it."""
    return min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0
