"""Near-duplicates by MinHash: a small sketch of each text, and the clusters of texts whose sketches meet.

Compiled loops, see kernels.py.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from headwater.documents import characters as c
from headwater.documents.kernels import GRAM, HASH_BASIS, HASH_PRIME, MIX, compiled, decode, text_of


def minhash(
    texts: pa.StringArray, ngram: int, bands: int, rows: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sketch the set of word n-grams of each text, such that similar sets have similar sketches.

    Words are runs of letters and digits, in small letters and without marks; every number counts as 0. A gram's 32-bit
    hash h goes through `bands * rows` permutations h -> (a h + b) mod 2^32 with odd a; the sketch is each one's minimum.

    Returns:
        keys [bands, D] uint64: texts that share one are alike in `rows` minima at once; 0 for a text with too few words.
        marks [D, bands * rows] uint8: the last 8 bits of each minimum, to estimate similarity from.
        grams [D] int64: the number of n-grams.

    Source: Broder 1997 (min-wise hashing); bands and text normalisation as datatrove 0.10.1; 32-bit multiply-add as
    measured in docs/lab-notes.md to be as exact as its 64-bit hashes and much faster.
    """
    data, starts = text_of(texts)
    numbers = _random_numbers(seed, 2 * bands * rows)
    multipliers, addends = numbers[::2] | np.uint32(1), numbers[1::2].copy()
    keys, marks = np.zeros((bands, len(texts)), np.uint64), np.zeros((len(texts), bands * rows), np.uint8)
    grams, recent, least = (
        np.zeros(len(texts), np.int64),
        np.zeros(ngram, np.uint64),
        np.empty(bands * rows, np.uint32),
    )
    alphabet = c.alphabet()
    _minhash(data, starts, alphabet.pages, alphabet.folded, multipliers, addends, recent, least, keys, marks, grams)
    return keys, marks, grams


def unite(parents: np.ndarray, keys: np.ndarray, checks: np.ndarray | None = None) -> None:
    """Join the clusters of all documents that have the same key, other than 0.

    Args:
        parents: [D] int64, changed in place: a document of the same cluster with a smaller or equal number; at the
            start its own. See `clusters`.
        keys: [D] uint64.
        checks: [D] uint64: what must be the same too.
    """
    _unite(parents, np.argsort(keys), keys, keys if checks is None else checks)


def clusters(parents: np.ndarray) -> np.ndarray:
    """The first document of each document's cluster: [D] int64."""
    while not np.array_equal(parents, parents[parents]):
        parents = parents[parents]
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
def _minhash(data, starts, pages, folded, multipliers, addends, recent, least, keys, marks, grams):  # noqa: ANN001, ANN202
    """See `minhash`."""
    slots, bands, ngram, oldest = len(multipliers), len(keys), len(recent), np.uint64(1)
    for _ in range(ngram):
        oldest *= GRAM
    for document in range(len(starts) - 1):
        at, end = np.int64(starts[document]), np.int64(starts[document + 1])
        least[:] = np.uint32(0xFFFFFFFF)
        words, number, hashed, gram = 0, 0, HASH_BASIS, np.uint64(0)
        while at <= end:
            letter, width = np.int64(0), 1
            if at < end:
                point = np.int64(data[at])
                if point < 128:
                    letter = np.int64(folded[point])
                else:
                    point, width = decode(data, at, end)
                    letter = np.int64(folded[np.int64(pages[point >> 8]) << 8 | point & 255])
                    letter = point if letter == c.ITSELF else letter
                if number == 1 and (point == 44 or point == 46) and at + 1 < end and 48 <= data[at + 1] <= 57:
                    number, letter = 2, -1  # the point of a decimal number
                elif letter == 48:
                    number, letter = (1, 48) if number == 0 else (number, -1)
                elif letter >= 0:
                    number = 0
            at += width
            if letter < 0:
                continue
            if letter != 0:
                hashed = (hashed ^ np.uint64(letter)) * HASH_PRIME
                continue
            if hashed == HASH_BASIS:
                continue
            place = words % ngram
            gram = gram * GRAM + hashed - recent[place] * oldest
            recent[place], hashed = hashed, HASH_BASIS
            words += 1
            if words >= ngram:
                mixed = (gram ^ gram >> np.uint64(32)) * MIX
                shingle = np.uint32(mixed >> np.uint64(32))
                for slot in range(slots):
                    value = np.uint32(np.uint32(multipliers[slot] * shingle) + addends[slot])
                    least[slot] = min(least[slot], value)
        recent[:] = np.uint64(0)
        grams[document] = max(0, words - ngram + 1)
        if words >= ngram:
            rows = slots // bands
            for band in range(bands):
                hashed = HASH_BASIS
                for slot in range(band * rows, (band + 1) * rows):
                    hashed = (hashed ^ np.uint64(least[slot])) * GRAM
                    hashed ^= hashed >> np.uint64(32)
                keys[band, document] = hashed | np.uint64(1)
            for slot in range(slots):
                marks[document, slot] = least[slot] & np.uint32(0xFF)


@compiled
def _unite(parents, order, keys, checks):  # noqa: ANN001, ANN202
    """See `unite`."""
    for place in range(1, len(order)):
        a, b = order[place - 1], order[place]
        if keys[a] == 0 or keys[a] != keys[b] or checks[a] != checks[b]:
            continue
        while parents[a] != a:
            parents[a] = parents[parents[a]]
            a = parents[a]
        while parents[b] != b:
            parents[b] = parents[parents[b]]
            b = parents[b]
        if a < b:
            parents[b] = a
        else:
            parents[a] = b
