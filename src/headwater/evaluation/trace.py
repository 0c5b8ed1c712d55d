"""Where a text comes from: the longest runs of its words that stand, letter for letter, in training documents.

A match begins and ends with whole words of the text (suffixes.py says what a word is), and is the longest: with one word
more, before or behind, it would stand in no training document. Matches may overlap, none lies within another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from headwater.tokens.index import Place, TextIndex
from headwater.tokens.suffixes import Words, words_of

MIN_WORDS = 8
"""Words of a match, by default: in 32 million words of books, two of three runs of 8 words of other books stood nowhere, but
nearly every run of 3 did (docs/lab-notes.md)."""
CONTEXT = 120
"""Text shown before and after a match [bytes]."""


@dataclass(frozen=True)
class Source:
    """A training document that holds a match, and where in it."""

    id: str
    source: str
    number: int
    """Which document of its source, from 0."""
    url: str | None
    licence: str | None
    byte: int
    """Where the match begins in the document's text [UTF-8 bytes]."""
    before: str
    """The text that stands before it there."""
    after: str
    steps: tuple[int, ...] | None = None
    """Training steps, counted from 1, that read the match here; None where that is not known."""


@dataclass(frozen=True)
class Match:
    """Words of a text that stand in training documents."""

    begin: int
    """First character in the text."""
    end: int
    """The character after its last."""
    text: str
    words: int
    count: int
    """Places in training documents."""
    documents: int
    """Different documents among the first places looked at, MOST_PLACES of each part of the index."""
    sources: tuple[Source, ...]
    """Some of them, in the order of the training documents."""


def trace(
    index: TextIndex, text: str, *, min_words: int = MIN_WORDS, sources: int = 3, context: int = CONTEXT
) -> list[Match]:
    """Find where the words of a text stand in training documents, in the order of the text.

    Args:
        index: the training documents.
        text: any text; it is compared letter for letter.
        min_words: words of a match at least.
        sources: documents to tell of each match.
        context: text to give before and after it in them [bytes].
    """
    words = words_of(text)
    characters = np.cumsum((words.data & 0xC0) != 0x80)  # up to each byte
    return [
        _match(index, words, first, last, int(characters[words.begins[first]]) - 1, sources, context)
        for first, last in spans(index, words, min_words)
    ]


def spans(index: TextIndex, words: Words, min_words: int) -> Iterator[tuple[int, int]]:
    """The longest runs of words that stand in training documents: the first word of each and the one after its last.

    Every run of `min_words` words is looked up; only from where one stands is the longest run sought.
    """
    found = index.standing(words, min_words)
    first = 0
    while first < len(found):
        if not found[first]:
            first += 1
            continue
        last = first + index.longest(words, first)
        yield first, last
        first = _next(index, words, found, first, last, min_words)


def _next(index: TextIndex, words: Words, found: np.ndarray, first: int, last: int, min_words: int) -> int:
    """The first word after `first` from which a run may stand that goes on beyond the match that ends before `last`.

    If a run of words stands, so does every run of its last words: the first word of such a run is found by halving.
    """
    low, high = first + 1, max(first + 1, last + 1 - min_words)
    if high >= len(found) or not found[high]:  # from `high` on, `found` tells of words beyond the match
        return high
    while low < high:
        middle = (low + high) // 2
        if index.stands(words, middle, last + 1):
            high = middle
        else:
            low = middle + 1
    return high


def _match(index: TextIndex, words: Words, first: int, last: int, begin: int, sources: int, context: int) -> Match:
    """A match with its places."""
    count, places = index.places(words, first, last)
    data = words.data[words.begins[first] : words.ends[last - 1]].tobytes()
    text = data.decode()
    documents: dict[tuple[int, int], Place] = {}
    for place in places:
        documents.setdefault((place.part, place.row), place)
    shown = []
    for place in list(documents.values())[:sources]:
        before, after = index.text(place, context, len(data) + context)
        shown.append(Source(*index.document(place), place.byte, before, after[len(text) :]))
    return Match(begin, begin + len(text), text, last - first, count, len(documents), tuple(shown))
