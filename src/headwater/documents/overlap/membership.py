"""Which n-grams of documents are among those of benchmarks: compiled loops, see kernels.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from headwater.documents.document import text_buffer
from headwater.documents.overlap.benchmarks import LEAST_DISTINCT, LEAST_LETTERS, Grams, Sizes
from headwater.documents.text.kernels import GRAM, MIX, compiled
from headwater.documents.text.shingles import Units, gram_hashes

_BITS_PER_GRAM = 32  # of the first test: about one in 32 n-grams that are not among them passes it


class Hits(NamedTuple):
    """N-grams of documents that are among those of benchmarks."""

    documents: np.ndarray
    """[H] int64"""
    places: np.ndarray
    """[H] int64: first unit, counted from the document's first"""
    sizes: np.ndarray
    """[H] int64: units"""
    grams: np.ndarray
    """[H] int64: which n-gram"""


def collect(texts: Sequence[str], table: Units, by_character: bool, sizes: Sizes) -> Grams:
    """Make the n-grams of those texts that are in words, or of those that are in characters.

    Args:
        texts: the texts.
        table: their units.
        by_character: which of them.
        sizes: units in an n-gram; shorter texts of at least `sizes.least` count as a whole.
    """
    lengths = np.diff(table.offsets)
    chosen = (table.characters == by_character) & (lengths >= sizes.least)
    each = np.where(chosen, np.minimum(lengths, sizes.gram), lengths + 1)  # none of the others
    offsets, hashes = gram_hashes(table, each)
    parts = np.repeat(np.arange(len(texts)), np.diff(offsets))
    positions = np.arange(len(hashes)) - offsets[parts]
    telling = _telling(texts, table, table.offsets[parts] + positions, each[parts], by_character)
    hashes, parts, positions = hashes[telling], parts[telling], positions[telling]
    each = each[parts]
    hashes += each.astype(np.uint64) * GRAM
    keys, where = np.unique(hashes, return_inverse=True)
    order = np.argsort(where, kind="stable")
    starts = np.searchsorted(where[order], np.arange(len(keys) + 1))
    _, prefixes = gram_hashes(table, np.where(chosen, sizes.least, lengths + 1))
    ends = np.cumsum(np.where(chosen, lengths - sizes.least + 1, 0))
    short = np.flatnonzero(chosen & (lengths < sizes.gram) & (np.bincount(parts, minlength=len(texts)) > 0))
    first = (ends - np.where(chosen, lengths - sizes.least + 1, 0))[short]
    bits = _bits(keys), _bits(prefixes[first])
    return Grams(keys, bits[0], np.unique(lengths[short]), bits[1], starts, parts[order], positions[order])


def _telling(
    texts: Sequence[str], table: Units, begins: np.ndarray, sizes: np.ndarray, by_character: bool
) -> np.ndarray:
    """Which n-grams say enough to tell an item by: [G] bool."""
    data, _ = text_buffer(pa.array(texts, pa.string()))
    first = data[table.begins] if len(table.begins) else np.zeros(0, np.uint8)
    letters = np.concatenate([[0], np.cumsum((first < ord("0")) | (first > ord("9")))])
    telling = letters[begins + sizes] - letters[begins] >= LEAST_LETTERS * sizes
    if not by_character:  # letters of a script come again sooner
        distinct = np.empty(len(begins), np.int64)
        _distinct(table.hashes, begins, sizes, distinct)
        telling &= distinct >= LEAST_DISTINCT * sizes
    return telling


@compiled
def _distinct(hashes, begins, sizes, counts):  # noqa: ANN001, ANN202
    """Count the different units of each n-gram."""
    for gram in range(len(begins)):
        begin, count = begins[gram], 0
        for i in range(begin, begin + sizes[gram]):
            known = False
            for j in range(begin, i):
                known |= hashes[j] == hashes[i]
            count += not known
        counts[gram] = count


def _bits(keys: np.ndarray) -> np.ndarray:
    """A table of bits in which those of the keys are set: [2^k] uint8."""
    size = 1 << max(6, int(_BITS_PER_GRAM * max(1, len(keys)) - 1).bit_length())
    bits = np.zeros(size // 8, np.uint8)
    places = keys & np.uint64(size - 1)
    np.bitwise_or.at(
        bits, (places >> np.uint64(3)).astype(np.int64), np.uint8(1) << (places & np.uint64(7)).astype(np.uint8)
    )
    return bits


def find(table: Units, grams: Grams, sizes: Sizes) -> Hits:
    """Find the n-grams of benchmarks in documents.

    Args:
        table: units of the documents.
        grams: what to look for.
        sizes: as they were made with.
    """
    size = 256
    while True:
        hits = Hits(*(np.empty(size, np.int64) for _ in Hits._fields))
        count = _find(table.offsets, table.hashes, *grams[:4], sizes.gram, sizes.least, *hits)
        if count >= 0:
            return Hits(*(column[:count] for column in hits))
        size *= 8


@compiled
def _index(keys, key):  # noqa: ANN001, ANN202
    """Where a key is among sorted ones, or -1."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low if low < len(keys) and keys[low] == key else -1


@compiled
def _is_set(bits, key):  # noqa: ANN001, ANN202
    place = key & np.uint64(8 * len(bits) - 1)
    return bits[place >> np.uint64(3)] >> np.uint8(place & np.uint64(7)) & np.uint8(1) != 0


@compiled
def _find(offsets, units, keys, bits, lengths, prefix_bits, size, least, documents, places, sizes, grams):  # noqa: ANN001, ANN202
    """See `find`: the number of hits, or -1 when there is no place for all of them."""
    count = 0
    oldest, oldest_prefix = np.uint64(1), np.uint64(1)
    for _ in range(size):
        oldest *= GRAM
    for _ in range(least):
        oldest_prefix *= GRAM
    for document in range(len(offsets) - 1):
        first, end = offsets[document], offsets[document + 1]
        gram, prefix = np.uint64(0), np.uint64(0)
        for i in range(first, end):
            gram = gram * GRAM + units[i]
            if i - first >= size:
                gram -= units[i - size] * oldest
            if i - first >= size - 1:
                key = (gram ^ gram >> np.uint64(32)) * MIX + np.uint64(size) * GRAM
                if _is_set(bits, key):
                    found = _index(keys, key)
                    if found >= 0:
                        if count == len(documents):
                            return -1
                        documents[count], places[count], sizes[count] = document, i - first - size + 1, size
                        grams[count] = found
                        count += 1
            if len(lengths) == 0:
                continue
            prefix = prefix * GRAM + units[i]
            if i - first >= least:
                prefix -= units[i - least] * oldest_prefix
            if i - first < least - 1 or not _is_set(prefix_bits, (prefix ^ prefix >> np.uint64(32)) * MIX):
                continue
            whole, at = prefix, i
            for length in lengths:
                while at < end - 1 and at - i + least < length:
                    at += 1
                    whole = whole * GRAM + units[at]
                if at - i + least < length:
                    break
                found = _index(keys, (whole ^ whole >> np.uint64(32)) * MIX + np.uint64(length) * GRAM)
                if found >= 0:
                    if count == len(documents):
                        return -1
                    documents[count], places[count], sizes[count] = document, i - first - least + 1, length
                    grams[count] = found
                    count += 1
    return count
