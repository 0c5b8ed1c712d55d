"""Pages of the web as a source: given addresses, and pages that they link to on the same host, fetched politely."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import re
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urljoin, urlsplit

import orjson
from pydantic import Field, field_validator, model_validator

from headwater.core.errors import InputError, MissingExtraError
from headwater.core.log import logger
from headwater.core.store import atomic_path, read_json, write_json
from headwater.core.units import Bytes, Count
from headwater.documents.sources.extract import MAX_PAGE_BYTES, PageError, Tier, check, decode, extract, without_floods
from headwater.documents.sources.files import Paths, find, whole
from headwater.documents.sources.opt_outs import page_objects
from headwater.documents.sources.source import Intake, SourceSettings

if TYPE_CHECKING:
    from headwater.documents.sources.web_client import Client, Page

_HOSTS_AT_ONCE = 16
_PART_BYTES = 8 << 20
"""Pages in a part [bytes]: some seconds of work, so that many workers end at about the same time."""
_CREATIVE_COMMONS = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]+)/(\d\.\d)|publicdomain/(zero|mark)/1\.0)")


class Crawl(SourceSettings):
    """Pages of the web.

    robots.txt is obeyed, as are opt-outs from training (ai.txt, tdmrep.json, `noai`), a host gets one request at a time with pauses in between, and addresses that are not public are
    refused, also behind redirects. Whatever is not read is kept among the dropped with the reason. A finished read is
    kept until its settings change: pages are not fetched again because they might have changed.
    """

    use: Literal["crawl"]
    urls: Paths = ()
    """Addresses of pages."""
    url_file: str | None = None
    """A text file with the address of a page on each line; lines that begin with `#` are left out."""
    contact: str = Field(min_length=5)
    """An e-mail address or web page for the owners of the servers; it is sent with every request."""
    depth: int = Field(default=0, ge=0)
    """How many links to follow from a given page, within its host. 0: only the given pages."""
    max_pages: Count = Field(default=1000, ge=1)
    """Most pages of a host."""
    delay: float = Field(default=1.0, ge=0)
    """Pause between two requests to a host [s]; longer where its robots.txt asks for it."""
    timeout: float = Field(default=20.0, gt=0)
    """After which a request is given up [s]."""
    max_page_bytes: Bytes = Field(default=MAX_PAGE_BYTES, ge=1)
    """Longest page [bytes], decompressed."""
    allow_private: bool = False
    """Also fetch from addresses that are not public, such as an intranet's."""
    tier: Tier = "balanced"
    """How much care is spent on taking the text out of a page."""
    licence: str | None = None
    """SPDX expression for pages that state none of Creative Commons' licences themselves."""
    language: str | None = None
    """ISO 639-1 code for pages that state no language themselves."""

    @field_validator("urls")
    @classmethod
    def _are_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not re.match(r"https?://[^/]", url):
                raise ValueError(f"{url!r} is no http:// or https:// address")
        return urls

    @field_validator("contact")
    @classmethod
    def _is_contact(cls, contact: str) -> str:
        if not re.fullmatch(r"[\x21-\x7e]+@[\x21-\x7e]+|https?://[\x21-\x7e]+", contact):
            raise ValueError("give an e-mail address or the address of a web page")
        return contact

    @model_validator(mode="after")
    def _names_pages(self) -> Crawl:
        if not self.urls and not self.url_file:
            raise ValueError("give `urls` or `url_file`")
        return self

    def fingerprint(self, hash_file: Callable[[Path], str]) -> Any:
        """The content of the file of addresses; what the pages hold is not known before they are fetched."""
        if not self.url_file:
            return None
        find(self.url_file, ())
        return hash_file(Path(self.url_file))

    def input_bytes(self) -> int:
        """Not known before the pages are fetched."""
        return 0

    def parts(self, part_bytes: int) -> Sequence[Any]:
        """Pages have to be fetched first."""
        del part_bytes
        raise InputError("pages have to be fetched first", place="crawl", hint="use fetch")

    def fetch(self, part_bytes: int, cache: Path, workers: int) -> Sequence[Any]:
        """Fetch the pages, one thread for each host, then gather them; pages that are in the cache are not fetched again."""
        del workers  # threads that wait for servers need no processor
        try:
            from headwater.documents.sources.web_client import Client
        except ImportError as error:
            problem = f"needs the package {error.name}, which is not installed"
            raise MissingExtraError(problem, place="crawl", hint="pip install 'headwater[web]'") from None
        client = Client(
            self.contact,
            delay=self.delay,
            timeout=self.timeout,
            max_bytes=self.max_page_bytes,
            allow_private=self.allow_private,
        )
        by_host: dict[str, list[str]] = {}
        for url in self._given():
            by_host.setdefault(_host(url), []).append(url)
        crawls = [_HostCrawl(self, client, urls, cache.absolute()) for urls in by_host.values()]
        with ThreadPoolExecutor(_HOSTS_AT_ONCE) as pool:
            try:
                fetched = list(pool.map(_HostCrawl.run, crawls))
            except BaseException:
                client.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return _gathered([path for paths in fetched for path in paths], min(part_bytes, _PART_BYTES))

    def read(self, part: tuple[Path, ...], intake: Intake) -> None:
        """Take the text out of fetched pages; a page that was refused is dropped with the reason."""
        for path in part:
            about = read_json(path)
            url = about["final"] or about["url"]
            if about["rule"]:
                measured = {"value": about["value"], "threshold": about["threshold"]}
                intake.reject(
                    about["rule"], "", url=url, place=about["url"], problem=about["problem"], bad=False, **measured
                )
                continue
            body = path.with_suffix(".body").read_bytes()
            try:
                text, title, language = _text(body, about["kind"], about["charset"], self.tier, self.max_page_bytes)
            except PageError as error:
                measured = {"value": error.value, "threshold": error.threshold}
                intake.reject(error.rule, "", url=url, place=url, problem=error.problem, bad=False, **measured)
                continue
            intake.add(
                [text],
                url=url,
                licence=about["licence"] or self.licence,
                language=language or self.language,
                date=about["date"],
                meta=orjson.dumps({"title": title}).decode() if title else None,
            )

    def _given(self) -> list[str]:
        """The addresses that the recipe names, each once."""
        listed: list[str] = []
        if self.url_file:
            find(self.url_file, ())
            try:
                lines = whole(self.url_file).decode().splitlines()
            except UnicodeDecodeError as error:
                problem = f"is not UTF-8 (byte {error.start})"
                raise InputError(problem, place=self.url_file, hint="save it as UTF-8") from None
            listed = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        return list(dict.fromkeys([*self.urls, *listed]))


def _host(url: str) -> str:
    """The host of an address; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _text(
    body: bytes, kind: str, charset: str | None, tier: Tier, max_bytes: int
) -> tuple[str, str | None, str | None]:
    """Text, title and language (ISO 639-1) of a page."""
    if kind == "text/plain":
        return decode(body, charset)[0], None, None
    found = extract(body, tier, charset, max_bytes)
    language = re.match(r"[a-z]{2}(?![a-z])", (found.language or "").lower())
    return found.text, found.title, language[0] if language else None


def _gathered(paths: Sequence[Path], part_bytes: int) -> list[tuple[Path, ...]]:
    """Pages in groups of about `part_bytes`."""
    parts: list[list[Path]] = [[]]
    room = part_bytes
    for path in paths:
        body = path.with_suffix(".body")
        size = body.stat().st_size if body.exists() else 0
        if size > room and parts[-1]:
            parts.append([])
            room = part_bytes
        parts[-1].append(path)
        room -= size
    return [tuple(part) for part in parts if part]


class _HostCrawl:
    """The pages of one host, breadth first; what came of each is a file in the cache."""

    def __init__(self, settings: Crawl, client: Client, urls: Sequence[str], cache: Path) -> None:
        self.settings, self.client, self.cache = settings, client, cache
        self.queue = deque((url, 0) for url in urls)
        self.known = set(urls)
        self.finals: set[str] = set()
        self.hosts: set[str] = set()

    def run(self) -> list[Path]:
        """Fetch all pages and return the files about them in order."""
        found: list[Path] = []
        pages = 0
        while self.queue:
            url, depth = self.queue.popleft()
            if pages >= self.settings.max_pages:
                if depth == 0:  # a page that the recipe names is never lost without a word
                    found.append(self._keep(url, _refusal("max_pages", "the host has had its pages", pages, pages)))
                continue
            path = self._path(url)
            about = read_json(path) if path.exists() else self._fetched(url, depth)
            pages += 1
            found.append(path)
            if about["final"]:
                if depth == 0:
                    self.hosts.add(_host(about["final"]))
                self.finals.add(about["final"])
            self._follow(about, depth)
        logger.info("  %s: %d page%s asked for", _host(next(iter(self.known))), pages, "" if pages == 1 else "s")
        return found

    def _fetched(self, url: str, depth: int) -> dict[str, Any]:
        """Fetch a page and keep it, or keep why not."""
        from headwater.documents.sources.web_client import RefusedError

        try:
            page = self.client.get(url)
            if page.url in self.finals:
                raise RefusedError("same_page", f"leads to {page.url}, which was fetched already")
            if depth and _host(page.url) not in self.hosts:
                raise RefusedError("other_host", f"leads to {page.url}, on another host")
            if page.kind != "text/plain" and (objection := page_objects(page.body)):
                raise RefusedError("opted_out", objection)
        except RefusedError as error:
            about = _refusal(error.rule, error.problem, error.value, error.threshold)
            if error.rule == "stopped":
                return {"url": url, **about}  # to be fetched when the run goes on
            self._keep(url, about)
            return {"url": url, **about}
        path = self._path(url)
        with atomic_path(path.with_suffix(".body")) as temporary:
            temporary.write_bytes(page.body)
        about = _about(page)
        self._keep(url, about)
        return about

    def _follow(self, about: dict[str, Any], depth: int) -> None:
        """Queue the pages of this host that a page links to."""
        from headwater.documents.sources.web_client import RefusedError, normalised

        if depth >= self.settings.depth:
            return
        for link in about["links"]:
            try:
                url = normalised(link)
            except RefusedError:
                continue  # a slip of the page's author, no page
            if _host(url) in self.hosts and url not in self.known and url not in self.finals:
                self.known.add(url)
                self.queue.append((url, depth + 1))

    def _keep(self, url: str, about: dict[str, Any]) -> Path:
        path = self._path(url)
        write_json(path, {"url": url, **about})
        return path

    def _path(self, url: str) -> Path:
        return self.cache / f"{hashlib.sha256(url.encode(errors='replace')).hexdigest()[:32]}.json"


def _refusal(rule: str, problem: str, value: float | None, threshold: float | None) -> dict[str, Any]:
    return {"rule": rule, "problem": problem, "value": value, "threshold": threshold, "final": None, "links": []}


def _about(page: Page) -> dict[str, Any]:
    """What is kept of a page beside its body."""
    links, licence = ([], None) if page.kind == "text/plain" else _links(page)
    return {
        "rule": None,
        "final": page.url,
        "kind": page.kind,
        "charset": page.charset,
        "date": _date(page.modified),
        "licence": licence,
        "links": links,
    }


def _date(modified: str | None) -> str | None:
    """The date of an HTTP header in ISO 8601; None when it is none."""
    try:
        return email.utils.parsedate_to_datetime(modified).isoformat() if modified else None
    except ValueError:
        return None


def _links(page: Page) -> tuple[list[str], str | None]:
    """The pages that a page links to, and the Creative Commons licence that it states for itself."""
    import lxml.etree as etree  # pyright: ignore[reportMissingImports]

    try:
        check(page.body)
    except PageError:
        return [], None  # it is refused when its text is read
    content = decode(without_floods(page.body), page.charset)[0].encode()
    try:
        tree = etree.fromstring(content, etree.HTMLParser(encoding="utf-8", no_network=True))
    except etree.XMLSyntaxError:  # nothing in it
        return [], None
    if tree is None:
        return [], None
    base, licence, found = page.url, None, []
    for node in tree.iter("base", "link", "a"):
        href, relations = node.get("href"), (node.get("rel") or "").lower().split()
        if not href:
            continue
        if "license" in relations and (match := _CREATIVE_COMMONS.search(href)):
            licence = licence or _licence(match)
        with contextlib.suppress(ValueError):  # a slip of the page's author
            if node.tag == "base":
                base = urljoin(page.url, href)
            elif node.tag == "a" and "nofollow" not in relations:
                found.append(urljoin(base, href.strip()))
    return list(dict.fromkeys(found)), licence


def _licence(match: re.Match[str]) -> str | None:
    """The SPDX identifier of a Creative Commons address; the public domain mark is none."""
    if match[3]:
        return "CC0-1.0" if match[3] == "zero" else None
    return f"CC-{match[1].upper()}-{match[2]}"
