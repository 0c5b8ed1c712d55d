"""The step that removes lines which many pages of one site share: menus, footers, notices.

It goes twice over the documents. First every shard tells which lines each of its pages has; the numbers are added up by
hash, one part of the hash space after the other, so that memory stays flat; then the lines found are removed. Sums do not
depend on the order of shards, so the number of workers does not matter.
"""

from __future__ import annotations

import functools
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field, PrivateAttr

from headwater.core import pool
from headwater.core.stage import Counts, Workspace
from headwater.core.store import atomic_path, read_json, write_json
from headwater.documents.cleaning.features import Features, per_document
from headwater.documents.cleaning.meta import replaced
from headwater.documents.cleaning.policy import normal_url
from headwater.documents.cleaning.steps import CleaningStep, Verdict, judge
from headwater.documents.document import read_batches, source_of

PARTS = 16
"""Parts of the hash space that are added up one after the other: memory is a sixteenth of all different lines of pages."""


class Boilerplate(CleaningStep):
    """Remove lines that stand on many pages of one site.

    Pages are counted in the documents as they come into the stage, before other steps; a line counts once on a page,
    without space at its ends. Documents without a web address are counted by source when `by_source` says so.
    """

    use: Literal["boilerplate"]
    min_pages: int = Field(default=10, ge=2)
    """Pages of a site on which a line must stand to be removed."""
    min_share: float = Field(default=0.1, gt=0, le=1)
    """Pages with the line as a share of the site's pages."""
    max_line_bytes: int = Field(default=300, ge=1)
    """Longer lines are never removed: they are text [UTF-8 bytes]."""
    by_source: bool = False
    """Whether documents without a web address count as the pages of one site, their source."""
    _common: np.ndarray | None = PrivateAttr(default=None)

    def prepare(self, name: str, shards: Sequence[Path], out: Workspace) -> tuple[CleaningStep, Counts]:
        """Count lines over all shards, and find those that many pages share."""
        folder, kept, told = out.folder / f".{name}", out.folder / f"{name}.npy", out.folder / f"{name}.json"
        if not told.is_file():
            mine = [shard for shard in shards if self.sources is None or source_of(shard) in self.sources]
            work = functools.partial(_count_shard, self, folder)
            pool.map(work, mine, out, label=f"{name}-count", name=lambda shard: shard.stem, threads=True)
            sites = _sites(folder, mine)
            common = np.concatenate([self._shared(folder, mine, part, sites) for part in range(PARTS)])
            _save(kept, common)
            write_json(told, {"sites": len(sites[0]), "lines_shared": len(common)})
        shutil.rmtree(folder, ignore_errors=True)
        step = self.model_copy()
        step._common = np.load(kept)
        return step, read_json(told)

    def __call__(self, batch: Features) -> Verdict:
        """Edit a batch of documents."""
        assert self._common is not None, "prepare comes first"
        offsets, keys, counts, _ = self._lines(batch.rows, batch.wanted)
        gone = counts & np.isin(keys, self._common)
        removed = per_document(gone, offsets)
        texts = {}
        for index in np.flatnonzero(removed).tolist():
            lines = batch.texts[index].as_py().split("\n")
            stays = ~gone[offsets[index] : offsets[index + 1]]
            texts[index] = "\n".join(itertools.compress(lines, stays.tolist()))
        return judge(
            len(removed), columns=replaced(batch.rows, "text", texts), edited=removed > 0, found={"lines": removed}
        )

    def _lines(self, rows: pa.RecordBatch, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The lines of pages of sites.

        Returns:
            offsets [D + 1] of lines; keys [L] uint64, of line and site; whether each counts [L] bool; and the site of each
            document [D] uint64, 0 for none.
        """
        from headwater.documents.text.kernels import GRAM, trimmed_lines

        urls, sources = rows.column("url").to_pylist(), rows.column("source").to_pylist()
        sites = np.zeros(len(urls), np.uint64)
        for index in np.flatnonzero(wanted).tolist():
            url = urls[index] or ""
            site = (normal_url(url) or "").partition("/")[0] if "://" in url else ""
            if site or self.by_source:
                sites[index] = xxhash.xxh3_64_intdigest((site or f"/{sources[index]}").encode()) | 1
        offsets, hashes, sizes = trimmed_lines(rows.column("text"), sites != 0)
        keys = (hashes ^ np.repeat(sites, np.diff(offsets))) * GRAM
        return offsets, keys, (sizes > 0) & (sizes <= self.max_line_bytes), sites

    def _shared(
        self, folder: Path, shards: Sequence[Path], part: int, sites: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """The hashes of one part of the hash space that enough pages have, sorted."""
        tables = [np.load(_file(folder, shard, part)) for shard in shards]
        lines = np.concatenate([np.zeros((0, 3), np.uint64), *tables])
        keys, first, where = np.unique(lines[:, 0], return_index=True, return_inverse=True)
        pages = np.bincount(where, lines[:, 2].astype(np.float64), len(keys))
        of_site = sites[1][np.searchsorted(sites[0], lines[first, 1])] if len(keys) else pages
        return keys[(pages >= self.min_pages) & (pages >= self.min_share * of_site)]


def _count_shard(step: Boilerplate, folder: Path, shard: Path) -> Counts:
    """Write for each part of the hash space which lines stand on how many pages of a shard, and how many pages sites have."""
    tables, pages = [np.zeros((0, 2), np.uint64)], [np.zeros(0, np.uint64)]
    for rows in read_batches(shard):
        offsets, keys, counts, sites = step._lines(rows, np.ones(rows.num_rows, np.bool_))
        document = np.repeat(np.arange(rows.num_rows), np.diff(offsets))[counts]
        order = np.lexsort((keys[counts], document))
        document, keys = document[order], keys[counts][order]
        first = np.ones(len(keys), np.bool_)
        first[1:] = (keys[1:] != keys[:-1]) | (document[1:] != document[:-1])  # a line counts once on a page
        tables.append(np.stack([keys[first], sites[document[first]]], axis=1))
        pages.append(sites[sites != 0])
    lines = np.concatenate(tables)
    keys, at, number = np.unique(lines[:, 0], return_index=True, return_counts=True)
    table = np.stack([keys, lines[at, 1], number.astype(np.uint64)], axis=1)
    part_of = keys >> np.uint64(60)
    for part in range(PARTS):
        _save(_file(folder, shard, part), table[part_of == part])
    sites, number = np.unique(np.concatenate(pages), return_counts=True)
    _save(_file(folder, shard, None), np.stack([sites, number.astype(np.uint64)], axis=1))
    return {"lines": len(table)}


def _sites(folder: Path, shards: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all sites, sorted, and the pages of each."""
    tables = [np.load(_file(folder, shard, None)) for shard in shards]
    table = np.concatenate([np.zeros((0, 2), np.uint64), *tables])
    keys, where = np.unique(table[:, 0], return_inverse=True)
    return keys, np.bincount(where, table[:, 1].astype(np.float64), len(keys))


def _file(folder: Path, shard: Path, part: int | None) -> Path:
    return folder / f"{shard.stem}.{'sites' if part is None else part}.npy"


def _save(path: Path, table: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, Path(temporary).open("wb") as out:
        np.save(out, table)
