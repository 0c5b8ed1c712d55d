"""Compiled loops of the linear quality model; see linear.py. They read word hashes as words.py makes them."""

from __future__ import annotations

import math

import numpy as np

from headwater.documents.text.kernels import GRAM, MIX, compiled

_SHIFT = np.uint64(44)  # 64 bits to the 20 of linear.BUCKETS


@compiled
def _sum(hashes, first, last, weights, n_grams):  # noqa: ANN001, ANN202
    """Sum of the weights of all runs of up to n words, and how many runs there are."""
    total, count = 0.0, 0
    for i in range(first, last):
        key = np.uint64(0)
        for k in range(i, min(i + n_grams, last)):
            key = key * GRAM + hashes[k]
            total += weights[(key * MIX) >> _SHIFT]
            count += 1
    return total, count


@compiled
def score(offsets, hashes, weights, n_grams, max_words, values):  # noqa: ANN001, ANN201
    """Fill `values` with the raw score of each text."""
    for document in range(len(offsets) - 1):
        first = offsets[document]
        last = min(offsets[document + 1], first + max_words)
        total, count = _sum(hashes, first, last, weights, n_grams)
        values[document] = weights[len(weights) - 1] + total / max(count, 1)


@compiled
def train(offsets, hashes, good, importance, order, weights, squares, n_grams, max_words, rate):  # noqa: ANN001, ANN201
    """See every text once, in this order, and move the weights that it has."""
    bias = len(weights) - 1
    for at in range(len(order)):
        document = order[at]
        first = offsets[document]
        last = min(offsets[document + 1], first + max_words)
        total, count = _sum(hashes, first, last, weights, n_grams)
        if count == 0:
            continue
        raw = min(30.0, max(-30.0, weights[bias] + total / count))
        error = (1.0 / (1.0 + math.exp(-raw)) - (1.0 if good[document] else 0.0)) * importance[document]
        squares[bias] += error * error
        weights[bias] -= rate * error / math.sqrt(squares[bias] + 1e-8)
        step = error / count
        for i in range(first, last):
            key = np.uint64(0)
            for k in range(i, min(i + n_grams, last)):
                key = key * GRAM + hashes[k]
                slot = (key * MIX) >> _SHIFT
                squares[slot] += step * step
                weights[slot] -= rate * step / math.sqrt(squares[slot] + 1e-12)
