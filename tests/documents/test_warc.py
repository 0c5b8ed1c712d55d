"""Web archives: every record is a document or counted with its reason; damage is named and never the end of a run."""

from __future__ import annotations

import gzip
import io
import json
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from headwater.core.errors import EmptyResultError, InputError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import read_batches, shards_in
from headwater.documents.read import Read, read
from headwater.documents.sources.archives import Damage, records
from headwater.documents.sources.bodies import decoded
from headwater.documents.sources.extract import PageError

from .archive_files import ARTICLE, arc, html, http, pages, warc

EACH: dict[str, Callable[[list[bytes]], bytes]] = {
    ".warc": b"".join,
    ".warc.gz": lambda found: b"".join(map(gzip.compress, found)),
    ".warc.zst": lambda found: b"".join(map(zstandard.compress, found)),
    ".one.warc.gz": lambda found: gzip.compress(b"".join(found)),
}


def run(folder: Path, content: bytes | Path, name: str = "a.warc.gz", **more: Any) -> tuple[dict[str, Any], list, list]:
    """Read one archive: counts, documents, dropped documents."""
    folder.mkdir(exist_ok=True)
    path = content if isinstance(content, Path) else folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    bad = more.pop("max_bad_fraction", 1.0)
    source = {"use": "warc", "paths": str(path), **more}
    read_settings = Read.model_validate({"sources": {"web": source}, "max_bad_fraction": bad})
    out = Workspace(folder / "out", Machine(workers=1))
    counts = read(read_settings, {}, out)
    return counts, rows(folder / "out" / "documents"), rows(folder / "out" / "dropped")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for shard in shards_in(folder) for batch in read_batches(shard) for row in batch.to_pylist()]


def skipped(counts: dict[str, Any]) -> dict[str, int]:
    return counts["sources"]["web"].get("skipped", {})


def dropped(counts: dict[str, Any]) -> dict[str, int]:
    return {rule: count["documents"] for rule, count in counts["dropped"].items()}


# ----------------------------------------------------------------------------------------------------- good archives


@pytest.mark.parametrize("ending", list(EACH))
def test_pages_become_documents_in_order(tmp_path: Path, ending: str) -> None:
    counts, found, lost = run(tmp_path, EACH[ending](pages(25)), "a" + ending)
    assert [row["url"] for row in found] == [f"http://example.org/{n}" for n in range(25)]
    assert [row["text"].split(".")[0] for row in found] == [f"Page number {n}" for n in range(25)]
    assert (counts["documents_in"], counts["documents_out"], lost) == (25, 25, [])
    first = found[0]
    assert (first["date"], first["language"], first["licence"]) == ("2024-02-03T04:05:06Z", None, None)
    assert json.loads(first["meta"]) == {
        "content_type": "text/html",
        "record_id": f"urn:uuid:{0:032d}",
        "title": "A title",
        "declared_language": "en",
    }


def test_arc_files_hold_the_same_documents(tmp_path: Path) -> None:
    blocks = [http(html(b"Page %d. " % n + ARTICLE * 3)) for n in range(9)] + [http(b"gone", status=b"404 Not Found")]
    of_arc = run(tmp_path / "arc", arc(blocks), "a.arc.gz")
    plain = run(tmp_path / "plain", gzip.decompress(arc(blocks)), "a.arc")
    of_warc = run(tmp_path / "warc", b"".join(warc(block, n) for n, block in enumerate(blocks)), "a.warc")
    seen = [[(row["url"], row["text"]) for row in found] for _, found, _ in (of_arc, plain, of_warc)]
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 9
    assert skipped(of_arc[0]) == {"record_warcinfo": 1, "status_404": 1}


def test_every_other_record_is_counted_with_its_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = [
        warc(b"software: x", 1, b"warcinfo"),
        warc(b"GET / HTTP/1.1\r\n\r\n", 2, b"request"),
        warc(http(b""), 3, b"revisit"),
        warc(http(b"x", b"Content-Type: image/png"), 4),
        warc(http(b"x", status=b"301 Moved"), 5),
        warc(http(b"<html></html>"), 6),
        warc(http(b"x" * 3000, b"Content-Type: text/plain"), 7),
        warc(http(html()), 8),
        warc(http(b"user-agent: *", b"Content-Type: text/plain"), 9),
        warc(http(html(), b"Server: x"), 10),  # no content type, but HTML
        warc(http(b"\x89PNG", b"Server: x"), 11),
    ]
    with caplog.at_level("INFO", "headwater"):
        counts, documents, lost = run(tmp_path, b"".join(found), "a.warc", max_page_bytes=2000, max_bad_fraction=0)
    assert "web: 5 documents and 6 other records: content_type 2, record_request 1, record_revisit 1" in caplog.text
    assert [row["url"][-2:].strip("/") for row in documents] == ["8", "9", "10"]
    assert skipped(counts) == {
        "content_type": 2, "record_request": 1, "record_revisit": 1, "record_warcinfo": 1, "status_301": 1
    }  # fmt: skip
    assert dropped(counts) == {"empty": 1, "too_large": 1}
    large = next(row for row in lost if row["rule"] == "too_large")
    assert (large["url"], large["value"], large["threshold"]) == ("http://example.org/7", 3000, 2000)


def test_settings_choose_statuses_content_types_and_tier(tmp_path: Path) -> None:
    found = warc(http(html(), status=b"404 Not Found"), 1) + warc(http(b"a,b", b"Content-Type: text/csv"), 2)
    chosen: dict[str, Any] = {"statuses": [200, 404], "content_types": ["text/csv", "text/html"], "licence": "CC0-1.0"}
    for tier in ("fast", "balanced", "precise"):
        _, documents, _ = run(tmp_path / tier, found, "a.warc", extract=tier, **chosen)
        assert len(documents) == 2
        assert documents[1]["text"] == "a,b"
        assert {row["licence"] for row in documents} == {"CC0-1.0"}
    with pytest.raises(ValidationError):
        run(tmp_path, found, extract="best")


def test_texts_of_wet_files_are_taken_as_they_are(tmp_path: Path) -> None:
    text = "Zeile <b>eins</b>\nпривет".encode()
    counts, documents, _ = run(tmp_path, gzip.compress(warc(text, 1, b"conversion")), "a.warc.wet.gz")
    assert [row["text"] for row in documents] == [text.decode()]
    assert counts["documents_out"] == 1


def test_the_recipes_of_the_guide_are_valid() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "web.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    kinds = []
    for block in blocks:
        found = Read.model_validate(YAML(typ="safe", pure=True).load(block)["read"])
        kinds += [source.use for source in found.sources.values()]
    assert kinds == ["warc", "common_crawl", "common_crawl", "wikipedia"]


def test_archives_of_a_folder_are_found(tmp_path: Path) -> None:
    for number, name in enumerate(["x/b.warc.gz", "a.warc", "c.warc.wet.gz", "d.arc.gz", "e.txt", "f.warc.zst"]):
        content = warc(http(html(b"File %d. " % number + ARTICLE * 3)), number)
        if name.startswith("c"):
            content = warc(b"text of c", number, b"conversion")
        packed = {"gz": gzip.compress, "st": zstandard.compress}.get(name[-2:], bytes)(content)
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(arc([http(html())]) if name.startswith("d") else packed)
    _, documents, _ = run(tmp_path, tmp_path / "in")
    assert len(documents) == 5


def test_the_number_of_workers_does_not_matter(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.warc.gz").write_bytes(EACH[".warc.gz"](pages(5 + number)))
    source = {"use": "warc", "paths": str(tmp_path)}
    found = []
    for workers in (1, 2):
        out = Workspace(tmp_path / f"out{workers}", Machine(workers=workers))
        read(Read.model_validate({"sources": {"web": source}, "shard_bytes": 2000}), {}, out)
        found.append([(s.name, s.read_bytes()) for s in shards_in(out.folder / "documents")])
    assert found[0] == found[1]
    assert len(found[0]) > 3


# ------------------------------------------------------------------------------------------------------------ bodies

ENCODED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.compress,
    "identity": bytes,
    "unknown": bytes,
}


def chunked(body: bytes, size: int = 100) -> bytes:
    pieces = [body[place : place + size] for place in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("name", list(ENCODED))
@pytest.mark.parametrize("in_chunks", [False, True])
def test_encoded_bodies_are_decoded(tmp_path: Path, name: str, in_chunks: bool) -> None:
    body = ENCODED[name](html())
    headers = [b"Content-Type: text/html", b"Content-Encoding: " + name.encode()]
    if in_chunks:
        body = chunked(body)
        headers.append(b"Transfer-Encoding: chunked")
    _, documents, _ = run(tmp_path, warc(http(body, *headers)), "a.warc")
    assert ARTICLE.decode().strip() in documents[0]["text"]


def test_brotli_and_raw_deflate() -> None:
    packed = bytes.fromhex("0b058068656c6c6f20776f726c6403")  # `hello world`, from the brotli program
    assert decoded(packed, {"content-encoding": "br"}, 100) == (b"hello world", False)
    deflate = zlib.compressobj(wbits=-15)
    raw = deflate.compress(b"hello") + deflate.flush()
    assert decoded(raw, {"content-encoding": "deflate"}, 100) == (b"hello", False)
    twice = gzip.compress(zlib.compress(b"hello"))
    assert decoded(twice, {"content-encoding": "deflate, gzip"}, 100) == (b"hello", False)


def test_a_header_that_is_not_true_any_more_is_passed_over() -> None:
    headers = {"content-encoding": "gzip", "transfer-encoding": "chunked"}
    assert decoded(b"<html>decoded by the crawler", headers, 100) == (b"<html>decoded by the crawler", False)


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
def test_a_decompression_bomb_is_refused_before_it_grows(name: str) -> None:
    bomb = ENCODED[name](bytes(200 << 20))
    began = time.process_time()
    with pytest.raises(PageError) as caught:
        decoded(bomb, {"content-encoding": name}, 1 << 20)
    assert caught.value.rule == "too_large"
    assert time.process_time() - began < 1


def test_bodies_that_are_cut_off_or_broken_are_kept_aside(tmp_path: Path) -> None:
    kinds = [b"Content-Type: text/html", b"Content-Encoding: gzip"]
    packed = gzip.compress(html())
    found = [
        warc(http(packed[:-40], *kinds), 1),
        warc(http(packed[:30] + b"\xff" * 20 + packed[50:], *kinds), 2),
        warc(http(chunked(html())[:-90], kinds[0], b"Transfer-Encoding: chunked"), 3),
        warc(http(packed[:-20], *kinds), 4, b"response", b"WARC-Truncated: length"),  # the crawler says so: kept
        warc(http(packed, *kinds), 5),
    ]
    counts, documents, lost = run(tmp_path, b"".join(found), "a.warc")
    assert [row["url"][-1] for row in documents] == ["4", "5"]
    assert dropped(counts) == {"malformed_body": 1, "truncated_body": 2}
    assert {row["url"][-1] for row in lost} == {"1", "2", "3"}


def test_pages_that_object_to_training_are_left_out(tmp_path: Path) -> None:
    kind = b"Content-Type: text/html"
    bodies = [
        http(html()),
        http(html(), kind, b"TDM-Reservation: 1"),
        http(html().replace(b"<head>", b"<head><meta name=tdm-reservation content=1>")),
        http(html(), kind, b"X-Robots-Tag: noai, noimageai"),
    ]
    content = b"".join(warc(body, place) for place, body in enumerate(bodies))
    counts, documents, lost = run(tmp_path, content, "a.warc")
    assert len(documents) == 1
    assert dropped(counts) == {"opted_out": 3}
    assert not any(row["text"] for row in lost)
    kept = run(tmp_path / "kept", content, "a.warc", opted_out="keep")[1]
    assert len(kept) == 4


# ---------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("damage", "rule", "left"),
    [
        (lambda p: EACH[".warc"](p)[:-100], "truncated_record", 5),
        (lambda p: EACH[".warc.gz"](p)[:-60], "truncated_record", 5),
        (lambda p: EACH[".warc.gz"](p[:5]) + gzip.compress(p[5])[:9], "truncated_archive", 5),
        (lambda p: EACH[".one.warc.gz"](p)[:-30], "truncated_record", 4),
        (lambda p: EACH[".warc.zst"](p)[:-60], "truncated_record", 5),
        (lambda p: b"".join(p[:2]) + p[2].replace(b"Content-Length: ", b"Content-Length: x") + b"".join(p[3:]), "malformed_record", 5),
        (lambda p: b"".join(p[:2]) + p[2].replace(b"HTTP/1.1 200", b"HTPT/1.1 200") + b"".join(p[3:]), "malformed_record", 5),
        (lambda p: b"".join(p[:2]) + warc(http(b"x", b"A: " + b"y" * 200_000)) + b"".join(p[3:]), "malformed_record", 5),
        (lambda p: arc([http(html())] * 6)[:-50], "truncated_record", 4),
    ],
    ids=["plain", "gz", "gz header", "one gz", "zst", "length", "no http", "long header", "arc"],
)  # fmt: skip
def test_damage_is_named_and_the_rest_is_read(
    tmp_path: Path, damage: Callable[[list[bytes]], bytes], rule: str, left: int
) -> None:
    counts, documents, lost = run(tmp_path, damage(pages(6)), "a.warc")
    assert len(documents) >= left
    assert dropped(counts).get(rule) or dropped(counts).get("damaged_archive")
    assert all("a.warc" in row["detail"] for row in lost)


def test_reading_goes_on_behind_a_damaged_member(tmp_path: Path) -> None:
    members = [gzip.compress(page) for page in pages(8)]
    broken = bytearray(members[3])
    broken[30:60] = b"\xaa" * 30
    content = b"".join([*members[:3], bytes(broken), *members[4:]])
    counts, documents, _ = run(tmp_path, content)
    assert {row["url"][-1] for row in documents} >= {"0", "1", "2", "4", "5", "6", "7"}
    assert sum(dropped(counts).values()) >= 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.warc", b"hello world\n" * 1000),
        ("a.warc.gz", gzip.compress(b"hello world\n" * 1000)),
        ("a.warc.gz", b"PK\x03\x04" + bytes(2000)),
        ("a.warc.gz", b"\x1f\x8b\x08\x00"),
        ("a.warc.zst", b"\x28\xb5\x2f\xfd" + bytes(100)),
        ("a.warc", bytes(100_000)),
        ("a.arc", b"filedesc://x 0.0.0.0 2024 text/plain"),
        ("a.warc", b"x" * (30 << 20)),
    ],
)
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "good.warc").write_bytes(b"".join(pages(3)))
    (tmp_path / name).write_bytes(content)
    counts, documents, lost = run(tmp_path / "run", tmp_path)
    assert len(documents) == 3
    assert [
        row["rule"] in ("not_an_archive", "damaged_archive", "malformed_record", "truncated_archive") for row in lost
    ]
    assert sum(dropped(counts).values()) >= 1
    assert name in lost[0]["detail"]


def test_too_much_damage_stops_the_run(tmp_path: Path) -> None:
    broken = [page.replace(b"Content-Length: ", b"Content-Length: x") for page in pages(3)]
    with pytest.raises(InputError, match=r"3 of 13 records are bad.*Content-Length"):
        run(tmp_path, b"".join([*pages(10), *broken]), "a.warc", max_bad_fraction=0.1)


def test_empty_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.warc.gz").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        run(tmp_path, tmp_path / "a.warc.gz")
    with pytest.raises(InputError, match="no such file"):
        run(tmp_path, tmp_path / "b.warc.gz")
    with pytest.raises(EmptyResultError, match="1 left out: record_warcinfo"):
        run(tmp_path, warc(b"x", 1, b"warcinfo"), "c.warc")


def test_bombs_take_bounded_time_and_memory(tmp_path: Path) -> None:
    large = warc(http(bytes(150 << 20)), 1)
    deep = warc(http(b"<div>" * 100_000), 2)
    line = warc(http(b"x" * (100 << 20), b"Content-Type: text/plain"), 3)
    lies = warc(http(html()), 5, length=b"99999999999999")
    content = b"".join(gzip.compress(r, 1) for r in (large, deep, line, pages(1)[0], lies))
    del large, line
    began = time.process_time()
    counts, documents, _ = run(tmp_path, content)
    assert len(documents) == 1
    assert dropped(counts)["too_large"] >= 2
    assert dropped(counts)["too_deep"] == 1
    assert time.process_time() - began < 10


SMALL = [
    warc(http(html(b"One. " + ARTICLE)), 1),
    warc(b"WET text", 2, b"conversion"),
    warc(http(b"", status=b"404 x"), 3),
]
ARCHIVES = {"a.warc": b"".join(SMALL), "a.warc.gz": EACH[".warc.gz"](SMALL), "a.arc.gz": arc([http(html())] * 2)}
ARCHIVES |= {"a.arc": gzip.decompress(ARCHIVES["a.arc.gz"]), "a.warc.zst": EACH[".warc.zst"](SMALL)}


@settings(max_examples=250)
@given(data=st.data(), name=st.sampled_from(sorted(ARCHIVES)))
def test_any_damage_is_survived(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str) -> None:
    content = bytearray(ARCHIVES[name])
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 50))] = data.draw(st.binary(max_size=20))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(bytes(content))
    began = time.process_time()
    for record in records(str(path)):
        if not isinstance(record, Damage):
            try:
                decoded(record.read(min(record.length, 1 << 16)), record.headers, 1 << 16)
            except (OSError, PageError):
                continue
    assert time.process_time() - began < 5


@settings(max_examples=60)
@given(data=st.data(), name=st.sampled_from(sorted(ARCHIVES)))
def test_any_damage_ends_in_documents_or_a_clear_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    content = bytearray(ARCHIVES[name])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 50))] = data.draw(st.binary(min_size=1, max_size=20))
    try:
        counts, documents, _ = run(tmp_path_factory.mktemp("fuzz"), bytes(content), name)
    except (EmptyResultError, InputError):
        return
    assert counts["documents_out"] == len(documents)
    assert all("\0" not in row["text"] for row in documents)


# ------------------------------------------------------------------------------------------------------- real archives


def test_the_twins_of_one_crawl_hold_the_same_documents(shared_data: Path, tmp_path: Path) -> None:
    of_warc, of_arc = (
        run(tmp_path / kind, shared_data / "web" / f"aut-example.{kind}.gz", extract="fast") for kind in ("warc", "arc")
    )
    texts = [[(row["url"], row["date"], row["text"]) for row in found] for _, found, _ in (of_warc, of_arc)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 128
    http_counts = {"content_type": 84, "status_301": 2, "status_302": 5, "status_404": 40}
    assert skipped(of_arc[0]) == http_counts | {"record_resource": 38, "record_warcinfo": 1}
    assert skipped(of_warc[0]) == http_counts | {
        "not_http": 38, "record_metadata": 261, "record_request": 261, "record_warcinfo": 1
    }  # fmt: skip
    assert of_warc[0]["documents_in"] + sum(http_counts.values()) + 38 == 299  # the responses that warcio counts


@pytest.mark.parametrize(
    ("name", "documents"),
    [
        ("resiliparse-clueweb-quirk.warc.gz", 29),
        ("resiliparse-warcfile.warc.gz", 16),
        ("warcio-example.warc.gz", 1),
        ("aut-issue-493.warc", 3),
        ("aut-issue-514.warc", 1),
    ],
)
def test_real_archives(shared_data: Path, tmp_path: Path, name: str, documents: int) -> None:
    _, found, lost = run(tmp_path, shared_data / "web" / name, max_bad_fraction=0)
    assert len(found) == documents
    assert all(row["rule"] == "empty" for row in lost)
    if "clueweb" in name:
        japanese = [row for row in found if any("\u3040" < character < "\u30ff" for character in row["text"])]
        assert len(japanese) > 25
        assert sum(row["text"].count("\N{REPLACEMENT CHARACTER}") for row in found) < 20


def test_another_reader_finds_the_same_records(shared_data: Path) -> None:
    from warcio.archiveiterator import ArchiveIterator

    for name in ("aut-example.warc.gz", "resiliparse-warcfile.warc.gz", "aut-issue-493.warc", "aut-example.arc.gz"):
        path = shared_data / "web" / name
        theirs: Counter[Any] = Counter()
        with path.open("rb") as file:
            for record in ArchiveIterator(file, arc2warc=True):
                kind, uri = record.rec_type, record.rec_headers.get_header("WARC-Target-URI")
                if kind == "response" and (uri or "").startswith("http"):
                    theirs[uri, int(record.http_headers.get_statuscode()), zlib.crc32(record.raw_stream.read())] += 1
        ours: Counter[Any] = Counter()
        for record in records(str(path)):
            assert not isinstance(record, Damage)
            if record.kind == "response" and (record.url or "").startswith("http"):
                content = io.BytesIO()
                while block := record.read(1 << 16):
                    content.write(block)
                ours[record.url, record.status, zlib.crc32(content.getvalue())] += 1
        assert ours == theirs
        assert sum(ours.values()) >= 10
