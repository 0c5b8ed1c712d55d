"""HTML bytes to the text that a person came to the page for, without menus, adverts, comments and notices.

Three tiers, by what they cost (see the lab notes for how they were measured):

    fast       resiliparse's main content: six times trafilatura's pages per CPU second, F1 .94
    balanced   the same, after `main_text` has taken out what is not the article: four times, F1 .97
    precise    trafilatura's fast mode, F1 .97

A page that cannot be read in bounded time and memory is refused with a reason, before it is parsed.
"""

from __future__ import annotations

import codecs
import re
from typing import Any, Literal, NamedTuple

import numpy as np

from headwater.core.errors import MissingExtraError

Tier = Literal["fast", "balanced", "precise"]

MAX_PAGE_BYTES = 5 << 20
"""Longest page [bytes]. Source: Common Crawl cuts pages at 5 MiB since 2025, at 1 MiB before."""
MAX_TAGS = 100_000
"""Most tags in a page. trafilatura needs 4 CPU-seconds for a page of that many paragraphs."""
MAX_DEPTH = 512
"""Deepest nesting of tags. Source: browsers stop at 512 (Blink's kMaximumHTMLParserDOMTreeDepth); resiliparse's time grows
with the square of the depth: 8,000 nested `div` take 1.1 CPU-seconds, 100,000 more than 20."""
MAX_ATTRIBUTES = 1000
"""Attributes of a tag that are read. Parsers compare each with all before it: 8,000 take 0.1 CPU-seconds, 100,000 take 17."""
_SHALLOW_TAGS = 4000  # so few tags cannot be nested deeply enough to matter (0.2 s): depth is not measured
_LONG_TAG_BYTES = 4 * MAX_ATTRIBUTES  # a tag of more attributes is longer, with the spaces between them

_TAG = re.compile(rb"<(/?)([a-zA-Z][^\s/>]*)")
_TAG_START = re.compile(rb"<[a-zA-Z]")
_WHOLE_TAG = re.compile(rb"""<[a-zA-Z](?>[^"'>]+|"[^"]*"|'[^']*')*+>""")
_RAW = re.compile(rb"(?i)<!--|<(script|style|textarea|title|xmp|iframe|noembed|noframes)\b")
_MANY_QUOTES = 30_000  # fewer cannot be a flood that costs more than half a second: tags are not looked at one by one
_VOID = frozenset(  # and those whose end tag may be left out
    b"area base br col embed hr img input link meta param source track wbr p li td tr th tbody thead tfoot colgroup option "
    b"optgroup dd dt rp rt".split()
)
_META_CHARSET = re.compile(rb"(?i)<meta\s[^>]{0,200}?charset\s*=\s*[\"']?\s*([a-z0-9_:.-]{1,40})")
_META_BYTES = 4096  # the standard says 1,024; some pages say it later
_BLANK_LINES = re.compile(r"[ \t\r]*\n(?:[ \t\r]*\n){2,}")
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class Extracted(NamedTuple):
    """What a page says."""

    text: str
    """The main text; empty when the page has none."""
    title: str | None
    """Its `title`, on one line."""
    language: str | None
    """The language that the page claims to be in: the `lang` of its `html`, such as `en` or `pt-BR`."""
    charset: str
    """The character set that its bytes were read in."""


class PageError(Exception):
    """A page that is refused: the rule, what is wrong, and what the rule measured and allows."""

    def __init__(self, rule: str, problem: str, value: float | None = None, threshold: float | None = None) -> None:
        super().__init__(problem)
        self.rule = rule
        self.problem = problem
        self.value = value
        self.threshold = threshold


def extract(html: bytes, tier: Tier, charset: str | None = None, max_bytes: int = MAX_PAGE_BYTES) -> Extracted:
    """Take the main text out of a page.

    Args:
        html: the page as it was served, decompressed.
        tier: how much care is spent on it.
        charset: what the HTTP header says.
        max_bytes: longest page.

    Raises:
        PageError: the page would take too much time or memory.
        MissingExtraError: a package is not installed.
    """
    check(html, max_bytes)
    page, charset = decode(without_floods(html), charset)
    try:
        found = _precise(page) if tier == "precise" else _resiliparse(page, tier)
    except (ValueError, RecursionError, RuntimeError) as error:  # what the parsers raise on what they cannot parse
        raise PageError("not_parsed", f"the HTML cannot be parsed ({type(error).__name__}: {error})"[:200]) from None
    text, title, language = (clean_text(part or "") for part in found)
    return Extracted(
        _BLANK_LINES.sub("\n\n", text).strip(), " ".join(title.split()) or None, language.strip()[:35] or None, charset
    )


def check(html: bytes, max_bytes: int = MAX_PAGE_BYTES) -> None:
    """Refuse a page that would take too much time or memory to parse.

    Raises:
        PageError: it is too long, its tags are too many or nested too deeply, or one has too many attributes.
    """
    if len(html) > max_bytes:
        raise PageError("too_large", f"longer than {max_bytes} bytes", len(html), max_bytes)
    tags = html.count(b"<")
    if tags > MAX_TAGS:
        raise PageError("too_many_tags", f"{tags} tags, more than {MAX_TAGS}", tags, MAX_TAGS)
    characters = np.frombuffer(html, np.uint8)
    many_quotes = np.count_nonzero((characters == ord('"')) | (characters == ord("'"))) > _MANY_QUOTES
    many_tags = tags > _SHALLOW_TAGS and tags - html.count(b"</") > _SHALLOW_TAGS
    if many_quotes or many_tags:
        html = _without_raw(html)
    if many_tags and (depth := _depth(html)) > MAX_DEPTH:
        raise PageError("too_deep", f"tags nested {depth} deep, more than {MAX_DEPTH}", depth, MAX_DEPTH)
    if many_quotes:
        _check_attributes(html)


def _without_raw(html: bytes) -> bytes:
    """Take out comments, scripts and the like, in which `<` and quotes are no markup."""
    pieces, place = [], 0
    while start := _RAW.search(html, place):
        closing = re.compile(rb"(?i)</" + start[1] if start[1] else rb"-->").search(html, start.end())
        if closing is None:
            break
        pieces.append(html[place : start.start()])
        place = closing.end()
    return b"".join(pieces) + html[place:]


def _check_attributes(html: bytes) -> None:
    """Refuse a page with a tag of too many attributes in quotes, going from tag to tag as a parser does."""
    place = 0
    while start := _TAG_START.search(html, place):
        tag = _WHOLE_TAG.match(html, start.start())
        end = tag.end() if tag else len(html)
        quotes = html.count(b'"', start.start(), end) + html.count(b"'", start.start(), end)
        if quotes > 2 * MAX_ATTRIBUTES:
            problem = f"a tag with about {quotes // 2} attributes, more than {MAX_ATTRIBUTES}"
            raise PageError("too_many_attributes", problem, quotes // 2, MAX_ATTRIBUTES)
        place = end


def without_floods(html: bytes) -> bytes:
    """Cut off the attributes of a tag beyond MAX_ATTRIBUTES; scripts may be cut as well, which are never read.

    What is between two `>` is a tag at most, from its first `<` on, and can end with the beginning of another one. Values in
    quotes that hold `>` are not understood here: `_check_attributes` counts those.
    """
    ends = np.flatnonzero(np.frombuffer(html, np.uint8) == ord(">"))
    bounds = np.concatenate(([-1], ends, [len(html)]))
    pieces, place = [], 0
    for number in np.flatnonzero(np.diff(bounds) > _LONG_TAG_BYTES):
        begin, end = int(bounds[number]) + 1, int(bounds[number + 1])
        start = _TAG_START.search(html, begin, end)
        fields = html[start.start() : end].split(None, MAX_ATTRIBUTES) if start else []
        if start and len(fields) > MAX_ATTRIBUTES:
            tail = html[html.rfind(b"<", begin, end) : end]
            fields[-1] = tail if len(tail) < _LONG_TAG_BYTES else b""
            pieces += [html[place : start.start()], b" ".join(fields)]
            place = end
    return b"".join(pieces) + html[place:] if pieces else html


def _depth(html: bytes) -> int:
    """How deeply tags are nested: an estimate from above that takes tags without an end tag for void."""
    depth = deepest = 0
    for match in _TAG.finditer(html):
        if match[1]:
            depth = max(0, depth - (match[2].lower() not in _VOID))
        elif match[2].lower() not in _VOID:
            depth += 1
            deepest = max(deepest, depth)
    return deepest


# -------------------------------------------------------------------------------------------------- character sets


def decode(content: bytes, charset: str | None = None) -> tuple[str, str]:
    """Turn the bytes of a page into text; never fails, and never yields NUL or lone surrogates.

    In this order: byte order mark; UTF-8 where the bytes are (text in another character set is valid UTF-8 by accident
    practically never, while labels are often wrong); what the HTTP header says; what the page itself says; what
    resiliparse detects. A label that does not fit the bytes is passed over.

    Source: https://html.spec.whatwg.org/#determining-the-character-encoding, but for the second of these.

    Args:
        content: the page.
        charset: what the HTTP header says.

    Returns:
        The text and the character set.

    >>> decode("naïve".encode(), "iso-8859-1")
    ('naïve', 'utf-8')
    >>> decode("naïve".encode("latin-1"), "ISO-8859-1")
    ('naïve', 'cp1252')
    """
    for mark, name in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(name, "replace").replace("\0", ""), name
    if not content.isascii():
        try:
            return content.decode().replace("\0", ""), "utf-8"
        except UnicodeDecodeError:
            pass
    with_labels = _labels(content, charset)
    for name in with_labels:
        try:
            return content.decode(name).replace("\0", ""), name
        except (UnicodeError, LookupError):
            continue
    name = next(iter(with_labels), "utf-8")
    try:
        return content.decode(name, "replace").replace("\0", ""), name
    except LookupError:
        return content.decode("utf-8", "replace").replace("\0", ""), "utf-8"


def _labels(content: bytes, charset: str | None) -> list[str]:
    """Python's names of the character sets that a page may be in, the likeliest first."""
    try:
        from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
    except ImportError:
        raise missing_extra("resiliparse") from None
    claim = _META_CHARSET.search(content, 0, _META_BYTES)
    labels = [charset or "", claim[1].decode() if claim else ""]
    names = [map_encoding_to_html5(label.strip(" \t\"'"), fallback_utf8=False) for label in labels if label]
    names.append("utf-8" if content.isascii() else detect_encoding(content))
    return list(dict.fromkeys(name for name in names if name))


def clean_text(text: str) -> str:
    r"""Take out NUL and lone surrogates, which UTF-8 or other programs cannot carry.

    >>> clean_text("a\x00b\ud800c")
    'ab?c'
    """
    if "\0" in text:
        text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


# ----------------------------------------------------------------------------------------------------------- tiers


def _resiliparse(page: str, tier: Tier) -> tuple[str | None, str | None, str | None]:
    """Text, title and language of a page, by resiliparse."""
    try:
        from resiliparse.parse.html import HTMLTree
    except ImportError:
        raise missing_extra("resiliparse") from None
    from headwater.documents.sources.main_text import main_text, without_boilerplate

    tree = HTMLTree.parse(page)
    title = tree.title
    root = tree.document.document_element if tree.document else None
    language = root.getattr("lang") if root else None
    text = main_text(tree) if tier == "fast" else without_boilerplate(tree, page)
    return text, title, language


def _precise(page: str) -> tuple[str | None, str | None, str | None]:
    """Text, title and language of a page, by trafilatura."""
    try:
        import trafilatura
    except ImportError:
        raise missing_extra("trafilatura") from None
    tree: Any = trafilatura.load_html(page)
    if tree is None:
        return None, None, None
    title, language = tree.findtext(".//title"), tree.get("lang")
    return trafilatura.extract(tree, fast=True, include_comments=False), title, language


def missing_extra(package: str) -> MissingExtraError:
    """Say how to install what reading the web needs."""
    hint = "pip install 'headwater[web]'"
    return MissingExtraError(f"the package {package} is not installed", place="read", hint=hint)
