"""Tricks of training: what they compute, and that they are gone, exactly, from the plain model that they are folded into."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F  # noqa: N812

from headwater.core.errors import MismatchError
from headwater.model import checkpoint
from headwater.model.fold import fold
from headwater.model.initialize import initialize, random_model
from headwater.model.shape import ModelConfig
from headwater.model.start import GrownWeights
from headwater.model.transformer import KVCache, rotate
from headwater.model.tricks import Tricks
from headwater.training.config import AdamW, Muon
from headwater.training.optimizer import Optimizers

KINDS = {
    "llama": {"num_kv_heads": 2},
    "llama, biases": {"bias": True},
    "qwen3": {"qk_norm": True},
    "arcee": {"ffn": "relu2"},
    "gpt2": {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True},
}
TRICKS = {
    "norm_weights": False,
    "embedding_norm": True,
    "residual_scales": [1.15, 1.05],
    "qk_gain": 1.2,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 1.7,
    "logit_multiplier": 0.6,
}
ALONE = [{name: value} for name, value in TRICKS.items()]


def fitting(kind: dict, tie: bool, tricks: dict) -> dict:
    """Those of the tricks that go with a kind of model."""
    left_out = ["embedding_norm"] * tie + ["qk_gain"] * ("qk_norm" not in kind)
    return {name: value for name, value in tricks.items() if name not in left_out}


def tokens(rows: int = 2, length: int = 70) -> torch.Tensor:
    return torch.randint(0, 300, (rows, length), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "tricks", [TRICKS, *ALONE], ids=lambda tricks: "all" if len(tricks) > 1 else next(iter(tricks))
)
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_folding_is_exact(make_model, kind, tie, tricks):
    given = fitting(kind, tie, tricks)
    if not given:
        return
    model = make_model(tie_embeddings=tie, tricks=given, **kind)
    plain = fold(model)
    assert plain.config.tricks == Tricks()
    assert plain.config.parameters() == sum(p.numel() for p in plain.parameters())
    assert model.config.parameters() == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        exact = model.double()(tokens())
        assert (fold(model.double())(tokens()) - exact).abs().max() <= 1e-10
        assert (plain(tokens()) - exact).abs().max() / exact.std() < 1e-5
    # and it is not nothing that is folded
    without = make_model(tie_embeddings=tie, **kind).double()
    without.load_state_dict({n: model.state_dict().get(n, t) for n, t in without.state_dict().items()})
    assert (without(tokens()) - exact).abs().max() / exact.std() > 1e-3


def test_a_plain_model_is_left_alone(make_model):
    model = make_model()
    assert fold(model) is model


def test_scales_are_those_of_a_stream_that_is_multiplied(make_model):
    """The division by the product of all scales so far is nanochat's multiplication, gradients included."""
    model = make_model(norm_epsilon=1e-20, tricks={"residual_scales": [1.3, 0.7]}).double()
    x = F.embedding(tokens(), model.embedding.weight)
    rope = model.rope_cos[:70], model.rope_sin[:70]
    for scale, block in zip(model.residual_scales, model.blocks, strict=True):
        x = block(scale * x, rope)
    theirs, ours = model.logits(model.norm(x)), model(tokens())
    assert (theirs - ours).abs().max() < 1e-9
    names = ["residual_scales", "blocks.0.ffn.down.weight", "embedding.weight"]
    weights = [model.get_parameter(name) for name in names]
    for a, b in zip(*(torch.autograd.grad(y.square().mean(), weights) for y in (theirs, ours)), strict=True):
        assert (a - b).abs().max() <= 1e-9 * b.abs().max()


def test_a_norm_behind_the_rotation_is_the_same_with_one_gain(make_model):
    model = make_model(qk_norm=True, tricks={"norm_weights": False}).double()
    q = torch.randn(2, 70, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angle = torch.randn(70, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rope = angle.cos(), angle.sin()
    norm = model.blocks[0].attention.q_norm
    assert (norm(rotate(q, *rope)) - rotate(norm(q), *rope)).abs().max() < 1e-12


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_logits_are_the_same_with_a_cache(make_model, kind):
    model = make_model(tricks=fitting(kind, True, TRICKS), **kind)
    cache = KVCache(model.config, 2, 70)
    with torch.no_grad():
        pieces = [model(piece, cache=cache) for piece in tokens().split([40, 1, 29], dim=1)]
        assert (torch.cat(pieces, dim=1) - model(tokens())).abs().max() < 1e-4


@pytest.mark.parametrize("settings", [AdamW(use="adamw"), Muon(use="muon")], ids=["adamw", "muon"])
def test_every_optimizer_trains_them(settings):
    shape = {"vocab_size": 300, "hidden_size": 48, "num_layers": 3, "num_heads": 4, "qk_norm": True}
    config = ModelConfig.model_validate({**shape, "tie_embeddings": False, "tricks": TRICKS})
    model = random_model(config, 0, "zero")
    optimizers = Optimizers(model, settings)
    losses = []
    for _ in range(30):
        loss = model.loss(tokens()[:, :-1], tokens()[:, 1:])
        loss.backward()
        losses.append(float(loss.detach()))
        optimizers.step(1.0)
    assert losses[-1] < losses[0] - 0.5
    assert (model.residual_scales - torch.linspace(1.15, 1.05, 3)).abs().min() > 1e-5
    assert all(p.dim() > 1 for name, p in model.named_parameters() if name != "residual_scales")
    with torch.no_grad():
        exact = model.double()
        assert (fold(exact)(tokens()) - exact(tokens())).abs().max() <= 1e-10


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("more", [{}, {"mup_base_size": 64}])
def test_the_expected_first_loss_is_what_they_give(kind, tie, more):
    shape = {"vocab_size": 1000, "hidden_size": 128, "num_layers": 2, "num_heads": 4, "tie_embeddings": tie}
    config = ModelConfig.model_validate({**shape, **kind, **more, "tricks": fitting(kind, tie, TRICKS)})
    row = torch.randint(0, 1000, (4, 129), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = float(random_model(config, 0).loss(row[:, :-1], row[:, 1:]))
    assert loss == pytest.approx(config.expected_initial_loss(), abs=0.1)


def test_what_grows_is_folded_first(make_model, inputs, out, tmp_path):
    model = make_model(tricks={"residual_scales": [1.2, 0.9], "norm_weights": False})
    moments = {f"optimizer/{name}/exp_avg": torch.ones_like(p) for name, p in model.named_parameters()}
    checkpoint.save(tmp_path / "source", model, 5, None, moments, {"steps_done": 5})
    source = {"use": "checkpoint", "path": str(tmp_path / "source")}
    growth = {"use": "identity_blocks", "every": 1}
    settings = GrownWeights.model_validate({"use": "grown", "source": source, "growth": growth})
    counts = initialize(settings, inputs, out)
    assert counts["grown"]["logits_apart"] == 0.0, "silent layers change nothing"
    assert counts["optimizer_state_tensors"] == 0
    found, _ = checkpoint.load_model(out.folder / "checkpoint")
    with torch.no_grad():
        assert (found(tokens()) - model(tokens())).abs().max() < 1e-4
    kept = {**source, "optimizer_state": "keep"}
    with pytest.raises(MismatchError, match="its tricks were folded"):
        initialize(settings.model_copy(update={"source": type(settings.source)(**kept)}), inputs, out)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ({"tricks": {"embedding_norm": True}}, r"embedding_norm needs tie_embeddings: false"),
        ({"tricks": {"qk_gain": 1.2}}, r"qk_gain needs qk_norm: true"),
        ({"tricks": {"residual_multiplier": 0}}, "greater than 0"),
        ({"tricks": {"residual_scales": [1.1, 0]}}, "greater than 0"),
        ({"tricks": {"soft_cap": 15}}, "Extra inputs"),
    ],
)
def test_what_cannot_be_folded_is_refused(shape, problem):
    small = {"vocab_size": 300, "hidden_size": 48, "num_layers": 3, "num_heads": 4}
    with pytest.raises(ValidationError, match=problem):
        ModelConfig.model_validate({**small, **shape})
