"""Files elsewhere: memory, file:// and a web server give the same documents as a folder of this machine."""

import bz2
import functools
import gzip
import lzma
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from headwater.core.errors import InputError, MissingExtraError
from headwater.documents.sources import urls

from .reading import fingerprint, problem_of, run, texts
from .servers import serving

PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
LINES = [orjson.dumps({"text": f"document {number} " + "word " * number}) + b"\n" for number in range(300)]


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    for path in system.find("/"):
        system.rm(path)


@pytest.mark.parametrize("ending", PACK)
def test_every_compression_here_and_elsewhere(tmp_path: Path, memory: Any, ending: str) -> None:
    content = PACK[ending](b"".join(LINES[:150])) + PACK[ending](b"".join(LINES[150:]))  # two members, as of `cat`
    (tmp_path / f"a.jsonl{ending}").write_bytes(content)
    memory.pipe(f"/data/a.jsonl{ending}", content)
    with serving(lambda request: request.give_file(content)) as server:
        places = [str(tmp_path), f"file://{tmp_path}", "memory://data", f"{server.url}/a.jsonl{ending}?key=1"]
        for number, place in enumerate(places):
            source = {"use": "jsonl", "paths": place}
            _, found, _ = run(tmp_path / f"out{number}", source, shard_bytes=20_000)
            assert texts(found) == [orjson.loads(line)["text"] for line in LINES], place


@pytest.mark.parametrize("ending", [".bz2", ".xz"])
def test_cut_off_files_are_named(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"a.jsonl{ending}").write_bytes(PACK[ending](b"".join(LINES))[:-9])
    (tmp_path / "b.jsonl").write_text('{"text": "b"}')
    _, found, lost = run(tmp_path / "out", {"use": "jsonl", "paths": str(tmp_path)})
    assert texts(found)[-1] == "b"
    assert [row["rule"] for row in lost] == ["damaged_file"]
    assert "cannot be read to its end" in lost[0]["detail"]


def test_folders_patterns_and_urls_of_files(tmp_path: Path, memory: Any) -> None:
    for name in ("b.jsonl", "sub/a.jsonl.gz", "sub/c.txt", ".hidden.jsonl", "sub/.d/e.jsonl"):
        memory.pipe(f"/in/{name}", PACK[".gz" if name.endswith("gz") else ""](orjson.dumps({"text": name})))
    for paths, expected in {
        "memory://in": ["b.jsonl", "sub/a.jsonl.gz"],
        "memory://in/*.jsonl": [".hidden.jsonl", "b.jsonl"],
        "memory://in/**/a*": ["sub/a.jsonl.gz"],
        "memory://in/b.jsonl": ["b.jsonl"],
    }.items():
        _, found, _ = run(tmp_path / paths.replace("/", "_"), {"use": "jsonl", "paths": paths})
        assert texts(found) == expected, paths
    assert found[0]["url"] == "memory://in/b.jsonl"
    nothing = {"memory://in/x*": "no file fits this pattern", "memory://out": "no such file", "s33://x/y": "nothing is"}
    for paths, problem in nothing.items():
        assert problem in problem_of(tmp_path, {"use": "jsonl", "paths": paths})
    assert "holds no .parquet" in problem_of(tmp_path, {"use": "parquet", "paths": "memory://in"})


def test_tables_elsewhere(tmp_path: Path, memory: Any) -> None:
    table = pa.table({"text": [f"document {number}" * 20 for number in range(2000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    for use in ("parquet", "arrow"):
        content = (tmp_path / f"a.{use}").read_bytes()
        memory.pipe(f"/t/a.{use}", content)
        with serving(lambda request, content=content: request.give_file(content)) as server:
            for place in ("memory://t", f"{server.url}/a.{use}"):
                source = {"use": use, "paths": place}
                _, found, _ = run(tmp_path / f"{use}{len(place)}", source, shard_bytes=5000)
                assert texts(found) == table["text"].to_pylist()
            assert use == "arrow" or any("Range" in headers for _, _, headers in server.seen)


def test_a_web_server_without_ranges(tmp_path: Path) -> None:
    content = b"".join(LINES)
    with serving(lambda request: request.give_file(content, ranges=False)) as server:
        url = f"{server.url}/a.jsonl"
        assert not urls.has_ranges(url)
        _, found, _ = run(tmp_path / "out", {"use": "jsonl", "paths": url}, shard_bytes=5000)
        assert len(found) == len(LINES)  # read once from the top, not cut
        _, found, _ = run(tmp_path / "text", {"use": "text", "paths": url})
        assert texts(found) == [content.decode()]  # whole, although a server gives it in pieces
    pq.write_table(pa.table({"text": ["x" * 99] * 99}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    with serving(lambda request: request.give_file(content, ranges=False)) as server:
        problem = problem_of(tmp_path, {"use": "parquet", "paths": f"{server.url}/a.parquet"})
        assert "does not give parts of files" in problem


def test_large_lines_are_cut_at_the_same_places_elsewhere(tmp_path: Path) -> None:
    lines = [orjson.dumps({"text": f"{number} " + "é" * 30_000}) for number in range(60)]
    content = b"\n".join(lines)
    with serving(lambda request: request.give_file(content)) as server:
        source = {"use": "jsonl", "paths": f"{server.url}/a.jsonl"}
        _, found, _ = run(tmp_path / "out", source, shard_bytes=1 << 20)
        assert texts(found) == [orjson.loads(line)["text"] for line in lines]
        ranges = {headers["Range"] for _, _, headers in server.seen if "Range" in headers}
        assert len(ranges) > 3  # read in parts


def test_a_server_that_ends_too_soon(tmp_path: Path) -> None:
    def answer(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(10**6))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(b"".join(LINES)[:5000])

    with serving(answer) as server:
        problem = problem_of(tmp_path, {"use": "jsonl", "paths": f"{server.url}/a.jsonl"})
        assert "cannot be read" in problem


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_server_that_refuses(tmp_path: Path, status: int) -> None:
    with serving(lambda request: request.give(status)) as server:
        problem = problem_of(tmp_path, {"use": "jsonl", "paths": f"{server.url}/a.jsonl"})
        assert f"{server.url}/a.jsonl: " in problem
        assert str(status) in problem or "no such file" in problem


def listing(folder: Path) -> ThreadingHTTPServer:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    return ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))


def test_a_folder_of_a_web_server(tmp_path: Path) -> None:
    for name in ("data/b.jsonl", "data/sub/a.jsonl", "data/c.txt", "other/d.jsonl"):
        (tmp_path / "www" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "www" / name).write_bytes(orjson.dumps({"text": name}))
    with listing(tmp_path / "www") as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/data"
        _, found, _ = run(tmp_path / "out", {"use": "jsonl", "paths": f"{url}/"})
        assert texts(found) == ["data/b.jsonl", "data/sub/a.jsonl"]
        _, found, _ = run(tmp_path / "some", {"use": "jsonl", "paths": f"{url}/*.jsonl"})
        assert texts(found) == ["data/b.jsonl"]
        (tmp_path / "www" / "data" / "loop").symlink_to(tmp_path / "www" / "data")
        problem = problem_of(tmp_path, {"use": "jsonl", "paths": f"{url}/"})
        assert "more than 32 folders inside each other" in problem
        server.shutdown()


def test_fingerprints_follow_the_content(tmp_path: Path, memory: Any) -> None:
    memory.pipe("/f/a.jsonl", LINES[0])
    source = {"use": "jsonl", "paths": "memory://f"}
    first = fingerprint(source)
    assert first[0][:3] == ["memory:///f/a.jsonl", len(LINES[0]), "sha256"]
    memory.pipe("/f/a.jsonl", LINES[1])
    urls._content_hash.cache_clear()
    assert fingerprint(source) != first
    with serving(lambda request: request.give_file(LINES[0], ETag='"v1"')) as server:
        url = f"{server.url}/a.jsonl"
        assert fingerprint({"use": "jsonl", "paths": url}) == [[url, len(LINES[0]), "ETag", '"v1"']]
    local = fingerprint({"use": "jsonl", "paths": _written(tmp_path, LINES[0])})
    assert local == fingerprint({"use": "jsonl", "paths": f"file://{tmp_path}/a.jsonl"})


def _written(folder: Path, content: bytes) -> str:
    (folder / "a.jsonl").write_bytes(content)
    return str(folder / "a.jsonl")


@pytest.mark.parametrize(
    ("url", "module", "package"), [("s3://b/x.jsonl", "s3fs", "s3fs"), ("gs://b/x.jsonl", "gcsfs", "gcsfs")]
)
def test_a_missing_driver_names_its_package(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, package: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=f"needs the package {package}") as caught:
        urls.find(url, (".jsonl",))
    assert caught.value.hint == f"pip install {package}"


def test_a_missing_driver_for_the_web(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(MissingExtraError, match="needs the package aiohttp"):
        urls.find("http://127.0.0.1/a.jsonl", (".jsonl",))


def test_an_unreachable_server() -> None:
    with pytest.raises(InputError, match=r"http://127.0.0.1:9/a.jsonl: "):
        urls.find("http://127.0.0.1:9/a.jsonl", (".jsonl",))


def test_a_server_that_is_gone_when_all_is_read_spoils_nothing(tmp_path: Path) -> None:
    content = b"".join(LINES)
    served = []

    def answer(request: Any) -> None:
        if len(served) > 1 and request.command == "HEAD":
            request.give(503)
            return
        if request.command == "GET" and "Range" not in request.headers:
            served.extend("xx")
        request.give_file(content, ranges=False)

    with serving(answer) as server:
        counts, found, _ = run(tmp_path / "out", {"use": "jsonl", "paths": f"{server.url}/a.jsonl.", "language": "en"})
    assert len(found) == len(LINES)
    assert counts["sources"]["web"]["input_bytes"] == len(content)
    assert counts["sources"]["web"]["languages"] == {"en": len(LINES)}
