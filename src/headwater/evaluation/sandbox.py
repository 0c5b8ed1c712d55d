"""Run programs that a model wrote: in a process of its own, without network, without other processes, in an empty folder.

What holds a program back, in this order: limits of processor time, memory and files; on Linux Landlock (it can
change files only in its folder) and seccomp (no sockets, no other processes, no signals to others); where the system
has none of these, hooks of Python that C code can get around, and `Ran.means` says so. All that it left running is
killed. It is a fence for careless programs, not a prison for hostile ones: it can read what its user can read.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from headwater.core.errors import MismatchError

PASSED, FAILED, TIMEOUT, MEMORY, KILLED = "passed", "failed", "timeout", "memory", "killed"
"""How a program can end."""
GUARD = Path(__file__).with_name("guard.py")
TOLD_BYTES = 10_000  # of its output that are kept
LOOKS = 20
BLOCK = 4096  # what a file or folder takes at least


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    cpu_seconds: int = 5
    seconds: float = 10.0
    """By the clock: also a program that sleeps ends."""
    memory_bytes: int = 512 << 20
    file_bytes: int = 1 << 20
    """Of each file that it writes, and of its output."""
    folder_bytes: int = 64 << 20
    """Of all its files together, each a block at least; seen LOOKS times a second, so it can be some more for a moment."""


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    fate: str
    """One of PASSED (it ran to its end), FAILED, TIMEOUT, MEMORY, KILLED."""
    detail: str
    """Of a failed one the error; of a killed one the signal, or why."""
    output: str
    """The beginning of what it printed."""
    means: str
    """What held it back, as "files: landlock, calls: seccomp"."""


def run(program: str, limits: Limits | None = None) -> Ran:
    """Run a Python program and say how it ended; it has passed when it ran to its end without an error.

    Args:
        program: its text, tests included.
        limits: what it may use.

    Raises:
        MismatchError: this system has no process groups and limits, so nothing would hold a program back.
    """
    if os.name != "posix":
        hint = "run tasks with generated code on Linux or macOS"
        raise MismatchError("generated code is not run without limits, and this system has none", hint=hint)
    limits = limits or Limits()
    asked = json.dumps({name: int(value) for name, value in asdict(limits).items()})
    with tempfile.TemporaryDirectory(prefix="headwater-", ignore_cleanup_errors=True) as folder:
        read, write = os.pipe()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(GUARD), asked, str(write)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"},
                pass_fds=(write,),
                start_new_session=True,
            )
            os.close(write)
            stopped = _finish(process, program, limits, folder)
            with os.fdopen(read, "rb") as pipe:
                told = pipe.read(TOLD_BYTES).decode("utf-8", "replace")
            output.seek(0)
            printed = output.read(TOLD_BYTES).decode("utf-8", "replace")
    return _ran(process.returncode, stopped, told, printed)


def _finish(process: subprocess.Popen[bytes], program: str, limits: Limits, folder: str) -> tuple[str, str] | None:
    """Wait for a program's end and kill its whole group; returns fate and detail where it was stopped."""
    end, given, stopped = time.monotonic() + limits.seconds, program.encode("utf-8", "replace"), None
    while stopped is None:
        try:
            process.communicate(given, timeout=1 / LOOKS)
            break
        except subprocess.TimeoutExpired:
            given = None  # what is left of it is sent by the next call
        if time.monotonic() > end:
            stopped = TIMEOUT, ""
        elif _larger(folder, limits.folder_bytes):
            stopped = KILLED, f"its files take more than {limits.folder_bytes:,} bytes"
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return stopped


def _larger(folder: str, most: int) -> bool:
    """Whether the files below a folder take more than so many bytes."""
    size = 0
    for root, folders, files in os.walk(folder):
        size += BLOCK * len(folders)
        for name in files:
            with contextlib.suppress(OSError):  # it is gone
                size += max(os.lstat(f"{root}/{name}").st_size, BLOCK)
            if size > most:
                return True
    return size > most


def _object(line: str) -> dict[str, object] | None:
    """A JSON object; None for anything else, which a program can write to the guard's pipe."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _ran(code: int, stopped: tuple[str, str] | None, told: str, printed: str) -> Ran:
    lines = list(filter(None, map(_object, told.splitlines())))
    means = ", ".join(f"{what}: {how}" for what, how in lines[0].items()) if lines else "the guard did not start"
    said = str(lines[1].get("fate", "")) if len(lines) > 1 else ""
    if said:
        fate, _, detail = said.partition(": ")
        return Ran(fate, detail, printed, means)
    if stopped or code == -signal.SIGXCPU:
        return Ran(*(stopped or (TIMEOUT, "")), printed, means)
    if code < 0:
        return Ran(KILLED, signal.Signals(-code).name, printed, means)
    return Ran(FAILED, f"it ended itself with code {code}", printed, means)
