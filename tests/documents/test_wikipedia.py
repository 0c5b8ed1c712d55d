"""Wikipedia: articles as a reader sees them, from dumps of every form, and damage in a clear line."""

from __future__ import annotations

import bz2
import gzip
import json
import re
import time
from html import escape
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import read_batches, shards_in
from headwater.documents.read import Read, read
from headwater.documents.sources.wikitext import plain_text

from .reading import run as read_source

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="de"><siteinfo><sitename>Wikipedia</sitename>
<base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base><namespaces><namespace key="0"/>
<namespace key="6">Datei</namespace><namespace key="14">Kategorie</namespace></namespaces></siteinfo>"""


def page(title: str, text: str, namespace: int = 0, more: str = "", *older: str) -> str:
    revisions = "".join(
        f"<revision><id>{n + 7}</id><timestamp>2024-01-0{n + 1}T00:00:00Z</timestamp><text>{escape(content)}</text></revision>"
        for n, content in enumerate([*older, text])
    )
    return f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>5</id>{more}{revisions}</page>"


def dump(*pages: str) -> bytes:
    return (HEAD + "".join(pages) + "</mediawiki>").encode()


def run(folder: Path, content: bytes | Path, name: str = "w.xml", **more: Any) -> tuple[dict[str, Any], list, list]:
    path = content if isinstance(content, Path) else folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    source = {"use": "wikipedia", "paths": str(path), **more}
    counts = read(Read.model_validate({"sources": {"wiki": source}}), {}, Workspace(folder / "out", Machine(workers=1)))
    found = [
        [
            row
            for shard in shards_in(folder / "out" / kind)
            for batch in read_batches(shard)
            for row in batch.to_pylist()
        ]
        for kind in ("documents", "dropped")
    ]
    return counts, found[0], found[1]


def unseen(prefix: str) -> bool:
    return prefix.lower() in ("file", "category")


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' and ''it's'' '''''both'''''", "Bold and it's both"),
        ("[[cat]]s, [[Felis catus|the cat]] and [[Cat#Food|]]", "cats, the cat and"),
        ("[[File:a.jpg|thumb|A [[cat]] sits]]See[[Category:Cats]].[[fr:Chat]]", "See."),
        ("[[:Category:Cats]] [[#Food]]", "Category:Cats Food"),
        ("[http://x.org the site] [http://x.org] http://x.org", "the site http://x.org"),
        ("One.<ref>A ''book''</ref> Two.<ref name=a /> Three.<ref name=b>{{cite|x}}</ref>", "One. Two. Three."),
        ("{{Infobox|a={{b|c}}|d=[[e]]}}Text{{cn}}.", "Text."),
        ("A (born {{birth date|1990}}) and ({{IPA|x}}; {{lang|fr|chat}}).", "A (born) and (chat)."),
        ("{{convert|5|km|mi}}, {{nowrap|a b}}, {{abbr|Dr|Doctor}}", "5 km, a b, Dr"),
        ("{{lang|grc|[[x|GEN]]}}", "GEN"),
        ("Before\n{| class=x\n|-\n| a || {{b}}\n{|\n| inner\n|}\n|}\nAfter", "Before\n\nAfter"),
        ("<!-- hidden {{ -->shown<!-- never closed", "shown never closed"),
        ("a {{ b", "a b"),
        ("* one\n** two\n# three\n*\n: four", "- one\n- two\n- three\nfour"),
        ("== Life ==\nText\n== Notes ==\n<references/>\n=== Links ===\n[[Category:X]]", "Life\n\nText"),
        ("5&nbsp;km &lt;b&gt; &amp; &#8211; x<sup>2</sup>", "5 km <b> & – x2"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<math>x^2</math>The <nowiki>[[raw]]</nowiki> text__NOTOC__", "The [[raw]] text"),
        ("<div>\n\nin a box\n\n</div>", "in a box"),
        ("<gallery>\nFile:a.jpg|A cat\n</gallery>\nText", "Text"),
        ("", ""),
    ],
)
def test_markup_becomes_what_a_reader_sees(markup: str, text: str) -> None:
    assert plain_text(markup, unseen) == text


def test_articles_become_documents(tmp_path: Path) -> None:
    content = dump(
        page(
            "Über/Katzen & Hunde", "Die '''Katze'''[[Datei:x.jpg]] schläft. [[Kategorie:Tier]]", 0, "", "older {{text}}"
        ),
        page("Hund", "#REDIRECT [[Katze]]"),
        page("Maus", "x", 0, '<redirect title="Katze"/>'),
        page("Diskussion:Katze", "Talk", 1),
        page("Leer", "{{template}}"),
    )
    counts, (cat,), lost = run(tmp_path, content)
    assert cat["text"] == "Die Katze schläft."
    assert cat["url"] == "https://de.wikipedia.org/wiki/%C3%9Cber/Katzen_%26_Hunde"
    assert (cat["date"], cat["language"], cat["licence"]) == ("2024-01-02T00:00:00Z", "de", "CC-BY-SA-4.0")
    assert json.loads(cat["meta"]) == {"title": "Über/Katzen & Hunde", "page_id": "5", "revision": "8"}
    assert counts["sources"]["wiki"]["skipped"] == {"namespace_1": 1, "redirect": 2}
    assert [row["rule"] for row in lost] == ["empty"]


@pytest.mark.parametrize(
    ("name", "pack"),
    [("w.xml", bytes), ("w.xml.bz2", bz2.compress), ("w.xml.gz", gzip.compress), ("w.xml.zst", zstandard.compress)],
)
def test_every_compression_is_read(tmp_path: Path, name: str, pack: Any) -> None:
    content = pack(dump(*(page(f"P{n}", f"Article {n}") for n in range(20))))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    _, found, _ = run(tmp_path, tmp_path / "in")
    assert [row["text"] for row in found] == [f"Article {n}" for n in range(20)]


def test_multistream_dumps_are_read_to_the_end(tmp_path: Path) -> None:
    pieces = [HEAD, *(page(f"P{n}", f"Article {n}") for n in range(5)), "</mediawiki>"]
    _, found, _ = run(tmp_path, b"".join(bz2.compress(piece.encode()) for piece in pieces), "w.xml.bz2")
    assert len(found) == 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.xml.bz2", bz2.compress(dump(page("A", "a" * 9000)) * 3)[:-30], "cannot be read to its end"),
        ("w.xml.bz2", b"BZh9" + bytes(100), "cannot be read to its end"),
        ("w.xml.bz2", b"not bzip2 at all", "cannot be read to its end"),
        ("w.xml", dump(page("A", "a"))[:-5], "its first 1 pages could be read"),
        ("w.xml", dump(page("A", "a") + "<page><title></page>"), "its first 1 pages could be read"),
        ("w.xml", dump(page("A", "a")).replace(b">a<", b">\x01<"), "cannot be read to its end"),
        ("w.xml", b"<html><body>no dump</body></html>", "holds no page of a MediaWiki"),
        ("w.xml", dump(), "holds no page"),
        ("w.xml", b"\xff\xfe\x00", "cannot be read to its end"),
        ("w.xml", b"<a>" * 100_000, "cannot be read to its end"),
        ("w.xml", dump(page("A", "x" * (11 << 20))), "cannot be read to its end"),
    ],
)
def test_damage_is_named_and_the_rest_is_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a.xml").write_bytes(dump(page("First", "first")))
    (tmp_path / "all" / name).write_bytes(content)
    (tmp_path / "all" / "z.xml").write_bytes(dump(page("Last", "last")))
    _, found, lost = read_source(tmp_path / "out", {"use": "wikipedia", "paths": str(tmp_path / "all")})
    assert [found[0]["text"], found[-1]["text"]] == ["first", "last"]
    assert [row["rule"] for row in lost] == ["damaged_file"]
    assert lost[0]["url"] == str(tmp_path / "all" / name)
    assert message in lost[0]["detail"]


def test_an_entity_bomb_does_not_grow(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = (
        f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e0 "lol">{levels}]>'
        + HEAD
        + page("A", "a").replace(">a<", ">&e11;<")
    )
    began = time.process_time()
    with pytest.raises(InputError):
        run(tmp_path, (bomb + "</mediawiki>").encode())
    assert time.process_time() - began < 5


def test_long_pages_are_dropped_with_a_reason(tmp_path: Path) -> None:
    content = dump(page("Long", "x" * 5000), page("Short", "y"))
    _, found, lost = run(tmp_path, content, max_page_bytes=1000)
    assert [row["text"] for row in found] == ["y"]
    assert (lost[0]["rule"], lost[0]["value"], lost[0]["threshold"]) == ("too_large", 5000, 1000)


PIECES = st.sampled_from(
    ["{{", "}}", "[[", "]]", "{|", "|}", "\n{|", "\n|}", "|", "<ref>", "</ref>", "<ref name=x/>", "<!--", "-->", "'''", "==", "\n==", "\n*",
     "<nowiki>", "</nowiki>", "<div ", "</div>", "[http://x ", "]", "&nbsp;", "&#0;", "&#xD800;", "\0", "File:", "{{lang|", "\n\n"]
)  # fmt: skip


@settings(max_examples=200)
@given(st.lists(PIECES | st.text(max_size=10), max_size=60))
def test_any_markup_is_text(pieces: list[str]) -> None:
    text = plain_text("".join(pieces), unseen)
    assert "\0" not in text
    text.encode()


@pytest.mark.parametrize(
    "piece", ["[[", "{{", "[http://a ", "\n{|", "<ref>", "<b>", "<x ", "<!--", "[[File:a|", "''", " ", "(,", "\n=="]
)
def test_markup_that_is_never_closed_takes_bounded_time(piece: str) -> None:
    began = time.process_time()
    plain_text(piece * (60_000 // len(piece)), unseen)
    assert time.process_time() - began < 10  # unbounded, some of these take half a minute


def test_a_real_dump(shared_data: Path, tmp_path: Path) -> None:
    counts, found, _ = run(tmp_path, shared_data / "web" / "gensim-enwiki-pages-articles-shortened.xml.bz2")
    assert counts["documents_out"] == 106
    assert counts["sources"]["wiki"]["skipped"] == {"namespace_4": 1, "redirect": 99}
    by_title = {json.loads(row["meta"])["title"]: row for row in found}
    anarchism = by_title["Anarchism"]
    assert anarchism["url"] == "https://en.wikipedia.org/wiki/Anarchism"
    assert anarchism["language"] == "en"
    assert "is a political philosophy that advocates self-governed societies" in anarchism["text"]
    markup = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||<ref|&nbsp;|'''|\bthumb\|")
    assert not [title for title, row in by_title.items() if markup.search(row["text"])]
