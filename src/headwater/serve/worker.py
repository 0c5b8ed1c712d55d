"""The one thread in which models write: requests take turns, and one that nobody waits for any more ends at its next token."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from headwater.core.errors import HeadwaterError
from headwater.core.log import logger

MOST_WAITING = 8
"""Requests that write or wait for their turn."""

Event = dict[str, Any]


class BusyError(Exception):
    """Too many requests are waiting already."""


class Job:
    """A piece of work whose events are read while it goes on."""

    def __init__(self, work: Callable[[], Iterator[Event]], waits: bool) -> None:
        self._work = work
        self._waits = waits
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self.stopped = threading.Event()
        """Set when nobody waits for the rest."""

    def run(self) -> None:
        """Do the work, in the thread."""
        try:
            if not self.stopped.is_set():
                for event in self._work():
                    if self.stopped.is_set():
                        return
                    self._put(event)
        except HeadwaterError as error:
            self._put({"problem": str(error)})
        except Exception:
            logger.exception("a bug of Headwater, while it wrote")
            self._put({"problem": "a bug of Headwater: its traceback is in the terminal of headwater serve"})
        finally:
            self._put(None)

    async def events(self) -> AsyncIterator[Event]:
        """What happens, until the work is done."""
        if self._waits:
            yield {"waiting": True}
        while (event := await self._events.get()) is not None:
            yield event

    def _put(self, event: Event | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the server has ended
            self.stopped.set()


class Worker:
    """Does jobs one after the other, in a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "headwater-writer")
        self._jobs: set[Job] = set()

    def submit(self, work: Callable[[], Iterator[Event]]) -> Job:
        """Let the thread do something, when it is its turn.

        Raises:
            BusyError: too many wait already.
        """
        self.check()
        job = Job(work, bool(self._jobs))
        self._jobs.add(job)
        loop = asyncio.get_running_loop()
        future = self._thread.submit(job.run)
        asyncio.wrap_future(future, loop=loop).add_done_callback(lambda _: self._jobs.discard(job))
        return job

    def check(self) -> None:
        """Make sure that there is room for one more.

        Raises:
            BusyError: too many wait already.
        """
        if len(self._jobs) >= MOST_WAITING:
            raise BusyError

    @property
    def busy(self) -> int:
        """Jobs that are being done or wait."""
        return len(self._jobs)

    def close(self) -> None:
        """End: what is being written stops at its next token."""
        for job in list(self._jobs):
            job.stopped.set()
        self._thread.shutdown(wait=True, cancel_futures=True)


class EventStream(StreamingResponse):
    """The events of a job as they happen, a JSON object a line; when the browser goes away the job stops."""

    def __init__(self, job: Job) -> None:
        """Answer with the events of a job."""
        self._job = job
        super().__init__(self._lines(), media_type="application/x-ndjson")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.stopped.set()

    async def _lines(self) -> AsyncIterator[bytes]:
        async for event in self._job.events():
            yield orjson.dumps(event) + b"\n"
