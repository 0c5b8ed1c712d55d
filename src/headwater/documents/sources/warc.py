"""Web archives as a source: the pages of WARC and ARC files as text, and the texts of WET files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import orjson
from pydantic import Field

from headwater.core.units import Bytes
from headwater.documents.sources.archives import Damage, Record, records
from headwater.documents.sources.bodies import decoded
from headwater.documents.sources.extract import MAX_PAGE_BYTES, Extracted, PageError, Tier, decode, extract
from headwater.documents.sources.files import BLOCK_BYTES, FileSource, Span, spans
from headwater.documents.sources.opt_outs import header_objects, page_objects
from headwater.documents.sources.remote import RemoteFile
from headwater.documents.sources.source import DamagedFileError, Intake, SourceSettings

_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';,]+)", re.IGNORECASE)
_HTML = re.compile(rb"(?i)<(?:!doctype\s+html|html|head|body|title|meta)\b")
_SNIFFED_BYTES = 1024
_SHOWN_BYTES = 2000  # of a page that is dropped, to be looked at


class Pages(SourceSettings):
    """Which records of a web archive become documents, and how."""

    extract: Tier = "balanced"
    """How the main text is taken out of HTML: `fast`, `balanced` (slower by a third, far fewer menus and notices) or `precise`
    (slower by a factor of five, a little better still)."""
    max_page_bytes: Bytes = Field(default=MAX_PAGE_BYTES, ge=1)
    """Longest page [bytes, decompressed]; longer ones are dropped."""
    content_types: tuple[str, ...] = ("text/html", "application/xhtml+xml", "text/plain")
    """Content types of pages that become documents; those with `html` in their name are taken as HTML, others as text."""
    statuses: tuple[int, ...] = (200,)
    """HTTP statuses of pages that become documents."""
    licence: str | None = None
    """Licence of the documents as an SPDX expression; web archives name none."""
    opted_out: Literal["drop", "keep"] = "drop"
    """What becomes of pages that object to training: by the headers `tdm-reservation: 1` or `X-Robots-Tag: noai`, or by
    `<meta>` tags that say the same."""

    def read_archive(self, path: str, intake: Intake, stream: RemoteFile | None = None) -> None:
        """Read one archive: pages become documents, everything else is counted with its reason.

        Raises:
            InputError: the archive cannot be opened.
            MissingExtraError: a package is not installed.
        """
        batch = _Batch(intake, self.licence)
        for record in records(path, stream):
            if isinstance(record, Damage):
                batch.flush()
                if record.rule in _OF_THE_FILE:
                    intake.damage(DamagedFileError(record.problem, place=path), record.rule, record.place)
                else:
                    intake.reject(record.rule, "", url=path, place=record.place, problem=record.problem)
            elif reason := self._other(record):
                intake.skip(reason)
            else:
                self._read_record(record, batch, path)
        batch.flush()

    def _other(self, record: Record) -> str | None:
        """Why a record is no page, None if it is one."""
        if record.kind == "conversion":
            return None
        if record.kind != "response":
            return f"record_{record.kind}"
        if record.status is None:
            return "not_http"
        if record.status not in self.statuses:
            return f"status_{record.status}"
        kind = _media_type(record.type)
        return "content_type" if kind and kind not in self.content_types else None

    def _read_record(self, record: Record, batch: _Batch, path: str) -> None:
        content, kind = b"", _media_type(record.type)
        try:
            objection = header_objects(record.headers) if self.opted_out == "drop" else None
            if objection:
                raise PageError("opted_out", objection)
            if record.length > self.max_page_bytes:
                problem = f"longer than {self.max_page_bytes} bytes"
                raise PageError("too_large", problem, record.length, self.max_page_bytes)
            content = _read(record)
            content, cut = decoded(content, record.headers, self.max_page_bytes)
            if self.opted_out == "drop" and record.kind == "response" and (objection := page_objects(content)):
                content = b""
                raise PageError("opted_out", objection)
            if cut and not record.cut:
                raise PageError("truncated_body", "the body of the page is cut off")
            if record.kind == "conversion":
                page = Extracted(decode(content, "utf-8")[0], None, None, "utf-8")
                kind = kind or "text/plain"
            else:
                kind = kind or ("text/html" if _HTML.search(content, 0, _SNIFFED_BYTES) else "")
                if not kind:
                    batch.intake.skip("content_type")
                    return
                page = self._page(content, kind, _CHARSET.search(record.type))
        except PageError as error:
            batch.flush()
            batch.intake.reject(
                error.rule,
                decode(content[:_SHOWN_BYTES])[0],
                url=record.url or path,
                place=record.place,
                problem=error.problem,
                value=error.value,
                threshold=error.threshold,
                bad=error.rule in _BAD,
            )
            return
        batch.add(record, page, kind, path)

    def _page(self, content: bytes, kind: str, charset: re.Match[str] | None) -> Extracted:
        """The text of a page."""
        name = charset[1] if charset else None
        if "html" in kind:
            return extract(content, self.extract, name, self.max_page_bytes)
        text, name = decode(content, name)
        return Extracted(text, None, None, name)


_OF_THE_FILE = frozenset(("damaged_archive", "truncated_archive", "not_an_archive"))
"""Damage of a file, not of one of its records."""
_BAD = frozenset(("malformed_body", "truncated_body", "truncated_record"))
"""Reasons that say that the archive is damaged, not that the page is unusual: they count against max_bad_fraction."""


class Warc(FileSource, Pages):
    """Web archives: WARC, WET and ARC files, plain or compressed with gzip, zstd or lz4."""

    use: Literal["warc"]

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Files of a folder that are web archives."""
        return (".warc", ".wet", ".arc")

    def parts(self, part_bytes: int) -> Sequence[Any]:
        """Whole files."""
        return spans(self.files(), part_bytes, divisible=False)

    def read(self, part: tuple[Span, ...], intake: Intake) -> None:
        """Read record by record."""
        for span in part:
            self.read_archive(span.path, intake)


class _Batch:
    """Documents on their way to the intake, gathered to about a MB."""

    def __init__(self, intake: Intake, licence: str | None) -> None:
        self.intake = intake
        self._licence = licence
        self._size = 0
        self._rows: list[tuple[str, str, str | None, str | None]] = []

    def add(self, record: Record, page: Extracted, kind: str, path: str) -> None:
        """Take a page."""
        found = {"content_type": kind, "record_id": record.id, "title": page.title, "declared_language": page.language}
        meta = orjson.dumps({name: value for name, value in found.items() if value}, option=orjson.OPT_SORT_KEYS)
        self._rows.append((page.text, record.url or path, record.date, meta.decode()))
        self._size += len(page.text)
        if self._size >= BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand over what was gathered."""
        if self._rows:
            texts, urls, dates, metas = zip(*self._rows, strict=True)
            self.intake.add(list(texts), url=urls, date=dates, meta=metas, licence=self._licence)
            self._rows, self._size = [], 0


def _read(record: Record) -> bytes:
    """The whole block of a record.

    Raises:
        PageError: the file ends before the record does.
    """
    try:
        content = record.read(record.length)
        while len(content) < record.length and (more := record.read(record.length - len(content))):
            content += more
    except OSError as error:
        raise PageError("truncated_record", f"the record cannot be read to its end ({error})") from None
    if len(content) < record.length:
        problem = f"cut off: {record.length - len(content)} bytes of the record are missing"
        raise PageError("truncated_record", problem)
    return content


def _media_type(content_type: str) -> str:
    """A content type without its parameters.

    >>> _media_type("Text/HTML; charset=utf-8")
    'text/html'
    """
    return content_type.partition(";")[0].strip().lower()
