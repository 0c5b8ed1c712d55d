"""Benchmarks as files of items, and the n-grams that tell whether a document holds an item."""

from __future__ import annotations

import csv
import io
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from headwater.core.config import Config, nearest
from headwater.core.errors import EmptyResultError, InputError
from headwater.documents.sources.files import Paths, find, unreadable, whole

LEAST_DISTINCT = 1 / 3
"""Share of different words that an n-gram has at least to count: `0 0 0 0 0` is in any table of numbers."""
LEAST_LETTERS = 1 / 2
"""Share of words with a letter that an n-gram has at least to count: `1 2 3 4 5` is in any list."""


class BenchmarkFiles(Config):
    """Items of a benchmark, in files."""

    paths: Paths = Field(min_length=1)
    """Files, folders or patterns; one may stand alone. Plain, .gz or .zst."""

    def fingerprint(self, hash_file: Callable[[Path], str]) -> list[list[Any]]:
        """Path and content hash of each file."""
        return [[path, hash_file(Path(path))] for path in self.files()]

    def files(self) -> list[str]:
        """The files that `paths` name, in their order.

        Raises:
            InputError: nothing is there, or a named file is empty.
        """
        found = (file for path in self.paths for file in find(str(Path(path).expanduser()), self.suffixes()))
        return list(dict.fromkeys(found))

    def items(self, name: str) -> Iterator[list[str]]:
        """The texts of each item, in order.

        Raises:
            InputError: a file cannot be read as what it should be, or no item has a field; names the nearest one.
        """
        for path in self.files():
            yield from self.items_of(path, name)

    @abstractmethod
    def items_of(self, path: str, name: str) -> Iterator[list[str]]:
        """The texts of each item of one file."""

    @classmethod
    @abstractmethod
    def suffixes(cls) -> tuple[str, ...]:
        """How files are named that are taken from a folder, compression aside."""


class Records(BenchmarkFiles):
    """Items that are records with fields."""

    fields: tuple[str, ...] = Field(min_length=1)
    """Fields that are text of the item, such as `question` and `answer`; `a.b` is field b of object a. Lists and objects
    stand for all text in them, the names of an object's fields too. No n-gram goes across fields."""

    @abstractmethod
    def records(self, path: str) -> Iterator[Any]:
        """The records of one file."""

    def items_of(self, path: str, name: str) -> Iterator[list[str]]:
        """The texts in the fields of each record."""
        unseen, known = set(self.fields), set()
        for record in self.records(path):
            parts = []
            for field in self.fields:
                value: Any = record
                for key in field.split("."):
                    value = value.get(key) if isinstance(value, dict) else None
                parts += texts_in(value)
                if value is not None:
                    unseen.discard(field)
            known |= record.keys() if isinstance(record, dict) else set()
            yield parts
        if unseen:
            field = min(unseen)
            problem = f"no record of {path} has a field '{field}'{nearest(field, known)}"
            place = f"decontaminate.benchmarks.{name}.fields"
            raise InputError(problem, place=place, hint="name fields that the records have")


class JsonLinesBenchmark(Records):
    """JSON Lines, or one JSON array of objects."""

    use: Literal["jsonl"]

    def records(self, path: str) -> Iterator[Any]:
        """One record for each line, or for each member of the array."""
        content = whole(path)
        lines = [content] if content.lstrip()[:1] == b"[" else content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    found = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    place = f"{path}:{number}"
                    raise InputError(f"is not JSON ({error})", place=place, hint="mend or leave out the line") from None
                yield from found if isinstance(found, list) else (found,)

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Files of a folder that are JSON."""
        return (".jsonl", ".ndjson", ".json")


class CsvBenchmark(Records):
    """Comma-separated values with the names of the fields in the first line."""

    use: Literal["csv"]
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """What parts the fields."""

    def records(self, path: str) -> Iterator[Any]:
        """One record for each row."""
        try:
            text = whole(path).decode()
            yield from csv.DictReader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True)
        except UnicodeDecodeError as error:
            raise InputError(f"is not UTF-8 (byte {error.start})", place=path, hint="convert it to UTF-8") from None
        except csv.Error as error:
            raise InputError(f"is not CSV ({error})", place=path, hint="check `delimiter` and the quotes") from None

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Files of a folder that are tables."""
        return (".csv", ".tsv")


class ParquetBenchmark(Records):
    """Parquet files."""

    use: Literal["parquet"]

    def records(self, path: str) -> Iterator[Any]:
        """One record for each row."""
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(1000, use_threads=False):
                    yield from batch.to_pylist()
        except OSError as error:
            raise unreadable(path, error) from None
        except pa.ArrowInvalid as error:
            problem = f"is not a Parquet file, or only the beginning of one ({str(error).splitlines()[0]})"
            raise InputError(problem, place=path, hint="download or write it again") from None

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Files of a folder that are Parquet."""
        return (".parquet",)


class TextBenchmark(BenchmarkFiles):
    """Plain text files in UTF-8."""

    use: Literal["text"]
    split: Literal["lines", "blank_lines", "file"] = "lines"
    """What is an item: a line, what stands between blank lines, or a file."""

    def items_of(self, path: str, name: str) -> Iterator[list[str]]:  # noqa: ARG002  (text has no fields to complain about)
        """The pieces of a file."""
        try:
            text = whole(path).decode().replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise InputError(f"is not UTF-8 (byte {error.start})", place=path, hint="convert it to UTF-8") from None
        pieces = [text] if self.split == "file" else text.split("\n" if self.split == "lines" else "\n\n")
        yield from ([piece] for piece in pieces if piece.strip())

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Files of a folder that are text."""
        return (".txt", ".text", ".md")


Benchmark = Annotated[JsonLinesBenchmark | CsvBenchmark | ParquetBenchmark | TextBenchmark, Field(discriminator="use")]


def texts_in(value: Any) -> Iterator[str]:
    """All text in a value, with the names of its fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)
    elif isinstance(value, float | int) and not isinstance(value, bool):
        yield json.dumps(value)


# --------------------------------------------------------------------------------------------------------- n-grams


class Sizes(NamedTuple):
    """Units of an n-gram, and the fewest of a text that is looked for as a whole."""

    gram: int
    least: int


class Grams(NamedTuple):
    """The n-grams of all benchmarks, of words or of characters, for kernels in membership.py."""

    keys: np.ndarray
    """[G] uint64, sorted: hash of each different n-gram"""
    bits: np.ndarray
    """[B] uint8: which hashes are perhaps among them"""
    lengths: np.ndarray
    """[lengths] int64: sizes of texts that are looked for as a whole"""
    prefix_bits: np.ndarray
    """[B] uint8: which hashes of `least` units perhaps begin one of these"""
    offsets: np.ndarray
    """[G + 1] int64: where the places of each n-gram begin"""
    parts: np.ndarray
    """[P] int64: text of a benchmark that has the n-gram"""
    positions: np.ndarray
    """[P] int64: its first unit in it"""


class Item(NamedTuple):
    """An item of a benchmark."""

    benchmark: str
    number: int
    """From 1 on, as in the files."""
    units: int
    """Words or characters in it."""


class Loaded(NamedTuple):
    """All benchmarks, ready to be looked for."""

    items: list[Item]
    part_items: np.ndarray
    """[parts] int64: the item of each text"""
    part_begins: np.ndarray
    """[parts] int64: units of the item before each of its texts"""
    words: Grams
    characters: Grams
    counts: dict[str, dict[str, int]]
    """Benchmark -> items, items_whole, items_too_short, grams"""


def check(name: str, benchmark: BenchmarkFiles, min_words: int) -> None:
    """Make sure, before anything runs, that a benchmark has something that can be looked for; cheap where its first items do.

    Raises:
        InputError: a file is missing or unreadable, or no item has one of the fields.
        EmptyResultError: no item has a text of so many words, or of twice as many characters without spaces.
    """
    try:
        for parts in benchmark.items(name):
            for part in parts:
                if len(part.split()) >= min_words or (not part.isascii() and len(part) >= 2 * min_words):
                    return
    except InputError as error:
        raise type(error)(f"{error.problem} (benchmark '{name}')", place=error.place, hint=error.hint) from None
    problem = f"has no item with {min_words} words in a field: nothing could be looked for"
    hint = "check `paths` and `fields`; what is not looked for is not clean"
    raise EmptyResultError(problem, place=f"decontaminate.benchmarks.{name}", hint=hint)


def load(benchmarks: Mapping[str, Any], words: Sizes, characters: Sizes) -> Loaded:
    """Read benchmarks and make their n-grams.

    Args:
        benchmarks: settings by name.
        words: sizes for texts in words.
        characters: sizes for texts of scripts without spaces.

    Raises:
        InputError: a file or field is missing or unreadable.
        EmptyResultError: a benchmark has no n-gram: looking for it would find nothing and mean nothing.
    """
    from headwater.documents.overlap.membership import collect
    from headwater.documents.text.shingles import units

    items: list[Item] = []
    texts: list[str] = []
    owners: list[int] = []
    for name, settings in benchmarks.items():
        for number, parts in enumerate(settings.items(name), start=1):
            texts += parts
            owners += [len(items)] * len(parts)
            items.append(Item(name, number, 0))
    table = units(pa.array(texts, pa.string()), "auto", numbers=True)
    sizes = np.diff(table.offsets)
    part_items = np.array(owners, np.int64)
    totals = np.bincount(part_items, sizes, len(items)).astype(np.int64)
    items = [item._replace(units=total) for item, total in zip(items, totals.tolist(), strict=True)]
    before = np.cumsum(sizes) - sizes
    begins = before - before[np.searchsorted(part_items, part_items)] if len(texts) else before
    both = [collect(texts, table, part, of) for part, of in ((False, words), (True, characters))]
    looked_for = np.zeros(len(texts), np.int64)  # how: 0 not at all, 1 as a whole, 2 by n-grams
    grams = np.zeros(len(texts), np.int64)
    for found, of, chosen in zip(both, (words, characters), (~table.characters, table.characters), strict=True):
        grams += np.bincount(found.parts, minlength=len(texts))
        looked_for[chosen] = (sizes[chosen] >= of.least).astype(np.int64) + (sizes[chosen] >= of.gram)
    looked_for[grams == 0] = 0
    counts = _counts(benchmarks, items, part_items, looked_for, grams)
    for name, count in counts.items():
        if not count["grams"]:
            problem = f"yields no n-grams: {count['items']} items, none with {words.least} words in a field"
            hint = "check `paths` and `fields`; what is not looked for is not clean"
            raise EmptyResultError(problem, place=f"decontaminate.benchmarks.{name}", hint=hint)
    return Loaded(items, part_items, begins, both[0], both[1], counts)


def _counts(
    benchmarks: Mapping[str, Any], items: list[Item], part_items: np.ndarray, looked_for: np.ndarray, grams: np.ndarray
) -> dict[str, dict[str, int]]:
    """How many items each benchmark has, and how many of them are looked for in which way."""
    how = np.zeros(len(items), np.int64)
    np.maximum.at(how, part_items, looked_for)
    of_item = np.bincount(part_items, grams, len(items)).astype(np.int64)
    names = np.array([item.benchmark for item in items], np.str_)
    return {
        name: {
            "items": int((names == name).sum()),
            "items_whole": int(((names == name) & (how == 1)).sum()),
            "items_too_short": int(((names == name) & (how == 0)).sum()),
            "grams": int(of_item[names == name].sum()),
        }
        for name in benchmarks
    }
