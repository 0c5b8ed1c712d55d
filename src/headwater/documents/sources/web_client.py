"""A polite HTTP client: asks robots.txt, waits between requests, gives up in time, and stays out of private networks.

Each request, also each hop of a redirect, goes through the same checks:

    robots.txt and opt-outs allow it -> the host has rested -> its address is public -> connect to that very address -> read, capped
"""

from __future__ import annotations

import functools
import importlib.metadata
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpcore
import httpx
from protego import Protego

from headwater.documents.sources.bodies import decoded
from headwater.documents.sources.extract import PageError
from headwater.documents.sources.opt_outs import AI_TXT, TDM_FILE, OptOuts, header_objects, parse

T = TypeVar("T")

ROBOTS_NAME = "headwater"
"""The name by which robots.txt addresses us."""
MAX_REDIRECTS = 5
"""Source: RFC 9309, 2.3.1.2, for robots.txt; pages get the same."""
_ROBOTS_BYTES = 500 << 10  # Source: RFC 9309, 2.5
MAX_CRAWL_DELAY = 60.0
"""Longest pause between requests that is kept for a host that asks for it [s]; one that asks for more is left alone."""
_READABLE = ("text/html", "application/xhtml+xml", "text/plain")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # Source: RFC 6052: the last 32 bits are an IPv4 address


class RefusedError(Exception):
    """A page that is not read: the rule, what is wrong, and what the rule measured and allows."""

    def __init__(self, rule: str, problem: str, value: float | None = None, threshold: float | None = None) -> None:
        super().__init__(problem)
        self.rule, self.problem, self.value, self.threshold = rule, problem, value, threshold


@dataclass(frozen=True)
class Page:
    """A page as it was served, decompressed."""

    url: str
    """Where it was found, after redirects."""
    body: bytes
    kind: str
    """Its media type, such as `text/html`."""
    charset: str | None
    modified: str | None
    """Its `Last-Modified`."""


@dataclass
class _Host:
    """What is known of a host; `lock` lets one request at a time through, `robots_lock` one reader of robots.txt.

    Who holds `lock` waits for nothing else, so hosts that lead to each other cannot block each other.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    robots_lock: threading.Lock = field(default_factory=threading.Lock)
    rested_at: float = 0.0
    robots: dict[str, Any] = field(default_factory=dict)
    opt_outs: dict[str, OptOuts | RefusedError] = field(default_factory=dict)


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes


class Client:
    """Fetches pages; may be used from many threads.

    Args:
        contact: how the owner of a server reaches who runs this.
        delay: pause between two requests to a host [s].
        timeout: after which a request is given up, from its beginning to its end [s].
        max_bytes: longest page.
        allow_private: also fetch from addresses that are not public.
    """

    def __init__(
        self, contact: str, *, delay: float, timeout: float, max_bytes: int, allow_private: bool = False
    ) -> None:
        self.stopped = threading.Event()
        self._agent = f"{ROBOTS_NAME}/{importlib.metadata.version(ROBOTS_NAME)} (+{contact})"
        self._delay, self._timeout, self._max_bytes, self._allow_private = delay, timeout, max_bytes, allow_private
        self._hosts: dict[str, _Host] = {}
        self._hosts_lock = threading.Lock()

    def get(self, url: str) -> Page:
        """Fetch a page, following redirects.

        Raises:
            RefusedError: the page is not to be had, or not to be read.
        """
        here = _parsed(url)
        for _ in range(MAX_REDIRECTS + 1):
            robots = self._robots(here)
            if not robots.can_fetch(str(here), ROBOTS_NAME):
                raise RefusedError("robots", f"robots.txt of {here.host} does not allow {here.raw_path.decode()}")
            delay = max(self._delay, robots.crawl_delay(ROBOTS_NAME) or 0.0)
            if delay > max(MAX_CRAWL_DELAY, self._delay):
                problem = f"robots.txt of {here.host} asks for pauses of {delay:g} s"
                raise RefusedError("crawl_delay", problem, delay, MAX_CRAWL_DELAY)
            problem = self._opt_outs(here, robots, delay).refusal(str(here), here.raw_path.decode(), ROBOTS_NAME)
            if problem:
                raise RefusedError("opted_out", f"{here.host}: {problem}")
            answer = self._request(here, delay, self._max_bytes, _READABLE)
            if not answer.headers.get("location") or answer.status not in (301, 302, 303, 307, 308):
                return _page(here, answer)
            here = _joined(here, answer.headers["location"])
        raise RefusedError("redirects", f"leads on more than {MAX_REDIRECTS} times", MAX_REDIRECTS + 1, MAX_REDIRECTS)

    def _robots(self, url: httpx.URL) -> Any:
        """The rules of the server of a URL.

        Raises:
            RefusedError: they cannot be had, which means: keep out.
        """
        host = self._host(url)
        place = url.copy_with(raw_path=b"/robots.txt")
        return _asked_once(host.robots_lock, host.robots, str(place), lambda: self._rules(place))

    def _opt_outs(self, url: httpx.URL, robots: Any, delay: float) -> OptOuts:
        """What the site of a URL says about training on it, where its robots.txt lets us ask.

        Raises:
            RefusedError: it cannot be had, which means: keep out.
        """

        def ask() -> OptOuts:
            places = [url.copy_with(raw_path=path.encode()) for path in (AI_TXT, TDM_FILE)]
            asked = [place if robots.can_fetch(str(place), ROBOTS_NAME) else None for place in places]
            return parse(*(self._site_file(place, delay) if place else None for place in asked))

        host = self._host(url)
        return _asked_once(host.robots_lock, host.opt_outs, str(url.copy_with(raw_path=b"/")), ask)

    def _rules(self, url: httpx.URL) -> Any:
        """Fetch robots.txt."""
        return Protego.parse(self._site_file(url, self._delay) or "")

    def _site_file(self, url: httpx.URL, delay: float) -> str | None:
        """Fetch a file in which a site says what is allowed; None when there is none. Source: RFC 9309, 2.3.1.

        Raises:
            RefusedError: nobody knows whether there is one.
        """
        here = url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._request(here, delay, _ROBOTS_BYTES, None)
                if answer.status in (301, 302, 303, 307, 308) and answer.headers.get("location"):
                    here = _joined(here, answer.headers["location"])
                    continue
                if answer.status == 429 or answer.status >= 500:
                    raise RefusedError("robots_unreachable", f"{url} answers {answer.status}", answer.status)
                return answer.body.decode(errors="replace") if answer.status < 300 else None
        except RefusedError as error:
            if error.rule in ("private_address", "robots_unreachable", "stopped"):
                raise
            raise RefusedError("robots_unreachable", f"{url}: {error.problem}", error.value, error.threshold) from None
        return None  # redirected too often: as if there were none

    def _host(self, url: httpx.URL) -> _Host:
        with self._hosts_lock:
            return self._hosts.setdefault(url.host, _Host())

    def _request(self, url: httpx.URL, delay: float, most: int, kinds: Iterable[str] | None) -> _Answer:
        """One request, when its host has rested; the body is read only when it will be used."""
        host = self._host(url)
        with host.lock:
            if self.stopped.wait(max(0.0, host.rested_at - time.monotonic())):
                raise RefusedError("stopped", "the run was stopped")
            try:
                return self._exchange(url, most, kinds)
            finally:
                host.rested_at = time.monotonic() + delay

    def _exchange(self, url: httpx.URL, most: int, kinds: Iterable[str] | None) -> _Answer:
        transport = _Transport(_Backend(time.monotonic() + self._timeout, self._allow_private))
        headers = {"User-Agent": self._agent, "Accept-Encoding": "gzip, deflate", "Accept": ", ".join(kinds or ["*/*"])}
        try:
            with (
                httpx.Client(transport=transport, trust_env=False, timeout=self._timeout, headers=headers) as client,
                client.stream("GET", url) as response,
            ):
                body = b""
                if 200 <= response.status_code < 300:
                    if kinds is not None and _kind(response.headers) not in kinds:
                        raise RefusedError("content_type", f"is {_kind(response.headers) or 'of no stated type'}")
                    body = _body(response, most, cut=kinds is None)
                return _Answer(response.status_code, response.headers, body)
        except httpx.TimeoutException:
            problem = f"gives no whole answer within {self._timeout:g} s"
            raise RefusedError("timeout", problem, None, self._timeout) from None
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            problem = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RefusedError("unreachable", problem) from None


def _asked_once(lock: threading.Lock, known: dict[str, T | RefusedError], origin: str, ask: Callable[[], T]) -> T:
    """What a site answered; a refusal is remembered as well.

    Raises:
        RefusedError: it cannot be had, now or when it was asked before.
    """
    with lock:
        if origin not in known:
            try:
                known[origin] = ask()
            except RefusedError as error:
                known[origin] = error
        found = known[origin]
    if isinstance(found, RefusedError):
        raise found
    return found


def _body(response: httpx.Response, most: int, *, cut: bool) -> bytes:
    """The body of an answer, at most `most` bytes before and after decompression; `cut` off there, or refused."""
    pieces, size = [], 0
    for piece in response.iter_raw(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > most and not cut:
            raise RefusedError("too_large", f"longer than {most} bytes", size, most)
        if size > most:
            break
    encoding = {"content-encoding": response.headers.get("content-encoding", "")}
    try:
        body, was_cut = decoded(b"".join(pieces), encoding, most)
    except PageError as error:
        raise RefusedError(error.rule, error.problem, error.value, error.threshold) from None
    if was_cut and not cut:
        raise RefusedError("malformed_body", "the body ends too soon")
    return body[:most]


def _page(url: httpx.URL, answer: _Answer) -> Page:
    if not 200 <= answer.status < 300:
        raise RefusedError("http_status", f"answers {answer.status}", answer.status)
    if problem := header_objects({name.lower(): value for name, value in answer.headers.items()}):
        raise RefusedError("opted_out", problem)
    _, _, parameters = answer.headers.get("content-type", "").partition("charset=")
    charset = parameters.split(";")[0].strip(" \"'") or None
    return Page(str(url), answer.body, _kind(answer.headers), charset, answer.headers.get("last-modified"))


def _kind(headers: httpx.Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _parsed(url: str) -> httpx.URL:
    """A URL to fetch, without the fragment, user and password.

    Raises:
        RefusedError: it is none, or not of the web.
    """
    try:
        parsed = httpx.URL(url.strip())
        bare = parsed.copy_with(fragment=None, userinfo=b"")
    except (httpx.InvalidURL, ValueError) as error:
        raise RefusedError("malformed_url", str(error) or "is no URL") from None
    if bare.scheme not in ("http", "https") or not bare.host:
        raise RefusedError("malformed_url", "is no http:// or https:// address")
    return bare


def _joined(base: httpx.URL, location: str) -> httpx.URL:
    try:
        return _parsed(str(base.join(location)))
    except httpx.InvalidURL as error:
        raise RefusedError("malformed_url", f"leads to a malformed address ({error})") from None


def normalised(url: str) -> str:
    """A URL in one spelling, so that a page has one.

    Raises:
        RefusedError: it is none, or not of the web.
    """
    return str(_parsed(url))


# ------------------------------------------------------------------------------------------------------- addresses


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also when it wraps an IPv4 address.

    >>> is_public("93.184.216.34"), is_public("127.0.0.1"), is_public("::ffff:10.0.0.1"), is_public("64:ff9b::a00:1")
    (True, False, False, False)
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if parsed in _NAT64:
            inner = ipaddress.ip_address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


class _Backend(httpcore.SyncBackend):
    """Connects to an address that was checked, so that a name cannot mean another one a moment later."""

    def __init__(self, deadline: float, allow_private: bool) -> None:
        super().__init__()
        self._deadline, self._allow_private = deadline, allow_private

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *args: Any, **more: Any) -> Any:
        """Resolve, check, and connect."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} has no address ({error})") from None
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        private = [address for address in addresses if not is_public(address)]
        if private and not self._allow_private:
            raise RefusedError("private_address", f"{host} is {private[0]}, which is not on the public internet")
        problem: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            left = self._left(timeout)
            try:
                return _Stream(super().connect_tcp(address, port, left, *args, **more), self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem

    def _left(self, timeout: float | None) -> float:
        """Seconds that may still pass."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time is up")
        return min(left, timeout) if timeout is not None else left


class _Stream(httpcore.NetworkStream):
    """A connection on which all reading together has a deadline: a server that sends a byte now and then is given up."""

    def __init__(self, stream: Any, backend: _Backend) -> None:
        self._stream, self._backend = stream, backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read."""
        return self._stream.read(max_bytes, self._backend._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write."""
        self._stream.write(buffer, self._backend._left(timeout))

    def close(self) -> None:
        """Close."""
        self._stream.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        """Encrypt; the certificate must be that of the name, not of the address."""
        return _Stream(
            self._stream.start_tls(ssl_context, server_hostname, self._backend._left(timeout)), self._backend
        )

    def get_extra_info(self, info: str) -> Any:
        """What the library wants to know of the connection."""
        return self._stream.get_extra_info(info)


class _Transport(httpx.HTTPTransport):
    """httpx with our way of connecting."""

    def __init__(self, backend: _Backend) -> None:
        super().__init__(verify=_certificates())
        self._pool.close()
        self._pool = httpcore.ConnectionPool(ssl_context=_certificates(), network_backend=backend)


@functools.cache
def _certificates() -> Any:
    return httpx.create_ssl_context(trust_env=False)
