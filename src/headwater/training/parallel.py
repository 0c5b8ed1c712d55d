"""Where and how the arithmetic runs: device, threads, number format, compilation. The only place that wraps a model."""

from __future__ import annotations

import importlib
import math
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from headwater.core import hardware
from headwater.core.errors import TrainingError
from headwater.core.stage import Workspace
from headwater.core.units import format_seconds
from headwater.model.transformer import Transformer, softmax_loss
from headwater.training.config import Train

Precision = Literal["fp32", "bf16"]
BF16_GAIN = 1.3
"""How many times faster bf16 products must be to be taken: below that, casts eat the gain. Source: our estimate."""
COMPILED_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""Largest difference [nats per token] between the compiled loss and the plain one before compilation is distrusted.
Source: our estimate; in fp32 the two differed by less than 1e-5 on the batches of the tests."""


@dataclass(frozen=True)
class Arithmetic:
    """How this run computes."""

    device: str
    precision: Precision
    peak_flops_per_second: float
    """Measured rate of large matrix products in `precision`: what MFU is a share of."""

    @property
    def dtype(self) -> torch.dtype:
        """The number format of activations."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def set_up(settings: Train, out: Workspace, precision: Precision | None = None) -> Arithmetic:
    """Prepare this process for training, and measure what it can do.

    Args:
        settings: asked-for precision.
        out: the machine to use.
        precision: what an earlier part of this run used: it is kept, so that resuming is exact.

    Raises:
        MismatchError: the machine is to use CUDA, and has none.
    """
    device = hardware.tensor_device(out.machine)
    torch.set_num_threads(out.machine.processor_threads)
    torch.set_flush_denormal(True)
    hardware.keep_freed_memory()
    hardware.keep_compiled_code(compiled_code(out))
    rates: dict[Precision, float] = {}
    wanted = precision or settings.precision
    for choice in ("fp32", "bf16"):
        if wanted in (choice, "auto"):
            rates[choice] = hardware.measure_peak_flops_per_second(device, choice, seconds=0.3)
    if wanted == "auto":
        wanted = "bf16" if rates["bf16"] > BF16_GAIN * rates["fp32"] else "fp32"
        out.note(f"precision {wanted}: {rates['fp32'] / 1e9:,.0f} GFLOP/s in fp32, {rates['bf16'] / 1e9:,.0f} in bf16")
    return Arithmetic(device, wanted, rates[wanted])


def compiled_code(out: Workspace) -> Path:
    """Folder in which compiled code is kept between runs: one per store, so that no other program can break it."""
    return out.folder.absolute().parent / "compiled"


def prepare(
    model: Transformer, settings: Train, arithmetic: Arithmetic, example: tuple[Tensor, ...], out: Workspace
) -> float:
    """Set a model's number format and compile it; say how many seconds that took, 0 when it is not compiled.

    One block is compiled and called once per layer, so that compiling takes as long for 4 layers as for 40.

    Args:
        model: changed in place.
        settings: whether to compile.
        arithmetic: how this run computes.
        example: one micro-batch as it will come: tokens, targets, documents.
        out: told when something does not work.

    Raises:
        TrainingError: `compile: on`, and it fails.
    """
    _undo(model)  # what an earlier phase compiled was for rows of another shape
    model.compute_dtype = arithmetic.dtype
    if settings.compile == "off":
        return 0.0
    start = time.perf_counter()
    with torch.no_grad():
        plain = float(model.loss(*example))
    problem = _compile(model, example, plain, arithmetic.precision, cautious=False)
    if problem:  # often only a file that an earlier kill left half-written: begin again with none
        shutil.rmtree(compiled_code(out), ignore_errors=True)
        problem = _compile(model, example, plain, arithmetic.precision, cautious=True)
    if problem:
        _undo(model)
        if settings.compile == "on":
            hint = "set train.compile to auto or off"
            raise TrainingError(f"compiling failed ({problem})", place="train.compile", hint=hint)
        out.warn(f"compiling failed, training goes on without it, slower: {problem}")
        return 0.0
    seconds = time.perf_counter() - start
    out.note(f"compiled in {format_seconds(seconds)}")
    return seconds


def _compile(
    model: Transformer, example: tuple[Tensor, ...], plain: float, precision: Precision, cautious: bool
) -> str | None:
    """Compile, run forward and backward once, and compare with the plain loss; returns what went wrong.

    `cautious` first tries whether the C++ compiler knows the processor's vector instructions, and does without
    precompiled headers, which other programs share. Both cost seconds.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler warns of torch's own code
            torch.compiler.reset()
            inductor: Any = importlib.import_module("torch._inductor.config")
            inductor.cpp.vec_isa_ok = None if cautious else True
            # torch hashes headers with the program openssl, and fails where there is none
            inductor.cpp_cache_precompile_headers = not cautious and shutil.which("openssl") is not None
            for block in model.blocks:
                block.compile(dynamic=False)
            model.softmax_loss = torch.compile(softmax_loss, dynamic=False)
            loss = model.loss(*example)
            loss.backward()
    except Exception as error:  # whatever a compiler throws; what it was is told to the user
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    finally:
        model.zero_grad(set_to_none=True)
    return disagreement(float(loss.detach()), plain, COMPILED_TOLERANCE[precision])


def disagreement(compiled: float, plain: float, tolerance: float) -> str | None:
    """What is wrong with the loss of compiled code; None when nothing is, or when the plain loss tells nothing."""
    if math.isfinite(plain) and not abs(compiled - plain) <= tolerance:  # so written that NaN is refused
        return f"the compiled loss is {compiled:.5f}, the plain one {plain:.5f}"
    return None


def _undo(model: Transformer) -> None:
    for block in model.blocks:
        block._compiled_call_impl = None  # torch offers no other way back
    model.softmax_loss = softmax_loss
