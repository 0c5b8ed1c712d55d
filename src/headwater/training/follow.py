"""A rank other than 0: waits for what rank 0 has to train, and trains with it."""

from __future__ import annotations

from headwater.core.errors import HeadwaterError
from headwater.training.distributed import Silent, end_with_standard_input, tasks
from headwater.training.train import train_together


def follow() -> None:
    """Train with rank 0 until it has no more tasks."""
    for task, membership in tasks():
        with membership as team:
            train_together(task.settings, task.inputs, Silent(task.folder, task.machine), team)


if __name__ == "__main__":
    end_with_standard_input()
    try:
        follow()
    except (HeadwaterError, KeyboardInterrupt):
        raise SystemExit(2) from None  # rank 0 says what it was
