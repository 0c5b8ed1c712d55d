"""The ladder of the course: one improvement after another, each measured on this machine. Behind `headwater speed`.

Source: Karpathy 2024, "Let's reproduce GPT-2 (124M)", section "Let's make it fast", in the same order; the last rung is
ours. Each rung keeps what the ones before it gained.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from torch.nn import functional as F  # noqa: N812  # its name everywhere

from headwater.core import hardware
from headwater.core.hardware import Machine
from headwater.core.log import logger, progress
from headwater.core.units import format_count
from headwater.model.initialize import random_model
from headwater.model.shape import ModelConfig
from headwater.model.transformer import BlockAttention, library_attention
from headwater.training import parallel
from headwater.training.config import Train

VOCABULARY_MULTIPLE = 64
"""To what a padded vocabulary is rounded up. Source: nanoGPT; GPT-2's 50,257 become 50,304."""
BUSY = 0.5
"""Load per core from which a warning is given. Source: our estimate."""
LAPS, LAP_SECONDS = 8, 3.0
"""Steps of a rung that are timed, and after how long they are enough."""


@dataclass(frozen=True)
class Workload:
    """What is trained at each rung."""

    config: ModelConfig
    """The model, its vocabulary without padding."""
    rows: int
    sequence_length: int

    def __str__(self) -> str:
        """The workload in a line."""
        size = format_count(self.config.parameters())
        return f"{size} parameters, {self.rows} x {self.sequence_length:,} tokens per step, AdamW"


@dataclass(frozen=True)
class Setting:
    """How a rung computes."""

    padding_rows: int = 0
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compiled: bool = False
    blocks: bool = False
    fused: bool = False
    chunked: bool = False


@dataclass(frozen=True)
class Rung:
    """One improvement and what it gave."""

    name: str
    milliseconds: float | None
    """Per step; None when it was skipped."""
    factor: float | None
    """How many times faster than the rung before."""
    total_factor: float | None
    """How many times faster than the first."""
    tokens_per_second: float | None
    note: str = ""
    """Why it was skipped."""


def ladder(config: ModelConfig | None, train: Train | None, machine: Machine) -> tuple[str, list[dict[str, Any]]]:
    """Measure every rung, and say in words what was trained.

    Args:
        config: the model; None for one that suits the machine.
        train: whose sequence length and micro-batch to take.
        machine: threads and device.

    Raises:
        MismatchError: the machine is to use CUDA, and has none.
    """
    if config and train:
        bare = config.model_copy(update={"vocab_size": config.token_types, "padding_rows": 0})
        workload = Workload(bare, train.micro_batch, train.sequence_length)
    else:
        workload = default_workload(machine)
    with tempfile.TemporaryDirectory() as temporary:  # a cache of its own: compiling is not what is timed
        return str(workload), [vars(rung) for rung in climb(workload, machine, Path(temporary))]


def default_workload(machine: Machine) -> Workload:
    """GPT-2's size on a GPU, a small model with an odd vocabulary on a processor.

    Raises:
        MismatchError: the machine is to use CUDA, and has none.
    """
    if hardware.tensor_device(machine) == "cuda":
        big = ModelConfig(vocab_size=50_257, hidden_size=768, num_layers=12, num_heads=12, context_length=1024)
        return Workload(big, 16, 1024)
    small = ModelConfig(vocab_size=8_190, hidden_size=384, num_layers=6, num_heads=6, context_length=512)
    return Workload(small, 4, 512)


def climb(workload: Workload, machine: Machine, compiled_code: Path) -> list[Rung]:
    """Measure every rung.

    Args:
        workload: what to train.
        machine: threads and device.
        compiled_code: folder for compiled code.

    Raises:
        MismatchError: the machine is to use CUDA, and has none.
    """
    device = hardware.tensor_device(machine)
    torch.set_num_threads(machine.processor_threads)
    torch.set_flush_denormal(True)
    hardware.keep_freed_memory()
    hardware.keep_compiled_code(compiled_code)
    rungs: list[Rung] = []
    steps = list(_ladder(workload, device))
    setting = Setting()
    busy = psutil.getloadavg()[0]
    if busy > BUSY * hardware.core_count():
        logger.warning("other programs are at work (load %.1f): steps are slower, and factors less certain", busy)
    with progress("speed", len(steps), "rungs") as bar:
        for name, change, reason in steps:
            wanted, seconds = dataclasses.replace(setting, **change), 0.0
            if not reason:
                seconds, reason = _try(workload, wanted, device)
            if reason:
                rungs.append(Rung(name, None, None, None, None, reason))
            else:
                setting = wanted
                rungs.append(_rung(name, seconds, rungs, workload))
            bar.advance(info=name)
    return rungs


def _ladder(workload: Workload, device: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Name, change and, where it cannot be tried, why."""
    cuda = device == "cuda"
    vocabulary = workload.config.vocab_size
    padded = math.ceil(vocabulary / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    yield "fp32", {}, ""
    yield "TF32", {"precision": "tf32"}, "" if cuda else "a format of NVIDIA GPUs; this is a processor"
    yield "bf16", {"precision": "bf16"}, ""
    yield "compile", {"compiled": True}, ""
    yield "flash attention" if cuda else "attention in blocks", {"blocks": True}, ""
    why = f"{vocabulary:,} is a multiple of {VOCABULARY_MULTIPLE} already" if padded == vocabulary else ""
    yield f"vocabulary of {padded:,}", {"padding_rows": padded - vocabulary}, why
    yield "fused AdamW", {"fused": True}, ""
    yield "loss in chunks", {"chunked": True}, ""


def _rung(name: str, seconds: float, before: list[Rung], workload: Workload) -> Rung:
    measured = [rung.milliseconds for rung in before if rung.milliseconds is not None]
    milliseconds = 1000 * seconds
    factors = (measured[-1] / milliseconds, measured[0] / milliseconds) if measured else (1.0, 1.0)
    return Rung(name, milliseconds, *factors, workload.rows * workload.sequence_length / seconds)


def _try(workload: Workload, setting: Setting, device: str) -> tuple[float, str]:
    """Seconds of a step, and why it failed where it did."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if setting.precision == "tf32" else "highest")
    try:
        return _time(_step(workload, setting, device), device), ""
    except Exception as error:  # a missing compiler, memory that does not suffice: the ladder goes on without it
        return 0.0, f"failed: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:100]}"
    finally:
        torch.set_float32_matmul_precision(precision)


def _step(workload: Workload, setting: Setting, device: str) -> Callable[[], None]:
    """One step of training as a function."""
    rows = workload.config.vocab_size + setting.padding_rows
    config = workload.config.model_copy(update={"vocab_size": rows, "padding_rows": setting.padding_rows})
    model = random_model(config, 0).to(device)
    model.reset_buffers(device)
    model.compute_dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    # before the rung of attention: the whole square of scores at once, written out
    size = 0 if setting.blocks else workload.sequence_length
    mix = library_attention if setting.blocks and device == "cuda" else BlockAttention(size)
    model.set_attention(mix)
    if setting.compiled:
        parallel.compile_blocks(model, mix)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=setting.fused or None)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(
        workload.config.vocab_size, (workload.rows, workload.sequence_length + 1), generator=generator
    )
    inputs, targets = tokens[:, :-1].to(device), tokens[:, 1:].to(device)

    def step() -> None:
        if setting.chunked:
            loss = model.loss(inputs, targets)
        else:
            loss = F.cross_entropy(model(inputs).float().flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _time(step: Callable[[], None], device: str) -> float:
    """Seconds of the best step, after two that warm up: a busy machine only ever makes a step slower."""
    laps: list[float] = []
    for _ in range(LAPS + 2):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        laps.append(time.perf_counter() - start)
        if len(laps) > 3 and sum(laps[2:]) > LAP_SECONDS:
            break
    return min(laps[2:])
