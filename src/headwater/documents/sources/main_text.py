"""Takes out of a parsed page what stands around an article: captions, bylines, related articles, notices, comments.

resiliparse finds nearly all of an article (recall .98) and too much beside it (precision .90). What it finds too much is
mostly marked by the names that its elements bear: classes such as `newsletter-signup`. Those elements are taken out of
the page before resiliparse reads it, unless they hold the article; then lines that say nothing but `Advertisement`.
"""

from __future__ import annotations

import functools
import re
from typing import Any

_NAMES = re.compile(
    r"""(?ix)
    caption|credit|gallery|slideshow|carousel|related|recommend|trending|teaser|outbrain|taboola|promo(?!te)
    |most-?(?:read|popular|viewed)|read-?more|also-?(?:read|like)|breadcrumb|navbar|navigation|paginat|sidebar|footer|toolbar
    |byline|author-?(?:bio|box|info|card|about|desc)|about-?(?:the-)?author|headline|sub-?title|standfirst|timestamp|dateline
    |key-?points|tag-?list|newsletter|sign-?up|subscri|follow-|sharedaddy|addthis|donat|feedback
    |comment|reply|disqus|cookie|consent|gdpr|disclaimer|copyright|correction|advert|sponsor|popup|modal|paywall|tooltip
    |(?:^|[\s_-])(?:share|sharing|shares|social|ads?|bio|nav|menu|tags|dek|print|player|video|rating|date|pub-?date|meta
        |banner|byline|summary|description|lede?|promo)(?=$|[\s_-])"""
)
"""Names of classes that stand for something other than the article. Long names count anywhere in a class, short ones as a
whole part of it (`share-bar` but not `shareholder`).
Source: collected from the lists of Readability.js (unlikelyCandidates), trafilatura (OVERALL_DISCARD_XPATH) and the pages of
one half of the article extraction benchmark; see the lab notes for what they gain on the other half."""
_SELECTOR = "div[class],section[class],aside,ul[class],figcaption,footer,h1,header"
_ALWAYS = frozenset(("aside", "figcaption", "footer", "h1", "header"))
"""Elements that are taken out whatever their class: the title is kept beside the text."""
_SMALL = 300
"""Elements with less text [characters] hold no article."""
_ARTICLE_SHARE = 0.3
"""An element with a larger share of the text of the page's paragraphs is taken to hold the article. The result is the same to
.0002 in F1 from .05 to .5."""
_PARAGRAPHS_MEASURED = 20_000
"""Paragraphs that are measured to find the article, all looks together; then large elements stay. 2.5 us each."""
_SHORT_TEXT = 1500
"""Only when less text [characters] is left, it is compared with what there was: articles are longer."""
_LEAST_LEFT = 0.5
"""When less than this share of a short text is left, the article itself was taken out: the page is read as it is."""

_LINES = re.compile(
    r"""(?imx)^[ \t•*-]*(?:
    close|caption|comments?|advert(?:isement)?s?|sponsored(?:\ content)?|share(?:\ this(?:\ \w+)?)?|follow\ us.{0,60}
    |sign\ up.{0,80}|subscribe.{0,60}|read\ more.{0,80}|related(?:\ \w+)?|related:.{0,160}|explore\ further
    |more\ on\ this(?:\ story)?|about\ the\ author|feedback.{0,30}|image\ \d+\ of.{0,12}|photo:.{0,100}
    |print|e-?mail|tweet|facebook|twitter|whatsapp|linkedin|pinterest|reddit|\d+\ (?:shares?|comments?|likes?|views?)
    |leave\ a\ (?:reply|comment)|skip\ to\ .{0,30}|all\ rights\ reserved\.?|(?:copyright\ )?©.{0,80}
    |(?:this|our)\ (?:web)?site\ uses\ cookies.{0,400}|first\ published.{0,40}|last\ updated.{0,60}|loading.{0,4}
    |menu|search|log\ ?in|sections|get\ (?:the\ )?app
    )[ \t:|…»>→-]{0,20}$\n?"""
)
"""Whole lines that belong to no article, in English. Source: the same pages; they gain .001 in F1."""


def main_text(page: Any) -> str:
    """What resiliparse takes for the main content, without texts of images, comments and post data.

    Args:
        page: a parsed page, or one as text.
    """
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(page, main_content=True, alt_texts=False, comments=False, post_meta=False)


def without_boilerplate(tree: Any, page: str) -> str:
    """The main text of a page after everything was taken out that is named as something else.

    Args:
        tree: the page as parsed by resiliparse; it is changed.
        page: the page as text.
    """
    if tree.body is None:
        return ""
    _take_out(tree.body)
    text = main_text(tree)
    if len(text) < _SHORT_TEXT:
        before = main_text(page)
        if len(text) < _LEAST_LEFT * len(before):
            text = before
    return _LINES.sub("", text)


def _take_out(body: Any) -> None:
    """Take out of a page what is named as something else and does not hold the article."""
    article: float | None = None
    measured = 0
    for element in body.query_selector_all(_SELECTOR).values():  # indexing the list itself is a query each time
        if element.tag not in _ALWAYS and not _is_named(element.class_name or ""):
            continue
        size = len(element.text)
        if size > _SMALL:
            if article is None:
                measured, characters = _paragraphs(body)
                article = _ARTICLE_SHARE * characters
            if size > article:
                if measured > _PARAGRAPHS_MEASURED:
                    continue
                count, characters = _paragraphs(element)
                measured += count
                if characters > article:
                    continue
        element.decompose()


@functools.lru_cache(maxsize=1 << 16)
def _is_named(classes: str) -> bool:
    """Whether the classes of an element say that it is no article; the same ones come again on every page of a site."""
    return _NAMES.search(classes[:200]) is not None


def _paragraphs(element: Any) -> tuple[int, int]:
    """How many paragraphs are below an element, and the characters in them."""
    paragraphs = element.query_selector_all("p").values()
    return len(paragraphs), sum(len(paragraph.text) for paragraph in paragraphs)
