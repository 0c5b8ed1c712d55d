"""Repeated spans of 50 words and more: duplicate bytes covered and speed, beside a suffix array, which finds all.

    python bench/repeated_spans.py [--mb 20]        needs pip install pydivsufsort

Pages of real books (docstrings elsewhere), of which one in ten holds a passage of 30 to 300 words of an earlier one, as is left when
copies of whole documents are gone. Both look for spans of at least 50 words that occurred before, in the same or an earlier document; the suffix array
by the longest earlier match at each byte. Ours writes and reads its records on disk; the suffix array holds all in memory.
Goal: at least 99 % of its bytes, ten times as fast in CPU seconds (ours with reading the documents).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa
import zstandard
from pydivsufsort import divsufsort, kasai

from headwater.core.hardware import Machine, processor_name
from headwater.core.stage import Workspace
from headwater.documents.document import Shards, documents_of, read_batches, shards_in
from headwater.documents.overlap.spans import RepeatedSpans, SpanSearch
from headwater.documents.text.shingles import units
from peers.texts import BOOKS, sentences

LEAST = 50


def pages(generator: random.Random) -> Iterator[str]:
    """Books cut in pages of some 2.8 KB where they are at hand, else the sentences of docstrings."""
    if BOOKS.is_file():
        with zstandard.open(BOOKS, "rt", encoding="utf-8") as lines:
            for line in lines:
                words, at = json.loads(line)["text"].split(" "), 0
                while at < len(words):
                    count = max(20, int(generator.lognormvariate(5.8, 0.9)))
                    yield " ".join(words[at : at + count])
                    at += count
    else:
        known = sentences()
        for at in range(0, len(known), 20):
            yield " ".join(known[at : at + 20])


def texts(total_bytes: int) -> list[str]:
    """Pages of real text; one in ten has a passage of an earlier one."""
    generator = random.Random(3)
    found: list[str] = []
    size = 0
    for text in pages(generator):
        if size >= total_bytes:
            break
        if found and generator.random() < 0.1:
            other = generator.choice(found).split(" ")
            begin = generator.randrange(len(other))
            passage = " ".join(other[begin : begin + generator.randrange(30, 300)])
            place = text.find(" ", generator.randrange(len(text))) + 1
            text = text[:place] + passage + " " + text[place:]
        found.append(text)
        size += len(text.encode())
    return found


def ours(folder: Path, shards: list[Path], counts: list[int]) -> tuple[float, np.ndarray, list[np.ndarray]]:
    """CPU seconds, and which bytes of each shard are covered."""
    starts = np.concatenate([[0], np.cumsum(counts)])
    out = Workspace(folder, Machine(workers=1))
    folder.mkdir()
    search = SpanSearch(RepeatedSpans(), shards, np.ones(starts[-1], np.bool_), [0] * len(shards), starts, out)
    before = time.process_time()
    search.run()
    seconds = time.process_time() - before
    return seconds, starts, [search.cuts(shard) for shard in range(len(shards))]


@numba.njit(cache=True)
def longest_earlier(order: np.ndarray, lcp: np.ndarray) -> np.ndarray:
    """For each byte the length of the longest match with an earlier one. Source: Crochemore & Ilie 2008 (LPF array)."""
    n = len(order)
    longest = np.zeros(n, np.int64)
    before, after = np.arange(-1, n - 1), np.arange(1, n + 1)
    left, right = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    rank = np.empty(n, np.int64)
    for i in range(n):
        rank[order[i]] = i
        left[i] = lcp[i - 1] if i else 0
        right[i] = lcp[i] if i < n - 1 else 0
    for position in range(n - 1, -1, -1):  # take the last positions out first: what is left beside is earlier
        i = rank[position]
        longest[position] = max(left[i], right[i])
        a, b = before[i], after[i]
        shared = min(left[i], right[i])
        if a >= 0:
            after[a], right[a] = b, shared
        if b < n:
            before[b], left[b] = a, shared
    return longest


@numba.njit(cache=True)
def cover(
    longest: np.ndarray, first_unit: np.ndarray, last_unit: np.ndarray, ends: np.ndarray, least: int
) -> np.ndarray:
    """Which bytes are in a match of so many units; a match ends where its document does."""
    covered, reach = np.zeros(len(longest), np.bool_), 0
    for byte in range(len(longest)):
        end = min(byte + longest[byte], ends[byte])
        if end > reach and last_unit[end] - first_unit[byte] >= least:
            covered[byte:end] = True
            reach = end
    return covered


def by_suffix_array(whole: np.ndarray, column: pa.StringArray, bounds: np.ndarray) -> tuple[float, np.ndarray]:
    """CPU seconds of suffix array, common prefixes and longest earlier matches; which bytes are covered."""
    before = time.process_time()
    order = divsufsort(whole)
    lcp = kasai(whole, order)
    longest = longest_earlier(order, lcp)
    seconds = time.process_time() - before
    table = units(column)
    first = np.searchsorted(table.begins, np.arange(len(whole)))
    last = np.searchsorted(table.ends, np.arange(len(whole) + 1), side="right")
    ends = np.repeat(bounds[1:], np.diff(bounds))
    return seconds, cover(longest, first, last, ends, LEAST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=20, help="text [MB]")
    options = parser.parse_args()
    given = texts(options.mb * 1_000_000)
    print(processor_name())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, some in (("warm", given[:200]), ("all", given)):
            with Shards(folder / part, "web", shard_bytes=8 << 20) as shards:
                for start in range(0, len(some), 1000):
                    shards.write(documents_of("web", some[start : start + 1000]))
        read = {part: shards_in(folder / part) for part in ("warm", "all")}
        counts = {
            part: [sum(batch.num_rows for batch in read_batches(shard, ["id"])) for shard in found]
            for part, found in read.items()
        }
        ours(folder / "first", read["warm"], counts["warm"])
        seconds, starts, cuts = ours(folder / "second", read["all"], counts["all"])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    column = pa.array(given)
    whole = np.frombuffer(b"".join(text.encode() for text in given), np.uint8).copy()
    bounds = np.concatenate([[0], np.cumsum([len(text.encode()) for text in given])])
    covered = np.zeros(len(whole), np.bool_)
    for shard, found in enumerate(cuts):
        for row, begin, end in found.tolist():
            at = bounds[starts[shard] + row]
            covered[at + begin : at + end] = True
    warm = np.frombuffer(b"a warm day, a warm day", np.uint8).copy()
    longest_earlier(divsufsort(warm), kasai(warm, divsufsort(warm)))
    theirs, exact = by_suffix_array(whole, column, bounds)
    size, both = len(whole) / 1e6, (covered & exact).sum()
    print(f"{size:.1f} MB in {len(given)} documents")
    print(
        f"headwater    {seconds:6.2f} CPU s {size / seconds:7.1f} MB/CPU s, covers {covered.mean():.4%} of the bytes; {memory:.0f} MB"
    )
    print(f"suffix array {theirs:6.2f} CPU s {size / theirs:7.1f} MB/CPU s, covers {exact.mean():.4%} of the bytes")
    print(f"ratio {theirs / seconds:.1f}x; of the suffix array's bytes we cover {both / max(1, exact.sum()):.4%};")
    print(f"of ours {both / max(1, covered.sum()):.4%} are in it (the rest are marks and spaces behind a span)")


if __name__ == "__main__":
    main()
