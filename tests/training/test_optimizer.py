from __future__ import annotations

import pytest
import torch

from headwater.model.config import ModelConfig
from headwater.model.initialize import random_model
from headwater.training.config import AdamW, Average, Muon
from headwater.training.optimizer import BatchedMuon, Optimizers, orthogonalize

EVERYTHING = Muon(use="muon", variance_beta=0.9, equilibrate_rows=True, cautious_decay=True)


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


def random_matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_normuon_is_that_of_its_paper():
    # algorithm 1 of arXiv:2510.05491, matrix by matrix; with the size of an update as Moonlight has it
    settings = Muon(use="muon", variance_beta=0.9, weight_decay=0.0)
    joint = torch.nn.Parameter(random_matrix(40, 24, 0))
    theirs = [part.clone() for part in joint.detach().split([24, 16])]
    muon = BatchedMuon({joint: [24, 16]}, settings, torch.float32)
    momenta, variances = [torch.zeros_like(part) for part in theirs], [torch.zeros(len(part), 1) for part in theirs]
    for step in range(4):
        joint.grad = random_matrix(40, 24, 10 + step)
        for part, momentum, variance, gradient in zip(
            theirs, momenta, variances, joint.grad.split([24, 16]), strict=True
        ):
            momentum.mul_(0.95).add_(gradient, alpha=0.05)
            update = orthogonalize((0.05 * gradient + 0.95 * momentum)[None], 5)[0]
            variance.mul_(0.9).add_(0.1 * update.pow(2).mean(1, keepdim=True))
            scaled = update / variance.sqrt()
            part -= 6e-3 * 0.2 * max(part.shape) ** 0.5 * scaled * update.norm() / scaled.norm()
        muon.step()
    assert torch.allclose(joint, torch.cat(theirs), atol=1e-6)
    assert muon.state[joint]["variance"].shape == (40, 1)


def test_rows_of_any_size_count_alike_when_they_are_equilibrated():
    gradient, sizes = random_matrix(16, 24, 1), torch.logspace(-2, 2, 16)[:, None]
    found = []
    for given in (gradient, gradient * sizes):
        weights = torch.nn.Parameter(torch.zeros(16, 24))
        weights.grad = given
        BatchedMuon({weights: [16]}, Muon(use="muon", equilibrate_rows=True), torch.float32).step()
        found.append(weights.detach())
    assert torch.allclose(*found, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_cautious_decay_goes_only_the_way_of_the_update(name):
    kind, rates = {
        "adamw": (AdamW, {"learning_rate": 0.1}),
        "muon": (Muon, {"learning_rate": 0.1, "adamw_learning_rate": 0.1}),
    }[name]
    moved = {}
    for decay in (0.0, 0.5):
        model = small_model()
        start = model.blocks[0].attention.out.weight.detach().clone()
        optimizers = Optimizers(model, kind(use=name, weight_decay=decay, cautious_decay=True, **rates))
        gradients(model, 0)
        optimizers.step(1.0)
        moved[decay] = model.blocks[0].attention.out.weight.detach() - start
    agrees = moved[0.0] * start < 0
    assert 0.2 < agrees.float().mean() < 0.8
    assert torch.allclose(moved[0.5], moved[0.0] - 0.1 * 0.5 * start * agrees, atol=1e-6)


def test_embeddings_can_be_spared():
    model = small_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = Optimizers(model, AdamW(use="adamw", learning_rate=0.5, weight_decay=0.5, decay_embeddings=False))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step(1.0)
    assert torch.equal(model.embedding.weight, before["embedding.weight"])
    assert torch.allclose(model.blocks[0].ffn.down.weight, before["blocks.0.ffn.down.weight"] * 0.75)


def test_what_is_read_out_is_partly_an_average_and_training_does_not_notice():
    model, other = small_model(), small_model()
    averaging = Optimizers(model, Muon(use="muon"), average=Average(memory_steps=4, share=0.6))
    plain = Optimizers(other, Muon(use="muon"))
    average = None
    for seed in range(6):
        for each, its in ((model, averaging), (other, plain)):
            gradients(each, seed)
            its.step(1.0)
        with averaging.averaged():
            read_out = model.head_weight.detach().clone()
        weights = other.head_weight.detach()
        average = weights.clone() if average is None else average + (weights - average) / 4
        assert torch.equal(model.head_weight, weights)
        assert torch.allclose(read_out, 0.4 * weights + 0.6 * average, atol=1e-6)
    assert not torch.allclose(read_out, weights, atol=1e-4)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_an_average_of_another_run_is_not_taken_over():
    model = small_model()
    averaging = Optimizers(model, Muon(use="muon"), average=Average())
    gradients(model, 0)
    averaging.step(1.0)
    plain = Optimizers(small_model(), Muon(use="muon"))
    plain.begin_with(averaging.tensors())
    assert plain.tensors().keys() == {name for name in averaging.tensors() if not name.endswith("/average")}


@pytest.mark.parametrize(
    ("settings", "average"),
    [
        (AdamW(use="adamw"), None),
        (AdamW(use="adamw", cautious_decay=True), Average(memory_steps=3)),
        (Muon(use="muon"), None),
        (EVERYTHING, Average(memory_steps=3)),
    ],
)
def test_a_restored_state_goes_on_exactly(settings, average):
    model = small_model()
    optimizers = Optimizers(model, settings, average=average)
    for seed in range(3):
        gradients(model, seed)
        optimizers.step(1.0)
    other = small_model(seed=1)
    other.load_state_dict(model.state_dict())
    restored = Optimizers(other, settings, average=average)
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
