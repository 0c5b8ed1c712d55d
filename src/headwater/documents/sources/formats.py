"""Sources made of lines: plain text and JSON Lines. What is malformed is counted and kept, never silently lost."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import orjson
from pydantic import Field, model_validator

from headwater.core.config import Config, nearest
from headwater.core.errors import InputError
from headwater.core.units import Count
from headwater.documents.sources.files import (
    BLANK_LINE,
    BLOCK_BYTES,
    LINE_END,
    FileSource,
    Span,
    line_blocks,
    place_of_line,
    spans,
    whole,
)
from headwater.documents.sources.source import DamagedFileError, Intake, TooLongError

_FIELDS_KEPT = 1000  # names of fields that are remembered to suggest the nearest one


class Text(FileSource):
    """Plain text files in UTF-8."""

    use: Literal["text"]
    split: Literal["file", "blank_lines", "lines"] = "file"
    """How a file is cut in documents: not at all, at blank lines, or at the end of each line."""
    join_characters: Count | None = Field(default=None, ge=1)
    """Join consecutive pieces of a file into documents of at most this many characters; a longer piece stands alone.
    None leaves each piece a document. For `split: blank_lines` or `lines`."""

    @model_validator(mode="after")
    def _joins_pieces(self) -> Text:
        if self.split == "file" and self.join_characters:
            raise ValueError("join_characters joins pieces of a file; it needs split: blank_lines or split: lines")
        return self

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Files of a folder that are text."""
        return (".txt", ".text", ".md", ".rst")

    def parts(self, part_bytes: int) -> Sequence[Any]:
        """Stretches of files."""
        return spans(self.files(), part_bytes, divisible=self.split != "file")

    def read(self, part: tuple[Span, ...], intake: Intake) -> None:
        """Cut and decode; a piece that is not UTF-8 is a bad record."""
        for span in part:
            pieces = self._decoded(span, intake)
            if self.join_characters:
                pieces = _joined(pieces, self.join_characters, "\n\n" if self.split == "blank_lines" else "\n")
            for texts in _blocks(pieces):
                intake.add(texts, **self.defaults(span.path))

    def _decoded(self, span: Span, intake: Intake) -> Iterator[str]:
        boundary = BLANK_LINE if self.split == "blank_lines" else LINE_END
        for line, piece in self._pieces(span, boundary, intake):
            try:
                yield piece.decode()
            except UnicodeDecodeError as error:
                place = place_of_line(span, line, boundary)
                intake.reject("not_utf8", _shown(piece), url=span.path, place=place, problem=not_utf8(error))

    def _pieces(self, span: Span, boundary: re.Pattern[bytes], intake: Intake) -> Iterator[tuple[int, bytes]]:
        """The pieces of a span, each with the number of its first line."""
        if self.split == "file":
            try:
                yield 1, whole(span.path)
            except TooLongError as error:
                intake.reject("too_long", "", url=span.path, place=span.path, problem=error.problem, bad=False)
            except DamagedFileError as error:
                intake.damage(error)
            return
        lines = (line.rstrip(b"\r") for block in line_blocks(span, boundary, intake) for line in block)
        numbered = enumerate(lines, start=1)
        if self.split == "blank_lines":
            yield from _paragraphs(numbered)
        else:
            yield from ((number, line) for number, line in numbered if not _is_blank(line))


class Fields(Config):
    """Which fields of a record hold what; fields that are not named here are left out."""

    text: str = "text"
    """The text."""
    url: str | None = None
    """Where the text is from. None: the path of the file."""
    licence: str | None = None
    """SPDX expression; where it is missing, the source's `licence` counts."""
    date: str | None = None
    """Date, best in ISO 8601. Other common forms become it; of what is no date nothing is kept, which is said."""
    language: str | None = None
    """Language as ISO 639-1 code."""
    meta: tuple[str, ...] = ()
    """Other fields to keep with the document."""

    def others(self) -> dict[str, str]:
        """Column of a document -> field, for the fields beside text and meta that are wanted."""
        named = {"url": self.url, "licence": self.licence, "date": self.date, "language": self.language}
        return {column: field for column, field in named.items() if field is not None}

    def wanted(self) -> dict[str, str]:
        """Field -> setting that names it, for all fields beside text."""
        return {field: column for column, field in self.others().items()} | dict.fromkeys(self.meta, "meta")

    def columns(self, values: dict[str, list[Any]], defaults: dict[str, str | None]) -> dict[str, Any]:
        """Columns for Intake.add from the values of `others`, and of `meta` as objects."""
        columns: dict[str, Any] = dict(defaults)
        for column, found in values.items():
            default = defaults.get(column)
            if column == "meta":
                columns[column] = [orjson.dumps(value, default=str).decode() if value else None for value in found]
            else:
                columns[column] = [default if value is None else _as_text(value) for value in found]
        return columns


class JsonLines(FileSource):
    """JSON Lines files: one JSON object on each line."""

    use: Literal["jsonl"]
    fields: Fields = Fields()
    """Which fields hold what."""

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Files of a folder that are JSON Lines."""
        return (".jsonl", ".ndjson", ".json")

    def parts(self, part_bytes: int) -> Sequence[Any]:
        """Stretches of files."""
        return spans(self.files(), part_bytes, divisible=True)

    def read(self, part: tuple[Span, ...], intake: Intake) -> None:
        """Parse line by line; a line that is not JSON, or that holds no text, is a bad record."""
        for span in part:
            seen = 0
            for lines in line_blocks(span, LINE_END, intake):
                self._read_lines(lines, span, seen, intake)
                seen += len(lines)

    def check_fields(self, known: set[str], source: str) -> None:
        """Make sure that each field that the settings name is in some record."""
        for field, setting in self.fields.wanted().items():
            if field not in known:
                problem = f"no record has a field '{field}'{nearest(field, known)}"
                hint = "name a field that the records have, or leave the setting out"
                raise InputError(problem, place=f"read.sources.{source}.fields.{setting}", hint=hint)

    def _read_lines(self, lines: list[bytes], span: Span, seen: int, intake: Intake) -> None:
        field, others, meta = self.fields.text, self.fields.others(), self.fields.meta
        missing = self.fields.wanted().keys() - intake.fields
        texts: list[str] = []
        values: dict[str, list[Any]] = {column: [] for column in others} | ({"meta": []} if meta else {})
        loads = orjson.loads
        for number, line in enumerate(lines, start=seen + 1):
            try:
                record = loads(line)
            except orjson.JSONDecodeError as error:
                if not _is_blank(line):
                    self._reject_line(line, error, span, number, intake)
                continue
            if missing and type(record) is dict:
                intake.fields |= record.keys() if len(intake.fields) < _FIELDS_KEPT else record.keys() & missing
                missing -= record.keys()
            text = record.get(field) if type(record) is dict else None
            if type(text) is not str:
                place = place_of_line(span, number, LINE_END)
                intake.reject("no_text", line.decode(), url=span.path, place=place, problem=_no_text(record, field))
                continue
            texts.append(text)
            for column, name in others.items():
                values[column].append(record.get(name))
            if meta:
                values["meta"].append({name: record[name] for name in meta if name in record})
        intake.add(texts, **self.fields.columns(values, self.defaults(span.path)))

    def _reject_line(self, line: bytes, error: ValueError, span: Span, number: int, intake: Intake) -> None:
        rule, problem = "malformed_json", str(error)
        try:
            line.decode()
        except UnicodeDecodeError as undecodable:
            rule, problem = "not_utf8", not_utf8(undecodable)
        place = place_of_line(span, number, LINE_END)
        intake.reject(rule, _shown(line), url=span.path, place=place, problem=problem)


# --------------------------------------------------------------------------------------------------------- pieces


def _is_blank(line: bytes) -> bool:
    return not line or line.isspace()


def _paragraphs(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Gather numbered lines into what stands between blank lines."""
    first, paragraph = 0, []
    for number, line in lines:
        if not _is_blank(line):
            first = first or number
            paragraph.append(line)
        elif paragraph:
            yield first, b"\n".join(paragraph)
            first, paragraph = 0, []
    if paragraph:
        yield first, b"\n".join(paragraph)


def _joined(pieces: Iterable[str], most: int, separator: str) -> Iterator[str]:
    r"""Join consecutive pieces as long as they stay within `most` characters.

    >>> list(_joined(["one", "two", "three", "a long piece", "x"], 8, "\n"))
    ['one\ntwo', 'three', 'a long piece', 'x']
    """
    group: list[str] = []
    length = 0
    for piece in pieces:
        if group and length + len(separator) + len(piece) > most:
            yield separator.join(group)
            group, length = [], 0
        length += len(piece) + (len(separator) if group else 0)
        group.append(piece)
    if group:
        yield separator.join(group)


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Gather texts into lists of about a MB."""
    block: list[str] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    yield block


# ---------------------------------------------------------------------------------------------------- bad records


def _shown(record: bytes) -> str:
    """A bad record as text: undecodable bytes become U+FFFD."""
    return record.decode(errors="replace")


def not_utf8(error: UnicodeDecodeError) -> str:
    """Say where a record stops to be UTF-8."""
    return f"not UTF-8 (byte {error.start}: {error.reason})"


def _no_text(record: Any, field: str) -> str:
    """Say why a JSON record holds no text."""
    if not isinstance(record, dict):
        return f"a JSON {type(record).__name__}, not an object"
    if field in record:
        return f"field '{field}' holds no text but {type(record[field]).__name__}"
    return f"no field '{field}'{nearest(field, record)}"


def _as_text(value: Any) -> str:
    """A date in ISO 8601, anything else as it prints."""
    return value.isoformat() if isinstance(value, datetime.date) else str(value)
