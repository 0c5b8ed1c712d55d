"""Small web archives for tests, built byte by byte, so that what is wrong with them is known."""

from __future__ import annotations

import gzip
from collections.abc import Iterable

ARTICLE = (
    b"The quick brown fox jumps over the lazy dog, and nobody in the whole village is in the least surprised by that. "
)


def html(text: bytes = ARTICLE * 3, title: bytes = b"A title") -> bytes:
    """A page with a navigation and one article."""
    menu = b"<nav><ul><li><a href=/>Home</a><li><a href=/x>More</a></ul></nav>"
    return (
        b"<!doctype html><html lang=en><head><title>" + title + b"</title></head><body>" + menu + b"<article><p>" + text
    ) + b"</p></article><footer>All rights reserved</footer></body></html>"


def http(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """An HTTP response."""
    lines = [b"HTTP/1.1 " + status, *(headers or (b"Content-Type: text/html; charset=utf-8",))]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def warc(block: bytes, number: int = 0, kind: bytes = b"response", *more: bytes, length: bytes | None = None) -> bytes:
    """A WARC record."""
    content = b"text/plain" if kind == b"conversion" else b"application/http; msgtype=" + kind
    lines = [
        b"WARC/1.0",
        b"WARC-Type: " + kind,
        b"WARC-Target-URI: http://example.org/%d" % number,
        b"WARC-Date: 2024-02-03T04:05:06Z",
        b"WARC-Record-ID: <urn:uuid:%032d>" % number,
        b"Content-Type: " + content,
        *more,
        b"Content-Length: " + (length if length is not None else b"%d" % len(block)),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + block + b"\r\n\r\n"


def arc(blocks: Iterable[bytes]) -> bytes:
    """An ARC file of HTTP responses, each a gzip member."""
    head = b"1 1 InternetArchive\nURL IP-address Archive-date Content-type Archive-length\n"
    records = [b"filedesc://x.arc 0.0.0.0 20240203040506 text/plain %d\n" % len(head) + head + b"\n"]
    for number, block in enumerate(blocks):
        line = b"http://example.org/%d 1.2.3.4 20240203040506 text/html %d\n" % (number, len(block))
        records.append(line + block + b"\n")
    return b"".join(map(gzip.compress, records))


def pages(count: int) -> list[bytes]:
    """WARC records of pages whose texts differ."""
    return [warc(http(html(b"Page number %d. " % n + ARTICLE * 3)), n) for n in range(count)]
