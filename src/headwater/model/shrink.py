"""Smaller models out of trained ones: which layers, neurons, heads and dimensions a text needs least. Settings: reduction.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headwater.model.calibration import Rows
from headwater.model.reduction import DropMeasured, Narrow, check_drop
from headwater.model.shape import ModelConfig
from headwater.model.transformer import Transformer
from headwater.model.width import Choice, choose


class Dropped(NamedTuple):
    """A layer that has gone."""

    layer: int
    """Its number in the source."""
    loss: float
    """Loss on the calibration text without it and those that went before it [nats per token]."""
    next_best: float | None
    """The lowest loss that leaving out another layer instead would have given; None when there was no other."""


def least_needed(
    model: Transformer, settings: DropMeasured, rows: Rows, advance: Callable[[], Any]
) -> tuple[list[int], list[Dropped]]:
    """Choose layers to leave out by measuring.

    Args:
        model: the source; as it was, afterwards.
        settings: how many layers go.
        rows: the text to measure on.
        advance: called after each batch of rows: `drop` times for all of them.

    Returns:
        The layers that stay, and those that go, in the order in which they go.

    Raises:
        MismatchError: none would stay.
    """
    check_drop(settings.drop, model.config.num_layers)
    kept, dropped = list(range(model.config.num_layers)), []
    for _ in range(settings.drop):
        losses = dict(zip(kept, _losses_without(model, kept, rows, advance), strict=True))
        best, *others = sorted(kept, key=lambda layer: (losses[layer], layer))
        kept.remove(best)
        dropped.append(Dropped(best, losses[best], losses[others[0]] if others else None))
    return kept, dropped


def _losses_without(model: Transformer, kept: list[int], rows: Rows, advance: Callable[[], Any]) -> list[float]:
    """The loss on a text when each of the layers is left out, one at a time [nats per token]."""
    blocks = [model.blocks[layer] for layer in kept]
    totals, left = [0.0] * len(kept), rows.counted
    for batch in rows.batches():
        tokens, targets, documents = map(torch.from_numpy, batch)
        inputs: list[Tensor] = []
        with _only(model, [_Recorder(block, inputs) for block in blocks]), torch.no_grad():
            model.hidden(tokens, documents)
        for place, given in enumerate(inputs):  # what the layer was given goes on to the layer after it
            with _only(model, [_Given(given), *blocks[place + 1 :]]), torch.no_grad():
                losses = model.token_losses(tokens, targets, documents).flatten()[:left]
            totals[place] += float(losses.double().sum())
        left -= min(left, tokens.numel())
        advance()
    return [total / rows.counted for total in totals]


class _Recorder(nn.Module):
    """A layer that writes down what it is given."""

    def __init__(self, block: nn.Module, inputs: list[Tensor]) -> None:
        super().__init__()
        self._block = [block]  # in a list, so that torch does not take it for a part of this one
        self._inputs = inputs

    def forward(self, x_BTD: Tensor, *rest: Any) -> Tensor:
        self._inputs.append(x_BTD)
        return self._block[0](x_BTD, *rest)


class _Given(nn.Module):
    """Stands for the first layers: whatever comes in, what they gave comes out."""

    def __init__(self, x_BTD: Tensor) -> None:
        super().__init__()
        self._given = x_BTD

    def forward(self, *_: Any) -> Tensor:
        return self._given


@contextmanager
def _only(model: Transformer, blocks: list[nn.Module]) -> Iterator[None]:
    """Let a model have other layers for a while."""
    all_blocks = model.blocks
    model.blocks = nn.ModuleList(blocks)
    try:
        yield
    finally:
        model.blocks = all_blocks


class Importance(NamedTuple):
    """How much the parts of a model do on a text."""

    neurons: Tensor
    """Mean size of each activation [layers, ffn_size]."""
    heads: Tensor
    """Root mean square of what each query head puts out [layers, num_heads]."""
    hidden: Tensor
    """Mean size of each normalised dimension of the residual stream [hidden_size]."""


def importance(model: Transformer, rows: Rows) -> Importance:
    """Measure how much each neuron, head and dimension of a model does on a text."""
    config = model.config
    neurons = torch.zeros(config.num_layers, config.ffn_size)
    heads = torch.zeros(config.num_layers, config.num_heads)
    hidden = torch.zeros(config.hidden_size)

    def watch(layer: int, block: nn.Module) -> list[Any]:
        def activations(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            neurons[layer] += inputs[0].abs().flatten(0, 1)[:left].sum(0)

        def outputs(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            by_head = inputs[0].unflatten(-1, (config.num_heads, config.head_size))
            heads[layer] += by_head.square().mean(-1).flatten(0, 1)[:left].sum(0)

        def normalised(_: nn.Module, __: Any, output: Tensor) -> None:
            hidden.add_(output.abs().flatten(0, 1)[:left].sum(0))

        return [
            block.get_submodule("ffn.down").register_forward_pre_hook(activations),
            block.get_submodule("attention.out").register_forward_pre_hook(outputs),
            block.get_submodule("attention_norm").register_forward_hook(normalised),
            block.get_submodule("ffn_norm").register_forward_hook(normalised),
        ]

    left = rows.counted
    hooks = [hook for layer, block in enumerate(model.blocks) for hook in watch(layer, block)]
    try:
        for batch in rows.batches():
            tokens, _, documents = map(torch.from_numpy, batch)
            with torch.no_grad():
                model.hidden(tokens, documents)
            left -= min(left, tokens.numel())
    finally:
        for hook in hooks:
            hook.remove()
    return Importance(neurons / rows.counted, (heads / rows.counted).sqrt(), hidden / rows.counted / len(hooks) * 2)


def narrow(model: Transformer, settings: Narrow, rows: Rows) -> tuple[Transformer, dict[str, float]]:
    """Make a narrower model of the parts that do most on a text.

    Returns:
        The model, and for each size that shrinks the share of all activity that the parts that stay had.

    Raises:
        MismatchError: the sizes do not fit.
    """
    config = model.config
    small = settings.resized(config)
    found = importance(model, rows)
    choices = [
        Choice(_largest(neurons, small.ffn_size), *_heads(heads, config, small))
        for neurons, heads in zip(found.neurons, found.heads, strict=True)
    ]
    hidden = _largest(found.hidden, small.hidden_size)
    weights = choose(model.state_dict(), config, choices, hidden)
    made = Transformer(small)
    made.load_state_dict(weights)
    layers = range(config.num_layers)
    shares = {
        "ffn_size": _share(found.neurons, [choices[layer].neurons for layer in layers]),
        "num_heads": _share(found.heads, [choices[layer].heads for layer in layers]),
        "hidden_size": _share(found.hidden[None], [hidden]),
    }
    return made, {name: share for name, share in shares.items() if getattr(small, name) != getattr(config, name)}


def _heads(scores: Tensor, config: ModelConfig, small: ModelConfig) -> tuple[Tensor, Tensor]:
    """Query heads and key heads that stay: the key heads whose query heads do most together, of each the best ones."""
    groups = scores.unflatten(0, (config.num_kv_heads, -1))  # [K, G]
    kv_heads = _largest(groups.square().sum(1), small.num_kv_heads)
    each, size = small.num_heads // small.num_kv_heads, groups.shape[1]
    return torch.cat([kv * size + _largest(groups[kv], each) for kv in kv_heads.tolist()]), kv_heads


def _largest(scores: Tensor, count: int) -> Tensor:
    """The places of the largest scores, in their order; of equal ones the first."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _share(scores: Tensor, chosen: list[Tensor]) -> float:
    return float(sum(row[index].sum() for row, index in zip(scores, chosen, strict=True)) / scores.sum())
