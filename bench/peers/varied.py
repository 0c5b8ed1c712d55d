"""Real documents of five kinds, for comparing verdicts: prose, web pages, code, German, Korean."""

from __future__ import annotations

import itertools
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import zstandard

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def documents(each: int = 2000) -> dict[str, list[str]]:
    """Up to so many documents of each kind; kinds whose files are not at hand are left out."""
    kinds = {"prose": _prose, "web": _web, "code": _code, "german": _german, "korean": _korean}
    found = {}
    for name, texts in kinds.items():
        try:
            found[name] = list(itertools.islice((text for text in texts() if text.strip()), each))
        except FileNotFoundError:
            continue
    return found


def _lines(file: str) -> Iterator[dict[str, str]]:
    with zstandard.open(DATA / file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _pieces(text: str, size: int) -> Iterator[str]:
    """Neighbouring paragraphs of some `size` characters together."""
    piece: list[str] = []
    for paragraph in text.split("\n\n"):
        piece.append(paragraph)
        if sum(map(len, piece)) >= size:
            yield "\n\n".join(piece)
            piece = []


def _prose() -> Iterator[str]:
    """Speeches whole, then from each of many books a few pages of different length."""
    for name in ("state_union", "inaugural"):
        with zipfile.ZipFile(DATA / f"text/nltk-{name}.zip") as archive:
            for member in sorted(archive.namelist()):
                if member.endswith(".txt"):
                    yield archive.read(member).decode("latin-1")[:20_000]
    for number, book in enumerate(_lines("text/books-train.jsonl.zst")):
        yield from itertools.islice(_pieces(book["text"], 300 + 700 * (number % 5)), 5, 25)


def _web() -> Iterator[str]:
    """Articles of news pages as people marked them, then help pages with their menus."""
    truth = json.loads((DATA / "web/article-extraction-benchmark/ground-truth.json").read_text(encoding="utf-8"))
    yield from (page["articleBody"] for page in truth.values())
    yield from (page["text"] for page in _lines("lang/libreoffice-help-en.jsonl.zst"))


def _code() -> Iterator[str]:
    library = Path(json.__file__).parents[1]
    for file in sorted(library.rglob("*.py")):
        if 200 < file.stat().st_size < 12_000:
            yield file.read_text(encoding="utf-8", errors="replace")


def _german() -> Iterator[str]:
    yield from (page["text"] for page in _lines("lang/libreoffice-help-de.jsonl.zst"))


def _korean() -> Iterator[str]:
    yield from (page["text"] for page in itertools.islice(_lines("lang/libreoffice-help-ko.jsonl.zst"), 1000))
    reviews = (review["text"] for review in _lines("lang/ko-nsmc-reviews.jsonl.zst"))
    while block := list(itertools.islice(reviews, 12)):
        yield "\n".join(block)
