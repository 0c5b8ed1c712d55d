"""Stretches cut out of texts, and records brought together by key."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.documents.overlap import partitions
from headwater.documents.overlap.cuts import Cuts, cut

STRETCH = st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(0, 10))


@given(st.lists(STRETCH, max_size=12))
def test_merged_stretches_cover_the_same_bytes(stretches: list[tuple[int, int, int]]) -> None:
    rows, begins, sizes = np.array(stretches, np.int64).reshape(-1, 3).T
    merged = Cuts(rows, begins, begins + sizes).merged()

    def covered(cuts: Cuts) -> set[tuple[int, int]]:
        return {
            (row, byte)
            for row, begin, end in zip(*map(np.ndarray.tolist, cuts), strict=True)
            for byte in range(begin, end)
        }

    assert covered(merged) == covered(Cuts(rows, begins, begins + sizes))
    places = [(row, begin, end) for row, begin, end in zip(*map(np.ndarray.tolist, merged), strict=True)]
    assert places == sorted(places)
    assert all(a[0] < b[0] or a[2] < b[1] for a, b in itertools.pairwise(places))


@pytest.mark.parametrize(
    ("text", "gone", "left"),
    [
        ("one two three", "two", "one three"),
        ("one two three", " two", "one three"),
        ("one two", "one", "two"),
        ("one two", "two", "one"),
        ("one", "one", ""),
        ("one\ntwo\n  three", "two\n", "one\n  three"),
        ("one\n\ntwo\n\nthree", "two", "one\n\nthree"),
        ("one two\nthree", "two", "one\nthree"),
        ("é字two字", "two", "é字字"),
    ],
)
def test_what_is_left_stays_parted_as_it_was(text: str, gone: str, left: str) -> None:
    begin = text.encode().index(gone.encode())
    cuts = Cuts(np.array([1]), np.array([begin]), np.array([begin + len(gone.encode())]))
    assert cut(pa.array(["  stays ", text, ""]), cuts).to_pylist() == ["  stays ", left, ""]


def test_records_of_all_files_come_together_in_order(tmp_path: Path) -> None:
    kind = np.dtype([("key", "<u8"), ("row", "<u4")])
    generator, paths, everything = np.random.default_rng(1), [], []
    for shard in range(3):
        records = np.empty(2000, kind)
        records["key"] = generator.integers(0, 500, 2000, np.uint64) << np.uint64(55)
        records["row"] = np.arange(2000)
        paths.append(tmp_path / f"{shard}")
        partitions.write_records(paths[-1], records)
        everything += [(key, shard, row) for key, row in records.tolist()]
    parts = partitions.ranges(paths, kind, most_bytes=3000)
    assert len(parts) > 10
    found = []
    for part in parts:
        records, owners = partitions.gather(paths, kind, part)
        found += [(key, owner, row) for (key, row), owner in zip(records.tolist(), owners.tolist(), strict=True)]
    assert found == sorted(everything)
    assert partitions.ranges([], kind) == []
