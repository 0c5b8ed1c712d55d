"""Texts as sequences of what copies are sought by: words, or single characters where a script parts no words.

A unit is a run of letters and digits in small letters and without marks, where every number counts as 0; in Chinese,
Japanese, Korean, Thai and other text without spaces, or with spaces that editions set differently, it is one such letter.
Near-duplicates, repeated spans and benchmark overlap are all found by n-grams of these units.

Compiled loops, see kernels.py.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from headwater.documents.text import characters as c
from headwater.documents.text.kernels import GRAM, HASH_BASIS, HASH_PRIME, MIX, compiled, decode, text_of

UnitKind = Literal["auto", "words", "characters"]
"""What documents are compared by; `auto` chooses for each document."""

UNSPACED_SHARE = 0.1
"""Share of letters of scripts without spaces from which on `auto` compares a text by characters.
Source: the help of one software in four languages, pages of more than 200 letters: at most 0.05 in all English and
German ones, a median of 0.26 in Korean and 0.33 in Japanese, whose commands and code are Latin (docs/lab-notes.md).
A word of such a script has about 2 letters and a Latin one 5, so at 0.1 a fifth of the words are of the script."""

_KINDS = {"auto": 0, "words": 1, "characters": 2}


class Units(NamedTuple):
    """The units of a column of texts."""

    offsets: np.ndarray
    """[D + 1] int64"""
    hashes: np.ndarray
    """[U] uint64"""
    begins: np.ndarray
    """[U] int32: byte in the buffer of all texts (document.text_buffer)"""
    ends: np.ndarray
    """[U] int32"""
    characters: np.ndarray
    """[D] bool: units are characters, not words"""
    unspaced: np.ndarray
    """[D] int64: letters of scripts without spaces"""


def units(
    texts: pa.StringArray, kind: UnitKind = "auto", wanted: np.ndarray | None = None, *, numbers: bool = False
) -> Units:
    """Part texts in units.

    Args:
        texts: the texts.
        kind: words, characters, or what fits each text best.
        wanted: [D] bool: the others have no units; all by default.
        numbers: other numbers are other units; by default every number counts as 0.
    """
    data, starts = text_of(texts)
    wanted = np.ones(len(texts), np.bool_) if wanted is None else wanted
    alphabet, offsets = c.alphabet(), np.zeros(len(starts), np.int64)
    by_character, unspaced = np.zeros(len(texts), np.bool_), np.zeros(len(texts), np.int64)
    size = (int(starts[-1]) - int(starts[0])) // 4 + 64  # enough for most text; if not, twice as many
    while True:
        hashes, begins, ends = np.empty(size, np.uint64), np.empty(size, np.int32), np.empty(size, np.int32)
        tables = (alphabet.pages, alphabet.folded, wanted, _KINDS[kind], UNSPACED_SHARE, numbers)
        end = _units(data, starts, *tables, offsets, hashes, begins, ends, by_character, unspaced)
        if end >= 0:
            return Units(offsets, hashes[:end], begins[:end], ends[:end], by_character, unspaced)
        size *= 2


def gram_hashes(table: Units, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hash every n-gram of each text.

    Args:
        table: the units.
        sizes: [D] int64: units in an n-gram of each text.

    Returns:
        offsets [D + 1] int64, hashes [G] uint64.
    """
    grams = np.maximum(np.diff(table.offsets) - sizes + 1, 0)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(grams)])
    hashes = np.empty(offsets[-1], np.uint64)
    _gram_hashes(table.offsets, table.hashes, sizes, offsets, hashes)
    return offsets, hashes


@compiled
def is_unspaced(point):  # noqa: ANN001, ANN201
    """Whether a character is of a script without spaces between words, or is Korean."""
    if point < 0x0E00:
        return False
    return (
        (
            point < 0x1200  # Thai, Lao, Tibetan, Myanmar and Hangul letters, not Georgian
            and not 0x10A0 <= point < 0x1100
        )
        or 0x1780 <= point < 0x1800  # Khmer
        or 0x3005 <= point < 0xA4D0  # kana, Bopomofo, Hangul letters, ideographs, Yi
        or 0xAC00 <= point < 0xD7FC  # Hangul
        or 0xF900 <= point < 0xFB00
        or 0xFF66 <= point < 0xFFDD  # half-width
        or 0x1B000 <= point < 0x1B170
        or 0x20000 <= point < 0x40000
    )


@compiled
def _units(data, starts, pages, folded, wanted, kind, share, exact, offsets, hashes, begins, ends, spelt, unspaced):  # noqa: ANN001, ANN202
    """See `units`: the number of units, or -1 when there is no place for all of them."""
    count = np.int64(0)
    for document in range(len(starts) - 1):
        characters, begun = kind == 2, count
        while wanted[document]:  # once, or twice when `auto` finds characters to fit better
            at, end = np.int64(starts[document]), np.int64(starts[document + 1])
            count, number, hashed, letters, foreign = begun, 0, HASH_BASIS, 0, 0
            begin = last = at
            while at <= end:
                if count == len(hashes):
                    return -1
                # Most text: ASCII without numbers, by arithmetic, because where words end no processor foresees.
                limit = min(end, at + len(hashes) - count) if number == 0 and not characters else at
                parted = np.int64(hashed == HASH_BASIS)
                while at < limit and data[at] < 128 and folded[data[at]] != 48:
                    letter = np.uint64(folded[data[at]])
                    parts = np.int64(letter == 0)
                    begin ^= (begin ^ at) & -parted
                    hashes[count], begins[count], ends[count] = hashed, begin, at  # stays if a word ends here
                    count += parts & ~parted
                    letters += 1 - parts
                    hashed = (hashed ^ letter) * HASH_PRIME
                    hashed ^= (hashed ^ HASH_BASIS) & np.uint64(-parts)
                    parted = parts
                    at += 1
                last = last if parted else at
                if count == len(hashes):
                    return -1
                letter, width = np.int64(0), 1
                if at < end:
                    point = np.int64(data[at])
                    if point < 128:
                        letter = np.int64(folded[point])
                    else:
                        point, width = decode(data, at, end)
                        letter = np.int64(folded[np.int64(pages[point >> 8]) << 8 | point & 255])
                        letter = point if letter == c.ITSELF else letter
                        foreign += letter > 0 and is_unspaced(point)
                    if number == 1 and (point == 44 or point == 46) and at + 1 < end and 48 <= data[at + 1] <= 57:
                        number, letter = 2, -1  # the point of a decimal number
                    elif letter == 48 and exact:
                        number, letter = 1, point
                    elif letter == 48:
                        number, letter = (1, 48) if number == 0 else (number, -1)
                    elif letter >= 0:
                        number = 0
                here = at
                at += width
                if letter < 0:  # part of what it follows
                    if last == here and at <= end:
                        last = at
                        if characters and count > begun:
                            ends[count - 1] = at
                    continue
                if letter != 0:
                    letters += 1
                    last = at
                    if characters:
                        hashes[count] = (HASH_BASIS ^ np.uint64(letter)) * HASH_PRIME
                        begins[count], ends[count] = here, at
                        count += 1
                        continue
                    if hashed == HASH_BASIS:
                        begin = here
                    hashed = (hashed ^ np.uint64(letter)) * HASH_PRIME
                    continue
                if hashed == HASH_BASIS:
                    continue
                hashes[count], begins[count], ends[count] = hashed, begin, last
                hashed = HASH_BASIS
                count += 1
            unspaced[document] = foreign
            spelt[document] = characters
            if characters or kind == 1 or foreign < share * letters or foreign == 0:
                break
            characters = True
        offsets[document + 1] = count
    return count


@compiled
def _gram_hashes(offsets, units, sizes, to, hashes):  # noqa: ANN001, ANN202
    """See `gram_hashes`."""
    for document in range(len(offsets) - 1):
        size, first, place = sizes[document], offsets[document], to[document]
        oldest, gram = np.uint64(1), np.uint64(0)
        for _ in range(size):
            oldest *= GRAM
        for i in range(first, offsets[document + 1]):
            gram = gram * GRAM + units[i]
            if i - first >= size:
                gram -= units[i - size] * oldest
            if i - first >= size - 1:
                hashes[place] = (gram ^ gram >> np.uint64(32)) * MIX
                place += 1
