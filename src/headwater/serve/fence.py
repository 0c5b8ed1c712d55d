"""What stands between the app and the network: who may ask, how much, and what a browser may do with the answers.

The app has no password. It is safe on a machine of one's own because it listens to that machine alone, and because no other
page in the same browser may talk to it: not by requests across sites, not by a name that is made to lead here (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY_BYTES = 128 << 10
"""A prompt of the most characters fits, at 4 bytes a character, escaped."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the app's own page may load and do: its script, its style, questions to the app; nothing from elsewhere."""
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts"
)
"""For a report, whose style and script stand in the page: it is kept apart from the app, and can ask it nothing."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Fence:
    """An ASGI app around another: refuses what comes from elsewhere or is too large, and adds the headers."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        """Stand before an app that listens at `host`."""
        self._app = app
        self._host = host.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                raise RuntimeError("the app speaks no websockets")
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added.setdefault("Content-Security-Policy", POLICY)
                for name, value in HEADERS.items():
                    added[name] = value
            await send(message)

        if refusal := self._refusal(scope, headers):
            status, problem = refusal
            await JSONResponse({"problem": problem}, status)(scope, receive, with_headers)
            return
        await self._app(scope, _limited(receive), with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Why a request is not answered."""
        host = headers.get("host", "")
        if not host_allowed(host, self._host):
            return 403, "this name does not lead to the app: open it by the address that headwater serve printed"
        if (length := headers.get("content-length", "0")).isdecimal() and int(length) > MOST_BODY_BYTES:
            return 413, f"more than {MOST_BODY_BYTES:,} bytes"
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return 403, "asked by another site"
        site = headers.get("sec-fetch-site", "none")
        opened = headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
        if site not in ("same-origin", "none") and not opened:
            return 403, "asked by another site"
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        # other types can be sent across sites without asking first
        if scope["method"] not in ("GET", "HEAD") and kind != "application/json":
            return 415, "is not application/json"
        return None


def host_allowed(written: str, bound: str) -> bool:
    """Whether the header Host of a request names an app that listens at `bound`.

    An address cannot be made to lead elsewhere, a name can. So names are refused but for localhost and the one that the app
    was told to listen at; and an app that listens to this machine alone is not addressed by the address of another.

    >>> [host_allowed(name, "127.0.0.1") for name in ("127.0.0.1:7878", "localhost:9", "evil.example:7878", "10.0.0.5")]
    [True, True, False, False]
    >>> [host_allowed(name, "0.0.0.0") for name in ("10.0.0.5:7878", "[::1]:7878", "evil.example")]
    [True, True, False]
    """
    try:
        name = (urlsplit(f"//{written}").hostname or "").lower()
    except ValueError:
        return False
    if name in ("localhost", bound):
        return bool(name)
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not loopback(bound)


def loopback(host: str) -> bool:
    """Whether an app that listens at `host` is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class TooLargeError(Exception):
    """A request whose length was not said is longer than it may be."""


def _limited(receive: Receive) -> Receive:
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BODY_BYTES:
            raise TooLargeError
        return message

    return limited
