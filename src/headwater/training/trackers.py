"""Where the numbers of a run go: metrics.jsonl always, and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from headwater.core.log import MetricsLog
from headwater.core.stage import Workspace

Values = Mapping[str, float | Mapping[str, float]]
"""Name -> number, or name -> source -> number."""


class Trackers:
    """All places where the numbers of a run go, as one."""

    def __init__(self, out: Workspace, steps_done: int) -> None:
        """Go on after `steps_done` steps: what was logged beyond them, before a kill, is dropped."""
        self._metrics = MetricsLog(out.folder / "metrics.jsonl", keep=steps_done)
        self._tensorboard = SummaryWriter(str(out.folder / "tensorboard"), purge_step=steps_done + 1)

    def log(self, step: int, tokens: int, values: Values) -> None:
        """Write down numbers after `step` steps; single ones are those of training."""
        self._metrics.write({"step": step, "tokens": tokens, **values})
        for name, value in values.items():
            parts = {f"{name}/{source}": v for source, v in value.items()} if isinstance(value, Mapping) else None
            for key, number in (parts or {f"train/{name}": value}).items():
                self._tensorboard.add_scalar(key, number, step)

    def close(self) -> None:
        """Write what is still in memory."""
        self._tensorboard.close()
