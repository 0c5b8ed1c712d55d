"""Stage dedup: of what is the same, or nearly, only one copy stays: of documents, of paragraphs and lines, of spans.

Passes over the shards, with memory for a few numbers per document in between:

    each shard -> a sketch beside it: hashes of texts and addresses, and keys that near-duplicates are likely to share
    all sketches -> clusters: documents that share a hash or a key, directly or through others; one of each stays
    each shard -> what its documents repeat of lines, paragraphs (repeats.py) and spans (spans.py), where these are asked
    each shard -> its documents that stay, without what they repeat; the others are dropped with the id of their keeper

Order is that of sources, shards and their rows, so the result does not depend on the number of workers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import xxhash
from pydantic import model_validator

from headwater.core import pool
from headwater.core.config import Config
from headwater.core.errors import EmptyResultError, InputError
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.documents.document import (
    DROPPED_SCHEMA,
    ShardFile,
    Tally,
    add_counts,
    drop,
    read_batches,
    shards_in,
    source_of,
    text_hashes,
)
from headwater.documents.overlap import clusters, near, partitions, repeats
from headwater.documents.overlap.clusters import Clusters, Keep, Sketch
from headwater.documents.overlap.cuts import Cuts, cut
from headwater.documents.overlap.near import NearDuplicates
from headwater.documents.overlap.repeats import Repeated, RepeatedLines, RepeatedParagraphs
from headwater.documents.overlap.spans import RepeatedSpans, SpanSearch


class Dedup(Config):
    """What counts as the same, and which copy stays."""

    exact: bool = True
    """Drop documents whose text is the same to the last byte, in whatever source."""
    url: bool = False
    """Drop documents with the same web address, aside from `www.`, tracking parameters and the like, whatever their
    text. Documents whose url is no web address are not compared."""
    near: NearDuplicates | None = NearDuplicates()
    """Drop documents that are nearly the same; null does not look for them."""
    keep: Keep = "first"
    """Which document of a cluster of copies stays: the `first`, `longest`, `newest` or `oldest`, that of the highest
    `quality`, or that of the best `source`; of several the first, in the order of sources and shards. One without a date or a
    score only stays when no other has one."""
    score: str = "quality"
    """Field of `meta` that holds the score for `keep: quality`, the higher the better. The cleaning step `quality` with
    `tag: true` writes `quality`; sources keep fields of their own with `meta: [...]`."""
    sources: tuple[str, ...] = ()
    """Names of sources, the best first; those not named come last. For `keep: source`."""
    paragraphs: RepeatedParagraphs | None = None
    """Cut out paragraphs that the corpus has already."""
    lines: RepeatedLines | None = None
    """Cut out lines that the corpus has too often."""
    spans: RepeatedSpans | None = None
    """Cut out long spans of text that the corpus has already, wherever they begin."""
    per_source: bool = False
    """Look for all of these within each source alone, so that each source keeps a copy."""

    @model_validator(mode="after")
    def _has_effect(self) -> Dedup:
        if not self.exact and not self.url and not any((self.near, self.paragraphs, self.lines, self.spans)):
            raise ValueError("does nothing; set one of exact, url, near, paragraphs, lines, spans or leave it out")
        if (self.keep == "source") != bool(self.sources):
            raise ValueError("keep: source and sources: [...] need each other")
        if self.score != type(self).model_fields["score"].default and self.keep != "quality":
            raise ValueError("score needs keep: quality")
        return self

    @property
    def repeated(self) -> dict[str, Repeated]:
        """Kind of part -> which parts of documents are cut out."""
        kinds = {"paragraphs": self.paragraphs, "lines": self.lines}
        return {name: kind for name, kind in kinds.items() if kind is not None}

    def salt(self, shard: Path, always: bool = False) -> int:
        """What makes hashes those of one source, where sources are not compared; else 0."""
        return xxhash.xxh3_64_intdigest(source_of(shard).encode()) if self.per_source or always else 0


@dataclass(frozen=True)
class _Work:
    """What all passes need.

    Attributes:
        settings: what counts as the same.
        shards: the shards of documents.
        out: where to work.
    """

    settings: Dedup
    shards: Sequence[Path]
    out: Workspace

    @property
    def folder(self) -> Path:
        """Where what lies between the passes is; it goes with the markers of the shards when the stage is finished."""
        return self.out.folder / ".done"

    @property
    def sketches(self) -> list[Sketch]:
        """The sketch of each shard."""
        return [Sketch(self.folder / "sketches" / shard.stem) for shard in self.shards]

    def over_shards(self, label: str, work: Any) -> list[Counts]:
        """Do something with the number of each shard."""
        numbers = range(len(self.shards))
        return pool.map(work, numbers, self.out, label=label, name=lambda n: self.shards[n].stem, threads=True)


def dedup(settings: Dedup, inputs: Inputs, out: Workspace) -> Counts:
    """Keep one of each cluster of duplicates, and cut out of the others' text what is repeated.

    Raises:
        EmptyResultError: there are no documents.
        InputError: a source is named that has no documents, or no document has a web address to compare.
    """
    shards = shards_in(inputs["documents"] / "documents")
    if not shards:
        raise EmptyResultError("there are no documents", place="dedup", hint="look at what the stages before dropped")
    for name in settings.sources:
        known = sorted({source_of(shard) for shard in shards})
        if name not in known:
            hint = f"sources with documents: {', '.join(known)}"
            raise InputError(f"source '{name}' has no documents", place="dedup.sources", hint=hint)
    work = _Work(settings, shards, out)
    sketched = add_counts(work.over_shards("sketch", functools.partial(_sketch, work)))
    if settings.url and not sketched["addresses"]:
        hint = "name the field with `fields: {url: ...}` when reading, or take `url: true` out"
        raise InputError("no document has a web address", place="dedup.url", hint=hint)
    if settings.keep == "quality" and not sketched["scored"]:
        hint = "set `tag: true` in the cleaning step `quality`, or keep the field when reading with `meta: [...]`"
        raise InputError(f"no document has a number '{settings.score}' in its meta", place="dedup.score", hint=hint)
    if settings.keep == "quality" and sketched["scored"] < sketched["documents"]:
        out.note(
            f"{sketched['documents'] - sketched['scored']:,} documents have no number '{settings.score}' in their meta"
        )
    found = _find_clusters(work)
    frequent = {name: _find_repeated(work, found, name, kind) for name, kind in settings.repeated.items()}
    spans = None
    if settings.spans is not None:
        salts = [settings.salt(shard) for shard in shards]
        spans = SpanSearch(settings.spans, shards, found.rules == 0, salts, found.starts, out)
        spans.run()
    counts = add_counts(work.over_shards("dedup", functools.partial(_write, work, found, frequent, spans)))
    if not counts["dropped"] and not counts["edited"]:
        out.note("no duplicates")
    return counts | {"clusters": found.size_classes()}


# -------------------------------------------------------------------------------------------------------- sketches


def _sketch(work: _Work, number: int) -> Counts:
    """Write the sketch of one shard."""
    settings, shard = work.settings, work.shards[number]
    salt = settings.salt(shard)
    found: dict[str, list[np.ndarray]] = {"ids": [], "text": [], "url": [], "near": [], "marks": [], "scores": []}
    row = 0
    for batch in read_batches(shard, ["id", "text", "url", "date", "meta"]):
        texts = batch.column("text")
        found["ids"].append(np.array(batch.column("id").to_pylist(), "S32"))
        found["text"].append(_records(text_hashes(texts), salt, row))
        if settings.url:
            found["url"].append(_records(clusters.url_hashes(batch.column("url").to_pylist()), salt, row))
        if settings.keep != "first":
            found["scores"].append(clusters.scores(settings.keep, batch, settings.sources, settings.score, shard))
        if settings.near is not None:
            keys, marks = settings.near.sketch(texts, settings.salt(shard, settings.near.per_source), row)
            found["near"].append(keys)
            found["marks"].append(marks)
        row += batch.num_rows
    sketch = work.sketches[number]
    for name in ("text", "url", "near"):
        if found[name]:
            partitions.write_records(sketch.folder / name, np.concatenate(found[name]))
    sketch.write(**{name: np.concatenate(found[name]) for name in ("ids", "marks", "scores") if found[name]})
    scored = sum(int((scores != clusters.UNSCORED).sum()) for scores in found["scores"])
    return {"documents": row, "addresses": sum(map(len, found["url"])), "scored": scored}


def _records(hashes: np.ndarray, salt: int, row: int) -> np.ndarray:
    """Hashes of documents of a shard as records, without those that are 0: [R] clusters.HASHES."""
    which = np.flatnonzero(hashes.any(axis=1))
    records = np.empty(len(which), clusters.HASHES)
    records["key"] = (hashes[which, 0] ^ np.uint64(salt)) | np.uint64(1)
    records["check"], records["row"] = hashes[which, 1], which + row
    return records


def _find_clusters(work: _Work) -> Clusters:
    """Unite documents that share a hash or a key, and choose which of each cluster stays."""
    from headwater.documents.overlap.sketch import clusters as flat
    from headwater.documents.overlap.sketch import unite_pairs

    settings, sketches = work.settings, work.sketches
    starts = np.concatenate([[0], np.cumsum([sketch.documents for sketch in sketches])])
    files = {name: [sketch.folder / name for sketch in sketches] for name in ("text", "url", "near")}
    parents = clusters.numbers(int(starts[-1]))
    same = {}
    with work.out.progress("find duplicates", 3, "steps") as bar:
        for name, asked in (("text", settings.exact), ("url", settings.url)):
            if asked:
                same[name] = clusters.numbers(len(parents))
                clusters.unite_files(same[name], files[name], clusters.HASHES, starts)
                unite_pairs(parents, clusters.numbers(len(parents)), flat(same[name]))
            bar.advance()
        if settings.near is not None and settings.near.verify:
            verification = near.Verification(settings.near, work.shards, files["near"], starts, work.out)
            for path in verification.pairs():
                pairs = np.fromfile(path, np.int64).reshape(-1, 2)
                unite_pairs(parents, pairs[:, 0].copy(), pairs[:, 1].copy())
        elif settings.near is not None and settings.near.min_similarity:
            near.unite_alike(parents, sketches, starts, settings.near.min_similarity)
        elif settings.near is not None:
            clusters.unite_files(parents, files["near"], near.KEYS, starts)
        bar.advance()
    keeper = clusters.choose(flat(parents), sketches, starts, settings.keep)
    rules = np.full(len(keeper), clusters.NEAR, np.uint8)
    for name, rule in (("url", clusters.URL), ("text", clusters.EXACT)):
        if name in same:
            rules[same[name] == same[name][keeper]] = rule
    rules[keeper == clusters.numbers(len(keeper))] = 0
    sizes = np.bincount(keeper, minlength=len(keeper)).astype(np.int32)
    return Clusters(keeper, rules, sizes, starts)


# --------------------------------------------------------------------------------------- lines and paragraphs


def _find_repeated(work: _Work, found: Clusters, name: str, kind: Repeated) -> list[Path]:
    """Find which lines or paragraphs of the documents that stay are too frequent: files for repeats.Frequent."""
    folder = work.folder / name
    files = [folder / "counts" / shard.stem for shard in work.shards]

    def count(shard: int) -> Counts:
        begin, hashes = int(found.starts[shard]), []
        for batch in read_batches(work.shards[shard], ["text"]):
            texts = repeats.texts_of(batch, found.rules[begin : begin + batch.num_rows] == 0)
            hashes.append(repeats.parts_of(texts, kind, work.settings.salt(work.shards[shard]))[3])
            begin += batch.num_rows
        return {"different": repeats.count_parts(files[shard], hashes)}

    work.over_shards(f"count-{name}", count)
    jobs = list(enumerate(partitions.ranges(files, repeats.COUNTS)))
    paths = [folder / "frequent" / f"{number:05d}" for number, _ in jobs]

    def find(job: tuple[int, tuple[int, int]]) -> Counts:
        return {"frequent": repeats.find_frequent(files, job[1], kind.max_count, paths[job[0]])}

    pool.map(find, jobs, work.out, label=f"repeated-{name}", name=lambda job: f"{job[0]:05d}", threads=True)
    return paths


# ---------------------------------------------------------------------------------------------------------- writing


class _Edits:
    """What is cut out of the documents of one shard, batch by batch."""

    def __init__(
        self, work: _Work, shard: int, frequent: dict[str, list[Path]], spans: SpanSearch | None, tally: Tally
    ) -> None:
        self.settings, self.tally = work.settings, tally
        self.salt = work.settings.salt(work.shards[shard])
        self.frequent = {name: repeats.Frequent(paths, shard) for name, paths in frequent.items()}
        self.spans = spans.cuts(shard) if spans is not None else None
        self.cut_bytes: dict[str, int] = {}

    def cut(self, rows: pa.RecordBatch, numbers: np.ndarray) -> tuple[pa.RecordBatch, list[pa.RecordBatch]]:
        """Edit documents that stay: what is left of them, and those of which too little is left.

        Args:
            rows: the documents.
            numbers: [documents] int64: their numbers in the shard.
        """
        found = {name: self._repeated(name, rows.column("text")) for name in self.frequent}
        if self.spans is not None:
            found["spans"] = self._spans(numbers)
        merged = Cuts.joined([Cuts.none(), *found.values()]).merged()
        if not len(merged.rows):
            return rows, []
        texts = cut(rows.column("text"), merged)
        edited = np.zeros(rows.num_rows, np.bool_)
        edited[merged.rows] = True
        size = repeats.text_sizes(rows.column("text"))
        share = merged.bytes_of(rows.num_rows) / np.maximum(size, 1)
        gone, batches = np.zeros(rows.num_rows, np.bool_), []
        if self.spans is not None and self.settings.spans is not None:
            spanned = np.zeros(rows.num_rows, np.bool_)
            spanned[found["spans"].rows] = True
            left, gone = self.settings.spans.too_little(texts, spanned)
            least = float(self.settings.spans.min_words_left)
            batches.append(self._drop(rows, gone, "repeated_spans", left.astype(np.float64), least, share))
        empty = (repeats.text_sizes(texts) == 0) & ~gone
        for name in self.frequent:  # by the first kind that took something of it
            of_kind = np.zeros(rows.num_rows, np.bool_)
            of_kind[found[name].rows] = True
            batches.append(self._drop(rows, empty & of_kind, f"repeated_{name}", np.ones(len(empty)), 1.0, share))
            empty = empty & ~of_kind
        gone |= repeats.text_sizes(texts) == 0
        self._count(found, gone)
        kept = rows.set_column(rows.schema.get_field_index("text"), rows.schema.field("text"), texts)
        return kept.filter(pa.array(~gone)), [batch for batch in batches if batch.num_rows]

    def _repeated(self, name: str, texts: pa.StringArray) -> Cuts:
        return self.frequent[name].cuts(*repeats.parts_of(texts, self.settings.repeated[name], self.salt))

    def _spans(self, numbers: np.ndarray) -> Cuts:
        """The spans of these documents, which stay and so are among those that were looked at."""
        assert self.spans is not None
        if not len(numbers):
            return Cuts.none()
        low, high = np.searchsorted(self.spans["row"], [numbers[0], numbers[-1] + 1])
        here = self.spans[low:high]
        rows = np.searchsorted(numbers, here["row"])
        return Cuts(rows.astype(np.int64), here["begin"].astype(np.int64), here["end"].astype(np.int64))

    def _drop(
        self, rows: pa.RecordBatch, which: np.ndarray, rule: str, values: np.ndarray, limit: float, share: np.ndarray
    ) -> pa.RecordBatch:
        details = [f"{part:.0%} of its text is repeated" for part in share[which].tolist()]
        return drop(rows.filter(pa.array(which)), "dedup", rule, values[which], limit, details)

    def _count(self, found: dict[str, Cuts], gone: np.ndarray) -> None:
        for name, cuts in found.items():
            stays = ~gone[cuts.rows]
            self.tally.edit(f"repeated_{name}", len(np.unique(cuts.rows[stays])))
            size = int((cuts.ends - cuts.begins)[stays].sum())
            self.cut_bytes[f"repeated_{name}"] = self.cut_bytes.get(f"repeated_{name}", 0) + size


def _write(
    work: _Work, found: Clusters, frequent: dict[str, list[Path]], spans: SpanSearch | None, number: int
) -> Counts:
    """Write the documents of one shard that stay, and beside them the dropped ones."""
    shard, folder = work.shards[number], work.out.folder
    tally = Tally(source_of(shard))
    edits = _Edits(work, number, frequent, spans, tally)
    begin = first = int(found.starts[number])
    with (
        ShardFile(folder / "documents" / shard.name) as kept,
        ShardFile(folder / "dropped" / shard.name, DROPPED_SCHEMA) as dropped,
    ):
        for rows in read_batches(shard):
            tally.take(rows)
            numbers = np.arange(begin, begin + rows.num_rows)
            begin += rows.num_rows
            copies = found.rules[numbers] != 0
            gone = []
            if copies.any():
                gone.append(_explain(found, work, rows.filter(pa.array(copies)), numbers[copies]))
            left = _with_sizes(rows.filter(pa.array(~copies)), found.sizes[numbers[~copies]])
            left, emptied = edits.cut(left, numbers[~copies] - first)
            tally.keep(left)
            kept.write(left)
            for batch in (*gone, *emptied):
                tally.drop(batch)
                dropped.write(batch)
    return tally.counts() | {"cut_bytes": edits.cut_bytes}


def _with_sizes(rows: pa.RecordBatch, sizes: np.ndarray) -> pa.RecordBatch:
    """Write to `meta` of each document that stays for others how many its cluster had, as `cluster_size`."""
    several = np.flatnonzero(sizes > 1)
    if not len(several):
        return rows
    meta = rows.column("meta").to_pylist()
    for place in several.tolist():
        known = orjson.loads(meta[place]) if meta[place] else {}
        meta[place] = orjson.dumps(known | {"cluster_size": int(sizes[place])}).decode()
    field = rows.schema.get_field_index("meta")
    return rows.set_column(field, rows.schema.field(field), pa.array(meta, pa.string()))


def _explain(found: Clusters, work: _Work, rows: pa.RecordBatch, numbers: np.ndarray) -> pa.RecordBatch:
    """Say of each dropped document which one is kept instead, and how similar the two are."""
    sketches, near_settings = work.sketches, work.settings.near
    threshold = near_settings.threshold if near_settings else 1.0
    rules, keepers = found.rules[numbers], found.keeper[numbers]
    kept = [identifier.decode() for identifier in _gather(found, sketches, "ids", keepers)]
    similarity = np.ones(len(numbers))
    same = rules == clusters.EXACT
    if not same.all() and near_settings:
        mine, theirs = (
            np.frombuffer(b"".join(_gather(found, sketches, "marks", places)), np.uint8).reshape(len(numbers), -1)
            for places in (numbers, keepers)
        )
        similarity = np.where(same, 1.0, near.estimate(mine, theirs))
    elif not same.all():  # nobody asked how similar the texts behind one address are
        similarity = np.where(same, 1.0, np.nan)
    names = [clusters.RULES[rule] for rule in rules.tolist()]
    limits = np.where(rules == clusters.NEAR, threshold, np.where(same, 1.0, np.nan))
    values, limits = (pa.array(column, from_pandas=True) for column in (similarity, limits))
    return drop(rows, "dedup", names, values, limits, kept)


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
