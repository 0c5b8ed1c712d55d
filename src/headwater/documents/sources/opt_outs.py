"""What owners of web sites say beside robots.txt about the use of their pages to train models.

ai.txt has the form of robots.txt (Spawning, https://spawning.ai/ai-txt); other files of that name hold no such rules.
tdmrep.json, the header `tdm-reservation` and `<meta name="tdm-reservation">` reserve the rights of text and data mining
(https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/). `noai` stands in `X-Robots-Tag` or in
`<meta name="robots">`. Whoever says no in one of these places has said no.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

AI_TXT = "/ai.txt"
TDM_FILE = "/.well-known/tdmrep.json"
_RULE = re.compile(r"^\s*user-agent\s*:", re.IGNORECASE | re.MULTILINE)
_HEAD_BYTES = 64 << 10
_META = re.compile(rb"<meta\b[^<>]{0,2000}>")
_ATTRIBUTE = re.compile(rb"""\b(name|content)\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""")
_NO_AI = re.compile(r"\bno-?ai\b", re.IGNORECASE)


@dataclass(frozen=True)
class OptOuts:
    """What the files of one site say."""

    ai: Any = None
    """Rules of ai.txt; None without any."""
    reserved: tuple[tuple[str, bool], ...] = ()
    """Patterns of paths, and whether these are reserved."""

    def refusal(self, url: str, path: str, agent: str) -> str | None:
        """Why a page is not to be used; None when the files do not object.

        Args:
            url: its address.
            path: path and query of it.
            agent: our name.
        """
        if self.ai is not None and not self.ai.can_fetch(url, agent):
            return f"ai.txt does not allow {path}"
        fitting = [(len(pattern), reserved) for pattern, reserved in self.reserved if _fits(pattern, path)]
        return f"tdmrep.json reserves {path}" if fitting and max(fitting)[1] else None


def parse(ai_txt: str | None, tdm_file: str | None) -> OptOuts:
    """Read the two files of a site; None, and what is of another form, is no opt-out."""
    from protego import Protego

    ai = Protego.parse(ai_txt) if ai_txt and _RULE.search(ai_txt) else None
    try:
        entries = orjson.loads(tdm_file or "[]")
    except orjson.JSONDecodeError:
        entries = []
    entries = entries if isinstance(entries, list) else [entries]
    return OptOuts(ai, tuple(_reservations(entries)))


def _reservations(entries: Iterable[Any]) -> Iterable[tuple[str, bool]]:
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("location"), str):
            yield entry["location"], str(entry.get("tdm-reservation")) in ("1", "True")


def header_objects(headers: Mapping[str, str]) -> str | None:
    """What a response's headers, with names in small letters, say against the use of the page; None for nothing.

    >>> header_objects({"tdm-reservation": "1"}), header_objects({"x-robots-tag": "noindex"})
    ('its header tdm-reservation is 1', None)
    """
    if headers.get("tdm-reservation", "").strip() == "1":
        return "its header tdm-reservation is 1"
    return "its header x-robots-tag says noai" if _NO_AI.search(headers.get("x-robots-tag", "")) else None


def page_objects(html: bytes) -> str | None:
    """What the <meta> tags at the beginning of a page say against its use; None for nothing.

    >>> page_objects(b'<meta content="index, noai" name=robots>'), page_objects(b'<meta name="robots" content="noimageai">')
    ('its <meta name="robots"> says noai', None)
    """
    head = html[:_HEAD_BYTES].lower()
    if b"tdm-reservation" not in head and b"ai" not in head:
        return None
    for tag in _META.findall(head):
        found = {
            name.decode(): value.strip(b"\"' ").decode(errors="replace") for name, value in _ATTRIBUTE.findall(tag)
        }
        name, content = found.get("name", ""), found.get("content", "")
        if name == "tdm-reservation" and content == "1":
            return 'its <meta name="tdm-reservation"> is 1'
        if name == "robots" and _NO_AI.search(content):
            return 'its <meta name="robots"> says noai'
    return None


def _fits(pattern: str, path: str) -> bool:
    """Whether a path begins as a pattern says; `*` is anything, `$` the end.

    >>> [_fits("/a/*.html$", path) for path in ("/a/b.html", "/a/b.html?c", "/b.html")]
    [True, False, False]
    """
    end = pattern.endswith("$")
    expression = ".*".join(map(re.escape, re.split(r"\*+", pattern.removesuffix("$"))))
    return re.match(expression + ("$" if end else ""), path) is not None
