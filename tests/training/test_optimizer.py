from __future__ import annotations

import pytest
import torch

from headwater.model.config import ModelConfig
from headwater.model.initialize import random_model
from headwater.training.config import AdamW, Muon
from headwater.training.optimizer import BatchedMuon, Optimizers, orthogonalize


def small_model(seed: int = 0):
    shape = {"vocab_size": 50, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 40}
    return random_model(ModelConfig.model_validate(shape | {"qk_norm": True}), seed)


def gradients(model, seed: int) -> None:
    rows = torch.randint(0, 50, (2, 21), generator=torch.Generator().manual_seed(seed))
    model.loss(rows[:, :-1], rows[:, 1:]).backward()


@pytest.mark.parametrize("shape", [(3, 20, 20), (2, 16, 40), (2, 40, 16)])
def test_singular_values_come_close_to_1(shape):
    update = orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)), steps=5)
    values = torch.linalg.svdvals(update)
    assert update.shape == shape
    assert values.max() < 1.3
    assert values[values > 0.05].min() > 0.4


def test_muon_is_that_of_torch_where_matrices_are_single():
    theirs = torch.randn(24, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ours = theirs.detach().clone().requires_grad_()
    settings = Muon(use="muon", learning_rate=0.02)
    reference = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    muon = BatchedMuon({ours: [24]}, settings, torch.bfloat16)
    for step in range(4):
        theirs.grad = torch.randn(24, 40, generator=torch.Generator().manual_seed(step))
        ours.grad = theirs.grad.clone()
        reference.step()
        muon.step()
    assert (ours - theirs).abs().max() < 2e-3  # bf16 in both, in another order
    assert (ours - theirs).abs().max() < 0.02 * (ours - ours.detach().mean()).abs().max()


def test_joint_matrices_are_taken_apart():
    whole, parts = torch.randn(72, 24), {}
    joint = whole.clone().requires_grad_()
    joint.grad = torch.randn(72, 24, generator=torch.Generator().manual_seed(3))
    BatchedMuon({joint: [24, 24, 24]}, Muon(use="muon"), torch.float32).step()
    for number in range(3):
        part = whole[24 * number : 24 * number + 24].clone().requires_grad_()
        part.grad = joint.grad[24 * number : 24 * number + 24].clone()
        BatchedMuon({part: [24]}, Muon(use="muon"), torch.float32).step()
        parts[number] = part.detach()
    assert torch.allclose(joint.detach(), torch.cat(list(parts.values())), atol=1e-6)


def test_groups_decay_and_rates():
    model = small_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = Optimizers(model, AdamW(use="adamw", learning_rate=0.5, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step(0.5)
    assert optimizers.learning_rate == 0.25
    for name, parameter in model.named_parameters():  # no gradient: only decay is seen, 1 - 0.25 x 0.5 of it is left
        expected = before[name] * 0.875 if parameter.dim() == 2 else before[name]
        assert torch.allclose(parameter, expected), name
        assert parameter.grad is None


@pytest.mark.parametrize("settings", [AdamW(use="adamw"), Muon(use="muon")])
def test_a_restored_state_goes_on_exactly(settings):
    model = small_model()
    optimizers = Optimizers(model, settings)
    for seed in range(3):
        gradients(model, seed)
        optimizers.step(1.0)
    other = small_model(seed=1)
    other.load_state_dict(model.state_dict())
    restored = Optimizers(other, settings)
    restored.restore({name: tensor.clone() for name, tensor in optimizers.tensors().items()})
    assert restored.tensors().keys() == optimizers.tensors().keys()
    assert {name.rpartition("/")[0] for name in restored.tensors()} == set(optimizers.parameters)
    for each, its in ((model, optimizers), (other, restored)):
        gradients(each, 9)
        its.step(0.7)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize(
    "settings", [AdamW(use="adamw", learning_rate=0.02), Muon(use="muon", learning_rate=0.02, adamw_learning_rate=0.02)]
)
def test_the_loss_falls(settings):
    model = small_model()
    optimizers = Optimizers(model, settings)
    rows = torch.randint(0, 50, (2, 21), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(25):
        loss = model.loss(rows[:, :-1], rows[:, 1:])
        loss.backward()
        optimizers.step(1.0)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
