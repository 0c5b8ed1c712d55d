"""Whether documents that were taken out have left anything: the runs of their words that still stand in training documents."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from headwater.evaluation.trace import Match, line, match, spans
from headwater.tokens.suffixes import Words, words_of
from headwater.tokens.text_index import TextIndex

MIN_WORDS = 13
"""Words of a run that counts as something left. Source: Brown et al. 2020 (arXiv:2005.14165), appendix C, who take 13-grams to
tell copies from chance."""
COMMON = 5
"""Different training documents from which on a run counts as a common phrase: a copy that escaped stands in one or two."""
_DISTINCT = 1 / 3  # share of different words in a run; less is a table or a drawing
_SHOWN = 20


class Removed(NamedTuple):
    """A document that is to be absent."""

    id: str | None
    """None where it is not known, as of a text file."""
    name: str
    """What a person calls it: its address, or its id."""
    text: str


@dataclass(frozen=True)
class Left:
    """A run of words of a removed document that stands in training documents."""

    document: str
    """The removed document's name."""
    match: Match

    @property
    def explanation(self) -> str:
        """What may be behind it, in words."""
        words = self.match.text.lower().split()
        if self.match.documents >= COMMON:
            return f"in {self.match.documents:,} documents: a common phrase, a quotation or boilerplate"
        if len(set(words)) < _DISTINCT * len(words):
            return "few different words: a table or a pattern"
        return "in few documents: look at them, it may be a copy"


@dataclass(frozen=True)
class Absence:
    """What was looked for, and what is left of it."""

    documents: int
    words: int
    """Of the removed documents."""
    short: int
    """Of these, documents of fewer than `min_words` words: too short to be told from chance."""
    min_words: int
    whole: tuple[str, ...]
    """Names of removed documents that are training documents, by their id."""
    spans: int
    """Runs of at least `min_words` words that stand in training documents."""
    words_left: int
    """Words of the removed documents in such runs, at most; where two overlap, both count."""
    left: tuple[Left, ...]
    """The longest of them."""
    longest: Left | None
    """The longest run that is left, also when it is shorter; None when not a single word is."""

    @property
    def proven(self) -> bool:
        """Whether nothing is left."""
        return not self.whole and not self.spans

    def told(self) -> Iterator[str]:
        """The result for a person, line by line."""
        looked = f"{self.documents:,} documents, {self.words:,} words"
        if self.proven:
            yield f"absent: no run of {self.min_words} words of {looked} stands in the training documents"
        if self.whole:
            yield f"{len(self.whole):,} of the documents are training documents, by their id: {', '.join(self.whole[:5])}"
        if self.spans:
            yield (
                f"{self.spans:,} runs of {self.min_words} words or more stand in the training documents: at most "
                f"{self.words_left / max(self.words, 1):.2%} of {looked}"
            )
        if self.short:
            yield f"{self.short:,} of the documents have fewer than {self.min_words} words: too short to be told from chance"
        if self.longest is None:
            yield "not a single word of them does"
        for left in self.left or ([self.longest] if self.longest else []):
            why = left.explanation if self.left else "too short to count"
            what = f"{left.match.words} words of {left.document}, {why}"
            yield f"{'the longest run that is left: ' if not self.left else ''}{what}\n  {line(left.match.text)}"
            for source in left.match.sources:
                yield "  - " + "  ".join(
                    fact for fact in (source.source, source.url, source.licence, source.id) if fact
                )


def absence(index: TextIndex, removed: Iterable[Removed], min_words: int = MIN_WORDS) -> Absence:
    """Look for every run of words of removed documents in the training documents.

    Args:
        index: the training documents.
        removed: the documents, one after the other.
        min_words: words of a run that counts.
    """
    ids = set(index.ids())
    whole: dict[str, None] = {}
    longest: tuple[int, Removed, Words, int] | None = None
    heap: list[tuple[int, int, Removed, Words, int]] = []
    documents = total = short = count = words_left = 0
    for document in removed:
        words = words_of(document.text)
        documents, total, short = documents + 1, total + len(words), short + (len(words) < min_words)
        whole |= {document.name: None} if document.id in ids else {}
        for first, last in spans(index, words, min_words):
            count, words_left = count + 1, words_left + last - first
            heapq.heappush(heap, (last - first, -count, document, words, first))
            if len(heap) > _SHOWN:
                heapq.heappop(heap)
        if not count:
            best = _longest_below(index, words, longest[0] if longest else 0, min_words)
            longest = (best[0], document, words, best[1]) if best else longest
    left = [_left(index, *found[2:], found[0]) for found in sorted(heap, key=lambda item: (-item[0], -item[1]))]
    most = left[0] if left else None
    if not left and longest:
        size, document, words, first = longest
        most = _left(index, document, words, first, size)
    return Absence(documents, total, short, min_words, tuple(whole), count, words_left, tuple(left), most)


def _longest_below(index: TextIndex, words: Words, known: int, min_words: int) -> tuple[int, int] | None:
    """Words of the longest run that is longer than `known` and shorter than `min_words`, and its first word; None if none is.

    If a run of n words stands, so does one of n - 1: the most is found by halving.
    """
    low, high, first = known, min(min_words - 1, len(words)), None
    while low < high:
        middle = (low + high + 1) // 2
        found = index.standing(words, middle)
        if found.any():
            low, first = middle, int(found.argmax())
        else:
            high = middle - 1
    return None if first is None else (low, first)


def _left(index: TextIndex, document: Removed, words: Words, first: int, count: int) -> Left:
    return Left(document.name, match(index, words, first, first + count))
