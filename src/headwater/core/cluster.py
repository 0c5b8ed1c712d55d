"""A Ray cluster as an executor: the same functions of shards run on other machines, over a folder that all share."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headwater.core.errors import HeadwaterError, MismatchError, MissingExtraError
from headwater.core.hardware import Machine, set_environment
from headwater.core.log import logger

RETRIES = 5
"""How often a shard is begun again when its worker or its machine dies; errors of the work itself are not retried."""


class RayExecutor(Executor):
    """Runs each call as a Ray task with one processor core."""

    def __init__(self, machine: Machine) -> None:
        """Connect to the cluster, or start one on this machine alone.

        Raises:
            MissingExtraError: Ray is not installed.
            MismatchError: there is no cluster at `machine.cluster`.
        """
        set_environment(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
        if machine.cluster:
            _prepare(machine.cluster)
        try:
            import ray
        except ImportError:
            hint = "pip install 'headwater[ray]'"
            raise MissingExtraError("Ray is not installed", place="machine.engine", hint=hint) from None
        self._ray: Any = ray
        if not ray.is_initialized():
            with keep_signals():
                _connect(ray, machine)
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(_run)
        self._references: list[Any] = []
        self._shared = not machine.store_is_url

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin a task as soon as a core is free."""
        reference = self._task.remote(os.getcwd(), self._shared, fn, args, kwargs)  # noqa: PTH109  (a string for chdir)
        self._references.append(reference)
        future: Future[Any] = Future()
        reference.future().add_done_callback(lambda done: _hand_over(done, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the tasks; with `cancel_futures`, stop those that run."""
        if cancel_futures:
            _, running = self._ray.wait(self._references, num_returns=len(self._references), timeout=0)
            for reference in running:
                self._ray.cancel(reference, force=True)
        elif wait:
            self._ray.wait(self._references, num_returns=len(self._references))
        self._references = []


@contextmanager
def keep_signals() -> Iterator[None]:
    """Give back the handler of SIGTERM that Ray takes: how this process stops is its own business."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _prepare(address: str) -> None:
    """Before Ray is imported: make sure that somebody answers, and have Ray show the token that `ray start` asks for.

    Raises:
        MismatchError: nobody answers. Ray itself would wait for minutes.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from None
    if (Path.home() / ".ray" / "auth_token").is_file():
        set_environment(RAY_AUTH_MODE="token")


def _connect(ray: Any, machine: Machine) -> None:
    """Join the cluster that is named, or start one here.

    Clusters that run without being named are not looked for: Ray would wait for minutes for one that has died.
    """
    quiet = {"logging_level": "error", "log_to_driver": False}
    if machine.cluster is None:
        ray.init(address="local", num_cpus=machine.processor_workers, include_dashboard=False, **quiet)
    else:
        try:
            ray.init(address=machine.cluster, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise _no_cluster(machine.cluster, error) from None
    nodes = [node for node in ray.nodes() if node["Alive"]]
    cores = int(ray.cluster_resources().get("CPU", 0))
    logger.info("  on Ray: %d machine%s, %d cores", len(nodes), "s" if len(nodes) > 1 else "", cores)


def _no_cluster(address: str, error: Exception) -> MismatchError:
    problem = f"there is no Ray cluster at {address} ({str(error).splitlines()[0][:150]})"
    hint = "start it there with: ray start --head; and give its address as host:port"
    return MismatchError(problem, place="machine.cluster", hint=hint)


def _run(
    folder: str, shared: bool, work: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[Any, HeadwaterError | None]:
    """Work in the same folder as the caller; a user's error comes back whole instead of wrapped in one of Ray's.

    A store behind a URL needs no folder that all machines share: where there is none, sources with relative paths are missed.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        if shared:
            problem = f"machine {socket.gethostname()} does not see the folder {folder} ({error.strerror})"
            hint = "share it between all machines, or give a store that all reach: machine.store=s3://bucket/store"
            return None, MismatchError(problem, place="machine.engine", hint=hint)
    try:
        return work(*args, **kwargs), None
    except HeadwaterError as error:
        return None, error


def _hand_over(done: Future[Any], future: Future[Any]) -> None:
    try:
        result, error = done.result()
    except BaseException as problem:  # whatever Ray reports belongs to the one who asks for the result
        future.set_exception(problem)
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
