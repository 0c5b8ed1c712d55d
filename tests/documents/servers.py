"""Web servers of this machine for tests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[Any], None]
"""Answers one request; gets the handler, which has `path`, `headers`, `command` and `give`."""


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the function that the server was made with."""

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))  # type: ignore[attr-defined]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
            self.server.answer(self)  # type: ignore[attr-defined]

    do_HEAD = do_POST = do_GET  # noqa: N815

    def give(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer with a status, headers (`_` stands for `-`) and a body."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def give_file(self, content: bytes, ranges: bool = True, **headers: str) -> None:
        """Answer with a file, or with the part of it that is asked for."""
        asked = self.headers.get("Range")
        if not (ranges and asked):
            self.give(200, content, **({"Accept_Ranges": "bytes"} if ranges else {}), **headers)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last) + 1 if last else len(content), len(content))
        place = f"bytes {begin}-{end - 1}/{len(content)}"
        self.give(206, content[begin:end], Content_Range=place, **headers)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    seen: list[tuple[str, str, dict[str, str]]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """A web server that answers with a function as long as the block runs."""
    server = Server(("127.0.0.1", 0), Handler)
    server.answer = answer  # type: ignore[attr-defined]
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
