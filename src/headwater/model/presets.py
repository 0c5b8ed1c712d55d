"""Shapes with a name, from 1M to 70B parameters: published models, and small ones to learn and try with. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from headwater.core.config import nearest
from headwater.model.shape import ModelConfig, ModelShape


class Preset(NamedTuple):
    """A shape, and the vocabulary with which its parameters are counted."""

    vocab_size: int
    shape: Mapping[str, Any]

    def config(self) -> ModelConfig:
        """The whole shape."""
        return ModelConfig(vocab_size=self.vocab_size, **self.shape)


def _shape(hidden_size: int, num_layers: int, num_heads: int, **more: Any) -> dict[str, Any]:
    return {"hidden_size": hidden_size, "num_layers": num_layers, "num_heads": num_heads, **more}


_GPT2 = {"positions": "learned", "norm": "layer", "ffn": "gelu", "bias": True, "context_length": 1024}
_LLAMA2 = {"tie_embeddings": False, "context_length": 4096, "norm_epsilon": 1e-5}
_LLAMA3 = {"tie_embeddings": False, "context_length": 8192, "norm_epsilon": 1e-5, "rope_theta": 500_000.0}
_SMOL = {"context_length": 8192, "norm_epsilon": 1e-5, "rope_theta": 100_000.0}
_QWEN3 = {"qk_norm": True, "head_size": 128, "num_kv_heads": 8, "context_length": 32_768, "rope_theta": 1_000_000.0}

PRESETS: dict[str, Preset] = {
    "llama-1m": Preset(2048, _shape(128, 4, 2, context_length=256)),
    "llama-4m": Preset(4096, _shape(256, 4, 4, context_length=512)),
    "llama-14m": Preset(8192, _shape(384, 6, 6, context_length=512)),
    "llama-34m": Preset(16_384, _shape(512, 8, 8, context_length=1024)),
    "llama-110m": Preset(32_000, _shape(768, 12, 12, context_length=1024)),
    "llama-336m": Preset(32_000, _shape(1024, 24, 16, context_length=2048)),
    "gpt2-124m": Preset(50_257, _shape(768, 12, 12, **_GPT2)),
    "gpt2-355m": Preset(50_257, _shape(1024, 24, 16, **_GPT2)),
    "gpt2-774m": Preset(50_257, _shape(1280, 36, 20, **_GPT2)),
    "gpt2-1.5b": Preset(50_257, _shape(1600, 48, 25, **_GPT2)),
    "smollm2-135m": Preset(49_152, _shape(576, 30, 9, num_kv_heads=3, ffn_size=1536, **_SMOL)),
    "smollm2-360m": Preset(49_152, _shape(960, 32, 15, num_kv_heads=5, ffn_size=2560, **_SMOL)),
    "smollm2-1.7b": Preset(49_152, _shape(2048, 24, 32, ffn_size=8192, **_SMOL | {"rope_theta": 130_000.0})),
    "tinysolar-248m": Preset(32_000, _shape(1024, 12, 32, num_kv_heads=8, ffn_size=4096, **_LLAMA2)),
    "qwen3-0.6b": Preset(151_936, _shape(1024, 28, 16, ffn_size=3072, **_QWEN3)),
    "qwen3-1.7b": Preset(151_936, _shape(2048, 28, 16, ffn_size=6144, **_QWEN3)),
    "qwen3-4b": Preset(151_936, _shape(2560, 36, 32, ffn_size=9728, **_QWEN3)),
    "qwen3-8b": Preset(151_936, _shape(4096, 36, 32, ffn_size=12_288, tie_embeddings=False, **_QWEN3)),
    "qwen3-14b": Preset(151_936, _shape(5120, 40, 40, ffn_size=17_408, tie_embeddings=False, **_QWEN3)),
    "qwen3-32b": Preset(151_936, _shape(5120, 64, 64, ffn_size=25_600, tie_embeddings=False, **_QWEN3)),
    "tinyllama-1.1b": Preset(
        32_000, _shape(2048, 22, 32, num_kv_heads=4, ffn_size=5632, **_LLAMA2 | {"context_length": 2048})
    ),
    "llama2-7b": Preset(32_000, _shape(4096, 32, 32, ffn_size=11_008, **_LLAMA2)),
    "mistral-7b": Preset(32_000, _shape(4096, 32, 32, num_kv_heads=8, ffn_size=14_336, **_LLAMA2)),
    "solar-10.7b": Preset(32_000, _shape(4096, 48, 32, num_kv_heads=8, ffn_size=14_336, **_LLAMA2)),
    "llama2-13b": Preset(32_000, _shape(5120, 40, 40, ffn_size=13_824, **_LLAMA2)),
    "llama2-70b": Preset(32_000, _shape(8192, 80, 64, num_kv_heads=8, ffn_size=28_672, **_LLAMA2)),
    "llama3-8b": Preset(128_256, _shape(4096, 32, 32, num_kv_heads=8, ffn_size=14_336, **_LLAMA3)),
    "llama3-70b": Preset(128_256, _shape(8192, 80, 64, num_kv_heads=8, ffn_size=28_672, **_LLAMA3)),
}
"""Sources: config.json of each published model (Mistral 7B is v0.1, within its sliding window). The first six are ours:
heads of 64, the other sizes by the defaults of `ModelShape`."""


class NewModel(ModelShape):
    """The shape of a new model: a preset's, one's own, or a preset's with changes."""

    preset: str | None = Field(default=None, examples=["llama-14m"])
    """A shape with a name, which `headwater list models` shows: it fills the settings here that are left out. The number
    of parameters in the name is that with the vocabulary of the preset; here the tokenizer decides."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, Mapping) else None
        if not isinstance(name, str):
            return values
        if name not in PRESETS:
            raise ValueError(f"no such preset '{name}'{nearest(name, PRESETS)} ('headwater list models' shows all)")
        return {**PRESETS[name].shape, **values}
