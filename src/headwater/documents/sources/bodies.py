"""HTTP bodies as they were sent, decoded: chunks put together, compression undone, never more than is allowed."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping

import zstandard

from headwater.documents.sources.extract import PageError, missing_extra

_CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]{0,1000})?\r?\n")


def decoded(body: bytes, headers: Mapping[str, str], most: int) -> tuple[bytes, bool]:
    """Undo the transfer and content encodings that the headers name.

    Archives often hold the body decoded already and keep the headers: a body that has not the form of an encoding is left
    as it is.

    Args:
        body: the body of an HTTP response.
        headers: its headers, names in small letters.
        most: bytes that the result may have.

    Returns:
        The body, and whether it was cut off: then it is what could be decoded.

    Raises:
        PageError: it cannot be decoded, or is larger than `most`.
    """
    cut = False
    if "chunked" in headers.get("transfer-encoding", "").lower() and _CHUNK.match(body):
        body, cut = _joined(body)
    for encoding in reversed(headers.get("content-encoding", "").lower().split(",")):
        try:
            body, more = _decompressed(body, encoding.strip(), most)
        except (zlib.error, zstandard.ZstdError, OSError) as error:
            raise PageError("malformed_body", f"the body is no {encoding.strip()} ({error})") from None
        if len(body) > most:
            raise PageError("too_large", f"decompresses to more than {most} bytes", None, most)
        cut = cut or more
    return body, cut


def _joined(body: bytes) -> tuple[bytes, bool]:
    r"""Put chunks together.

    >>> _joined(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), _joined(b"5\r\nhello\r\n6\r\n wo")
    ((b'hello world', False), (b'hello wo', True))
    """
    pieces, place = [], 0
    while match := _CHUNK.match(body, place):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(pieces), False
        pieces.append(body[match.end() : match.end() + size])
        place = match.end() + size
        if body[place : place + 2] == b"\r\n":
            place += 2
    return b"".join(pieces), True


def _decompressed(body: bytes, encoding: str, most: int) -> tuple[bytes, bool]:
    """Undo one compression; returns at most one byte more than `most`, and whether the body was cut off."""
    if encoding in ("gzip", "x-gzip") and body[:2] == b"\x1f\x8b":
        return _inflated(body, 31, most)
    if encoding == "deflate" and body[:1] and body.lstrip()[:1] != b"<":
        try:
            return _inflated(body, zlib.MAX_WBITS, most)
        except zlib.error:
            return _inflated(body, -zlib.MAX_WBITS, most)  # some servers leave the zlib header out
    if encoding == "zstd" and body[:4] == b"\x28\xb5\x2f\xfd":
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(body) as reader:
            return reader.read(most + 1), False
    if encoding == "br" and body[:1] and body.lstrip()[:1] != b"<":
        try:
            from fastwarc.stream_io import BrotliReader
        except ImportError:
            raise missing_extra("fastwarc") from None
        return BrotliReader(io.BytesIO(body)).read(most + 1), False
    return body, False


def _inflated(body: bytes, window: int, most: int) -> tuple[bytes, bool]:
    inflater = zlib.decompressobj(window)
    data = inflater.decompress(body, most + 1)
    return data, not inflater.eof and len(data) <= most
