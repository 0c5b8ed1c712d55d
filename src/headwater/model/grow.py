"""New models out of the layers of a trained one, and the proof that nothing was lost on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.model.growth import Growth, Layer
from headwater.model.transformer import KVCache, Transformer

SILENCED = ("attention.out.weight", "attention.out.bias", "ffn.down.weight", "ffn.down.bias")
"""What of a block writes to the residual stream."""
CACHE_TOLERANCE = 1e-4
"""Largest difference of logits with and without cache, as a share of the largest logit: rounding in fp32, no more."""


def regrow(source: Transformer, growth: Growth) -> tuple[Transformer, tuple[Layer, ...]]:
    """Make a model whose layers are those of `source` by a layer map; everything else is copied as it is.

    Context, rotary positions, epsilon, vocabulary, embeddings, head and last norm are the source's. A layer has no
    memory of its number but the place in which its keys are cached, which is given anew.

    Raises:
        MismatchError: the map does not fit the source.
    """
    layers = growth.layers(source.config.num_layers)
    model = Transformer(source.config.model_copy(update={"num_layers": len(layers)}))
    given, weights = source.state_dict(), {}
    for name in model.state_dict():
        if not name.startswith("blocks."):
            weights[name] = given[name]
            continue
        _, number, part = name.split(".", 2)
        layer = layers[int(number)]
        tensor = given[f"blocks.{layer.source}.{part}"]
        weights[name] = torch.zeros_like(tensor) if layer.silent and part in SILENCED else tensor.clone()
    model.load_state_dict(weights)
    return model, layers


def prove(model: Transformer, source: Transformer, layers: Sequence[Layer], tokens: Tensor) -> dict[str, float]:
    """Check a regrown model against its source; the losses of both on a text.

    Args:
        model: the new one.
        source: where its layers are from.
        layers: the map.
        tokens: a text [tokens] int64, at least 2.

    Raises:
        MismatchError: it has another number of parameters than its shape says, another result with a cache than without,
            or, where all that was added is silent, another result than its source.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters != model.config.parameters():
        _fail(f"{parameters:,} parameters, its shape says {model.config.parameters():,}")
    row = tokens[None, : min(len(tokens), model.config.context_length)]
    with torch.no_grad():
        whole, before = model(row), source(row)
        cache = KVCache(model.config, 1, row.shape[1])
        pieces = [model(row[:, :1], cache=cache)] + [
            model(row[:, n : n + 1], cache=cache) for n in range(1, row.shape[1])
        ]
    apart = float((torch.cat(pieces, 1) - whole).abs().max() / whole.abs().max())
    if not apart <= CACHE_TOLERANCE:
        _fail(f"logits with a cache differ by {apart:.1e} of their size from those without")
    added_silently = [layer.source for layer in layers if not layer.silent] == list(range(source.config.num_layers))
    change = float((whole - before).abs().max())
    if added_silently and change != 0.0:
        _fail(f"silent layers changed the logits by {change:.1e}")
    return {
        "loss_before": _loss(before, row),
        "loss_after": _loss(whole, row),
        "loss_of_chance": math.log(model.config.token_types),
        "largest_change_of_logits": change,
        "cache_apart": apart,
    }


def _loss(logits: Tensor, row: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits[0, :-1], row[0, 1:]))


def _fail(problem: str) -> None:
    raise MismatchError(
        f"the new model is wrong: {problem}", place="initialize", hint="this is a bug; please report it"
    )
