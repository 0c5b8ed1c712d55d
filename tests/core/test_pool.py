"""Results come back in the order of the shards, whatever the number of workers, and errors come out whole."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from headwater.core import cluster, pool
from headwater.core.cluster import RayExecutor
from headwater.core.errors import InputError, MismatchError, MissingExtraError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # worker processes cannot import a test module


def square(number: int) -> dict[str, int]:
    return {"square": number * number, "process": os.getpid()}


def refuse(limit: int, number: int) -> dict[str, int]:
    if number >= limit:
        raise InputError("is too large", place=f"shard {number}", hint="use a smaller one")
    return {}


def measure(number: int) -> dict[str, Any]:
    return square(number) | {"folder": str(Path.cwd())}


def divide(number: int, by: int) -> dict[str, int]:
    return {"quotient": number // by}


def die_once(folder: str, number: int) -> dict[str, int]:
    mark = Path(folder) / "died"
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"number": number}


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


def test_a_cluster_that_is_not_there_is_told(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs headwater[ray]")
    out = Workspace(tmp_path, Machine(engine="ray", cluster="127.0.0.1:1"))
    with pytest.raises(MismatchError, match="there is no Ray cluster at 127"):
        pool.map(square, [1], out, label="square", name=str)


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    module = pytest.importorskip("ray", reason="needs headwater[ray]")
    before = signal.getsignal(signal.SIGTERM)
    try:
        RayExecutor(Machine(workers=2, engine="ray"))
    except RuntimeError as error:
        pytest.skip(f"Ray does not start on this machine: {str(error).splitlines()[0]}")
    assert signal.getsignal(signal.SIGTERM) is before, "how this process stops is its own business"
    module.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for the processes that it stops
        module.shutdown()
        gc.collect()


@pytest.mark.usefixtures("ray")
def test_ray_gives_the_same_counts_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths mean the same to the tasks
    counts = {}
    for engine in ("local", "ray"):
        out = Workspace(tmp_path / engine, Machine(workers=2, engine=engine))
        counts[engine] = pool.map(measure, [5, 3, 9, 1], out, label="measure", name=str)
        assert len(list((tmp_path / engine / ".done").iterdir())) == 4
    assert [count["square"] for count in counts["ray"]] == [25, 9, 81, 1]
    assert [count["folder"] for count in counts["ray"]] == [str(tmp_path)] * 4
    assert os.getpid() not in {count["process"] for count in counts["ray"]}


@pytest.mark.usefixtures("ray")
def test_errors_of_a_ray_task_keep_their_parts(tmp_path: Path) -> None:
    out = Workspace(tmp_path, Machine(workers=2, engine="ray"))
    with pytest.raises(InputError) as caught:
        pool.map(partial(refuse, 2), [0, 1, 2], out, label="refuse", name=str)
    assert (caught.value.place, caught.value.hint) == ("shard 2", "use a smaller one")
    with pytest.raises(ZeroDivisionError):
        pool.map(partial(divide, 1), [0, 1], out, label="divide", name=str)


@pytest.mark.usefixtures("ray")
def test_a_ray_task_whose_worker_dies_is_begun_again(tmp_path: Path) -> None:
    out = Workspace(tmp_path, Machine(workers=2, engine="ray"))
    counts = pool.map(partial(die_once, str(tmp_path)), [1, 2, 3], out, label="die", name=str)
    assert [count["number"] for count in counts] == [1, 2, 3]
    assert (tmp_path / "died").exists()


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result, error = cluster._run(str(tmp_path / "not-mounted"), True, square, (3,), {})
    assert result is None
    assert isinstance(error, MismatchError)
    assert "does not see the folder" in str(error)
    assert "machine.store=s3://" in error.hint
    result, error = cluster._run(str(tmp_path / "not-mounted"), False, square, (3,), {})  # only a bucket is shared
    assert error is None
    assert result["square"] == 9


def test_without_ray_the_pip_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="Ray is not installed") as caught:
        pool.map(square, [1], Workspace(tmp_path, Machine(engine="ray")), label="square", name=str)
    assert "pip install 'headwater[ray]'" in caught.value.hint
