"""Some real steps of a run, to know how fast this machine trains it: behind `headwater plan --measure`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil

from headwater.core import hardware
from headwater.core.stage import Inputs, Workspace
from headwater.training.config import Train
from headwater.training.phases import stretches
from headwater.training.train import Run

WARM_STEPS = 3
"""Steps before the first that is timed."""
BUSY = 1.5
"""Load per core from which a warning is given. Source: our estimate."""
STEPS, SECONDS, MOST_STEPS = 20, 4.0, 200
"""At least so many steps are timed, for at least so long, but no more than the most."""


def trial(settings: Train, inputs: Inputs, out: Workspace) -> dict[str, Any]:
    """Train a few steps as the run will, with its rows, its weights and its arithmetic; nothing of it is kept.

    The run is opened twice: the first time it races and compiles, the second time is what a start takes from then on.

    Args:
        settings: of the run; of its phases the first.
        inputs: tokens and checkpoint, as for `train`.
        out: an empty folder in the store, whose memory of races it shares.

    Returns:
        Seconds of a step, of the start, of a validation and of a checkpoint; rows, FLOPs and parameters.

    Raises:
        HeadwaterError: what training itself would raise.
    """
    total = WARM_STEPS + MOST_STEPS + 1
    changes = {"steps": total, "total_tokens": None, "budget": None, "phases": (), "forgetting": None}
    changes |= {"validate_every": 0, "checkpoint_every": 0, "checkpoint_interval": 0.0, "log_every": 1}
    first = stretches(settings)[0].settings.model_copy(update=changes)
    begin = time.perf_counter()
    Run(first, inputs, _inside(out, "first"))
    opened = time.perf_counter()
    run = Run(first, inputs, _inside(out, "second"))
    ready = time.perf_counter()
    for _ in range(WARM_STEPS):
        run.step()
    laps: list[float] = []
    processor = time.process_time()
    while len(laps) < STEPS or (sum(laps) < SECONDS and len(laps) < MOST_STEPS):
        before = run.state["seconds_training"]
        run.step()
        laps.append(run.state["seconds_training"] - before)
    processor = (time.process_time() - processor) / len(laps)
    if (busy := psutil.getloadavg()[0]) > BUSY * hardware.core_count():
        out.warn(f"other programs are at work (load {busy:.1f}): the time of the run depends on how long they will be")
    before = run.state["seconds_validating"]
    run.settings = run.settings.model_copy(update={"validate_every": 1})
    run.step()
    validating = run.state["seconds_validating"] - before
    run.save()
    run.checkpoints.settle()
    config = run.model.config
    return {
        "seconds_per_step": sum(laps) / len(laps),
        "processor_seconds_per_step": processor,
        "steps": len(laps),
        "fastest": min(laps),
        "slowest": max(laps),
        "seconds_first_start": opened - begin,
        "seconds_start": ready - opened,
        "seconds_validation": validating,
        "seconds_checkpoint": run.state["seconds_saving"],
        "batch_tokens": first.batch_tokens,
        "sequence_length": first.sequence_length,
        "flops_per_token": config.flops_per_token(first.sequence_length),
        "peak_flops_per_second": run.peak_flops_per_second,
        "parameters": config.parameters(),
        "device": run.device,
        "precision": run.arithmetic.choice.precision,
        "model": config.model_dump(mode="json"),
    }


def _inside(out: Workspace, name: str) -> Workspace:
    folder = Path(f"{out.folder}-{name}.partial")
    folder.mkdir(parents=True)
    return Workspace(folder, out.machine)
