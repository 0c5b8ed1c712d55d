from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headwater.tokens.packing import DocumentStream, permutation


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
            assert sum(piece.tokens for piece in pieces) == sequence_length + 1
            inputs = np.concatenate(
                [starts[piece.document] + piece.first + np.arange(piece.tokens) for piece in pieces]
            )[:sequence_length]
            np.add.at(seen, inputs, 1)
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
