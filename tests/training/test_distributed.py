"""Several ranks train one model: the same samples, the same losses, and nothing lost when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from headwater.core.errors import MismatchError, TrainingError
from headwater.core.hardware import Launch, Machine
from headwater.core.log import read_metrics
from headwater.core.stage import Workspace
from headwater.core.store import hash_file
from headwater.model import checkpoint
from headwater.tokens.loader import Batch, Batches
from headwater.training import distributed
from headwater.training import train as training
from headwater.training.distributed import Team
from headwater.training.train import Run, train


def ranks(folder: Path, count: int, **machine: object) -> Workspace:
    folder.mkdir(parents=True, exist_ok=True)
    return Workspace(folder, Machine(threads=1, device="cpu", ranks=count, **machine))


def losses(out: Workspace) -> list[float]:
    return [line["loss"] for line in read_metrics(out.folder / "metrics.jsonl") if "loss" in line]


def weights(out: Workspace) -> Mapping[str, torch.Tensor]:
    return checkpoint.load_weights(out.folder / "checkpoint")


def apart(one: Workspace, other: Workspace) -> float:
    theirs = weights(other)
    return max(float((tensor - theirs[name]).abs().max()) for name, tensor in weights(one).items())


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    class Stopping(Run):
        def show(self, progress) -> None:
            super().show(progress)
            if self.steps_done == step - 1:
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training, "Run", Stopping)


def test_one_two_and_one_rank_again_train_alike(world, settings, out, tmp_path, monkeypatch):
    plan = settings(steps=12, validate_every=6)
    straight = train(plan, world, out)
    changing = tmp_path / "changing"
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            train(plan, world, ranks(changing, 1))
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            train(plan, world, ranks(changing, 2))
    last = ranks(changing, 1)
    counts = train(plan, world, last)
    assert losses(last) == pytest.approx(losses(out), abs=1e-5)
    assert apart(last, out) < 1e-4
    assert counts["validation_loss"]["total"] == pytest.approx(straight["validation_loss"]["total"], abs=1e-5)
    assert [path.name for path in last.folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_weights_in_parts_train_as_whole_ones(world, settings, out, tmp_path, monkeypatch, optimizer):
    plan = settings(steps=12, checkpoint_every=2, micro_batch_sequences=1, optimizer={"use": optimizer})
    train(plan, world, out)
    straight = ranks(tmp_path / "straight", 2, shard=True)
    train(plan, world, straight)
    assert losses(straight) == pytest.approx(losses(out), abs=1e-5)
    assert apart(straight, out) < 1e-4
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(plan, world, ranks(stopped, 2, shard=True))
    (saved,) = [path for path in checkpoint.saved_steps(stopped / "checkpoints") if path.name == "step-000005"]
    assert checkpoint.sharded_sizes(saved)["weights/embedding.weight"] == ((64, 32), torch.float32)
    train(plan, world, ranks(stopped, 2, shard=True))
    assert apart(ranks(stopped, 2), straight) == 0
    assert hash_file(stopped / "checkpoint" / "training.safetensors") == hash_file(
        straight.folder / "checkpoint" / "training.safetensors"
    )
