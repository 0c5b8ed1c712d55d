"""Being asked to stop: Ctrl-C and SIGTERM become a wish that the training loop fulfils after its step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from headwater.core.errors import Stopped


class Stop:
    """Whether somebody asked training to stop: the number of the signal, 0 before."""

    asked = 0


@contextmanager
def stop_signals(repeats: bool = False) -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop after the step; a second one stops at once.

    With `repeats` a second one changes nothing: torchrun passes on what the terminal has sent to every process already.
    """
    stop = Stop()

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.asked and not repeats:
            raise Stopped(number)
        stop.asked = number

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
