"""Documents that are to be forgotten: who they are, and the list of them that `read.forget` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from headwater.core.errors import InputError

_WHOLE_ID = 32  # hex digits
_HINT = 'each line is one JSON object, such as {"url": "https://example.org/jane"} or {"meta": {"author": "Jane"}}'


@dataclass(frozen=True)
class Search:
    """Which documents are meant: those that fit everything that is given.

    Attributes:
        source: name of their source.
        url: their address, or what it lies below: `https://a.org/jane` also has `https://a.org/jane/1`, not `.../janet`.
        id: how their id begins.
        meta: fields of their `meta` and the values that these have, such as the author.
    """

    source: str | None = None
    url: str | None = None
    id: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What was given, as a line of a removal list."""
        given = {"source": self.source, "url": self.url, "id": self.id, "meta": dict(self.meta)}
        return {name: value for name, value in given.items() if value}

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a document, with `id`, `source`, `url` and `meta`, is meant."""
        if self.source is not None and row["source"] != self.source:
            return False
        if self.url is not None and not _lies_below(row["url"] or "", self.url):
            return False
        if self.id is not None and not row["id"].startswith(self.id):
            return False
        if not self.meta:
            return True
        meta = orjson.loads(row["meta"]) if row["meta"] else {}
        return all(name in meta and str(meta[name]) == value for name, value in self.meta.items())


class Removal:
    """Removal lists, read: what is on them is never a document again.

    Attributes:
        lines: where each line stands, such as `forget.jsonl:3`; what it says is nobody's business.
        fitted: numbers of the lines that have fitted a document.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        """Read the lists.

        Raises:
            InputError: a list cannot be read, or a line of it says nothing that can be looked for.
        """
        read = [found for path in paths for found in _read(Path(path).expanduser())]
        self.lines, searches = [place for place, _ in read], [search for _, search in read]
        whole = [set(search.to_json()) == {"id"} and len(search.id or "") == _WHOLE_ID for search in searches]
        numbered = list(enumerate(zip(searches, whole, strict=True)))
        self._ids = {search.id: number for number, (search, is_whole) in numbered if is_whole}
        self._searches = [(number, search) for number, (search, is_whole) in numbered if not is_whole]
        self.fitted: set[int] = set()

    def fits(self, batch: pa.RecordBatch) -> np.ndarray:
        """Which documents of a batch are on the lists [documents] bool; `fitted` remembers the lines that fit one."""
        ids = batch.column("id").to_pylist()
        found = np.array([identifier in self._ids for identifier in ids], np.bool_)
        self.fitted.update(self._ids[identifier] for identifier in ids if identifier in self._ids)
        if self._searches:
            rows = batch.select(["id", "source", "url", "meta"]).to_pylist()
            for place, row in enumerate(rows):
                lines = [number for number, search in self._searches if search.fits(row)]
                self.fitted.update(lines)
                found[place] |= bool(lines)
        return found


def without_content(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Documents of which nothing is left but id, source and licence: even what is dropped would else be kept."""
    empty = {"text": pa.repeat(pa.scalar(""), batch.num_rows)}
    empty |= {name: pa.nulls(batch.num_rows, pa.string()) for name in ("url", "date", "meta")}
    columns = [empty.get(name, column) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _read(path: Path) -> list[tuple[str, Search]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise InputError(problem, place=str(path), hint="headwater forget ... --add-to makes it") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            search = _search(orjson.loads(line))
        except (ValueError, TypeError):
            raise InputError("is no line of a removal list", place=f"{path}:{number}", hint=_HINT) from None
        if not search.to_json():
            raise InputError("says nothing: it would forget every document", place=f"{path}:{number}", hint=_HINT)
        found.append((f"{path}:{number}", search))
    return found


def _search(given: Any) -> Search:
    """One line of a list; whatever is not text would fit nothing, or everything.

    Raises:
        TypeError: it is of another form.
    """
    if not isinstance(given, dict):
        raise TypeError
    meta = given.pop("meta", {})
    if not isinstance(meta, dict) or not all(
        isinstance(value, str) and value for value in (*given.values(), *meta.values())
    ):
        raise TypeError
    return Search(meta=meta, **given)


def _lies_below(address: str, place: str) -> bool:
    """Whether an address is a place, or lies below it.

    >>> [_lies_below(f"https://a.org/{path}", "https://a.org/jane") for path in ("jane", "jane/1", "jane?x=1", "janet")]
    [True, True, True, False]
    """
    if not address.startswith(place):
        return False
    return len(address) == len(place) or place[-1] in "/?#" or address[len(place)] in "/?#"
