"""One trainer's half of bench/training.py: it trains in a process of its own, a few steps whenever it is its turn.

Standard library only, because peers run in environments of their own.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

JOB: dict[str, Any] = json.loads(sys.argv[1])
"""What bench/training.py wants: shape of the model, rows, sequence, path of the tokens, variant, folder of a clone."""

_OUT = os.fdopen(os.dup(1), "w")  # what libraries print goes to the standard error: it must not come between
os.dup2(2, 1)


class Turns:
    """Call `done` after each step: it measures, and waits where the turn is over."""

    def __init__(self) -> None:
        self._left = self._warm = int(JOB["warm_steps"])
        self._laps: list[tuple[float, float]] = []
        self._start = time.perf_counter(), time.process_time()
        self.facts: dict[str, Any] = {}

    def done(self) -> None:
        """A step is done."""
        now = time.perf_counter(), time.process_time()
        self._laps.append((now[0] - self._start[0], now[1] - self._start[1]))
        self._left -= 1
        if not self._left:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps({"laps": self._laps, "peak_bytes": peak, **self.facts}), file=_OUT, flush=True)
            line = sys.stdin.readline()
            if not line:
                os._exit(0)
            self._left, self._laps = int(line), []
        self._start = time.perf_counter(), time.process_time()
