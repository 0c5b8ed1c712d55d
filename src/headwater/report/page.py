"""A page as HTML and as its markdown twin. Text of documents comes from strangers: here it is made harmless."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from headwater.report.blocks import (
    Block,
    Code,
    Continuation,
    Details,
    Excerpt,
    Figure,
    Figures,
    Marked,
    Notice,
    Page,
    Table,
    Text,
)
from headwater.report.figures import DARK

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Control characters but tab and newline, marks that turn the direction of text, and halves of characters."""
_MARKUP = re.compile(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|^[#>+=-]|(?<=^\d)[.)](?=\s|$))")
"""What markdown may take for markup, in a line: an underscore inside a word and a bracket of this kind (are) not."""


def visible(text: str) -> str:
    r"""Write characters that cannot be seen, or that mislead the eye, as their escapes.

    >>> print(visible("bell \x07 and \u202e turned"))
    bell \x07 and \u202e turned
    """
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


# ------------------------------------------------------------------------------------------------------------- HTML


def html(page: Page) -> str:
    """The report as one HTML file that needs nothing else."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.j2").render(page=page, partners=DARK)


def _finalize(value: object) -> object:
    """What every value that the template prints goes through before it is escaped."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


# --------------------------------------------------------------------------------------------------------- markdown


def markdown(page: Page) -> str:
    """The report as markdown: the same words and numbers; in the place of a chart stands its description."""
    parts = [f"# {plain(page.title)}", plain(page.about), plain(page.sentence)]
    parts += [_table(("what", "number", "remark"), [(name, value, remark) for value, name, remark in page.tiles], 1)]
    for notice in page.notices:
        parts += _paragraphs(notice)
    for section in page.sections:
        parts.append(f"## {plain(section.title)}")
        for block in section.blocks:
            parts += _paragraphs(block)
    return "\n\n".join(part for part in (*parts, plain(page.made)) if part) + "\n"


def _paragraphs(block: Block) -> Iterator[str]:
    match block:
        case Text():
            yield plain(block.text)
        case Notice():
            yield "\n".join([f"> **{plain(block.title)}**", ">", *(f"> - {plain(line)}" for line in block.lines)])
        case Table():
            yield f"**{plain(block.caption)}**"
            yield _table(block.header, block.rows, block.text_columns)
        case Figure():
            yield f"*Chart: {plain(block.title)}{plain(', ' * bool(block.unit) + block.unit)}.* {plain(block.description)}"
        case Figures():
            for figure in block.figures:
                yield from _paragraphs(figure)
        case Continuation():
            yield f"### {plain(block.title)}"
            yield plain(block.conditions)
            real = [("how the document really goes on", block.reference)] if block.reference else []
            for label, text in (*block.texts, *real):
                yield f"**{plain(label)}**"
                yield fenced(block.prompt + text)
        case Excerpt():
            yield "; ".join(f"{plain(name)}: {plain(value)}" for name, value in block.facts)
            for label, text in block.texts:
                yield from [plain(label)] if len(block.texts) > 1 else []
                yield fenced(text)
        case Marked():
            yield f"### {plain(block.title)}"
            yield plain(block.conditions)
            yield fenced("".join(f"⟦{text}⟧" if marked else text for text, marked in block.pieces))
            if block.remarks:
                yield "\n".join(f"- {plain(remark)}" for remark in block.remarks)
        case Code():
            yield fenced(block.text, block.language)
        case Details():
            yield f"### {plain(block.summary)}"
            for inner in block.blocks:
                yield from _paragraphs(inner)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    rule = ["---" if column < text_columns else "---:" for column in range(len(header))]
    lines = [[plain(cell) for cell in header], rule, *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    r"""Text for a line or a cell of markdown, in which nothing is markup.

    >>> print(plain("a|b\n<script> *c*"))
    a\|b &lt;script> \*c\*
    """
    flat = _MARKUP.sub(r"\\\1", " ".join(visible(text).split()))
    return re.sub(r"&(?=#?\w+;)", "&amp;", flat).replace("<", "&lt;")


def fenced(text: str, language: str = "") -> str:
    """A fenced block of markdown that no run of backticks in the text can close.

    >>> print(fenced("a ``` b"))
    ````
    a ``` b
    ````
    """
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"
