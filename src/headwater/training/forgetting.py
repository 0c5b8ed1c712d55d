"""Forgetting: what a model knew before is watched while it learns something else.

The validation loss of each source is measured before the first step and then at each validation, always on the same
held-out documents, so a rise is no accident of the sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from headwater.core.config import Config
from headwater.core.errors import MismatchError
from headwater.core.stage import Workspace


class _Limit(Config):
    limit: float = Field(default=0.1, gt=0)
    """How far the validation loss of a watched source may rise above what it was before training [nats per token].
    Source: our estimate; 0.1 is a perplexity 10 % higher."""
    sources: tuple[str, ...] = ()
    """Which sources are watched; by default those in `mixture.replay`, and those whose weight is 0, of which nothing is
    trained on: give them a held-out part in the section split."""


class StopWhenForgetting(_Limit):
    """End the run."""

    use: Literal["stop"]
    """`stop`: the run ends with the weights that it has; all later stages go on with them."""


class SlowWhenForgetting(_Limit):
    """Lower the learning rate, for the rest of the run, as often as it gets worse."""

    use: Literal["lower_rate"]
    """`lower_rate`: the learning rate is multiplied by `factor` at each validation that is above the limit and worse
    than the one before."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """What the learning rate is multiplied by. Source: our estimate."""


Forgetting = Annotated[StopWhenForgetting | SlowWhenForgetting, Field(discriminator="use")]
"""What to do when a watched source is forgotten."""


class Watch:
    """Watches a run's validation losses. What it remembers is JSON-able and belongs in the run's checkpoints.

    Attributes:
        memory: `start` and `last` losses of each source, `rate_factor`, `events`, and whether to `stop`.
    """

    def __init__(
        self, settings: Forgetting | None, default: Sequence[str], measured: Sequence[str], memory: dict[str, Any]
    ) -> None:
        """Begin to watch, or go on.

        Args:
            settings: what to do; None only remembers the losses.
            default: the sources that are watched where the settings name none.
            measured: the sources that have a validation loss.
            memory: what was remembered before; filled in and changed in place.

        Raises:
            MismatchError: there is nothing to watch.
        """
        self.memory = memory
        for name, value in {"start": {}, "last": {}, "rate_factor": 1.0, "events": [], "stop": False}.items():
            memory.setdefault(name, value)
        self.settings = settings
        self.sources = tuple(settings.sources or default) if settings else ()
        if settings is None:
            return
        if not self.sources:
            problem = "no source is watched: nothing is replayed, and no source has the weight 0"
            hint = "name sources in train.forgetting.sources, or give one the weight 0"
            raise MismatchError(problem, place="train.forgetting", hint=hint)
        for name in self.sources:
            if name not in measured:
                problem = f"source '{name}' is to be watched but has no validation loss"
                hint = "hold out documents of it in the section split; measured: " + (", ".join(measured) or "none")
                raise MismatchError(problem, place="train.forgetting", hint=hint)

    @property
    def rate_factor(self) -> float:
        """What the learning rate is to be multiplied by."""
        return self.memory["rate_factor"]

    @property
    def stops(self) -> bool:
        """Whether the run is to end."""
        return self.memory["stop"]

    def __call__(self, step: int, losses: Mapping[str, float], out: Workspace) -> None:
        """Look at the validation losses after `step` updates; says what is done about them."""
        memory, before = self.memory, dict(self.memory["last"])
        if not memory["start"]:
            memory["start"] = dict(losses)
        memory["last"] = dict(losses)
        if self.settings is None or self.stops:
            return
        risen = {name: losses[name] - memory["start"][name] for name in self.sources}
        worst = max(risen, key=lambda name: risen[name])
        if risen[worst] <= self.settings.limit:
            return
        now, start = losses[worst], memory["start"][worst]
        what = (
            f"step {step:,}: the validation loss of '{worst}' has risen by {risen[worst]:.3f} nats per token since the "
            f"start ({start:.3f} -> {now:.3f}), more than train.forgetting.limit {self.settings.limit:g}"
        )
        if isinstance(self.settings, StopWhenForgetting):
            memory["stop"] = True
            self._act(step, worst, start, now, "stop")
            out.warn(f"{what}; training stops here")
        elif now > before.get(worst, start):
            memory["rate_factor"] *= self.settings.factor
            self._act(step, worst, start, now, "lower_rate")
            out.warn(f"{what}; the learning rate is now {memory['rate_factor']:.3g} of what the schedule says")

    def to_json(self) -> dict[str, Any]:
        """What happened, for a manifest: loss of each watched source before and after, and what was done when."""
        watched = self.sources or tuple(name for name in self.memory["start"] if name != "total")
        losses = {
            name: {"start": self.memory["start"].get(name), "end": self.memory["last"].get(name)} for name in watched
        }
        settings = self.settings.model_dump(mode="json") if self.settings else None
        return {
            "settings": settings,
            "loss": losses,
            "events": self.memory["events"],
            "rate_factor": self.rate_factor,
        }

    def _act(self, step: int, source: str, start: float, now: float, action: str) -> None:
        event = {"step": step, "source": source, "start": start, "loss": now, "action": action}
        self.memory["events"].append(event | {"rate_factor": self.rate_factor})
