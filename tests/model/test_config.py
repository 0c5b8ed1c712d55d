from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from headwater.model.initialize import random_model
from headwater.model.shape import ModelConfig, ModelShape
from headwater.model.transformer import Transformer

SOLAR = {"vocab_size": 32_000, "hidden_size": 1024, "num_heads": 32, "num_kv_heads": 8, "ffn_size": 4096}


@pytest.mark.parametrize(
    ("layers", "parameters"),
    [(12, 248_013_824), (10, 217_601_024), (16, 308_839_424)],
    ids=["TinySolar-248m", "shrunk", "up-scaled"],
)
def test_parameters_of_published_models(layers: int, parameters: int):
    assert ModelConfig(**SOLAR, num_layers=layers, tie_embeddings=False).parameters() == parameters


GROUPED = {"num_kv_heads": 2, "head_size": 10}
KINDS = {
    "llama": GROUPED,
    "llama, biases": GROUPED | {"bias": True},
    "qwen3": GROUPED | {"qk_norm": True},
    "arcee": GROUPED | {"ffn": "relu2"},
    "arcee, biases": GROUPED | {"ffn": "relu2", "bias": True},
    "gpt2": {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True},
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def make(kind: dict[str, object], **more: object) -> ModelConfig:
    shape = {"hidden_size": 48, "num_layers": 3, "num_heads": 6, "ffn_size": 64, "vocab_size": 100}
    return ModelConfig.model_validate(shape | kind | more)


@pytest.mark.parametrize("tie", [True, False])
@kinds
def test_parameters_are_those_of_the_model(tie: bool, kind: dict):
    config = make(kind, tie_embeddings=tie)
    assert config.parameters() == sum(p.numel() for p in Transformer(config).parameters())


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_the_family_follows_from_the_switches(name: str, kind: dict):
    assert make(kind).family == name.partition(",")[0]


@pytest.mark.parametrize(
    "switches",
    [
        {"positions": "learned"},
        {"norm": "layer"},
        {"ffn": "gelu"},
        {"qk_norm": True, "bias": True},
        {"qk_norm": True, "ffn": "relu2"},
        {"positions": "learned", "norm": "layer", "ffn": "gelu"},
    ],
)
def test_what_no_family_has_is_refused_with_those_there_are(switches: dict):
    with pytest.raises(
        ValidationError, match=r"no family of models has .*; there are llama: .*qwen3: .*arcee: .*gpt2: "
    ):
        make(switches)


@kinds
def test_flops_are_those_that_torch_counts(kind: dict):
    # up to 64 positions are one block of queries, so the whole attention matrix is computed: the convention "full"
    config = make(kind)
    model, tokens = random_model(config, 0), torch.randint(0, 100, (2, 60))
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(
            model(tokens).flatten(0, 1), tokens.flatten()
        ).backward()  # the chunked loss has no counted form
    assert counter.get_total_flops() == config.flops_per_token(60, "full") * 120
    causal, full = config.flops_per_token(60), config.flops_per_token(60, "full")
    assert full - causal == 6 * 3 * config.num_heads * config.head_size * 60  # layers x attention width x tokens


@pytest.mark.parametrize("residual", ["scaled", "zero", "plain"])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("shape", [(128, 2, 2, 1000), (512, 4, 8, 2000)])
@pytest.mark.parametrize("kind", [{}, KINDS["gpt2"], {"ffn": "relu2"}], ids=["llama", "gpt2", "arcee"])
def test_expected_initial_loss_is_what_random_weights_give(
    shape: tuple[int, ...], tie: bool, residual: str, kind: dict
):
    hidden, layers, heads, vocabulary = shape
    size = {"vocab_size": vocabulary, "hidden_size": hidden, "num_layers": layers, "num_heads": heads}
    config = ModelConfig.model_validate(size | kind | {"tie_embeddings": tie})
    tokens = torch.randint(0, vocabulary, (4, 129), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = float(random_model(config, 0, residual).loss(tokens[:, :-1], tokens[:, 1:]))
    assert loss == pytest.approx(config.expected_initial_loss(residual), abs=0.1)


def test_expected_initial_loss_of_a_wide_untied_model():
    config = ModelConfig(**SOLAR, num_layers=12, tie_embeddings=False)
    assert config.expected_initial_loss() == pytest.approx(math.log(32_000) + 0.2048)
    assert config.expected_initial_loss() == pytest.approx(10.578, abs=5e-4)  # measured elsewhere: 10.599


def test_sizes_that_are_left_out_follow_from_the_others():
    shape = ModelShape(hidden_size=384, num_layers=6, num_heads=6)
    assert (shape.num_kv_heads, shape.head_size, shape.ffn_size) == (6, 64, 1024)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_heads": 5}, "does not divide into 5 heads"),
        ({"num_kv_heads": 3}, "not a multiple of num_kv_heads 3"),
        ({"head_size": 7}, "head_size 7 is odd"),
        ({"num_layers": 0}, "greater than or equal to 1"),
        (KINDS["gpt2"] | {"num_kv_heads": 2}, "GPT-2 has as many kv heads as heads.*got 2 of 4 heads"),
        (KINDS["gpt2"] | {"head_size": 10}, "4 x 10 for 64"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, int], problem: str):
    with pytest.raises(ValidationError, match=problem):
        ModelShape.model_validate({"hidden_size": 64, "num_layers": 2, "num_heads": 4} | change)
