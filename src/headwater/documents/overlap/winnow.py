"""Windows of a text that its content chooses, and how far two texts agree: compiled loops, see kernels.py.

Source: Schleimer, Wilkerson, Aiken, Winnowing: Local Algorithms for Document Fingerprinting, SIGMOD 2003.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from headwater.documents.text.kernels import GRAM, HASH_BASIS, HASH_PRIME, MIX, compiled, text_of
from headwater.documents.text.shingles import Units


def windows(texts: pa.StringArray, table: Units, least: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose windows such that each span of `least` units has one that depends on the span alone.

    A window has two thirds as many units, with what stands between them and behind; of the windows that begin in each
    stretch of the other third, that of the smallest hash is chosen, of several the last: two in `least / 3` units on
    average. So units say where windows begin and end, and bytes which of them are chosen and equal.

    Args:
        texts: the texts.
        table: their units.
        least: [D] int64: units of the spans that must be found.

    Returns:
        keys [W] uint64: hash of each window's bytes; rows [W] int64: its text; begins [W] int64: its first byte there.
    """
    data, starts = text_of(texts)
    size = len(table.hashes) // max(4, int(least.min(initial=8)) // 8) + 64
    ring = np.empty((2, int(least.max(initial=8)) + 1), np.uint64)
    while True:
        keys, rows, begins = np.empty(size, np.uint64), np.empty(size, np.int64), np.empty(size, np.int64)
        tables = (table.offsets, table.begins, least, ring)
        count = _windows(data, starts, *tables, keys, rows, begins)
        if count >= 0:
            return keys[:count], rows[:count], begins[:count]
        size *= 2


def expand(mine: np.ndarray, theirs: np.ndarray, at: int, other: int) -> tuple[int, int]:
    """Where the longest stretch of `mine` [bytes] uint8 begins and ends that equals `theirs` around two places."""
    return _expand(mine, theirs, at, other)


@compiled
def _expand(mine, theirs, at, other):  # noqa: ANN001, ANN202
    """See `expand`."""
    begin, end, shift = at, at, other - at
    while end < len(mine) and end + shift < len(theirs) and mine[end] == theirs[end + shift]:
        end += 1
    while begin > 0 and begin + shift > 0 and mine[begin - 1] == theirs[begin + shift - 1]:
        begin -= 1
    return begin, end


@compiled
def _windows(data, starts, offsets, unit_begins, least, ring, keys, rows, begins):  # noqa: ANN001, ANN202
    """See `windows`: the number of windows, or -1 when there is no place for all of them."""
    count = 0
    for document in range(len(offsets) - 1):
        first, end = offsets[document], offsets[document + 1]
        if end - first < least[document]:
            continue
        size = least[document] * 2 // 3
        stretch = least[document] - size  # windows that begin, and end, in a span of `least` units
        oldest, gram, chosen, smallest = np.uint64(1), np.uint64(0), np.int64(-1), np.uint64(0)
        for _ in range(size):
            oldest *= GRAM
        for i in range(end - first - 1):
            hashed = HASH_BASIS
            for byte in range(unit_begins[first + i], unit_begins[first + i + 1]):
                hashed = (hashed ^ np.uint64(data[byte])) * HASH_PRIME
            gram = gram * GRAM + hashed
            if i >= size:
                gram -= ring[0, i % size] * oldest
            ring[0, i % size] = hashed
            window = i - size + 1
            if window < 0:
                continue
            mixed = (gram ^ gram >> np.uint64(32)) * MIX
            mixed ^= mixed >> np.uint64(29)
            ring[1, window % stretch] = mixed
            before = chosen
            if window == 0 or mixed <= smallest:
                chosen, smallest = window, mixed
            elif chosen <= window - stretch:
                chosen, smallest = window, mixed
                for back in range(1, stretch):
                    value = ring[1, (window - back) % stretch]
                    if value < smallest:
                        chosen, smallest = window - back, value
            if window < stretch - 1 or (chosen == before and window > stretch - 1):
                continue
            if count == len(keys):
                return -1
            keys[count], rows[count] = smallest, document
            begins[count] = unit_begins[first + chosen] - starts[document]
            count += 1
    return count
