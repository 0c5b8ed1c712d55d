"""Records of many shards, brought together by key without ever being in memory at once.

Each shard writes its records to a file of its own, sorted by key, with an index of where each range of keys begins. So
all records of a range of keys can be gathered from all files, in the order of the shards and of the records in each.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from headwater.core.bucket import here
from headwater.core.store import atomic_path

GATHERED_BYTES = 8 << 20
"""Records that are gathered at once [bytes]: about four times as much is needed to sort them."""
_BUCKETS = 1 << 10  # ranges of keys: 4 KB of index for each file; 8 MB in each when there are 8 GB of records
_REMEMBERED_BYTES = 4 << 20  # of pieces that were read last
_INDEX_BYTES = 4 * (_BUCKETS + 1)


def write_records(path: Path, records: np.ndarray) -> None:
    """Write records of one shard, whole or not at all.

    Args:
        path: the file.
        records: [R] structured, with a field `key` uint64; records of the same key stay in their order.
    """
    records = records[np.argsort(records["key"], kind="stable")]
    starts = np.searchsorted(records["key"] >> np.uint64(54), np.arange(_BUCKETS + 1))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        starts.astype(np.uint32).tofile(file)
        records.tofile(file)


def ranges(paths: Sequence[Path], kind: np.dtype, most_bytes: int = GATHERED_BYTES) -> list[tuple[int, int]]:
    """Cut all keys in ranges of whole buckets that hold about `most_bytes` of records each: (first, end) of buckets."""
    sizes = np.zeros(_BUCKETS, np.int64)
    for path in paths:
        sizes += np.diff(np.fromfile(path, np.uint32, _BUCKETS + 1).astype(np.int64)) * kind.itemsize
    cuts, size = [0], 0
    for bucket, more in enumerate(sizes.tolist()):
        if size and size + more > most_bytes:
            cuts.append(bucket)
            size = 0
        size += more
    return [*zip(cuts, [*cuts[1:], _BUCKETS], strict=True)] if sizes.any() else []


def gather(paths: Sequence[Path], kind: np.dtype, part: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Read the records of a range of keys from all files, sorted by key, then in the order of `paths`.

    Returns:
        records [R] structured, and owners [R] int32: index in `paths` of each one's file.
    """
    found, counts = [], []
    for path in paths:
        with here(path).open("rb", buffering=0) as file:
            file.seek(4 * part[0])
            first = int.from_bytes(file.read(4), "little")
            file.seek(4 * part[1])
            count = int.from_bytes(file.read(4), "little") - first
            file.seek(_INDEX_BYTES + first * kind.itemsize)
            found.append(np.frombuffer(file.read(count * kind.itemsize), kind) if count else np.zeros(0, kind))
        counts.append(count)
    records, owners = np.concatenate(found), np.repeat(np.arange(len(paths), dtype=np.int32), counts)
    del found
    order = np.argsort(records["key"], kind="stable")
    return records[order], owners[order]


def write_sorted(path: Path, records: np.ndarray, field: str) -> None:
    """Write records sorted by one of their fields, whole or not at all; read them again with `read_sorted`."""
    with atomic_path(path) as temporary:
        records[np.argsort(records[field], kind="stable")].tofile(temporary)


def read_sorted(paths: Sequence[Path], kind: np.dtype, field: str, first: int, end: int) -> np.ndarray:
    """Read the records whose field is at least `first` and less than `end` from files of `write_sorted`."""
    found = [np.zeros(0, kind)]
    for path in paths:
        if here(path).stat().st_size:
            mapped = np.memmap(path, kind, "r")
            low, high = (_search(mapped[field], bound) for bound in (first, end))
            if high > low:
                found.append(np.array(mapped[low:high]))
    return np.concatenate(found)


def _search(values: np.ndarray, bound: int) -> int:
    """Where the first value that is not less than `bound` stands; touches few pages of a mapped file."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if values[middle] < bound else (low, middle)
    return low


def first_of_equals(keys: np.ndarray) -> np.ndarray:
    """For each of sorted keys, where the first one that equals it stands: [K] int64.

    >>> first_of_equals(np.array([3, 3, 5, 7, 7, 7])).tolist()
    [0, 0, 2, 3, 3, 3]
    """
    begins = np.ones(len(keys), np.bool_)
    begins[1:] = keys[1:] != keys[:-1]
    places = np.flatnonzero(begins)
    return np.repeat(places, np.diff(np.append(places, len(keys))))


_ROWS = np.dtype([("row", "<u4"), ("end", "<i8")])


def write_pieces(path: Path, pieces: Iterable[tuple[int, bytes | memoryview]]) -> int:
    """Write pieces of data by row of a shard, in ascending order, to be read one by one with `Pieces`; returns how many."""
    rows, ends, size = [], [], 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for row, piece in pieces:
            file.write(piece)
            size += len(piece)
            rows.append(row)
            ends.append(size)
    index = np.empty(len(rows), _ROWS)
    index["row"], index["end"] = rows, ends
    with atomic_path(path.with_suffix(".index")) as temporary:
        index.tofile(temporary)
    return len(rows)


class Pieces:
    """Pieces of data that `write_pieces` wrote for each shard, by the numbers of documents through all shards.

    Those used last are remembered. For one thread.
    """

    def __init__(self, paths: Sequence[Path], starts: np.ndarray) -> None:
        self._paths, self._starts = paths, starts
        self._index = functools.lru_cache(64)(self._read_index)
        self._recent: dict[int, np.ndarray] = {}
        self._recent_bytes = 0

    def of(self, number: int) -> np.ndarray:
        """The piece of a document: [bytes] uint8."""
        found = self._recent.get(number)
        if found is None:
            if self._recent_bytes > _REMEMBERED_BYTES:
                self._recent, self._recent_bytes = {}, 0
            found = self._recent[number] = self._read(number)
            self._recent_bytes += len(found)
        return found

    def _read_index(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        index = np.fromfile(here(self._paths[shard].with_suffix(".index")), _ROWS)
        return index["row"].astype(np.int64), np.concatenate([np.zeros(1, np.int64), index["end"]])

    def _read(self, number: int) -> np.ndarray:
        shard = int(self._starts.searchsorted(number, side="right")) - 1
        rows, ends = self._index(shard)
        place = int(rows.searchsorted(number - self._starts[shard]))
        first, end = int(ends[place]), int(ends[place + 1])
        file = os.open(here(self._paths[shard]), os.O_RDONLY)
        try:
            return np.frombuffer(os.pread(file, end - first, first), np.uint8)
        finally:
            os.close(file)
