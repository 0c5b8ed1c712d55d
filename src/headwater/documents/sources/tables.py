"""Sources made of rows and columns: Parquet and Arrow files. What is malformed is counted and kept, never silently lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.core.config import nearest
from headwater.core.errors import InputError
from headwater.documents.sources import urls
from headwater.documents.sources.files import (
    BLOCK_BYTES,
    FileSource,
    Span,
    compression_of,
    cut_off,
    opened,
    opened_raw,
    size_of,
    unreadable,
)
from headwater.documents.sources.formats import Fields, not_utf8
from headwater.documents.sources.source import DamagedFileError, Intake

_FILE_MAGIC = b"ARROW1"
_FIRST_FEATHER_MAGIC = b"FEA1"
"""Source: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format, and of Feather's first version."""


class Table(FileSource):
    """What sources with typed columns have in common."""

    columns: Fields = Fields()
    """Which columns hold what."""

    def names(self) -> list[str]:
        """The columns that are read."""
        return list(dict.fromkeys([self.columns.text, *self.columns.others().values(), *self.columns.meta]))

    def parts(self, part_bytes: int) -> Sequence[Any]:
        """Spans of files, gathered until they are about `part_bytes`; one that cannot be divided is read in one go."""
        parts: list[list[Span]] = [[]]
        room = part_bytes
        for path in self.files():
            for span, size in self._spans(path):
                if size > room and parts[-1]:
                    parts.append([])
                    room = part_bytes
                parts[-1].append(span)
                room -= size
        return [tuple(part) for part in parts if part]

    def _spans(self, path: str) -> list[tuple[Span, int]]:
        """What of a file can be read on its own, and the size of each."""
        raise NotImplementedError

    def check_schema(self, schema: pa.Schema, path: str) -> None:
        """Make sure that a file has the columns wanted.

        Raises:
            InputError: a column is missing, or that of the text holds none; names those there are.
        """
        for name in self.names():
            if name not in schema.names:
                problem = f"has no column '{name}'{nearest(name, schema.names)}"
                raise InputError(problem, place=path, hint=f"its columns are {', '.join(schema.names)}")
            if schema.names.count(name) > 1:
                raise InputError(f"has two columns '{name}'", place=path, hint="give one of them another name")
        kind = schema.field(self.columns.text).type
        if not _is_text(kind):
            text_columns = ", ".join(field.name for field in schema if _is_text(field.type)) or "none"
            problem = f"column '{self.columns.text}' holds {kind}, not text"
            raise InputError(problem, place=path, hint=f"set columns.text; columns that hold text: {text_columns}")

    def read_batch(self, batch: pa.RecordBatch, path: str, row: int, intake: Intake) -> None:
        """Give the documents of a batch to `intake`; a row without text is a bad record.

        Args:
            batch: rows with the columns of `names`.
            path: the file.
            row: rows of the file before these.
            intake: takes them.
        """
        texts = batch.column(self.columns.text)
        bad = list(_bad_texts(texts))
        for index, problem in bad:
            place = f"{path}: row {row + index + 1}"
            shown = texts[index].as_buffer().to_pybytes().decode(errors="replace") if texts[index].is_valid else ""
            rule = "not_utf8" if texts[index].is_valid else "no_text"
            intake.reject(rule, shown, url=path, place=place, problem=problem)
        if bad:
            batch = batch.take(pa.array(sorted(set(range(batch.num_rows)) - {index for index, _ in bad}), pa.int64()))
        values: dict[str, list[Any]] = {
            column: _plain(batch.column(name)) for column, name in self.columns.others().items()
        }
        if self.columns.meta:
            meta = [_plain(batch.column(name)) for name in self.columns.meta]
            values["meta"] = [dict(zip(self.columns.meta, row, strict=True)) for row in zip(*meta, strict=True)]
        columns = self.columns.columns(values, self.defaults(path))
        intake.add(batch.column(self.columns.text).cast(pa.string()), **columns)


class Parquet(Table):
    """Parquet files with a column of text."""

    use: Literal["parquet"]

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Files of a folder that are Parquet."""
        return (".parquet",)

    def _spans(self, path: str) -> list[tuple[Span, int]]:
        """The row groups of a file and the size of their texts; the whole file when it is damaged, which reading it tells."""
        try:
            with self._open(path) as file:
                return [(Span(path, group, group + 1), size) for group, size in enumerate(self._text_sizes(file))]
        except DamagedFileError:
            return [(Span(path), 0)]

    def read(self, part: tuple[Span, ...], intake: Intake) -> None:
        """Read in batches of a few MB however large the row groups are; a row without text is a bad record."""
        for span in part:
            for row, batch in _told(self._batches(span), span.path, intake):
                self.read_batch(batch, span.path, row, intake)

    def _batches(self, span: Span) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows of a span, each batch with the number of rows of the file before it."""
        with self._open(span.path) as file:
            row = sum(file.metadata.row_group(group).num_rows for group in range(span.start))
            size = self._text_sizes(file)[span.start]
            rows = max(1, min(10_000, BLOCK_BYTES * file.metadata.row_group(span.start).num_rows // max(1, size)))
            for batch in file.iter_batches(rows, [span.start], self.names(), use_threads=False):
                yield row, batch
                row += batch.num_rows

    def _open(self, path: str) -> pq.ParquetFile:
        """Open a file and check that it has the columns wanted."""
        try:
            source = opened_raw(path) if urls.is_url(path) else path
            file = pq.ParquetFile(source, pre_buffer=False, buffer_size=BLOCK_BYTES)
        except (OSError, pa.ArrowException) as error:
            raise _not_what_it_says(path, error, "a Parquet file") from None
        self.check_schema(file.schema_arrow, path)
        return file

    def _text_sizes(self, file: pq.ParquetFile) -> list[int]:
        """Size of the text in each row group [bytes, not compressed]."""
        groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        columns = [[group.column(index) for index in range(group.num_columns)] for group in groups]
        name = self.columns.text
        return [sum(c.total_uncompressed_size for c in group if c.path_in_schema == name) for group in columns]


class Arrow(Table):
    """Arrow files (IPC, also called Feather 2) and streams, and folders that Hugging Face's `save_to_disk` wrote."""

    use: Literal["arrow"]

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Files of a folder that are Arrow."""
        return (".arrow", ".feather", ".ipc")

    def files(self) -> list[str]:
        """The files that `paths` name; of a folder that `save_to_disk` wrote, those that it lists."""
        return [path for path in super().files() if _is_listed(path)]

    def read(self, part: tuple[Span, ...], intake: Intake) -> None:
        """Read in slices of about a MB however large the batches are; a row without text is a bad record."""
        for span in part:
            for row, batch in _told(self._batches(span), span.path, intake):
                step = max(1, min(10_000, BLOCK_BYTES * batch.num_rows // max(1, batch.nbytes)))
                for begin in range(0, batch.num_rows, step):
                    self.read_batch(batch.slice(begin, step), span.path, row + begin, intake)

    def _spans(self, path: str) -> list[tuple[Span, int]]:
        """The batches of a file and their sizes; the whole file when it is a stream, or damaged, which reading it tells."""
        size = size_of(path) or 0
        try:
            count = self._count(path)
        except DamagedFileError:
            count = None
        if count is None:
            return [(Span(path), size)]
        return [(Span(path, number, number + 1), size // count) for number in range(count)]

    def _count(self, path: str) -> int | None:
        """How many batches a file has; None for a stream."""
        magic = _magic(path)
        if magic.startswith(_FIRST_FEATHER_MAGIC):
            hint = "read it with pyarrow.feather.read_table and write it with write_feather"
            raise InputError("is of the first version of Feather, which is no longer written", place=path, hint=hint)
        if not magic.startswith(_FILE_MAGIC):
            return None
        if compression_of(path):
            raise InputError("is a compressed Arrow file, which cannot be read", place=path, hint="decompress it first")
        with self._opened(path) as file:
            return file.num_record_batches

    def _batches(self, span: Span) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The batches of a span, each with the number of rows of the span before it.

        They have the columns wanted, and are checked: nothing in them points outside of them.
        """
        row = 0
        if span.end is not None or _magic(span.path).startswith(_FILE_MAGIC):
            with self._opened(span.path) as file:
                for number in range(span.start, span.end or 0):
                    batch = _checked(file.get_batch(number).select(self.names()), span.path)
                    yield row, batch
                    row += batch.num_rows
            return
        with opened(span.path) as stream:
            try:
                reader = pa.ipc.open_stream(stream)
                _ = reader.schema.names
            except (OSError, ValueError, pa.ArrowException) as error:  # of Arrow, or a name that is not UTF-8
                raise _not_what_it_says(span.path, error, "an Arrow file") from None
            self.check_schema(reader.schema, span.path)
            for batch in reader:
                yield row, _checked(batch.select(self.names()), span.path)
                row += batch.num_rows

    def _opened(self, path: str) -> Any:
        """Open a file and check that it has the columns wanted."""
        try:
            source = opened_raw(path) if urls.is_url(path) else pa.memory_map(path)
            file = pa.ipc.open_file(source)
            _ = file.schema.names
        except (OSError, ValueError, pa.ArrowException) as error:  # of Arrow, or a name that is not UTF-8
            raise _not_what_it_says(path, error, "an Arrow file") from None
        self.check_schema(file.schema, path)
        return file


def _magic(path: str) -> bytes:
    """The first bytes of a file, decompressed."""
    with opened(path) as stream:
        try:
            return stream.read(len(_FILE_MAGIC))
        except (OSError, pa.ArrowException) as error:
            raise cut_off(path, error) from None


def _not_what_it_says(path: str, error: Exception, kind: str) -> InputError:
    """Say that a file is not of its kind, unless the disk or server did not give it."""
    if isinstance(error, OSError) and error.errno is not None:
        return unreadable(path, error)
    problem = f"is not {kind}, or only the beginning of one ({(str(error) or type(error).__name__).splitlines()[0]})"
    return DamagedFileError(problem, place=path, hint="download or write it again")


def _is_listed(path: str) -> bool:
    """Whether a file belongs to its folder's data: save_to_disk lists them, and leaves its caches beside them."""
    listing = Path(path).parent / "state.json"
    if urls.is_url(path) or not listing.is_file():
        return True
    try:
        files = [entry["filename"] for entry in json.loads(listing.read_text(encoding="utf-8"))["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return True  # some other program's state.json
    return Path(path).name in files


def _checked(batch: pa.RecordBatch, path: str) -> pa.RecordBatch:
    """Make sure that a batch holds together: Arrow trusts the offsets in a file, and a wrong one would end the process.

    Raises:
        InputError: it does not.
    """
    try:
        for column in batch.columns:
            column.validate()
            if _is_text(column.type):
                raw = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(
                    column.type, pa.binary_view()
                )
                column.view(raw).validate(full=True)  # text that is not UTF-8 is a matter of its record
            else:
                column.validate(full=True)
    except pa.ArrowInvalid as error:
        problem = f"is damaged ({str(error).splitlines()[0]})"
        raise DamagedFileError(problem, place=path, hint="write it again") from None
    return batch


# ------------------------------------------------------------------------------------------------------------ rows


def _plain(column: pa.Array) -> list[Any]:
    """Values of a column as Python's; where Python cannot hold one, such as the year 12000, as Arrow prints them."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return column.cast(pa.string()).to_pylist()


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _bad_texts(texts: pa.Array) -> Iterator[tuple[int, str]]:
    """Rows of a text column that are null or not UTF-8, and what is wrong with them."""
    for index in np.flatnonzero(texts.is_null().to_numpy(zero_copy_only=False)).tolist():
        yield index, "the text is null"
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        for index, value in enumerate(texts.cast(pa.binary())):
            try:
                (value.as_py() or b"").decode()
            except UnicodeDecodeError as error:
                yield index, not_utf8(error)


def _told(
    batches: Iterator[tuple[int, pa.RecordBatch]], path: str, intake: Intake
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Pass batches on; where the file turns out to be damaged they end, and the intake is told."""
    before = intake.seen
    while True:
        try:
            found = next(batches, None)
        except (OSError, pa.ArrowException, DamagedFileError) as error:
            told = error if isinstance(error, DamagedFileError) else cut_off(path, error)
            if not isinstance(told, DamagedFileError):
                raise told from None
            problem = f"{told.problem}; {intake.seen - before} records of this part of it could be read"
            intake.damage(DamagedFileError(problem, place=path))
            return
        if found is None:
            return
        yield found
