"""Stage split: hold documents out from training, so that what the model learnt can be measured on text it never saw.

A document is held out when the hash of its id and the seed is among the lowest of its source. So the choice does not
depend on the order of documents, copies of a text are always on the same side, and a document added to a source moves
at most a few others across.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field, model_validator

from headwater.core import pool
from headwater.core.config import Config
from headwater.core.errors import EmptyResultError, InputError
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.core.units import Bytes, Count
from headwater.documents.document import (
    ShardFile,
    Tally,
    add_counts,
    read_batches,
    shards_in,
    source_of,
    text_buffer,
    text_bytes,
)


class Split(Config):
    """Which documents are held out from training."""

    fraction: float = Field(default=0.02, gt=0, le=0.5)
    """Share of each source's documents to hold out."""
    min_documents: Count = Field(default=10, ge=1)
    """Documents to hold out from each source, at least: fewer say little about a source. A source with less than twice as
    many is trained on whole and has no score, which is said; when all are so small the run stops."""
    max_documents: Count = Field(default=10_000, ge=1)
    """Documents to hold out from each source, at most: beyond some thousands a score gets slower, not better."""
    max_bytes: Bytes = Field(default=4 << 20, ge=1)
    """Text to hold out from each source [bytes], at most, as far as min_documents allows."""
    seed: int = Field(default=0, ge=0)
    """Another seed holds out other documents."""

    @model_validator(mode="after")
    def _bounds_agree(self) -> Split:
        if self.min_documents > self.max_documents:
            raise ValueError(f"min_documents {self.min_documents} is more than max_documents {self.max_documents}")
        return self


@dataclass(frozen=True)
class Cut:
    """A source's shards, and the highest hash of a document that is held out."""

    shard: Path
    highest: int
    """-1 when none is held out."""


def split(settings: Split, inputs: Inputs, out: Workspace) -> Counts:
    """Write the documents to train on to documents/ and those that are held out to held_out/.

    Raises:
        InputError: every source has too few documents.
        EmptyResultError: there are no documents at all.
    """
    shards = shards_in(inputs["documents"] / "documents")
    if not shards:
        raise EmptyResultError(
            "there are no documents to split", place="split", hint="look at what the stages before dropped"
        )
    cuts: list[Cut] = []
    small: list[InputError] = []
    for source in sorted({source_of(shard) for shard in shards}):
        of_source = [shard for shard in shards if source_of(shard) == source]
        try:
            highest = _highest_hash(source, of_source, settings)
        except InputError as error:
            highest = -1
            small.append(error)
        cuts.extend(Cut(shard, highest) for shard in of_source)
    if all(one.highest < 0 for one in cuts):
        raise small[0]
    for error in small:
        out.warn(f"{error.problem}: nothing of it is held out, so it will have no score")
    work = functools.partial(_split_shard, settings.seed, out.folder)
    return add_counts(pool.map(work, cuts, out, label="split", name=lambda cut: cut.shard.stem, threads=True))


def _highest_hash(source: str, shards: list[Path], settings: Split) -> int:
    """The highest hash of a held-out document of one source: the lowest hashes fill the share that is wanted."""
    total = 0
    hashes, sizes, copies = np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    for more_hashes, more_sizes in _hashes_of(shards, settings.seed):
        total += len(more_hashes)
        hashes, where = np.unique(np.concatenate([hashes, more_hashes]), return_inverse=True)
        sizes = np.bincount(where, np.concatenate([sizes, more_sizes])).astype(np.int64)
        copies = np.bincount(where, np.concatenate([copies, np.ones(len(more_hashes), np.int64)])).astype(np.int64)
        most = settings.max_documents  # more are never held out: memory stays flat
        hashes, sizes, copies = hashes[:most], sizes[:most], copies[:most]
    wanted = min(max(round(settings.fraction * total), settings.min_documents), settings.max_documents)
    documents = np.cumsum(copies)
    enough = int(np.searchsorted(documents, wanted)) + 1  # the first so many hold `wanted` documents
    least = int(np.searchsorted(documents, settings.min_documents)) + 1
    within_bytes = int(np.searchsorted(np.cumsum(sizes), settings.max_bytes, side="right"))
    count = min(enough, max(within_bytes, least))
    if wanted > total // 2:
        count_of = f"{total} document{'s' if total != 1 else ''}"
        problem = f"source '{source}' has {count_of}, too few to hold out {wanted} and train on the rest"
        hint = "cut it into more documents when reading (for text, `split: blank_lines`), or lower split.min_documents"
        raise InputError(problem, place="split", hint=hint)
    if count > len(hashes) or documents[count - 1] > total // 2:
        problem = f"most of the {total} documents of source '{source}' are copies of a few"
        raise InputError(problem, place="split", hint="remove copies first, with a section `dedup`")
    return int(hashes[count - 1])


def _hashes_of(shards: list[Path], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The hash and the size [bytes] of each document, batch by batch."""
    for shard in shards:
        for batch in read_batches(shard, ["id", "text"]):
            _, starts = text_buffer(batch.column("text"))
            yield _hashes(batch.column("id"), seed), np.diff(starts).astype(np.int64)


def _hashes(ids: pa.StringArray, seed: int) -> np.ndarray:
    """Hash ids with a seed: [ids] uint64."""
    data, starts = text_buffer(ids)
    view = data.data
    hashes = [xxhash.xxh3_64_intdigest(view[start:end], seed) for start, end in pairwise(starts.tolist())]
    return np.array(hashes, np.uint64)


def _split_shard(seed: int, folder: Path, cut: Cut) -> Counts:
    """Write the two sides of one shard."""
    tally = Tally(source_of(cut.shard))
    held = {"documents": 0, "bytes": 0}
    training = ShardFile(folder / "documents" / cut.shard.name)
    held_out = ShardFile(folder / "held_out" / cut.shard.name)
    with training, held_out:
        for batch in read_batches(cut.shard):
            tally.take(batch)
            mask = np.zeros(batch.num_rows, np.bool_)
            if cut.highest >= 0:
                mask = _hashes(batch.column("id"), seed) <= np.uint64(cut.highest)
            kept, other = batch.filter(pa.array(~mask)), batch.filter(pa.array(mask))
            tally.keep(kept)
            held["documents"] += other.num_rows
            held["bytes"] += text_bytes(other.column("text"))
            training.write(kept)
            held_out.write(other)
    counts = tally.counts()
    counts["held_out"] = dict(held)
    counts["sources"][tally.source]["held_out"] = dict(held)
    return counts
