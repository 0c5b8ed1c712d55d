from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from headwater.core.errors import MismatchError, StoreError, TrainingError
from headwater.core.log import read_metrics
from headwater.core.store import hash_file
from headwater.model import checkpoint
from headwater.model.initialize import random_model
from headwater.model.shape import ModelConfig
from headwater.training import train as training
from headwater.training.train import Run, train
from headwater.training.validation import Validation

from .conftest import PLAIN, TRICKS, make_world

HASHED = ("weights.safetensors", "training.safetensors")


def hashes(folder: Path) -> list[str]:
    return [hash_file(folder / "checkpoint" / name) for name in HASHED]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Send this process a signal right before a step."""

    class Interrupted(Run):
        def show(self, progress) -> None:
            super().show(progress)
            if self.steps_done == step - 1:
                signal.raise_signal(number)

    monkeypatch.setattr(training, "Run", Interrupted)


def test_it_learns_and_says_what_it_did(world, settings, out):
    counts = train(settings(steps=60, validate_every=20), world, out)
    metrics = read_metrics(out.folder / "metrics.jsonl")
    losses = [line["loss"] for line in metrics if "loss" in line]
    assert losses[0] == counts["initial_loss"] == pytest.approx(math.log(64), abs=0.1)
    assert counts["expected_initial_loss"] == pytest.approx(counts["initial_loss"], abs=0.1)
    assert counts["final_loss"] < losses[0] - 1.5
    assert counts["tokens"] == 60 * 128
    assert (counts["tokens_per_second"] > 0, 0 < counts["mfu"] < 1) == (True, True)
    assert not out.warnings
    validations = [line for line in metrics if "validation_loss" in line]
    assert [line["step"] for line in validations] == [20, 40, 60]
    assert validations[-1]["validation_loss"] == counts["validation_loss"]
    loss, bits = counts["validation_loss"], counts["validation_bits_per_byte"]
    assert loss.keys() == bits.keys() == {"up", "down", "total"}
    assert loss["total"] == pytest.approx((loss["up"] + loss["down"]) / 2, abs=0.05)  # rows are shared about equally
    assert bits["up"] == pytest.approx(loss["up"] / math.log(2) / 3, rel=0.1)  # 3 bytes a token, separators have none
    assert list((out.folder / "tensorboard").iterdir())
    model, info = checkpoint.load_model(out.folder / "checkpoint")
    assert info.step == 60
    assert all(p.isfinite().all() for p in model.parameters())


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import TRICKS, make_settings, workspace
from headwater.model import checkpoint
from headwater.training import train

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Killed(train.Run):
    def step(self, stop_asked=0):
        stop_asked = super().step(stop_asked)
        if self.steps_done == 13:
            self.checkpoints.settle()
            die()
        return stop_asked

def save_half(tensors, path, save_file=checkpoint.save_file):
    save_file(tensors, path)
    if len(list(path.parent.parent.glob("step-*"))) == 1:  # the second checkpoint is being written
        die()

world = Path(sys.argv[2])
if sys.argv[3] == "in a save":
    checkpoint.save_file = save_half
else:
    train.Run = Killed
inputs = {"tokens": world / "encode", "checkpoint": world / "initialize"}
train.train(make_settings(checkpoint_every=5, **TRICKS), inputs, workspace(world / "store" / "killed.partial"))
"""


@pytest.mark.parametrize(("moment", "kept"), [("in step 13", [5, 10]), ("in a save", [5])])
def test_killed_and_resumed_is_the_same_to_the_last_bit(world, settings, out, tmp_path, moment, kept):
    script = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path), moment]
    killed = subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = type(out)(tmp_path / "store" / "killed.partial", out.machine)
    assert [path.name for path in checkpoint.saved_steps(again.folder / "checkpoints")] == [
        f"step-{n:06d}" for n in kept
    ]
    train(settings(checkpoint_every=5, **TRICKS), world, again)
    train(settings(checkpoint_every=5, **TRICKS), world, out)
    assert hashes(again.folder) == hashes(out.folder)
    assert not list(again.folder.rglob(".*"))
    lines = [read_metrics(workspace.folder / "metrics.jsonl") for workspace in (again, out)]
    assert [line["step"] for line in lines[0] if "loss" in line] == list(range(1, 21))
    assert [line.get("loss") for line in lines[0]] == [line.get("loss") for line in lines[1]]


def test_a_model_with_tricks_trains_and_resumes_to_the_last_bit(world, settings, out, tmp_path, monkeypatch):
    tricks = {"norm_weights": False, "embedding_norm": True, "residual_scales": [1.15, 1.05], "qk_gain": 1.2}
    shape = {"vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "context_length": 64}
    config = ModelConfig.model_validate({**shape, "qk_norm": True, "tie_embeddings": False, "tricks": tricks})
    notes = {"expected_initial_loss": config.expected_initial_loss()}
    checkpoint.save(world["checkpoint"] / "checkpoint", random_model(config, 0), 0, notes)
    with monkeypatch.context() as patch:
        stop_at(patch, 7, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            train(settings(), world, out)
    train(settings(), world, out)
    straight = type(out)(tmp_path / "straight", out.machine)
    straight.folder.mkdir()
    train(settings(), world, straight)
    assert hashes(straight.folder) == hashes(out.folder)
    model, _ = checkpoint.load_model(out.folder / "checkpoint")
    assert (model.residual_scales - torch.linspace(1.15, 1.05, 2)).abs().min() > 1e-6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("changes", [{"optimizer": {"use": "adamw"}}, {"optimizer": {"use": "muon"}}, TRICKS])
def test_a_stopped_run_is_saved_and_goes_on_exactly(world, settings, out, tmp_path, monkeypatch, number, changes):
    plan = settings(**changes, micro_batch_sequences=2, validate_every=3)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_at(patch, 7, number)
        with pytest.raises(KeyboardInterrupt):
            train(plan, world, out)
    assert signal.getsignal(number) is before
    assert checkpoint.read_info(out.folder / "checkpoints" / "step-000007").resumable
    train(plan, world, out)
    straight = type(out)(tmp_path / "straight", out.machine)
    train(plan, world, straight)
    assert hashes(out.folder) == hashes(straight.folder)


def test_a_damaged_checkpoint_is_passed_over(world, settings, out, tmp_path, monkeypatch):
    plan = settings(checkpoint_every=5)
    with monkeypatch.context() as patch:
        stop_at(patch, 12, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            train(plan, world, out)
    with (out.folder / "checkpoints" / "step-000012" / "weights.safetensors").open("r+b") as file:
        file.truncate(1000)
    train(plan, world, out)
    assert any("step-000012/weights.safetensors" in warning for warning in out.warnings)
    straight = type(out)(tmp_path / "straight", out.machine)
    train(plan, world, straight)
    assert hashes(out.folder) == hashes(straight.folder)


@pytest.mark.parametrize("rows", [1, 2])
def test_micro_batches_change_neither_loss_nor_gradient(world, settings, out, rows):
    whole = Run(settings(micro_batch_sequences=4), world, out)
    parts = Run(settings(micro_batch_sequences=rows), world, out)
    results = [run._gradient(run.batches.batch(3)) for run in (whole, parts)]
    assert results[0] == pytest.approx(results[1], abs=1e-6)
    for ours, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert (ours.grad - theirs.grad).abs().max() < 1e-6


def test_the_average_is_what_is_validated_and_what_the_run_ends_with(world, settings, out, tmp_path):
    plain = type(out)(tmp_path / "plain", out.machine)
    shared = {"validate_every": 10, "checkpoint_every": 20, "schedule": {"use": "constant", "warmup_steps": 0}}
    ends = [
        train(settings(**shared, **more), world, where)
        for more, where in (({}, plain), ({"average": {"memory_steps": 5}}, out))
    ]
    assert ends[1]["averaged"] == {"memory_steps": 5, "share": 0.6}
    assert ends[0]["averaged"] is None
    assert ends[1]["validation_loss"]["total"] != ends[0]["validation_loss"]["total"]
    assert ends[1]["final_loss"] == ends[0]["final_loss"]  # training itself is the same
    model, info = checkpoint.load_model(out.folder / "checkpoint")
    last = checkpoint.load_weights(plain.folder / "checkpoint")
    assert any(not torch.equal(tensor, last[name]) for name, tensor in model.state_dict().items())
    held_out = Validation(settings(), world["tokens"], {"up": 1, "down": 1}, 4, out)(model, "cpu")
    assert held_out["validation_loss"]["up"] == pytest.approx(ends[1]["validation_loss"]["up"], abs=1e-6)
    tensors, _ = checkpoint.load_training(out.folder / "checkpoint")
    assert not [name for name in tensors if name.endswith("/average")]
    assert info.resumable


def test_the_z_loss_is_trained_on_and_not_reported(world, settings, out, tmp_path):
    runs = [
        Run(settings(z_loss=z_loss), world, type(out)(tmp_path / f"{z_loss}", out.machine)) for z_loss in (0.0, 0.1)
    ]
    losses, norms = zip(*(run._gradient(run.batches.batch(3)) for run in runs), strict=True)
    assert losses[0] == losses[1]
    assert norms[1] != pytest.approx(norms[0], rel=1e-3)


def test_validation_drops_nothing_out(world, settings, out):
    run = Run(settings(dropout=0.5), world, out)
    batch = run._micro_batches(run.batches.batch(0))[0]
    noisy = [float(run.model.loss(*batch).detach()) for _ in range(2)]
    assert noisy[0] != noisy[1]
    run._validate()
    first = run._validated[1]
    run._validate()
    assert run._validated[1] == first
    assert run.model.dropout == 0.5


def test_rates_by_a_law_are_said_and_kept(world, settings, out):
    auto = {"use": "muon", "learning_rate": "auto", "weight_decay": "auto"}
    counts = train(settings(optimizer=auto, steps=3), world, out)
    rate, decay = (law["value"] for law in counts["by_law"])
    # 1.79 N^-0.713 D^0.307 of 2 layers of 32 with a feed-forward of 128, 384 tokens; 128 / (0.39 x rate x 384)
    assert rate == pytest.approx(1.79 * (2 * (4 * 32 * 32 + 3 * 32 * 128)) ** -0.713 * 384**0.307, rel=0.01)
    assert decay == pytest.approx(128 / (0.39 * rate * 384), rel=0.01)
    rates = [line["learning_rate"] for line in read_metrics(out.folder / "metrics.jsonl") if "learning_rate" in line]
    assert max(rates) == pytest.approx(rate)


def test_clipping_scales_the_whole_gradient(world, settings, out):
    run = Run(settings(clip_norm=0.01), world, out)
    _, norm = run._gradient(run.batches.batch(0))
    clipped = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in run.model.parameters()))
    assert norm > 0.1
    assert clipped == pytest.approx(0.01, rel=1e-3)


def break_model(world) -> None:
    folder = world["checkpoint"] / "checkpoint"
    model, info = checkpoint.load_model(folder)
    with torch.no_grad():
        model.blocks[0].ffn.down.weight[0, 0] = math.inf
    checkpoint.save(folder, model, 0, info.notes)


@pytest.mark.parametrize(("max_nonfinite", "keep_last", "kept"), [(0, 2, [4, 5]), (3, 1, [5])])
def test_a_checkpoint_of_poisoned_weights_is_not_good(
    world, settings, out, monkeypatch, max_nonfinite, keep_last, kept
):
    class Poisoned(Run):
        def _log(self, loss: float, norm: float) -> None:
            super()._log(loss, norm)
            if self.steps_done == 6:  # before the checkpoint of step 6 is written
                with torch.no_grad():
                    self.model.blocks[0].ffn.down.weight[0, 0] = math.inf

    monkeypatch.setattr(training, "Run", Poisoned)
    failing = 7 + max_nonfinite
    with pytest.raises(TrainingError, match=rf"step {failing}: the loss is not finite \(nan\)") as caught:
        train(settings(checkpoint_every=1, keep_last=keep_last, max_nonfinite=max_nonfinite), world, out)
    saved = checkpoint.saved_steps(out.folder / "checkpoints")
    assert [checkpoint.read_info(folder).step for folder in saved] == kept
    assert f"last good checkpoint is {saved[-1]};" in caught.value.hint
    record = json.loads((out.folder / f"nonfinite-step-{failing:06d}.json").read_text())
    assert record["step"] == failing
    assert {row["source"] for row in record["rows"]} <= {"up", "down"}
    assert record["rows"][0]["pieces"][0]["tokens"] > 0


def test_a_few_updates_may_be_left_out(world, settings, out):
    break_model(world)
    with pytest.raises(TrainingError, match=r"step 3: the loss is not finite \(nan"):
        train(settings(max_nonfinite=2), world, out)
    assert sum("update left out" in warning for warning in out.warnings) == 2


def test_a_gradient_that_is_not_finite_is_called_so(world, settings, out):
    run = Run(settings(), world, out)
    next(run.model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(TrainingError, match=r"step 1: the norm of the gradient is not finite \(nan, at a loss of 4\.1"):
        run.step()


@pytest.mark.parametrize("mixture", [{"max_epochs": 1}, {"max_epochs": 1.5, "weights": {"up": 0.3, "down": 0.7}}])
def test_a_budget_ends_where_the_data_do(world, settings, out, mixture):
    plan = settings(steps=None, budget=30.0, mixture=mixture)
    counts = train(plan, world, out)
    (warning,) = out.warnings
    assert f"will not be used up: training ends after {counts['steps']} steps" in warning
    epochs = max(source["epochs"] for source in counts["mixture"].values())
    assert mixture["max_epochs"] - 0.15 < epochs <= mixture["max_epochs"] + 0.05
    rates = [line["learning_rate"] for line in read_metrics(out.folder / "metrics.jsonl") if "loss" in line]
    assert rates[-1] < max(rates) / 4


def test_a_last_update_that_breaks_the_weights_is_noticed(world, settings, out):
    run = Run(settings(checkpoint_every=1), world, out)
    while not run.finished:
        run.step()
    with torch.no_grad():
        next(run.model.parameters()).fill_(math.inf)
    with pytest.raises(TrainingError, match="step 20: its update made weights that are not finite") as caught:
        run.finish()
    assert "step-000019" in caught.value.hint
    assert not (out.folder / "checkpoint").exists()


def test_time_is_told_apart(world, settings, out, monkeypatch):
    out.machine = out.machine.model_copy(update={"save_in_background": False})
    run = Run(settings(validate_every=1, checkpoint_every=1, validation_tokens=1_000), world, out)
    now = 0.0  # a clock of our own: 1 s for a gradient, 10 s to validate, 100 s to save

    def slow(function, seconds):
        def after_some_time(*arguments):
            nonlocal now
            now += seconds
            return function(*arguments)

        return after_some_time

    monkeypatch.setattr(run, "_gradient", slow(run._gradient, 1))
    monkeypatch.setattr(run, "validation", slow(run.validation, 10))
    monkeypatch.setattr(checkpoint, "write", slow(checkpoint.write, 100))
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now))
    run._clock = now
    while not run.finished:
        run.step()
    counts = run.finish()
    assert counts["seconds_training"] == 20
    assert counts["seconds_validating"] == 20 * 10
    assert counts["seconds_saving"] == 20 * 100
    assert counts["tokens_per_second"] == 128
    lines = [line for line in read_metrics(out.folder / "metrics.jsonl") if "loss" in line]
    assert [line["tokens_per_second"] for line in lines] == [128] * 20
    assert lines[-1]["seconds"] == 20


def test_the_progress_bar_does_not_go_beyond_its_end(world, settings, out):
    class Bar:
        completed = 0.0

        def update(self, completed: float, info: str) -> None:
            self.completed = completed

    run = Run(settings(steps=None, budget=5.0), world, out)
    run.step()
    for spent, shown in ((2.0, 2.0), (7.0, 5.0)):
        run.state |= {"seconds_training": spent - 0.5, "seconds_validating": 0.5, "seconds_saving": 0.0}
        run.show(bar := Bar())
        assert bar.completed == shown


def test_checkpoints_come_by_time(world, settings, out):
    train(settings(checkpoint_interval=1e-6), world, out)
    assert checkpoint.saved_steps(out.folder / "checkpoints")


def test_a_budget_ends_the_run_with_its_decay(world, settings, out):
    plan = settings(steps=None, budget=1.0, schedule={"use": "wsd", "warmup_steps": 2, "decay_share": 0.5})
    counts = train(plan, world, out)
    assert 0.5 < counts["seconds_training"] < 5
    rates = [line["learning_rate"] for line in read_metrics(out.folder / "metrics.jsonl") if "loss" in line]
    falling = sum(rate < max(rates) for rate in rates[2:])
    assert falling == pytest.approx(counts["steps"] / 2, abs=2)
    assert rates[-1] == pytest.approx(max(rates) / round(counts["steps"] / 2), rel=0.05)
    state = checkpoint.load_training(out.folder / "checkpoint")[1]
    assert state["total_steps"] == state["steps_done"] == counts["steps"]


def test_a_wrong_start_is_warned_of(world, settings, out):
    folder = world["checkpoint"] / "checkpoint"
    model, info = checkpoint.load_model(folder)
    with torch.no_grad():
        model.embedding.weight.mul_(20)
    checkpoint.save(folder, model, 0, info.notes)
    train(settings(steps=1), world, out)
    assert any("initial loss is" in warning and "expected 4.1" in warning for warning in out.warnings)


def test_sequences_beyond_the_context_are_refused(world, settings, out):
    with pytest.raises(MismatchError, match="sequence_length 128 is beyond the model's context_length 64"):
        train(settings(sequence_length=128), world, out)


def test_tokens_of_a_larger_vocabulary_are_refused(world, settings, out):
    facts = world["tokens"] / "tokens.json"
    facts.write_text(facts.read_text().replace('"vocab_size": 64', '"vocab_size": 65'))
    index = world["tokens"].glob("*/*.parquet")
    for path in index:
        _relabel(path, b"65")
    with pytest.raises(MismatchError, match="vocabulary of 65, the model knows 64 tokens"):
        train(settings(), world, out)


def _relabel(path: Path, vocab_size: bytes) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"vocab_size": vocab_size}), path)


def test_more_epochs_than_allowed_are_refused_at_once(world, settings, out):
    with pytest.raises(MismatchError, match="in 4 epochs"):
        train(settings(steps=10_000, mixture={}), world, out)


def test_a_source_without_enough_held_out_text_is_warned_of(settings, out, tmp_path):
    world = make_world(tmp_path, held_out={"up": 0, "down": 8})
    counts = train(settings(steps=1), world, out)
    assert counts["validation_loss"].keys() == {"down", "total"}
    assert any("no validation loss for source 'up'" in warning for warning in out.warnings)


@pytest.mark.slow
def test_where_compiling_fails_training_goes_on_without(world, settings, out, tmp_path):
    with config_without_compiler():
        counts = train(settings(speed=PLAIN | {"compile": "auto"}), world, out)
    assert any("compiling failed, training goes on without it" in warning for warning in out.warnings)
    plain = type(out)(tmp_path / "plain", out.machine)
    train(settings(), world, plain)
    assert hashes(out.folder) == hashes(plain.folder)
    assert counts["compiled"] is False


COMPILED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import TRICKS, make_settings, workspace
from headwater.training.train import train
world = Path(sys.argv[2])
inputs = {"tokens": world / "encode", "checkpoint": world / "initialize"}
out = workspace(world / "store" / sys.argv[3])
train(make_settings(speed=PLAIN | {"compile": "on"}), inputs, out)
assert not out.warnings, out.warnings
"""


@pytest.mark.slow
def test_compiled_training_is_the_same_and_survives_a_broken_cache(world, settings, out, tmp_path):
    script = [sys.executable, "-c", COMPILED, str(Path(__file__).parent), str(tmp_path)]
    subprocess.run([*script, "first"], check=True, timeout=300)
    train(settings(), world, out)
    losses = [
        read_metrics(folder / "metrics.jsonl")[19]["loss"] for folder in (tmp_path / "store" / "first", out.folder)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    libraries = list((tmp_path / "store" / "compiled").rglob("*.so"))
    assert libraries
    for path in libraries:  # as a kill in the middle of compiling leaves them
        path.write_bytes(path.read_bytes()[:100])
    subprocess.run([*script, "second"], check=True, timeout=300)
    assert hashes(tmp_path / "store" / "first") == hashes(tmp_path / "store" / "second")
    with config_without_compiler(), pytest.raises(TrainingError, match="compiling failed"):
        train(settings(speed=PLAIN | {"compile": "on"}), world, type(out)(tmp_path / "on", out.machine))


def config_without_compiler():
    """Have torch look for a compiler that is not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing the compiler warns of torch's own code
        from torch._inductor import config
    return config.patch({"cpp.cxx": ("/no/such/compiler",)})


def test_only_the_last_checkpoints_are_kept(world, settings, out):
    train(settings(checkpoint_every=3, keep_last=2), world, out)
    assert [path.name for path in checkpoint.saved_steps(out.folder / "checkpoints")] == ["step-000015", "step-000018"]


def test_bf16_learns_too(world, settings, out):
    quick = {"steps": 8, "optimizer": {"use": "adamw", "learning_rate": 0.01}}
    counts = train(settings(speed=PLAIN | {"precision": "bf16"}, **quick), world, out)
    assert counts["precision"] == "bf16"
    assert counts["final_loss"] < counts["initial_loss"] - 0.3


def test_a_first_checkpoint_that_was_changed_is_named(world, settings, out):
    with (world["checkpoint"] / "checkpoint" / "weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(StoreError, match=r"weights\.safetensors: was changed"):
        train(settings(), world, out)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_goes_on_from_moments_that_came_with_the_weights(
    world, settings, out, tmp_path, monkeypatch, optimizer
):
    """Nothing is lost on the way: with the moments, the same weights as a run that was never interrupted."""
    schedule = {"use": "constant", "warmup_steps": 0}
    plan = settings(optimizer={"use": optimizer}, schedule=schedule, steps=6, checkpoint_every=3)
    train(plan, world, out)
    _, tensors = handed_on(world, out.folder / "checkpoints" / "step-000003")
    again = type(out)(tmp_path / "again", out.machine)
    run = Run(plan.model_copy(update={"steps": 3}), world, again)
    taken = run.optimizers.tensors()
    assert taken.keys() == {key.removeprefix("optimizer/") for key in tensors}
    assert all(torch.equal(taken[key.removeprefix("optimizer/")], tensor) for key, tensor in tensors.items())
    batches = run.batches.batch
    monkeypatch.setattr(run.batches, "batch", lambda step, *ranks: batches(step + 3, *ranks))
    while not run.finished:
        run.step()
    run.finish()
    assert hash_file(again.folder / "checkpoint" / HASHED[0]) == hash_file(out.folder / "checkpoint" / HASHED[0])


def test_a_run_with_moments_from_elsewhere_resumes_exactly(world, settings, out, tmp_path, monkeypatch):
    first = type(out)(tmp_path / "first", out.machine)
    train(settings(steps=5), world, first)
    handed_on(world, first.folder / "checkpoint")
    with monkeypatch.context() as patch:
        stop_at(patch, 7, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            train(settings(), world, out)
    train(settings(), world, out)
    straight = type(out)(tmp_path / "straight", out.machine)
    train(settings(), world, straight)
    assert hashes(out.folder) == hashes(straight.folder)


def test_moments_of_another_optimizer_are_refused(world, settings, out, tmp_path):
    first = type(out)(tmp_path / "first", out.machine)
    train(settings(steps=2, optimizer={"use": "muon"}), world, first)
    handed_on(world, first.folder / "checkpoint")
    with pytest.raises(
        MismatchError, match=r"has momentum of blocks\.0\..*this optimizer keeps step, exp_avg, exp_avg_sq"
    ):
        train(settings(optimizer={"use": "adamw"}), world, out)


def handed_on(world, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Make the first weights of a run those of a checkpoint, with its moments, as the stage initialize does."""
    model, _ = checkpoint.load_model(folder)
    tensors = {key: t for key, t in checkpoint.load_training(folder)[0].items() if key.startswith("optimizer/")}
    checkpoint.save(world["checkpoint"] / "checkpoint", model, 0, {}, tensors)
    return world["checkpoint"] / "checkpoint", tensors
