"""How fast a recipe's training goes here: measured by a trial, else like the training before it, else typical. No torch.

Three ways of knowing, best first; whatever it is, `basis` says so. A trial is kept in the store under what decides it:
machine, model, batch and optimizer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwater.core.errors import StoreError
from headwater.core.hardware import Machine, core_count, processor_name
from headwater.core.store import hash_value, read_json, write_json
from headwater.model.shape import ModelConfig
from headwater.training.phases import stretches

TYPICAL_FLOPS_PER_SECOND = 80e9
"""Training speed on two cores without a measurement. Source: about 70 % of the fp32 peak of 2 server cores of 2021."""
TYPICAL_USE = 0.7
"""Share of the peak that this is."""
FILE = "trials.json"
"""In the store: what trials measured."""


@dataclass(frozen=True)
class Pace:
    """How fast training goes."""

    flops_per_second: float
    """Of model FLOPs, attention causal, in the steps alone."""
    start_seconds: float
    """Before the first step and after the last: loading, compiling, final validation, writing."""
    validation_seconds: float
    checkpoint_seconds: float
    basis: str
    """`trial`, `measured speed` of a training before, or `typical speed`."""
    peak_flops_per_second: float | None = None
    """Of matrix products, where it was measured."""

    def steps_seconds(self, settings: Any, model: ModelConfig) -> float:
        """Time of all steps of a run whose number of steps is planned."""
        flops = 0.0
        for stretch in stretches(settings):
            per_token = model.flops_per_token(stretch.settings.sequence_length)
            flops += (stretch.steps or 0) * settings.batch_tokens * per_token
        return flops / self.flops_per_second

    def train_seconds(self, settings: Any, model: ModelConfig) -> float:
        """Time of the whole stage: start, steps, validations, checkpoints; or start and budget."""
        if settings.budget:
            return self.start_seconds + settings.budget + self.validation_seconds
        steps, count = self.steps_seconds(settings, model), settings.planned_steps or 0
        validations = count // settings.validate_every if settings.validate_every else 0
        checkpoints = count // settings.checkpoint_every if settings.checkpoint_every else 0
        if settings.checkpoint_interval:
            checkpoints = max(checkpoints, int(steps / settings.checkpoint_interval))
        aside = (validations + 1) * self.validation_seconds + checkpoints * self.checkpoint_seconds
        return self.start_seconds + steps + aside

    def budget_tokens(self, settings: Any, model: ModelConfig | None) -> float:
        """Tokens that a run of a budget reaches: what validations and checkpoints leave of it, at this speed."""
        per_token = model.flops_per_token(settings.sequence_length) if model else 1e9
        step = settings.batch_tokens * per_token / self.flops_per_second
        each = step
        if settings.validate_every:
            each += self.validation_seconds / settings.validate_every
        left = settings.budget
        if settings.checkpoint_interval:
            left -= settings.budget / settings.checkpoint_interval * self.checkpoint_seconds
        return max(left, 0.0) / each * settings.batch_tokens


def pace_of(settings: Any, model: ModelConfig | None, store: Path, machine: Machine | None = None) -> Pace:
    """How fast a recipe's training will go.

    Args:
        settings: of the stage train.
        model: what is trained, where it is known.
        store: folder of results, where trials and trainings before are looked for.
        machine: where it runs; by default this one, with nothing set.
    """
    if model and (found := kept(store, settings, model, machine)):
        flops = found["flops_per_token"] * found["batch_tokens"] / found["seconds_per_step"]
        aside = found["seconds_start"] + found["seconds_validation"] + found["seconds_checkpoint"]
        return Pace(
            flops, aside, found["seconds_validation"], found["seconds_checkpoint"],
            "trial", found["peak_flops_per_second"],
        )  # fmt: skip
    counts = _training_before(store, model)
    if counts:
        flops = counts["tokens_per_second"] * counts["flops_per_token"]
        every = settings.validate_every or counts["steps"]
        validation = counts.get("seconds_validating", 0.0) / (counts["steps"] // every + 1)
        start = counts.get("seconds_compiling", 20.0) + 2.0
        return Pace(flops, start, validation, 0.0, "measured speed", counts.get("peak_flops_per_second"))
    return Pace(TYPICAL_FLOPS_PER_SECOND, 40.0, 0.0, 0.0, "typical speed")


def _training_before(store: Path, model: ModelConfig | None) -> dict[str, Any] | None:
    """Counts of the finished training whose model is nearest in size, the newest of those."""
    found = []
    for path in store.glob("train-*/manifest.json"):
        if path.parent.name.endswith(".partial"):
            continue
        counts = read_json(path)["counts"]
        if counts.get("flops_per_token") and counts.get("parameters"):
            far = abs(math.log(counts["parameters"] / model.parameters())) if model else 0.0
            found.append((round(far, 3), -path.stat().st_mtime_ns, counts))
    return min(found, key=lambda one: one[:2])[2] if found else None


def keep(store: Path, settings: Any, machine: Machine, measured: dict[str, Any]) -> None:
    """Remember what a trial measured."""
    model = ModelConfig.model_validate(measured["model"])
    write_json(store / FILE, _trials(store) | {_key(settings, model, machine): measured})


def kept(store: Path, settings: Any, model: ModelConfig, machine: Machine | None) -> dict[str, Any] | None:
    """What a trial of such a run measured here, if there was one."""
    return _trials(store).get(_key(settings, model, machine or Machine()))


def _trials(store: Path) -> dict[str, Any]:
    try:
        return dict(read_json(store / FILE)) if (store / FILE).is_file() else {}
    except (StoreError, TypeError, ValueError):  # of another version: it is measured anew
        return {}


def _key(settings: Any, model: ModelConfig, machine: Machine) -> str:
    """What decides the speed of a run."""
    shape = model.model_dump(mode="json", exclude={"rope_theta", "norm_epsilon", "init_std", "mup_base_size"})
    batch = [settings.batch_tokens, settings.sequence_length, settings.micro_batch_sequences]
    how = [settings.optimizer.use, settings.speed.model_dump(mode="json"), bool(settings.distill)]
    where = [processor_name(), core_count(), machine.device, machine.threads, machine.ranks]
    return hash_value([shape, batch, how, where])[:16]
