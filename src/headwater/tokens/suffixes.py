"""Finding runs of words in much text: where words begin, and search in a sorted list of what follows each beginning.

A word is a run of letters and digits, or a single letter of a script that parts no words (Chinese, Japanese, Korean, Thai),
as in documents/text/shingles.py. Where one begins follows from the two characters around the place alone, so the same run
of words has the same beginnings wherever it stands: sorting what follows these, and not what follows every byte, finds
every run that begins with a word.

Compiled loops, see documents/text/kernels.py. Shapes: B bytes of text, W words.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from headwater.documents.text import characters as c
from headwater.documents.text.kernels import compiled, decode, text_of
from headwater.documents.text.shingles import is_unspaced

BOUNDARY = 0xFF
"""Byte that stands before each document and after the last: it is in no UTF-8 text, so no match crosses it."""


class Words(NamedTuple):
    """A text and where its words are."""

    data: np.ndarray
    """Its UTF-8 bytes [B] uint8."""
    begins: np.ndarray
    """The first byte of each word [W] int64."""
    ends: np.ndarray
    """The byte after its last [W] int64."""

    def __len__(self) -> int:  # of a NamedTuple it would be 3
        return len(self.begins)


def words_of(text: str) -> Words:
    """The words of one text."""
    column = pa.array([text.encode(errors="replace").decode()])
    data, starts = text_of(column)
    begins, ends = word_bounds(column)
    return Words(data[starts[0] : starts[1]], begins, ends)


def word_bounds(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Where words begin and end in a column of texts, counted in bytes from the first text's first [W] int64 each."""
    data, starts = text_of(texts)
    alphabet = c.alphabet()
    size = (int(starts[-1]) - int(starts[0])) // 4 + 64  # enough for most text; if not, twice as many
    while True:
        begins, ends = np.empty(size, np.int64), np.empty(size, np.int64)
        count = _word_bounds(data, starts, alphabet.pages, alphabet.folded, begins, ends)
        if count >= 0:
            return begins[:count] - int(starts[0]), ends[:count] - int(starts[0])
        size *= 2


def keep_words(order: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Of a list of all places of a text in the order of what follows them, those where a word begins.

    Args:
        order: the sorted places [B] int32; is overwritten.
        begins: where words begin [W] integers.

    Returns:
        the places that are left, in the same order [W] uint32: the front of `order`.
    """
    wanted = np.zeros(len(order), np.bool_)
    wanted[begins] = True
    return order[: _keep(order, wanted)].view(np.uint32)


@compiled
def _word_bounds(data, starts, pages, folded, begins, ends):  # noqa: ANN001, ANN202
    """See `word_bounds`: the number of words, or -1 when there is no place for all of them."""
    count = 0
    for document in range(len(starts) - 1):
        at, end = np.int64(starts[document]), np.int64(starts[document + 1])
        in_word = goes_on = False
        while at < end:
            point, width = np.int64(data[at]), 1
            if point < 128:
                letter = np.int64(folded[point])
            else:
                point, width = decode(data, at, end)
                letter = np.int64(folded[np.int64(pages[point >> 8]) << 8 | point & 255])
            if letter == c.SEPARATOR:
                in_word = goes_on = False
            elif letter == c.UNSEEN:  # a mark: part of what it follows
                if in_word:
                    ends[count - 1] = at + width
            else:
                alone = is_unspaced(point)
                if alone or not goes_on:
                    if count == len(begins):
                        return -1
                    begins[count] = at
                    count += 1
                ends[count - 1] = at + width
                in_word, goes_on = True, not alone
            at += width
    return count


@compiled
def _keep(order, wanted):  # noqa: ANN001, ANN202
    """Move the wanted places to the front: how many there are."""
    count = 0
    for i in range(len(order)):
        place = order[i]
        if wanted[place]:
            order[count] = place
            count += 1
    return count


@compiled
def _shared(text, place, query, at, end, shared):  # noqa: ANN001, ANN202
    """How many bytes of `query[at:end]` stand at a place of the text; the first `shared` are known to."""
    while at + shared < end and text[place + shared] == query[at + shared]:
        shared += 1
    return shared


@compiled
def longest(query, at, end, text, order):  # noqa: ANN001, ANN201
    """The most bytes of `query[at:end]` that stand anywhere at the beginning of a word; -1 where `order` is damaged.

    Source: Manber & Myers 1993, binary search that does not compare again what both ends of the range share.
    """
    low, high = 0, len(order)
    left = right = best = 0
    while low < high:
        middle = (low + high) >> 1
        place = np.int64(order[middle])
        if place >= len(text):
            return -1
        shared = _shared(text, place, query, at, end, min(left, right))
        best = max(best, shared)
        if at + shared == end:
            return best
        if query[at + shared] < text[place + shared]:
            high, right = middle, shared
        else:
            low, left = middle + 1, shared
    return best


@compiled
def mark_standing(query, begins, ends, text, order, found):  # noqa: ANN001, ANN201
    """Set `found` where `query[begin:end]` stands in the text at the beginning of a word; False where `order` is damaged."""
    for i in range(len(begins)):
        if not found[i]:
            length = longest(query, begins[i], ends[i], text, order)
            if length < 0:
                return False
            found[i] = length == ends[i] - begins[i]
    return True


@compiled
def _bound(query, at, end, text, order, after):  # noqa: ANN001, ANN202
    """The first place in `order` whose text is not before `query[at:end]`, or, `after`, does not begin with it either."""
    low, high = 0, len(order)
    left = right = 0
    while low < high:
        middle = (low + high) >> 1
        place = np.int64(order[middle])
        if place >= len(text):
            return -1
        shared = _shared(text, place, query, at, end, min(left, right))
        whole = at + shared == end
        if (whole and not after) or (not whole and query[at + shared] < text[place + shared]):
            high, right = middle, shared
        else:
            low, left = middle + 1, shared
    return low


@compiled
def standing(query, at, end, text, order):  # noqa: ANN001, ANN201
    """The range of `order` whose places hold `query[at:end]`: its first and the one after its last; -1 where damaged."""
    return _bound(query, at, end, text, order, False), _bound(query, at, end, text, order, True)
