"""Where and how the arithmetic runs: device, threads, number format, compilation. The only place that wraps a model."""

from __future__ import annotations

import dataclasses
import importlib
import math
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headwater.core import hardware
from headwater.core.errors import TrainingError
from headwater.core.stage import Workspace
from headwater.core.units import format_seconds
from headwater.model import transformer
from headwater.model.transformer import AttentionKernel, BlockAttention, Transformer
from headwater.training import speed
from headwater.training.config import Train
from headwater.training.speed import Choice, Rows

TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""Largest difference [nats per token] between the loss of a choice and that of plain fp32 arithmetic before the choice is
distrusted. Source: our estimate; compiled fp32 differed by less than 1e-5 on the batches of the tests, bf16 by 2e-3."""


@dataclass(frozen=True)
class Arithmetic:
    """How this run computes."""

    device: str
    choice: Choice
    peak_flops_per_second: float
    """Measured rate of large matrix products in the chosen precision: what MFU is a share of."""

    @property
    def dtype(self) -> torch.dtype:
        """The number format of activations."""
        return self.choice.dtype


def set_up(out: Workspace, kept: Mapping[str, Any] | None = None) -> str:
    """Prepare this process for training.

    Args:
        out: the machine to use.
        kept: what a checkpoint keeps of how an earlier part of this run computed.

    Returns:
        Where tensors live: "cpu" or "cuda".

    Raises:
        MismatchError: the machine is to use CUDA, and has none.
    """
    device = hardware.tensor_device(out.machine)
    torch.set_num_threads(kept["threads"] if kept else out.machine.processor_threads)
    torch.set_flush_denormal(True)
    hardware.keep_freed_memory()
    hardware.keep_compiled_code(compiled_code(out))
    if device == "cpu":
        hardware.fast_fp32_products()
    return device


def compiled_code(out: Workspace) -> Path:
    """Folder in which compiled code is kept between runs: one per store, so that no other program can break it."""
    return out.folder.absolute().parent / "compiled"


def prepare(
    model: Transformer,
    settings: Train,
    device: str,
    batch: Rows,
    out: Workspace,
    kept: Mapping[str, Any] | None = None,
) -> Arithmetic:
    """Choose how a model computes, set it so, compile it, and make sure that its loss is that of plain arithmetic.

    Args:
        model: changed in place.
        settings: what is chosen already, and the size of a batch.
        device: where tensors live.
        batch: the rows of the first batch.
        out: told what was chosen, and when something does not work; its store remembers.
        kept: what a checkpoint keeps of how an earlier part of this run computed: it is done again, unmeasured.

    Raises:
        TrainingError: `compile: on`, and it fails.
    """
    start = time.perf_counter()
    memory = speed.Memory(out.folder.absolute().parent, model.config, settings, device)
    known = Choice(**kept) if kept else memory.recall()
    model.recompute = settings.speed.activations == "recompute"
    measured: list[str] = []
    choice = known
    if choice is None:
        choice, measured = speed.race(model, settings, batch, out.machine, torch.get_num_threads())
    example = _first(batch, choice.micro_batch)
    plain = _plain_loss(model, example)
    choice = _compile(model, settings, choice, example, plain, out, measured)
    raced = settings.speed.compile == "off" or any(word.startswith("compiled ") for word in measured)
    if known is None and raced:  # where compiling failed it is tried again next time
        memory.keep(choice, measured)
    if kept and choice != known:
        out.warn("the run was begun with compiled code and goes on without, or the other way round: not bit-exact")
    origin = "as before in this run" if kept else "as measured before" if known else "; ".join(measured)
    seconds = format_seconds(time.perf_counter() - start)
    out.note(f"speed: {choice}{f' ({origin})' if origin else ''}; ready after {seconds}")
    peak = hardware.measure_peak_flops_per_second(device, choice.precision, seconds=0.3)
    return Arithmetic(device, choice, peak)


def _first(batch: Rows, rows: int) -> Rows:
    tokens, targets, documents = (part[:rows] for part in batch)
    return tokens, targets, documents


def _plain_loss(model: Transformer, example: Rows) -> float:
    """The loss in fp32, uncompiled, by the library's attention."""
    _compute_plainly(model, torch.float32, transformer.library_attention)
    with torch.no_grad():
        return float(model.loss(*example))


def _compute_plainly(model: Transformer, dtype: torch.dtype, mix: AttentionKernel) -> None:
    """Set number format and attention, uncompiled."""
    model.compute_dtype = dtype
    model.set_attention(mix)
    model.softmax_loss = transformer.softmax_loss
    for block in model.blocks:
        block._compiled_call_impl = None  # torch offers no other way back


def _compile(
    model: Transformer,
    settings: Train,
    choice: Choice,
    example: Rows,
    plain: float,
    out: Workspace,
    measured: list[str],
) -> Choice:
    """Set the model as chosen, compiled where that works and is faster; say what was chosen on the way."""
    _compute_plainly(model, choice.dtype, _attention(choice))
    if settings.speed.compile == "off" or choice.compiled is False:
        with torch.no_grad():
            problem = disagreement(float(model.loss(*example)), plain, TOLERANCE[choice.precision])
        if problem:
            out.warn(f"the loss in {choice.precision} {problem}")
        return dataclasses.replace(choice, compiled=False)
    before = 0.0 if choice.compiled else speed.lap(model, example)
    problem = _try_to_compile(model, choice, example, plain, cautious=False)
    if problem:  # often only a file that an earlier kill left half-written: begin again with none
        shutil.rmtree(compiled_code(out), ignore_errors=True)
        problem = _try_to_compile(model, choice, example, plain, cautious=True)
    if problem and settings.speed.compile == "on":
        hint = "set train.speed.compile to auto or off"
        raise TrainingError(f"compiling failed ({problem})", place="train.speed.compile", hint=hint)
    if problem:
        out.warn(f"compiling failed, training goes on without it, slower: {problem}")
    elif choice.compiled:
        return choice
    else:
        mix = model.mix
        block = speed.race_blocks(model, mix, example[2]) if isinstance(mix, BlockAttention) else 0
        gain = before / speed.lap(model, example)
        measured.append(f"compiled {gain:.2f}x")
        if gain > 1 or settings.speed.compile == "on":
            return dataclasses.replace(choice, attention_block=block, compiled=True)
    _compute_plainly(model, choice.dtype, _attention(choice))
    return dataclasses.replace(choice, compiled=False)


def _try_to_compile(model: Transformer, choice: Choice, example: Rows, plain: float, cautious: bool) -> str | None:
    """Compile, run forward and backward once, and compare with the plain loss; returns what went wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler warns of torch's own code
            _compute_plainly(model, choice.dtype, _attention(choice))
            compile_blocks(model, _attention(choice, example[0].is_cuda), cautious)
            loss = model.loss(*example)
            loss.backward()
    except Exception as error:  # whatever a compiler throws; what it was is told to the user
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    finally:
        model.zero_grad(set_to_none=True)
    problem = disagreement(float(loss.detach()), plain, TOLERANCE[choice.precision])
    return f"the compiled loss {problem}" if problem else None


def compile_blocks(model: Transformer, mix: AttentionKernel, cautious: bool = False) -> None:
    """Have a model's blocks and its loss compiled when they first run.

    One block is compiled and called once per layer, so that compiling takes as long for 4 layers as for 40.

    Args:
        model: changed in place.
        mix: how it mixes values; the functions of a BlockAttention are compiled on their own.
        cautious: first try whether the C++ compiler knows the processor's vector instructions, and do without
            precompiled headers, which other programs share. Both cost seconds.
    """
    torch.compiler.reset()
    inductor: Any = importlib.import_module("torch._inductor.config")
    inductor.cpp.vec_isa_ok = None if cautious else True
    # torch hashes headers with the program openssl, and fails where there is none
    inductor.cpp_cache_precompile_headers = not cautious and shutil.which("openssl") is not None
    symbols: Any = importlib.import_module("torch.fx.experimental._config")
    symbols.use_duck_shape = False  # a square tile is no special case
    if isinstance(mix, BlockAttention):
        functions = (transformer.tile_softmax, transformer.tile_softmax_gradient)
        mix = BlockAttention(mix.size, *(torch.compile(function, dynamic=True) for function in functions))
    model.set_attention(mix)
    for block in model.blocks:
        block.compile(dynamic=False)
    model.softmax_loss = torch.compile(transformer.softmax_loss, dynamic=False)


def _attention(choice: Choice, compiled_for_cuda: bool = False) -> AttentionKernel:
    """The kernel of a choice; `blocks` is FlexAttention in compiled code for a GPU."""
    if choice.attention == "library":
        return transformer.library_attention
    return transformer.flex_attention if compiled_for_cuda else BlockAttention(choice.attention_block)


def disagreement(loss: float, plain: float, tolerance: float) -> str | None:
    """What is wrong with a loss; None when nothing is, or when the plain loss tells nothing."""
    if math.isfinite(plain) and not abs(loss - plain) <= tolerance:  # so written that NaN is refused
        return f"is {loss:.5f}, the plain one {plain:.5f}"
    return None
