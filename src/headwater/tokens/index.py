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
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from headwater.core import pool
from headwater.core.config import Config
from headwater.core.errors import EmptyResultError, StoreError
from headwater.core.stage import Counts, Inputs, Workspace, check_fully, check_quickly
from headwater.core.store import atomic_path, read_json, write_json
from headwater.core.units import Bytes, format_bytes
from headwater.documents.document import read_batches, shards_in, source_of, text_buffer
from headwater.tokens import suffixes
from headwater.tokens.shards import DOCUMENTS
from headwater.tokens.suffixes import BOUNDARY, Words, word_bounds

MEMORY_PER_BYTE = 7
"""Memory that building takes per byte of a part. The text is 1, its sorted places 4, the words' beginnings 8 for each of
about 0.18 words, and a mark for each byte 1."""
MEMORY_SHARE = 0.5
"""Of the memory that is free, what building may take: so many parts are built side by side."""
MOST_PLACES = 1000
"""Places of a match that are looked at, to tell in how many documents it stands."""
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
_ROW_GROUP = 1024  # documents: what is read to look one up
_AGAIN = "remove the folder and build the index again: headwater index"


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


class Document(NamedTuple):
    """A training document, as the index knows it."""

    id: str
    source: str
    number: int
    """Which document of its source, from 0, as in the token shards."""
    url: str | None
    licence: str | None


@dataclass(frozen=True)
class Place:
    """Where a run of words stands."""

    part: int
    """Part of the index."""
    row: int
    """Which document of the part."""
    byte: int
    """First byte in the document's text."""


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

    path = out / f"{part.name}.text"
    with atomic_path(path) as temporary:
        begins, rows = _write_text(temporary, part.shards)
    text = np.fromfile(path, np.uint8)
    order = suffixes.keep_words(divsufsort(text), begins)
    with atomic_path(path.with_suffix(".order")) as temporary:
        order.astype("<u4", copy=False).tofile(temporary)
    with atomic_path(path.with_suffix(".parquet")) as temporary:
        pq.write_table(rows, temporary, compression="zstd", row_group_size=_ROW_GROUP)
    text_bytes = len(text) - len(rows) - 1
    return {"name": part.name, "text_bytes": text_bytes, "documents": len(rows), "words": len(order)}


def _write_text(path: Path, shards: Sequence[tuple[Path, int]]) -> tuple[np.ndarray, pa.Table]:
    """Write the text of some shards; returns where words begin in it [words] int64, and the rows of the documents."""
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


class TextIndex:
    """A finished index, opened: files are mapped, and read where a search leads.

    Attributes:
        documents: how many there are.
        text_bytes: of their text.
        manifest: of the stage, with what it was made from.
    """

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        """Open an index.

        Args:
            folder: of a finished stage index.
            verify: compare every file with its hash; by default only the size, and the hash of files changed since.

        Raises:
            StoreError: there is no finished index here, or a file of it was changed.
        """
        if not (folder / "manifest.json").is_file():
            hint = "build one: headwater index RUN"
            raise StoreError("there is no finished index here", place=str(folder), hint=hint)
        (check_fully if verify else check_quickly)(folder)
        self.folder = folder
        self.manifest: dict[str, Any] = read_json(folder / "manifest.json")
        about = read_json(folder / "index.json")
        try:
            if about["schema"] != 1:
                raise ValueError(f"schema {about['schema']}")
            self._parts = [_Opened(folder / part["name"], part["documents"], part["words"]) for part in about["parts"]]
            self.documents = sum(part["documents"] for part in about["parts"])
            self.text_bytes = sum(part["text_bytes"] for part in about["parts"])
        except (KeyError, TypeError, ValueError) as error:
            place = str(folder / "index.json")
            raise StoreError(f"does not describe an index ({error!r})", place=place, hint=_AGAIN) from None

    def standing(self, words: Words, count: int) -> np.ndarray:
        """Whether each run of `count` words stands in a training document [words - count + 1] bool; [0] for fewer words."""
        begins, ends = words.begins[: max(len(words) - count + 1, 0)], words.ends[count - 1 :]
        found = np.zeros(len(begins), np.bool_)
        for part in self._parts:
            part.check(suffixes.mark_standing(words.data, begins, ends, part.text, part.order, found))
        return found

    def stands(self, words: Words, first: int, last: int) -> bool:
        """Whether the words from `first` up to `last`, not included, stand in a training document."""
        at, end = words.begins[first], words.ends[last - 1]
        return any(self._longest(part, words, at, end) == end - at for part in self._parts)

    def longest(self, words: Words, first: int) -> int:
        """How many words from `first` on stand in a training document as they stand here."""
        at, end = words.begins[first], words.ends[-1]
        most = max(self._longest(part, words, at, end) for part in self._parts)
        return int(np.searchsorted(words.ends, at + most, side="right")) - first

    def places(self, words: Words, first: int, last: int, most: int = MOST_PLACES) -> tuple[int, list[Place]]:
        """In how many places the words from `first` up to `last` stand, and some of these places, in order.

        Args:
            words: the text.
            first: the first word.
            last: the one after the last.
            most: places to tell of each part.
        """
        count, found = 0, []
        for number, part in enumerate(self._parts):
            at, end = words.begins[first], words.ends[last - 1]
            low, high = suffixes.standing(words.data, at, end, part.text, part.order)
            part.check(low >= 0 and high >= 0)
            count += high - low
            for byte in np.sort(part.order[low : min(high, low + most)]).tolist():
                row = int(np.searchsorted(part.starts, byte, side="right")) - 1
                found.append(Place(number, row, byte - int(part.starts[row])))
        return count, found

    def document(self, place: Place) -> Document:
        """The document of a place."""
        group, row = divmod(place.row, _ROW_GROUP)
        return Document(**self._parts[place.part].rows(group).slice(row, 1).to_pylist()[0])

    def text(self, place: Place, before: int, after: int) -> tuple[str, str]:
        """Text of the document up to a place, at most so many bytes, and from it on."""
        part = self._parts[place.part]
        begin, end = part.bounds(place.row)
        at = begin + place.byte
        left = part.text[max(begin, at - before) : at].tobytes()
        right = part.text[at : min(end, at + after)].tobytes()
        return left.decode(errors="ignore"), right.decode(errors="ignore")

    def ids(self) -> Iterator[str]:
        """The id of every document."""
        for part in self._parts:
            for batch in pq.ParquetFile(part.path.with_suffix(".parquet")).iter_batches(columns=["id"]):
                yield from batch.column("id").to_pylist()

    def _longest(self, part: _Opened, words: Words, at: int, end: int) -> int:
        length = suffixes.longest(words.data, at, end, part.text, part.order)
        part.check(length >= 0)
        return length


class _Opened:
    """A part of an index, mapped."""

    def __init__(self, path: Path, documents: int, words: int) -> None:
        self.path = path
        self.text = _map(path.with_suffix(".text"), np.dtype(np.uint8))
        self.order = _map(path.with_suffix(".order"), np.dtype("<u4"))
        self._documents = documents
        self._file = pq.ParquetFile(path.with_suffix(".parquet"))
        self.rows = functools.lru_cache(maxsize=256)(self._rows)
        """Facts of a row group of documents."""
        if len(self.order) != words:
            problem = f"holds {len(self.order):,} words, index.json says {words:,}"
            raise StoreError(problem, place=str(path.with_suffix(".order")), hint=_AGAIN)

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """The first byte of each document's text [documents] uint32."""
        return pq.read_table(self.path.with_suffix(".parquet"), columns=["start"]).column("start").to_numpy()

    def _rows(self, group: int) -> pa.Table:
        return self._file.read_row_group(group, columns=list(Document._fields), use_threads=False)

    def bounds(self, row: int) -> tuple[int, int]:
        """The first byte of a document's text, and the one after its last."""
        after = int(self.starts[row + 1]) if row + 1 < self._documents else len(self.text)
        return int(self.starts[row]), after - 1

    def check(self, sound: bool) -> None:
        """Refuse to go on with a list of places that leads out of the text.

        Raises:
            StoreError: it does.
        """
        if not sound:
            place = str(self.path.with_suffix(".order"))
            raise StoreError("is damaged: it names places beyond the text", place=place, hint=_AGAIN)


def _map(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """A file as an array that cannot be written; read where it is looked at."""
    try:
        if not path.stat().st_size:
            return np.zeros(0, dtype)
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot be read ({error})", place=str(path), hint=_AGAIN) from None
