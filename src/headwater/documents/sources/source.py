"""What every kind of source has in common: how it is cut in parts, and where the documents of a part go."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from headwater.core.config import Config
from headwater.core.errors import InputError
from headwater.core.units import Count
from headwater.documents.document import DROPPED_SCHEMA, ROW_GROUP_BYTES, Shards, Tally, documents_of, drop
from headwater.documents.sources.dates import iso_date
from headwater.documents.sources.removal import Removal, without_content

PLACES_KEPT = 3
"""Bad records and damaged files that a message names."""
MAX_RECORD_BYTES = 64 << 20
"""Longest line, and largest file read as one document [bytes]: whatever is longer is not what the recipe takes it for,
and would have to be held in memory whole. It is dropped."""
_REJECTED_AT_ONCE = 64  # bad records that are written together
_HOPELESS = 1000
"""Bad records after which a part in which they are the majority is given up at once, not at the end of the source."""


class SourceSettings(Config):
    """Settings of one source of documents, and how it is read."""

    max_documents: Count | None = Field(default=None, ge=1)
    """Stop after so many documents, in the order of the files; these are then read one after the other."""

    @abstractmethod
    def parts(self, part_bytes: int) -> Sequence[Any]:
        """Cut the source in parts of about `part_bytes` that can be read alone, in a fixed order.

        Raises:
            InputError: a file is missing, unreadable or not of the form that the settings say.
        """

    @abstractmethod
    def read(self, part: Any, intake: Intake) -> None:
        """Read one part: give its documents and its bad records to `intake`.

        Raises:
            InputError: the part cannot be read to its end.
        """

    @abstractmethod
    def fingerprint(self, hash_file: Callable[[Path], str]) -> Any:
        """What the settings do not tell about the source: JSON-able, other when its content is.

        Raises:
            InputError: a file is missing, unreadable or empty.
        """

    @abstractmethod
    def input_bytes(self) -> int:
        """Size of what will be read, as it lies on disk [bytes]: cheap, for planning; 0 when that is not known yet."""

    def fetch(self, part_bytes: int, cache: Path, workers: int) -> Sequence[Any]:
        """Cut the source in parts, after bringing here what must be: by default nothing.

        Args:
            part_bytes: size of a part.
            cache: a folder for what is brought here; still there when a stopped run goes on, gone when the stage is done.
            workers: how many threads may work on it.
        """
        del cache, workers
        return self.parts(part_bytes)

    def warnings(self) -> list[str]:
        """What the user should know about the source though it can be read."""
        return []

    def check_fields(self, known: set[str], source: str) -> None:
        """Make sure that each field that the settings name is in some record, when records need not have all fields.

        Args:
            known: names of the fields that records have (Intake.fields).
            source: name of the source.

        Raises:
            InputError: no record has a field; names the nearest one.
        """

    def text_bytes(self) -> float:
        """Estimate of the text that will come out [UTF-8 bytes], before anything is read."""
        return float(self.input_bytes())


class Intake:
    """Takes what one part of a source yields: documents, and bad records with the reason; writes and counts both.

    Attributes:
        tally: the counts.
        seen: records so far, good and bad.
        bad: bad records so far.
        places: where the first bad records are and what is wrong with them.
        lost_dates: dates that no one can tell, and the first of them.
        damaged: what is wrong with each file that could not be read to its end, by its path.
        fields: names of fields that records have, as far as the source looks for them.
        limit: documents after which there are enough; None for all.
    """

    def __init__(
        self,
        source: str,
        folder: Path,
        name: str,
        shard_bytes: int,
        max_bad_fraction: float,
        removal: Removal | None = None,
    ) -> None:
        self.source = source
        self._removal = removal
        self.tally = Tally(source)
        self.seen = self.bad = 0
        self.places: list[str] = []
        self.damaged: dict[str, str] = {}
        self.lost_dates: tuple[int, str] = (0, "")
        self.fields: set[str] = set()
        self.limit: int | None = None
        self._rejected: list[tuple[str, str, str, str, float | None, float | None]] = []
        self._max_bad_fraction = max_bad_fraction
        self._documents = Shards(folder / "documents", name, shard_bytes=shard_bytes)
        self._dropped = Shards(folder / "dropped", name, DROPPED_SCHEMA, shard_bytes)
        self._stack = ExitStack()

    def add(self, texts: Sequence[str] | pa.StringArray, **columns: Any) -> None:
        """Take documents, but for those to be forgotten and those without a visible character.

        The rules that drop them are `forgotten`, which keeps no text, and `empty`.

        Args:
            texts: the text of each document.
            **columns: other columns of a document, one value for all or one for each.

        Raises:
            EnoughError: that is as many as `limit` allows.
        """
        if len(texts) == 0:
            return
        if columns.get("date") is not None:
            columns["date"] = self._dates(columns["date"])
        batch = documents_of(self.source, texts, **columns)
        text = batch.column("text")
        space, nothing = pc.call_function("utf8_is_space", [text]), pc.call_function("equal", [text, ""])
        visible = pc.call_function("invert", [pc.call_function("or", [space, nothing])])
        if self.limit is not None:
            upto = np.cumsum(visible.to_numpy(zero_copy_only=False)) + self.tally.documents_out
            within = int(np.searchsorted(upto, self.limit)) + 1
            batch, visible = batch.slice(0, within), visible.slice(0, within)
        self.seen += batch.num_rows
        self.tally.take(batch)
        if self._removal is not None and (forgotten := self._removal.fits(batch)).any():
            self._drop(drop(without_content(batch.filter(pa.array(forgotten))), "read", "forgotten", None, None))
            left = pa.array(~forgotten)
            batch, visible = batch.filter(left), visible.filter(left)
        if visible.true_count < batch.num_rows:
            self._drop(drop(batch.filter(pc.call_function("invert", [visible])), "read", "empty", None, None))
            batch = batch.filter(visible)
        self.tally.keep(batch)
        self._documents.write(batch)
        if self.limit is not None and self.tally.documents_out >= self.limit:
            raise EnoughError

    def reject(
        self,
        rule: str,
        text: str,
        *,
        url: str,
        place: str,
        problem: str,
        value: float | None = None,
        threshold: float | None = None,
        bad: bool = True,
    ) -> None:
        """Take a bad record, which is kept beside the documents with what is wrong with it.

        Args:
            rule: the kind of badness, such as `malformed_json`.
            text: the record as far as it can be shown.
            url: where the record is from.
            place: where a person finds it.
            problem: what is wrong.
            value: what the rule measured, if it measures.
            threshold: what it allows.
            bad: it counts against `max_bad_fraction`; False for a record that is not wanted but in order.

        Raises:
            TooManyBadRecordsError: the source is not what the recipe takes it for.
        """
        self.seen += 1
        self.bad += bad
        self._rejected.append((rule, text, url, f"{place}: {problem}", value, threshold))
        if bad and len(self.places) < PLACES_KEPT:
            self.places.append(f"{place}: {problem}")
        if len(self._rejected) >= _REJECTED_AT_ONCE or len(text) >= ROW_GROUP_BYTES:
            self._flush()
        if self.bad >= _HOPELESS and self.bad > max(0.5, self._max_bad_fraction) * self.seen:
            raise TooManyBadRecordsError

    def damage(self, error: DamagedFileError, rule: str = "damaged_file", place: str = "") -> None:
        """Take a file that cannot be read to its end: what came before stays, and a dropped row without text names it.

        Args:
            error: the file, and what is wrong with it.
            rule: the kind of damage.
            place: where in the file, if that is known.
        """
        self.damaged.setdefault(error.place, error.problem)
        self.reject(rule, "", url=error.place, place=place or error.place, problem=error.problem, bad=False)

    def skip(self, reason: str) -> None:
        """Count a record that is no document by its nature, such as an image in a web archive; nothing of it is kept."""
        self.tally.skip(reason)

    def counts(self) -> dict[str, Any]:
        """What the part came to."""
        return {
            "tally": self.tally.counts(),
            "bad": self.bad,
            "places": self.places,
            "damaged": self.damaged,
            "lost_dates": self.lost_dates,
            "forgotten_lines": sorted(self._removal.fitted) if self._removal else [],
            "fields": sorted(self.fields),
            "shards": {"documents": self._documents.count, "dropped": self._dropped.count},
        }

    def _dates(self, given: Any) -> Any:
        """Dates in ISO 8601, none where one cannot be told."""
        if isinstance(given, str):
            return iso_date(given)
        found = [iso_date(date) if date else None for date in given]
        if lost := [date for date, told in zip(given, found, strict=True) if date and told is None]:
            count, first = self.lost_dates
            self.lost_dates = (count + len(lost), first or lost[0][:40])
        return found

    def _flush(self) -> None:
        if self._rejected:
            rules, texts, urls, details, values, thresholds = zip(*self._rejected, strict=True)
            batch = documents_of(self.source, texts, url=urls)
            self.tally.take(batch)
            self._drop(drop(batch, "read", rules, values, thresholds, details))
            self._rejected = []

    def _drop(self, batch: pa.RecordBatch) -> None:
        self.tally.drop(batch)
        self._dropped.write(batch)

    def __enter__(self) -> Self:
        self._stack.enter_context(self._documents)
        self._stack.enter_context(self._dropped)
        self._stack.push(lambda kind, *_: None if kind else self._flush())  # runs first, while the shards are open
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


class DamagedFileError(InputError):
    """A file is cut off, corrupt, or not of the form that its settings say; other files of its source can still be read."""


class TooLongError(DamagedFileError):
    """A file that is to be one document is in order, but longer than any document may be."""


class TooManyBadRecordsError(Exception):
    """A part is so bad that reading on is pointless; the door turns it into an InputError that names the first ones."""


class EnoughError(Exception):
    """A source has given as many documents as its settings want."""
