"""Clusters of documents that are copies of each other, and which document of each stays.

A sketch of each shard lies on disk; of all documents together only a few numbers each are in memory.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import numpy as np
import orjson
import pyarrow as pa
import xxhash

from headwater.core.bucket import here
from headwater.core.store import atomic_path
from headwater.documents.document import source_of, text_buffer
from headwater.documents.overlap import partitions

Keep = Literal["first", "longest", "newest", "oldest", "quality", "source"]

HASHES = np.dtype([("key", "<u8"), ("check", "<u8"), ("row", "<u4")])
EXACT, URL, NEAR = 1, 2, 3
RULES = ("", "exact", "url", "near_duplicate")
"""Why a document is a copy, by the numbers above; 0 for one that stays."""

UNSCORED = -(2**63) + 1
"""Score of a document without one, by `keep: quality`."""
_ID_BYTES = 32
_CLUSTER_SIZES = (1, 2, 3, 4, 5, 10, 100, 1000)  # lower ends of the classes
_NO_DATE = 0  # a date as a number has 14 digits: year to second
_TRACKING = re.compile(r"utm_\w+|gclid|fbclid|msclkid|mc_[ce]id|sessionid|phpsessid|jsessionid", re.IGNORECASE)
"""Parameters of a web address that do not choose the page. Source: the common ones of uBlock Origin's privacy list."""


@dataclass(frozen=True)
class Sketch:
    """What is kept of a shard to find its duplicates: a folder of files, read in parts, never as a whole.

    `ids` [D, 32 bytes], `scores` [D] int64, `marks` [D, bands * rows] uint8; `text`, `url` HASHES and `near` near.KEYS as
    partitions.py writes them.
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
        return here(self.folder / "ids").stat().st_size // _ID_BYTES

    def scores(self) -> np.ndarray:
        """What the rule to keep goes by: [D] int64."""
        return np.fromfile(self.folder / "scores", np.int64)

    def marks(self) -> np.ndarray:
        """The marks of all documents, mapped: only what is looked at is read."""
        return np.memmap(here(self.folder / "marks"), np.uint8, "r").reshape(self.documents, -1)

    def rows(self, name: str, numbers: list[int]) -> list[bytes]:
        """The ids or marks of some documents."""
        path = here(self.folder / name)
        width = path.stat().st_size // self.documents
        with path.open("rb", buffering=0) as file:
            return [os.pread(file.fileno(), width, number * width) for number in numbers]


@dataclass(frozen=True)
class Clusters:
    """The clusters of all documents, numbered through all shards.

    Attributes:
        keeper: [documents] int32 or int64: the document that stays of each document's cluster.
        rules: [documents] uint8: why a document is a copy of its keeper: EXACT, URL or NEAR; 0 for a keeper.
        sizes: [documents] int32: documents in the cluster of each keeper; 0 for the others.
        starts: [shards + 1] int64: where each shard's documents begin.
    """

    keeper: np.ndarray
    rules: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray

    def size_classes(self) -> dict[str, int]:
        """How many clusters there are of each size, in classes: `{"1": 900, "2": 40, "5-9": 3}`."""
        counts = {}
        for low, high in pairwise((*_CLUSTER_SIZES, max(_CLUSTER_SIZES[-1], len(self.sizes)) + 1)):
            name = str(low) if high == low + 1 else f"{low}-{high - 1}" if high in _CLUSTER_SIZES else f"{low} and more"
            counts[name] = int(((self.sizes >= low) & (self.sizes < high)).sum())
        return {name: count for name, count in counts.items() if count}

    def of_shard(self, shard: int) -> slice:
        """The documents of a shard, by number."""
        return slice(int(self.starts[shard]), int(self.starts[shard + 1]))


def numbers(count: int) -> np.ndarray:
    """The numbers of so many documents, in the smallest type that holds them."""
    return np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)


def unite_files(parents: np.ndarray, paths: Sequence[Path], kind: np.dtype, starts: np.ndarray) -> None:
    """Join the clusters of documents that share a key (and check) in files of all shards; a range of keys at a time."""
    from headwater.documents.overlap.sketch import unite

    for part in partitions.ranges(paths, kind):
        records, owners = partitions.gather(paths, kind, part)
        members = starts[owners] + records["row"]
        checks = np.ascontiguousarray(records["check"]) if "check" in (kind.names or ()) else None
        unite(parents, np.ascontiguousarray(records["key"]), checks, members)


def choose(parents: np.ndarray, sketches: Sequence[Sketch], starts: np.ndarray, rule: Keep) -> np.ndarray:
    """The document that stays of each document's cluster: that of the highest score, of several the first.

    Args:
        parents: [D]: the first document of each document's cluster.
        sketches: of all shards.
        starts: [shards + 1]: where each shard's documents begin.
        rule: which one; `first` needs no scores.
    """
    if rule == "first":
        return parents
    from headwater.documents.overlap.sketch import choose_best

    best, keeper = np.full(len(parents), np.iinfo(np.int64).min), numbers(len(parents))
    for sketch, begin in zip(sketches, starts[:-1].tolist(), strict=True):
        choose_best(parents, sketch.scores(), begin, best, keeper)
    return keeper[parents]


def scores(rule: Keep, batch: pa.RecordBatch, priorities: Sequence[str], field: str, shard: Path) -> np.ndarray:
    """How much each document of a batch deserves to stay by a rule: [documents] int64, the highest stays."""
    if rule == "quality":
        return ordered(np.array([_number(meta, field) for meta in batch.column("meta").to_pylist()], np.float64))
    if rule == "longest":
        return np.diff(text_buffer(batch.column("text"))[1]).astype(np.int64)
    if rule in ("newest", "oldest"):
        dates = np.array([date_number(date) for date in batch.column("date").to_pylist()], np.int64)
        return dates if rule == "newest" else np.where(dates == _NO_DATE, -(10**14), -dates)
    source = source_of(shard)
    rank = priorities.index(source) if source in priorities else len(priorities)
    return np.full(batch.num_rows, -rank, np.int64)


def _number(meta: str | None, field: str) -> float:
    """A number in a document's `meta`; not a number where there is none."""
    value = orjson.loads(meta).get(field) if meta else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def ordered(values: np.ndarray) -> np.ndarray:
    """Numbers of float64 as int64 in the same order; what is not a number comes last, as UNSCORED.

    >>> np.argsort(ordered(np.array([0.5, -2.0, np.nan, 1e300, -0.25]))).tolist()
    [2, 1, 4, 0, 3]
    """
    bits = (values + 0.0).view(np.int64)
    return np.where(np.isnan(values), UNSCORED, bits ^ ((bits >> 63) & np.int64(2**63 - 1)))


def date_number(date: str | None) -> int:
    """A date in ISO 8601 as a number that grows with time; 0 without a date.

    >>> date_number("2024-03-05T17:30:00Z"), date_number("2024"), date_number(None)
    (20240305173000, 20240000000000, 0)
    """
    digits = re.sub(r"\D", "", date or "")[:14]
    return int(digits.ljust(14, "0")) if digits else _NO_DATE


def url_hashes(urls: Sequence[str | None]) -> np.ndarray:
    """The xxh3_128 hash of each normalised web address: [urls, 2] uint64; zeros for what is no web address."""
    found = np.zeros((len(urls), 2), np.uint64)
    for place, url in enumerate(urls):
        normal = normal_url(url)
        if normal is not None:
            found[place] = np.frombuffer(xxhash.xxh3_128_digest(normal.encode("utf-8", "surrogatepass")), np.uint64)
    return found


def normal_url(url: str | None) -> str | None:
    """A web address without what does not choose the page; None for what is not a web address, such as a path.

    The scheme, `www.`, a default port, the fragment, tracking parameters and a last slash go; the host becomes lower case
    and escaped characters plain ones. The order of parameters stays, because some sites go by it.

    >>> normal_url("HTTP://www.Example.org:80/a%20b/?utm_source=x&id=3#top")
    'example.org/a b?id=3'
    >>> normal_url("data/part-1.jsonl") is None
    True
    """
    parts = re.match(r"(?i)\s*(https?)://(?:[^/@?#]*@)?([^/?#]+)([^?#]*)(?:\?([^#]*))?", url or "")
    if parts is None:
        return None
    scheme, host, path, query = parts.groups()
    host = host.lower().removeprefix("www.").removesuffix(":80" if scheme.lower() == "http" else ":443").rstrip(".")
    kept = [part for part in (query or "").split("&") if part and not _TRACKING.fullmatch(part.partition("=")[0])]
    path = re.sub(r"(?i);jsessionid=[^/;]*", "", unquote(path)).rstrip("/").strip()
    return host + path + ("?" + "&".join(map(unquote, kept)) if kept else "")
