from __future__ import annotations

import pytest
from pydantic import ValidationError

from headwater.model.presets import PRESETS, NewModel
from headwater.model.shape import ModelConfig
from headwater.model.transformer import Transformer

PUBLISHED = {
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.5b": 1_557_611_200,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "tinysolar-248m": 248_013_824,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "tinyllama-1.1b": 1_100_048_384,
    "llama2-7b": 6_738_415_616,
    "mistral-7b": 7_241_732_096,
    "solar-10.7b": 10_731_524_096,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
}
"""Source: the models as transformers counts them; a tied head once."""
OURS = {"llama-1m", "llama-4m", "llama-14m", "llama-34m", "llama-110m", "llama-336m"}


def test_parameters_are_the_published_ones():
    assert {name: PRESETS[name].config().parameters() for name in PUBLISHED} == PUBLISHED
    assert PRESETS.keys() == PUBLISHED.keys() | OURS
    counts = [PRESETS[name].config().parameters() for name in PRESETS]
    assert min(counts) == pytest.approx(1e6, rel=0.2)
    assert max(counts) == pytest.approx(70e9, rel=0.02)


@pytest.mark.parametrize("name", PRESETS)
def test_they_are_the_parameters_of_the_model_that_is_made(name: str):
    import torch

    shape = PRESETS[name].config().model_copy(update={"num_layers": 2})
    with torch.device("meta"):
        model = Transformer(shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters()


def test_gpt2_with_a_vocabulary_padded_to_a_multiple_of_128():
    shape = ModelConfig(vocab_size=50_304, padding_rows=47, **PRESETS["gpt2-124m"].shape)
    assert (shape.parameters(), shape.token_types) == (124_475_904, 50_257)


def test_a_preset_fills_in_what_is_left_out():
    made = NewModel.model_validate({"preset": "smollm2-135m", "num_layers": 12, "qk_norm": True})
    assert (made.hidden_size, made.num_layers, made.num_kv_heads, made.qk_norm) == (576, 12, 3, True)
    assert NewModel.model_validate(made.model_dump()) == made
    assert NewModel.model_validate({"preset": "gpt2-124m", "hidden_size": 384, "num_heads": 6}).ffn_size == 4 * 384


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ValidationError, match="no such preset 'llama-14'; did you mean 'llama-14m'"):
        NewModel.model_validate({"preset": "llama-14"})
    with pytest.raises(ValidationError, match="hidden_size"):
        NewModel.model_validate({"preset": None})
