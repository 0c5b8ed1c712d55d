"""Stage decontaminate: take out of the documents what benchmarks will ask, and say of each item how much was found.

benchmarks -> items -> n-grams of words, or of characters where a script parts no words (benchmarks.py)
each shard -> its documents, looked through for these n-grams (membership.py); dropped, cut or tagged
all shards -> how much of each item is in some document: contaminated.jsonl, and sums for the manifest
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
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
from headwater.documents.overlap.benchmarks import Benchmark, Grams, Loaded, Sizes, check, load
from headwater.documents.overlap.cuts import Cuts, cut
from headwater.documents.read import SourceName

if TYPE_CHECKING:
    from headwater.documents.overlap.membership import Hits
    from headwater.documents.text.shingles import Units

REPORT = "contaminated.jsonl"
"""Of each item that was found: benchmark, item, coverage, longest_match, grams, documents, ids, match."""
_EXAMPLES = 5  # items of each benchmark in the manifest, and documents of each item
_SHOWN = 200  # characters of a match that are shown


class Decontaminate(Config):
    """Which benchmarks to look for in the documents, and what to do with documents that overlap with them.

    Source: Brown et al., GPT-3, arXiv 2005.14165, appendix C (13-grams, 200 characters around a match removed, rests of
    less than 200 characters dropped). We count distinct benchmark items, and n-grams of numbers alone never match.
    """

    benchmarks: dict[SourceName, Benchmark] = Field(min_length=1)
    """What to look for, each by a name: small letters, digits, `-` and `_`."""
    action: Literal["drop", "cut", "tag"] = "drop"
    """What becomes of a document that overlaps: it is dropped; or the matches are cut out of it; or it stays as it is and
    its `meta` names the items as `contaminated`."""
    ngram: int = Field(default=13, ge=8, le=13)
    """Words in an n-gram: one of them in common is an overlap. Fewer find more, also by chance."""
    character_ngram: int = Field(default=26, ge=12, le=64)
    """Characters in an n-gram of benchmarks in scripts without spaces, such as Chinese, Japanese, Korean and Thai."""
    min_words: Count = Field(default=8, ge=4)
    """Words of a field that is shorter than an n-gram but is looked for as a whole (characters: twice as many). Shorter
    ones are not looked for; the manifest counts their items."""
    min_coverage: float = Field(default=0.0, ge=0, le=1)
    """Share of an item that a document must have for an overlap; by default any n-gram counts."""
    margin_words: Count = Field(default=30, ge=0)
    """Words on either side that are cut together with a match, so that no answer stays behind. For `action: cut`."""
    min_words_left: Count = Field(default=30, ge=0)
    """Words that must be left of a document that was cut; else it is dropped. For `action: cut`."""

    @model_validator(mode="after")
    def _has_effect(self) -> Decontaminate:
        for name in ("margin_words", "min_words_left"):
            if self.action != "cut" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} needs action: cut")
        if self.min_words > self.ngram:
            raise ValueError(f"min_words {self.min_words} is more than ngram {self.ngram}")
        return self

    @property
    def words(self) -> Sizes:
        """Sizes for texts in words."""
        return Sizes(self.ngram, self.min_words)

    @property
    def characters(self) -> Sizes:
        """Sizes for texts of scripts without spaces."""
        return Sizes(self.character_ngram, min(2 * self.min_words, self.character_ngram))

    def fingerprint(self, hash_file: Callable[[Path], str]) -> dict[str, Any]:
        """What is in the files of the benchmarks.

        Raises:
            InputError: a file is missing or unreadable, or no item has one of the fields.
            EmptyResultError: a benchmark has nothing that could be looked for.
        """
        for name, benchmark in self.benchmarks.items():
            check(name, benchmark, self.min_words)
        return {name: benchmark.fingerprint(hash_file) for name, benchmark in self.benchmarks.items()}


class Overlap(NamedTuple):
    """How much of an item a document has."""

    item: int
    """Index in Loaded.items."""
    coverage: float
    """Share of its words (or characters) that are in matches."""
    longest: int
    """Units of the longest match."""
    grams: int
    """Different n-grams."""
    begin: int
    """Unit of the document with which its longest match begins."""
    characters: bool
    """Units are characters, not words."""


def decontaminate(settings: Decontaminate, inputs: Inputs, out: Workspace) -> Counts:
    """Drop, cut or tag the documents that overlap with benchmarks.

    Raises:
        EmptyResultError: there are no documents, a benchmark has nothing to look for, or nothing is left.
        InputError: a file or field of a benchmark is missing or unreadable.
    """
    shards = shards_in(inputs["documents"] / "documents")
    if not shards:
        hint = "look at what the stages before dropped"
        raise EmptyResultError("there are no documents", place="decontaminate", hint=hint)
    loaded = load(settings.benchmarks, settings.words, settings.characters)
    work = functools.partial(_clean_shard, settings, loaded, out.folder)
    parts = pool.map(work, shards, out, label="decontaminate", name=lambda shard: shard.stem, threads=True)
    found = _by_item(part.pop("items") for part in parts)
    _write_report(loaded, found, out.folder / REPORT)
    counts = add_counts(parts)
    touched = counts.pop("touched")
    if not counts["documents_out"]:
        hint = "is a benchmark itself among the sources? look at contaminated documents in dropped/, or set action: tag"
        raise EmptyResultError("every document overlaps with a benchmark", place="decontaminate", hint=hint)
    for name, count in loaded.counts.items():
        if count["items_too_short"]:
            out.note(f"{name}: {count['items_too_short']:,} of {count['items']:,} items are too short to be looked for")
    if not found:
        searched = sum(count["grams"] for count in loaded.counts.values())
        out.note(f"none of {searched:,} benchmark n-grams is in the documents")
    return counts | {"benchmarks": _by_benchmark(loaded, found, touched)}


# ------------------------------------------------------------------------------------------------------- one shard


def _clean_shard(settings: Decontaminate, loaded: Loaded, folder: Path, shard: Path) -> Counts:
    """Write the documents of one shard that stay, and beside them the dropped ones; returns also what was found."""
    tally, items = Tally(source_of(shard)), {}
    touched = dict.fromkeys(loaded.counts, 0) | {"any": 0}
    with (
        ShardFile(folder / "documents" / shard.name) as kept,
        ShardFile(folder / "dropped" / shard.name, DROPPED_SCHEMA) as dropped,
    ):
        for rows in read_batches(shard):
            tally.take(rows)
            matches = Matches(settings, loaded, rows.column("text"))
            overlaps = {row: matches.overlaps(row) for row in matches.documents}
            overlaps = {row: found for row, found in overlaps.items() if found}
            for row, found in overlaps.items():
                names = {loaded.items[overlap.item].benchmark for overlap in found}
                for name in (*names, "any"):
                    touched[name] += 1
                identifier = rows.column("id")[row].as_py()
                for overlap in found:
                    _remember(items, overlap, identifier, matches.excerpt(row, overlap))
            left, gone = _act(settings, loaded, rows, matches, overlaps, tally)
            tally.keep(left)
            kept.write(left)
            if gone is not None:
                tally.drop(gone)
                dropped.write(gone)
    return tally.counts() | {"touched": touched, "items": {str(item): found for item, found in items.items()}}


class Matches:
    """The n-grams of benchmarks in a batch of documents."""

    def __init__(self, settings: Decontaminate, loaded: Loaded, texts: pa.StringArray) -> None:
        self.settings, self.loaded, self.texts = settings, loaded, texts
        self._found: list[tuple[Units, Grams, Hits]] = []
        self._search(loaded.words, loaded.characters)
        self.documents: list[int] = sorted({row for _, _, hits in self._found for row in hits.documents.tolist()})

    def _search(self, words: Grams, characters: Grams) -> None:
        from headwater.documents.overlap.membership import find
        from headwater.documents.text.shingles import units

        table = units(self.texts, "words", numbers=True)
        if len(words.keys):
            self._found.append((table, words, find(table, words, self.settings.words)))
        sizes = self.settings.characters
        perhaps = table.unspaced >= sizes.least // 2
        if len(characters.keys) and perhaps.any():
            table = units(self.texts, "characters", perhaps, numbers=True)
            self._found.append((table, characters, find(table, characters, sizes)))

    def overlaps(self, row: int) -> list[Overlap]:
        """The items that a document has enough of."""
        found: dict[int, Overlap] = {}
        for _, grams, hits in self._found:
            for overlap in self._overlaps(row, grams, hits):
                other = found.get(overlap.item)
                if other is not None:  # some fields of the item are in words and others in characters
                    longer = max(other, overlap, key=lambda one: one.longest)
                    coverage, count = other.coverage + overlap.coverage, other.grams + overlap.grams
                    overlap = longer._replace(coverage=coverage, grams=count)
                found[overlap.item] = overlap
        return [overlap for _, overlap in sorted(found.items()) if overlap.coverage >= self.settings.min_coverage]

    def _overlaps(self, row: int, grams: Grams, hits: Hits) -> Iterator[Overlap]:
        """What a document has of each item in words, or in characters."""
        own = slice(*np.searchsorted(hits.documents, [row, row + 1]).tolist())
        places, sizes, found = hits.places[own], hits.sizes[own], hits.grams[own]
        starts, counts = grams.offsets[found], grams.offsets[found + 1] - grams.offsets[found]
        which = np.repeat(np.arange(len(found)), counts)  # a hit counts for each item that has the n-gram
        at = np.repeat(starts, counts) + np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        parts = grams.parts[at]
        items, positions = self.loaded.part_items[parts], self.loaded.part_begins[parts] + grams.positions[at]
        for item in np.unique(items).tolist():
            of_item = np.flatnonzero(items == item)
            hit = which[of_item]
            coverage = _covered(positions[of_item], sizes[hit]) / self.loaded.items[item].units
            begin, longest = _longest(places[hit], sizes[hit])
            yield Overlap(item, coverage, longest, len(np.unique(found[hit])), begin, grams is self.loaded.characters)

    def excerpt(self, row: int, overlap: Overlap) -> str:
        """The text of the longest match."""
        of = self.loaded.characters if overlap.characters else self.loaded.words
        table = next(table for table, grams, _ in self._found if grams is of)
        begin, end = self._bytes(table, row, overlap.begin, overlap.begin + overlap.longest)
        return self._text(row)[begin:end].decode(errors="replace")[:_SHOWN]

    def cuts(self, rows: Iterable[int]) -> Cuts:
        """All matches in some documents with the margin on both sides."""
        found: list[tuple[int, int, int]] = []
        margin = self.settings.margin_words
        wanted = set(rows)
        for table, _, hits in self._found:
            for row, place, size in zip(
                hits.documents.tolist(), hits.places.tolist(), hits.sizes.tolist(), strict=True
            ):
                if row in wanted:
                    found.append((row, *self._bytes(table, row, place - margin, place + size + margin)))
        return Cuts(*np.array(found, np.int64).reshape(-1, 3).T).merged()

    def _bytes(self, table: Units, row: int, first: int, end: int) -> tuple[int, int]:
        """Where units of a document begin and end in its bytes."""
        low, high = int(table.offsets[row]), int(table.offsets[row + 1])
        start = int(text_buffer(self.texts)[1][row])
        begin = int(table.begins[max(low, low + first)]) - start
        return begin, int(table.ends[min(high, low + end) - 1]) - start

    def _text(self, row: int) -> bytes:
        data, starts = text_buffer(self.texts)
        return data[starts[row] : starts[row + 1]].tobytes()


def _covered(positions: np.ndarray, sizes: np.ndarray) -> int:
    """How many units are in at least one of some stretches.

    >>> _covered(np.array([4, 0, 2]), np.array([3, 3, 3]))
    7
    """
    order = np.argsort(positions)
    ends = positions[order] + sizes[order]
    reach = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
    return int(np.maximum(ends - np.maximum(positions[order], reach), 0).sum())


def _longest(places: np.ndarray, sizes: np.ndarray) -> tuple[int, int]:
    """Where the longest run of n-grams that follow each other begins, and its units.

    >>> _longest(np.array([1, 7, 8, 9, 20]), np.array([3, 3, 3, 3, 4]))
    (7, 5)
    """
    order = np.lexsort((sizes, places))
    places, sizes = places[order], sizes[order]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(places) > 1]))
    ends = np.append(starts[1:], len(places)) - 1
    lengths = places[ends] + sizes[ends] - places[starts]
    best = int(np.argmax(lengths))
    return int(places[starts[best]]), int(lengths[best])


def _act(
    settings: Decontaminate,
    loaded: Loaded,
    rows: pa.RecordBatch,
    matches: Matches,
    overlaps: dict[int, list[Overlap]],
    tally: Tally,
) -> tuple[pa.RecordBatch, pa.RecordBatch | None]:
    """Do with documents that overlap what the settings say: what is left, and what is dropped."""
    if not overlaps:
        return rows, None
    gone = np.zeros(rows.num_rows, np.bool_)
    left = rows
    if settings.action == "tag":
        return _tag(loaded, rows, overlaps, tally), None
    if settings.action == "drop":
        gone[list(overlaps)] = True
    else:
        from headwater.documents.text.shingles import units

        texts = cut(rows.column("text"), matches.cuts(overlaps))
        edited = np.zeros(rows.num_rows, np.bool_)
        edited[list(overlaps)] = True
        gone = edited & (np.diff(units(texts, "auto", edited).offsets) < max(1, settings.min_words_left))
        tally.edit("overlap", int((edited & ~gone).sum()))
        left = rows.set_column(rows.schema.get_field_index("text"), rows.schema.field("text"), texts)
    if not gone.any():
        return left, None
    best = [max(overlaps[row], key=lambda overlap: overlap.coverage) for row in np.flatnonzero(gone).tolist()]
    items = [loaded.items[overlap.item] for overlap in best]
    details = [
        f"{item.benchmark}#{item.number}: {overlap.longest} in a row: {matches.excerpt(row, overlap)}"
        for row, item, overlap in zip(np.flatnonzero(gone).tolist(), items, best, strict=True)
    ]
    rules, values = [item.benchmark for item in items], [overlap.coverage for overlap in best]
    dropped = drop(rows.filter(pa.array(gone)), "decontaminate", rules, values, settings.min_coverage, details)
    return left.filter(pa.array(~gone)), dropped


def _tag(loaded: Loaded, rows: pa.RecordBatch, overlaps: dict[int, list[Overlap]], tally: Tally) -> pa.RecordBatch:
    """Write to `meta` which items a document overlaps with."""
    meta = rows.column("meta").to_pylist()
    for row, found in overlaps.items():
        items = sorted({loaded.items[overlap.item] for overlap in found})
        known = orjson.loads(meta[row]) if meta[row] else {}
        names = [f"{item.benchmark}#{item.number}" for item in items]
        meta[row] = orjson.dumps(known | {"contaminated": names}).decode()
    tally.edit("tagged", len(overlaps))
    field = rows.schema.get_field_index("meta")
    return rows.set_column(field, rows.schema.field(field), pa.array(meta, pa.string()))


# ---------------------------------------------------------------------------------------------------------- report


def _remember(items: dict[int, dict[str, Any]], overlap: Overlap, identifier: str, match: str) -> None:
    """Add what one document has of an item to what is known of it."""
    found = {
        "coverage": overlap.coverage,
        "longest_match": overlap.longest,
        "grams": overlap.grams,
        "documents": 1,
        "ids": [[overlap.coverage, identifier]],
        "match": match,
    }
    items[overlap.item] = _more(items[overlap.item], found) if overlap.item in items else found


def _more(known: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What two sets of documents have of an item: the most that one document has, and how many there are."""
    better = max(known, other, key=lambda found: found["longest_match"])  # the first of two that are as long
    most = {name: max(known[name], other[name]) for name in ("coverage", "longest_match", "grams")}
    ids = sorted(known["ids"] + other["ids"], key=lambda pair: (-pair[0], pair[1]))[:_EXAMPLES]
    return most | {"documents": known["documents"] + other["documents"], "ids": ids, "match": better["match"]}


def _by_item(parts: Iterable[dict[str, dict[str, Any]]]) -> dict[int, dict[str, Any]]:
    """What all shards have of each item, in the order of items."""
    found: dict[int, dict[str, Any]] = {}
    for part in parts:
        for item, more in part.items():
            found[int(item)] = _more(found[int(item)], more) if int(item) in found else more
    return dict(sorted(found.items()))


def _described(loaded: Loaded, item: int, found: dict[str, Any]) -> dict[str, Any]:
    """What is said of an item that was found."""
    ids = [identifier for _, identifier in found["ids"]]
    known = {"benchmark": loaded.items[item].benchmark, "item": loaded.items[item].number}
    return known | found | {"coverage": round(found["coverage"], 4), "ids": ids}


def _write_report(loaded: Loaded, found: dict[int, dict[str, Any]], path: Path) -> None:
    """Write a line for each item that was found."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.writelines(orjson.dumps(_described(loaded, item, more)) + b"\n" for item, more in found.items())


def _by_benchmark(
    loaded: Loaded, found: dict[int, dict[str, Any]], touched: dict[str, int]
) -> dict[str, dict[str, Any]]:
    """The sums of each benchmark, and its items of which most was found."""
    report: dict[str, dict[str, Any]] = {}
    for name, counts in loaded.counts.items():
        own = [_described(loaded, item, more) for item, more in found.items() if loaded.items[item].benchmark == name]
        top = sorted(own, key=lambda item: (-item["coverage"], item["item"]))[:_EXAMPLES]
        sums = {"items_contaminated": len(own), "documents": touched[name]}
        report[name] = (
            counts | sums | {"examples": [{k: v for k, v in item.items() if k != "benchmark"} for item in top]}
        )
    return report
