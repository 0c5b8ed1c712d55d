"""Rows of whole documents by best fit, decreasing; see BestFit in tokens/packing.py.

The sizes alone decide how many rows there are and which sizes share one, so all epochs have the same number of rows and
any row can be found without making those before it. What an epoch shuffles is which of the documents of one size stands
where, and the order of the rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from headwater.documents.text.kernels import compiled
from headwater.tokens.packing import Fit, Piece, forget, permutation


class Layout(NamedTuple):
    """Which items share a row, in pieces sorted by row.

    An item is a document or a part of one, known by its rank in descending order of size.
    """

    starts: np.ndarray
    """First piece of each row, and how many pieces there are [rows + 1] int64."""
    item: np.ndarray
    """Rank of the item that a piece is of [pieces] int64."""
    first: np.ndarray
    """First token of the piece within its item [pieces] int64."""
    tokens: np.ndarray
    """Tokens of the piece [pieces] int64."""


class BestFitRows:
    """The endless rows of one source."""

    def __init__(
        self, lengths: np.ndarray, sequence_length: int, seed: str, copies: np.ndarray | None, max_padding: float
    ) -> None:
        """Lay out a source; arguments as of DocumentStream, and the share of padding that is allowed."""
        lengths = (lengths if copies is None else lengths[copies]).astype(np.int64)
        parts = -(-lengths // sequence_length)  # full rows, and a rest
        document = np.repeat(np.arange(len(lengths)), parts)
        number = np.arange(len(document)) - np.repeat(np.cumsum(parts) - parts, parts)
        self._first = number * sequence_length
        self._sizes = np.minimum(lengths[document] - self._first, sequence_length)
        self._whole = lengths[document] <= sequence_length
        self._document = document if copies is None else copies[document]
        self._seed = seed
        self._sequence_length = sequence_length
        self._layout = lay_out(np.sort(self._sizes)[::-1].copy(), sequence_length, max_padding)
        self._rows = len(self._layout.starts) - 1
        self._items: dict[int, np.ndarray] = {}
        self._row_orders: dict[int, np.ndarray] = {}

    @property
    def capacity(self) -> int:
        """Places of the rows that one epoch takes, padding included [tokens]."""
        return self._rows * self._sequence_length

    def fit(self) -> Fit:
        """How well the rows of the first epoch are filled."""
        tokens = int(self._sizes.sum())
        rests = (self._layout.first > 0) & self._whole[self._items_of(0)[self._layout.item]]
        cut = len(np.unique(self._layout.item[rests]))
        cut_off = int(self._layout.tokens[rests].sum())
        return Fit(tokens, self._rows, 1 - tokens / self.capacity, cut, cut_off / tokens)

    def pieces(self, row: int) -> list[Piece]:
        """The pieces of documents that make up row `row`, at most `sequence_length` tokens in all."""
        epoch, number = divmod(row, self._rows)
        drawn = int(self._row_order(epoch)[number])
        found = slice(int(self._layout.starts[drawn]), int(self._layout.starts[drawn + 1]))
        items = self._items_of(epoch)[self._layout.item[found]]
        first = self._first[items] + self._layout.first[found]
        columns = (self._document[items], first, self._layout.tokens[found])
        return [Piece(*piece) for piece in zip(*(column.tolist() for column in columns), strict=True)]

    def rows_of(self, document: int, rows: int) -> list[int]:
        """Which of the first `rows` rows hold a token of a document, in order."""
        found: list[int] = []
        for epoch in range(-(-rows // self._rows)):
            ranks = np.flatnonzero(self._document[self._items_of(epoch)] == document)
            pieces = np.flatnonzero(np.isin(self._layout.item, ranks))
            drawn = np.searchsorted(self._layout.starts, pieces, side="right") - 1
            numbers = np.flatnonzero(np.isin(self._row_order(epoch), drawn))
            found += (epoch * self._rows + numbers).tolist()
        return [row for row in found if row < rows]

    def _items_of(self, epoch: int) -> np.ndarray:
        """The item of each rank: all in descending order of size, those of one size in the order of an epoch."""
        if epoch not in self._items:
            order = permutation(len(self._sizes), f"{self._seed}/documents/{epoch}")
            self._items[epoch] = order[np.argsort(-self._sizes[order], kind="stable")]
            forget(self._items)
        return self._items[epoch]

    def _row_order(self, epoch: int) -> np.ndarray:
        """The order in which the rows of an epoch are handed out."""
        if epoch not in self._row_orders:
            self._row_orders[epoch] = permutation(self._rows, f"{self._seed}/rows/{epoch}")
            forget(self._row_orders)
        return self._row_orders[epoch]


def lay_out(sizes: np.ndarray, sequence_length: int, max_padding: float) -> Layout:
    """Put items into as few rows as best fit finds; break rows up while more than `max_padding` of the places is empty.

    Args:
        sizes: tokens of each item, descending, none above `sequence_length` [items] int64.
        sequence_length: places of a row.
        max_padding: share of empty places that is allowed.

    >>> layout = lay_out(np.array([8, 6, 5, 4, 3, 2]), 8, 1.0)
    >>> [layout.item[a:b].tolist() for a, b in zip(layout.starts, layout.starts[1:])]
    [[0], [1, 5], [2, 4], [3]]
    """
    row = np.empty(len(sizes), np.int64)
    rows = int(_best_fit(sizes, sequence_length, *_work_space(len(sizes), sequence_length), row))
    item, first, tokens = np.arange(len(sizes)), np.zeros(len(sizes), np.int64), sizes.copy()
    total = int(sizes.sum())
    allowed = rows if max_padding >= 1 else math.floor(total / (sequence_length * (1 - max_padding)))
    wanted = max(allowed, math.ceil(total / sequence_length))
    if wanted < rows:
        filled = np.bincount(row, sizes, rows).astype(np.int64)
        fullest = np.argsort(-filled, kind="stable")
        name = np.empty(rows, np.int64)
        name[fullest] = np.arange(rows)  # rows by how full they are; those from `wanted` on are broken up
        row = name[row]
        moved = row >= wanted
        carried = _pour(sizes[moved], sequence_length - filled[fullest[:wanted]])
        item, first = np.append(item[~moved], item[moved][carried[0]]), np.append(first[~moved], carried[1])
        tokens, row = np.append(tokens[~moved], carried[2]), np.append(row[~moved], carried[3])
        rows = wanted
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(rows + 1))
    return Layout(starts, item[order], first[order], tokens[order])


def _pour(sizes: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Cut items so that they fill gaps, the largest gaps first, so that few cuts do.

    Args:
        sizes: tokens of each item [items].
        gaps: empty places of each row, at least as many as there are tokens [rows].

    Returns:
        The pieces: item, first token within it, tokens, row [4, pieces] int64.
    """
    rows = np.argsort(-gaps, kind="stable")
    item_ends, gap_ends = np.cumsum(sizes), np.cumsum(gaps[rows])
    total = int(item_ends[-1])
    ends = np.union1d(item_ends, np.minimum(gap_ends, total))
    begins = np.append(0, ends[:-1])
    item = np.searchsorted(item_ends, begins, side="right")
    gap = np.searchsorted(gap_ends, begins, side="right")
    return np.stack([item, begins - (item_ends - sizes)[item], ends - begins, rows[gap]])


def _work_space(items: int, sequence_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays for `_best_fit`: a tree over the numbers of empty places, the newest row of each, and the one before it."""
    leaves = 1 << sequence_length.bit_length()
    return np.zeros(2 * leaves, np.bool_), np.full(leaves, -1, np.int64), np.empty(items, np.int64)


@compiled
def _best_fit(
    sizes: np.ndarray, sequence_length: int, tree: np.ndarray, newest: np.ndarray, before: np.ndarray, row: np.ndarray
) -> int:
    """Give each item the fullest row with room for it, or a new one; returns how many rows there are.

    Rows are kept in a stack for each number of empty places; a tree of flags finds the smallest number that suffices.
    """
    leaves = len(newest)
    rows = 0
    for item in range(len(sizes)):
        size = sizes[item]
        node = leaves + size
        if not tree[node]:
            while node > 1 and (node % 2 == 1 or not tree[node + 1]):
                node //= 2
            if node > 1:
                node += 1
                while node < leaves:
                    node = 2 * node if tree[2 * node] else 2 * node + 1
        if node > 1:
            room = node - leaves
            mine = newest[room]
            newest[room] = before[mine]
            while newest[room] < 0 and node >= 1 and tree[node]:
                tree[node] = node < leaves and (tree[2 * node] or tree[2 * node + 1])
                if tree[node]:
                    break
                node //= 2
        else:
            room = sequence_length
            mine = rows
            rows += 1
        row[item] = mine
        room -= size
        before[mine] = newest[room]
        newest[room] = mine
        node = leaves + room
        while node >= 1 and not tree[node]:
            tree[node] = True
            node //= 2
    return rows
