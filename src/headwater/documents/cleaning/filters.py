"""Rules that drop documents by what their text looks like; see steps.py for what a step is.

Every threshold is a setting with its published value; None switches the rule off.
"""

from __future__ import annotations

import functools
import re
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from headwater.core.units import Count
from headwater.documents.cleaning.features import Features, per_document, share
from headwater.documents.cleaning.steps import MARGIN, CleaningStep, Rule, Verdict, at_least, at_most, judge

Share = float | None


class Length(CleaningStep):
    """Drop documents that are too short or too long."""

    use: Literal["length"]
    min_characters: Count | None = Field(default=None, ge=0)
    """Characters that a document has at least."""
    max_characters: Count | None = Field(default=None, ge=1)
    """Characters that a document has at most."""
    min_words: Count | None = Field(default=None, ge=0)
    """Words that a document has at least. Marks such as commas are words too, as in all rules here."""
    max_words: Count | None = Field(default=None, ge=1)
    """Words that a document has at most."""

    @model_validator(mode="after")
    def _has_effect(self) -> Length:
        self._need_one_of("min_characters", "max_characters", "min_words", "max_words")
        return self

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        characters = pc.call_function("utf8_length", [batch.texts]).to_numpy(zero_copy_only=False)
        rules = [at_least("min_characters", characters, self.min_characters)]
        rules += [at_most("max_characters", characters, self.max_characters)]
        if self.min_words is not None or self.max_words is not None:
            rules += [at_least("min_words", batch.num_words, self.min_words)]
            rules += [at_most("max_words", batch.num_words, self.max_words)]
        return judge(len(characters), *rules)


class ParagraphLength(CleaningStep):
    """Drop documents that have too few lines of some length.

    Source: mC4's paragraph filter (3 lines of at least 200 characters; Xue et al., arXiv 2010.11934) with the 3 characters
    of the course Pretraining LLMs (DeepLearning.AI and Upstage, 2024), lesson 2.
    """

    use: Literal["paragraph_length"]
    min_lines: int = Field(default=3, ge=1)
    """Lines of so many characters that a document has at least; an empty line is a line."""
    min_line_characters: int = Field(default=3, ge=0)
    """Characters that each of those lines has at least."""

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        lines = batch.lines
        num_lines = np.diff(lines.offsets)
        document = np.repeat(np.arange(len(num_lines)), num_lines)
        longest_first = lines.lengths[np.lexsort((-lines.lengths, document))]
        enough = num_lines >= self.min_lines
        last = np.zeros(len(num_lines))  # characters of the last of the longest lines
        last[enough] = longest_first[lines.offsets[:-1][enough] + self.min_lines - 1]
        return judge(
            len(num_lines),
            at_least("min_lines", num_lines.astype(np.float64), self.min_lines),
            at_least("min_line_characters", last, self.min_line_characters),
        )

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a person who chooses these settings should know."""
        if self.min_lines < 2:
            return ()
        return (
            f"drops every document of fewer than {self.min_lines} lines, also a whole article on one line, and keeps "
            f"{self.min_lines} lines of {self.min_line_characters} characters; `length` counts what is there",
        )


class ParagraphRepetition(CleaningStep):
    """Drop documents whose paragraphs repeat: Gopher's two rules on paragraphs, without those on lines and words.

    Source: the course Pretraining LLMs (DeepLearning.AI and Upstage, 2024), lesson 2, after Gopher (arXiv 2112.11446).
    Paragraphs are parted by empty lines, and white space around the text does not count.
    """

    use: Literal["paragraph_repetition"]
    max_repeated_paragraphs: Share = 0.30
    """Paragraphs that occurred before, as a share of all."""
    max_repeated_characters: Share = 0.20
    """Characters in paragraphs that occurred before, as a share of all characters."""

    @model_validator(mode="after")
    def _has_effect(self) -> ParagraphRepetition:
        self._need_one_of("max_repeated_paragraphs", "max_repeated_characters")
        return self

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        texts = batch.texts
        repeated, characters = np.zeros(len(texts)), np.zeros(len(texts))
        found = pc.call_function("match_substring", [texts], pc.MatchSubstringOptions("\n\n"))
        for index in np.flatnonzero(found.to_numpy(zero_copy_only=False) & batch.wanted).tolist():
            text = texts[index].as_py()
            parts = _PARAGRAPH_BREAK.split(text.strip())
            size = sum(map(len, parts))
            distinct = dict.fromkeys(parts)
            repeated[index] = (len(parts) - len(distinct)) / len(parts)
            characters[index] = (size - sum(map(len, distinct))) / len(text)
        return judge(
            len(texts),
            at_most("max_repeated_paragraphs", repeated, self.max_repeated_paragraphs),
            at_most("max_repeated_characters", characters, self.max_repeated_characters),
        )

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a person who chooses these settings should know."""
        return (
            "sees only paragraphs: one line a thousand times over passes unless empty lines part its copies; "
            "`gopher_repetition` sees lines and words too",
        )


_PARAGRAPH_BREAK = re.compile(r"\n{2,}")


class GopherRepetition(CleaningStep):
    """Drop documents that repeat themselves: lines, paragraphs and n-grams of words (Gopher).

    Source: Rae et al., Scaling Language Models (Gopher), arXiv 2112.11446, table A1, counted as datatrove 0.10.1 does:
    all shares are of the characters of the whole document. Empty lines are no lines.
    """

    use: Literal["gopher_repetition"]
    max_repeated_paragraphs: Share = 0.30
    """Paragraphs that occurred before, as a share of all."""
    max_repeated_paragraph_characters: Share = 0.20
    """Characters in paragraphs that occurred before, as a share of all characters."""
    max_repeated_lines: Share = 0.30
    """Lines that occurred before, as a share of all."""
    max_repeated_line_characters: Share = 0.20
    """Characters in lines that occurred before, as a share of all characters."""
    max_top_2_gram: Share = 0.20
    """Characters in the most frequent pair of words, as a share of all characters."""
    max_top_3_gram: Share = 0.18
    """The same of three words."""
    max_top_4_gram: Share = 0.16
    """The same of four words."""
    min_occurrences: int = Field(default=1, ge=1)
    """Times that the most frequent pair, triple or quadruple of words must occur to count. As published, 1 counts words that
    stand there once, which drops most documents of less than 200 characters; 2 spares them."""
    max_repeated_5_grams: Share = 0.15
    """Characters in runs of five words that occurred before, as a share of all characters."""
    max_repeated_6_grams: Share = 0.14
    """The same of six words."""
    max_repeated_7_grams: Share = 0.13
    """The same of seven words."""
    max_repeated_8_grams: Share = 0.12
    """The same of eight words."""
    max_repeated_9_grams: Share = 0.11
    """The same of nine words."""
    max_repeated_10_grams: Share = 0.10
    """The same of ten words."""

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        from headwater.documents.text import kernels

        characters, lines = batch.num_characters, batch.lines
        offsets, hashes, lengths = kernels.paragraphs(lines)
        paragraphs = kernels.duplicates(offsets, hashes, lengths, np.zeros(len(hashes), np.bool_))
        rows = kernels.duplicates(lines.offsets, lines.hashes, lines.lengths, lines.lengths == 0)
        grams = [f"max_top_{n}_gram" for n in (2, 3, 4)] + [f"max_repeated_{n}_grams" for n in range(5, 11)]
        exact_from = 1 - MARGIN  # of each threshold: lower values are of no interest, and cheaper to give as 0
        limits = [np.inf if getattr(self, gram) is None else exact_from * getattr(self, gram) for gram in grams]
        words = batch.words
        repeated = kernels.gram_repetition(
            words.offsets,
            words.hashes,
            words.lengths,
            np.outer(np.maximum(characters, 1), limits),
            self.min_occurrences,
        )
        return judge(
            len(characters),
            at_most("max_repeated_paragraphs", share(paragraphs[:, 1], paragraphs[:, 0]), self.max_repeated_paragraphs),
            at_most(
                "max_repeated_paragraph_characters",
                share(paragraphs[:, 2], characters),
                self.max_repeated_paragraph_characters,
            ),
            at_most("max_repeated_lines", share(rows[:, 1], rows[:, 0]), self.max_repeated_lines),
            at_most("max_repeated_line_characters", share(rows[:, 2], characters), self.max_repeated_line_characters),
            *(
                at_most(gram, share(repeated[:, index], characters), getattr(self, gram))
                for index, gram in enumerate(grams)
            ),
        )


class GopherQuality(CleaningStep):
    """Drop documents that do not look like sentences (Gopher).

    Source: Rae et al., Scaling Language Models (Gopher), arXiv 2112.11446, section A.1.1, counted as datatrove 0.10.1 does.
    """

    use: Literal["gopher_quality"]
    min_words: Count | None = 50
    """Words that are not marks, at least."""
    max_words: Count | None = 100_000
    """Words that are not marks, at most."""
    min_mean_word_length: float | None = 3.0
    """Mean characters of words that are not marks, at least."""
    max_mean_word_length: float | None = 10.0
    """Mean characters of words that are not marks, at most."""
    max_number_signs: Share = 0.1
    """Number signs (#), as a share of words."""
    max_ellipses: Share = 0.1
    """Ellipses, as a share of words."""
    max_bullet_lines: Share = 0.9
    """Lines that begin with a bullet or dash, as a share of all."""
    max_ellipsis_lines: Share = 0.3
    """Lines that end with an ellipsis, as a share of all."""
    min_words_with_letter: Share = 0.8
    """Words with a letter, as a share of all words, marks included."""
    min_stop_words: int | None = 2
    """Different ones of `stop_words` that a document has, at least."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Words that text of the language can hardly do without."""

    @model_validator(mode="after")
    def _stop_words_suffice(self) -> GopherQuality:
        if (self.min_stop_words or 0) > len(set(self.stop_words)):
            raise ValueError(f"min_stop_words {self.min_stop_words} is more than there are stop_words")
        return self

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        from headwater.documents.text import kernels
        from headwater.documents.text.words import HAS_LETTER, IS_SYMBOL

        words, lines, num_words = batch.words, batch.lines, batch.num_words
        is_word = words.kinds & IS_SYMBOL == 0
        plain_words = per_document(is_word, words.offsets)
        mean_length = share(per_document(words.lengths * is_word, words.offsets), plain_words)
        with_letter = per_document(words.kinds & HAS_LETTER != 0, words.offsets)
        num_lines = np.diff(lines.offsets)
        num_lines = num_lines - ((num_lines > 0) & (np.append(lines.lengths, 1)[lines.offsets[1:] - 1] == 0))
        bullets = per_document(lines.kinds & kernels.HAS_BULLET != 0, lines.offsets)
        ellipsis_lines = per_document(lines.kinds & kernels.ENDS_IN_ELLIPSIS != 0, lines.offsets)
        stop_words = kernels.distinct_members(words.offsets, words.hashes, _word_hashes(self.stop_words))
        return judge(
            len(num_words),
            at_least("min_words", plain_words, self.min_words),
            at_most("max_words", plain_words, self.max_words),
            at_least("min_mean_word_length", mean_length, self.min_mean_word_length),
            at_most("max_mean_word_length", mean_length, self.max_mean_word_length),
            at_most("max_number_signs", share(lines.counts[:, 2], num_words), self.max_number_signs),
            at_most("max_ellipses", share(lines.counts[:, 3], num_words), self.max_ellipses),
            at_most("max_bullet_lines", share(bullets, num_lines), self.max_bullet_lines),
            at_most("max_ellipsis_lines", share(ellipsis_lines, num_lines), self.max_ellipsis_lines),
            at_least("min_words_with_letter", share(with_letter, num_words), self.min_words_with_letter),
            at_least("min_stop_words", stop_words, self.min_stop_words),
        )


@functools.cache
def _word_hashes(words: tuple[str, ...]) -> np.ndarray:
    """Hashes of words as the table of words has them."""
    from headwater.documents.text.words import words as table

    return table(pa.array([" ".join(words)]), np.ones(1, np.bool_)).hashes


class FineWebQuality(CleaningStep):
    """Drop documents that look like lists or menus (FineWeb).

    Source: Penedo et al., The FineWeb Datasets, arXiv 2406.17557, section 3.6, counted as datatrove 0.10.1 does.
    """

    use: Literal["fineweb_quality"]
    min_sentence_lines: Share = 0.12
    """Lines that end as a sentence does, as a share of lines that are not blank."""
    max_short_lines: Share = 0.67
    """Short lines, as a share of lines that are not blank."""
    short_line_characters: int = 30
    """The longest line that counts as short."""
    max_repeated_line_characters: Share = 0.01
    """Characters in lines that occurred before, as a share of all but newlines."""
    max_newlines: Share = 0.3
    """Newlines, as a share of words."""

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        from headwater.documents.text import kernels

        lines = batch.lines
        blank = lines.kinds & kernels.IS_BLANK != 0
        newlines = np.maximum(np.diff(lines.offsets) - 1, 0)
        num_lines = per_document(~blank, lines.offsets)
        ends_sentence = ~blank & (lines.kinds & kernels.ENDS_SENTENCE != 0)
        sentences = share(per_document(ends_sentence, lines.offsets), num_lines)
        is_short = ~blank & (lines.lengths <= self.short_line_characters)
        short = share(per_document(is_short, lines.offsets), num_lines)
        repeated = kernels.duplicates(lines.offsets, lines.hashes, lines.lengths, blank)[:, 2]
        return judge(
            len(newlines),
            at_least("min_sentence_lines", sentences, self.min_sentence_lines),
            at_most("max_short_lines", short, self.max_short_lines),
            at_most(
                "max_repeated_line_characters",
                share(repeated, batch.num_characters - newlines),
                self.max_repeated_line_characters,
            ),
            at_most("max_newlines", share(newlines, batch.num_words), self.max_newlines),
        )


class Code(CleaningStep):
    """Drop source files that are data, minified or generated.

    Source: Chen et al., Evaluating Large Language Models Trained on Code, arXiv 2107.03374, section 3.1 (line lengths,
    letters and digits) with CodeParrot's thresholds and markers (Tunstall et al. 2022, chapter 10).
    """

    use: Literal["code"]
    max_line_characters: Count | None = 1000
    """Characters of the longest line, at most."""
    max_mean_line_characters: float | None = 100.0
    """Mean characters of lines, at most."""
    min_alphanumeric: Share = 0.25
    """Letters and digits, as a share of all characters."""
    generated_markers: tuple[str, ...] = ("auto-generated", "autogenerated", "automatically generated")
    """Phrases that mark generated files, in capitals or not; none switches the rule off."""
    generated_lines: int = Field(default=5, ge=1)
    """First lines in which a marker counts."""

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        lines = batch.lines
        num_lines = np.diff(lines.offsets)
        generated = np.zeros(len(num_lines), np.bool_)
        if self.generated_markers:
            phrases = "|".join(map(re.escape, self.generated_markers))
            pattern = rf"\A(?:[^\n]*\n){{0,{self.generated_lines - 1}}}[^\n]*(?:{phrases})"
            options = pc.MatchSubstringOptions(pattern, ignore_case=True)
            found = pc.call_function("match_substring_regex", [batch.texts], options)
            generated = found.to_numpy(zero_copy_only=False)
        mean = share(per_document(lines.lengths, lines.offsets), num_lines)
        return judge(
            len(num_lines),
            at_most("max_line_characters", lines.counts[:, 4], self.max_line_characters),
            at_most("max_mean_line_characters", mean, self.max_mean_line_characters),
            at_least("min_alphanumeric", share(lines.counts[:, 1], batch.num_characters), self.min_alphanumeric),
            Rule("generated_markers", generated.astype(np.float64), generated, 0.0),
        )
