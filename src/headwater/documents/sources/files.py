"""Files of a user: found by path, folder, pattern or URL, cut in spans, and streamed line by line, compressed or not."""

from __future__ import annotations

import contextlib
import functools
import glob
import lzma
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BeforeValidator, Field, PrivateAttr, WithJsonSchema

from headwater.core.config import nearest
from headwater.core.errors import InputError, UnreachableError
from headwater.documents.sources import urls
from headwater.documents.sources.source import MAX_RECORD_BYTES, DamagedFileError, Intake, SourceSettings, TooLongError

LINE_END = re.compile(rb"\n")
BLANK_LINE = re.compile(rb"\n[ \t\r\f\v]*\n")
ENDLESS_BYTES = 1 << 30
"""Line after which a file is given up [bytes, decompressed]: a bomb could go on for ever."""
_SALVAGED_BYTES = 1 << 10  # what may be lost before the place where a compressed file is damaged
_SHOWN_BYTES = 2000  # of a line that is too long
BLOCK_BYTES = 1 << 20
"""Read at once [bytes]: large against the cost of a call, small against memory."""
_COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors begin a UTF-8 file with it; it is no text

Paths = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""Paths or URLs; one may stand alone."""


class FileSource(SourceSettings):
    """What all sources made of files have in common."""

    paths: Paths = Field(min_length=1)
    """Files, folders (read with all that lies below) or patterns such as `data/**/*.jsonl.gz`; one may stand alone.
    Each may be a URL, such as `s3://bucket/folder` or `https://host/file.parquet`. A name that ends in .gz, .zst, .bz2
    or .xz is decompressed on the way."""
    licence: str | None = None
    """Licence of the documents as an SPDX expression such as `CC0-1.0`, for documents that bring none of their own."""
    language: str | None = None
    """Language of the documents as ISO 639-1 code such as `en`, for documents that bring none of their own."""
    _known_as: dict[str, str] = PrivateAttr(default_factory=dict)  # path -> where the file is from, for copies

    def know_as(self, path: str, url: str) -> None:
        """Say where a file is from that lies at `path` only as a copy: documents get that as their url."""
        self._known_as[path] = url

    def fingerprint(self, hash_file: Callable[[Path], str]) -> Any:
        """Path as given, size and content hash of each file; for a URL what `urls.stamp` says."""
        files = []
        for path in self.files():
            if urls.is_url(path):
                files.append([path, *urls.stamp(path)])
                continue
            try:
                files.append([path, Path(path).stat().st_size, hash_file(Path(path))])
            except OSError as error:
                raise unreadable(path, error) from None
        return files

    def input_bytes(self) -> int:
        """Size of the files, as far as it is known."""
        return sum(size_of(path) or 0 for path in self.files())

    def files(self) -> list[str]:
        """The files that `paths` name, each once, in the order of `paths` and then by name.

        Raises:
            InputError: nothing is there, or a named file is empty.
        """
        found: dict[str, str] = {}
        for path in self.paths:
            for file in find(urls.local(path), self.suffixes()):
                found.setdefault(file if urls.is_url(file) else os.path.realpath(file), file)
        return list(found.values())

    def defaults(self, path: str) -> dict[str, str | None]:
        """Columns of the documents of a file that bring none of their own."""
        return {"url": self._known_as.get(path, path), "licence": self.licence, "language": self.language}

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """How files are named that are taken from a folder, compression aside."""
        raise NotImplementedError


def find(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files that one entry of `paths` stands for: a file, a folder, a pattern or a URL."""
    endings = tuple(suffix + more for suffix in suffixes for more in ("", *_COMPRESSION))
    if urls.is_url(path):
        return urls.find(path, endings)
    if Path(path).is_file():
        if Path(path).stat().st_size == 0:
            raise InputError("is empty", place=path, hint="take it out of `paths`, or check how it was made")
        return [path]
    if Path(path).is_dir():
        below = (file for file in sorted(_inside(path)) if file.is_file() and file.name.endswith(endings))
        found = [str(file) for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not found:
            hint = f"give a pattern, such as {path}/**/*.ending, to read other files"
            raise InputError(f"this folder holds no {', '.join(suffixes)} file", place=path, hint=hint)
        return found
    if glob.has_magic(path):
        found = sorted(str(file) for file in _fitting(path) if file.is_file())
        if not found:
            raise InputError("no file fits this pattern", place=path, hint="check it with ls")
        return found
    raise missing(path)


def _inside(folder: str) -> Iterator[Path]:
    """Everything below a folder; linked folders are not gone into."""

    def refuse(error: OSError) -> None:
        raise unreadable(str(error.filename or folder), error) from None

    for current, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(current) / name for name in names)


def _fitting(pattern: str) -> Iterator[Path]:
    """Paths that fit a pattern; `**` goes into no linked folder, because links can lead round in circles."""
    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base, rest = Path(*parts[:first]), [*parts[first:]]
    if rest[-1] == "**":
        rest.append("*")
    shown = any(part.startswith(".") for part in rest)  # a pattern that asks for hidden files gets them
    for path in base.glob("/".join(rest)):
        if shown or not any(part.startswith(".") for part in path.relative_to(base).parts):
            yield path


def size_of(path: str) -> int | None:
    """Size of a file as it lies there [bytes]; None when a web server does not tell."""
    return urls.size_of(path) if urls.is_url(path) else Path(path).stat().st_size


def compression_of(path: str) -> str | None:
    """How a file is compressed, going by its name.

    >>> compression_of("a.jsonl.zst"), compression_of("a.jsonl")
    ('zstd', None)
    """
    return _COMPRESSION.get(Path(urls.name_of(path)).suffix)


def missing(path: str) -> InputError:
    """Say which part of a path is not there, and what is there instead."""
    lost = Path(path)
    while lost.parent != lost and not lost.parent.exists():
        lost = lost.parent
    beside = [entry.name for entry in lost.parent.iterdir()] if lost.parent.is_dir() else []
    hint = nearest(lost.name, beside).removeprefix("; ") or "check the path"
    what = "no such file or folder" if lost == Path(path) else f"there is no folder {lost}"
    return InputError(what, place=path, hint=hint)


def unreadable(path: str, error: OSError) -> InputError:
    """Say why the operating system does not let a file be read."""
    reason = error.strerror or str(error).splitlines()[0]
    return InputError(f"cannot be read ({reason})", place=path, hint="check the file and its permissions")


# ---------------------------------------------------------------------------------------------------------- spans


@dataclass(frozen=True)
class Span:
    """A stretch of one file that is read alone: from `start` to `end`, in bytes, or in row groups of a Parquet file.

    Bytes are moved to the next place where a document can begin, so a span may hold none. `end` None: to the end.
    """

    path: str
    start: int = 0
    end: int | None = None


def spans(files: Iterable[str], part_bytes: int, *, divisible: bool) -> list[tuple[Span, ...]]:
    """Cut large files and gather small ones, so that each part is about `part_bytes` on disk.

    Args:
        files: paths.
        part_bytes: size of a part.
        divisible: documents can begin anywhere inside a file; compressed files are never cut.
    """
    parts: list[list[Span]] = [[]]
    room = part_bytes
    for path in files:
        size = size_of(path) or part_bytes
        can_be_cut = divisible and size > part_bytes and not compression_of(path)
        pieces = -(-size // part_bytes) if can_be_cut and (not urls.is_url(path) or urls.has_ranges(path)) else 1
        if size > room and parts[-1]:
            parts.append([])
            room = part_bytes
        if pieces <= 1:
            parts[-1].append(Span(path))
            room -= size
        else:
            cuts = [size * piece // pieces for piece in range(pieces)]
            parts[-1:] = [[Span(path, start, end)] for start, end in zip(cuts, [*cuts[1:], None], strict=True)]
            room = 0
    return [tuple(part) for part in parts if part]


def line_blocks(span: Span, boundary: re.Pattern[bytes], intake: Intake) -> Iterator[list[bytes]]:
    """Stream the lines of a span, without their ends, in blocks of about a MB.

    A line longer than MAX_RECORD_BYTES becomes a bad record, with an empty line in its place. Where the file turns out to be
    damaged the stream ends, and the intake is told.

    Args:
        span: what to read.
        boundary: matches what ends a document: a span begins behind the first match in it, and goes on to the first
            match behind it, so that every document is in exactly one span.
        intake: takes what is wrong.
    """
    number, line = 0, _Line()
    try:
        for block in _stretch(span, boundary):
            if not (number or line.size or span.start):
                _refuse_archive(block, span.path)
            lines, found, tail = block.rpartition(b"\n")
            if not found:
                line.add(block, span.path)
                continue
            first, *others = lines.split(b"\n")
            line.add(first, span.path)
            whole_lines = [line.end(), *others]
            if whole_lines[0] is None:
                _reject_long(line, span, number + 1, boundary, intake)
                whole_lines[0] = b""
            number += len(whole_lines)
            yield whole_lines
            line = _Line()
            line.add(tail, span.path)
    except DamagedFileError as error:
        problem = f"{error.problem}; its first {number} lines could be read"
        intake.damage(DamagedFileError(problem, place=span.path))
        return
    if (last := line.end()) is None:
        _reject_long(line, span, number + 1, boundary, intake)
    elif last:
        yield [last]


def _refuse_archive(block: bytes, path: str) -> None:
    """Several files in one are no lines; between those of a tar archive there are its own headers.

    Raises:
        DamagedFileError: the file begins as an archive does. Source: the magic numbers of file(1).
    """
    kind = "zip" if block.startswith(b"PK\x03\x04") else "tar" if block[257:262] == b"ustar" else None
    if kind:
        raise DamagedFileError(f"is a {kind} archive of files; unpack it and give the folder", place=path)


class _Line:
    """A line whose pieces are seen one after the other; of one that is too long only the beginning is held."""

    def __init__(self) -> None:
        self.size = 0
        self.pieces: list[bytes] = []

    def add(self, piece: bytes, path: str) -> None:
        """Take more of it.

        Raises:
            DamagedFileError: it goes on for ever.
        """
        self.size += len(piece)
        if self.size <= MAX_RECORD_BYTES:
            self.pieces.append(piece)
        else:
            self.pieces = [b"".join(self.pieces)[:_SHOWN_BYTES]]
        if self.size > ENDLESS_BYTES:
            raise DamagedFileError(f"goes on for {ENDLESS_BYTES >> 20} MiB without the end of a line", place=path)

    def end(self) -> bytes | None:
        """The line; None when it is too long."""
        return b"".join(self.pieces) if self.size <= MAX_RECORD_BYTES else None


def _reject_long(line: _Line, span: Span, number: int, boundary: re.Pattern[bytes], intake: Intake) -> None:
    """Take a line that is too long as a record that is not wanted: one of them says nothing about the others."""
    intake.reject(
        "too_long",
        b"".join(line.pieces).decode(errors="replace"),
        url=span.path,
        place=place_of_line(span, number, boundary),
        problem=f"a line of {line.size:,} bytes, more than {MAX_RECORD_BYTES >> 20} MiB",
        value=line.size,
        threshold=MAX_RECORD_BYTES,
        bad=False,
    )


def _stretch(span: Span, boundary: re.Pattern[bytes]) -> Iterator[bytes]:
    """The bytes of a span, about a MB at a time.

    Raises:
        DamagedFileError: the file is damaged.
        UnreachableError: it cannot be had any more.
    """
    start = boundary_after(span.path, span.start, boundary)
    left = boundary_after(span.path, span.end, boundary) - start if span.end is not None else None
    with opened(span.path) as stream:
        if start:
            stream.seek(start)
        at_the_top, passed = start == 0, 0
        try:
            while block := _next_block(stream, left, span.path):
                passed += len(block)
                if left is not None:
                    left -= len(block)
                yield block.removeprefix(_BYTE_ORDER_MARK) if at_the_top else block
                at_the_top = False
        except DamagedFileError:
            if compression_of(span.path):
                yield from _salvaged(span.path, passed)
            raise


def _salvaged(path: str, passed: int) -> Iterator[bytes]:
    """What a damaged compressed file still holds behind the last whole block: it is decompressed once more, in small pieces."""
    with opened(path) as stream, contextlib.suppress(DamagedFileError):
        while passed and (block := _next_block(stream, min(passed, BLOCK_BYTES), path)):
            passed -= len(block)
        while block := _next_block(stream, _SALVAGED_BYTES, path):
            yield block


def _next_block(stream: pa.NativeFile, left: int | None, path: str) -> bytes:
    """About a MB of a stream, at most what is `left`; empty at the end."""
    try:
        return stream.read(BLOCK_BYTES if left is None else min(BLOCK_BYTES, left))
    except (OSError, pa.ArrowException) as error:
        raise cut_off(path, error) from None


def cut_off(path: str, error: Exception) -> InputError:
    """Say why a file cannot be read to its end: it is damaged, or the disk or server does not give it."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    problem = f"cannot be read to its end ({reason})"
    if isinstance(error, OSError) and error.errno is not None:  # decoders have no such numbers
        return UnreachableError(problem, place=path, hint="check the disk or the network, then run again")
    return DamagedFileError(problem, place=path, hint="download or write it again")


def whole(path: str) -> bytes:
    """Read a file that is one document.

    Raises:
        DamagedFileError: the file is cut off, or holds several files.
        TooLongError: it is too large for a document.
        UnreachableError: it cannot be had any more.
    """
    blocks, size = [], 0
    with opened(path) as stream:
        while size <= MAX_RECORD_BYTES and (block := _next_block(stream, None, path)):
            if not size:
                _refuse_archive(block, path)
            blocks.append(block)
            size += len(block)
    if size > MAX_RECORD_BYTES:
        problem = f"is larger than {MAX_RECORD_BYTES >> 20} MiB, too much for one document"
        raise TooLongError(problem, place=path, hint="cut it in documents with split: blank_lines or split: lines")
    return b"".join(blocks).removeprefix(_BYTE_ORDER_MARK)


def opened(path: str) -> pa.NativeFile:
    """Open a file or URL to be streamed, decompressing it when its name ends in .gz, .zst, .bz2 or .xz.

    Raises:
        InputError: it cannot be opened.
    """
    file = opened_raw(path)
    compression = compression_of(path)
    if compression == "xz":
        return pa.PythonFile(urls.Told(lzma.LZMAFile(file), decoder=True), mode="r")  # Arrow has no decoder for it
    return pa.CompressedInputStream(file, compression) if compression else file


def opened_raw(path: str) -> pa.NativeFile:
    """Open a file or URL as it lies there.

    Raises:
        InputError: it cannot be opened.
    """
    if urls.is_url(path):
        return pa.PythonFile(urls.opened(path), mode="r")
    try:
        return pa.OSFile(path)
    except OSError as error:
        raise unreadable(path, error) from None


def boundary_after(path: str, offset: int, boundary: re.Pattern[bytes]) -> int:
    """Where the first match of `boundary` that begins at or after `offset` ends; 0 for 0, else the size of the file.

    Behind ENDLESS_BYTES no match is looked for: whoever reads what comes before gives the file up there.
    """
    if offset == 0:
        return 0
    with opened(path) as stream:
        stream.seek(offset)
        seen, before = b"", offset  # the bytes behind `before`
        while block := stream.read(BLOCK_BYTES):
            seen += block
            if match := boundary.search(seen):
                return before + match.end()
            begun = seen.rfind(b"\n") if len(seen) - seen.rfind(b"\n") < BLOCK_BYTES else -1  # of a match, perhaps
            passed = begun if begun >= 0 else len(seen)
            seen, before = seen[passed:], before + passed
            if before - offset > ENDLESS_BYTES:
                return size_of(path) or before
        return before + len(seen)


def place_of_line(span: Span, number: int, boundary: re.Pattern[bytes]) -> str:
    """Where a person finds line `number` (from 1) of a span: `path:line`, counted in the whole file."""
    return f"{span.path}:{_lines_before(span.path, boundary_after(span.path, span.start, boundary)) + number}"


@functools.lru_cache(maxsize=8)
def _lines_before(path: str, end: int) -> int:
    lines = 0
    with opened(path) as stream:
        while end > 0 and (block := stream.read(min(BLOCK_BYTES, end))):
            lines += block.count(b"\n")
            end -= len(block)
    return lines
