"""What a page is made of: sections of blocks, free of HTML and markdown, and numbers written for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

ABSENT = "–"
"""Stands where there is no number."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Notice:
    """Something that must not be overlooked: one line for each point."""

    kind: ClassVar[str] = "notice"
    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first `text_columns` columns are text, the others numbers that are aligned to the right."""

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    total_row: bool = False
    """The last row sums up the others."""


@dataclass(frozen=True)
class Figure:
    """A chart: the drawing for a wide page, and one for a narrow page where the wide one would be too small to read."""

    kind: ClassVar[str] = "figure"
    title: str
    unit: str
    description: str
    """What the chart shows, in words: for those who cannot see it."""
    wide: str
    narrow: str = ""
    key: Sequence[tuple[str, str]] = ()
    """Drawing and name of each series."""


@dataclass(frozen=True)
class Figures:
    """Small charts side by side."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Continuation:
    """What models wrote after the same prompt."""

    kind: ClassVar[str] = "continuation"
    title: str
    conditions: str
    prompt: str
    texts: Sequence[tuple[str, str]]
    """Label and text of each model."""
    reference: str = ""
    """How the document that the prompt is from really goes on."""


@dataclass(frozen=True)
class Excerpt:
    """A piece of a document with facts about it, perhaps beside a piece of another."""

    kind: ClassVar[str] = "excerpt"
    facts: Sequence[tuple[str, str]]
    texts: Sequence[tuple[str, str]]
    """Label and text of each."""


@dataclass(frozen=True)
class Marked:
    """A text in which some runs are marked, and remarks on them."""

    kind: ClassVar[str] = "marked"
    title: str
    conditions: str
    pieces: Sequence[tuple[str, bool]]
    """The text in order, and whether each piece of it is marked."""
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Code:
    """Text to copy: commands, settings."""

    kind: ClassVar[str] = "code"
    text: str
    language: str = ""


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until asked for."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: Sequence[Block]
    unfolded: bool = False


Block = Text | Notice | Table | Figure | Figures | Continuation | Excerpt | Marked | Code | Details


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    name: str
    """Anchor of the section."""
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    about: str
    sentence: str
    """The run in words."""
    tiles: Sequence[tuple[str, str, str]]
    """The numbers that matter most: value, what it is, a remark."""
    notices: Sequence[Notice]
    sections: Sequence[Section]
    made: str
    """When and by what the report was made."""


def whole(value: float | None) -> str:
    """Write a count in full: 1,234,567."""
    return ABSENT if value is None else f"{value:,.0f}"


def decimal(value: float | None, digits: int = 3) -> str:
    """Write a measure with a fixed number of digits after the point, so that a column of them lines up."""
    if value is None:
        return ABSENT
    return f"{value:,.{digits}f}" if math.isfinite(value) else str(value)


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number of any size with so many significant digits, without an exponent where it can be avoided.

    >>> significant(0.00123456), significant(12.0), significant(3_000_000.0), significant(2.5e-7)
    ('0.00123', '12', '3,000,000', '2.5e-07')
    """
    if value is None:
        return ABSENT
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def share(part: float | None, whole_: float | None) -> str:
    """Write a part of a whole in percent; a trace is not rounded to nothing."""
    if part is None or not whole_:
        return ABSENT
    percent = 100 * part / whole_
    return f"{percent:.1f} %" if percent >= 0.05 or percent == 0 else "< 0.1 %"


def plural(count: float, noun: str) -> str:
    """Write a count with its noun: 1 document, 2,000 documents."""
    return f"{whole(count)} {noun}{'' if count == 1 else 's'}"


def words(name: str) -> str:
    """Write a key as words.

    >>> words("held_out")
    'held out'
    """
    return name.replace("_", " ")
