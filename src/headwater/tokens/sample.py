"""Some of the documents of every source, to train tokenizers on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from headwater.core.config import nearest
from headwater.core.errors import EmptyResultError, MismatchError
from headwater.documents.document import read_batches, shards_in, source_of, text_buffer


class Sample:
    """Some of the documents of every source, drawn by their ids: the same whatever the shards and their order.

    Attributes:
        bytes: size of the sample [UTF-8 bytes].
    """

    def __init__(self, folder: Path, sample_bytes: int, weights: Mapping[str, float] | None) -> None:
        """Draw documents.

        Args:
            folder: shards of documents.
            sample_bytes: how much text to draw in all [bytes].
            weights: share of each source; equal by default.

        Raises:
            EmptyResultError: the folder holds no text.
            MismatchError: a weight is missing or names no source.
        """
        self._shards = shards_in(folder)
        keys: dict[str, list[np.ndarray]] = {}
        sizes: dict[str, list[np.ndarray]] = {}
        for shard in self._shards:
            for batch in read_batches(shard, ["id", "text"]):
                keys.setdefault(source_of(shard), []).append(_draws(batch.column("id")))
                sizes.setdefault(source_of(shard), []).append(np.diff(text_buffer(batch.column("text"))[1]))
        totals = {name: int(sum(part.sum(dtype=np.int64) for part in parts)) for name, parts in sizes.items()}
        if not any(totals.values()):
            hint = "look at what the filters dropped"
            raise EmptyResultError("there are no documents to train a tokenizer on", place=str(folder), hint=hint)
        budgets = fill(totals, _known(weights, totals), sample_bytes)
        self.bytes = sum(budgets.values())
        self._limits = {
            name: _limit(np.concatenate(keys[name]), np.concatenate(sizes[name]), budget)
            for name, budget in budgets.items()
        }

    def texts(self, advance: Callable[[], object] = lambda: None) -> Iterator[str]:
        """The drawn texts, in the order of the shards; the last drawn of each source is cut to fit.

        Args:
            advance: called after each text.
        """
        for shard in self._shards:
            last, rest = self._limits[source_of(shard)]
            for batch in read_batches(shard, ["id", "text"]):
                draws = _draws(batch.column("id"))
                drawn = batch.column("text").filter(pa.array(draws <= np.uint64(last)))
                for draw, text in zip(draws[draws <= np.uint64(last)].tolist(), drawn.to_pylist(), strict=True):
                    yield text if draw < last else text.encode()[:rest].decode(errors="ignore")
                    advance()


def _draws(ids: pa.StringArray) -> np.ndarray:
    """A number for each document from its id, a hash: the smallest are drawn first [documents] uint64."""
    return np.array([int(text[:16], 16) for text in ids.to_pylist()], np.uint64)


def _limit(draws: np.ndarray, sizes: np.ndarray, budget: int) -> tuple[int, int]:
    """The last document to draw so that the sizes reach a budget, and how many of its bytes are left in it."""
    order = np.argsort(draws, kind="stable")
    ends = np.cumsum(sizes[order], dtype=np.int64)
    index = min(int(np.searchsorted(ends, budget)), len(order) - 1)
    return int(draws[order[index]]), budget - int(ends[index] - sizes[order[index]])


def fill(sizes: Mapping[str, int], weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Share out a total by weights, no more to each than it can hold; what one cannot hold goes to the others.

    >>> fill({"prose": 10, "code": 500, "web": 500}, {"prose": 1, "code": 1, "web": 3}, 100)
    {'prose': 10, 'code': 23, 'web': 67}
    """
    shares: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: sizes[name] / weights[name] if weights[name] else float("inf")):
        left = sum(weights[other] for other in sizes if other not in shares)
        fair = int((total - sum(shares.values())) * weights[name] / left) if left else 0
        shares[name] = min(sizes[name], fair)
    return {name: shares[name] for name in sizes}


def _known(weights: Mapping[str, float] | None, sizes: Mapping[str, int]) -> Mapping[str, float]:
    if weights is None:
        return dict.fromkeys(sizes, 1.0)
    for name in weights:
        if name not in sizes:
            problem = f"there is a weight for '{name}', which is not a source{nearest(name, sizes)}"
            raise MismatchError(problem, place="tokenizer.weights", hint="use the names of the sources in the recipe")
    return {name: weights.get(name, 0.0) for name in sizes}
