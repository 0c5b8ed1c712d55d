"""Records of web archives: WARC (with WET) and ARC files, plain, gzip, zstd or lz4, read as a stream.

What is damaged is named and passed over: after a damaged part, reading goes on at the next record that can be found.
"""

from __future__ import annotations

import datetime
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from headwater.core.errors import InputError
from headwater.documents.sources.extract import missing_extra
from headwater.documents.sources.files import BLOCK_BYTES, unreadable
from headwater.documents.sources.remote import RemoteFile

MAX_HEADER_BYTES = 64 << 10
"""Longest header of a record or of an HTTP response [bytes]; servers cut theirs at 8 to 16 KiB."""
_RESUMES = 100
"""Damaged parts of one file after which it is given up."""
_TAIL_BYTES = 16 << 20  # the last record is read again to see whether a gzip file is whole, unless it is longer
_MAGIC = {b"\x1f\x8b": b"\x1f\x8b\x08", b"\x28\xb5": b"\x28\xb5\x2f\xfd", b"WA": b"WARC/"}
_ARC_LINE = re.compile(rb"^([a-zA-Z][a-zA-Z0-9+.-]*:\S*) (\S+) (\d{14}) (\S+) (?:\S+ \S+ \d+ \S+ )?(\d+)$")
"""A record of an ARC file, version 1 or 2: URL, IP, date, content type, for 2 four more, length.
Source: https://archive.org/web/researcher/ArcFileFormat.php; a URL with blanks in it is malformed, as there."""
_STATUS_LINE = re.compile(rb"^HTTP/\d(?:\.\d)?[ \t]+(\d{3})\b")


@dataclass(frozen=True)
class Record:
    """One record of an archive; its block must be read before the next record is asked for."""

    kind: str
    """`response`, `conversion`, `revisit`, `request`, ..., as WARC calls them."""
    place: str
    """Where it is, for people."""
    url: str | None = None
    date: str | None = None
    id: str | None = None
    type: str = ""
    """Content type: of the HTTP response, or of the block."""
    status: int | None = None
    """HTTP status; None when the block is no HTTP response."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """HTTP headers, names in small letters."""
    length: int = 0
    """Bytes that the block should have, behind the HTTP headers."""
    cut: bool = False
    """The crawler says that it did not keep the whole block."""
    read: Callable[[int], bytes] = field(default=lambda _: b"", repr=False)
    """Reads so many bytes of the block, behind the HTTP headers."""


@dataclass(frozen=True)
class Damage:
    """A part of an archive that cannot be read."""

    place: str
    problem: str
    rule: str = "malformed_record"


def records(path: str, stream: RemoteFile | None = None) -> Iterator[Record | Damage]:
    """Read an archive.

    Args:
        path: the file; what it is follows from its first bytes.
        stream: its bytes, when it is not on this machine.

    Raises:
        InputError: the file cannot be opened or read.
        MissingExtraError: a package is not installed.
    """
    try:
        import fastwarc
    except ImportError:
        raise missing_extra("fastwarc") from None
    try:
        with stream or Path(path).open("rb") as file:
            head, source = _peek(file)
            if _first_bytes(head).startswith(b"filedesc://"):
                yield from _arc(path, fastwarc.GzipReader(source) if head[:2] == b"\x1f\x8b" else source)
            else:
                yield from _warc(path, source, head)
    except OSError as error:
        raise unreadable(path, error) from None


def _first_bytes(head: bytes) -> bytes:
    """The first bytes of a file, decompressed."""
    try:
        return zlib.decompressobj(31).decompress(head, 16) if head[:2] == b"\x1f\x8b" else head[:16]
    except zlib.error:
        return b""


def _peek(file: Any) -> tuple[bytes, Any]:
    """The first bytes of a file, and the file from its beginning on."""
    head = file.read(1024)
    if file.seekable():
        file.seek(0)
        return head, file
    return head, _Rejoined(head, file)


class _Rejoined(io.RawIOBase):
    """A stream whose beginning was read already."""

    def __init__(self, head: bytes, rest: RemoteFile) -> None:
        self._head, self._rest, self._place = head, rest, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    @property
    def failed(self) -> InputError | None:
        """Why reading was given up."""
        return self._rest.failed

    def read(self, size: int = -1) -> bytes:
        if self._head:
            data, self._head = self._head[:size] if size >= 0 else self._head, self._head[size:] if size >= 0 else b""
        else:
            data = self._rest.read(size)
        self._place += len(data)
        return data


# ------------------------------------------------------------------------------------------------------------ WARC


def _warc(path: str, file: Any, head: bytes) -> Iterator[Record | Damage]:
    """Records of a WARC file; behind a damaged part, from the next one that begins like the first."""
    import fastwarc

    position, found = 0, False
    for _ in range(_RESUMES):
        try:
            archive = fastwarc.ArchiveIterator(
                file, parse_http=False, quirks_mode=True, max_header_len=MAX_HEADER_BYTES, buffer_size=BLOCK_BYTES
            )
            for record in archive:
                position, found = record.stream_pos, True
                yield _warc_record(path, record)
            break
        except OSError as error:
            if failed := getattr(file, "failed", None):
                raise failed from None
            yield Damage(f"{path}: after byte {position}", f"damaged ({error})", "damaged_archive")
            position = _next_start(file, position + 1, _MAGIC.get(head[:2])) if file.seekable() else None
            if position is None:
                return
            file.seek(position)
    else:
        yield Damage(path, f"given up after {_RESUMES} damaged parts", "damaged_archive")
        return
    if not found:
        yield Damage(path, "holds no record of a WARC or ARC file", "not_an_archive")
    elif head[:2] == b"\x1f\x8b" and file.seekable() and not _is_whole(file, position or 0):
        yield Damage(f"{path}: after byte {position}", "the file is cut off", "truncated_archive")


def _warc_record(path: str, record: Any) -> Record | Damage:
    """What fastwarc has read, with what is wrong with it."""
    place = f"{path}: byte {record.stream_pos}"
    headers = record.headers
    length = headers.get("Content-Length", "")
    if not length.strip().isdecimal():
        return Damage(place, "the record has no valid Content-Length", "malformed_record")
    kind = str(record.record_type)
    common = {
        "kind": kind,
        "place": place,
        "url": headers.get("WARC-Target-URI", "").strip("<> ") or None,
        "date": _iso_date(headers.get("WARC-Date", "")),
        "id": headers.get("WARC-Record-ID", "").strip("<> ") or None,
        "cut": "WARC-Truncated" in headers,
        "read": record.reader.read,
    }
    if kind not in ("response", "revisit") or not record.is_http:
        return Record(type=headers.get("Content-Type", ""), length=int(length), **common)
    try:
        record.parse_http(quirks_mode=True, max_header_len=MAX_HEADER_BYTES)
    except (OSError, ValueError) as error:
        return Damage(place, f"the HTTP headers cannot be read ({error})", "malformed_record")
    if not record.is_http_parsed or record.http_headers.status_code is None:
        if record.reader.read(1) or not int(length):
            return Damage(place, "the block is no HTTP response", "malformed_record")
        return Damage(place, "the record is cut off", "truncated_record")
    http = {name.lower(): value for name, value in record.http_headers.items()}
    return Record(
        type=http.get("content-type", "") or headers.get("WARC-Identified-Payload-Type", ""),
        status=record.http_headers.status_code,
        headers=http,
        length=record.content_length,
        **common,
    )


def _next_start(file: BinaryIO, position: int, magic: bytes | None) -> int | None:
    """Where the next record may begin, at `position` or later."""
    if magic is None:
        return None
    file.seek(position)
    rest = b""
    while block := file.read(BLOCK_BYTES):
        window = rest + block
        if (found := window.find(magic)) >= 0:
            return position - len(rest) + found
        position += len(block)
        rest = window[-len(magic) + 1 :]
    return None


def _is_whole(file: BinaryIO, position: int) -> bool:
    """Whether a gzip file ends where a member ends, as seen from where its last record begins."""
    file.seek(position)
    if file.read(3) != _MAGIC[b"\x1f\x8b"]:
        position = 0  # one member for all records
    if file.seek(0, io.SEEK_END) - position > _TAIL_BYTES:
        return True  # not looked at: the length of the last record has been checked
    file.seek(position)
    member = zlib.decompressobj(31)
    rest = file.read()
    try:
        while rest.strip(b"\0"):
            if member.eof:
                member = zlib.decompressobj(31)
            member.decompress(rest, BLOCK_BYTES)
            rest = member.unused_data if member.eof else member.unconsumed_tail
        return member.eof
    except zlib.error:
        return False


def _iso_date(text: str) -> str | None:
    """A date of a record if it is one.

    >>> _iso_date("2008-04-30T20:48:25Z"), _iso_date("20080430204825"), _iso_date("2008-10-294T05:21:46-0700")
    ('2008-04-30T20:48:25Z', '2008-04-30T20:48:25Z', None)
    """
    try:
        if text.isdecimal():
            return datetime.datetime.strptime(text, "%Y%m%d%H%M%S").strftime("%Y-%m-%dT%H:%M:%SZ")
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return text


# ------------------------------------------------------------------------------------------------------------- ARC


def _arc(path: str, file: Any) -> Iterator[Record | Damage]:
    """Records of an ARC file: a line, then a block of the length that the line says.

    fastwarc does not read ARC; warcio does, at a tenth of its speed.
    """
    stream = _Bytes(file)
    while True:
        try:
            line = stream.line()
            if line is None:
                return
            if not line.strip():
                continue
            match = _ARC_LINE.match(line.strip())
            if match is None:
                if not stream.passed:
                    yield Damage(f"{path}: byte {stream.place} decompressed", f"no line of a record: {line[:80]!r}")
                stream.passed = True
                continue
            stream.passed = False
            place = f"{path}: byte {stream.place - len(line) - 1} decompressed"
            block = _Block(stream, int(match[5]))
            yield _arc_record(place, match, block)
            missing = block.skip()
        except OSError as error:
            yield Damage(f"{path}: byte {stream.place} decompressed", f"damaged ({error})", "damaged_archive")
            return
        if missing:
            yield Damage(place, f"cut off: {missing} bytes of the record are missing", "truncated_record")
            return


def _arc_record(place: str, match: re.Match[bytes], block: _Block) -> Record | Damage:
    url, kind = match[1].decode("utf-8", "replace"), match[4].decode("utf-8", "replace")
    date = _iso_date(match[3].decode())
    common = {"place": place, "url": url, "date": date, "read": block.read}
    if not url.lower().startswith(("http://", "https://")):
        return Record(kind="warcinfo" if url.startswith("filedesc:") else "resource", type=kind, **common)
    head = block.http_headers()
    status = _STATUS_LINE.match(head)
    if status is None:
        return Damage(place, "the block is no HTTP response", "malformed_record")
    headers = {}
    for line in head.decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    status_code, kind = int(status[1]), headers.get("content-type", "") or kind
    return Record(kind="response", type=kind, status=status_code, headers=headers, length=block.left, **common)


class _Bytes:
    """A stream that is read line by line and in blocks.

    Attributes:
        place: bytes that were read.
        passed: the last line was none of a record, so that a long damaged part is named once.
    """

    def __init__(self, file: Any) -> None:
        self._file, self._buffer = file, b""
        self.place, self.passed = 0, False

    def line(self) -> bytes | None:
        """The next line, without its end; None at the end of the stream. What is longer than a header comes in pieces."""
        while (end := self._buffer.find(b"\n")) < 0 and len(self._buffer) < MAX_HEADER_BYTES:
            if not (block := self._file.read(BLOCK_BYTES)):
                break
            self._buffer += block
        if not self._buffer:
            return None
        line = self._buffer[:end] if end >= 0 else self._buffer[:MAX_HEADER_BYTES]
        self.take(len(line) + (end >= 0))
        return line

    def take(self, size: int) -> bytes:
        """At most so many bytes, none at the end."""
        if not self._buffer:
            self._buffer = self._file.read(BLOCK_BYTES)
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        self.place += len(data)
        return data


class _Block:
    """The block of an ARC record."""

    def __init__(self, stream: _Bytes, length: int) -> None:
        self._stream, self.left = stream, length

    def read(self, size: int) -> bytes:
        """So many bytes, fewer where the block or the file ends."""
        pieces = []
        while size > 0 and self.left and (piece := self._stream.take(min(size, self.left))):
            pieces.append(piece)
            size -= len(piece)
            self.left -= len(piece)
        return b"".join(pieces)

    def skip(self) -> int:
        """Pass over the rest; returns how many bytes are missing."""
        while self.left and self.read(BLOCK_BYTES):
            pass
        return self.left

    def http_headers(self) -> bytes:
        """Read to the empty line that ends the headers; nothing when there is none."""
        head = b""
        while self.left and len(head) < MAX_HEADER_BYTES:
            line = self._stream.line()
            if line is None:
                break
            self.left = max(0, self.left - len(line) - 1)
            if not line.strip():
                return head
            head += line + b"\n"
            if len(head) == len(line) + 1 and not _STATUS_LINE.match(line):
                break
        return b""
