"""Lines and paragraphs that the whole corpus repeats: all but the first of each are cut out of their documents.

each shard   -> the hash of every line, with how often the shard has it
all of these -> the hashes of those that are too frequent, and which shard has the first (a range at a time)
each shard   -> cuts
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from headwater.core.config import Config
from headwater.core.units import Count
from headwater.documents.document import text_buffer
from headwater.documents.overlap import partitions
from headwater.documents.overlap.cuts import Cuts

COUNTS = np.dtype([("key", "<u8"), ("count", "<u4")])
FREQUENT = np.dtype([("shard", "<u4"), ("key", "<u8"), ("first", "u1")])


class Repeated(Config):
    """Parts of documents that occur too often in the whole corpus; the first of each stays where it is."""

    max_count: Count = Field(default=1, ge=1)
    """How often a part may occur in the whole corpus; of more frequent ones only the first stays."""
    min_characters: Count = Field(default=1, ge=1)
    """Characters of a part that is looked at, white space around it aside; shorter ones always stay."""


class RepeatedLines(Repeated):
    """Lines that occur too often: menus, notices and headings that every page of a site has.

    Source: ours; FineWeb and RefinedWeb drop such lines by rules for each document, which need no count of the corpus.
    """

    max_count: Count = Field(default=6, ge=1)
    """How often a line may occur in the whole corpus; of more frequent ones only the first stays."""
    min_characters: Count = Field(default=20, ge=1)
    """Characters of a line that is looked at, white space around it aside; shorter ones always stay."""


class RepeatedParagraphs(Repeated):
    """Paragraphs, which empty lines part, that occur more than once.

    Source: Wenzek et al., CCNet, arXiv 1911.00359, section 3.1 (which drops all copies but one of each paragraph).
    """

    min_characters: Count = Field(default=100, ge=1)
    """Characters of a paragraph that is looked at, white space around it aside; shorter ones always stay."""


def count_parts(path: Path, hashes: Sequence[np.ndarray]) -> int:
    """Write how often a shard has each part; returns the number of different ones."""
    keys, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *hashes]), return_counts=True)
    records = np.empty(len(keys), COUNTS)
    records["key"], records["count"] = keys, counts
    partitions.write_records(path, records)
    return len(keys)


def find_frequent(paths: Sequence[Path], part: tuple[int, int], max_count: int, to: Path) -> int:
    """Write which parts of a range of hashes are too frequent, for each shard that has them; returns how many are."""
    records, owners = partitions.gather(paths, COUNTS, part)
    first = partitions.first_of_equals(records["key"])
    totals = np.bincount(first, records["count"], len(records))
    which = np.flatnonzero(totals[first] > max_count)
    found = np.empty(len(which), FREQUENT)
    found["shard"], found["key"], found["first"] = owners[which], records["key"][which], which == first[which]
    partitions.write_sorted(to, found, "shard")
    return int(found["first"].sum())


class Frequent:
    """The parts of one shard's documents that are too frequent."""

    def __init__(self, paths: Sequence[Path], shard: int) -> None:
        found = partitions.read_sorted(paths, FREQUENT, "shard", shard, shard + 1)
        order = np.argsort(found["key"])
        self._keys, self._first = found["key"][order], found["first"][order].astype(np.bool_)

    def cuts(self, rows: np.ndarray, begins: np.ndarray, ends: np.ndarray, hashes: np.ndarray) -> Cuts:
        """Which of the next parts of the shard are cut, given in order: all too frequent ones but the first."""
        if not len(self._keys):
            return Cuts.none()
        places = np.minimum(np.searchsorted(self._keys, hashes), len(self._keys) - 1)
        hits = np.flatnonzero(self._keys[places] == hashes)
        known, first = np.unique(places[hits], return_index=True)
        stays = np.zeros(len(hits), np.bool_)
        stays[first[self._first[known]]] = True
        self._first[known] = False
        gone = hits[~stays]
        return Cuts(rows[gone], begins[gone], ends[gone])


def parts_of(texts: pa.StringArray, settings: Repeated, salt: int) -> tuple[np.ndarray, ...]:
    """The parts of documents that are long enough to be looked at: lines, or paragraphs.

    Returns:
        rows [P] int64, begins and ends [P] int64 in bytes of the document, with what parts it from the next; and hashes
        [P] uint64 of each part without white space around its lines.
    """
    from headwater.documents.overlap.lines import parts
    from headwater.documents.text.kernels import text_of

    data, starts = text_of(texts)
    rows, begins, ends, hashes, sizes = parts(data, starts, by_paragraph=isinstance(settings, RepeatedParagraphs))
    long = sizes >= settings.min_characters
    return rows[long], begins[long], ends[long], hashes[long] ^ np.uint64(salt)


def texts_of(batch: pa.RecordBatch, wanted: np.ndarray) -> pa.StringArray:
    """The texts of those documents of a batch that are wanted."""
    texts = batch.column("text")
    return texts if wanted.all() else texts.filter(pa.array(wanted))


def text_sizes(texts: pa.StringArray) -> np.ndarray:
    """Size of each text [bytes]: [D] int64."""
    return np.diff(text_buffer(texts)[1]).astype(np.int64)
