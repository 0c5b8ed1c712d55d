"""Being asked to stop: Ctrl-C and SIGTERM become a wish that the training loop fulfils after its step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether somebody asked training to stop."""

    asked = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop after the step; a second one stops at once."""
    stop = Stop()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            before[number] = signal.signal(number, ask)
        except ValueError:  # not the main thread: signals are someone else's business
            break
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
