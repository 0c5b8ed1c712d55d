"""What a document is, how shards of documents are written and read, and how stages count them.

A document is a row of Arrow: see SCHEMA. A shard is one zstd Parquet file `<source>-<5 digits>.parquet` of documents of
one source, in row groups of a few MB, so that a stage reads, works and writes batch by batch with flat memory:

    with ShardFile(kept_path) as kept, ShardFile(dropped_path, DROPPED_SCHEMA) as dropped:
        for batch in read_batches(shard_path):
            keep = ...                                  # a boolean array
            kept.write(batch.filter(keep))
            dropped.write(drop(batch.filter(pc.invert(keep)), "clean", "min_words", values, threshold))
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from headwater.core.bucket import here
from headwater.core.errors import StoreError
from headwater.core.store import atomic_path

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # 32 hex digits: xxh3_128 of the text as it was read
        pa.field("text", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # the name that the recipe gives the source
        pa.field("url", pa.string()),  # where the text is from: a URL or `file#part`
        pa.field("licence", pa.string()),  # SPDX expression, null when unknown
        pa.field("date", pa.string()),  # ISO 8601
        pa.field("language", pa.string()),  # ISO 639-1
        pa.field("meta", pa.string()),  # a JSON object
    ]
)
"""The columns of a document."""

DROPPED_SCHEMA = pa.schema(
    [
        *SCHEMA,
        pa.field("stage", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("value", pa.float64()),  # what the rule measured
        pa.field("threshold", pa.float64()),  # what it allows
        pa.field("detail", pa.string()),  # what a person needs to understand the verdict
    ]
)
"""The columns of a dropped document: the document itself, then why it was dropped."""

ROW_GROUP_BYTES = 4 << 20
"""Text in a row group [bytes]: the unit of reading, hence of memory. Large enough that Parquet's and our cost per batch
vanish (4 MB of text is about 1 ms to decode), small enough that a stage holds a few of them."""
ROW_GROUP_ROWS = 1 << 16
"""Documents in a row group, at most: bounds the memory of the other columns when documents are a few words long."""
SHARD_BYTES = 32 << 20
"""Text in a shard [bytes]: the unit of parallel work and of resuming."""
_REPEATING = ["source", "licence", "date", "language", "stage", "rule"]  # columns worth a dictionary in Parquet


def text_bytes(texts: pa.StringArray) -> int:
    """Size of a column of text in UTF-8 bytes.

    >>> text_bytes(pa.array(["ab", "é"]))
    4
    """
    _, starts = text_buffer(texts)
    return int(starts[-1] - starts[0])


def text_buffer(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of a column of text without a copy, and where each text begins in them.

    Returns:
        data [all bytes of the buffer] uint8, and offsets [texts + 1] int32: text i is `data[offsets[i]:offsets[i + 1]]`.
        A sliced array shares the buffer of the whole one, so offsets[0] need not be 0.
    """
    _, offsets, data = texts.buffers()
    if offsets is None or offsets.size == 0:
        return np.zeros(0, np.uint8), np.zeros(1, np.int32)
    starts = np.frombuffer(offsets, np.int32, count=len(texts) + 1, offset=4 * texts.offset)
    return (np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)), starts


def document_ids(texts: pa.StringArray) -> pa.StringArray:
    """The id of each text: the 32 hex digits of its xxh3_128 hash, so equal texts have equal ids everywhere.

    Source: xxHash, https://xxhash.com (XXH3, 128 bits, seed 0).

    >>> document_ids(pa.array(["hello"])).to_pylist()
    ['b5e9c1ad071b3e7fc779cfaa5e523818']
    """
    digits = text_hashes(texts).tobytes().hex().encode()
    offsets = np.arange(len(texts) + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets.tobytes()), pa.py_buffer(digits))


def text_hashes(texts: pa.StringArray) -> np.ndarray:
    """The xxh3_128 hash of each text, its 16 bytes as two numbers: [D, 2] uint64."""
    data, starts = text_buffer(texts)
    view = data.data
    digests = [xxhash.xxh3_128_digest(view[start:end]) for start, end in pairwise(starts.tolist())]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def documents_of(source: str, texts: Sequence[str] | pa.StringArray, **columns: Any) -> pa.RecordBatch:
    """Make a batch of documents from a column of texts; ids are computed.

    Args:
        source: name of the source in the recipe.
        texts: the text of each document.
        **columns: other columns of SCHEMA: a sequence or array with one value for each document, or one value for all.

    >>> documents_of("notes", ["a", "b"], licence="CC0-1.0", url=["x#1", "x#2"]).column("url").to_pylist()
    ['x#1', 'x#2']
    """
    text = texts if isinstance(texts, pa.StringArray) else pa.array(texts, pa.string())
    given = {"id": document_ids(text), "text": text, "source": source} | columns
    assert given.keys() <= set(SCHEMA.names), f"not columns of a document: {given.keys() - set(SCHEMA.names)}"
    return _batch(given, SCHEMA, len(text))


def drop(
    batch: pa.RecordBatch, stage: str, rule: Any, value: Any, threshold: Any, detail: Any = None
) -> pa.RecordBatch:
    """Turn documents into dropped documents, which say why they were dropped.

    Args:
        batch: the documents to drop (SCHEMA).
        stage: name of the stage.
        rule: the rule that dropped them; as the other arguments, one for all or one for each document.
        value: what the rule measured, or None.
        threshold: what the rule allows, or None.
        detail: what a person needs to understand the verdict, or None.
    """
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns |= {"stage": stage, "rule": rule, "value": value, "threshold": threshold, "detail": detail}
    return _batch(columns, DROPPED_SCHEMA, batch.num_rows)


def _batch(columns: dict[str, Any], schema: pa.Schema, rows: int) -> pa.RecordBatch:
    arrays = [_column(columns.get(field.name), field.type, rows) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    """One value for all rows, or one for each, as an Arrow array."""
    if value is None:
        return pa.nulls(rows, kind)
    if isinstance(value, pa.Array):
        return value if value.type == kind else value.cast(kind)
    if isinstance(value, str | int | float):
        return pa.repeat(pa.scalar(value, kind), rows)
    return pa.array(value, kind)


# ---------------------------------------------------------------------------------------------------------- shards


def shards_in(folder: Path) -> list[Path]:
    """The shards of a folder in the order in which they are worked on: by name; none when there is no such folder."""
    return sorted(folder.glob("*.parquet"))


def source_of(shard: Path) -> str:
    """Name of the source that a shard belongs to.

    >>> source_of(Path("documents/web-2024-00017.parquet"))
    'web-2024'
    """
    return shard.stem.rpartition("-")[0]


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a shard, one batch for each row group (see ROW_GROUP_BYTES).

    Args:
        path: the shard.
        columns: names of the columns to read, in the order wanted; all by default.

    Raises:
        StoreError: the file is missing or is not a shard.
    """
    names = list(columns) if columns is not None else None
    try:
        with pq.ParquetFile(here(path), pre_buffer=False) as shard:
            for group in range(shard.num_row_groups):
                table = shard.read_row_group(group, columns=names, use_threads=False)
                yield from (table.select(names) if names else table).combine_chunks().to_batches()
    except (OSError, pa.ArrowInvalid) as error:
        problem = str(error).splitlines()[0]
        raise StoreError(problem, place=str(path), hint="remove the folder of this stage and run again") from error


class ShardFile:
    """A shard being written: gathers batches into row groups and appears under its name whole, or not at all.

    Without a single document no file is left, so every shard that exists has documents.

    Attributes:
        documents: rows written.
        bytes: text written [UTF-8 bytes].
    """

    def __init__(self, path: Path, schema: pa.Schema = SCHEMA) -> None:
        self.path = path
        self.schema = schema
        self.documents = 0
        self.bytes = 0
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._pending_rows = 0
        self._stack = contextlib.ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append documents; the batch must have the columns of the schema, in order."""
        assert batch.schema.names == self.schema.names, f"columns {batch.schema.names}, not {self.schema.names}"
        while batch.num_rows:
            fits = fitting(batch, ROW_GROUP_BYTES - self._pending_bytes, ROW_GROUP_ROWS - self._pending_rows)
            if fits == 0 and self._pending:
                self._flush()
                continue
            piece, batch = batch.slice(0, max(fits, 1)), batch.slice(max(fits, 1))
            size = text_bytes(piece.column("text"))
            self._pending.append(piece)
            self._pending_bytes += size
            self._pending_rows += piece.num_rows
            self.documents += piece.num_rows
            self.bytes += size

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._stack.enter_context(atomic_path(self.path))
            repeating = [name for name in _REPEATING if name in self.schema.names]
            options: Any = {"compression": "zstd", "use_dictionary": repeating, "write_statistics": False}
            writer = pq.ParquetWriter(temporary, self.schema, **options)
            self._writer = self._stack.enter_context(contextlib.closing(writer))
        table = pa.Table.from_batches(self._pending, self.schema).combine_chunks()
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._pending, self._pending_bytes, self._pending_rows = [], 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with self._stack:  # a failing flush must reach atomic_path too
                self._flush()
        else:
            self._stack.__exit__(kind, error, trace)


class Shards:
    """Shards being written one after the other: `<name>-00000.parquet`, `<name>-00001.parquet`, ...

    A shard holds at most `shard_bytes` of text, or one longer document: what goes where depends on the documents alone.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema = SCHEMA, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = folder
        self.name = name
        self.schema = schema
        self.shard_bytes = shard_bytes
        self.count = 0
        self._shard: ShardFile | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append documents."""
        while batch.num_rows:
            fits = fitting(batch, self.shard_bytes - (self._shard.bytes if self._shard else 0))
            if fits == 0 and self._shard is not None:
                self._close(None, None, None)
                continue
            if self._shard is None:
                self._shard = ShardFile(self.folder / f"{self.name}-{self.count:05d}.parquet", self.schema)
            self._shard.write(batch.slice(0, max(fits, 1)))
            batch = batch.slice(max(fits, 1))

    def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shard, self._shard = self._shard, None
        if shard is not None:
            self.count += 1
            shard.__exit__(kind, error, trace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(kind, error, trace)


def fitting(batch: pa.RecordBatch, max_bytes: int, max_rows: int | None = None) -> int:
    """How many documents from the front of a batch hold at most so much text together (UTF-8 bytes)."""
    _, starts = text_buffer(batch.column("text"))
    fits = int(np.searchsorted(starts, int(starts[0]) + max_bytes, side="right")) - 1
    return max(0, min(fits, batch.num_rows if max_rows is None else max_rows))


# ---------------------------------------------------------------------------------------------------------- counts


class Tally:
    """Counts what a stage takes in, lets out, drops and edits of one source; `counts()` is a part of its manifest."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.documents_in = self.documents_out = self.bytes_in = self.bytes_out = 0
        self.dropped: dict[str, dict[str, int]] = {}
        self.edited: dict[str, int] = {}
        self.skipped: dict[str, int] = {}
        self.licences: dict[str, int] = {}
        self.languages: dict[str, int] = {}

    def take(self, batch: pa.RecordBatch) -> None:
        """Count documents that come in."""
        self.documents_in += batch.num_rows
        self.bytes_in += text_bytes(batch.column("text"))

    def keep(self, batch: pa.RecordBatch) -> None:
        """Count documents that go out."""
        self.documents_out += batch.num_rows
        self.bytes_out += text_bytes(batch.column("text"))
        _count_values(self.licences, batch.column("licence"))
        _count_values(self.languages, batch.column("language"))

    def drop(self, batch: pa.RecordBatch) -> None:
        """Count dropped documents (DROPPED_SCHEMA) by their rule."""
        if batch.num_rows == 0:
            return
        _, starts = text_buffer(batch.column("text"))
        sizes = pa.table({"rule": batch.column("rule"), "bytes": np.diff(starts).astype(np.int64)})
        for row in sizes.group_by("rule").aggregate([("bytes", "count"), ("bytes", "sum")]).to_pylist():
            count = self.dropped.setdefault(row["rule"], {"documents": 0, "bytes": 0})
            count["documents"] += row["bytes_count"]
            count["bytes"] += row["bytes_sum"]

    def edit(self, rule: str, documents: int) -> None:
        """Count documents whose text a rule changed."""
        if documents:
            self.edited[rule] = self.edited.get(rule, 0) + documents

    def skip(self, reason: str) -> None:
        """Count a record that is no document by its nature: it is not among those that come in."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def counts(self) -> dict[str, Any]:
        """The counts as the manifest keeps them: totals, then the same of this source."""
        totals = {
            "documents_in": self.documents_in,
            "documents_out": self.documents_out,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }
        of_source = totals | {
            "dropped": {rule: count["documents"] for rule, count in sorted(self.dropped.items())},
            "licences": dict(sorted(self.licences.items())),
            "languages": dict(sorted(self.languages.items())),
        }
        if self.skipped:
            of_source["skipped"] = dict(sorted(self.skipped.items()))
        dropped = {rule: dict(count) for rule, count in sorted(self.dropped.items())}
        edited = dict(sorted(self.edited.items()))
        return totals | {"dropped": dropped, "edited": edited, "sources": {self.source: of_source}}


def add_counts(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add up the counts of shards: numbers are added, objects are merged key by key.

    >>> add_counts([{"documents_in": 2, "dropped": {"short": 1}}, {"documents_in": 3, "dropped": {"long": 1}}])
    {'documents_in': 5, 'dropped': {'short': 1, 'long': 1}}
    """
    total: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if isinstance(value, dict):
                total[key] = add_counts([total.get(key, {}), value])
            else:
                total[key] = total.get(key, 0) + value
    return total


def _count_values(counts: dict[str, int], column: pa.Array) -> None:
    for row in column.value_counts().to_pylist():
        name = row["values"] or "unknown"
        counts[name] = counts.get(name, 0) + row["counts"]
