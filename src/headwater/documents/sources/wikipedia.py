"""Wikipedia as a source: the articles of XML dumps, such as `enwiki-latest-pages-articles.xml.bz2`."""

from __future__ import annotations

import bz2
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from pydantic import Field

from headwater.core.units import Bytes
from headwater.documents.sources.extract import missing_extra
from headwater.documents.sources.files import BLOCK_BYTES, FileSource, Span, cut_off, opened, spans, unreadable
from headwater.documents.sources.source import DamagedFileError, Intake
from headwater.documents.sources.wikitext import plain_text

LICENCE = "CC-BY-SA-4.0"
"""Source: https://dumps.wikimedia.org/legal.html"""
_UNSEEN_NAMESPACES = frozenset((-2, 6, 14))
"""Media, File and Category: links to them show no text. Source: https://www.mediawiki.org/wiki/Manual:Namespace_constants"""
_UNSEEN_PREFIXES = frozenset(("file", "image", "media", "category"))  # work in every language beside the local names
_REDIRECT = re.compile(r"^\s*#REDIRECT\b", re.IGNORECASE)
_LANGUAGE = re.compile(r"//([a-z]{2,3})\.")


class Wikipedia(FileSource):
    """Articles of MediaWiki XML dumps (`pages-articles`), plain or compressed with bzip2 (also multistream), gzip or zstd."""

    use: Literal["wikipedia"]
    licence: str | None = LICENCE
    """Licence of the documents as an SPDX expression."""
    max_page_bytes: Bytes = Field(default=4 << 20, ge=1)
    """Longest page [bytes of wikitext]; longer ones are dropped. MediaWiki itself allows 2 MiB."""

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Files of a folder that are dumps."""
        return (".xml", ".xml.bz2")

    def parts(self, part_bytes: int) -> Sequence[Any]:
        """Whole files: dumps of large Wikipedias come in dozens of them."""
        return spans(self.files(), part_bytes, divisible=False)

    def read(self, part: tuple[Span, ...], intake: Intake) -> None:
        """Read page by page; pages that are no articles are counted, by their reason."""
        for span in part:
            articles = _Articles(intake, self)
            site = Site()
            try:
                for page in pages(span.path, site):
                    articles.take(page, site, span.path)
                if not site.pages:
                    raise DamagedFileError("holds no page of a MediaWiki `pages-articles` dump", place=span.path)
            except DamagedFileError as error:
                articles.flush()
                intake.damage(error)
            articles.flush()


@dataclass
class Site:
    """What a dump says about its wiki, and how many pages were read of it."""

    base: str = ""
    pages: int = 0
    unseen: set[str] = field(default_factory=lambda: set(_UNSEEN_PREFIXES))

    def is_unseen(self, prefix: str) -> bool:
        """Whether links with a prefix show nothing."""
        return prefix.strip().lower() in self.unseen

    def url(self, title: str) -> str | None:
        """Address of a page."""
        if not self.base:
            return None
        name = urllib.parse.quote(title.replace(" ", "_"), safe="/:()',*!@$;~-_.")
        return f"{self.base.rpartition('/')[0]}/{name}"

    @property
    def language(self) -> str | None:
        """Language of the wiki, by the first part of its address."""
        match = _LANGUAGE.search(self.base)
        return match[1] if match else None


@dataclass(frozen=True)
class Page:
    """A page of a dump, in its last revision."""

    title: str
    namespace: str
    id: str
    redirect: bool
    revision: str
    date: str | None
    text: str


def pages(path: str, site: Site) -> Iterator[Page]:
    """Stream the pages of a dump; `site` is filled in before the first.

    Raises:
        InputError: the file cannot be opened.
        DamagedFileError: it is cut off, or is not XML.
        MissingExtraError: a package is not installed.
    """
    try:
        import lxml.etree as etree
    except ImportError:
        raise missing_extra("lxml") from None
    tags = [f"{{*}}{name}" for name in ("base", "namespace", "revision", "page")]
    with _stream(path) as stream:
        # entities are left alone and text is at most 10 MB: no small file becomes a large tree
        events = etree.iterparse(stream, tag=tags, resolve_entities=False, no_network=True)
        revision: dict[str, str] = {}
        try:
            for _, element in events:
                name = etree.QName(element).localname
                if name == "base":
                    site.base = (element.text or "").strip()
                elif name == "namespace":
                    if element.text and int(element.get("key", "0")) in _UNSEEN_NAMESPACES:
                        site.unseen.add(element.text.strip().lower())
                elif name == "revision":
                    revision = {key: element.findtext(f"{{*}}{key}") or "" for key in ("id", "timestamp", "text")}
                    element.clear()  # of a full history, only the last one is kept
                else:
                    site.pages += 1
                    yield _page(element, revision)
                    revision = {}
                    element.clear()
                    while element.getprevious() is not None:
                        del element.getparent()[0]
        except (etree.XMLSyntaxError, EOFError, OSError, ValueError) as error:
            told = cut_off(path, error)
            if not isinstance(told, DamagedFileError):
                raise told from None
            problem = f"{told.problem}; its first {site.pages} pages could be read"
            raise DamagedFileError(problem, place=path, hint="download it again") from None


def _stream(path: str) -> Any:
    """Open a dump and decompress it."""
    if not path.endswith(".bz2"):
        return opened(path)
    try:
        return bz2.open(path)
    except OSError as error:
        raise unreadable(path, error) from None


def _page(element: Any, revision: dict[str, str]) -> Page:
    text = revision.get("text", "")
    return Page(
        title=element.findtext("{*}title") or "",
        namespace=element.findtext("{*}ns") or "0",
        id=element.findtext("{*}id") or "",
        redirect=element.find("{*}redirect") is not None or _REDIRECT.match(text) is not None,
        revision=revision.get("id", ""),
        date=revision.get("timestamp") or None,
        text=text,
    )


class _Articles:
    """Articles on their way to the intake, gathered to about a MB."""

    def __init__(self, intake: Intake, settings: Wikipedia) -> None:
        self._intake, self._settings = intake, settings
        self._size = 0
        self._rows: list[tuple[str, str, str | None, str | None, str]] = []

    def take(self, page: Page, site: Site, path: str) -> None:
        """Take a page if it is an article, else count why it is none."""
        if page.namespace != "0":
            self._intake.skip(f"namespace_{page.namespace}")
        elif page.redirect:
            self._intake.skip("redirect")
        elif (size := len(page.text.encode())) > self._settings.max_page_bytes:
            self.flush()
            most, url = self._settings.max_page_bytes, site.url(page.title) or path
            numbers: Any = {"problem": f"longer than {most} bytes", "value": size, "threshold": most}
            self._intake.reject("too_large", page.text[:2000], url=url, place=path, bad=False, **numbers)
        else:
            text = plain_text(page.text, site.is_unseen)
            found = {"title": page.title, "page_id": page.id, "revision": page.revision}
            meta = orjson.dumps({name: value for name, value in found.items() if value}).decode()
            self._rows.append((text, site.url(page.title) or path, page.date, site.language, meta))
            self._size += len(text)
            if self._size >= BLOCK_BYTES:
                self.flush()

    def flush(self) -> None:
        """Hand over what was gathered."""
        if self._rows:
            texts, urls, dates, languages, metas = zip(*self._rows, strict=True)
            columns: Any = {"url": urls, "date": dates, "language": languages, "meta": metas}
            self._intake.add(list(texts), licence=self._settings.licence, **columns)
            self._rows, self._size = [], 0
