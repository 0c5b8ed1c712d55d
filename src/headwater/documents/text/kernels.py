"""Compiled loops over Arrow string buffers: the hot half of the filters.

Every function reads whole columns of text and leaves Python's lock to other threads. What a text is made of comes back in
tables of words (words.py), lines and paragraphs, with `offsets` [documents + 1] into their rows: the lines of document i
are rows `offsets[i]:offsets[i + 1]`. The pure-Python twin of each function is in tests/documents/reference.py; they agree
exactly.

Shapes: D documents, W words, L lines. Hashes are 64 bits: that any two of a million different lines meet has odds of
about one in twenty million.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numba.core import registry

from headwater.documents.document import text_buffer
from headwater.documents.text import characters as c


def compiled(function: Callable[..., Any], **more: Any) -> Any:
    """Compile on first use and keep the machine code on disk, where there is a place for it; `more` are options of numba.

    Compiled functions get their arrays from outside and only read and fill them: so numba need not count references to
    arrays (`_nrt`), which would cost more than the work itself wherever one function hands an array to another.
    """
    options: Any = {"nogil": True, "_nrt": False, **more}  # numba's type stub does not know all of its options
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder to write to: neither beside this file nor in the user's cache
        return numba.njit(**options)(function)


# numba brings its own functions in when it first compiles or loads something. When two threads do so at once, while one loads
# what another process has compiled, one of them fails (KeyError in get_impl_key). So bring them in now, under the import's lock.
_target: Any = registry.cpu_target  # numba's types do not know what its properties give
_target.typing_context.refresh()
_target.target_context.refresh()


class Lines(NamedTuple):
    """The lines of a column of texts, parted by newline characters alone, and counts of each text."""

    offsets: np.ndarray
    """[D + 1] int64"""
    hashes: np.ndarray
    """[L] uint64"""
    lengths: np.ndarray
    """[L] int32, characters without the newline"""
    kinds: np.ndarray
    """[L] uint8: IS_BLANK | HAS_BULLET | ENDS_IN_ELLIPSIS | ENDS_SENTENCE"""
    counts: np.ndarray
    """[D, 5] int64: characters, letters and digits, number signs, ellipses, characters of the longest line"""


_OFTEN = 4096  # counters of word frequency: 16 kB, so that they stay in the nearest cache
IS_BLANK, HAS_BULLET, ENDS_IN_ELLIPSIS, ENDS_SENTENCE = 1, 2, 4, 8

HASH_BASIS = np.uint64(0xCBF29CE484222325)
HASH_PRIME = np.uint64(0x100000001B3)
"""Source: Fowler, Noll, Vo: FNV-1a, 64 bits."""
MIX = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio. Source: Knuth, The Art of Computer Programming 3, 6.4 (multiplicative hashing)."""
GRAM = np.uint64(0xD1342543DE82EF95)
"""Multiplier that chains word hashes to n-gram hashes. Source: Steele & Vigna, arXiv 2001.05304."""

_SPACE, _ALPHANUMERIC, _TERMINAL = c.SPACE, c.LETTER | c.DIGIT, c.TERMINAL


@compiled
def decode(data, at, end):  # noqa: ANN001, ANN201
    """The code point of the character at byte `at`, and its size in bytes; text is valid UTF-8."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | np.int64(data[min(at + 1, end - 1)]) & 0x3F, min(2, end - at)
    if first < 0xF0:
        point = (first & 0x0F) << 12 | (np.int64(data[min(at + 1, end - 1)]) & 0x3F) << 6
        return point | np.int64(data[min(at + 2, end - 1)]) & 0x3F, min(3, end - at)
    point = (first & 0x07) << 18 | (np.int64(data[min(at + 1, end - 1)]) & 0x3F) << 12
    point |= (np.int64(data[min(at + 2, end - 1)]) & 0x3F) << 6
    return point | np.int64(data[min(at + 3, end - 1)]) & 0x3F, min(4, end - at)


@compiled
def _lines(data, starts, wanted, pages, table, offsets, hashes, lengths, flags, counts):  # noqa: ANN001, ANN202
    """See `lines`: the number of lines, or -1 when there is no place for all of them."""
    count = 0
    for document in range(len(starts) - 1):
        at, end = np.int64(starts[document]), np.int64(starts[document + 1])
        alphanumeric = number_signs = ellipses = characters = longest = 0
        while at <= end and wanted[document]:
            if count == len(hashes):
                return -1
            hashed, length, first, kind, stops, is_stop = HASH_BASIS, 0, -1, 0, 0, False
            while at < end and data[at] != 10:
                here = at
                while first >= 0 and at < end and data[at] < 128 and data[at] != 10 and data[at] != 46:  # most text
                    kind = np.int64(table[data[at]])
                    hashed = (hashed ^ np.uint64(data[at])) * HASH_PRIME
                    alphanumeric += kind & _ALPHANUMERIC != 0
                    number_signs += data[at] == 35
                    stops = stops if kind & _SPACE else 0
                    at += 1
                if at > here:
                    length, is_stop = length + at - here, False
                    continue
                point, width = np.int64(data[at]), 1
                if point < 128:
                    kind = np.int64(table[point])
                else:
                    point, width = decode(data, at, end)
                    kind = np.int64(table[np.int64(pages[point >> 8]) << 8 | point & 255])
                for byte in range(at, at + width):
                    hashed = (hashed ^ np.uint64(data[byte])) * HASH_PRIME
                at += width
                length += 1
                alphanumeric += kind & _ALPHANUMERIC != 0
                if point == 46:
                    stops = stops + 1 if is_stop else 1
                    ellipses += stops % 3 == 0
                elif not kind & _SPACE:
                    stops = 3 if point == 0x2026 else 0
                    ellipses += point == 0x2026
                    number_signs += point == 35
                is_stop = point == 46
                if first < 0 and not kind & _SPACE:
                    first = point
            flag = (IS_BLANK if first < 0 else 0) | (HAS_BULLET if first == 45 or first == 0x2022 else 0)
            flag |= (ENDS_IN_ELLIPSIS if stops >= 3 else 0) | (ENDS_SENTENCE if kind & _TERMINAL and length else 0)
            hashes[count], lengths[count], flags[count] = hashed, length, flag
            count += 1
            characters += length + (at < end)
            longest = max(longest, length)
            at += 1
        offsets[document + 1] = count
        counts[document, 0], counts[document, 1] = characters, alphanumeric
        counts[document, 2], counts[document, 3], counts[document, 4] = number_signs, ellipses, longest
    return count


@compiled
def _trimmed_lines(data, starts, wanted, offsets, hashes, sizes):  # noqa: ANN001, ANN202
    """See `trimmed_lines`: the number of lines, or -1 when there is no place for all of them."""
    count = 0
    for document in range(len(starts) - 1):
        at, end = np.int64(starts[document]), np.int64(starts[document + 1])
        while at <= end and wanted[document]:
            if count == len(hashes):
                return -1
            stop = at
            while stop < end and data[stop] != 10:
                stop += 1
            first, last = at, stop
            while first < last and (data[first] == 32 or data[first] == 9 or data[first] == 13):
                first += 1
            while first < last and (data[last - 1] == 32 or data[last - 1] == 9 or data[last - 1] == 13):
                last -= 1
            hashed = HASH_BASIS
            for byte in range(first, last):
                hashed = (hashed ^ np.uint64(data[byte])) * HASH_PRIME
            hashes[count], sizes[count] = hashed, last - first
            count += 1
            at = stop + 1
        offsets[document + 1] = count
    return count


@compiled
def _paragraphs(offsets, hashes, lengths, flags, to, merged, sizes):  # noqa: ANN001, ANN202
    """See `paragraphs`."""
    count = 0
    for document in range(len(offsets) - 1):
        first, last = offsets[document], offsets[document + 1]
        while first < last and flags[first] & IS_BLANK:
            first += 1
        while first < last and flags[last - 1] & IS_BLANK:
            last -= 1
        size = -1
        for line in range(first, last):
            if lengths[line] == 0:
                size = -1
                continue
            if size < 0:
                count += 1
                merged[count - 1] = HASH_BASIS
            merged[count - 1] = (merged[count - 1] ^ hashes[line]) * GRAM
            size += 1 + lengths[line]
            sizes[count - 1] = size
        to[document + 1] = count


@compiled
def _empty_table(keys, entries):  # noqa: ANN001, ANN202
    """Clear as much of a hash table as leaves it at most half full: the mask of its places."""
    size = 16
    while size < 2 * entries:
        size *= 2
    keys[:size] = 0
    return np.uint64(size - 1)


@compiled
def _place(keys, mask, key):  # noqa: ANN001, ANN202
    """Where a key is in a hash table, or the empty place where it belongs."""
    slot = (key * MIX >> np.uint64(40)) & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def _duplicates(offsets, hashes, lengths, skipped, keys, counts):  # noqa: ANN001, ANN202
    """See `duplicates`."""
    for document in range(len(offsets) - 1):
        mask = _empty_table(keys, offsets[document + 1] - offsets[document])
        for row in range(offsets[document], offsets[document + 1]):
            if skipped[row]:
                continue
            key = hashes[row] | np.uint64(1)
            slot = _place(keys, mask, key)
            counts[document, 0] += 1
            if keys[slot] == key:
                counts[document, 1] += 1
                counts[document, 2] += lengths[row]
            keys[slot] = key


@compiled
def _members(offsets, hashes, wanted, found, counts):  # noqa: ANN001, ANN202
    """See `distinct_members`; `found` holds the last document, counted from 1, that has each."""
    likely = np.uint64(0)
    for index in range(len(wanted)):
        likely |= np.uint64(1) << (wanted[index] & np.uint64(63))
    for document in range(len(offsets) - 1):
        for row in range(offsets[document], offsets[document + 1]):
            if likely >> (hashes[row] & np.uint64(63)) & np.uint64(1):
                for index in range(len(wanted)):
                    if wanted[index] == hashes[row] and found[index] <= document:
                        found[index] = document + 1
                        counts[document] += 1


@compiled
def _sentences(offsets, hashes, kinds, is_symbol, ends, counts):  # noqa: ANN001, ANN202
    """See `sentences`."""
    for row in range(len(offsets) - 1):
        ended = False
        counts[row] = offsets[row + 1] > offsets[row]
        for word in range(offsets[row], offsets[row + 1]):
            slot = np.searchsorted(ends, hashes[word])
            if slot < len(ends) and ends[slot] == hashes[word]:
                ended = True
            elif ended and not kinds[word] & is_symbol:
                counts[row] += 1
                ended = False


@compiled
def _gram(hashes, i, n):  # noqa: ANN001, ANN202
    """Hash of the n words from word i on."""
    key = hashes[i]
    for k in range(i + 1, i + n):
        key = key * GRAM + hashes[k]
    return key | np.uint64(1)


@compiled
def _most_common_gram(hashes, lengths, first, last, n, occurrences, keys, counts):  # noqa: ANN001, ANN202
    """Characters in all occurrences of the n-gram that is most frequent (of several, the first), spaces included.

    It is 0 when that n-gram has less than so many occurrences.
    """
    mask = _empty_table(keys, last - first)
    for i in range(first, last - n + 1):
        key = _gram(hashes, i, n)
        slot = _place(keys, mask, key)
        if keys[slot] == 0:
            keys[slot] = key
            counts[slot] = 0
        counts[slot] += 1
    most, characters = 0, 0
    for i in range(first, last - n + 1):
        count = np.int64(counts[_place(keys, mask, _gram(hashes, i, n))])
        if count > most:
            most, characters = count, n - 1
            for k in range(i, i + n):
                characters += lengths[k]
    return most * characters if most >= occurrences else 0


@compiled
def _repeated_grams(hashes, lengths, first, last, n, everywhere, keys):  # noqa: ANN001, ANN202
    """Characters of words in n-grams that occurred before.

    Either as published, an n-gram at a time with the words of a repeated one stepped over, or `everywhere`: of all
    words in any repeated n-gram, which is never less, also for longer n-grams.
    """
    mask = _empty_table(keys, last - first)
    i, counted, characters = first, first, 0
    while i < last - n + 1:
        key = _gram(hashes, i, n)
        slot = _place(keys, mask, key)
        if keys[slot] == key:
            for k in range(max(i, counted), i + n):
                characters += lengths[k]
            counted = i + n
            i += 1 if everywhere else n
        else:
            keys[slot] = key
            i += 1
    return characters


@compiled
def _repetition(offsets, hashes, lengths, limits, occurrences, keys, counts, often, values):  # noqa: ANN001, ANN202
    """See `gram_repetition`."""
    for document in range(len(offsets) - 1):
        first, last = offsets[document], offsets[document + 1]
        size = 64
        while size < min(_OFTEN, 2 * (last - first)):
            size *= 2
        often[:size] = 0
        mask = np.uint64(size - 1)
        for i in range(first, last):
            often[hashes[i] & mask] += 1
        # An n-gram is at most as frequent as its rarest word: only where that could be too often it is counted.
        rarest1 = rarest2 = rarest3 = rarest4 = length1 = length2 = length3 = length4 = 0
        most2 = most3 = most4 = 0
        for i in range(first, last):
            now, length = np.int64(often[hashes[i] & mask]), np.int64(lengths[i])
            rarest4, length4 = min(rarest3, now), length3 + 1 + length
            rarest3, length3 = min(rarest2, now), length2 + 1 + length
            rarest2, length2 = min(rarest1, now), length1 + 1 + length
            rarest1, length1 = now, length
            most2, most3 = max(most2, rarest2 * length2), max(most3, rarest3 * length3)
            most4 = max(most4, rarest4 * length4)
        for n, most in ((2, most2), (3, most3), (4, most4)):
            if most > limits[document, n - 2]:
                values[document, n - 2] = _most_common_gram(hashes, lengths, first, last, n, occurrences, keys, counts)
        # Repeated n-grams of 5 words hold those of more words: where there are few, there is nothing else to count.
        least = np.inf
        for n in range(5, 11):
            least = min(least, limits[document, n - 2])
        if least < np.inf and _repeated_grams(hashes, lengths, first, last, 5, True, keys) > least:
            for n in range(5, 11):
                if limits[document, n - 2] < np.inf:
                    values[document, n - 2] = _repeated_grams(hashes, lengths, first, last, n, False, keys)


# ------------------------------------------------------------------------------------------------- what Python calls


def text_of(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """The buffers of a column of text as compiled functions take them: bytes [B] uint8 and where texts begin [D + 1]."""
    data, starts = text_buffer(texts)
    data, starts = data.view(), starts.view()
    data.flags.writeable = starts.flags.writeable = False  # one type of array, so that functions are compiled once
    return data, starts


def lines(texts: pa.StringArray, wanted: np.ndarray) -> Lines:
    """Part texts in lines at newline characters; a text that ends in one has an empty last line.

    Args:
        texts: the texts.
        wanted: [D] bool: of the others nothing is read.
    """
    data, starts = text_of(texts)
    offsets, counts = np.zeros(len(starts), np.int64), np.zeros((len(texts), 5), np.int64)
    alphabet, size = c.alphabet(), (int(starts[-1]) - int(starts[0])) // 16 + len(starts)
    while True:
        hashes, lengths, flags = np.empty(size, np.uint64), np.empty(size, np.int32), np.empty(size, np.uint8)
        end = _lines(data, starts, wanted, alphabet.pages, alphabet.kinds, offsets, hashes, lengths, flags, counts)
        if end >= 0:
            return Lines(offsets, hashes[:end], lengths[:end], flags[:end], counts)
        size *= 2


def trimmed_lines(texts: pa.StringArray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Part texts in lines without the spaces, tabs and carriage returns at their ends.

    Args:
        texts: the texts.
        wanted: [D] bool: of the others nothing is read.

    Returns:
        offsets [D + 1] int64, hashes [L] uint64, sizes [L] int32 in bytes.
    """
    data, starts = text_of(texts)
    offsets, size = np.zeros(len(starts), np.int64), (int(starts[-1]) - int(starts[0])) // 16 + len(starts)
    while True:
        hashes, sizes = np.empty(size, np.uint64), np.empty(size, np.int32)
        end = _trimmed_lines(data, starts, wanted, offsets, hashes, sizes)
        if end >= 0:
            return offsets, hashes[:end], sizes[:end]
        size *= 2


def paragraphs(table: Lines) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join lines to paragraphs, which empty lines part; blank lines around a text do not count.

    Returns:
        offsets [D + 1] int64, hashes [P] uint64, lengths [P] int32 in characters.
    """
    offsets = np.zeros(len(table.offsets), np.int64)
    hashes, lengths = np.empty(len(table.hashes), np.uint64), np.empty(len(table.hashes), np.int32)
    _paragraphs(table.offsets, table.hashes, table.lengths, table.kinds, offsets, hashes, lengths)
    return offsets, hashes[: offsets[-1]], lengths[: offsets[-1]]


def duplicates(offsets: np.ndarray, hashes: np.ndarray, lengths: np.ndarray, skipped: np.ndarray) -> np.ndarray:
    """Count rows of each document that occurred in it before.

    Args:
        offsets: [D + 1] int64.
        hashes: [R] uint64.
        lengths: [R] int32.
        skipped: [R] bool: rows that do not count.

    Returns:
        [D, 3] int64: rows, repeated rows, characters in repeated rows.
    """
    counts = np.zeros((len(offsets) - 1, 3), np.int64)
    _duplicates(offsets, hashes, lengths, skipped, _table(offsets), counts)
    return counts


def distinct_members(offsets: np.ndarray, hashes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Count how many different ones of the `wanted` hashes each document has: [D] int64."""
    counts = np.zeros(len(offsets) - 1, np.int64)
    _members(offsets, hashes, wanted, np.zeros(len(wanted), np.int64), counts)
    return counts


def sentences(offsets: np.ndarray, hashes: np.ndarray, kinds: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Count the sentences of texts: one begins with the first word, and with each word after a mark that ends one.

    Args:
        offsets: [D + 1] int64, of words.
        hashes: [W] uint64.
        kinds: [W] uint8: words of marks alone begin no sentence.
        ends: hashes of the words that end a sentence, sorted.

    Returns:
        [D] int64; 0 for a text without words.

    Source: spaCy 3.8, pipeline/sentencizer.pyx (MIT), which datatrove 0.10.1 counts C4's sentences by.
    """
    counts = np.zeros(len(offsets) - 1, np.int64)
    _sentences(offsets, hashes, kinds, 2, ends, counts)  # 2 is words.IS_SYMBOL
    return counts


def gram_repetition(
    offsets: np.ndarray, hashes: np.ndarray, lengths: np.ndarray, limits: np.ndarray, occurrences: int = 1
) -> np.ndarray:
    """Measure how much of each document repeats itself, in n-grams of words.

    Args:
        offsets: [D + 1] int64, of words.
        hashes: [W] uint64.
        lengths: [W] int32.
        limits: [D, 9] float64: characters below or at which the exact value is of no interest, infinite to skip it.
        occurrences: how often the most frequent n-gram must occur to count.

    Returns:
        [D, 9] int64, characters: of the most frequent 2-, 3- and 4-gram, of repeated 5- to 10-grams. A value is exact
        when it is above its limit; otherwise it may be given as 0.

    Source: Rae et al., Scaling Language Models (Gopher), arXiv 2112.11446, table A1, counted as datatrove 0.10.1 does.
    """
    values, keys = np.zeros((len(offsets) - 1, 9), np.int64), _table(offsets)
    counts, often = np.empty(len(keys), np.int32), np.empty(_OFTEN, np.int32)
    _repetition(offsets, hashes, lengths, limits, occurrences, keys, counts, often, values)
    return values


def _table(offsets: np.ndarray) -> np.ndarray:
    """A hash table that stays at most half full for the longest document."""
    return np.empty(16 << max(0, int(2 * np.diff(offsets).max(initial=0) - 1).bit_length() - 4), np.uint64)
