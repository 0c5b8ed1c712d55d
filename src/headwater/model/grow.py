"""New models out of the layers of trained ones, and wider ones. Settings: growth.py; the proof: proof.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from headwater.core.errors import MismatchError
from headwater.model.growth import Layer, Widen
from headwater.model.shape import ModelConfig
from headwater.model.transformer import Transformer
from headwater.model.width import Choice, axes_of, choose, head_rows

SILENCED = ("attention.out.", "ffn.down.")
"""What of a block writes to the residual stream."""
SPLIT_SHARE = 0.5
"""Size of the random part that tells a copy from its original, as a share of the standard deviation of the weights.
Source: our choice: half as large as the halves themselves; copies without it would stay the same for ever."""


def regrow(source: Transformer, layers: Sequence[Layer], other: Transformer | None = None) -> Transformer:
    """Make a model whose layers are those of `source` by a layer map; everything else is copied as it is.

    Context, rotary positions, epsilon, vocabulary, embeddings, head and last norm are the source's. A layer has no
    memory of its number but the place in which its keys are cached, which is given anew.

    Args:
        source: gives all but some layers.
        layers: the map.
        other: gives the layers that the map marks so.

    Raises:
        MismatchError: `other` has another shape than `source`.
    """
    if other is not None:
        check_same_shape(source.config, other.config)
    model = Transformer(source.config.model_copy(update={"num_layers": len(layers)}))
    given = {False: source.state_dict(), True: other.state_dict() if other is not None else {}}
    weights = {}
    for name in model.state_dict():
        if not name.startswith("blocks."):
            weights[name] = given[False][name]
            continue
        _, number, part = name.split(".", 2)
        layer = layers[int(number)]
        tensor = given[layer.other][f"blocks.{layer.source}.{part}"]
        weights[name] = torch.zeros_like(tensor) if layer.silent and part.startswith(SILENCED) else tensor.clone()
    model.load_state_dict(weights)
    return model


def check_same_shape(config: ModelConfig, other: ModelConfig) -> None:
    """Make sure that layers of two models can stand in one.

    Raises:
        MismatchError: names the first setting that differs.
    """
    free = {"init_std"}  # of no effect on trained weights
    for name, value in config:
        if name not in free and getattr(other, name) != value:
            raise MismatchError(
                f"{name} is {getattr(other, name)} in the upper model and {value} in the source",
                place="initialize.growth.upper",
                hint="layers of two models fit together only where both have the same shape",
            )


def widen(source: Transformer, settings: Widen) -> Transformer:
    """Make a wider model that computes the same.

    Raises:
        MismatchError: sizes do not fit, or the model has norms that a longer vector would change.
    """
    narrow, wide = source.config, settings.resized(source.config)
    weights = source.state_dict()
    if wide.hidden_size != narrow.hidden_size and "norm.bias" in weights:
        raise MismatchError(
            "this model's norms subtract the mean, which new dimensions of the residual stream would change",
            place="initialize.growth.hidden_size",
            hint="widen ffn_size, num_heads or num_kv_heads, or use a model with RMSNorm",
        )
    generator = torch.Generator().manual_seed(settings.seed)
    choices = [_more(narrow, wide, generator) for _ in range(narrow.num_layers)]
    weights = choose(weights, narrow, choices, torch.arange(narrow.hidden_size))
    for number, choice in enumerate(choices):
        out, down = f"blocks.{number}.attention.out.weight", f"blocks.{number}.ffn.down.weight"
        weights[out] = _split(weights[out], head_rows(choice.heads, narrow), generator)
        weights[down] = _split(weights[down], choice.neurons, generator)
    if wide.hidden_size != narrow.hidden_size:
        weights = {name: _pad(name, tensor, narrow, wide, generator) for name, tensor in weights.items()}
    model = Transformer(wide)
    model.load_state_dict(weights)
    return model


def _more(narrow: ModelConfig, wide: ModelConfig, generator: torch.Generator) -> Choice:
    """All neurons and heads of a layer, and copies of some; query heads stay beside the key head that they belong to."""
    kv_heads = _repeated(narrow.num_kv_heads, wide.num_kv_heads, generator)
    before, after = narrow.num_heads // narrow.num_kv_heads, wide.num_heads // wide.num_kv_heads
    heads = torch.cat([kv * before + _repeated(before, after, generator) for kv in kv_heads.tolist()])
    return Choice(_repeated(narrow.ffn_size, wide.ffn_size, generator), heads, kv_heads)


def _repeated(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """0 to count - 1, and then copies of these in random order, none more often than another by two."""
    copies = [torch.randperm(count, generator=generator) for _ in range(-(-wanted // count) - 1)]
    return torch.cat([torch.arange(count), *copies])[:wanted]


def _split(weight: Tensor, origin: Tensor, generator: torch.Generator) -> Tensor:
    """Share out what columns write between those with one origin: equal parts, and random parts that cancel.

    Args:
        weight: columns that are copies [rows, columns].
        origin: which column of the source each is a copy of [columns].
        generator: random numbers.
    """
    copies = torch.bincount(origin)
    if int(copies.max()) == 1:
        return weight
    noise = torch.randn(weight.shape, generator=generator) * weight.std() * SPLIT_SHARE
    sums = torch.zeros(weight.shape[0], len(copies)).index_add_(1, origin, noise)
    noise -= sums.index_select(1, origin) / copies[origin]
    return torch.where(copies[origin] > 1, weight / copies[origin] + noise, weight)


def _pad(name: str, tensor: Tensor, narrow: ModelConfig, wide: ModelConfig, generator: torch.Generator) -> Tensor:
    """Make room for new dimensions of the residual stream, in which nothing flows until they are trained."""
    axes, more = axes_of(name), wide.hidden_size - narrow.hidden_size
    if "hidden" not in axes:
        return tensor
    if axes == ("hidden",) and name.endswith("norm.weight"):
        return torch.cat([tensor, tensor.mean().expand(more)]) * math.sqrt(narrow.hidden_size / wide.hidden_size)
    dimension = axes.index("hidden")
    shape = [*tensor.shape]
    shape[dimension] = more
    reads = dimension == 1 and not name.startswith(("positions.", "embedding."))
    new = torch.randn(shape, generator=generator) * tensor.std() if reads else torch.zeros(shape)
    return torch.cat([tensor, new], dim=dimension)
