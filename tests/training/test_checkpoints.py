"""Which checkpoints are kept, how they are written in the background, and what a full disk says."""

from __future__ import annotations

import threading

import pytest

from headwater.core import hardware
from headwater.core.errors import StoreError
from headwater.core.log import read_metrics
from headwater.core.store import hash_file
from headwater.model import checkpoint
from headwater.training.train import Run, train


def saved(out):
    return [checkpoint.step_of(folder) for folder in checkpoint.saved_steps(out.folder / "checkpoints")]


def test_the_last_the_best_and_every_nth_are_kept(world, settings, out, monkeypatch):
    losses = iter([3.0, 2.0, 1.0, 1.5, 1.2, 1.1, 1.3, 1.4, 1.6, 1.7])

    class Measured(Run):
        def _validate(self):
            self.validation = lambda *_: {
                "validation_loss": {"total": next(losses)},
                "validation_bits_per_byte": {"total": 1.0},
            }
            return super()._validate()

    monkeypatch.setattr("headwater.training.train.Run", Measured)
    plan = settings(validate_every=2, checkpoint_every=1, keep_last=2, keep_best=True, keep_every=5)
    counts = train(plan, world, out)
    assert saved(out) == [5, 6, 10, 15, 18, 19]
    assert counts["best_validation"] == {"step": 6, "loss": 1.0}


def test_the_best_is_written_though_no_checkpoint_is_due(world, settings, out):
    train(settings(validate_every=4, keep_best=True, keep_last=1), world, out)
    measured = [
        (line["validation_loss"]["total"], line["step"])
        for line in read_metrics(out.folder / "metrics.jsonl")
        if "validation_loss" in line and line["step"] < 20
    ]
    assert min(measured)[1] in saved(out)


def test_background_and_foreground_write_the_same(world, settings, out, tmp_path):
    train(settings(checkpoint_every=5, keep_every=5), world, out)
    machine = out.machine.model_copy(update={"save_in_background": False})
    plain = type(out)(tmp_path / "plain", machine)
    train(settings(checkpoint_every=5, keep_every=5), world, plain)
    for step in (5, 10, 15):
        for name in ("weights.safetensors", "training.safetensors"):
            files = [checkpoint.step_folder(o.folder / "checkpoints", step) / name for o in (out, plain)]
            assert hash_file(files[0]) == hash_file(files[1])


def test_training_goes_on_while_a_checkpoint_is_written(world, settings, out, monkeypatch):
    go = threading.Event()
    write = checkpoint.write

    def slow(*arguments):
        assert go.wait(60)
        write(*arguments)

    monkeypatch.setattr(checkpoint, "write", slow)
    run = Run(settings(checkpoint_every=2), world, out)
    for _ in range(3):
        run.step()
    assert saved(out) == []
    go.set()
    run.checkpoints.settle()
    assert saved(out) == [2]
    state = checkpoint.load_state(out.folder / "checkpoints" / "step-000002")
    assert state["steps_done"] == 2


def test_what_goes_wrong_in_the_background_is_said_at_the_next_step(world, settings, out, monkeypatch):
    def full(*_):
        raise StoreError("the disk is full", place="checkpoints")

    run = Run(settings(checkpoint_every=2), world, out)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", full)
        run.step()
        run.step()
        with pytest.raises(StoreError, match="checkpoints: the disk is full"):
            for _ in range(2):  # it may still be on its way at the first
                run.step()


def test_no_space_for_a_checkpoint_is_one_clear_line(world, settings, out, monkeypatch):
    run = Run(settings(checkpoint_every=2), world, out)
    run.step()
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda _: 10_000)
    with pytest.raises(
        StoreError, match=r"step-000002: there is no space for a checkpoint: it takes .* 9.77 KiB are free"
    ):
        run.step()
    assert saved(out) == []


def test_without_memory_for_a_copy_training_waits_and_says_so(world, settings, out, monkeypatch, caplog):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000, "total": 10**9}))
    caplog.set_level("INFO", logger="headwater")
    run = Run(settings(checkpoint_every=1), world, out)
    run.step()
    assert not run.checkpoints.writing
    assert saved(out) == [1]
    assert "checkpoints stop training while written: a copy would take" in caplog.text
