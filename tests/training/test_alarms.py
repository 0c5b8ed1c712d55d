from __future__ import annotations

import math
import statistics

import pytest
import torch

from headwater.model import checkpoint
from headwater.training import train as training
from headwater.training.alarms import CHECK_EVERY, SPIKE_STEPS, Alarms, NoiseScale, share_moved
from headwater.training.train import Run, train


def watch(model, out, **state):
    kept = {"recent_losses": [], "spikes": 0, "alarms": []} | state
    return Alarms(model, kept, out, lambda *values: list(values)), kept


def step_of(model, alarms, optimizer, step=CHECK_EVERY):
    tokens = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(step))
    model.loss(tokens, tokens.roll(-1, 1)).backward()
    sample = alarms.before_update(step)
    optimizer.step()
    alarms.after_update(step, sample)
    optimizer.zero_grad()


@pytest.fixture
def model(world):
    return checkpoint.load_model(world["checkpoint"] / "checkpoint")[0]


def test_d5_1_a_learning_rate_of_5e_5_stands_still_in_bf16_weights_and_is_warned_of(model, out):
    """The course trains weights in bf16 at 5e-5 after a warm-up from 5e-6: most updates are rounded away."""
    model.to(torch.bfloat16)
    model.compute_dtype = torch.bfloat16
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    alarms, _ = watch(model, out)
    step_of(model, alarms, torch.optim.AdamW(model.parameters(), lr=5e-6, weight_decay=0.0))
    assert share_moved(before, dict(model.named_parameters())) < 0.5
    (warning,) = out.warnings
    assert "the learning rate is too small for weights in bf16: the update left " in warning
    step_of(model, alarms, torch.optim.AdamW(model.parameters(), lr=5e-6), step=2 * CHECK_EVERY)
    assert len(out.warnings) == 1  # said once


@pytest.mark.parametrize(("kind", "rate"), [(torch.float32, 5e-6), (torch.bfloat16, 3e-3)])
def test_d5_1_fp32_weights_and_larger_rates_are_not_warned_of(model, out, kind, rate):
    model.to(kind)
    model.compute_dtype = kind
    alarms, _ = watch(model, out)
    step_of(model, alarms, torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0))
    assert out.warnings == []


def test_d5_1_a_run_whose_training_bf16_cannot_hold_says_so(world, settings, out):
    slow = {"use": "adamw", "learning_rate": 1e-6, "weight_decay": 0}
    counts = train(settings(steps=3, optimizer=slow), world, out)
    assert counts["share_moved_in_bf16"] < 0.3
    assert any("of the weights differ from those at the start when written in bf16" in line for line in out.warnings)


def test_a_layer_that_learns_nothing_is_named(model, out):
    with torch.no_grad():
        model.blocks[1].ffn.gate_up.weight[64:] = 0  # the half that is multiplied with the gate: no activations
        model.blocks[1].ffn.gate_up.weight[:64] = 0
    alarms, state = watch(model, out)
    step_of(model, alarms, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0))
    assert "blocks.1.ffn.down.weight" in state["alarms"]
    assert any("blocks.1.ffn.down.weight has a gradient of 0" in line for line in out.warnings)
    assert not any("blocks.0" in line for line in out.warnings)


def test_an_update_that_changes_nothing_is_named(model, out):
    alarms, state = watch(model, out)
    step_of(model, alarms, torch.optim.SGD(model.parameters(), lr=0.0))
    assert "blocks.0.attention.qkv.weight" in state["alarms"]
    assert "left blocks.0.attention.qkv.weight as it was" in out.warnings[0]


def test_a_jump_of_the_loss_is_noticed_and_noise_is_not(model, out):
    alarms, state = watch(model, out)
    noise = torch.randn(3 * SPIKE_STEPS, generator=torch.Generator().manual_seed(0)) * 0.05 + 3
    assert [alarms.spikes(loss) for loss in noise.tolist()] == [None] * len(noise)
    recent = state["recent_losses"]
    assert len(recent) == SPIKE_STEPS
    sigmas = alarms.spikes(3.5)
    assert sigmas == pytest.approx((3.5 - statistics.fmean(recent)) / statistics.pstdev(recent))
    assert state["spikes"] == 1


def test_a_spike_keeps_its_batch(world, settings, out):
    run = Run(settings(), world, out)
    run.state["recent_losses"] = [0.5 + 0.01 * (step % 2) for step in range(SPIKE_STEPS)]
    run.step()
    assert any("step 1: the loss jumped to 4." in line for line in out.warnings)
    assert (out.folder / "spike-step-000001.json").is_file()


def test_the_noise_scale_is_that_of_known_noise():
    """Gradients of 20 numbers, mean 1 each, with noise of variance 9 per token in each number: tr(S) / |G|^2 = 9."""
    state = {"noise_scale": None}
    scale = NoiseScale(state)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4000):
        parts = 1 + 3 * torch.randn(4, 8, 20, generator=generator).mean(1)  # 4 parts of 8 tokens
        small = float(parts.pow(2).sum(1).mean())
        scale.add(small, 8, float(parts.mean(0).pow(2).sum()), 32)
    assert scale.tokens == pytest.approx(9, rel=0.15)


def test_the_noise_scale_is_measured_on_micro_batches(world, settings, out):
    counts = train(settings(micro_batch_sequences=1, steps=30), world, out)
    assert counts["gradient_noise_scale_tokens"] > 0
    state = checkpoint.load_state(out.folder / "checkpoint")["noise_scale"]
    assert state[2] == pytest.approx(1 - 0.95**3)  # steps 1, 11 and 21


def test_measuring_changes_nothing(world, settings, out, tmp_path, monkeypatch):
    train(settings(micro_batch_sequences=1), world, out)
    with monkeypatch.context() as patch:
        patch.setattr(training.NoiseScale, "due", lambda *_: False)
        patch.setattr(training.Alarms, "before_update", lambda *_: None)
        plain = type(out)(tmp_path / "plain", out.machine)
        train(settings(micro_batch_sequences=1), world, plain)
    ours, theirs = (checkpoint.load_weights(o.folder / "checkpoint") for o in (out, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert math.isfinite(sum(float(t.sum()) for t in ours.values()))
