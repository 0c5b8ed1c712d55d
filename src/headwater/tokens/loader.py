"""Training batches: which tokens step n sees is a pure function of the seed and n.

There is nothing to save and nothing to restore but the step, and neither the number of ranks nor of workers matters:
a rank takes its rows of the batch. NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headwater.core.errors import MismatchError
from headwater.tokens.copies import repeated
from headwater.tokens.mixture import Mixture, MixturePlan, RowPattern, check_sources
from headwater.tokens.packing import Concatenate, Fit, Packing, Piece, Rows, permutation
from headwater.tokens.shards import HELD_OUT, TRAINING, TokenFolder, TokenSource

NOT_COUNTED = -1
"""The target of padding: it has no loss and no gradient."""


class Batch(NamedTuple):
    """What one step, or one rank's part of it, trains on."""

    tokens: np.ndarray
    """Inputs [sequences, sequence_length] int32; padding is filled with separators."""
    targets: np.ndarray
    """The token after each input in its document, the separator after its last, NOT_COUNTED for padding
    [sequences, sequence_length] int32."""
    documents: np.ndarray
    """Number of each input's document within its row, 0, 1, 2 ...: attention never crosses it. What belongs together
    stands together; padding counts as a document of its own [sequences, sequence_length] int32."""


class Row(NamedTuple):
    """Where a training row comes from."""

    source: str
    pieces: list[Piece]
    """Pieces of documents, at most `sequence_length` tokens in all; what is missing is padding."""


class Batches:
    """The batches of a run: a pure function of the token shards, the settings and the step.

    A batch is `batch_sequences` rows in a fixed order. However many ranks there are, and however many rows each puts
    through the model at a time, together they see the same rows: rank r of R takes rows r, r + R, r + 2 R ... So
    micro-batch m of all ranks together is the m-th run of R times as many rows, and gradients add up to the same sum.
    A loss is to be divided by `counted_targets(step)`, which every rank knows without reading a token.

    Attributes:
        tokens: tokens that one epoch of each source takes by name, padding included; sources of weight 0 too.
        fits: how well the rows of each source of the mixture are filled.
        copies: of the sources whose documents are repeated by a rule: documents that are seen, and copies of them.
        warnings: what the user should know, one line each.
    """

    def __init__(
        self,
        token_folder: Path,
        mixture: Mixture,
        sequence_length: int,
        batch_sequences: int,
        seed: int | str,
        packing: Packing = Concatenate(use="concatenate"),  # noqa: B008  # frozen
        rows_before: Mapping[str, int] | None = None,
    ) -> None:
        """Open the token shards of a run.

        Args:
            token_folder: folder of a finished stage encode.
            mixture: what share of the rows comes from each source.
            sequence_length: tokens of a row.
            batch_sequences: rows of a batch.
            seed: which shuffling.
            packing: how documents become rows.
            rows_before: rows of each source that are taken already; these batches go on after them.

        Raises:
            MismatchError: mixture and sources do not fit, or a source is shorter than a row.
            StoreError: shards are missing or damaged.
        """
        folder = TokenFolder(token_folder)
        self.mixture = mixture
        self.sequence_length = sequence_length
        self.batch_sequences = batch_sequences
        self.tokens = {name: folder.counts(name, TRAINING).tokens for name in folder.sources}
        self.rows_before = dict(rows_before or {})
        self.copies: dict[str, dict[str, int]] = {}
        self.fits: dict[str, Fit] = {}
        repeats = self._repeats(folder, f"{seed}")
        self._separator = folder.format.separator_id
        self._sources: dict[str, TokenSource] = {}
        self._rows: dict[str, Rows] = {}
        warnings: list[str] = []
        for name in mixture.parts(self.tokens):
            source = folder.source(name, TRAINING)
            check_long_enough(source, sequence_length)
            longest = int(source.lengths.max())
            if longest < sequence_length:
                warnings.append(
                    f"no document of source '{name}' fills a sequence of {sequence_length:,} tokens: the longest has "
                    f"{longest:,}, the median {int(np.median(source.lengths)):,}; attention never sees that far"
                )
            rows = packing(source.lengths, sequence_length, f"{seed}/{name}", repeats.get(name))
            self._sources[name], self._rows[name] = source, rows
            self.tokens[name], self.fits[name] = rows.capacity, rows.fit()
        self._pattern = RowPattern(mixture.parts(self.tokens))
        self.warnings = tuple(warnings)

    def _repeats(self, folder: TokenFolder, seed: str) -> dict[str, np.ndarray]:
        """The copies of the documents of each source that has a rule for them; corrects `tokens`, fills `copies`."""
        check_sources("copies", self.mixture.copies, self.tokens)
        repeats = {}
        for name, rule in self.mixture.copies.items():
            source = folder.source(name, TRAINING)
            copies = repeats[name] = repeated(source, rule, f"{seed}/{name}")
            self.tokens[name] = int(source.lengths[copies].sum(dtype=np.int64))
            seen = int(np.count_nonzero(np.bincount(copies)))
            self.copies[name] = {"documents": source.num_documents, "seen": seen, "copies": len(copies)}
        return repeats

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch."""
        return self.batch_sequences * self.sequence_length

    def plan(self, steps: int) -> MixturePlan:
        """Say what `steps` steps take from each source.

        Raises:
            MismatchError: a source would be seen more often than the mixture allows.
        """
        return self.mixture.plan(self.tokens, self.sequence_length, steps * self.batch_sequences)

    def rows(self, step: int) -> list[Row]:
        """Where the rows of step `step` come from; steps count from 0."""
        first = step * self.batch_sequences
        places = (self._pattern.row(number) for number in range(first, first + self.batch_sequences))
        return [Row(name, self._rows[name].pieces(self.rows_before.get(name, 0) + row)) for name, row in places]

    def rows_of(self, steps: int) -> dict[str, int]:
        """How many rows the first `steps` steps take from each source."""
        return self._pattern.counts(steps * self.batch_sequences)

    def steps_with(self, source: str, document: int, steps: int, tokens: tuple[int, int] | None = None) -> list[int]:
        """Which of the first `steps` steps have a token of a document among their inputs, counted from 0, in order.

        Args:
            source: name of the source.
            document: index of the document in its source.
            steps: steps to look through; the time it takes goes by epochs, not by steps.
            tokens: of the document only those from the first of these up to the second, counted from its separator.
        """
        if source not in self._rows:
            return []
        before, rows = self.rows_before.get(source, 0), self._rows[source]
        found = rows.rows_of(document, before + self.rows_of(steps)[source])
        if tokens is not None:
            found = [row for row in found if any(_holds(piece, document, *tokens) for piece in rows.pieces(row))]
        numbers = (self._pattern.number(source, row - before) for row in found if row >= before)
        return sorted({number // self.batch_sequences for number in numbers})

    def counted_targets(self, step: int) -> int:
        """How many targets of step `step` count, those of all ranks together: what its losses are to be divided by."""
        if not any(fit.padding_share for fit in self.fits.values()):
            return self.batch_tokens
        return sum(piece.tokens for row in self.rows(step) for piece in row.pieces)

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The batch of step `step`, or one rank's part of it; steps count from 0.

        Args:
            step: any step, at any time.
            rank: which part, from 0.
            ranks: parts in all; they must divide `batch_sequences`, so that all are of one size.

        Returns:
            Rows rank, rank + ranks, rank + 2 ranks ... of the batch.
        """
        assert not self.batch_sequences % ranks, f"{self.batch_sequences} rows do not divide by {ranks} ranks"
        rows = self.rows(step)[rank::ranks]
        shape = len(rows), self.sequence_length
        tokens, targets = np.full(shape, self._separator, np.int32), np.full(shape, NOT_COUNTED, np.int32)
        documents = np.empty(shape, np.int32)
        for index, row in enumerate(rows):
            source = self._sources[row.source]
            begin = 0
            for number, (document, first, count) in enumerate(row.pieces):
                end = begin + count
                ended = first + count == int(source.lengths[document])
                found = source.read(int(source.starts[document]) + first, count + (not ended))
                tokens[index, begin:end] = found[:count]
                targets[index, begin : end - ended] = found[1:]
                if ended:
                    targets[index, end - 1] = self._separator
                documents[index, begin:end] = number
                begin = end
            documents[index, begin:] = len(row.pieces)
        return Batch(tokens, targets, documents)


class HeldOutBatches:
    """Held-out documents of one source as batches, for the validation loss.

    The documents are drawn at random, whole, as many as fit in a limit but at least one: the same at every step of a
    run, in every run over the same shards, and the first that the stage evaluate scores. Every token of theirs is a
    target, and so is the separator that ends each. They follow one another as in training; what the last row lacks
    is filled up with separators, which do not count.

    Attributes:
        tokens: targets that count, in order from the first of the first batch.
        bytes: UTF-8 bytes of the text that these targets spell. Only a first document that exceeds the limit is cut;
            its bytes count in proportion to its tokens.
    """

    def __init__(
        self, token_folder: Path, source: str, sequence_length: int, batch_sequences: int, max_tokens: int
    ) -> None:
        """Open a source.

        Args:
            token_folder: folder of a finished stage encode.
            source: the source's name.
            sequence_length: tokens of a row.
            batch_sequences: rows of a batch; the last batch may have fewer.
            max_tokens: tokens to take at most.

        Raises:
            MismatchError: the source has no held-out documents.
        """
        held_out = TokenFolder(token_folder).source(source, HELD_OUT)
        if not held_out.num_documents:
            hint = "hold out more of it in the section split"
            raise MismatchError(f"source '{source}' has no held-out documents", place="validation", hint=hint)
        order = held_out_order(held_out)
        ends = np.cumsum(held_out.lengths[order], dtype=np.int64)
        count = max(int(np.searchsorted(ends, max_tokens, side="right")), 1)
        whole = int(ends[count - 1])
        self.tokens = min(whole, max_tokens)
        self.bytes = int(held_out.bytes[order[:count]].sum(dtype=np.int64)) * self.tokens / whole
        self._source = held_out
        self._documents = order[:count]
        self._sequence_length = sequence_length
        self._batch_sequences = batch_sequences

    def __len__(self) -> int:
        return math.ceil(self.tokens / (self._batch_sequences * self._sequence_length))

    def __iter__(self) -> Iterator[Batch]:
        length, separator = self._sequence_length, self._source.format.separator_id
        text = np.concatenate([self._source.document(index) for index in self._documents.tolist()])
        text = text[: self.tokens + 1]
        rows = math.ceil(self.tokens / length)
        run = np.full(rows * length + 1, separator, np.int32)
        run[: len(text)] = text
        filled = np.lib.stride_tricks.sliding_window_view(run, length + 1)[::length]
        for row in range(0, rows, self._batch_sequences):
            yield _batch(filled[row : row + self._batch_sequences], separator)

    def bits_per_byte(self, loss: float) -> float:
        """The mean loss of the targets that count [nats per token] as bits per byte of the same documents' text.

        Source: loss / ln 2 x tokens / bytes. The stage evaluate does not count the ends of documents.
        """
        return loss / math.log(2) * self.tokens / self.bytes


def held_out_order(source: TokenSource) -> np.ndarray:
    """The order in which held-out documents of a source are drawn to be measured [documents] int64."""
    return permutation(source.num_documents, f"evaluate/{source.name}")


def check_long_enough(source: TokenSource, sequence_length: int) -> None:
    """Make sure that a source fills at least one row.

    Raises:
        MismatchError: it does not.
    """
    if source.num_tokens <= sequence_length:
        raise MismatchError(
            f"source '{source.name}' has {source.num_tokens:,} tokens: too few for one sequence of {sequence_length:,} "
            "and its last target",
            place="sequence_length",
            hint=f"set it below {max(source.num_tokens, 2):,}, or add documents",
        )


def _holds(piece: Piece, document: int, first: int, last: int) -> bool:
    """Whether a piece has a token of a document from `first` up to `last`, not included."""
    return piece.document == document and piece.first < last and first < piece.first + piece.tokens


def _batch(filled: np.ndarray, separator: int) -> Batch:
    """Rows of one token more than a sequence, as inputs, targets and document numbers."""
    tokens = np.ascontiguousarray(filled[:, :-1])
    documents = np.cumsum(tokens == separator, axis=1, dtype=np.int32)
    return Batch(tokens, np.ascontiguousarray(filled[:, 1:]), documents - documents[:, :1])
