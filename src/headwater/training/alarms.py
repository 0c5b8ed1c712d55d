"""What looks wrong while a run goes on: losses that are not finite or jump, layers that stand still, rates too small."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from headwater.core.stage import Workspace
from headwater.core.store import write_json
from headwater.tokens.loader import Row
from headwater.training.config import INITIAL_LOSS_TOLERANCE

SPIKE_STEPS, SPIKE_SIGMAS = 128, 6.0
"""A loss so many standard deviations above the mean of so many steps is a spike. Source: OLMo-core's SkipStepOptimizer,
which leaves such steps out; we only say so and keep the batch."""
CHECK_EVERY = 50
"""Steps between two looks at every layer. Each costs a pass over the gradients of the blocks."""
DEAD = 1e-6
"""Gradient of a layer, relative to the median of the same matrix in all layers, below which it learns nothing. Source:
our choice: fp32 resolves 1e-7."""
SAMPLE = 4096
"""Weights of each matrix that are compared before and after an update."""
STUCK_SHARE = 0.5
"""Share of weights kept in bf16 that an update may leave as they were. Source: our choice; 43 % stand still at the first
step and 73 % at the fifth at the learning rate of 5e-5 that is usual for fine-tuning; see docs/lab-notes.md."""


class Sample(NamedTuple):
    """Some weights of every matrix before an update, and the size of its gradient."""

    weights: dict[str, Tensor]
    squares: list[float]
    """Sum of squares of each gradient over all ranks."""


class Alarms:
    """Watches a run and warns, once for each thing."""

    def __init__(
        self, model: nn.Module, state: dict[str, Any], out: Workspace, add_up: Callable[..., list[float]]
    ) -> None:
        """Watch a model.

        Args:
            model: whose blocks to watch.
            state: what a checkpoint keeps: the last losses, and what was said already.
            out: told what looks wrong.
            add_up: sums of numbers over all ranks.
        """
        self._matrices = {
            name: parameter
            for name, parameter in model.named_parameters()
            if name.startswith("blocks.") and parameter.dim() == 2 and parameter.requires_grad
        }
        self._state = state
        self._out = out
        self._add_up = add_up

    def spikes(self, loss: float) -> float | None:
        """How many standard deviations a loss lies above those before it, when that is alarming; remembers it."""
        before: list[float] = self._state["recent_losses"]
        sigmas = None
        if len(before) == SPIKE_STEPS:
            mean, deviation = statistics.fmean(before), statistics.pstdev(before)
            if deviation and loss > mean + SPIKE_SIGMAS * deviation:
                sigmas = (loss - mean) / deviation
        self._state["recent_losses"] = [*before[1 - SPIKE_STEPS :], loss]
        if sigmas is not None:
            self._state["spikes"] += 1
        return sigmas

    def before_update(self, step: int) -> Sample | None:
        """Look at the gradients and some weights before update number `step`, when it is time to."""
        if step % CHECK_EVERY:
            return None
        trained = {name: p for name, p in self._matrices.items() if p.grad is not None}
        squares = [float(local_part(p.grad).double().pow(2).sum()) for p in trained.values() if p.grad is not None]
        return Sample({name: _some(p) for name, p in trained.items()}, self._add_up(*squares))

    def after_update(self, step: int, sample: Sample | None) -> None:
        """Compare with the weights after the update."""
        if sample is None:
            return
        after = {name: _some(self._matrices[name]) for name in sample.weights}
        moved = {name: float((after[name] != before).sum()) for name, before in sample.weights.items()}
        sizes = [float(weights.numel()) for weights in after.values()]
        totals = self._add_up(*moved.values(), *sizes)
        moves, sizes = totals[: len(moved)], totals[len(moved) :]
        self._warn_of_dead_layers(step, dict(zip(moved, zip(sample.squares, moves, strict=True), strict=True)))
        rounded = [n for n, (name, weights) in enumerate(after.items()) if weights.dtype == torch.bfloat16]
        if rounded:
            share = 1 - sum(moves[n] for n in rounded) / sum(sizes[n] for n in rounded)
            self._warn_of_rounding(step, share)

    def _warn_of_dead_layers(self, step: int, found: Mapping[str, tuple[float, float]]) -> None:
        kinds: dict[str, list[float]] = {}
        for name, (squares, _) in found.items():
            kinds.setdefault(_kind(name), []).append(squares)
        for name, (squares, moves) in found.items():
            usual = math.sqrt(statistics.median(kinds[_kind(name)]))
            norm = math.sqrt(squares)
            if norm <= DEAD * usual:
                self._once(
                    name,
                    f"step {step:,}: {name} has a gradient of {norm:.2g} (median of its kind {usual:.2g}): the layer "
                    "learns nothing; are its activations or the weights behind it zero?",
                )
            elif not moves:
                self._once(name, f"step {step:,}: the update left {name} as it was; is its learning rate zero?")

    def _warn_of_rounding(self, step: int, share: float) -> None:
        if share > STUCK_SHARE:
            self._once(
                "bf16",
                f"step {step:,}: the learning rate is too small for weights in bf16: the update left {share:.0%} of "
                "them as they were, rounded away; keep weights in fp32, or raise the rate",
            )

    def _once(self, key: str, message: str) -> None:
        if key not in self._state["alarms"]:
            self._state["alarms"] = [*self._state["alarms"], key]
            self._out.warn(message)


class NoiseScale:
    """The gradient noise scale: the batch beyond which more data per step brings ever less.

    Source: McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1: unbiased estimates of |G|^2 and tr(S) from the norms
    of the gradient at two batch sizes; each averaged over steps before the ratio is taken.
    """

    EVERY = 10
    """Steps between two measurements."""
    MEMORY = 0.95
    """Weight of the past in the averages, about 20 measurements."""

    def __init__(self, state: dict[str, Any]) -> None:
        """Keep the averages in `state`, which a checkpoint keeps."""
        self._state = state

    def due(self, steps_done: int) -> bool:
        """Whether to measure at the step after so many."""
        return steps_done % self.EVERY == 0

    def add(self, small: float, small_tokens: int, big: float, big_tokens: int) -> None:
        """Take in one measurement.

        Args:
            small: squared norm of the gradient of a part of the batch, averaged over parts if there are several.
            small_tokens: tokens of such a part.
            big: squared norm of the gradient of the whole batch.
            big_tokens: tokens of the batch.
        """
        signal = (big_tokens * big - small_tokens * small) / (big_tokens - small_tokens)
        noise = (small - big) / (1 / small_tokens - 1 / big_tokens)
        if not (math.isfinite(signal) and math.isfinite(noise)):
            return
        before = self._state["noise_scale"] or [0.0, 0.0, 0.0]
        new = (signal, noise, 1.0)
        self._state["noise_scale"] = [
            self.MEMORY * old + (1 - self.MEMORY) * value for old, value in zip(before, new, strict=True)
        ]

    @property
    def tokens(self) -> float | None:
        """The noise scale [tokens]; None before it was measured, or while noise hides the gradient altogether."""
        signal, noise, _ = self._state["noise_scale"] or (0.0, 0.0, 0.0)
        return noise / signal if signal > 0 and noise > 0 else None


def squared_norm(parameters: list[nn.Parameter]) -> float:
    """Squared norm of the gradients that are there."""
    return float(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])) ** 2


def share_moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Share of weights that are not the same before and after, when written in bf16."""
    moved = sum(int((tensor.bfloat16() != after[name].cpu().bfloat16()).sum()) for name, tensor in before.items())
    return moved / max(sum(tensor.numel() for tensor in before.values()), 1)


def check_initial_loss(loss: float, notes: Mapping[str, Any], vocab_size: int, out: Workspace) -> None:
    """Compare the loss before the first update with what random weights give, or with guessing."""
    expected = notes.get("expected_initial_loss")
    chance = math.log(vocab_size)
    if expected is None:
        out.note(f"initial loss {loss:.3f} nats per token; guessing would be {chance:.3f}")
        if loss > chance + INITIAL_LOSS_TOLERANCE:
            out.warn(
                f"the initial loss {loss:.3f} is above ln(vocabulary) = {chance:.3f}: do weights and tokenizer belong together?"
            )
        return
    out.note(f"initial loss {loss:.3f} nats per token, expected {expected:.3f}")
    if abs(loss - expected) > INITIAL_LOSS_TOLERANCE:
        out.warn(
            f"the initial loss is {loss:.3f}, expected {expected:.3f} of random weights: something is wrong with the weights, the tokens or the loss"
        )


def keep_batch(what: str, step: int, loss: float, norm: float, rows: list[Row], folder: Path) -> Path:
    """Write down which documents the batch of a step was made of, to look at them; returns the file."""
    pieces = [{"source": row.source, "pieces": [piece._asdict() for piece in row.pieces]} for row in rows]
    record = folder / f"{what}-step-{step:06d}.json"
    write_json(record, {"step": step, "loss": str(loss), "gradient_norm": str(norm), "rows": pieces})
    return record


def sources_of(rows: list[Row]) -> str:
    """The sources of rows, for a message."""
    return ", ".join(sorted({row.source for row in rows}))


def _kind(name: str) -> str:
    """Which matrix of a block this is, whatever the block."""
    return name.split(".", 2)[2]


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor that may be spread over several."""
    to_local = getattr(tensor, "to_local", None)
    return tensor.detach() if to_local is None else to_local().detach()


def _some(parameter: Tensor) -> Tensor:
    """Some of the weights of a matrix, evenly spread."""
    flat = local_part(parameter).flatten()
    return flat[:: max(flat.numel() // SAMPLE, 1)].clone()
