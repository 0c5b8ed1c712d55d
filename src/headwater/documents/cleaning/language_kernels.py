"""Compiled loops of the language model; see language_model.py."""

from __future__ import annotations

import math

import numpy as np

from headwater.documents.text import characters as c
from headwater.documents.text.kernels import HASH_BASIS, HASH_PRIME, MIX, compiled, decode

_SPACE = c.SPACE
_BASIS, _PRIME = np.uint32(2166136261), np.uint32(16777619)
"""Source: FNV-1a, 32 bits, as fastText has it: bytes above 127 count as negative."""
_BEFORE, _AFTER = 60, 62  # < and > stand around each word
_LABEL = np.frombuffer(b"__label__", np.uint8)


@compiled
def word_hashes(data, starts, hashes):  # noqa: ANN001, ANN201
    """Hash words that stand one after the other."""
    for word in range(len(hashes)):
        hashes[word] = _word_hash(data, starts[word], starts[word + 1])


@compiled
def enter(hashes, keys, rows):  # noqa: ANN001, ANN201
    """Enter words in a hash table."""
    for row in range(len(hashes)):
        slot = _slot(keys, hashes[row])
        keys[slot], rows[slot] = hashes[row], row


@compiled
def _word_hash(data, begin, end):  # noqa: ANN001, ANN202
    hashed = HASH_BASIS
    for at in range(begin, end):
        hashed = (hashed ^ np.uint64(data[at])) * HASH_PRIME
    return hashed | np.uint64(1)


@compiled
def _slot(keys, key):  # noqa: ANN001, ANN202
    mask = np.uint64(len(keys) - 1)
    slot = (key * MIX >> np.uint64(32)) & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def _byte(data, at, begin, end):  # noqa: ANN001, ANN202
    """A byte of a word between its two marks."""
    if at < begin:
        return np.uint8(_BEFORE)
    return np.uint8(_AFTER) if at == end else data[at]


@compiled
def _add(vectors, row, hidden):  # noqa: ANN001, ANN202
    for k in range(len(hidden)):
        hidden[k] += vectors[row, k]


@compiled
def _add_grams(data, begin, end, gram_rows, vectors, least, most, hidden):  # noqa: ANN001, ANN202
    """Add the vectors of a word's character n-grams: how many there are. Source: dictionary.cc, computeSubwords."""
    count = 0
    for first in range(begin - 1, end + 1):
        if _byte(data, first, begin, end) & 0xC0 == 0x80:
            continue
        hashed, at, size = _BASIS, first, 1
        while at <= end and size <= most:
            byte = _byte(data, at, begin, end)
            while True:
                hashed = np.uint32(np.uint32(hashed ^ np.uint32(np.int8(byte))) * _PRIME)
                at += 1
                byte = _byte(data, at, begin, end) if at <= end else np.uint8(0)
                if byte & 0xC0 != 0x80:
                    break
            if size >= least and not (size == 1 and (first < begin or at > end)):
                row = gram_rows[hashed % np.uint32(len(gram_rows))]
                if row >= 0:
                    _add(vectors, row, hidden)
                    count += 1
            size += 1
    return count


@compiled
def _word_end(data, at, end, pages, kinds, glued):  # noqa: ANN001, ANN202
    """Where the word at byte `at` ends, and where what parts it from the next one ends."""
    while at < end:
        point, width = decode(data, at, end)
        if point == 0 or 9 <= point <= 13 or point == 32:
            return at, at + 1
        if not glued and kinds[np.int64(pages[point >> 8]) << 8 | point & 255] & _SPACE:
            return at, at + width
        at += width
    return end, end


@compiled
def _sum(data, at, end, alphabet, glued, tables, hidden):  # noqa: ANN001, ANN202
    """Add the vectors of a text's words and n-grams: how many there are. Source: dictionary.cc, getLine."""
    pages, kinds = alphabet
    words, word_rows, gram_rows, vectors, line_end, least, most = tables
    hidden[:] = np.float32(0)
    count = 0
    while at < end:
        begin = at
        stop, at = _word_end(data, at, end, pages, kinds, glued)
        if stop == begin:
            continue
        is_label = stop - begin >= len(_LABEL)
        for k in range(len(_LABEL) if is_label else 0):
            is_label &= data[begin + k] == _LABEL[k]
        if is_label:
            continue
        slot = _slot(words, _word_hash(data, begin, stop))
        if words[slot] != 0:
            row = word_rows[slot]
            if row == line_end:
                break
            _add(vectors, row, hidden)
            count += 1
        count += _add_grams(data, begin, stop, gram_rows, vectors, least, most, hidden)
    if line_end >= 0:
        _add(vectors, line_end, hidden)
        count += 1
    return count


@compiled
def score(data, starts, wanted, alphabet, glued, tables, children, output, hidden, nodes, found):  # noqa: ANN001, ANN201
    """Fill `found` with the logarithm of each label's score. Source: loss.cc, HierarchicalSoftmaxLoss::dfs."""
    labels = found.shape[1]
    for document in range(len(starts) - 1):
        at, end = np.int64(starts[document]), np.int64(starts[document + 1])
        if not wanted[document]:
            continue
        count = _sum(data, at, end, alphabet, glued, tables, hidden)
        if count == 0:
            continue
        scale = np.float32(1.0 / count)
        for k in range(len(hidden)):
            hidden[k] *= scale
        nodes[len(nodes) - 1] = 0
        for inner in range(len(children) - 1, -1, -1):
            dot = np.float32(0)
            for k in range(len(hidden)):
                dot += output[inner, k] * hidden[k]
            right = np.float32(1.0 / (1.0 + math.exp(-dot)))
            here = nodes[labels + inner]
            nodes[children[inner, 0]] = here + np.float32(math.log(np.float64(np.float32(1.0 - right)) + 1e-5))
            nodes[children[inner, 1]] = here + np.float32(math.log(np.float64(right) + 1e-5))
        for label in range(labels):
            found[document, label] = nodes[label]
