"""How a run computes, chosen by measuring: a few candidates race on the first rows, and the winner is remembered.

What is settled here changes the last bits of results, so a checkpoint keeps it and a resumed run takes it from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil
import torch
from torch import Tensor

from headwater.core import hardware
from headwater.core.errors import StoreError
from headwater.core.hardware import Machine
from headwater.core.store import hash_value, read_json, write_json
from headwater.model.config import ModelConfig
from headwater.model.transformer import BlockAttention, Transformer, document_starts, library_attention
from headwater.training.config import Train

Precision = Literal["fp32", "bf16"]
Kernel = Literal["blocks", "library"]
Rows = tuple[Tensor, Tensor, Tensor]
"""Tokens, targets and documents [rows, sequence_length]."""
T = TypeVar("T")

MARGIN = 1.03
"""How many times faster than the candidate before it one must be. Source: laps on a quiet machine differ by 1 to 2 %."""
BF16_GAIN = 1.3
"""How many times faster bf16 products must be to be taken for compiled code: below that, casts eat the gain. Source: our
estimate; where they were 2.2 times as fast, compiled training of 1.1M parameters was 1.5 times as fast in bf16."""
LAP_SECONDS = 1.0
"""After this long the laps of one candidate are enough; every candidate has at least one."""
SLOW_PASS_SECONDS = 0.5
"""From here on for 1,024 tokens, what a pass costs beside its arithmetic is too little to race for. Source: at 15M
parameters, where it takes 0.6 s on one core, micro-batches of 2,048 and 4,096 tokens differ by 4 %."""
ATTENTION_BLOCKS = (64, 128, 256, 512)
PASS_TOKENS = (1024, 2048, 8192)
"""Sizes of a micro-batch [tokens] that race against that of the settings."""


@dataclass(frozen=True)
class Choice:
    """How a run computes."""

    precision: Precision
    attention: Kernel
    micro_batch: int
    """Rows of one forward and backward pass."""
    threads: int
    attention_block: int = 0
    """Query rows of a tile of attention; 0 for one that fits the sequence."""
    compiled: bool | None = None
    """None: not known yet."""

    @property
    def dtype(self) -> torch.dtype:
        """The number format of activations."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def __str__(self) -> str:
        """The choice in a few words."""
        size = f" of {self.attention_block}" if self.attention_block else ""
        attention = f"attention in blocks{size}" if self.attention == "blocks" else "the library's attention"
        rows = f"{self.micro_batch} row{'s' * (self.micro_batch != 1)} at a time"
        return f"{self.precision}, {'compiled' if self.compiled else 'not compiled'}, {attention}, {rows}"


def fastest(
    candidates: Sequence[T], use: Callable[[T], Callable[[], object]], clock: Callable[[], float] = time.perf_counter
) -> tuple[T, dict[T, float]]:
    """Race candidates in turns; the first is taken unless another is clearly faster.

    Args:
        candidates: what to choose from, at least one.
        use: makes everything ready for a candidate and returns its lap; called before every lap.
        clock: tells the time [s].

    Returns:
        The winner, and the best lap of each [s].
    """
    times: dict[T, list[float]] = {candidate: [] for candidate in candidates}
    if len(times) == 1:
        return candidates[0], {}
    for lap_number in range(4):  # the first warms up
        for candidate, laps in times.items():
            if lap_number and sum(laps) > LAP_SECONDS:
                continue
            lap = use(candidate)
            start = clock()
            lap()
            laps.append(clock() - start)
    best = {candidate: min(laps[1:] or laps) for candidate, laps in times.items()}
    winner = candidates[0]
    for candidate in candidates[1:]:
        if best[candidate] * MARGIN < best[winner]:
            winner = candidate
    return winner, best


def race(model: Transformer, settings: Train, batch: Rows, machine: Machine, threads: int) -> tuple[Choice, list[str]]:
    """Choose what can be chosen before compiling.

    Where compiled code follows, passes without it mislead: most of what they take beside products, and of what attention in
    blocks takes, is what compiling removes. So the number format then goes by the speed of products, and attention is
    in blocks. Source: docs/lab-notes.md, "A race before compiling".

    Args:
        model: its number format, attention and gradients are changed; they are the caller's to set afterwards.
        settings: what is not `auto` is taken as it is.
        batch: rows of the first batch.
        machine: whether it fixes the number of threads.
        threads: how many there are.

    Returns:
        The choice, and what was measured in words.
    """
    speed, words = settings.speed, []
    precisions: list[Precision] = ["fp32", "bf16"] if speed.precision == "auto" else [speed.precision]
    kernels: list[Kernel] = ["blocks", "library"] if speed.attention == "auto" else [speed.attention]
    example = [part[: max(min(settings.micro_batch, 1024 // settings.sequence_length), 1)] for part in batch]

    def compute(precision: Precision, kernel: Kernel) -> None:
        model.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model.set_attention(library_attention if kernel == "library" else BlockAttention())

    def use_precision(candidate: Precision) -> Callable[[], object]:
        compute(candidate, kernels[0])
        return lambda: one_pass(model, example)

    if speed.compile == "off":
        precision, laps = fastest(precisions, use_precision)
        if laps:
            words.append(f"bf16 {laps['fp32'] / laps['bf16']:.2f}x fp32")
    else:
        precision, gain = _by_products(precisions, batch[0].device.type)
        kernels = kernels[:1]
        if gain:
            words.append(f"bf16 products {gain:.2f}x fp32")

    def use_kernel(candidate: Kernel) -> Callable[[], object]:
        compute(precision, candidate)
        return lambda: one_pass(model, example)

    kernel, laps = fastest(kernels, use_kernel)
    if laps:
        words.append(f"attention in blocks {laps['library'] / laps['blocks']:.2f}x the library's")

    def use_threads(candidate: int) -> Callable[[], object]:
        compute(precision, kernel)
        torch.set_num_threads(candidate)
        return lambda: one_pass(model, example)

    physical = psutil.cpu_count(logical=False) or threads
    threads, laps = fastest(
        [threads, physical] if not machine.threads and physical < threads else [threads], use_threads
    )
    torch.set_num_threads(threads)
    if laps:
        words.append(f"{threads} threads of {' or '.join(str(count) for count in laps)}")

    def use_rows(candidate: int) -> Callable[[], object]:
        pieces = list(zip(*(part[: max(passes)].split(candidate) for part in batch), strict=True))
        return lambda: [one_pass(model, piece) for piece in pieces]

    compute(precision, kernel)
    passes = _pass_rows(settings)
    if lap(model, example) > SLOW_PASS_SECONDS:
        passes = passes[:1]
    rows, laps = fastest(passes, use_rows)
    if laps:
        words.append(f"{rows} rows at a time {laps[passes[0]] / laps[rows]:.2f}x {passes[0]}" * (rows != passes[0]))
    return Choice(precision, kernel, rows, threads), [word for word in words if word]


def _by_products(precisions: Sequence[Precision], device: str) -> tuple[Precision, float | None]:
    """The number format of compiled code, and how many times as fast bf16 products are where there is a choice."""
    if len(precisions) == 1:
        return precisions[0], None
    fp32, bf16 = (hardware.measure_peak_flops_per_second(device, name, seconds=0.3) for name in ("fp32", "bf16"))
    return "bf16" if bf16 > BF16_GAIN * fp32 else "fp32", bf16 / fp32


def unraced(settings: Train, device: str) -> Choice:
    """What is taken without a race, where ranks hold only parts of the weights: what is not `auto`, and the usual."""
    wanted, gpu = settings.speed, device == "cuda"
    precision = wanted.precision if wanted.precision != "auto" else "bf16" if gpu else "fp32"
    attention = wanted.attention if wanted.attention != "auto" else "blocks"
    compiled = wanted.compile == "on" or (wanted.compile == "auto" and gpu)
    return Choice(precision, attention, settings.micro_batch, torch.get_num_threads(), compiled=compiled)


def only_rows(settings: Train, chosen: Mapping[str, Any]) -> Train:
    """Settings in which all but the rows of a micro-batch is as in an earlier phase of the run."""
    fixed = {"precision": chosen["precision"], "attention": chosen["attention"]}
    fixed |= {"compile": "auto" if chosen["compiled"] else "off"}
    return settings.model_copy(update={"speed": settings.speed.model_copy(update=fixed)})


def race_blocks(model: Transformer, attention: BlockAttention, documents_BT: Tensor) -> int:
    """Choose the size of attention's blocks on one layer's queries and keys, and set it; needs no compiling anew."""
    config, (B, T) = model.config, documents_BT.shape
    start_BT = document_starts(documents_BT)
    q, k, v = (
        torch.zeros(B, T, heads, config.head_size, dtype=model.compute_dtype, requires_grad=True)
        for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    )

    def use(size: int) -> Callable[[], object]:
        attention.size = size
        return lambda: attention(q, k, v, start_BT).sum().backward()

    attention.size, _ = fastest([0, *(size for size in ATTENTION_BLOCKS if size <= T)], use)
    return attention.size


def lap(model: Transformer, rows: Sequence[Tensor]) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    one_pass(model, rows)
    return time.perf_counter() - start


def one_pass(model: Transformer, rows: Sequence[Tensor]) -> None:
    """One forward and backward pass, whose gradients are dropped."""
    model.loss(*rows).backward()
    model.zero_grad(set_to_none=True)
    if rows[0].is_cuda:
        torch.cuda.synchronize()


def _pass_rows(settings: Train) -> list[int]:
    """Rows of a micro-batch to choose from: that of the settings first, all of them divisors of a batch."""
    default, batch = settings.micro_batch, settings.batch_sequences
    if settings.micro_batch_sequences:
        return [default]
    wanted = (max(tokens // settings.sequence_length, 1) for tokens in PASS_TOKENS)
    # laps go over the same rows, so each must also be a divisor or a multiple of the others: powers of two of the first
    others = {rows for rows in wanted if not batch % rows and (not default % rows or not rows % default)}
    return [default, *sorted(others - {default})]


class Memory:
    """Choices made in a store, by machine, model and settings."""

    def __init__(self, store: Path, config: ModelConfig, settings: Train, device: str) -> None:
        """Find the place of a choice in a store's file."""
        name = torch.cuda.get_device_name() if device == "cuda" else hardware.processor_name()
        what = {
            "machine": [device, name, torch.get_num_threads(), torch.__version__],
            "model": config.model_dump(),
            "batch": [settings.batch_sequences, settings.sequence_length, settings.micro_batch_sequences],
            "speed": settings.speed.model_dump(),
        }
        self.path = store / "speed.json"
        self._key = hash_value(what)[:16]

    def recall(self) -> Choice | None:
        """The choice made before, if there is one that can be read."""
        try:
            return Choice(**read_json(self.path)[self._key]["choice"])
        except (StoreError, KeyError, TypeError):  # none yet, or of another version: it is measured anew
            return None

    def keep(self, choice: Choice, measured: list[str]) -> None:
        """Remember a choice."""
        try:
            known: dict[str, Any] = dict(read_json(self.path))
        except (StoreError, TypeError):
            known = {}
        # without a lock: of two runs that end their races together one is forgotten, and measures again next time
        write_json(self.path, known | {self._key: {"choice": asdict(choice), "measured": measured}})
