"""Steps that keep to rules of law and courtesy: licences that are allowed, addresses that are blocked or have opted out."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import field_validator, model_validator

from headwater.core.errors import InputError
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.steps import CleaningStep, Rule, Verdict, judge


class Licence(CleaningStep):
    """Keep the documents whose licence is allowed; the licence is an SPDX expression, which the source or `read` fills in.

    `MIT OR GPL-3.0-only` is allowed when one of the two is, `MIT AND CC-BY-4.0` when both are, and an exception
    (`GPL-2.0-only WITH Classpath-exception-2.0`) when its licence is. Source: SPDX specification 2.3, annex D.
    """

    use: Literal["licence"]
    allow: tuple[str, ...] | None = None
    """SPDX identifiers that are allowed, `*` for any ending (`CC-BY-*`); all by default."""
    deny: tuple[str, ...] = ()
    """SPDX identifiers that are not, whatever `allow` says, such as `CC-BY-NC-*`."""
    unknown: Literal["drop", "keep"] = "drop"
    """What happens to documents without a licence, or with one that is no SPDX expression."""

    @model_validator(mode="after")
    def _has_effect(self) -> Licence:
        if self.allow is None and not self.deny and self.unknown == "keep":
            raise ValueError("does nothing; set allow, deny or unknown: drop")
        return self

    @field_validator("allow", "deny")
    @classmethod
    def _are_identifiers(cls, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in given or ():
            if "*" not in name and _parsed(name) is None:
                raise ValueError(f"'{name}' is no SPDX identifier; see https://spdx.org/licenses")
        return given

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        column = batch.rows.column("licence")
        answers = {licence: self.judge(licence) for licence in column.unique().to_pylist()}
        found = [answers[licence] for licence in column.to_pylist()]
        unknown = np.array([answer is None and self.unknown == "drop" for answer in found], np.bool_)
        denied = np.array([answer is False for answer in found], np.bool_)
        return judge(
            len(found),
            Rule("unknown", unknown.astype(np.float64), unknown, 0.0),
            Rule("not_allowed", denied.astype(np.float64), denied, 0.0),
            details=column,
        )

    def judge(self, licence: str | None) -> bool | None:
        """Whether a licence is allowed; None when it is unknown.

        >>> step = Licence(use="licence", allow=("MIT", "Apache-2.0"))
        >>> step.judge("MIT OR GPL-3.0-only"), step.judge("MIT AND GPL-3.0-only"), step.judge("all rights reserved")
        (True, False, None)
        """
        expression = _parsed(licence) if licence else None
        return None if expression is None else _evaluate(expression, self._allows)

    def _allows(self, name: str) -> bool:
        names = _meanings(name)
        allowed = self.allow is None or any(_matches(one, pattern) for one in names for pattern in self.allow)
        return allowed and not any(_matches(names[0], pattern) for pattern in self.deny)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, _meanings(pattern)[0])


def _meanings(name: str) -> list[str]:
    """An identifier in small letters as the SPDX list has it now, and the narrower ones that it includes.

    >>> _meanings("GPL-3.0"), _meanings("GPL-2.0+")
    (['gpl-3.0-only'], ['gpl-2.0-or-later', 'gpl-2.0-only'])
    """
    small = name.lower()
    gnu = re.fullmatch(r"((?:a|l)?gpl-[\d.]+|gfdl-[\d.]+)(\+)?", small)
    if gnu:
        small = gnu[1] + ("-or-later" if gnu[2] else "-only")
    return [small, small.replace("-or-later", "-only")] if small.endswith("-or-later") else [small]


def _parsed(expression: str) -> list[str] | None:
    """The words of an SPDX expression; None when it is none."""
    try:
        canonical = canonicalize_license_expression(expression)
    except InvalidLicenseExpression:
        return None
    return re.findall(r"[()]|[^\s()]+", canonical)


def _evaluate(words: list[str], allows: Callable[[str], bool]) -> bool:
    """Whether an expression is allowed: AND binds closer than OR."""

    def either(rest: Iterator[str]) -> tuple[bool, str]:
        value, after = both(rest)
        while after == "OR":
            other, after = both(rest)
            value = value or other
        return value, after

    def both(rest: Iterator[str]) -> tuple[bool, str]:
        value, after = one(rest)
        while after == "AND":
            other, after = one(rest)
            value = value and other
        return value, after

    def one(rest: Iterator[str]) -> tuple[bool, str]:
        word = next(rest)
        value = either(rest)[0] if word == "(" else allows(word)
        after = next(rest, ")")
        if after == "WITH":
            next(rest)
            after = next(rest, ")")
        return value, after

    return either(iter(words))[0]


# ------------------------------------------------------------------------------------------------- addresses


class Url(CleaningStep):
    """Drop documents from blocked addresses, and from sites that have opted out.

    Addresses are compared without scheme, `www.`, port, fragment and a slash at the end, in small letters, with
    international names in their ASCII form; a domain stands for its subdomains too.
    """

    use: Literal["url"]
    domains: tuple[str, ...] = ()
    """Domains whose pages are dropped."""
    domains_file: Path | None = None
    """A file of such domains, one on each line, or a hosts file; # begins a comment."""
    urls: tuple[str, ...] = ()
    """Pages that are dropped."""
    urls_file: Path | None = None
    """A file of such pages."""
    substrings: tuple[str, ...] = ()
    """Parts of an address, in small letters, with which a page is dropped."""
    substrings_file: Path | None = None
    """A file of such parts."""
    opted_out_file: Path | None = None
    """A file of domains whose robots.txt or ai.txt forbids to train on them."""
    unknown: Literal["drop", "keep"] = "keep"
    """What happens to documents without a web address."""

    @model_validator(mode="after")
    def _has_effect(self) -> Url:
        lists = (self.domains, self.urls, self.substrings, self.domains_file, self.urls_file, self.substrings_file)
        if not any((*lists, self.opted_out_file)) and self.unknown == "keep":
            raise ValueError("does nothing; name domains, urls, substrings or a file of them")
        return self

    def files(self) -> dict[str, Path]:
        """The lists.

        Raises:
            InputError: there is no such file.
        """
        names = ("domains_file", "urls_file", "substrings_file", "opted_out_file")
        files = {f"url: {file}": file for name in names if (file := getattr(self, name)) is not None}
        for file in files.values():
            if not file.is_file():
                raise InputError("there is no such file", place=str(file), hint="check the path in `use: url`")
            if not _entries(file):
                problem = "holds no entry: nothing would be blocked"
                raise InputError(problem, place=str(file), hint="one entry on each line; take the setting out for none")
        return files

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        urls = batch.rows.column("url").to_pylist()
        found = [self.judge(url) if wanted else ("", None) for url, wanted in zip(urls, batch.wanted, strict=True)]
        rules = []
        for name in ("unknown", "domain", "url", "substring", "opted_out"):
            fails = np.array([rule == name for rule, _ in found], np.bool_)
            rules.append(Rule(name, fails.astype(np.float64), fails, 0.0))
        return judge(len(urls), *rules, details=pa.array([detail for _, detail in found], pa.string()))

    def judge(self, url: str | None) -> tuple[str, str | None]:
        """The rule that drops a page, and the entry of the list that it is on; an empty name when it stays.

        >>> Url(use="url", domains=("bad.org",)).judge("https://www.very.bad.org:8080/page")
        ('domain', 'bad.org')
        """
        address = normal_url(url) if url and "://" in url else None  # else a file, or a part of one
        if address is None:
            return ("unknown", url) if self.unknown == "drop" else ("", None)
        host = address.partition("/")[0]
        for domain in _domains_of(host):
            if domain in _lookup(self.domains, self.domains_file, "domain"):
                return "domain", domain
            if domain in _lookup((), self.opted_out_file, "domain"):
                return "opted_out", domain
        if address in _lookup(self.urls, self.urls_file, "url"):
            return "url", address
        part = _substrings(self.substrings, self.substrings_file).search(address)
        return ("substring", part[0]) if part and part[0] else ("", None)


def normal_url(url: str) -> str | None:
    """An address in the one form in which it is compared; None when it is no web address.

    >>> normal_url("HTTPS://www.Bücher.example:443/A?b=1#c")
    'xn--bcher-kva.example/a?b=1'
    """
    try:
        parts = urlsplit(url.strip() if "//" in url else f"//{url.strip()}")
        host = normal_host(parts.hostname or "")
    except ValueError:
        return None
    if "." not in host or parts.scheme not in ("", "http", "https"):
        return None
    rest = unquote(parts.path) + (f"?{parts.query}" if parts.query else "")
    return (host + rest.lower()).rstrip("/")


def normal_host(host: str) -> str:
    """A host name in small ASCII letters without `www.`."""
    plain = host.strip().rstrip(".").lower().removeprefix("www.")
    if plain.isascii():
        return plain
    try:
        return plain.encode("idna").decode("ascii")
    except UnicodeError:
        return plain


def _domains_of(host: str) -> Iterator[str]:
    """A host and the domains that it is in, without the top level alone."""
    while "." in host:
        yield host
        host = host.partition(".")[2]


@functools.lru_cache(64)
def _lookup(given: tuple[str, ...], file: Path | None, kind: Literal["domain", "url"]) -> frozenset[str]:
    """Entries from the settings and from a file, in the form in which they are compared."""
    entries = (*given, *(_entries(file) if file else ()))
    if kind == "url":
        return frozenset(filter(None, map(normal_url, entries)))
    hosts = (entry.split()[-1] if entry.split() else "" for entry in entries)  # a hosts file has an address before
    return frozenset(filter(None, ((normal_url(host) or "").partition("/")[0] for host in hosts)))


@functools.lru_cache(64)
def _substrings(given: tuple[str, ...], file: Path | None) -> re.Pattern[str]:
    entries = sorted({entry.lower() for entry in (*given, *(_entries(file) if file else ()))}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, entries)) or r"(?!)")


@functools.lru_cache(64)
def _entries(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read as a list: {error}", place=str(file), hint="one entry on each line, UTF-8"
        ) from error
    plain = (re.sub(r"(?:^|\s)#.*", "", line).strip() for line in lines)
    return [line for line in plain if line]
