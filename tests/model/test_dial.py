from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.core.errors import MismatchError
from headwater.model.config import RandomWeights
from headwater.model.dial import Dial


def derived(vocab_size: int = 8192, **settings: object) -> dict[str, int]:
    config, told = Dial.model_validate(settings).derive(vocab_size)
    numbers = {number.setting: number.value for number in told}
    assert numbers["parameters"] == config.parameters()
    assert all(number.why for number in told)
    return numbers | {"hidden_size": config.hidden_size, "num_layers": config.num_layers, "head_size": config.head_size}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"parameters": "15M parameters", "num_layers": 6}, {"hidden_size": 384}),
        ({"parameters": "15M", "hidden_size": 384}, {"num_layers": 7, "num_heads": 6, "ffn_size": 1024}),
        ({"num_layers": 12, "hidden_size": 768}, {"num_heads": 12, "ffn_size": 2048}),
        ({"num_layers": 12}, {"hidden_size": 768}),
        ({"hidden_size": 512}, {"num_layers": 8}),
        # C = 120 N^2, so 1.2e16 FLOPs are for 10M parameters
        ({"budget": 1.2e16}, {"parameters to aim at": 10_000_000, "hidden_size": 320}),
        ({"budget": 1.2e16, "num_layers": 4}, {"parameters to aim at": 10_000_000}),
        ({"budget": "100 s at 120 TFLOP/s", "hidden_size": 256}, {"parameters to aim at": 10_000_000}),
        ({"parameters": "7B", "num_layers": 32}, {"hidden_size": 4224, "head_size": 128}),
    ],
)
def test_one_or_two_numbers_decide_the_rest(settings: dict, expected: dict):
    found = derived(**settings)
    assert {name: found[name] for name in expected} == expected


def test_gpt2_from_its_layers_and_parameters():
    gpt2 = {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True}
    found = derived(50_304, parameters="124M", num_layers=12, **gpt2)
    assert (found["parameters"], found["hidden_size"]) == (124_475_904, 768)


def test_a_budget_is_used_up_by_the_training_tokens():
    found = derived(budget=1e15, parameters="4M")
    config, _ = Dial(budget=1e15, parameters=4_000_000).derive(8192)
    assert found["training tokens"] * config.flops_per_token(config.context_length) == pytest.approx(1e15, rel=1e-4)
    assert derived(parameters="4M")["training tokens"] == 20 * config.parameters()


@given(
    parameters=st.integers(2_000_000, 10**11),
    layers=st.none() | st.integers(1, 100),
    share=st.sampled_from([1, 2, 3, 4]),
)
def test_shapes_are_whole_and_as_near_as_whole_heads_allow(parameters: int, layers: int | None, share: int):
    dial = Dial(parameters=parameters, num_layers=layers, heads_per_kv_head=share, tie_embeddings=False)
    config, _ = dial.derive(1024)
    assert config.hidden_size == config.num_heads * config.head_size
    assert config.num_heads == share * config.num_kv_heads
    assert layers in (None, config.num_layers)
    if layers is not None:
        off = abs(math.log(config.parameters() / parameters))
        step = config.head_size * share
        for width in (config.hidden_size - step, config.hidden_size + step):
            if width >= step and (width >= 2048) == (config.hidden_size >= 2048):
                other = Dial(num_layers=layers, hidden_size=width, heads_per_kv_head=share, tie_embeddings=False)
                assert off <= abs(math.log(other.derive(1024)[0].parameters() / parameters))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "give one or two of parameters, num_layers, hidden_size, budget; got none"),
        ({"parameters": 1, "num_layers": 1, "budget": 1}, "got parameters and num_layers and budget"),
        ({"hidden_size": 500, "num_layers": 2}, "500 is not a multiple of 64 .whole heads.; 512 would be"),
        ({"budget": "2 h at 80 GFLOP"}, "2 h at 80 GFLOP/s"),
        ({"budget": "much"}, "expected FLOPs such as"),
        ({"parameters": 1000, "ffn": "gelu"}, "no family of models has positions rotary, norm rms, ffn gelu"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict, problem: str):
    with pytest.raises(ValidationError, match=problem):
        Dial.model_validate(settings)


def test_a_vocabulary_that_leaves_nothing_is_refused_with_numbers():
    settings = RandomWeights.model_validate({"use": "random", "dial": {"parameters": "1M", "hidden_size": 256}})
    with pytest.raises(MismatchError, match=r"8,192 tokens x hidden_size 256 alone are 2,097,408 parameters") as caught:
        settings.derive(8192)
    assert caught.value.place == "initialize.dial"
    gpt2 = {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True, "heads_per_kv_head": 2}
    settings = RandomWeights.model_validate({"use": "random", "dial": {"num_layers": 4, **gpt2}})
    with pytest.raises(MismatchError, match="dial: GPT-2 has as many kv heads as heads"):
        settings.derive(8192)


def test_either_a_model_or_a_dial():
    model, dial = {"preset": "llama-1m"}, {"num_layers": 2}
    for both, got in (({"model": model, "dial": dial}, "both"), ({}, "none")):
        with pytest.raises(ValidationError, match=f"exactly one of model and dial; got {got}"):
            RandomWeights.model_validate({"use": "random", **both})
    assert RandomWeights.model_validate({"use": "random", "dial": dial}).derive(300)[0].num_layers == 2


def test_a_padded_vocabulary():
    for what in ({"model": {"preset": "llama-1m"}}, {"dial": {"num_layers": 2}}):
        settings = RandomWeights.model_validate({"use": "random", "vocabulary_multiple": 128, **what})
        config, _ = settings.derive(50_257)
        assert (config.vocab_size, config.padding_rows, config.token_types) == (50_304, 47, 50_257)
