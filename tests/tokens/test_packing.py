from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.tokens.best_fit import BestFitRows, lay_out
from headwater.tokens.packing import BestFit, Concatenate, DocumentStream, Piece, permutation

LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=40)


def count(seen: np.ndarray, starts: np.ndarray, pieces: list[Piece]) -> None:
    """Count the tokens of pieces."""
    for piece in pieces:
        begin = starts[piece.document] + piece.first
        seen[begin : begin + piece.tokens] += 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=25), st.integers(1, 40), st.text(max_size=5))
def test_every_token_is_an_input_once_per_epoch(lengths: list[int], sequence_length: int, seed: str):
    tokens = sum(lengths)
    if tokens <= sequence_length:
        lengths, tokens = [*lengths, sequence_length], tokens + sequence_length
    stream = DocumentStream(np.array(lengths), sequence_length, seed)
    starts = np.cumsum([0, *lengths])
    seen = np.zeros(tokens, int)
    rows = 0
    for epoch in range(1, 4):
        while rows * sequence_length < epoch * tokens:
            pieces = stream.pieces(rows)
            assert sum(piece.tokens for piece in pieces) == sequence_length
            count(seen, starts, pieces)
            rows += 1
        # The row across the boundary has already taken the carried tail's length from the next epoch.
        assert seen.sum() == rows * sequence_length
        assert np.all(seen >= epoch)
        assert (seen - epoch).sum() == rows * sequence_length - epoch * tokens < sequence_length


def test_pieces_are_whole_documents_but_at_the_ends_of_a_row():
    lengths = np.array([7, 4, 12, 5, 9])
    stream = DocumentStream(lengths, 16, "x")
    for row in range(20):
        pieces = stream.pieces(row)
        for position, piece in enumerate(pieces):
            assert position == 0 or piece.first == 0
            assert position == len(pieces) - 1 or piece.first + piece.tokens == lengths[piece.document]


def test_epochs_and_seeds_are_shuffled_differently():
    lengths = np.full(100, 8)
    orders = {}
    for seed in ("0", "1"):
        stream = DocumentStream(lengths, 8, seed)
        orders[seed] = [[stream.pieces(row)[0].document for row in range(100 * e, 100 * e + 100)] for e in range(2)]
        assert sorted(orders[seed][0]) == sorted(orders[seed][1]) == list(range(100))
        assert orders[seed][0] != orders[seed][1]
    assert orders["0"] != orders["1"]


def test_rows_of_a_long_document_are_spread():
    stream = DocumentStream(np.array([100_000]), 100, "x")
    firsts = [stream.pieces(row)[0].first for row in range(1000)]
    neighbours = np.abs(np.diff(firsts)) == 100
    assert neighbours.mean() < 0.02


def test_any_row_can_be_asked_for_at_any_time():
    lengths = np.array([7, 4, 12, 5, 9])
    stream = DocumentStream(lengths, 16, "x")
    ahead = [stream.pieces(row) for row in range(60)]
    for row in (59, 0, 31, 30, 7, 44):
        assert stream.pieces(row) == ahead[row]
        assert DocumentStream(lengths, 16, "x").pieces(row) == ahead[row]


@given(st.integers(0, 300), st.text(max_size=5))
def test_a_permutation_is_one(count: int, seed: str):
    assert sorted(permutation(count, seed)) == list(range(count))


def test_permutations_are_fair():
    first = np.bincount([permutation(10, f"{seed}")[0] for seed in range(5000)], minlength=10)
    assert np.all(np.abs(first - 500) < 5 * np.sqrt(500))


@given(LENGTHS, st.integers(1, 40), st.sampled_from([0.0, 0.004, 0.3, 0.99]), st.text(max_size=5))
def test_best_fit_sees_every_token_once_per_epoch(lengths, sequence_length: int, max_padding: float, seed: str):
    rows = BestFitRows(np.array(lengths), sequence_length, seed, None, max_padding)
    assert rows.capacity % sequence_length == 0
    per_epoch = rows.capacity // sequence_length
    starts = np.cumsum([0, *lengths])
    seen = np.zeros(sum(lengths), int)
    for epoch in range(2):
        cut: dict[int, int] = {}
        for row in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            pieces = rows.pieces(row)
            assert 0 < sum(piece.tokens for piece in pieces) <= sequence_length
            assert all(piece.tokens > 0 for piece in pieces)
            count(seen, starts, pieces)
            for piece in pieces:
                if piece.first and lengths[piece.document] <= sequence_length:
                    cut[piece.document] = cut.get(piece.document, 0) + piece.tokens
        assert np.all(seen == epoch + 1)
        fit = rows.fit()
        assert (fit.tokens, fit.rows) == (sum(lengths), per_epoch)
        assert fit.padding_share == pytest.approx(1 - sum(lengths) / rows.capacity)
        # which documents are cut differs between epochs, how many and how much does not where sizes are the same
        if epoch == 0:
            assert (fit.documents_cut, fit.cut_off_share) == (len(cut), sum(cut.values()) / sum(lengths))
    least = -(-sum(lengths) // sequence_length)
    assert per_epoch == least or fit.padding_share <= max_padding


@given(LENGTHS, st.integers(1, 40))
def test_best_fit_leaves_whole_what_fits(lengths: list[int], sequence_length: int):
    """With padding allowed no document is cut that fits; others are cut at multiples of a row."""
    rows = BestFitRows(np.array(lengths), sequence_length, "x", None, 0.999)
    pieces = [piece for row in range(rows.capacity // sequence_length) for piece in rows.pieces(row)]
    assert rows.fit().documents_cut == 0
    assert sorted(pieces) == sorted(
        Piece(document, first, min(sequence_length, length - first))
        for document, length in enumerate(lengths)
        for first in range(0, length, sequence_length)
    )


@given(LENGTHS, st.integers(1, 90))
def test_best_fit_is_what_a_search_through_all_rows_finds(lengths: list[int], sequence_length: int):
    """The same as the textbook: longest first, into the fullest row that has room."""
    sizes = sorted((min(length, sequence_length) for length in lengths), reverse=True)
    filled: list[int] = []
    for size in sizes:
        fits = [total for total in filled if total + size <= sequence_length]
        if fits:
            filled[filled.index(max(fits))] += size
        else:
            filled.append(size)
    layout = lay_out(np.array(sizes), sequence_length, 0.999)
    found = np.add.reduceat(layout.tokens, layout.starts[:-1])
    assert sorted(found.tolist()) == sorted(filled)


def test_best_fit_is_shuffled_by_epoch_and_seed_and_found_at_any_time():
    lengths = np.array([8, 8, 8, 8, 5, 5, 5, 5, 3, 3, 3, 3] * 9)
    ahead = {seed: [BestFitRows(lengths, 8, seed, None, 0.0).pieces(row) for row in range(144)] for seed in "01"}
    epochs = [ahead["0"][:72], ahead["0"][72:], ahead["1"][:72]]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    partners = [{tuple(sorted(piece.document for piece in row)) for row in epoch if len(row) > 1} for epoch in epochs]
    assert len(partners[0] & partners[1]) < 10, "the documents that share a row do not change"
    again = BestFitRows(lengths, 8, "0", None, 0.0)
    assert [again.pieces(row) for row in (143, 0, 71, 72)] == [ahead["0"][row] for row in (143, 0, 71, 72)]


@pytest.mark.parametrize(
    ("lengths", "sequence_length"),
    [
        (np.random.default_rng(0).lognormal(5.3, 1.1, 20_000), 1024),  # like web pages
        (np.random.default_rng(1).normal(600, 20, 3000), 1000),  # none fits beside another
        (np.random.default_rng(2).integers(20_000, 900_000, 60), 512),  # books
    ],
)
def test_best_fit_wastes_and_crops_under_half_a_percent(lengths: np.ndarray, sequence_length: int):
    lengths = np.maximum(lengths.astype(np.int64), 1)
    fit = BestFit(use="best_fit")(lengths, sequence_length, "x").fit()
    assert fit.tokens == lengths.sum(), "no token is lost"
    assert fit.padding_share < 0.005
    concatenated = Concatenate(use="concatenate")(lengths, sequence_length, "x").fit()
    assert concatenated.padding_share == 0
    assert fit.documents_cut <= concatenated.documents_cut
    assert fit.cut_off_share < 0.005 or lengths.std() < 25, "only where documents do not fit beside one another"


@given(st.lists(st.integers(1, 30), min_size=1, max_size=25), st.integers(1, 20))
def test_concatenation_says_how_many_documents_it_cuts(lengths: list[int], sequence_length: int):
    lengths = [*lengths, sequence_length]
    stream = DocumentStream(np.array(lengths), sequence_length, "x")
    fit = stream.fit()
    cut = {
        piece.document: piece.tokens
        for row in range(sum(lengths) // sequence_length + 1)
        for piece in stream.pieces(row)
        if piece.first and lengths[piece.document] <= sequence_length and row * sequence_length < sum(lengths)
    }
    if sum(lengths) % sequence_length == 0:  # otherwise the last row is one of the next epoch too
        assert (fit.documents_cut, fit.cut_off_share) == (len(cut), sum(cut.values()) / sum(lengths))
    assert fit.documents_cut <= len(lengths)
