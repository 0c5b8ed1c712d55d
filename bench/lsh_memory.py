"""Memory of the search for near-duplicates: clusters of 1 and 5 million documents from their keys on disk.

    python bench/lsh_memory.py [--documents 1_000_000 5_000_000] [--quick]

The keys are made up (14 bands, every fifth document a near-duplicate of an earlier one that shares a third of its keys),
because only their number matters here. Prints the peak memory of the process that finds the clusters, and how much of it
is there before a single key is read. Goal: 5 million documents in less than 500 MB. Takes 190 bytes of disk for each.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.dedup import Dedup, _find_clusters, _Work
from headwater.documents.overlap import clusters, near, partitions
from headwater.documents.overlap.clusters import Sketch

SHARD, BANDS = 10_000, 14


def write_sketches(folder: Path, documents: int) -> int:
    """Write the sketches of made-up documents in shards; returns how many of them are near-duplicates."""
    generator = np.random.default_rng(1)
    recent, copies = np.zeros((SHARD, BANDS), np.uint64), 0
    for number in range(documents // SHARD):
        keys = generator.integers(1, 2**63, (SHARD, BANDS), np.uint64) << np.uint64(1) | np.uint64(1)
        if number:
            which = np.flatnonzero(generator.random(SHARD) < 0.2)
            shared = generator.random((len(which), BANDS)) < 1 / 3
            shared[:, 0] = True  # one key is enough
            keys[which] = np.where(shared, recent[generator.integers(0, SHARD, len(which))], keys[which])
            copies += len(which)
        recent = keys
        records = np.empty(SHARD * BANDS, near.KEYS)
        records["key"], records["row"] = keys.ravel(), np.repeat(np.arange(SHARD), BANDS)
        texts = np.empty(SHARD, clusters.HASHES)
        texts["key"], texts["check"] = generator.integers(1, 2**63, (2, SHARD), np.uint64)
        texts["row"] = np.arange(SHARD)
        sketch = Sketch(folder / ".done" / "sketches" / f"web-{number:05d}")
        marks = np.zeros((SHARD, BANDS * 8), np.uint8)  # all alike: every meeting of keys is looked at
        sketch.write(ids=np.zeros(SHARD, "S32"), marks=marks)
        partitions.write_records(sketch.folder / "near", records)
        partitions.write_records(sketch.folder / "text", texts)
    return copies


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(folder: Path) -> None:
    """Find the clusters of the sketches in a folder, and print what it took."""
    from headwater.documents.overlap.sketch import choose_best, unite, unite_pairs
    from headwater.documents.overlap.sketch import clusters as flat

    for dtype in (np.int32, np.int64):  # compile before memory is measured
        parents = np.arange(2, dtype=dtype)
        unite(parents, np.zeros(2, np.uint64), None, np.arange(2))
        unite_pairs(parents, parents.copy(), flat(parents))
        choose_best(parents, np.zeros(2, np.int64), 0, np.zeros(2, np.int64), parents.copy())
    before, started = peak_bytes(), time.process_time()
    shards = sorted((folder / ".done" / "sketches").iterdir())
    found = _find_clusters(_Work(Dedup(), shards, Workspace(folder, Machine(workers=1))))
    seconds = time.process_time() - started
    print(len(found.keeper), int((found.rules != 0).sum()), before, peak_bytes(), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--documents", type=lambda text: int(text.replace("_", "")), nargs="+", default=[10**6, 5 * 10**6]
    )
    parser.add_argument("--quick", action="store_true", help="100,000 documents: seconds")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    for documents in [100_000] if options.quick else options.documents:
        with tempfile.TemporaryDirectory() as name:
            copies = write_sketches(Path(name), documents)
            command = [sys.executable, __file__, "--measure", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        count, gone, before, peak = map(int, done[:4])
        if gone != copies:
            sys.exit(f"{copies} near-duplicates were made, {gone} were found")
        print(
            f"{count:9,d} documents, {gone:,d} near-duplicates: peak {peak / 1e6:.0f} MB"
            f" ({before / 1e6:.0f} MB before the first key), {float(done[4]):.1f} CPU s",
            flush=True,
        )


if __name__ == "__main__":
    main()
