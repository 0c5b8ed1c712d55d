"""Results come back in the order of the shards, whatever the number of workers, and errors come out whole."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import cloudpickle
import pytest

from headwater.core import pool
from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # worker processes cannot import a test module


def square(number: int) -> dict[str, int]:
    return {"square": number * number, "process": os.getpid()}


def refuse(limit: int, number: int) -> dict[str, int]:
    if number >= limit:
        raise InputError("is too large", place=f"shard {number}", hint="use a smaller one")
    return {}


@pytest.mark.parametrize(("workers", "threads"), [(1, False), (2, False), (3, True)])
def test_order_does_not_depend_on_workers(tmp_path: Path, workers: int, threads: bool) -> None:
    out = Workspace(tmp_path, Machine(workers=workers))
    counts = pool.map(square, [5, 3, 9, 1], out, label="square", name=str, threads=threads)
    assert [count["square"] for count in counts] == [25, 9, 81, 1]
    elsewhere = {count["process"] for count in counts} - {os.getpid()}
    assert bool(elsewhere) == (workers > 1 and not threads)


def test_errors_of_a_worker_process_keep_their_parts(tmp_path: Path) -> None:
    out = Workspace(tmp_path, Machine(workers=2))
    with pytest.raises(InputError) as caught:
        pool.map(partial(refuse, 2), [0, 1, 2], out, label="refuse", name=str)
    assert (caught.value.place, caught.value.hint) == ("shard 2", "use a smaller one")


def test_finished_shards_are_read_from_their_markers(tmp_path: Path) -> None:
    out = Workspace(tmp_path, Machine(workers=1))
    first = pool.map(square, [1, 2], out, label="square", name=str)
    assert sorted(path.name for path in (tmp_path / ".done").iterdir()) == ["square-1.json", "square-2.json"]
    (tmp_path / ".done" / "square-1.json").write_text('{"square": -1, "process": 0}')
    assert pool.map(square, [1, 2], out, label="square", name=str) == [{"square": -1, "process": 0}, first[1]]
