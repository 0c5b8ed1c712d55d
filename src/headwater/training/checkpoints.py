"""The checkpoints of a run: which to go on from, when to write one, and which are kept."""

from __future__ import annotations

import shutil
import time
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from headwater.core.stage import Workspace
from headwater.model import checkpoint
from headwater.model.transformer import Transformer
from headwater.training.config import Train


class Checkpoints:
    """The folder `checkpoints` of a run, and its final `checkpoint`."""

    def __init__(self, settings: Train, out: Workspace) -> None:
        """Clear what a kill left half-written."""
        self._settings = settings
        self._out = out
        self.folder = out.folder / "checkpoints"
        for folder in (out.folder, self.folder):
            checkpoint.remove_unfinished(folder)
        self._saved_at = time.perf_counter()

    def newest(self) -> Path | None:
        """The newest intact checkpoint; the user is told of damaged ones."""
        return checkpoint.newest(self.folder, self._out.warn)

    def due(self, steps_done: int) -> bool:
        """Whether it is time to write one after so many steps."""
        every, interval = self._settings.checkpoint_every, self._settings.checkpoint_interval
        by_steps = every and steps_done % every == 0
        by_time = interval and time.perf_counter() - self._saved_at >= interval
        return bool(by_steps or by_time)

    def save(
        self,
        model: Transformer,
        notes: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        final: bool = False,
    ) -> None:
        """Write one, from which the run can go on exactly, and remove old ones.

        Raises:
            StoreError: the disk is full or not writable; older checkpoints are untouched.
        """
        steps_done = state["steps_done"]
        folder = self._out.folder / "checkpoint" if final else checkpoint.step_folder(self.folder, steps_done)
        checkpoint.save(folder, model, steps_done, notes, tensors, state)
        proven, unproven = self._saved(state["proven_step"])
        for old in (*proven[: -self._settings.keep_last], *unproven[:-1]):
            shutil.rmtree(old)
        self._saved_at = time.perf_counter()

    def drop_unproven(self, proven_step: int) -> Path | None:
        """Remove the checkpoints whose weights never gave a finite loss; returns the newest good one."""
        kept, poisoned = self._saved(proven_step)
        for folder in poisoned:  # going on from them would fail again
            shutil.rmtree(folder)
        return kept[-1] if kept else None

    def _saved(self, proven_step: int) -> tuple[list[Path], list[Path]]:
        """The checkpoints whose weights have given a finite loss and gradient, and the others, oldest first."""
        saved = checkpoint.saved_steps(self.folder)
        steps = [int(folder.name.removeprefix("step-")) for folder in saved]
        proven = bisect_right(steps, proven_step)
        return saved[:proven], saved[proven:]
