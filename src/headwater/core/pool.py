"""Run one function over many shards: in this process, in threads, in worker processes, or on a Ray cluster.

This is the seam: a stage never sees where its shards run or how files get there, results come back in the order of the
shards, and a shard that is finished is not run again after a kill.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

from headwater.core.bucket import bucket_of, exchange
from headwater.core.cluster import RayExecutor
from headwater.core.hardware import Machine, environment_with, release_freed_memory
from headwater.core.stage import Counts, Workspace
from headwater.core.store import read_json, write_json

T = TypeVar("T")
IDLE_SECONDS = 2  # after which a worker process without work ends


def map(  # noqa: A001  (the verb of this seam; used as pool.map)
    work: Callable[[T], Counts],
    shards: Sequence[T],
    out: Workspace,
    *,
    label: str,
    name: Callable[[T], str],
    threads: bool = False,
) -> list[Counts]:
    """Run `work` on every shard and return its counts in the order of `shards`.

    A finished shard leaves a marker `.done/<label>-<name>.json` with its counts in the stage's folder; when the
    stage is run again its counts are read from there. So `work` writes its files atomically before it returns.

    Args:
        work: a function of one shard; for worker processes it and the shard must pickle.
        shards: what to work on.
        out: the stage's workspace: its folder and its machine.
        label: what is being done, also the marker's first word.
        name: a shard's name, unique in this call and safe as a file name.
        threads: use threads, for work that spends its time outside Python's lock; on a cluster it makes no difference.

    Raises:
        MissingExtraError: the machine's engine is Ray, which is not installed.
        MismatchError: there is no cluster where the machine says.
    """
    markers = out.folder / ".done"
    results: list[Counts | None] = []
    for shard in shards:
        marker = markers / f"{label}-{name(shard)}.json"
        results.append(read_json(marker) if marker.exists() else None)
    waiting = [index for index, result in enumerate(results) if result is None]
    workers = min(out.machine.processor_workers, len(waiting))

    bucket = bucket_of(out.machine) if out.machine.engine == "ray" else None
    do: Callable[[T], Any] = work
    if bucket and waiting:
        bucket.put_new(out.folder)
        do = functools.partial(exchange, bucket, work)

    def finish(index: int, counts: Any) -> None:
        if bucket:
            counts, written = counts
            bucket.get(written)
        write_json(markers / f"{label}-{name(shards[index])}.json", counts)
        results[index] = counts

    with out.progress(label, len(shards), "shards") as bar:
        bar.update(len(shards) - len(waiting))
        if workers <= 1 and out.machine.engine == "local":
            for index in waiting:
                finish(index, do(shards[index]))
                bar.advance()
        else:
            with _executor(out.machine, workers, threads) as executor:
                futures: dict[Future[Any], int] = {executor.submit(do, shards[index]): index for index in waiting}
                for future in as_completed(futures):
                    finish(futures[future], future.result())
                    bar.advance()
    release_freed_memory()
    return [result for result in results if result is not None]


@contextmanager
def _executor(machine: Machine, workers: int, threads: bool) -> Iterator[Executor]:
    if machine.engine == "ray" or threads:
        executor = RayExecutor(machine) if machine.engine == "ray" else ThreadPoolExecutor(workers)
        try:
            yield executor
        finally:
            executor.shutdown(wait=True, cancel_futures=True)  # after an error, begin no more shards
        return
    import loky  # processes that need no `if __name__ == "__main__"` in the user's script, and notice a dead worker

    # The next stage finds the workers running (a start is a second of imports); idle ones end and give their memory back.
    executor = loky.get_reusable_executor(workers, timeout=IDLE_SECONDS, env=environment_with())
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, kill_workers=True)
        raise
