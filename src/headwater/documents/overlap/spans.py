"""Spans of many words that occur again, in the same document or in another: all but the first occurrence are cut.

Of each document some windows of words are taken, chosen by what they contain, so that the same text yields the same
windows wherever it stands. Windows that occur twice are candidates; these are compared byte for byte and expanded as far
as the bytes agree. Everything goes through the disk by ranges and shards, so that memory does not grow with the corpus:

    each shard        -> windows: hash, document, place
    ranges of hashes  -> pairs of a window and an earlier one with the same hash
    each shard        -> the texts of its documents that are the earlier one of a pair
    each shard        -> what its documents repeat
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from headwater.core import pool
from headwater.core.bucket import here
from headwater.core.config import Config
from headwater.core.stage import Counts, Workspace
from headwater.core.store import atomic_path
from headwater.core.units import Count
from headwater.documents.document import read_batches, text_buffer
from headwater.documents.overlap import partitions
from headwater.documents.overlap.cuts import Cuts

if TYPE_CHECKING:
    from headwater.documents.text.shingles import Units

_WINDOWS = np.dtype([("key", "<u8"), ("row", "<u4"), ("begin", "<u4")])
_PAIRS = np.dtype([("later", "<i8"), ("begin", "<u4"), ("earlier", "<i8"), ("earlier_begin", "<u4")])
_MEMBERS = np.dtype([("number", "<i8")])
_CUTS = np.dtype([("row", "<u4"), ("begin", "<u4"), ("end", "<u4")])


class RepeatedSpans(Config):
    """Spans of text that occurred before, whatever stands around them; the first occurrence stays.

    Every span of `min_words` words that is the same to the byte is found, wherever it begins.

    Source: Lee et al., Deduplicating Training Data Makes Language Models Better, arXiv 2107.06499 (exact substrings of 50
    tokens); windows chosen by Schleimer et al., Winnowing, SIGMOD 2003, instead of their suffix array.
    """

    min_words: Count = Field(default=50, ge=8)
    """Words of a repeated span, at least."""
    min_characters: Count = Field(default=100, ge=8)
    """Characters of a repeated span, at least, in a document of a script without spaces between words."""
    min_words_left: Count = Field(default=20, ge=0)
    """Words (or so many characters in proportion) that must be left of a document from which spans were cut; else it is
    dropped whole. Not more than min_words, so that no text is lost for which a later document was cut."""

    @model_validator(mode="after")
    def _loses_nothing(self) -> RepeatedSpans:
        if self.min_words_left > self.min_words:
            raise ValueError(f"min_words_left {self.min_words_left} is more than min_words {self.min_words}")
        return self

    def least(self, characters: np.ndarray) -> np.ndarray:
        """Units of a repeated span, at least, of documents by characters and of those by words: [D] int64."""
        return np.where(characters, self.min_characters, self.min_words)

    def too_little(self, texts: pa.StringArray, edited: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of edited documents: units that are left [D] int64, and whether these are too few [D] bool."""
        from headwater.documents.text.shingles import units

        table = units(texts, wanted=edited)
        left = np.diff(table.offsets)
        return left, edited & (left * self.min_words < self.min_words_left * self.least(table.characters))


@dataclass(frozen=True)
class SpanSearch:
    """Where repeated spans are looked for.

    Attributes:
        settings: which spans count.
        shards: the shards of documents.
        wanted: [documents] bool: the documents to look at.
        salts: [shards] uint64: shards with another number are not compared.
        starts: [shards + 1] int64: where each shard's documents begin.
        out: where to work.
    """

    settings: RepeatedSpans
    shards: Sequence[Path]
    wanted: np.ndarray
    salts: Sequence[int]
    starts: np.ndarray
    out: Workspace

    @property
    def folder(self) -> Path:
        """Where the files of the search are."""
        return self.out.folder / ".done" / "spans"

    def run(self) -> None:
        """Find what each shard repeats; see `cuts`."""
        self._over_shards("windows", self._windows)
        files = [self.folder / "windows" / shard.stem for shard in self.shards]
        parts = partitions.ranges(files, _WINDOWS)
        jobs = [(f"{number:05d}", part) for number, part in enumerate(parts)]
        work = functools.partial(self._pairs, files)
        pool.map(work, jobs, self.out, label="repeats", name=lambda job: job[0], threads=True)
        names = [name for name, _ in jobs]
        self._over_shards("texts", functools.partial(self._texts, names))
        self._over_shards("spans", functools.partial(self._spans, names))

    def cuts(self, shard: int) -> np.ndarray:
        """What is repeated in a shard: [C] with the fields row, begin and end [bytes of the document], sorted."""
        return np.fromfile(here(self.folder / "spans" / self.shards[shard].stem), _CUTS)

    def _over_shards(self, label: str, work: functools.partial[Counts] | object) -> None:
        shards = range(len(self.shards))
        pool.map(work, shards, self.out, label=label, name=lambda shard: self.shards[shard].stem, threads=True)  # type: ignore[arg-type]

    def _batches(self, shard: int) -> Iterator[tuple[int, pa.StringArray, np.ndarray]]:
        """The texts of a shard: number of the first in it, texts, which are wanted."""
        row, begin = 0, int(self.starts[shard])
        for batch in read_batches(self.shards[shard], ["text"]):
            yield row, batch.column("text"), self.wanted[begin + row : begin + row + batch.num_rows]
            row += batch.num_rows

    def _windows(self, shard: int) -> Counts:
        """Write the chosen windows of a shard."""
        from headwater.documents.overlap.winnow import windows
        from headwater.documents.text.shingles import units

        found = [np.zeros(0, _WINDOWS)]
        for row, texts, wanted in self._batches(shard):
            table = units(texts, wanted=wanted)
            keys, rows, begins = windows(texts, table, self.settings.least(table.characters))
            records = np.empty(len(keys), _WINDOWS)
            records["key"], records["row"], records["begin"] = keys ^ np.uint64(self.salts[shard]), rows + row, begins
            found.append(records)
        records = np.concatenate(found)
        partitions.write_records(self.folder / "windows" / self.shards[shard].stem, records)
        return {"windows": len(records)}

    def _pairs(self, files: Sequence[Path], job: tuple[str, tuple[int, int]]) -> Counts:
        """Write the windows of a range of hashes that occurred before, each with the first and with the one before it."""
        name, part = job
        records, owners = partitions.gather(files, _WINDOWS, part)
        numbers = self.starts[owners] + records["row"]
        first, places = partitions.first_of_equals(records["key"]), np.arange(len(records))
        later = np.flatnonzero(first < places)
        before = later[first[later] < later - 1]
        later, earlier = np.concatenate([later, before]), np.concatenate([first[later], before - 1])
        pairs = np.empty(len(later), _PAIRS)
        pairs["later"], pairs["begin"] = numbers[later], records["begin"][later]
        pairs["earlier"], pairs["earlier_begin"] = numbers[earlier], records["begin"][earlier]
        partitions.write_sorted(self.folder / "pairs" / name, pairs, "later")
        members = np.unique(pairs["earlier"]).astype(_MEMBERS)
        partitions.write_sorted(self.folder / "members" / name, members, "number")
        return {"pairs": len(pairs)}

    def _texts(self, names: Sequence[str], shard: int) -> Counts:
        """Write the texts of those documents of a shard that others repeat."""
        begin, end = int(self.starts[shard]), int(self.starts[shard + 1])
        files = [self.folder / "members" / name for name in names]
        members = np.unique(partitions.read_sorted(files, _MEMBERS, "number", begin, end)["number"]) - begin

        def pieces() -> Iterator[tuple[int, memoryview]]:
            for row, texts, _ in self._batches(shard):
                data, starts = text_buffer(texts)
                for document in (members[(members >= row) & (members < row + len(texts))] - row).tolist():
                    yield row + document, data.data[starts[document] : starts[document + 1]]

        found = pieces() if len(members) else iter(())
        return {"documents": partitions.write_pieces(self.folder / "texts" / self.shards[shard].stem, found)}

    def _spans(self, names: Sequence[str], shard: int) -> Counts:
        """Write what the documents of a shard repeat."""
        from headwater.documents.text.shingles import units

        begin, files = int(self.starts[shard]), [self.folder / "pairs" / name for name in names]
        earlier = partitions.Pieces([self.folder / "texts" / path.stem for path in self.shards], self.starts)
        found: list[tuple[int, int, int]] = []
        for row, texts, _ in self._batches(shard):
            first = begin + row
            pairs = partitions.read_sorted(files, _PAIRS, "later", first, first + len(texts))
            if not len(pairs):
                continue
            pairs = pairs[np.lexsort((pairs["earlier_begin"], pairs["earlier"], pairs["begin"], pairs["later"]))]
            here = np.zeros(len(texts), np.bool_)
            here[pairs["later"] - first] = True
            table = units(texts, wanted=here)
            least, which = self.settings.least(table.characters).tolist(), np.flatnonzero(here)
            bounds = np.searchsorted(pairs["later"], [first + which, first + which + 1]).T.tolist()
            for document, (low, high) in zip(which.tolist(), bounds, strict=True):
                text = _Text(texts, table, document, least[document])
                found += [(row + document, *span) for span in text.repeats(pairs[low:high], earlier)]
        cuts = np.array(found, np.int64).reshape(-1, 3)
        merged = Cuts(cuts[:, 0], cuts[:, 1], cuts[:, 2]).merged()
        records = np.empty(len(merged.rows), _CUTS)
        records["row"], records["begin"], records["end"] = merged
        with atomic_path(self.folder / "spans" / self.shards[shard].stem) as temporary:
            records.tofile(temporary)
        return {"spans": len(records), "bytes": int((merged.ends - merged.begins).sum())}


class _Text:
    """A document in which repeated spans are looked for.

    Attributes:
        data: its bytes.
        begins: where its units begin; and `ends`.
        least: units of a span that counts.
    """

    def __init__(self, texts: pa.StringArray, table: Units, document: int, least: int) -> None:
        data, starts = text_buffer(texts)
        own = slice(int(table.offsets[document]), int(table.offsets[document + 1]))
        self.data = data[starts[document] : starts[document + 1]]
        start = np.int32(starts[document])
        self.begins, self.ends = table.begins[own] - start, table.ends[own] - start
        self.least = least

    def repeats(self, pairs: np.ndarray, earlier: partitions.Pieces) -> Iterator[tuple[int, int]]:
        """The spans that really occurred before: (begin, end) in bytes.

        Args:
            pairs: _PAIRS of this document, sorted by begin.
            earlier: the texts of the documents that they name.
        """
        from headwater.documents.overlap.winnow import expand

        begins, others, places = (pairs[name].tolist() for name in ("begin", "earlier", "earlier_begin"))
        index, covered = 0, 0
        while index < len(begins):
            span = self._whole(*expand(self.data, earlier.of(others[index]), begins[index], places[index]))
            index += 1
            if span is not None:
                yield span
                covered = max(covered, span[1])
            # What begins in a span that was found is not looked at again, but for the last before its end, which may
            # go on beyond it.
            while index + 1 < len(begins) and begins[index + 1] < covered:
                index += 1

    def _whole(self, begin: int, end: int) -> tuple[int, int] | None:
        """Narrow a span to whole words; None when these are too few."""
        first = int(self.begins.searchsorted(np.int32(begin)))  # of another type it would copy the array first
        last = int(self.ends.searchsorted(np.int32(end), side="right"))
        if last - first < self.least:
            return None
        end = min(end, int(self.begins[last])) if last < len(self.begins) else end
        while end < len(self.data) and self.data[end] & 0xC0 == 0x80:
            end -= 1
        return int(self.begins[first]), end
