"""Files are written whole or not at all; locks and hashes tell the truth."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headwater.core import store
from headwater.core.errors import StoreError


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    store.write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), store.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert store.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught, store.atomic_path(tmp_path / "big.bin") as temporary:
        temporary.write_bytes(b"begun")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "the disk is full" in str(caught.value)
    assert "hint: free some space" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_truly_full_device() -> None:
    with pytest.raises(StoreError, match="the disk is full"):
        try:
            with Path("/dev/full").open("wb") as file:
                file.write(b"x" * 100_000)
        except OSError as error:
            raise store.storage_error(error, Path("/dev/full")) from error


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with pytest.raises(ZeroDivisionError), store.atomic_folder(target) as temporary:
        (temporary / "a").write_text("a")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with store.atomic_folder(target) as temporary:
        (temporary / "a").write_text("a")
    assert (target / "a").read_text() == "a"
    with pytest.raises(StoreError, match="exists already"), store.atomic_folder(target):
        pass


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a":')
    with pytest.raises(StoreError, match="cannot be read"):
        store.read_json(tmp_path / "x.json")
    with pytest.raises(StoreError, match="is missing"):
        store.read_json(tmp_path / "y.json")


def test_hashes_do_not_depend_on_key_order() -> None:
    assert store.hash_value({"a": 1, "b": [1, 2]}) == store.hash_value({"b": [1, 2], "a": 1})
    assert store.hash_value({"a": 1}) != store.hash_value({"a": "1"})


def test_hash_memory_notices_a_change(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("one")
    memory = store.HashMemory(tmp_path / "memory.json")
    first = memory(file)
    memory.save()
    file.write_text("two!")
    again = store.HashMemory(tmp_path / "memory.json")
    assert again(file) == store.hash_file(file) != first


LOCKER = """
import sys, pathlib
from headwater.core.store import locked
with locked(pathlib.Path(sys.argv[1]), "the stage"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_refuses_a_second_process_and_dies_with_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    command = [sys.executable, "-c", LOCKER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="another run is working on the stage"), store.locked(folder, "the stage"):
            pass
        other.kill()
        other.wait()
    with store.locked(folder, "the stage"):
        pass
