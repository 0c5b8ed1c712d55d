"""The stage index: the text of the training documents, sorted so that any run of words in it is found at once.

The documents' shards are taken together in parts, each sorted and searched by itself:

    00000.text      the text of its documents, a byte BOUNDARY before each and after the last
    00000.order     where each word begins in it, in the order of what follows there, little-endian uint32
    00000.parquet   one row per document: id, source, number, start, url, licence
    index.json      the parts, in order

A part takes the bytes of its text and 4 more for each word: about 1.7 bytes per byte of English. `number` counts the
documents of a source as the token shards do, so what is found can be followed to training steps.

Source: suffix arrays (Manber & Myers 1993) over training text: infini-gram (Liu et al. 2024, arXiv:2401.17377) and OLMoTrace
(Liu et al. 2025, arXiv:2504.07096), which sort tokens; why this sorts the words' bytes: docs/decisions/003-index-of-words.md.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from headwater.core import pool
from headwater.core.config import Config
from headwater.core.errors import EmptyResultError
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.core.store import atomic_path, write_json
from headwater.core.units import Bytes, format_bytes
from headwater.documents.document import read_batches, shards_in, source_of, text_buffer
from headwater.tokens.shards import DOCUMENTS

MEMORY_PER_BYTE = 7
"""Memory that building takes per byte of a part. The text is 1, its sorted places 4, the words' beginnings 8 for each of
about 0.18 words, and a mark for each byte 1."""
MEMORY_SHARE = 0.5
"""Of the memory that is free, what building may take: so many parts are built side by side."""
_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "source": pa.string(),
        "number": pa.uint32(),
        "start": pa.uint32(),  # first byte in the text of the part
        "url": pa.string(),
        "licence": pa.string(),
    }
)
ROW_GROUP = 1024
"""Documents in a row group: what is read to look one up."""


class Index(Config):
    """Index the text of the training documents, so that `headwater trace` finds where a text comes from."""

    part: Bytes = Field(default=128 << 20, ge=1 << 10, le=1 << 30)
    """Text that is sorted at a time; whole shards, at least one. Building takes 7 times as much memory for each part that is
    built at the same time, and no more are than half of the free memory holds. Larger parts are searched faster."""


class _Part(NamedTuple):
    """Shards that are sorted together."""

    name: str
    shards: list[tuple[Path, int]]
    """Path, and how many documents of its source come before it."""


def index(settings: Index, inputs: Inputs, out: Workspace) -> Counts:
    """Sort the text of the training documents.

    Raises:
        EmptyResultError: there are no documents.
    """
    folder = inputs["documents"] / DOCUMENTS
    parts = list(_parts(folder, settings.part))
    if not parts:
        hint = "look at what the filters dropped and how many documents are held out"
        raise EmptyResultError("there are no documents to index", place=str(folder), hint=hint)
    largest = max(sum(map(_text_bytes, (path for path, _ in part.shards))) for part in parts)
    room = int(psutil.virtual_memory().available * MEMORY_SHARE / (MEMORY_PER_BYTE * largest + 1))
    workers = max(1, min(out.machine.processor_workers, room))
    if not room:
        needed = format_bytes(MEMORY_PER_BYTE * largest)
        out.warn(
            f"building needs about {needed} of memory, more than half of what is free; a smaller index.part needs less"
        )
    few = Workspace(out.folder, out.machine.model_copy(update={"workers": workers}))
    do = functools.partial(_build, out=out.folder)
    counts = pool.map(do, parts, few, label="indexing", name=lambda part: part.name, threads=True)
    write_json(out.folder / "index.json", {"schema": 1, "parts": counts})
    total = {what: sum(count[what] for count in counts) for what in ("text_bytes", "documents", "words")}
    size = sum(path.stat().st_size for path in out.folder.iterdir() if path.is_file())
    out.note(f"{format_bytes(size)} for {format_bytes(total['text_bytes'])} of text, {total['words']:,} words")
    return {"bytes_in": total["text_bytes"], **total, "index_bytes": size, "parts": len(parts)}


def _parts(folder: Path, part_bytes: int) -> Iterator[_Part]:
    """Shards in order, as many together as fit in a part but at least one."""
    shards: list[tuple[Path, int]] = []
    before: dict[str, int] = {}
    size = number = 0
    for path in shards_in(folder):
        text = _text_bytes(path)
        if shards and size + text > part_bytes:
            yield _Part(f"{number:05d}", shards)
            shards, size, number = [], 0, number + 1
        shards.append((path, before.get(source_of(path), 0)))
        before[source_of(path)] = shards[-1][1] + pq.read_metadata(path).num_rows
        size += text
    if shards:
        yield _Part(f"{number:05d}", shards)


def _text_bytes(path: Path) -> int:
    """About how much text a shard of documents holds, from its metadata [bytes]; no less than there is."""
    metadata = pq.read_metadata(path)
    column = metadata.schema.names.index("text")
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return sum(group.column(column).total_uncompressed_size for group in groups)


def _build(part: _Part, *, out: Path) -> Counts:
    """Write one part."""
    from pydivsufsort import divsufsort

    from headwater.tokens.suffixes import keep_words  # loads numba, which planning does not need

    path = out / f"{part.name}.text"
    with atomic_path(path) as temporary:
        begins, rows = _write_text(temporary, part.shards)
    text = np.fromfile(path, np.uint8)
    order = keep_words(divsufsort(text), begins)
    with atomic_path(path.with_suffix(".order")) as temporary:
        order.astype("<u4", copy=False).tofile(temporary)
    with atomic_path(path.with_suffix(".parquet")) as temporary:
        pq.write_table(rows, temporary, compression="zstd", row_group_size=ROW_GROUP)
    text_bytes = len(text) - len(rows) - 1
    return {"name": part.name, "text_bytes": text_bytes, "documents": len(rows), "words": len(order)}


def _write_text(path: Path, shards: Sequence[tuple[Path, int]]) -> tuple[np.ndarray, pa.Table]:
    """Write the text of some shards; returns where words begin in it [words] int64, and the rows of the documents."""
    from headwater.tokens.suffixes import BOUNDARY, word_bounds

    begins: list[np.ndarray] = []
    rows: list[pa.RecordBatch] = []
    at = 0
    with path.open("wb") as file:
        for shard, number in shards:
            for batch in read_batches(shard, ["id", "text", "url", "licence"]):
                data, starts = text_buffer(batch.column("text"))
                found, _ = word_bounds(batch.column("text"))
                places = np.arange(1, len(starts)) + at  # of a text's bytes, with the boundaries before them
                text = np.insert(data[starts[0] : starts[-1]], starts[:-1] - starts[0], BOUNDARY)
                document = np.searchsorted(starts[1:] - starts[0], found, side="right")
                begins.append(found + places[document])
                first = pa.array(starts[:-1] - starts[0] + places, pa.uint32())
                columns = {
                    "id": batch.column("id"),
                    "source": pa.repeat(pa.scalar(source_of(shard)), batch.num_rows),
                    "number": pa.array(np.arange(number, number + batch.num_rows), pa.uint32()),
                    "start": first,
                    "url": batch.column("url"),
                    "licence": batch.column("licence"),
                }
                rows.append(pa.RecordBatch.from_arrays([columns[name] for name in _SCHEMA.names], schema=_SCHEMA))
                text.tofile(file)
                at, number = at + len(text), number + batch.num_rows
        file.write(bytes([BOUNDARY]))
    return np.concatenate(begins or [np.zeros(0, np.int64)]), pa.Table.from_batches(rows, _SCHEMA)
