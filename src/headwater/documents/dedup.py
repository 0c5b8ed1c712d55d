"""Stage dedup: of documents that are the same, or nearly, only the first is kept.

Two passes over the shards, with memory for a few numbers per document in between:

    each shard -> a sketch beside it: a hash of every text, and keys that near-duplicates are likely to share
    all sketches -> clusters: documents that share a hash or a key, directly or through others
    each shard -> its documents that are the first of their cluster; the others are dropped with the id of that one

First is first in the order of shards and their rows, so the result does not depend on the number of workers.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field, model_validator

from headwater.core import pool
from headwater.core.config import Config
from headwater.core.errors import EmptyResultError
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.core.store import atomic_path
from headwater.core.units import Count
from headwater.documents.document import (
    DROPPED_SCHEMA,
    ShardFile,
    Tally,
    add_counts,
    drop,
    read_batches,
    shards_in,
    source_of,
    text_buffer,
)

_CLUSTER_SIZES = (1, 2, 3, 4, 5, 10, 100, 1000)  # lower ends of the classes


class NearDuplicates(Config):
    """Documents that share most of their word n-grams, found by MinHash and locality-sensitive hashing.

    Two documents that share a part J of their n-grams (Jaccard similarity) are found with the probability
    1 - (1 - J^rows)^bands: with 14 bands of 8 rows 99.9 % at J = 0.9, 92 % at 0.8, 57 % at 0.7, 5 % at 0.5.

    Source: Broder 1997; Penedo et al., The FineWeb Datasets, arXiv 2406.17557, section 3.4 (5-grams, 14 bands of 8 rows).
    """

    ngram: int = Field(default=5, ge=1, le=32)
    """Words in an n-gram. More of them make documents differ more."""
    bands: int = Field(default=14, ge=1, le=256)
    """Chances that two documents have to be found alike."""
    rows: int = Field(default=8, ge=1, le=64)
    """Minima that must agree in one band."""
    min_words: Count = Field(default=5, ge=1)
    """Words that a document must have to be compared; shorter ones are only dropped when they are exactly the same."""
    seed: int = Field(default=1, ge=0)
    """Chooses the hash functions."""
    per_source: bool = False
    """Compare documents within their source alone, so that each source keeps a copy."""

    @property
    def threshold(self) -> float:
        """The similarity at which about two of three pairs are found, 0.72 with 14 bands of 8 rows."""
        return (1 / self.bands) ** (1 / self.rows)


class Dedup(Config):
    """Which documents count as the same; of each set the first stays, in the order of sources and shards."""

    exact: bool = True
    """Drop documents whose text is the same to the last byte, in whatever source."""
    near: NearDuplicates | None = NearDuplicates()
    """Drop documents that are nearly the same; null does not look for them."""

    @model_validator(mode="after")
    def _has_effect(self) -> Dedup:
        if not self.exact and self.near is None:
            raise ValueError("does nothing; set exact or near, or leave the section out")
        return self


_ID_BYTES = 32


@dataclass(frozen=True)
class Sketch:
    """What is kept of a shard to find its duplicates: a folder of plain arrays, read in parts, never as a whole.

    `ids` [D, 32 bytes], `hashes` [D, 2] uint64, `keys` [bands, D] uint64, `marks` [D, bands * rows] uint8.
    """

    folder: Path

    def write(self, **arrays: np.ndarray) -> None:
        """Write arrays, each whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            with atomic_path(self.folder / name) as path:
                array.tofile(path)

    @property
    def documents(self) -> int:
        """Number of documents of the shard."""
        return (self.folder / "ids").stat().st_size // _ID_BYTES

    def hashes(self) -> np.ndarray:
        """The hash of each text: [D, 2] uint64."""
        return np.fromfile(self.folder / "hashes", np.uint64).reshape(-1, 2)

    def keys(self, band: int) -> np.ndarray:
        """The key of each document in one band: [D] uint64."""
        return np.fromfile(self.folder / "keys", np.uint64, self.documents, offset=8 * band * self.documents)

    def rows(self, name: str, numbers: list[int]) -> list[bytes]:
        """The ids or marks of some documents."""
        path = self.folder / name
        width = path.stat().st_size // self.documents
        with path.open("rb", buffering=0) as file:
            return [os.pread(file.fileno(), width, number * width) for number in numbers]


@dataclass(frozen=True)
class Clusters:
    """The clusters of all documents, numbered through all shards.

    Attributes:
        first: [documents] int64: the first document of each document's cluster.
        same: [documents] bool: whether that one has exactly the same text.
        starts: [shards + 1] int64: where each shard's documents begin.
    """

    first: np.ndarray
    same: np.ndarray
    starts: np.ndarray

    def sizes(self) -> dict[str, int]:
        """How many clusters there are of each size, in classes: `{"1": 900, "2": 40, "5-9": 3}`."""
        sizes = np.bincount(self.first)
        counts = {}
        for low, high in pairwise((*_CLUSTER_SIZES, max(_CLUSTER_SIZES[-1], len(self.first)) + 1)):
            name = str(low) if high == low + 1 else f"{low}-{high - 1}" if high in _CLUSTER_SIZES else f"{low} and more"
            counts[name] = int(((sizes >= low) & (sizes < high)).sum())
        return {name: count for name, count in counts.items() if count}


def dedup(settings: Dedup, inputs: Inputs, out: Workspace) -> Counts:
    """Keep the first of each cluster of duplicates.

    Raises:
        EmptyResultError: there are no documents.
    """
    shards = shards_in(inputs["documents"] / "documents")
    if not shards:
        raise EmptyResultError("there are no documents", place="dedup", hint="look at what the stages before dropped")
    folder = out.folder / ".done" / "sketches"  # goes with the markers of the shards when the stage is finished
    sketches = [Sketch(folder / shard.stem) for shard in shards]
    sketch = functools.partial(_sketch_shard, settings, folder)
    pool.map(sketch, shards, out, label="sketch", name=lambda shard: shard.stem, threads=True)
    found = _find_clusters(sketches, settings, out)
    keep = functools.partial(_keep_first, settings, found, sketches, out.folder)
    jobs = list(enumerate(shards))
    parts = pool.map(keep, jobs, out, label="dedup", name=lambda job: job[1].stem, threads=True)
    counts = add_counts(parts)
    if not counts["dropped"]:
        out.note("no duplicates")
    return counts | {"clusters": found.sizes()}


def _sketch_shard(settings: Dedup, folder: Path, shard: Path) -> Counts:
    """Write the sketch of one shard."""
    near = settings.near
    salt = np.uint64(0)
    if near is not None and near.per_source:  # the same key in another source is another key
        salt = np.uint64(xxhash.xxh3_64_intdigest(source_of(shard).encode()))
    ids, hashes, keys, marks = [], [], [], []
    for batch in read_batches(shard, ["id", "text"]):
        texts = batch.column("text")
        ids.append(np.array(batch.column("id").to_pylist(), f"S{_ID_BYTES}"))
        hashes.append(_text_hashes(texts))
        if near is not None:
            from headwater.documents.sketch import minhash

            shared, marked, grams = minhash(texts, near.ngram, near.bands, near.rows, near.seed)
            compared = grams > max(0, near.min_words - near.ngram)
            keys.append(np.where(compared, (shared ^ salt) | np.uint64(1), np.uint64(0)))
            marks.append(marked)
    sketch = Sketch(folder / shard.stem)
    sketch.write(ids=np.concatenate(ids), hashes=np.concatenate(hashes))
    if near is not None:
        sketch.write(keys=np.concatenate(keys, axis=1), marks=np.concatenate(marks))
    return {"documents": sum(map(len, ids))}


def _text_hashes(texts: pa.StringArray) -> np.ndarray:
    """The xxh3_128 hash of each text as two numbers: [D, 2] uint64."""
    data, starts = text_buffer(texts)
    view = data.data
    digests = [xxhash.xxh3_128_digest(view[start:end]) for start, end in pairwise(starts.tolist())]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def _find_clusters(sketches: Sequence[Sketch], settings: Dedup, out: Workspace) -> Clusters:
    """Unite documents that share a hash or a key; memory for one key of each document at a time."""
    from headwater.documents.sketch import clusters, unite

    starts = np.cumsum([0, *(sketch.documents for sketch in sketches)])
    parents = np.arange(starts[-1])
    bands = settings.near.bands if settings.near else 0
    with out.progress("find duplicates", bands + 1, "keys") as bar:
        if settings.exact:
            hashes = np.concatenate([sketch.hashes() for sketch in sketches])
            unite(parents, hashes[:, 0] | np.uint64(1), hashes[:, 1].copy())
        text = clusters(parents.copy())
        bar.advance()
        for band in range(bands):
            unite(parents, np.concatenate([sketch.keys(band) for sketch in sketches]))
            bar.advance()
    first = clusters(parents)
    return Clusters(first, text == text[first], starts)


def _keep_first(
    settings: Dedup, found: Clusters, sketches: Sequence[Sketch], folder: Path, job: tuple[int, Path]
) -> Counts:
    """Write the documents of one shard that are kept, and beside them the dropped ones."""
    number, shard = job
    tally = Tally(source_of(shard))
    kept_path, dropped_path = folder / "documents" / shard.name, folder / "dropped" / shard.name
    begin = int(found.starts[number])
    with ShardFile(kept_path) as kept, ShardFile(dropped_path, DROPPED_SCHEMA) as dropped:
        for rows in read_batches(shard):
            tally.take(rows)
            numbers = np.arange(begin, begin + rows.num_rows)
            begin += rows.num_rows
            copies = found.first[numbers] != numbers
            left, gone = rows.filter(pa.array(~copies)), rows.filter(pa.array(copies))
            tally.keep(left)
            kept.write(left)
            if gone.num_rows:
                batch = _explain(
                    found, sketches, gone, numbers[copies], settings.near.threshold if settings.near else 1.0
                )
                tally.drop(batch)
                dropped.write(batch)
    return tally.counts()


def _explain(
    found: Clusters, sketches: Sequence[Sketch], rows: pa.RecordBatch, numbers: np.ndarray, threshold: float
) -> pa.RecordBatch:
    """Say of each dropped document which one is kept instead, and how similar the two are."""
    same, firsts = found.same[numbers], found.first[numbers]
    kept = [identifier.decode() for identifier in _gather(found, sketches, "ids", firsts)]
    similarity = np.ones(len(numbers))
    if not same.all():
        mine, theirs = (
            np.frombuffer(b"".join(_gather(found, sketches, "marks", places)), np.uint8).reshape(len(numbers), -1)
            for places in (numbers, firsts)
        )
        chance = 1 / 256  # marks have 8 bits: so many agree by accident
        similarity = np.where(same, 1.0, ((mine == theirs).mean(axis=1) - chance) / (1 - chance)).clip(0, 1)
    rules = np.where(same, "exact", "near_duplicate").tolist()
    return drop(rows, "dedup", rules, similarity, np.where(same, 1.0, threshold), kept)


def _gather(found: Clusters, sketches: Sequence[Sketch], name: str, numbers: np.ndarray) -> list[bytes]:
    """Ids or marks, by the numbers of documents through all shards."""
    shards = np.searchsorted(found.starts, numbers, side="right") - 1
    gathered = [b""] * len(numbers)
    for shard in np.unique(shards).tolist():
        wanted = np.flatnonzero(shards == shard)
        rows = sketches[shard].rows(name, (numbers[wanted] - found.starts[shard]).tolist())
        for index, row in zip(wanted.tolist(), rows, strict=True):
            gathered[index] = row
    return gathered
