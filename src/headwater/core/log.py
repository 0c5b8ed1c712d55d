"""What a person sees while work goes on: log lines and progress bars on standard error; and metrics.jsonl."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from headwater.core import hardware
from headwater.core.units import format_bytes, format_count, format_seconds

logger = logging.getLogger("headwater")
console = Console(stderr=True, no_color=not hardware.colour_allowed(), highlight=False, soft_wrap=True)

PLAIN_INTERVAL_SECONDS = 20.0
"""Time between two progress lines where standard error is not a terminal."""


class Progress(Protocol):
    """A piece of work that is under way."""

    def advance(self, amount: float = 1, info: str = "") -> None:
        """Note that `amount` more units are done."""
        ...

    def update(self, completed: float | None = None, info: str = "") -> None:
        """Note how many units are done in all."""
        ...


class _Bar:
    def __init__(self, bars: RichProgress, label: str, total: float | None, unit: str) -> None:
        self._bars = bars
        self._task = bars.add_task(label, total=total, unit=unit, info="")

    def advance(self, amount: float = 1, info: str = "") -> None:
        self._bars.advance(self._task, amount)
        self._tell(info)

    def update(self, completed: float | None = None, info: str = "") -> None:
        self._bars.update(self._task, completed=completed)
        self._tell(info)

    def _tell(self, info: str) -> None:
        if info:
            self._bars.update(self._task, info=info)


class _Lines:
    """Progress where there is no terminal: a line now and then, so that a log file shows life."""

    def __init__(self, label: str, total: float | None, unit: str) -> None:
        self._label, self._total, self._unit, self._done = label, total, unit, 0.0
        self._start = self._last = time.monotonic()

    def advance(self, amount: float = 1, info: str = "") -> None:
        self.update(self._done + amount, info)

    def update(self, completed: float | None = None, info: str = "") -> None:
        self._done = self._done if completed is None else completed
        now = time.monotonic()
        if now - self._last < PLAIN_INTERVAL_SECONDS:
            return
        self._last = now
        amount = _amount(self._done, self._total, self._unit)
        left = ""
        if self._total and self._done:
            left = f", {format_seconds((now - self._start) * (self._total - self._done) / self._done)} left"
        console.print(f"  {self._label}: {amount}{left}{'  ' + info if info else ''}", markup=False)


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_amount(task.completed, task.total, task.fields["unit"]), style="cyan")


def _amount(done: float, total: float | None, unit: str) -> str:
    if unit == "bytes":
        return f"{format_bytes(done)} of {format_bytes(total)}" if total else format_bytes(done)
    if unit == "seconds":
        return f"{format_seconds(done)} of {format_seconds(total)}" if total else format_seconds(done)
    whole = f"{format_count(done)} of {format_count(total)}" if total else format_count(done)
    return f"{whole} {unit}"


@contextmanager
def progress(label: str, total: float | None, unit: str) -> Iterator[Progress]:
    """Show how far a piece of work is: a bar with time left on a terminal, else a line every 20 seconds.

    Args:
        label: what is being done, a few words.
        total: how many units there are in all, None when unknown.
        unit: what is counted; "bytes" and "seconds" are written with their units.
    """
    if not console.is_terminal:
        yield _Lines(label, total, unit)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        _Amount(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
    )
    with RichProgress(*columns, console=console, transient=True) as bars:
        yield _Bar(bars, label, total, unit)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        style = "yellow" if record.levelno >= logging.WARNING else ""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        console.print(prefix + self.format(record), style=style or None, markup=False)


def set_up(verbose: bool = False) -> None:
    """Send Headwater's log lines to standard error; called by the command line only."""
    logger.handlers[:] = [_Handler()]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    sys.stderr.flush()


class MetricsLog:
    """An append-only file of one JSON object per line."""

    def __init__(self, path: Path, keep: int | None = None) -> None:
        """Open `path` for appending; with `keep`, first drop what was logged after step `keep`."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if keep is not None and path.exists():
            lines = [line for line, values in _whole_lines(path) if values["step"] <= keep]
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def write(self, values: dict[str, Any]) -> None:
        """Append one object."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics.jsonl; a last line that a kill cut short is left out."""
    return [values for _, values in _whole_lines(path)] if path.exists() else []


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line and its object; what a kill cut short is passed over."""
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            yield line, json.loads(line)
