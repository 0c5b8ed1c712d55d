"""The step with C4's rules: lines that are no sentences are removed, then documents with too few sentences dropped."""

from __future__ import annotations

import functools
import re
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from headwater.documents.cleaning.features import Features, per_document
from headwater.documents.cleaning.steps import MARGIN, CleaningStep, Rule, Verdict, at_least, judge


class C4(CleaningStep):
    """Remove lines that are no sentences, and drop documents with too few sentences or with marks of code (C4).

    Source: Raffel et al., Exploring the Limits of Transfer Learning (T5), arXiv 1910.10683, section 2.2, line by line as
    datatrove 0.10.1 does it: lines end wherever Python's `splitlines` ends them, and lose the space around them.
    """

    use: Literal["c4"]
    terminal_punctuation: bool = True
    """Remove lines that do not end in . ? ! or a straight quote, or that end in three dots. FineWeb switches it off."""
    min_line_words: int | None = Field(default=3, ge=1)
    """Words between spaces that a line has at least; others are removed."""
    max_word_characters: int | None = Field(default=1000, ge=1)
    """Characters of the longest word of a line, at most; lines with a longer one are removed."""
    citations: bool = True
    """Remove marks such as [1], [edit] and [citation needed] from lines."""
    javascript_lines: bool = True
    """Remove lines that speak of JavaScript."""
    policy_lines: bool = True
    """Remove lines that speak of `policy_phrases`."""
    policy_phrases: tuple[str, ...] = (
        "terms of use",
        "privacy policy",
        "cookie policy",
        "uses cookies",
        "use of cookies",
        "use cookies",
    )
    """Phrases of notices, in small letters."""
    lorem_ipsum: bool = True
    """Drop documents with the placeholder text "lorem ipsum"."""
    curly_bracket: bool = True
    """Drop documents with a { in a line that would stay. This drops most source code: give code a step of its own."""
    min_sentences: int | None = Field(default=5, ge=1)
    """Sentences that a document has at least in the lines that stay."""

    def __call__(self, batch: Features) -> Verdict:
        """Edit and judge a batch of documents."""
        texts = batch.texts.to_pylist()
        documents = len(texts)
        edited, lorem, bracket = (np.zeros(documents, np.bool_) for _ in range(3))
        few: dict[int, list[str]] = {}  # documents with so few lines that their sentences must be counted
        sentences = np.full(documents, np.inf)
        for index in np.flatnonzero(batch.wanted).tolist():
            lines, fault = self._lines(texts[index])
            lorem[index], bracket[index] = fault == "lorem_ipsum", fault == "curly_bracket"
            if fault:
                continue
            text = "\n".join(lines).strip()
            edited[index] = text != texts[index]
            texts[index] = text
            if len(lines) < (self.min_sentences or 0) * (1 + MARGIN):
                few[index] = lines
        if self.min_sentences is not None:
            sentences[list(few)] = _count_sentences(few.values())
        return judge(
            documents,
            Rule("lorem_ipsum", lorem.astype(np.float64), lorem, 0.0),
            Rule("curly_bracket", bracket.astype(np.float64), bracket, 0.0),
            at_least("min_sentences", sentences, self.min_sentences),
            columns={"text": pa.array(texts, pa.string())} if edited.any() else {},
            edited=edited,
        )

    def _lines(self, text: str) -> tuple[list[str], str]:
        """The lines of a text that stay, and the name of the rule that drops it whole, if one does."""
        small = text.lower()
        cites = self.citations and "[" in text
        javascript = self.javascript_lines and "javascript" in small
        policy = self.policy_lines and any(phrase in small for phrase in self.policy_phrases)
        lorem = self.lorem_ipsum and "lorem ipsum" in small
        bracket = self.curly_bracket and "{" in text
        longest = self.max_word_characters if self.max_word_characters and len(text) > self.max_word_characters else 0
        fewest = self.min_line_words or 0
        kept = []
        for raw in text.splitlines():
            line = raw.strip()
            few_words = len(line.split(None, fewest)) < fewest
            if longest and len(line) > longest and max(map(len, line.split())) > longest:
                continue
            if cites:
                line = _CITATION.sub("", line)
            if self.terminal_punctuation and (not line.endswith(_SENTENCE_ENDS) or line.endswith("...")):
                continue
            if few_words:
                continue
            if lorem or javascript or policy:
                small = line.lower()
                if lorem and "lorem ipsum" in small:
                    return [], "lorem_ipsum"
                if javascript and "javascript" in small:
                    continue
            if bracket and "{" in line:
                return [], "curly_bracket"
            if policy and any(phrase in small for phrase in self.policy_phrases):
                continue
            kept.append(line)
        return kept, ""


_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_SENTENCE_ENDS = (".", "?", "!", '"', "'")


def _count_sentences(documents) -> np.ndarray:  # noqa: ANN001  (a view of lists of lines)
    """Count the sentences of each document, given as lines; a line has at least one if it has a word.

    A sentence ends at a mark such as a full stop that is a word of its own, and the next begins at the next word that is
    no mark: so spaCy's sentencizer does it, which datatrove counts by.
    """
    from headwater.documents.text import kernels
    from headwater.documents.text.words import words

    parts = list(documents)
    table = words(
        pa.array([line for lines in parts for line in lines], pa.string()), np.ones(sum(map(len, parts)), np.bool_)
    )
    counts = kernels.sentences(table.offsets, table.hashes, table.kinds, _end_marks())
    bounds = np.cumsum([0, *map(len, parts)])
    return per_document(counts, bounds)


@functools.cache
def _end_marks() -> np.ndarray:
    """Hashes of the marks that end a sentence, as the table of words has them."""
    from headwater.documents.text.characters import TERMINALS, code_points
    from headwater.documents.text.words import words

    marks = [chr(point) for point in sorted(code_points(TERMINALS))]
    return np.unique(words(pa.array(marks), np.ones(len(marks), np.bool_)).hashes)
