"""Sources made of delimited text: CSV and TSV. What is malformed is counted and kept, never silently lost."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field

from headwater.core.config import nearest
from headwater.core.errors import InputError
from headwater.documents.sources.files import BLOCK_BYTES, LINE_END, FileSource, Span, line_blocks, spans
from headwater.documents.sources.formats import Fields, not_utf8
from headwater.documents.sources.source import MAX_RECORD_BYTES, Intake
from headwater.documents.sources.urls import name_of


class Csv(FileSource):
    """CSV and TSV files in UTF-8 with a column of text; quoted fields may hold line ends."""

    use: Literal["csv"]
    columns: Fields = Fields()
    """Which columns hold what."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """What stands between fields. None: a tab in files named .tsv or .tab, a comma in others."""
    quoted: bool = True
    """Fields may stand in double quotes, a quote inside them is doubled. False: a quote is a character like others."""
    header: tuple[str, ...] | None = None
    """Names of the columns, for files that do not begin with them."""

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Files of a folder that are delimited text."""
        return (".csv", ".tsv", ".tab")

    def parts(self, part_bytes: int) -> Sequence[Any]:
        """Files; they are not cut, because only from the top can one tell which line ends stand inside quotes."""
        return spans(self.files(), part_bytes, divisible=False)

    def read(self, part: tuple[Span, ...], intake: Intake) -> None:
        """Read record by record; one with a wrong number of fields or wrong quotes is a bad record."""
        for span in part:
            records = _Records(span, self._delimiter(span.path), self.quoted, intake)
            names = self.header or next(iter(records), None)
            if names is None:
                continue
            _File(self, span.path, [_shown(name).strip() for name in names], intake).read(records)

    def _delimiter(self, path: str) -> str:
        is_tabs = any(part in ("tsv", "tab") for part in name_of(path).lower().split(".")[1:])
        return self.delimiter or ("\t" if is_tabs else ",")


class _File:
    """One file whose columns are known."""

    def __init__(self, settings: Csv, path: str, names: list[str], intake: Intake) -> None:
        self.path = path
        self.fields = settings.columns
        self.defaults = settings.defaults(path)
        self.intake = intake
        self.count = len(names)
        wanted = [self.fields.text, *self.fields.others().values(), *self.fields.meta]
        for name in wanted:
            if name not in names:
                problem = f"has no column '{name}'{nearest(name, names)}"
                hint = f"its columns are {', '.join(names)}; check `delimiter` and `header` too"
                raise InputError(problem, place=path, hint=hint)
            if names.count(name) > 1:
                raise InputError(f"has two columns '{name}'", place=path, hint="give one of them another name")
        self.text = names.index(self.fields.text)
        self.others = {column: names.index(name) for column, name in self.fields.others().items()}
        self.meta = {name: names.index(name) for name in self.fields.meta}
        self.used = sorted({self.text, *self.others.values(), *self.meta.values()})

    def read(self, records: _Records) -> None:
        """Give the documents to the intake, about a MB at a time."""
        rows: list[list[str]] = []
        size = 0
        for row in records:
            if len(row) != self.count:
                records.reject("wrong_fields", f"{len(row)} fields, the header has {self.count}")
            elif records.suspicious and (problem := _undecoded(row, self.used)):
                records.reject("not_utf8", problem)
            else:
                rows.append(row)
                size += sum(map(len, row))
            if size >= BLOCK_BYTES:
                self._add(rows)
                rows, size = [], 0
        self._add(rows)

    def _add(self, rows: list[list[str]]) -> None:
        values: dict[str, list[Any]] = {
            column: [row[index] or None for row in rows] for column, index in self.others.items()
        }
        if self.meta:
            values["meta"] = [{name: row[index] for name, index in self.meta.items()} for row in rows]
        self.intake.add([row[self.text] for row in rows], **self.fields.columns(values, self.defaults))


class _Records:
    """The records of a file one after the other; those that cannot be parsed are rejected on the way.

    Attributes:
        suspicious: the record holds bytes that are not UTF-8, kept as lone surrogates.
    """

    def __init__(self, span: Span, delimiter: str, quoted: bool, intake: Intake) -> None:
        self.suspicious = False
        self._span, self._intake = span, intake
        self._fresh = (line for block in line_blocks(span, LINE_END, intake) for line in block)
        self._again: deque[bytes] = deque()  # lines that are parsed once more
        self._lines: list[str] = []  # the lines of the record at hand
        self._bytes = 0
        self._first = self._number = 0
        self._quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        self._delimiter = delimiter
        self._reader = self._parser()

    def reject(self, rule: str, problem: str) -> None:
        """Take the record at hand as a bad one."""
        path = self._span.path
        shown = _shown("".join(self._lines).rstrip("\r\n"))
        self._intake.reject(rule, shown, url=path, place=f"{path}:{self._first}", problem=problem)

    def __iter__(self) -> Iterator[list[str]]:
        limit = csv.field_size_limit(2 * MAX_RECORD_BYTES)  # `_fed` stops before: at the record, not the field
        try:
            while True:
                self._lines, self._bytes, self._first, self.suspicious = [], 0, self._number + 1, False
                try:
                    row = next(self._reader, None)
                except _OpenQuoteError:
                    self._open_quote()
                    continue
                except csv.Error as error:
                    if self._bytes > BLOCK_BYTES and len(self._lines) > 1 and self._at_end():
                        self._open_quote()
                    else:
                        self.reject("malformed_csv", str(error))
                    continue
                if row is None:
                    return
                if row:  # a blank line is nothing
                    yield row
        finally:
            csv.field_size_limit(limit)

    def _parser(self) -> Any:
        return csv.reader(self._fed(), delimiter=self._delimiter, quoting=self._quoting, strict=True)

    def _fed(self) -> Iterator[str]:
        """Lines for the parser, which asks for more as long as a quote is open."""
        while (raw := self._again.popleft() if self._again else next(self._fresh, None)) is not None:
            try:
                line = raw.decode()
            except UnicodeDecodeError:
                line, self.suspicious = raw.decode(errors="surrogateescape"), True
            self._number += 1
            self._bytes += len(raw)
            self._lines.append(line)
            if self._bytes > MAX_RECORD_BYTES and len(self._lines) > 1:
                raise _OpenQuoteError
            yield line + "\n"

    def _at_end(self) -> bool:
        """Whether the record at hand went on to the end of the file."""
        if not self._again and (line := next(self._fresh, None)) is not None:
            self._again.append(line)
        return not self._again

    def _open_quote(self) -> None:
        """Take the first line of the record at hand as a bad record, and parse what it swallowed once more."""
        first, *others = self._lines
        size = self._bytes
        self._again.extendleft(line.encode(errors="surrogateescape") for line in reversed(others))
        self._lines, self._number = [first], self._first
        self.reject(
            "malformed_csv", f"a quote is left open for {size:,} bytes; set quoted: false where quotes are text"
        )
        self._reader = self._parser()


class _OpenQuoteError(Exception):
    """A record goes on for longer than any record should."""


def _undecoded(row: list[str], used: list[int]) -> str | None:
    """What is wrong with the bytes of the fields that are used; None when only others have bad ones."""
    for index in used:
        try:
            row[index].encode(errors="surrogateescape").decode()
        except UnicodeDecodeError as error:
            return f"field {index + 1} is {not_utf8(error)}"
    return None


def _shown(text: str) -> str:
    """Text as it can be shown: bytes that are not UTF-8 become U+FFFD."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
