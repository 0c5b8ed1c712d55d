"""With muP nothing that a model computes grows with its width, at its beginning or while it learns: the coordinate check.

Source: Yang et al. 2022 (arXiv:2203.03466), appendix D.1.
"""

from __future__ import annotations

import math

import pytest
import torch

from headwater.model.initialize import random_model
from headwater.model.shape import ModelConfig
from headwater.training.config import AdamW, Muon
from headwater.training.optimizer import Optimizers

ADAMW = AdamW(use="adamw", learning_rate=4e-3)
MUON = Muon(use="muon", learning_rate=2e-2, adamw_learning_rate=4e-3)
GPT2 = {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True}


def make(width: int, base: int | None, **kind: object) -> ModelConfig:
    shape = {"hidden_size": width, "num_layers": 2, "num_heads": width // 16, "ffn_size": 2 * width}
    return ModelConfig.model_validate({"vocab_size": 256, "context_length": 32, "mup_base_size": base, **shape, **kind})


def sizes_after_training(config: ModelConfig, settings: AdamW | Muon) -> list[float]:
    """Root mean squares of what each block adds, and of how far the logits moved, after five steps."""
    torch.set_num_threads(1)
    model = random_model(config, 0)
    optimizers = Optimizers(model, settings)
    rows = torch.randint(0, 256, (4, 33), generator=torch.Generator().manual_seed(0))
    inputs, added = rows[:, :-1], []
    with torch.no_grad():
        before = model(inputs)
    for _ in range(5):
        model.loss(inputs, rows[:, 1:]).backward()
        optimizers.step(1.0)
    for block in model.blocks:
        block.register_forward_hook(lambda _, given, result: added.append(result - given[0]))
    with torch.no_grad():
        moved = model(inputs) - before
    return [float(tensor.square().mean().sqrt()) for tensor in (*added, moved)]


@pytest.mark.parametrize("settings", [ADAMW, MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize("kind", [{}, {"tie_embeddings": False, "qk_norm": True}, GPT2], ids=["llama", "qwen3", "gpt2"])
def test_sizes_are_stable_over_width(settings: AdamW | Muon, kind: dict):
    growth = {}
    for base in (32, None):
        narrow, wide = (sizes_after_training(make(width, base, **kind), settings) for width in (32, 256))
        growth[base] = [w / n for n, w in zip(narrow, wide, strict=True)]
    assert all(0.5 < ratio < 2 for ratio in growth[32]), growth
    assert max(growth[None]) > 8, "without muP they do grow"


def test_at_the_base_width_nothing_is_scaled():
    row = torch.arange(32)[None]
    for settings in (ADAMW, MUON):
        models = [random_model(make(64, base), 0) for base in (64, None)]
        for model in models:
            optimizers = Optimizers(model, settings)
            model.loss(row[:, :-1], row[:, 1:]).backward()
            optimizers.step(1.0)
        assert torch.equal(models[0](row), models[1](row))


def test_rates_follow_the_width_and_decay_does_not():
    model = random_model(make(256, 64), 0)
    for settings, ratio in ((ADAMW, 1 / 4), (MUON, 1 / 2)):
        optimizers = Optimizers(model, settings)
        names = {parameter: name for name, parameter in optimizers.parameters.items()}
        rates, decays = {}, {}
        for group in optimizers._groups():
            for parameter in group["params"]:
                rates[names[parameter]], decays[names[parameter]] = group["peak"], group["peak"] * group["weight_decay"]
        assert rates.keys() == optimizers.parameters.keys()
        for name, rate in rates.items():
            matrix = name.startswith("blocks.") and "norm" not in name
            base = settings.learning_rate if matrix or isinstance(settings, AdamW) else settings.adamw_learning_rate
            expected = base * (ratio if matrix else 1 / 4 if name == "norm.weight" else 1)
            assert rate == pytest.approx(expected), name
            if matrix:
                assert decays[name] == pytest.approx(settings.learning_rate * settings.weight_decay)
        assert optimizers.learning_rate == pytest.approx(settings.learning_rate * ratio)


def test_the_weights_begin_by_the_width():
    model = random_model(make(256, 64), 0, "plain")
    assert float(model.blocks[0].attention.qkv.weight.detach().std()) == pytest.approx(0.02 / 2, rel=0.02)
    assert float(model.embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert float(model.norm.weight.detach()[0]) == 1 / 4


@pytest.mark.parametrize("kind", [{}, {"tie_embeddings": False}, GPT2], ids=["tied", "untied", "gpt2"])
@pytest.mark.parametrize("residual", ["scaled", "zero", "plain"])
def test_the_first_loss_is_the_expected_one(kind: dict, residual: str):
    config = make(256, 64, **kind)
    rows = torch.randint(0, 256, (4, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = float(random_model(config, 0, residual).loss(rows[:, :-1], rows[:, 1:]))
    assert loss == pytest.approx(config.expected_initial_loss(residual), abs=0.1)
    assert loss == pytest.approx(math.log(256), abs=0.1)
