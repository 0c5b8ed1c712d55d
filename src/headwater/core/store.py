"""Files written whole or not at all, hashed, and locked: what stages and checkpoints stand on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from headwater.core.errors import StoreError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write; it takes the place of `path` when the block ends well.

    Raises:
        StoreError: the disk is full or not writable; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():
            _sync(temporary)
        temporary.replace(path)
        for paths in _noting:
            paths.append(path)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


_noting: list[list[Path]] = []


@contextmanager
def noting_written() -> Iterator[list[Path]]:
    """Give a list to which every file is added that this process writes whole while the block runs."""
    paths: list[Path] = []
    _noting.append(paths)
    try:
        yield paths
    finally:
        _noting[:] = [other for other in _noting if other is not paths]


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files and folders that a kill left behind anywhere below `folder`."""
    for path in list(folder.rglob(".*.writing")):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes `path` when the block ends well, and is removed when not.

    Raises:
        StoreError: `path` exists already, or the disk is full or not writable.
    """
    if path.exists():
        raise StoreError("exists already", place=str(path), hint="remove it or choose another folder")
    with atomic_path(path) as temporary:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)


def storage_error(error: OSError, path: Path) -> StoreError:
    """Say in one line what the operating system refused: a full disk, a read-only folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            "the disk is full", place=str(path), hint="free some space or set machine.store, then run again"
        )
    reason = error.strerror or str(error)
    return StoreError(f"cannot be written ({reason})", place=str(path), hint="check the folder and its permissions")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file that Headwater wrote.

    Raises:
        StoreError: the file is missing or was damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError("is missing", place=str(path), hint="remove its folder, then run again") from None
    except (OSError, ValueError) as error:
        raise StoreError(
            f"cannot be read ({error})", place=str(path), hint="remove its folder, then run again"
        ) from None


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_value(value: Any) -> str:
    """The SHA-256 of a JSON-able value, independent of the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


class HashMemory:
    """Content hashes remembered by path, size and time of change, so that an unchanged file is read only once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        if path.is_file():
            try:
                self._known = read_json(path)
            except StoreError:
                self._known = {}  # only a memory: forgetting it costs time, not correctness

    def __call__(self, file: Path) -> str:
        """The SHA-256 of `file`."""
        status = file.stat()
        key = str(file.resolve())
        stamp = [status.st_size, status.st_mtime_ns]
        if self._known.get(key, [])[:2] != stamp:
            self._known[key] = [*stamp, hash_file(file)]
            self._changed = True
        return self._known[key][2]

    def save(self) -> None:
        """Keep what was learnt for the next run."""
        if self._changed:
            write_json(self._path, self._known)
            self._changed = False


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of `folder` while the block runs; a killed process lets go of it.

    Raises:
        StoreError: another process holds the lock.
    """
    lock_file = folder.parent / ".locks" / f"{folder.name}.lock"
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(lock_file)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        hint = "wait for it to end, or give this run a store of its own: machine.store=other"
        raise StoreError(f"another run is working on {what}", place=str(folder), hint=hint) from None
    except OSError as error:
        raise storage_error(error, folder) from error
    try:
        yield
    finally:
        lock.release()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
