"""Parameters and FLOPs of published shapes, exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.advice.architecture import Architecture, Trainable, named, of, parse_trainable, published
from headwater.core.errors import InputError
from headwater.model.presets import PRESETS

PUBLISHED = {
    "gpt2": 124_439_808, "llama-1-7b": 6_738_415_616, "llama-1-33b": 32_528_943_616, "llama-1-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616, "llama-3.1-405b": 405_853_388_800, "llama-3.2-1b": 1_235_814_400,
    "codellama-34b": 33_743_970_304, "mixtral-8x7b": 46_702_792_704, "mixtral-8x22b": 140_630_071_296,
    "qwen2.5-0.5b": 494_032_768, "qwen2.5-72b": 72_706_203_648, "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560, "deepseek-llm-7b": 6_910_365_696, "deepseek-moe-16b": 16_375_728_128,
    "deepseek-v2-lite": 15_706_484_224, "deepseek-v2": 235_741_434_880, "deepseek-v3": 671_026_419_200,
    "gpt-oss-20b": 20_914_757_184, "gpt-oss-120b": 116_829_156_672, "gemma-2b": 2_506_172_416,
    "gemma-2-9b": 9_241_705_984, "gemma-3-1b": 999_885_952, "olmo-1b": 1_176_764_416, "olmo-2-7b": 7_298_617_344,
    "olmo-2-13b": 13_716_198_400, "olmo-2-32b": 32_234_279_936, "pythia-70m": 70_426_624,
    "pythia-12b": 11_846_072_320, "gpt-neox-20b": 20_554_567_680, "gpt-j-6b": 6_050_882_784,
    "opt-125m": 125_239_296, "opt-6.7b": 6_658_473_984, "bloom-560m": 559_214_592, "bloom-176b": 176_247_271_424,
    "bloomberggpt-50b": 50_558_868_480, "falcon-7b": 6_921_720_704, "falcon-40b": 41_303_293_952,
    "mpt-7b": 6_649_286_656, "starcoder-15b": 15_517_456_384, "starcoder2-3b": 3_030_371_328,
    "stablelm-2-1.6b": 1_644_515_328, "phi-1.5": 1_418_270_720, "phi-2": 2_779_683_840, "phi-3-mini": 3_821_079_552,
    "smollm3-3b": 3_075_098_624, "yi-34b": 34_388_917_248, "tinyllama-1.1b": 1_100_048_384,
    "solar-10.7b": 10_731_524_096, "tinysolar-248m": 248_013_824,
}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameters_are_exact(name: str, count: int) -> None:
    assert named(name).parameters() == count


@pytest.mark.parametrize(
    ("name", "billions"),
    [("deepseek-v3", 37.6), ("mixtral-8x7b", 12.9), ("qwen3-30b-a3b", 3.35), ("gpt-oss-120b", 5.7), ("llama-4-scout", 17.2), ("deepseek-v2", 21.4)],
)  # fmt: skip
def test_active_parameters(name: str, billions: float) -> None:
    assert named(name).active_parameters() / 1e9 == pytest.approx(billions, rel=0.02)


def test_what_headwater_trains_is_counted_alike() -> None:
    for preset in PRESETS.values():
        config, here = preset.config(), of(preset.config())
        assert here.parameters() == here.active_parameters() == config.parameters()
        for T in (128, 2048):
            assert here.flops_per_token(T, "full") == config.flops_per_token(T, attention="full")
            assert here.flops_per_token(T, "causal") == config.flops_per_token(T)


def test_names_are_found_as_people_write_them() -> None:
    assert named("Llama2-7B") == named("meta-llama/llama-2-7b") == named("llama_2_7b")
    with pytest.raises(InputError, match="did you mean 'llama2-7b'"):
        named("llama-2-7c")


def test_windows_and_latents_attend_to_less_and_keep_less() -> None:
    mistral = named("mistral-7b").model_copy(update={"window": 4096})
    for convention in ("full", "causal"):
        assert mistral.attended(0, 4096, convention) == named("mistral-7b").attended(0, 4096, convention)
        assert mistral.attended(0, 65_536, convention) < named("mistral-7b").attended(0, 65_536, convention)
    exact = sum(min(at, 4096) for at in range(1, 16_385)) / 16_384
    assert mistral.attended(0, 16_384, "causal") == pytest.approx(exact, rel=0.001)
    gemma = named("gemma-3-27b")
    assert [layer for layer in range(62) if gemma.attended(layer, 8192, "full") == 8192] == list(range(5, 62, 6))
    assert named("deepseek-v3").cache_numbers_per_token() == 61 * 576  # arXiv:2405.04434: 70 KB in bf16
    assert named("llama-3.1-405b").cache_numbers_per_token() == 126 * 2 * 8 * 128


def test_frozen_parts_cost_less() -> None:
    solar = named("solar-10.7b")
    whole = solar.flops_per_token(4096)
    matrices = 2 * solar.matrix_parameters()
    attention = (whole - 3 * matrices) / 3
    blocks = parse_trainable("every:4", solar)
    assert blocks.layers == tuple(range(3, 48, 4))
    assert matrices + attention < solar.flops_per_token(4096, trainable=blocks) < whole
    head = solar.flops_per_token(4096, trainable=parse_trainable("head", solar))
    assert head == matrices + attention + 2 * 2 * solar.vocab_size * solar.hidden_size
    # embeddings alone: everything goes backward, of the weights only the head's get a gradient
    ends = solar.flops_per_token(4096, trainable=parse_trainable("embeddings", solar))
    assert ends == whole - 2 * solar.block_parameters()
    assert solar.flops_per_token(4096, trainable=Trainable(tuple(range(48)))) == whole
    for wrong in ("last:0", "last:49", "every:x", "some"):
        with pytest.raises(InputError, match="names no part"):
            parse_trainable(wrong, solar)


SMALL = st.builds(
    lambda layers, heads, size, ffn, vocab: Architecture(
        hidden_size=heads * size, num_layers=layers, num_heads=heads, ffn_size=ffn, vocab_size=vocab
    ),
    st.integers(1, 8), st.integers(1, 8), st.integers(2, 64), st.integers(8, 512), st.integers(10, 5000),
)  # fmt: skip


@given(SMALL, st.integers(1, 4096))
def test_more_of_anything_costs_more(model: Architecture, T: int) -> None:
    assert model.flops_per_token(T, "causal") < model.flops_per_token(T, "full") < model.flops_per_token(T + 1, "full")
    for field in ("num_layers", "ffn_size", "vocab_size"):
        larger = model.model_copy(update={field: getattr(model, field) + 1})
        assert larger.parameters() > model.parameters()
        assert larger.flops_per_token(T) > model.flops_per_token(T)


def test_a_config_of_transformers_is_read(tmp_path: Path) -> None:
    config = {
        "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
        "num_key_value_heads": 128, "intermediate_size": 18432, "vocab_size": 129280, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 2048,
        "first_k_dense_replace": 3,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert named(str(path)).parameters() == named(str(tmp_path)).parameters() == PUBLISHED["deepseek-v3"]
    path.write_text(json.dumps(config | {"model_type": "llamma"}))
    with pytest.raises(InputError, match=r"model_type 'llamma' is not known; did you mean 'llama'\?"):
        named(str(path))
    path.write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    with pytest.raises(InputError, match="lacks 'num_hidden_layers'"):
        named(str(path))
    for broken, problem in (("{", "cannot be read"), ("[1]", "describes no"), ('{"text_config": 1}', "describes no")):
        path.write_text(broken)
        with pytest.raises(InputError, match=problem) as refused:
            named(str(path))
        assert "remove" not in str(refused.value)
    with pytest.raises(InputError, match="is not there"):
        named(str(tmp_path / "other.json"))


def test_every_published_shape_is_sound() -> None:
    for name, model in published().items():
        assert 0 < model.active_parameters() <= model.parameters(), name
        assert model.describe()


def test_relative_positions_are_counted() -> None:
    assert named("chinchilla-70b").parameters() == pytest.approx(70e9, rel=0.002)
    assert named("gopher-280b").parameters() == pytest.approx(280e9, rel=0.002)
