"""Memory that a model takes, to train and to serve, by number format and sharding. Arithmetic only; no torch here."""

from __future__ import annotations

from typing import Literal, NamedTuple

from headwater.model.shape import ModelConfig

TrainingPrecision = Literal["fp32", "bf16"]
Sharding = Literal["none", "optimizer", "gradients", "weights"]
ServingPrecision = Literal["fp32", "bf16", "int8", "int4"]

SERVING_BITS: dict[ServingPrecision, float] = {"fp32": 32, "bf16": 16, "int8": 8.5, "int4": 4.5}
"""Bits of a weight. int8 and int4 come in blocks of 32 with a 16-bit scale. Source: Q8_0 and Q4_0 of GGUF (ggml)."""


class TrainingMemory(NamedTuple):
    """Memory of one device for what training keeps between steps [bytes]; activations come on top."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    """Weights of one block and the next, whole again for a moment, where weights are sharded."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


def training_memory(
    config: ModelConfig,
    precision: TrainingPrecision = "fp32",
    *,
    muon: bool = False,
    sharding: Sharding = "none",
    devices: int = 1,
) -> TrainingMemory:
    """Memory of one device for weights, gradients and optimizer.

    Args:
        config: the model.
        precision: `fp32`, weights and gradients in 4 bytes, as here also when products are bf16; or `bf16`, weights in 2
            bytes with an fp32 copy beside the optimizer, gradients in 4, as in Megatron.
        muon: one moment for the matrices of the blocks instead of AdamW's two.
        sharding: what is spread over the devices: nothing, the optimizer (ZeRO 1), gradients too (ZeRO 2), or weights too
            (ZeRO 3, FSDP).
        devices: how many.

    Source: Rajbhandari et al. 2019 (arXiv:1910.02054), section 3, with fp32 gradients; AdamW in fp32 is 16 bytes per
    parameter, with bf16 weights 18.

    >>> config = ModelConfig(vocab_size=32_000, hidden_size=4096, num_layers=32, num_heads=32, ffn_size=11_008,
    ...                      tie_embeddings=False)
    >>> [round(training_memory(config, sharding=how, devices=8).total / 1e9, 1)
    ...  for how in ("none", "optimizer", "gradients", "weights")]
    [107.8, 60.6, 37.1, 15.1]
    """
    matrices = config.num_layers * config.block_matrix_parameters()
    unit = config.block_matrix_parameters()
    return states(
        config.parameters(), unit, precision, single_moment=matrices * muon, sharding=sharding, devices=devices
    )


def states(
    count: float,
    unit: float,
    precision: TrainingPrecision,
    *,
    single_moment: float = 0,
    sharding: Sharding = "none",
    devices: int = 1,
) -> TrainingMemory:
    """The same of any parameters: `count` of them on a device before they are spread, gathered `unit` by unit.

    `single_moment` is how many of them the optimizer keeps one moment of instead of two.
    """
    weight_bytes = 4 if precision == "fp32" else 2
    master = 0 if precision == "fp32" else 4 * count
    level = ("none", "optimizer", "gradients", "weights").index(sharding)
    share = [1 / devices if level >= needed else 1.0 for needed in (3, 2, 1)]
    gathered = 2 * weight_bytes * unit if level == 3 and devices > 1 else 0
    return TrainingMemory(
        weight_bytes * count * share[0],
        4 * count * share[1],
        (8 * count - 4 * single_moment + master) * share[2],
        gathered,
    )


def serving_bytes(config: ModelConfig, precision: ServingPrecision = "bf16") -> float:
    """Memory of the weights to generate with [bytes]."""
    return config.parameters() * SERVING_BITS[precision] / 8


def cache_bytes(config: ModelConfig, tokens: int, bytes_per_number: int = 2) -> int:
    """Memory of the keys and values of so many tokens [bytes]."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_size * tokens * bytes_per_number
