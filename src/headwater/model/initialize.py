"""How weights begin: random, or those of a trained model, as it is, grown or shrunk. The door of the stage initialize."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from headwater.core.stage import Counts, Inputs, Workspace
from headwater.model import checkpoint, hf, surgery
from headwater.model.config import RandomWeights
from headwater.model.proof import prove_written
from headwater.model.shape import ModelConfig, Residual
from headwater.model.start import GrownWeights, Initialize, ShrunkWeights
from headwater.model.transformer import Transformer


def initialize(settings: Initialize, inputs: Inputs, out: Workspace) -> Counts:
    """Make the weights that training begins with, and write them as `checkpoint/`.

    Raises:
        InputError: a folder of weights cannot be read.
        EmptyResultError: there is no text to measure a changed model on.
        MismatchError: the weights do not fit the tokenizer, or are of an unknown architecture.
    """
    tokenizer = inputs["tokenizer"] / "tokenizer"
    notes: dict[str, Any] = {"initialized": settings.use, "step_in_source": 0, "expected_initial_loss": None}
    more: dict[str, Any] = {}
    moments: dict[str, Tensor] = {}
    match settings:
        case RandomWeights():
            config, derived = settings.derive(hf.vocabulary_size(tokenizer))
            more["derived"] = [number._asdict() for number in derived]
            for number in derived:
                out.note(str(number))
            model = random_model(config, settings.seed, settings.residual)
            notes["expected_initial_loss"] = config.expected_initial_loss(settings.residual)
        case GrownWeights():
            model, moments, more = surgery.grow(settings, inputs, out)
        case ShrunkWeights():
            model, moments, more = surgery.shrink(settings, inputs, out)
        case _:
            model, moments, notes["step_in_source"], more = surgery.take(settings, inputs, out)
    hf.check_vocabulary(model.config.token_types, tokenizer)
    checkpoint.save(out.folder / "checkpoint", model, step=0, notes=notes, training_tensors=moments or None)
    prove_written(out.folder / "checkpoint", model)
    config = model.config
    flops = config.flops_per_token(config.context_length)
    out.note(config.describe())
    return {
        "model": config.model_dump(mode="json"),
        "parameters": config.parameters(),
        "flops_per_token": flops,
        "flops_convention": "6 N + 6 L H Q T (causal attention), T = context_length",
        "expected_initial_loss": notes["expected_initial_loss"],
        "training_bytes": config.training_bytes(),
        "weights": weight_statistics(model),
        "step_in_source": notes["step_in_source"],
        "optimizer_state_tensors": len(moments),
        **more,
    }


def random_model(config: ModelConfig, seed: int, residual: Residual = "scaled") -> Transformer:
    """Make a model with normal weights of standard deviation `config.init_std`; biases and rows of padding are 0.

    Args:
        config: its shape.
        seed: which random numbers.
        residual: `scaled`, `zero` or `plain`, see `RandomWeights.residual`.

    Source: GPT-2 (Radford et al. 2019, section 2.3) for std 0.02 and 1/sqrt(2 num_layers) on what writes to the
    residual stream. Norm weights are 1. With muP (`ModelKind.mup_base_size`) the matrices of the blocks have a standard
    deviation of 1/sqrt(width ratio) of that, and the last norm's weight, by which all logits are multiplied, is
    1 / width ratio.
    """
    model = Transformer(config)
    in_blocks = config.init_std / math.sqrt(config.width_ratio)
    factor = {"scaled": 1 / math.sqrt(2 * config.num_layers), "zero": 0.0, "plain": 1.0}[residual]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                continue
            writes_residual = name.endswith(("attention.out.weight", "ffn.down.weight"))
            std = in_blocks if name.startswith("blocks.") else config.init_std
            std *= factor if writes_residual else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        if model.norm.weight is not None:
            model.norm.weight.fill_(1 / config.width_ratio)
        for rows in {model.embedding.weight, model.head_weight}:
            rows[config.token_types :] = 0.0
    return model


def weight_statistics(model: Transformer) -> dict[str, dict[str, float]]:
    """Mean, standard deviation, largest size and tails of the weights of each kind of matrix.

    Of normal weights 4.55 % are beyond two standard deviations.
    """
    kinds: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        kind = name.split(".", 2)[2] if name.startswith("blocks.") else name
        kinds.setdefault(kind, []).append(parameter.detach().flatten())
    statistics = {}
    for kind, pieces in kinds.items():
        weights = torch.cat(pieces)
        std = weights.std(correction=0)
        statistics[kind] = {
            "mean": float(weights.mean()),
            "std": float(std),
            "max_abs": float(weights.abs().max()),
            "beyond_two_std": float(((weights - weights.mean()).abs() > 2 * std).float().mean()),
        }
    return statistics
