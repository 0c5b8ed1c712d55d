"""Memory of one GPU in training, term by term, for a way to spread a model over many; and in serving. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

from headwater.advice.architecture import Architecture
from headwater.advice.market import Accelerator, Market
from headwater.core.errors import MismatchError
from headwater.core.units import format_bytes
from headwater.model.memory import Sharding, TrainingPrecision, states

Recompute = Literal["nothing", "everything"]
Logits = Literal["plain", "fused", "chunked"]
LOGIT_BYTES: dict[Logits, float] = {"plain": 10, "fused": 6, "chunked": 0}
"""Bytes of a logit at the peak: `plain`, bf16 logits, fp32 log-probabilities and their fp32 gradient; `fused`, bf16 and one
fp32 copy that the gradient takes the place of. Source: 4 bytes saved and 2 + 4 transient, measured on Llama."""
CHUNK_BYTES = 2 * 4 * 2.0**22
"""Logits that exist at a time where the loss goes chunk by chunk, with their gradient; as in Headwater's own model."""


@dataclass(frozen=True)
class Layout:
    """How a model and its batch are spread."""

    gpus: int
    sharding: Sharding = "weights"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    micro_batch: int = 1
    """Rows of one forward and backward pass."""
    recompute: Recompute = "nothing"
    precision: TrainingPrecision = "fp32"
    """Number format in which weights are kept: fp32 (products may still be bf16), or bf16 with an fp32 copy."""
    logits: Logits = "fused"
    learned: float = 1.0
    """Share of the parameters that learn, and have a gradient and moments."""
    eager: bool = False
    """Whether nothing is fused, as in transformers without a compiler."""

    @property
    def data_parallel(self) -> int:
        """Copies of the model, over which sharding spreads."""
        return self.gpus // (self.tensor_parallel * self.pipeline_parallel)

    def __str__(self) -> str:
        """The layout in words."""
        names = {"none": "DDP", "optimizer": "ZeRO-1", "gradients": "ZeRO-2", "weights": "FSDP (ZeRO-3)"}
        parts = [names[self.sharding] if self.data_parallel > 1 else "one copy"]
        for name, count in (
            ("TP", self.tensor_parallel),
            ("PP", self.pipeline_parallel),
            ("CP", self.context_parallel),
        ):
            parts += [f"{name} {count}"] if count > 1 else []
        parts += ["recompute"] if self.recompute == "everything" else []
        return " + ".join(parts)


@dataclass(frozen=True)
class Memory:
    """Memory of one GPU by what it is for [bytes]."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    logits: float
    buffers: float
    """Driver and libraries."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(vars(self).values())


class _Sizes(NamedTuple):
    """What of a shape does not depend on how it is spread."""

    parameters: int
    block: int
    """Parameters of the largest block."""
    outside: int
    """Parameters outside of blocks."""
    kept: float
    """Numbers that all blocks keep for each token, everything fused."""
    most: float
    """The most that one of them keeps."""


@lru_cache(maxsize=512)
def _sizes(model: Architecture) -> _Sizes:
    layers = range(model.num_layers)
    blocks = [model.block_matrices(n, active=False) + model.block_vectors(n) for n in layers]
    numbers = [model.activation_numbers(n) for n in layers]
    count = model.parameters()
    return _Sizes(count, max(blocks), count - sum(blocks), sum(numbers), max(numbers))


def training(
    model: Architecture,
    layout: Layout,
    sequence_length: int,
    activation_bytes: float | None = None,
    reserved_bytes: float = 1.0e9,
) -> Memory:
    """Memory of the GPU that holds most.

    Args:
        model: its shape.
        layout: how it is spread.
        sequence_length: tokens of a row.
        activation_bytes: of all blocks for a token, where they were measured; else by formula.
        reserved_bytes: what driver and libraries take.

    Source: Rajbhandari et al. 2019 (arXiv:1910.02054) for sharding, Korthikanti et al. 2022 (arXiv:2205.05198) for
    activations under tensor (with sequence) and pipeline parallelism: the first of p stages holds p micro-batches of
    L / p blocks, so as many as all blocks.
    """
    t, p = layout.tensor_parallel, layout.pipeline_parallel
    blocks = math.ceil(model.num_layers / p)
    sizes = _sizes(model)
    per_gpu = sizes.parameters / t
    if p > 1:
        per_gpu = (blocks * sizes.block + sizes.outside / (1 if model.tie_embeddings else 2)) / t
    unit = max(sizes.block, model.vocab_size * model.hidden_size) / t
    kept = states(per_gpu, 0, layout.precision, sharding=layout.sharding, devices=layout.data_parallel)
    kept = kept._replace(gradients=kept.gradients * layout.learned, optimizer=kept.optimizer * layout.learned)
    gathered = 0.0
    if layout.data_parallel > 1 and layout.sharding == "weights":
        gathered = 2 * 2 * unit  # this block and the next, in bf16
    elif layout.sharding == "gradients" and layout.precision == "fp32":  # FSDP's: fp32 shards, whole weights in bf16
        kept = kept._replace(weights=kept.weights / layout.data_parallel)
        gathered = 2 * per_gpu
    tokens = layout.micro_batch * sequence_length / layout.context_parallel
    logits = LOGIT_BYTES[layout.logits] * tokens * model.vocab_size / t
    logits = min(logits, CHUNK_BYTES) if layout.logits == "chunked" else logits
    activations = _activations(model, layout, tokens, activation_bytes) / t
    return Memory(kept.weights, kept.gradients, kept.optimizer, gathered, activations, logits, reserved_bytes)


def _activations(model: Architecture, layout: Layout, tokens: float, measured: float | None) -> float:
    """Bytes of all blocks' activations, before tensor parallelism shares them."""
    sizes, more = _sizes(model), layout.eager * model.eager_numbers()
    numbers = sizes.kept + model.num_layers * more
    every = measured if measured is not None else 2 * numbers
    if layout.recompute == "nothing":
        return tokens * every
    return tokens * (2 * model.hidden_size * model.num_layers + every * (sizes.most + more) / numbers)


# ------------------------------------------------------------------------------------------------ what fits


@dataclass(frozen=True)
class Choice:
    """A way to spread a model, and whether it fits."""

    layout: Layout
    memory: Memory
    fits: bool


def choices(
    model: Architecture,
    gpu: Accelerator,
    gpus: int,
    sequence_length: int,
    base: Layout | None = None,
    activation_bytes: float | None = None,
) -> tuple[Choice, ...]:
    """The usual ways, simplest first: DDP, ZeRO-1, 2, 3, with tensor, pipeline and context parallelism, with recomputing."""
    found = []
    for layout in _ways(model, gpu, gpus, base or Layout(gpus)):
        memory = training(model, layout, sequence_length, activation_bytes, gpu.reserved_bytes)
        found.append(Choice(layout, memory, memory.total <= gpu.memory_bytes))
    return tuple(found)


def _ways(model: Architecture, gpu: Accelerator, gpus: int, base: Layout) -> Iterator[Layout]:
    shardings: tuple[Sharding, ...] = ("none", "optimizer", "gradients", "weights") if gpus > 1 else ("none",)
    recomputes: tuple[Recompute, ...] = ("nothing", "everything")
    for recompute in recomputes:
        for sharding in shardings:
            yield replace(base, gpus=gpus, sharding=sharding, recompute=recompute)
        for t in (2, 4, 8):
            if t <= min(gpus, gpu.per_node) and gpus % t == 0 and model.num_heads % t == 0:
                yield replace(base, gpus=gpus, tensor_parallel=t, recompute=recompute)
    t = math.gcd(math.gcd(8, gpus), math.gcd(gpu.per_node, model.num_heads))
    for p in (4, 16):
        if gpus % (t * p) == 0 and model.num_layers >= p:
            yield replace(
                base, gpus=gpus, sharding="optimizer", tensor_parallel=t, pipeline_parallel=p, precision="bf16"
            )
    for c in (2, 4, 8, 16):
        if gpus % (t * c) == 0:
            yield replace(base, gpus=gpus, tensor_parallel=t, context_parallel=c, recompute="everything")


def preferred(ways: tuple[Choice, ...]) -> Choice | None:
    """The simplest way that fits; None where none does."""
    return next((way for way in ways if way.fits), None)


def _any(layout: Layout) -> bool:  # noqa: ARG001
    return True


def smallest(
    model: Architecture, gpu: Accelerator, sequence_length: int, most: int = 1 << 17, *, base: Layout | None = None,
    measured: float | None = None, asked: Callable[[Layout], bool] = _any,
) -> int | None:  # fmt: skip
    """The fewest GPUs of a kind on which a model can be trained as asked; None where no number of them suffices."""
    gpus = 1
    while gpus <= most:
        ways = choices(model, gpu, gpus, sequence_length, base, measured)
        if preferred(tuple(way for way in ways if asked(way.layout))):
            return gpus
        gpus *= 2
    return None


def refuse(
    model: Architecture, market: Market, name: str, gpus: int, sequence_length: int, base: Layout | None = None,
    measured: float | None = None, asked: Callable[[Layout], bool] = _any,
) -> MismatchError:  # fmt: skip
    """The error for a model that does not fit: how much is missing, and the smallest machines that would do."""
    gpu, base = market.accelerator(name), base or Layout(gpus)
    every = choices(model, gpu, gpus, sequence_length, base, measured)
    ways = [way for way in every if asked(way.layout)]
    place = f"{gpus:,} x {name}"
    if not ways:
        hint = f"--tensor-parallel 2, 4 or 8, if it divides {model.num_heads} heads; --sharding for two copies or more"
        return MismatchError("cannot share the model as asked", place=place, hint=hint)
    least = min(ways, key=lambda way: way.memory.total)
    if unasked := preferred(every):
        hint = f"leave out how it is shared: {unasked.layout} fits; or take fewer rows, or more GPUs"
        need = f"{format_bytes(least.memory.total)}, and there are {format_bytes(gpu.memory_bytes)}"
        return MismatchError(f"the model does not fit as asked: {least.layout} needs {need}", place=place, hint=hint)
    enough = smallest(model, gpu, sequence_length, base=base, measured=measured, asked=asked)
    same = f"{enough:,} x {name}" if enough else f"no number of {name}"
    others = []
    for other, accelerator in market.accelerators.items():
        count = smallest(model, accelerator, sequence_length, 8, base=base, measured=measured, asked=asked)
        if count:
            others.append((count * accelerator.usd_per_hour.likely, f"{count} x {other}"))
    cheapest = f"; the cheapest machine of up to 8 GPUs is {min(others)[1]}" if others else ""
    rows = "one row" if base.micro_batch == 1 else f"{base.micro_batch:,} rows"
    problem = (
        f"the model fits no way: at least {format_bytes(least.memory.total)} are needed on each GPU ({least.layout}, "
        f"{rows} of {sequence_length:,} tokens), and there are {format_bytes(gpu.memory_bytes)}"
    )
    hint = f"the smallest number that works is {same}{cheapest}" if enough else f"{same} works{cheapest}"
    return MismatchError(problem, place=place, hint=hint)


# ------------------------------------------------------------------------------------------------ serving


SERVED_LOGIT_BYTES = {"reserved": 10, "needed": 6}
"""Bytes of a logit where a plain forward pass computes one for every token of the prompts: bf16 and fp32 are `needed`;
a monitor shows a freed fp32 copy more, which the allocator keeps while there is room. Source: with SCORE_BYTES, all 20 sizes
but one of DeepSeek's table of 7B on an A100 are met within 4 %; at that one memory was short, and the copy was given up."""
SCORE_BYTES = 5.3
"""Bytes of a score of attention of one block where it is not computed in tiles. Source: the same."""


def serving(
    model: Architecture,
    batch: int,
    tokens: int,
    *,
    weight_bits: float = 16,
    eager: Literal["reserved", "needed"] | None = None,
) -> float:
    """Memory to generate with [bytes]: weights, keys and values in 16 bits, and what reading the prompts takes.

    Args:
        model: its shape.
        batch: texts at a time.
        tokens: of each, prompt and answer.
        weight_bits: of a weight.
        eager: count logits and scores of all prompt tokens at once, as transformers had them in 2023: what a monitor
            shows, or what is needed.
    """
    needed = model.parameters() * weight_bits / 8 + 2.0 * batch * tokens * model.cache_numbers_per_token()
    if eager:
        needed += batch * tokens * SERVED_LOGIT_BYTES[eager] * model.vocab_size
        needed += batch * SCORE_BYTES * model.num_heads * tokens**2
    return needed
