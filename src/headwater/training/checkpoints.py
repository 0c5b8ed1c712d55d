"""The checkpoints of a run: which to go on from, when to write one, how, and which are kept."""

from __future__ import annotations

import copy
import shutil
import time
from bisect import bisect_right
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from torch import Tensor
from torch.distributed.tensor import DTensor

from headwater.core import hardware
from headwater.core.errors import StoreError
from headwater.core.stage import Workspace
from headwater.core.units import format_bytes
from headwater.model import checkpoint
from headwater.model.config import ModelConfig
from headwater.training.config import Train
from headwater.training.distributed import Team


class Checkpoints:
    """The folder `checkpoints` of a run, and its final `checkpoint`."""

    def __init__(self, settings: Train, out: Workspace, team: Team) -> None:
        """Say where they are, and who writes them."""
        self._team = team
        self._settings = settings
        self._out = out
        self.folder = out.folder / "checkpoints"
        self._saved_at = time.perf_counter()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._said = False

    def clear_unfinished(self) -> None:
        """Remove what a kill left half-written."""
        for folder in (self._out.folder, self.folder):
            checkpoint.remove_unfinished(folder)

    def newest(self) -> Path | None:
        """The newest intact checkpoint; the user is told of damaged ones."""
        return checkpoint.newest(self.folder, self._out.warn)

    def due(self, steps_done: int) -> bool:
        """Whether it is time to write one after so many steps."""
        settings = self._settings
        by_steps = any(every and steps_done % every == 0 for every in (settings.checkpoint_every, settings.keep_every))
        interval = settings.checkpoint_interval
        return by_steps or bool(interval and time.perf_counter() - self._saved_at >= interval)

    def save(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        notes: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        final: bool = False,
    ) -> None:
        """Write one, from which the run can go on exactly, and remove old ones; in the background if there is memory.

        Args:
            config: shape of the model.
            weights: by name.
            notes: facts about the weights.
            tensors: optimizer state and random numbers.
            state: all else.
            final: the last one, for later stages; it is there when this returns.

        Raises:
            StoreError: the disk is full or not writable, now or when the one before was written; older checkpoints are
                untouched.
        """
        self.settle()
        step = state["steps_done"]
        folder = self._out.folder / "checkpoint" if final else checkpoint.step_folder(self.folder, step)
        needed = sum(_bytes(tensor) for tensor in (*weights.values(), *tensors.values()))
        self._check_space(folder, needed)
        self._saved_at = time.perf_counter()
        together = self._team.sharded and not final
        write = self._write_part if together else self._write
        if not (together or self._team.leads):
            return
        if final or not self._in_background(needed):
            write(folder, config, step, weights, notes, tensors, state)
            return
        weights, tensors = ({name: _copy(tensor) for name, tensor in d.items()} for d in (weights, tensors))
        state = copy.deepcopy(dict(state))
        self._writing = self._thread.submit(write, folder, config, step, weights, notes, tensors, state)

    @property
    def writing(self) -> bool:
        """Whether one is being written in the background."""
        return self._writing is not None and not self._writing.done()

    def settle(self) -> None:
        """Wait until what is being written is written, and raise what went wrong."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def drop_unproven(self, proven_step: int) -> Path | None:
        """Remove the checkpoints whose weights never gave a finite loss; returns the newest good one."""
        self.settle()
        kept, poisoned = self._saved(proven_step)
        for folder in poisoned:  # going on from them would fail again
            shutil.rmtree(folder)
        return kept[-1] if kept else None

    def _write(
        self,
        folder: Path,
        config: ModelConfig,
        step: int,
        weights: Mapping[str, Tensor],
        notes: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
    ) -> None:
        checkpoint.write(folder, config, step, weights, notes, tensors, state)
        self._remove_old(state)

    def _write_part(
        self,
        folder: Path,
        config: ModelConfig,
        step: int,
        weights: Mapping[str, Tensor],
        notes: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
    ) -> None:
        """Write this rank's part; rank 0 makes a checkpoint of all parts."""
        everything = {**{f"weights/{name}": tensor for name, tensor in weights.items()}, **tensors}

        def finish(temporary: Path) -> None:
            checkpoint.finish_parts(temporary, folder, config, step, notes)
            self._remove_old(state)

        self._team.write_parts(folder, everything, state, finish)

    def _remove_old(self, state: Mapping[str, Any]) -> None:
        proven, unproven = self._saved(state["proven_step"])
        for old in (*proven[: -self._settings.keep_last], *unproven[:-1]):
            if not self._for_good(checkpoint.step_of(old), state):
                shutil.rmtree(old)

    def _for_good(self, step: int, state: Mapping[str, Any]) -> bool:
        """Whether the checkpoint of a step stays although it is old."""
        every, best = self._settings.keep_every, state["best"]
        return bool(every and step % every == 0) or bool(self._settings.keep_best and best and best["step"] == step)

    def _in_background(self, needed: int) -> bool:
        if not self._out.machine.save_in_background:
            return False
        free = psutil.virtual_memory().available
        fits = needed < free
        if not self._said:
            self._said = True
            how = (
                "are written while training goes on, from a copy of"
                if fits
                else "stop training while written: a copy would take"
            )
            self._out.note(f"checkpoints {how} {format_bytes(needed)} of memory ({format_bytes(free)} are free)")
        return fits

    def _check_space(self, folder: Path, needed: int) -> None:
        free = hardware.free_disk_bytes(folder)
        if needed > free:
            raise StoreError(
                f"there is no space for a checkpoint: it takes {format_bytes(needed)} and {format_bytes(free)} are free",
                place=str(folder),
                hint="free some space, then run again: it goes on from the checkpoint before",
            )

    def _saved(self, proven_step: int) -> tuple[list[Path], list[Path]]:
        """The checkpoints whose weights have given a finite loss and gradient, and the others, oldest first."""
        saved = checkpoint.saved_steps(self.folder)
        proven = bisect_right([checkpoint.step_of(folder) for folder in saved], proven_step)
        return saved[:proven], saved[proven:]


def _bytes(tensor: Tensor) -> int:
    """Bytes of what this rank holds of a tensor."""
    to_local = getattr(tensor, "to_local", None)
    return (tensor if to_local is None else to_local()).nbytes


def _copy(tensor: Tensor) -> Tensor:
    """A copy in the processor's memory, spread over the ranks as the original is."""
    if not isinstance(tensor, DTensor):
        return tensor.detach().to("cpu", copy=True)
    own = tensor.to_local().detach().clone()
    layout = {"run_check": False, "shape": tensor.shape, "stride": tensor.stride()}
    return DTensor.from_local(own, tensor.device_mesh, tensor.placements, **layout)
