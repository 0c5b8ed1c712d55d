"""Where a text comes from: the longest runs of its words that stand, letter for letter, in training documents.

A match begins and ends with whole words of the text (suffixes.py says what a word is), and is the longest: with one word
more, before or behind, it would stand in no training document. Matches may overlap, none lies within another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from headwater.tokens.suffixes import Words, words_of
from headwater.tokens.text_index import Place, TextIndex

MIN_WORDS = 8
"""Words of a match, by default."""
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
    place: Place
    """Where the match begins."""
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
    return [match(index, words, *span, sources, context) for span in spans(index, words, min_words)]


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


def match(index: TextIndex, words: Words, first: int, last: int, sources: int = 3, context: int = CONTEXT) -> Match:
    """The match of the words from `first` up to `last`, which stand in training documents; the rest as of `trace`."""
    count, places = index.places(words, first, last)
    data = words.data[words.begins[first] : words.ends[last - 1]].tobytes()
    text, begin = data.decode(), len(words.data[: words.begins[first]].tobytes().decode())
    documents: dict[tuple[int, int], Place] = {}
    for place in places:
        documents.setdefault((place.part, place.row), place)
    shown = []
    for place in list(documents.values())[:sources]:
        before, after = index.text(place, context, len(data) + context)
        shown.append(Source(*index.document(place), place, before, after[len(text) :]))
    return Match(begin, begin + len(text), text, last - first, count, len(documents), tuple(shown))


def told(text: str, matches: Sequence[Match], min_words: int) -> Iterator[str]:
    """The matches of a text for a person, line by line."""
    covered = sum(end - begin for begin, end in union(matches))
    share = covered / len(text) if text else 0.0
    runs = "1 run" if len(matches) == 1 else f"{len(matches):,} runs"
    yield f"{runs} of {min_words} words or more in the training documents: {share:.1%} of {len(text):,} characters"
    for found in matches:
        places = "1 place" if found.count == 1 else f"{found.count:,} places"
        yield f"\n{found.words} words from character {found.begin:,}, in {places}:\n  {line(found.text)}"
        for source in found.sources:
            facts = [source.source, source.url, source.licence, source.id]
            yield "  - " + "  ".join(fact for fact in facts if fact) + read_by(source.steps)
            yield f"    ...{line(source.before)}[{line(found.text, 60)}]{line(source.after)}..."
        if found.documents > len(found.sources):
            yield f"  and {found.documents - len(found.sources):,} more documents"


def read_by(steps: Sequence[int] | None) -> str:
    """Which training steps read something, as the end of a line."""
    if steps is None:
        return ""
    if not steps:
        return "  read by no step"
    named = ", ".join(f"{step:,}" for step in steps[:5])
    return f"  read by step{'' if len(steps) == 1 else 's'} {named}" + (
        f" and {len(steps) - 5:,} more" * (len(steps) > 5)
    )


def union(matches: Sequence[Match]) -> list[tuple[int, int]]:
    """The characters that matches cover, as runs that do not overlap."""
    found: list[tuple[int, int]] = []
    for one in matches:
        if found and one.begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], one.end)
        else:
            found.append((one.begin, one.end))
    return found


def line(text: str, most: int = 240) -> str:
    """Text on one line, its middle left out where it is long."""
    flat = " ".join(text.split()) if len(text) > most else text.replace("\n", " ")
    return flat if len(flat) <= most else f"{flat[: most // 2]} [...] {flat[-most // 2 :]}"
