"""A finished index of the training documents' text, opened: where runs of words stand in it. index.py tells of its files."""

from __future__ import annotations

import functools
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headwater.core.errors import StoreError
from headwater.core.stage import check_fully, check_quickly
from headwater.core.store import read_json
from headwater.tokens import suffixes
from headwater.tokens.index import ROW_GROUP
from headwater.tokens.suffixes import Words

MOST_PLACES = 1000
"""Places of a match that are looked at, to tell in how many documents it stands."""
_AGAIN = "remove the folder and build the index again: headwater index"


class Document(NamedTuple):
    """A training document, as the index knows it."""

    id: str
    source: str
    number: int
    """Which document of its source, from 0, as in the token shards."""
    url: str | None
    licence: str | None


@dataclass(frozen=True)
class Place:
    """Where a run of words stands."""

    part: int
    """Part of the index."""
    row: int
    """Which document of the part."""
    byte: int
    """First byte in the document's text."""


class TextIndex:
    """A finished index, opened: files are mapped, and read where a search leads.

    Attributes:
        documents: how many there are.
        text_bytes: of their text.
        manifest: of the stage, with what it was made from.
    """

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        """Open an index.

        Args:
            folder: of a finished stage index.
            verify: compare every file with its hash; by default only the size, and the hash of files changed since.

        Raises:
            StoreError: there is no finished index here, or a file of it was changed.
        """
        if not (folder / "manifest.json").is_file():
            hint = "build one: headwater index RUN"
            raise StoreError("there is no finished index here", place=str(folder), hint=hint)
        (check_fully if verify else check_quickly)(folder)
        self.folder = folder
        self.manifest: dict[str, Any] = read_json(folder / "manifest.json")
        about = read_json(folder / "index.json")
        try:
            if about["schema"] != 1:
                raise ValueError(f"schema {about['schema']}")
            self._parts = [_Opened(folder / part["name"], part["documents"], part["words"]) for part in about["parts"]]
            self.documents = sum(part["documents"] for part in about["parts"])
            self.text_bytes = sum(part["text_bytes"] for part in about["parts"])
        except (KeyError, TypeError, ValueError) as error:
            place = str(folder / "index.json")
            raise StoreError(f"does not describe an index ({error!r})", place=place, hint=_AGAIN) from None

    def standing(self, words: Words, count: int) -> np.ndarray:
        """Whether each run of `count` words stands in a training document [words - count + 1] bool; [0] for fewer words."""
        begins, ends = words.begins[: max(len(words) - count + 1, 0)], words.ends[count - 1 :]
        found = np.zeros(len(begins), np.bool_)
        for part in self._parts:
            part.check(suffixes.mark_standing(words.data, begins, ends, part.text, part.order, found))
        return found

    def stands(self, words: Words, first: int, last: int) -> bool:
        """Whether the words from `first` up to `last`, not included, stand in a training document."""
        at, end = words.begins[first], words.ends[last - 1]
        return any(self._longest(part, words, at, end) == end - at for part in self._parts)

    def longest(self, words: Words, first: int) -> int:
        """How many words from `first` on stand in a training document as they stand here."""
        at, end = words.begins[first], words.ends[-1]
        most = max(self._longest(part, words, at, end) for part in self._parts)
        return int(np.searchsorted(words.ends, at + most, side="right")) - first

    def places(self, words: Words, first: int, last: int, most: int = MOST_PLACES) -> tuple[int, list[Place]]:
        """In how many places the words from `first` up to `last` stand, and some of these places, in order.

        Args:
            words: the text.
            first: the first word.
            last: the one after the last.
            most: places to tell of each part.
        """
        count, found = 0, []
        for number, part in enumerate(self._parts):
            at, end = words.begins[first], words.ends[last - 1]
            low, high = suffixes.standing(words.data, at, end, part.text, part.order)
            part.check(low >= 0 and high >= 0)
            count += high - low
            for byte in np.sort(part.order[low : min(high, low + most)]).tolist():
                row = int(np.searchsorted(part.starts, byte, side="right")) - 1
                found.append(Place(number, row, byte - int(part.starts[row])))
        return count, found

    def document(self, place: Place) -> Document:
        """The document of a place."""
        group, row = divmod(place.row, ROW_GROUP)
        return Document(**self._parts[place.part].rows(group).slice(row, 1).to_pylist()[0])

    def text(self, place: Place, before: int, after: int) -> tuple[str, str]:
        """Text of the document up to a place, at most so many bytes, and from it on."""
        part = self._parts[place.part]
        begin, end = part.bounds(place.row)
        at = begin + place.byte
        left = part.text[max(begin, at - before) : at].tobytes()
        right = part.text[at : min(end, at + after)].tobytes()
        return left.decode(errors="ignore"), right.decode(errors="ignore")

    def ids(self) -> Iterator[str]:
        """The id of every document."""
        for part in self._parts:
            for batch in pq.ParquetFile(part.path.with_suffix(".parquet")).iter_batches(columns=["id"]):
                yield from batch.column("id").to_pylist()

    def _longest(self, part: _Opened, words: Words, at: int, end: int) -> int:
        length = suffixes.longest(words.data, at, end, part.text, part.order)
        part.check(length >= 0)
        return length


class _Opened:
    """A part of an index, mapped."""

    def __init__(self, path: Path, documents: int, words: int) -> None:
        self.path = path
        self.text = _map(path.with_suffix(".text"), np.dtype(np.uint8))
        self.order = _map(path.with_suffix(".order"), np.dtype("<u4"))
        self._documents = documents
        self._file = pq.ParquetFile(path.with_suffix(".parquet"))
        self.rows = functools.lru_cache(maxsize=256)(self._rows)
        """Facts of a row group of documents."""
        if len(self.order) != words:
            problem = f"holds {len(self.order):,} words, index.json says {words:,}"
            raise StoreError(problem, place=str(path.with_suffix(".order")), hint=_AGAIN)

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """The first byte of each document's text [documents] uint32."""
        return pq.read_table(self.path.with_suffix(".parquet"), columns=["start"]).column("start").to_numpy()

    def _rows(self, group: int) -> pa.Table:
        return self._file.read_row_group(group, columns=list(Document._fields), use_threads=False)

    def bounds(self, row: int) -> tuple[int, int]:
        """The first byte of a document's text, and the one after its last."""
        after = int(self.starts[row + 1]) if row + 1 < self._documents else len(self.text)
        return int(self.starts[row]), after - 1

    def check(self, sound: bool) -> None:
        """Refuse to go on with a list of places that leads out of the text.

        Raises:
            StoreError: it does.
        """
        if not sound:
            place = str(self.path.with_suffix(".order"))
            raise StoreError("is damaged: it names places beyond the text", place=place, hint=_AGAIN)


def _map(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """A file as an array that cannot be written; read where it is looked at."""
    try:
        if not path.stat().st_size:
            return np.zeros(0, dtype)
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot be read ({error})", place=str(path), hint=_AGAIN) from None
