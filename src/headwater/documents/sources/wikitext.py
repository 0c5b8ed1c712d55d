"""Wikitext, the markup of MediaWiki, to plain text: paragraphs, headings and lists without tables, notes and templates.

A linear pass of our own takes out what is dropped whole, which is most of the markup; mwparserfromhell reads what is left.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

from headwater.documents.sources.extract import clean_text, missing_extra

_DROPPED_TAGS = (
    "ref|references|math|chem|ce|gallery|timeline|score|hiero|imagemap|graph|mapframe|maplink|templatedata|templatestyles"
    "|syntaxhighlight|source|categorytree|inputbox|indicator|section|table"
)
_TOKEN = re.compile(
    rf"(?P<comment><!--)|(?P<comment_end>-->)|(?P<template>\{{\{{)|(?P<template_end>\}}\}})|(?P<table>^[ \t:]*\{{\|)"
    rf"|(?P<table_end>^[ \t]*\|\}}(?!\}}))|<(?P<tag>{_DROPPED_TAGS})\b[^<>]{{0,2000}}>|</(?P<tag_end>{_DROPPED_TAGS})\s*>",
    re.IGNORECASE | re.MULTILINE,
)
_SHOWING = re.compile(
    r"^(?:lang|nowrap|nobr|transl?|transliteration|abbr|small|big|em|strong|lang-[a-z-]+|circa|c\.)$", re.IGNORECASE
)
"""Templates that show one of their values: the last without a name, or for `abbr` the first."""
_QUANTITY = re.compile(r"^(?:convert|cvt)$", re.IGNORECASE)
"""Templates that show a quantity: number and unit."""
_CHUNK_CHARACTERS = 8000
"""Markup that is parsed at once: the parser's time grows with the square of what is opened and never closed, so 200 KB of `[`
take 38 CPU-seconds. Nothing but tags reaches over blank lines, where chunks end."""
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
_LEFT_TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,300}>")
_OPEN_TAG = re.compile(r"<(?=/?[a-zA-Z][^<>]{0,300}(?:<|\Z))")
"""A tag that never ends: 60 KB of them take the parser 24 CPU-seconds."""
_STYLE = re.compile(r"'{2,5}")
_MAGIC_WORD = re.compile(r"__[A-Z]{4,}__")
_EMPTY_BRACKETS = re.compile(r" ?\(\s*(?:[,;:–-]\s*)*\)")
_LEFT_COMMA = re.compile(r"\(\s*[,;]\s*")
_SPACE_BEFORE = re.compile(r"[ \t]+([,.;:!?)\n]|$)", re.MULTILINE)
_SPACES = re.compile(r"[ \t\xa0]{2,}|\xa0")
_HEADING = "\0"  # stands before headings until it is known which have text below
_EMPTY_HEADINGS = re.compile(r"(?:^\0+[^\n]*\n+)+(?=\0|\Z)", re.MULTILINE)
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)
_LINES = re.compile(r"\n{3,}")
_EMPTY_ITEMS = re.compile(r"^(?:-[ \t]*)+[,.;:]?\n", re.MULTILINE)
_NESTED_ITEMS = re.compile(r"^(?:- )+", re.MULTILINE)
_VALUE_END = re.compile(r"\|(?![^\[\]]*\]\])")  # a bar that is not in a link
_OTHER_LANGUAGE = re.compile(r"^[a-z]{2,3}(?:-[a-z]+)*:")
_LINE_TAGS = frozenset(("br", "p", "div", "blockquote", "li", "ul", "ol", "dl", "dd", "dt", "hr", "center", "poem"))


def plain_text(wikitext: str, unseen: Callable[[str], bool]) -> str:
    """Turn a page into plain text.

    Args:
        wikitext: the page.
        unseen: whether a link with this prefix (such as `File` or `Category`) shows nothing in the text.

    Raises:
        MissingExtraError: a package is not installed.
    """
    try:
        import mwparserfromhell
    except ImportError:
        raise missing_extra("mwparserfromhell") from None
    pieces: list[str] = []
    for chunk in _chunks(_OPEN_TAG.sub("", without_dropped(clean_text(wikitext)))):
        pieces += _shown(mwparserfromhell.parse(chunk, skip_style_tags=True), unseen)
    text = _SPACES.sub(" ", _STYLE.sub("", "".join(pieces)))
    text = _EMPTY_BRACKETS.sub("", _MAGIC_WORD.sub("", text))
    text = _SPACE_BEFORE.sub(r"\1", _LEFT_COMMA.sub("(", text))
    text = _NESTED_ITEMS.sub("- ", _EMPTY_ITEMS.sub("", _INDENT.sub("", text) + "\n"))
    text = _EMPTY_HEADINGS.sub("", text).replace(_HEADING, "")
    return _LINES.sub("\n\n", text).strip()


def without_dropped(text: str) -> str:
    r"""Take out comments, templates, tables and tags that are dropped with all that is in them.

    Of what is opened and never closed, only the mark is taken out.

    >>> without_dropped("A {{b|{{c}}}}d<ref name=x>{{cite}}</ref>, <!-- {{ -->e {{f.")
    'A d, e f.'
    >>> without_dropped("a {{lang|fr|chat}} of {{convert|3|km|mi}}")
    'a chat of 3 km'
    """
    pieces, place = [], 0
    for start, end in _outermost(_spans(text)):
        pieces += [_TOKEN.sub("", text[place:start]), _template_text(text[start:end])]
        place = end
    return "".join(pieces) + _TOKEN.sub("", text[place:])


def _chunks(text: str) -> Iterator[str]:
    """Cut text at blank lines, and where there are none, in pieces of at most _CHUNK_CHARACTERS."""
    start = end = 0
    for match in [*_PARAGRAPH_END.finditer(text), None]:
        stop = match.end() if match else len(text)
        if stop - start > _CHUNK_CHARACTERS and end > start:
            yield text[start:end]
            start = end
        while stop - start > _CHUNK_CHARACTERS:
            line_end = text.rfind("\n", start, start + _CHUNK_CHARACTERS) + 1
            cut = line_end or start + _CHUNK_CHARACTERS
            yield text[start:cut]
            start = cut
        end = stop
    yield text[start:]


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where comments, templates, tables and dropped tags begin and end, in the order of their ends."""
    stack: list[tuple[str, int]] = []
    depth: dict[str, int] = {}
    for match in _TOKEN.finditer(text):
        what = match.lastgroup or ""
        name = (match["tag"] or match["tag_end"] or what.removesuffix("_end")).lower()
        if depth.get("comment") and name != "comment":
            continue
        if what in ("tag", "comment", "template", "table"):
            if match[0].endswith("/>"):
                yield match.span()
            else:
                stack.append((name, match.start()))
                depth[name] = depth.get(name, 0) + 1
        elif depth.get(name):
            while True:
                opened, start = stack.pop()
                depth[opened] -= 1
                if opened == name:
                    break
            yield start, match.end()


def _outermost(spans: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that lie in no other one, in order."""
    found: list[tuple[int, int]] = []
    for start, end in spans:  # a span comes after those inside it
        while found and found[-1][0] >= start:
            found.pop()
        found.append((start, end))
    return found


def _template_text(markup: str) -> str:
    """What is left of something that is taken out: nothing, but for templates that only style or convert their values."""
    if not markup.startswith("{{") or "{{" in markup[2:]:
        return ""
    name, *values = (part.strip() for part in _VALUE_END.split(markup[2:-2]))
    values = [value for value in values if "=" not in value]
    if _SHOWING.match(name) and values:
        return values[0] if name.lower() in ("abbr", "circa", "c.") else values[-1]
    if _QUANTITY.match(name) and len(values) > 1:
        return f"{values[0]} {values[1]}"
    return ""


def _shown(code: Any, unseen: Callable[[str], bool]) -> Iterator[str]:
    """The text of parsed markup, piece by piece."""
    from mwparserfromhell import nodes

    for node in code.nodes:
        if isinstance(node, nodes.Text):
            yield _LEFT_TAG.sub("", str(node))
        elif isinstance(node, nodes.Wikilink):
            yield from _link(node, unseen)
        elif isinstance(node, nodes.ExternalLink):
            if node.title is not None:
                yield from _shown(node.title, unseen)
            elif not node.brackets:
                yield str(node.url)
        elif isinstance(node, nodes.Heading):
            yield f"\n\n{_HEADING}{''.join(_shown(node.title, unseen)).strip()}\n\n"
        elif isinstance(node, nodes.HTMLEntity):
            yield clean_text(node.normalize() or "")
        elif isinstance(node, nodes.Tag):
            yield from _tag(node, unseen)


def _link(node: Any, unseen: Callable[[str], bool]) -> Iterator[str]:
    title = str(node.title).strip()
    prefix = title.partition(":")[0]
    if prefix != title and unseen(prefix):
        return
    if node.text is not None:
        yield from _shown(node.text, unseen)
    elif not _OTHER_LANGUAGE.match(title):
        title = html.unescape(title)
        yield title.removeprefix(":").partition("#")[0] if not title.startswith("#") else title[1:]


def _tag(node: Any, unseen: Callable[[str], bool]) -> Iterator[str]:
    name = str(node.tag).strip().lower()
    if node.wiki_markup in ("*", "#"):
        yield "- "
    elif name in _DROPPED_TAGS.split("|"):
        return
    elif node.wiki_markup is None:
        line = "\n" if name in _LINE_TAGS else ""
        yield line
        if node.contents:
            yield from _shown(node.contents, unseen)
            yield line
