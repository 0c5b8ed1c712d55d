"""How weights begin: random, from a Hugging Face folder, a checkpoint or a GGUF file. The door of the stage initialize."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headwater.core.errors import HeadwaterError, InputError
from headwater.core.gguf import EXACT_TYPES
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.model import checkpoint, gguf, hf
from headwater.model.config import (
    CheckpointWeights,
    GgufWeights,
    GrownWeights,
    HuggingFaceWeights,
    Initialize,
    ModelConfig,
    RandomWeights,
)
from headwater.model.grow import prove, regrow
from headwater.model.growth import Layer
from headwater.model.moments import carried
from headwater.model.shape import Residual
from headwater.model.transformer import Transformer


def initialize(settings: Initialize, inputs: Inputs, out: Workspace) -> Counts:
    """Make the weights that training begins with, and write them as `checkpoint/`.

    Raises:
        InputError: a folder of weights cannot be read.
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
        case HuggingFaceWeights():
            model = hf.read_folder(settings.path, allow_pickle=settings.allow_pickle, warn=out.warn)
        case CheckpointWeights():
            model, notes["step_in_source"] = _load_checkpoint(settings)
            moments = carried(settings, None, out)
        case GgufWeights():
            model, more["tensor_types"] = _load_gguf(settings, out)
        case GrownWeights():
            model, layers, more["grown"] = _grow(settings, tokenizer, out)
            moments = carried(settings.source, layers, out)
    hf.check_vocabulary(model.config.token_types, tokenizer)
    checkpoint.save(out.folder / "checkpoint", model, step=0, notes=notes, training_tensors=moments or None)
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
        model.norm.weight.fill_(1 / config.width_ratio)
        for rows in {model.embedding.weight, model.head_weight}:
            rows[config.token_types :] = 0.0
    return model


def weight_statistics(model: Transformer) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and largest size of the weights of each kind of matrix."""
    kinds: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        kind = name.split(".", 2)[2] if name.startswith("blocks.") else name
        kinds.setdefault(kind, []).append(parameter.detach().flatten())
    statistics = {}
    for kind, pieces in kinds.items():
        weights = torch.cat(pieces)
        std = weights.std(correction=0)
        statistics[kind] = {"mean": float(weights.mean()), "std": float(std), "max_abs": float(weights.abs().max())}
    return statistics


def _grow(
    settings: GrownWeights, tokenizer: Path, out: Workspace
) -> tuple[Transformer, tuple[Layer, ...], dict[str, Any]]:
    """A model out of another's layers, their map, and what was found out about it."""
    given = settings.source
    match given:
        case HuggingFaceWeights():
            source = hf.read_folder(given.path, allow_pickle=given.allow_pickle, warn=out.warn)
        case GgufWeights():
            source, _ = _load_gguf(given, out)
        case CheckpointWeights():
            source, _ = _load_checkpoint(given)
    model, layers = regrow(source, settings.growth)
    hf.check_vocabulary(model.config.token_types, tokenizer)
    tokens = torch.tensor(hf.token_ids(tokenizer, settings.calibration))
    grown = {"layers": [layer._asdict() for layer in layers], **prove(model, source, layers, tokens)}
    _tell_growth(grown, source, out)
    return model, layers, grown


def _tell_growth(grown: dict[str, Any], source: Transformer, out: Workspace) -> None:
    """Print the layer map and the losses; warn where growing has broken the model."""
    shown = " ".join(f"{layer['source']}{'*' if layer['silent'] else ''}" for layer in grown["layers"])
    silent = "; * changes nothing until it is trained" if any(layer["silent"] for layer in grown["layers"]) else ""
    out.note(f"{source.config.num_layers} layers become {len(grown['layers'])}, copies of: {shown}{silent}")
    before, after = grown["loss_before"], grown["loss_after"]
    out.note(f"loss on the calibration text: {before:.3f} nats per token before, {after:.3f} after")
    if before < grown["loss_of_chance"] <= after:
        out.warn(
            f"the regrown model is no better than chance on the calibration text ({after:.3f} nats per token, chance "
            f"{grown['loss_of_chance']:.3f}, the source {before:.3f}): it will have to learn most of it again"
        )


def _load_gguf(settings: GgufWeights, out: Workspace) -> tuple[Transformer, dict[str, int]]:
    """A model from a GGUF file; says what was rounded in it."""
    model, types = gguf.read_file(settings.path)
    if rounded := {kind: count for kind, count in types.items() if kind not in EXACT_TYPES}:
        counted = ", ".join(f"{count} as {kind}" for kind, count in rounded.items())
        out.warn(
            f"{sum(rounded.values())} of {sum(types.values())} tensors of {settings.path.name} were quantised ({counted}): "
            "these weights are rounded, and begin a little worse than the model that the file was made from"
        )
    return model, types


def _load_checkpoint(settings: CheckpointWeights) -> tuple[Transformer, int]:
    try:
        model, info = checkpoint.load_model(settings.path)
    except HeadwaterError as error:
        raise InputError(error.problem, place=error.place, hint="check initialize.path") from None
    return model, info.step
