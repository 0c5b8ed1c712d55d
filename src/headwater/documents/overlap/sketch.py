"""Near-duplicates by MinHash: a small sketch of each text, and the clusters of texts whose sketches meet.

Compiled loops, see kernels.py.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from headwater.documents.text.kernels import GRAM, HASH_BASIS, MIX, compiled
from headwater.documents.text.shingles import UnitKind, units


def minhash(
    texts: pa.StringArray,
    ngram: int,
    bands: int,
    rows: int,
    seed: int,
    *,
    compare: UnitKind = "words",
    character_ngram: int = 8,
    min_units: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sketch the set of n-grams of each text, such that similar sets have similar sketches.

    What an n-gram is made of is in shingles.py. A gram's 32-bit hash h goes through `bands * rows` permutations
    h -> (a h + b) mod 2^32 with odd a; the sketch is each one's minimum.

    Args:
        texts: the texts.
        ngram: words in an n-gram.
        bands: keys of each text.
        rows: minima in a key.
        seed: chooses the permutations.
        compare: words, characters, or what fits each text best.
        character_ngram: characters in an n-gram, where texts are compared by these.
        min_units: words or characters that a text must have to get keys.

    Returns:
        keys [bands, D] uint64: texts that share one are alike in `rows` minima at once; 0 for a text with too few units.
        marks [D, bands * rows] uint8: the last 8 bits of each minimum, to estimate similarity from.
        grams [D] int64: the number of n-grams.

    Source: Broder 1997 (min-wise hashing); bands and text normalisation as datatrove 0.10.1; 32-bit multiply-add as
    measured in docs/lab-notes.md to be as exact as its 64-bit hashes and much faster.
    """
    table = units(texts, compare)
    numbers = _random_numbers(seed, 2 * bands * rows)
    multipliers, addends = numbers[::2] | np.uint32(1), numbers[1::2].copy()
    keys, marks = np.zeros((bands, len(texts)), np.uint64), np.zeros((len(texts), bands * rows), np.uint8)
    least, sizes = np.empty(bands * rows, np.uint32), np.where(table.characters, character_ngram, ngram)
    _minhash(table.offsets, table.hashes, sizes, min_units, multipliers, addends, least, keys, marks)
    return keys, marks, np.maximum(np.diff(table.offsets) - sizes + 1, 0)


def unite(
    parents: np.ndarray, keys: np.ndarray, checks: np.ndarray | None = None, members: np.ndarray | None = None
) -> None:
    """Join the clusters of all documents that have the same key, other than 0.

    Args:
        parents: [D] int32 or int64, changed in place: a document of the same cluster with a smaller or equal number; at
            the start its own. See `clusters`.
        keys: [K] uint64.
        checks: [K] uint64: what must be the same too.
        members: [K] int64: the document that has each key; by default key i is document i's.
    """
    order = np.argsort(keys, kind="stable")
    checks = keys if checks is None else checks
    _unite(parents, order, keys, checks, order if members is None else members[order])


def unite_pairs(parents: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Join the clusters of the two documents of each pair: [P] int64 each."""
    _unite_pairs(parents, left, right)


def clusters(parents: np.ndarray) -> np.ndarray:
    """The first document of each document's cluster: [D], of the type of `parents`, which is changed in place."""
    _flatten(parents)
    return parents


def _random_numbers(seed: int, count: int) -> np.ndarray:
    """Pseudo-random numbers [count] uint32 that stay the same in every version. Source: SplitMix64, Steele et al. 2014."""
    numbers, state = [], seed
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        numbers.append((mixed ^ mixed >> 31) >> 32)
    return np.array(numbers, np.uint32)


@compiled
def _minhash(offsets, units, sizes, min_units, multipliers, addends, least, keys, marks):  # noqa: ANN001, ANN202
    """See `minhash`."""
    slots, bands = len(multipliers), len(keys)
    for document in range(len(offsets) - 1):
        first, size = offsets[document], sizes[document]
        least[:] = np.uint32(0xFFFFFFFF)
        oldest, gram = np.uint64(1), np.uint64(0)
        for _ in range(size):
            oldest *= GRAM
        for i in range(first, offsets[document + 1]):
            gram = gram * GRAM + units[i]
            if i - first >= size:
                gram -= units[i - size] * oldest
            if i - first >= size - 1:
                mixed = (gram ^ gram >> np.uint64(32)) * MIX
                shingle = np.uint32(mixed >> np.uint64(32))
                for slot in range(slots):
                    value = np.uint32(np.uint32(multipliers[slot] * shingle) + addends[slot])
                    least[slot] = min(least[slot], value)
        if offsets[document + 1] - first < size:
            continue
        for slot in range(slots):
            marks[document, slot] = least[slot] & np.uint32(0xFF)
        rows = slots // bands
        for band in range(bands if offsets[document + 1] - first >= min_units else 0):
            hashed = HASH_BASIS
            for slot in range(band * rows, (band + 1) * rows):
                hashed = (hashed ^ np.uint64(least[slot])) * GRAM
                hashed ^= hashed >> np.uint64(32)
            keys[band, document] = hashed | np.uint64(1)


@compiled
def _root(parents, a):  # noqa: ANN001, ANN202
    """The first document of a cluster, and a shorter way to it."""
    while parents[a] != a:
        parents[a] = parents[parents[a]]
        a = parents[a]
    return a


@compiled
def _unite(parents, order, keys, checks, members):  # noqa: ANN001, ANN202
    """See `unite`; `members` are in the order of `order`."""
    for place in range(1, len(order)):
        a, b = order[place - 1], order[place]
        if keys[a] == 0 or keys[a] != keys[b] or checks[a] != checks[b]:
            continue
        a, b = _root(parents, members[place - 1]), _root(parents, members[place])
        if a < b:
            parents[b] = a
        else:
            parents[a] = b


@compiled
def _unite_pairs(parents, left, right):  # noqa: ANN001, ANN202
    """See `unite_pairs`."""
    for place in range(len(left)):
        a, b = _root(parents, left[place]), _root(parents, right[place])
        if a < b:
            parents[b] = a
        else:
            parents[a] = b


@compiled
def _flatten(parents):  # noqa: ANN001, ANN202
    """Point every document at the first of its cluster; parents have smaller numbers, so theirs are done before."""
    for document in range(len(parents)):
        parents[document] = parents[parents[document]]


@compiled
def shared(left, right):  # noqa: ANN001, ANN201
    """How many members two sorted arrays of distinct numbers have in common."""
    i = j = count = 0
    while i < len(left) and j < len(right):
        a, b = left[i], right[j]
        count += a == b
        i += a <= b
        j += b <= a
    return count


def choose_best(roots: np.ndarray, scores: np.ndarray, begin: int, best: np.ndarray, keeper: np.ndarray) -> None:
    """Remember of each cluster the document of the highest score so far, of several the first.

    Args:
        roots: [D]: the first document of each document's cluster.
        scores: [of a shard] int64.
        begin: number of the shard's first document.
        best: [D] int64, changed in place: the highest score of the cluster that begins with each document.
        keeper: [D], changed in place: the document that has it.
    """
    _choose_best(roots, scores, begin, best, keeper)


@compiled
def _choose_best(roots, scores, begin, best, keeper):  # noqa: ANN001, ANN202
    """See `choose_best`."""
    for place in range(len(scores)):
        root = roots[begin + place]
        if scores[place] > best[root]:
            best[root], keeper[root] = scores[place], begin + place
