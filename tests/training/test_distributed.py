"""Several ranks train one model: the same samples, the same losses, and nothing lost when one of them dies."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
import torch

from headwater.core.errors import MismatchError
from headwater.core.hardware import Launch, Machine
from headwater.core.log import read_metrics
from headwater.core.stage import Workspace
from headwater.core.store import hash_file
from headwater.model import checkpoint
from headwater.tokens.loader import Batches
from headwater.training import train as training
from headwater.training.distributed import Team
from headwater.training.train import Run, train

from .conftest import TRICKS

ALIKE = TRICKS | {"dropout": 0.0}
"""What is left out by dropout is different on each rank."""


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


@pytest.mark.parametrize("changes", [{}, ALIKE], ids=["plain", "tricks"])
def test_one_two_and_one_rank_again_train_alike(world, settings, out, tmp_path, monkeypatch, changes):
    plan = settings(steps=12, validate_every=6, **changes)
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
@pytest.mark.parametrize("changes", [{}, {"optimizer": {"use": "adamw", "cautious_decay": True}}, ALIKE])
def test_weights_in_parts_train_as_whole_ones(world, settings, out, tmp_path, monkeypatch, changes):
    plan = settings(steps=12, checkpoint_every=2, micro_batch_sequences=1, **changes)
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


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import psutil
from conftest import make_settings
from headwater.core.errors import TrainingError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.model import checkpoint
from headwater.training import train

world, moment, shard = Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "parts"

class Killing(train.Run):
    def step(self, stop_asked=0):
        if self.steps_done == 13:
            self.checkpoints.settle()
            others = [child for child in psutil.Process().children() if "follow" in " ".join(child.cmdline())]
            print(*(child.pid for child in others), flush=True)
            if moment == "rank 1":
                others[0].kill()
            if moment == "rank 0":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(stop_asked)

def finish_half(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

def save_half(tensors, path, save_file=checkpoint.save_file):
    save_file(tensors, path)
    if "step-000010" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)

train.Run = Killing
if moment == "in a save":
    checkpoint.save_file = save_half
    def finish_parts(temporary, folder, *rest, finish=checkpoint.finish_parts):
        if folder.name == "step-000010":
            os.kill(os.getpid(), signal.SIGKILL)
        finish(temporary, folder, *rest)
    checkpoint.finish_parts = finish_parts
inputs = {"tokens": world / "encode", "checkpoint": world / "initialize"}
folder = world / "store" / "killed.partial"
folder.mkdir(parents=True)
out = Workspace(folder, Machine(threads=1, device="cpu", ranks=2, shard=shard))
try:
    train.train(make_settings(checkpoint_every=5), inputs, out)
except TrainingError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["whole", "parts"])
@pytest.mark.parametrize(("moment", "kept"), [("rank 0", [5, 10]), ("rank 1", [5, 10]), ("in a save", [5])])
def test_two_ranks_killed_and_resumed_are_the_same_to_the_last_bit(world, settings, tmp_path, moment, kept, spread):
    script = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path), moment, spread]
    killed = subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)
    said = killed.stdout.splitlines()
    if moment == "rank 1":
        assert killed.returncode == 2, killed.stderr
        assert "rank 1: died (exit code -9); hint: run again to go on from the last checkpoint" in said[-1]
    else:
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    if moment != "in a save":
        followers = [psutil.Process(int(pid)) for pid in said[0].split() if psutil.pid_exists(int(pid))]
        assert psutil.wait_procs(followers, timeout=30)[1] == []
    again = ranks(tmp_path / "store" / "killed.partial", 2, shard=spread == "parts")
    saved = checkpoint.saved_steps(again.folder / "checkpoints")
    assert [checkpoint.step_of(path) for path in saved] == kept
    plan = settings(checkpoint_every=5)
    train(plan, world, again)
    straight = ranks(tmp_path / "straight", 2, shard=spread == "parts")
    train(plan, world, straight)
    for name in ("weights.safetensors", "training.safetensors"):
        files = [out.folder / "checkpoint" / name for out in (again, straight)]
        assert hash_file(files[0]) == hash_file(files[1])
    assert losses(again) == losses(straight)
    assert not list(again.folder.rglob(".*.writing"))


def test_a_batch_that_ranks_cannot_share_is_refused(settings):
    team = Team(Launch(0, 3, 0, 3, elastic=False))
    with pytest.raises(MismatchError, match="a batch of 4 sequences cannot be shared out evenly to 3 ranks") as caught:
        team.check_batch(settings().batch_sequences)
    assert "use 2 ranks, or make train.batch_tokens a multiple of 3 x sequence_length" in str(caught.value)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_ranks_share_each_batch_and_nothing_is_lost(world, settings, count):
    plan = settings()
    batches = Batches(world["tokens"], plan.mixture, plan.sequence_length, plan.batch_sequences, plan.seed)
    batch = batches.batch(3)
    shares = [batches.batch(3, rank, count) for rank in range(count)]
    assert {share.tokens.shape for share in shares} == {(4 // count, 32)}
    rows = sorted(row.tobytes() for share in shares for row in share.tokens)
    assert rows == sorted(row.tobytes() for row in batch.tokens)


@pytest.mark.slow
def test_ranks_go_through_phases_together(world, settings, out, tmp_path):
    longer = [
        {"name": "short", "total_tokens": 640},
        {"name": "long", "total_tokens": 640, "sequence_length": 64, "micro_batch_sequences": 1},
    ]
    plan = settings(steps=None, phases=longer, packing={"use": "best_fit"})
    train(plan, world, out)
    two = ranks(tmp_path / "two", 2)
    train(plan, world, two)
    assert losses(two) == pytest.approx(losses(out), abs=1e-5)
