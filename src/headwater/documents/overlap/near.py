"""Near-duplicates: what makes documents candidates to be the same, and how candidates are compared.

By default by their sketches, which lie on disk: a range of keys at a time. The exact check goes through the disk, so that memory does not grow with the corpus:

    keys of all shards -> pairs of documents that share one        (a range of keys at a time)
    each shard         -> n-gram hashes of its documents in pairs
    each shard         -> the pairs of its documents that are as similar as asked
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from headwater.core import pool
from headwater.core.config import Config
from headwater.core.stage import Counts, Workspace
from headwater.core.store import atomic_path
from headwater.core.units import Count
from headwater.documents.document import read_batches
from headwater.documents.overlap import partitions
from headwater.documents.overlap.clusters import Sketch

KEYS = np.dtype([("key", "<u8"), ("row", "<u4")])
_PAIRS = np.dtype([("later", "<i8"), ("earlier", "<i8")])
_ROWS = np.dtype([("number", "<i8")])
_PAIRS_AT_ONCE = 1 << 15  # whose marks are in memory: 7 MB
_NEIGHBOURS = 3
"""Documents before it with the same key that a document is compared with, beside the first: documents that meet others
by chance in one band meet their copies in another, so more are not worth their time."""


class NearDuplicates(Config):
    """Documents that share most of their n-grams, found by MinHash and locality-sensitive hashing.

    Two documents that share a part J of their n-grams (Jaccard similarity) are found with the probability
    1 - (1 - J^rows)^bands: with 14 bands of 8 rows 99.9 % at J = 0.9, 92 % at 0.8, 57 % at 0.7, 5 % at 0.5.

    Source: Broder 1997; Penedo et al., The FineWeb Datasets, arXiv 2406.17557, section 3.4 (5-grams, 14 bands of 8 rows).
    """

    compare: Literal["auto", "words", "characters"] = "auto"
    """What n-grams are made of: `words`, `characters`, or by `auto` characters where a tenth of a document's letters are
    Chinese, Japanese, Korean, Thai or of another script without spaces, else words."""
    ngram: int = Field(default=5, ge=1, le=32)
    """Words in an n-gram. More of them make documents differ more."""
    character_ngram: int = Field(default=8, ge=1, le=64)
    """Characters in an n-gram of a document that is compared by characters; about what three to five words have."""
    bands: int = Field(default=14, ge=1, le=256)
    """Chances that two documents have to be found alike."""
    rows: int = Field(default=8, ge=1, le=64)
    """Minima that must agree in one band."""
    min_words: Count = Field(default=5, ge=1)
    """Words (or characters) that a document must have to be compared, and at least an n-gram; shorter ones are only
    dropped when they are exactly the same."""
    seed: int = Field(default=1, ge=0)
    """Chooses the hash functions."""
    per_source: bool = False
    """Compare documents within their source alone, so that each source keeps a copy."""
    min_similarity: float = Field(default=0.6, ge=0, le=1)
    """Share of their n-grams that two documents which meet in a band must have in common to count as nearly the same, as
    their sketches estimate it (give or take 0.04). Pages made from one template meet by chance; this keeps them apart. 0:
    every meeting counts, as in FineWeb."""
    verify: bool = False
    """Compare the n-grams themselves with `min_similarity`, not the estimates: exact, for more time and disk."""

    @model_validator(mode="after")
    def _has_effect(self) -> NearDuplicates:
        if self.verify and not self.min_similarity:
            raise ValueError("verify: true needs a min_similarity above 0")
        return self

    @property
    def threshold(self) -> float:
        """The similarity that decides, or that at which about two of three pairs are found: 0.72 with 14 bands of 8."""
        return self.min_similarity or (1 / self.bands) ** (1 / self.rows)

    def sketch(self, texts: pa.StringArray, salt: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The keys of documents of a shard, of all bands, and their marks.

        Args:
            texts: the texts of a batch.
            salt: makes the keys those of one source.
            row: number of the first document in its shard.

        Returns:
            keys [K] KEYS, without those of documents that are too short; marks [D, bands * rows] uint8.
        """
        from headwater.documents.overlap.sketch import minhash
        from headwater.documents.text.kernels import MIX

        options: dict[str, Any] = {
            "compare": self.compare,
            "character_ngram": self.character_ngram,
            "min_units": self.min_words,
        }
        keys, marks, _ = minhash(texts, self.ngram, self.bands, self.rows, self.seed, **options)
        band, place = np.nonzero(keys)
        records = np.empty(len(band), KEYS)
        # One space of keys for all bands: a key is another one in another band.
        records["key"] = (keys[band, place] ^ np.uint64(salt)) + (band.astype(np.uint64) + np.uint64(1)) * MIX
        records["key"] |= np.uint64(1)
        records["row"] = place + row
        return records, marks

    def sizes(self, characters: np.ndarray) -> np.ndarray:
        """Units in an n-gram of documents that are or are not compared by characters: [D] int64."""
        return np.where(characters, self.character_ngram, self.ngram)


def estimate(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The Jaccard similarity of pairs of documents, by their marks [pairs, bands * rows] uint8."""
    chance = 1 / 256  # marks have 8 bits: so many agree by accident
    return (((left == right).mean(axis=1) - chance) / (1 - chance)).clip(0, 1)


def unite_alike(parents: np.ndarray, sketches: Sequence[Sketch], starts: np.ndarray, min_similarity: float) -> None:
    """Join the clusters of documents that share a key and whose marks are alike; a range of keys at a time.

    A document is compared with the one before it that has the key, and with the first one.

    Args:
        parents: [documents], changed in place; see sketch.unite.
        sketches: of all shards.
        starts: [shards + 1] int64: where each shard's documents begin.
        min_similarity: estimate that two documents must reach.
    """
    from headwater.documents.overlap.sketch import unite_pairs

    files = [sketch.folder / "near" for sketch in sketches]
    for part in partitions.ranges(files, KEYS):
        records, owners = partitions.gather(files, KEYS, part)
        numbers, first = starts[owners] + records["row"], partitions.first_of_equals(records["key"])
        later = np.flatnonzero(first < np.arange(len(records)))
        for earlier in (later - 1, first[later]):
            pairs = np.stack([numbers[later], numbers[earlier]])
            pairs = pairs[:, parents[pairs[0]] != parents[pairs[1]]]  # most copies share many keys
            for begin in range(0, pairs.shape[1], _PAIRS_AT_ONCE):
                some = pairs[:, begin : begin + _PAIRS_AT_ONCE]
                members, places = np.unique(some, return_inverse=True)
                marks, places = _marks(sketches, starts, members), places.reshape(some.shape)
                left, right = np.ascontiguousarray(some[:, estimate(*marks[places]) >= min_similarity])
                unite_pairs(parents, left, right)


def _marks(sketches: Sequence[Sketch], starts: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The marks of documents, by their sorted numbers through all shards: [documents, bands * rows] uint8."""
    shards = np.searchsorted(starts, members, side="right") - 1
    found = [sketches[shard].marks()[members[shards == shard] - starts[shard]] for shard in np.unique(shards).tolist()]
    return np.concatenate(found)


@dataclass(frozen=True)
class Verification:
    """Documents with a common key whose n-grams are compared.

    Attributes:
        settings: how similar they must be.
        shards: the shards of documents.
        keys: the files of keys, one of each shard.
        starts: [shards + 1] int64: where each shard's documents begin.
        out: where to work.
    """

    settings: NearDuplicates
    shards: Sequence[Path]
    keys: Sequence[Path]
    starts: np.ndarray
    out: Workspace

    def pairs(self) -> list[Path]:
        """The files of pairs that are similar enough, one of each shard: [pairs, 2] int64."""
        parts = partitions.ranges(self.keys, KEYS)
        names = [f"{number:05d}" for number in range(len(parts))]
        folder = self.out.folder / ".done" / "pairs"
        for kind in ("pairs", "members", "grams", "found"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        jobs = list(zip(names, parts, strict=True))
        candidates = functools.partial(self._candidates, folder)
        pool.map(candidates, jobs, self.out, label="pairs", name=lambda job: job[0], threads=True)
        for label, work in (("grams", self._grams), ("verify", self._verify)):
            shards = list(range(len(self.shards)))
            step = functools.partial(work, folder, names)
            pool.map(step, shards, self.out, label=label, name=lambda shard: self.shards[shard].stem, threads=True)
        return [folder / "found" / shard.stem for shard in self.shards]

    def _candidates(self, folder: Path, job: tuple[str, tuple[int, int]]) -> Counts:
        """Pairs of documents that share a key of a range."""
        name, part = job
        records, owners = partitions.gather(self.keys, KEYS, part)
        numbers = self.starts[owners] + records["row"]
        first = partitions.first_of_equals(records["key"])
        places = np.arange(len(records))
        found = [np.zeros(0, _PAIRS)]
        for back in (None, *range(1, _NEIGHBOURS + 1)):
            other = first if back is None else places - back
            which = np.flatnonzero((other >= first) & (other < places))
            pairs = np.empty(len(which), _PAIRS)
            pairs["later"], pairs["earlier"] = numbers[which], numbers[other[which]]
            found.append(pairs)
        pairs = np.unique(np.concatenate(found))
        members = np.unique(np.concatenate([pairs["later"], pairs["earlier"]])).astype(_ROWS)
        partitions.write_sorted(folder / "pairs" / name, pairs, "later")
        partitions.write_sorted(folder / "members" / name, members, "number")
        return {"pairs": len(pairs)}

    def _grams(self, folder: Path, names: list[str], shard: int) -> Counts:
        """Write the distinct n-gram hashes of those documents of a shard that are in pairs."""
        begin, end = int(self.starts[shard]), int(self.starts[shard + 1])
        files = [folder / "members" / name for name in names]
        members = np.unique(partitions.read_sorted(files, _ROWS, "number", begin, end)["number"]) - begin
        pieces = self._sets(shard, members) if len(members) else ()
        return {"documents": partitions.write_pieces(folder / "grams" / self.shards[shard].stem, pieces)}

    def _sets(self, shard: int, members: np.ndarray) -> Iterator[tuple[int, memoryview]]:
        """The distinct n-gram hashes of some documents of a shard, sorted uint32."""
        from headwater.documents.text.shingles import gram_hashes, units

        row = 0
        for batch in read_batches(self.shards[shard], ["text"]):
            here = members[(members >= row) & (members < row + batch.num_rows)] - row
            wanted = np.zeros(batch.num_rows, np.bool_)
            wanted[here] = True
            table = units(batch.column("text"), self.settings.compare, wanted)
            offsets, hashes = gram_hashes(table, self.settings.sizes(table.characters))
            short = (hashes >> np.uint64(32)).astype(np.uint32)
            for document in here.tolist():
                yield row + document, np.unique(short[offsets[document] : offsets[document + 1]]).data.cast("B")
            row += batch.num_rows

    def _verify(self, folder: Path, names: list[str], shard: int) -> Counts:
        """Write the pairs whose later document is of a shard, and that are as similar as asked."""
        begin, end = int(self.starts[shard]), int(self.starts[shard + 1])
        pairs = np.unique(
            partitions.read_sorted([folder / "pairs" / name for name in names], _PAIRS, "later", begin, end)
        )
        grams = partitions.Pieces([folder / "grams" / path.stem for path in self.shards], self.starts)
        similar = np.zeros(len(pairs), np.bool_)
        for place, (later, earlier) in enumerate(pairs.tolist()):
            similar[place] = (
                similarity(*(grams.of(number).view(np.uint32) for number in (later, earlier)))
                >= self.settings.min_similarity
            )
        with atomic_path(folder / "found" / self.shards[shard].stem) as temporary:
            pairs[similar].tofile(temporary)
        return {"pairs": len(pairs), "similar": int(similar.sum())}


def similarity(left: np.ndarray, right: np.ndarray) -> float:
    """The Jaccard similarity of two sorted arrays of distinct uint32."""
    from headwater.documents.overlap.sketch import shared

    common = shared(left, right)
    return common / max(1, len(left) + len(right) - common)
