"""How the documents of a source become training rows of fixed length: end to end, or best fit.

Documents come in an order that is shuffled anew for each epoch, and every token is an input exactly once per epoch.
What is drawn are pieces of documents; the loader fills a row with them. Rows are handed out in shuffled order within
their epoch, so that the rows of a long document do not meet in a batch. Everything is a pure function of the documents'
lengths, the seed and the number of the row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import xxhash
from pydantic import Field

from headwater.core.config import Config

_KEPT_EPOCHS = 3  # orders remembered: the epoch of a row, the next one, and one to spare


class Piece(NamedTuple):
    """A run of tokens of one document; each is an input, and its target is what follows it in the document."""

    document: int
    """Index of the document in its source."""
    first: int
    """Its first token, counted from the document's separator."""
    tokens: int


@dataclass(frozen=True)
class Fit:
    """How well the rows of one epoch of a source are filled."""

    tokens: int
    """Tokens of the epoch, each an input once."""
    rows: float
    """Rows of the epoch."""
    padding_share: float
    """Share of the places in rows that stay empty; their targets do not count."""
    documents_cut: int
    """Documents that would fit in a row and are cut all the same."""
    cut_off_share: float
    """Share of the tokens that such a cut parts from the beginning of their document: they are trained on without it."""

    def __str__(self) -> str:
        """The numbers in a sentence."""
        return (
            f"{self.rows:,.0f} rows an epoch, {self.padding_share:.2%} padding; {self.documents_cut:,} documents are cut "
            f"that would fit in a row, {self.cut_off_share:.2%} of the tokens without their beginning"
        )

    def to_json(self) -> dict[str, float]:
        """The numbers for a manifest."""
        return asdict(self)


class Rows(Protocol):
    """The rows of one source, without end."""

    @property
    def capacity(self) -> int:
        """Places of the rows that one epoch takes, padding included [tokens]."""
        ...

    def pieces(self, row: int) -> list[Piece]:
        """The pieces of documents that make up row `row`, at most as many tokens as a row has."""
        ...

    def rows_of(self, document: int, rows: int) -> list[int]:
        """Which of the first `rows` rows hold a token of a document, in order."""
        ...

    def fit(self) -> Fit:
        """How well the rows of the first epoch are filled."""
        ...


class Concatenate(Config):
    """Documents end to end, cut where a row ends: no padding, but many documents are cut in two."""

    use: Literal["concatenate"]
    """`concatenate`: documents are laid end to end and cut at the end of each row; one epoch follows the other."""

    def __call__(
        self, lengths: np.ndarray, sequence_length: int, seed: str, copies: np.ndarray | None = None
    ) -> DocumentStream:
        """Lay out a source; arguments as of DocumentStream."""
        return DocumentStream(lengths, sequence_length, seed, copies)


class BestFit(Config):
    """Whole documents, each put into the fullest row that still has room for it, the longest first.

    Only a document longer than a row is cut, into full rows and a rest. What remains empty is padding.

    Source: Ding et al. 2024 (arXiv:2404.10830), best-fit packing: fewer truncations help where a document's beginning
    matters. Where whole documents would leave too much padding, the emptiest rows are broken up and carried over into
    the gaps of the others, which is ours.
    """

    use: Literal["best_fit"]
    """`best_fit`: documents no longer than a row stay whole, and share rows so that little is empty."""
    max_padding: float = Field(default=0.004, ge=0, lt=1)
    """Share of padding in the rows of a source above which documents are cut after all, as few as fill enough of it."""

    def __call__(self, lengths: np.ndarray, sequence_length: int, seed: str, copies: np.ndarray | None = None) -> Rows:
        """Lay out a source; arguments as of DocumentStream."""
        from headwater.tokens.best_fit import BestFitRows  # loads numba, which planning does not need

        return BestFitRows(lengths, sequence_length, seed, copies, self.max_padding)


Packing = Annotated[Concatenate | BestFit, Field(discriminator="use")]
"""How documents become rows."""


class DocumentStream:
    """The endless stream of one source's documents, cut in rows.

    Row k is tokens k T to k T + T of the stream. Where an epoch does not divide into rows, its tail opens the row that
    goes on with the next epoch.
    """

    def __init__(self, lengths: np.ndarray, sequence_length: int, seed: str, copies: np.ndarray | None = None) -> None:
        """Lay out a source.

        Args:
            lengths: tokens of each document, separator included [documents] integers; in all more than
                `sequence_length`.
            sequence_length: tokens of a row.
            seed: text from which the orders follow, such as `0/prose`.
            copies: which document each copy is of, where an epoch does not hold each once [copies] integers.
        """
        self._copies = copies
        lengths = lengths if copies is None else lengths[copies]
        self._lengths = lengths
        self._sequence_length = sequence_length
        self._seed = seed
        self._tokens = int(lengths.sum(dtype=np.int64))
        assert self._tokens > sequence_length, "a row would meet the same epoch twice"
        self._document_orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._row_orders: dict[int, np.ndarray] = {}

    @property
    def capacity(self) -> int:
        """Places of the rows that one epoch takes [tokens]: as many as there are tokens."""
        return self._tokens

    def fit(self) -> Fit:
        """How well the rows of the first epoch are filled."""
        order, ends = self._document_order(0)
        lengths = self._lengths[order].astype(np.int64)
        after = ends % self._sequence_length  # tokens of the document in its last row
        cut = (lengths <= self._sequence_length) & (after > 0) & (after < lengths)
        rows = self._tokens / self._sequence_length
        return Fit(self._tokens, rows, 0.0, int(cut.sum()), float(after[cut].sum()) / self._tokens)

    def pieces(self, row: int) -> list[Piece]:
        """The pieces of documents that make up row `row`, `sequence_length` tokens in all."""
        epoch = row * self._sequence_length // self._tokens
        first_row = -(-epoch * self._tokens // self._sequence_length)
        drawn = first_row + int(self._row_order(epoch, first_row)[row - first_row])
        position = drawn * self._sequence_length - epoch * self._tokens
        found = self._run(epoch, position, self._sequence_length)
        missing = self._sequence_length - sum(piece.tokens for piece in found)
        return found + self._run(epoch + 1, 0, missing) if missing else found

    def rows_of(self, document: int, rows: int) -> list[int]:
        """Which of the first `rows` rows hold a token of a document, in order."""
        T, found = self._sequence_length, set()
        for epoch in range(rows * T // self._tokens + 2):  # the last row of an epoch goes on with the next
            order, ends = self._document_order(epoch)
            copies = order if self._copies is None else self._copies[order]
            for index in np.flatnonzero(copies == document).tolist():
                end = epoch * self._tokens + int(ends[index])
                start = end - int(self._lengths[order[index]])
                found.update(self._handed_out(drawn) for drawn in range(start // T, (end - 1) // T + 1))
        return sorted(row for row in found if row < rows)

    def _handed_out(self, drawn: int) -> int:
        """The row in which the stream's tokens from `drawn` times `sequence_length` are handed out."""
        epoch = drawn * self._sequence_length // self._tokens
        first_row = -(-epoch * self._tokens // self._sequence_length)
        place = np.flatnonzero(self._row_order(epoch, first_row) == drawn - first_row)
        return first_row + int(place[0])

    def _run(self, epoch: int, position: int, count: int) -> list[Piece]:
        """The pieces of up to `count` tokens from `position` of one epoch."""
        order, ends = self._document_order(epoch)
        index = int(np.searchsorted(ends, position, side="right"))
        pieces: list[Piece] = []
        while count and index < len(order):
            document, end = int(order[index]), int(ends[index])
            taken = min(count, end - position)
            first = int(self._lengths[document]) - (end - position)
            pieces.append(Piece(document if self._copies is None else int(self._copies[document]), first, taken))
            position, count, index = position + taken, count - taken, index + 1
        return pieces

    def _document_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents in the order of an epoch, and where each ends in it."""
        if epoch not in self._document_orders:
            order = permutation(len(self._lengths), f"{self._seed}/documents/{epoch}")
            self._document_orders[epoch] = order, np.cumsum(self._lengths[order], dtype=np.int64)
            forget(self._document_orders)
        return self._document_orders[epoch]

    def _row_order(self, epoch: int, first_row: int) -> np.ndarray:
        """The order in which the rows that begin in an epoch are handed out."""
        if epoch not in self._row_orders:
            rows = -(-(epoch + 1) * self._tokens // self._sequence_length) - first_row
            self._row_orders[epoch] = permutation(rows, f"{self._seed}/rows/{epoch}")
            forget(self._row_orders)
        return self._row_orders[epoch]


def permutation(count: int, seed: str) -> np.ndarray:
    """Shuffle 0 to `count` - 1: the same on every machine and with every version of NumPy [count] int64.

    Source: the numbers are sorted by SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64 bits, so there are no
    ties.

    >>> permutation(5, "a").tolist(), permutation(5, "b").tolist()
    ([3, 4, 2, 0, 1], [2, 3, 0, 4, 1])
    """
    key = np.uint64(xxhash.xxh3_64_intdigest(seed.encode()))
    mixed = (np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(mixed ^ (mixed >> np.uint64(31)))


def forget(remembered: dict[int, Any]) -> None:
    """Keep what was remembered of the newest epochs alone."""
    while len(remembered) > _KEPT_EPOCHS:
        del remembered[next(iter(remembered))]
