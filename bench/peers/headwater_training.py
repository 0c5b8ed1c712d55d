"""Headwater's half of bench/training.py: its whole step, with loader, log and TensorBoard."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from turns import JOB, Turns

from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.training.config import Train
from headwater.training.train import Run


def main() -> None:
    turns = Turns()
    folder = Path(JOB["folder"])
    settings = {
        "sequence_length": JOB["sequence"],
        "batch_tokens": JOB["rows"] * JOB["sequence"],
        "steps": 1_000_000,
        "optimizer": {"use": "adamw"},
        "validate_every": 0,
        "checkpoint_interval": 0,
        "mixture": {"max_epochs": 1e9},
    }
    out = Workspace(folder / "store" / f"train-{JOB['number']}", Machine(threads=JOB["threads"]))
    out.folder.mkdir(parents=True)
    start = time.perf_counter(), time.process_time()
    inputs = {"tokens": folder / "encode", "checkpoint": folder / "initialize"}
    run = Run(Train.model_validate(settings), inputs, out)
    first = time.perf_counter() - start[0], time.process_time() - start[1]
    loads = []
    for step in range(20):
        begin = time.perf_counter()
        run.batches.batch(step)
        loads.append(time.perf_counter() - begin)
    turns.facts = {
        "speed": str(run.arithmetic.choice),
        "ready_seconds": first,
        "load_seconds": statistics.median(loads),
        "peak_flops_per_second": run.arithmetic.peak_flops_per_second,
    }
    while True:
        run.step()
        turns.done()


if __name__ == "__main__":
    sys.exit(main())
