"""Common Crawl: the same files of a dump every time, from a copy or from a server that loses connections."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import read_batches, shards_in
from headwater.documents.read import Read, read
from headwater.documents.sources import remote
from headwater.documents.sources.common_crawl import CommonCrawl, _listing
from headwater.documents.sources.remote import RemoteFile

from .archive_files import ARTICLE, html, warc
from .archive_files import http as response

DUMP = "CC-MAIN-2024-10"
COUNT = 12


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a small dump."""
    base = tmp_path_factory.mktemp("mirror")
    for kind in ("warc", "wet"):
        names = []
        for number in range(COUNT):
            name = f"crawl-data/{DUMP}/segments/1.2/{kind}/{number:05d}.warc.{'wet.' if kind == 'wet' else ''}gz"
            text = b"Text of file %d. " % number + ARTICLE * 4
            found = [warc(text + b"%d" % n, 9 * number + n, b"conversion") for n in range(3)]
            if kind == "warc":
                found = [warc(response(html(text + b"%d" % n)), 9 * number + n) for n in range(3)]
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes(b"".join(map(gzip.compress, found)))
            names.append(name)
        (base / f"crawl-data/{DUMP}/{kind}.paths.gz").write_bytes(gzip.compress("\n".join([*names, ""]).encode()))
    return base


class Handler(http.server.SimpleHTTPRequestHandler):
    """A file server that behaves as badly as `trouble` says."""

    trouble = ""
    asked = 0

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        Handler.asked += 1
        odd = Handler.asked % 2
        if (Handler.trouble == "busy" and odd) or Handler.trouble == "down":
            self.send_error(503, "Slow Down")
            return
        if Handler.trouble in ("breaks", "breaks, knows ranges"):
            content = Path(self.translate_path(self.path)).read_bytes()
            start = 0
            if self.headers["Range"] and "ranges" in Handler.trouble:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + (len(content) - start) // 2 if odd else len(content)
            self.wfile.write(content[start:end])
            self.close_connection = True
            return
        super().do_GET()


@pytest.fixture
def server(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.001)
    _listing.cache_clear()
    Handler.trouble, Handler.asked = "", 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(mirror))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
    _listing.cache_clear()


def crawl(base: str | Path, **more: Any) -> CommonCrawl:
    given = {"use": "common_crawl", "dump": DUMP, "base": str(base)} | more
    return CommonCrawl.model_validate(given if "fraction" in more else {"files": 3} | given)


def run(folder: Path, source: CommonCrawl, workers: int = 1) -> list[dict[str, Any]]:
    out = Workspace(folder, Machine(workers=workers))
    read(
        Read.model_validate({"sources": {"cc": source.model_dump(exclude_unset=True)}, "max_bad_fraction": 0}), {}, out
    )
    return [row for s in shards_in(folder / "documents") for batch in read_batches(s) for row in batch.to_pylist()]


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_choice_of_files_is_the_same_every_time(mirror: Path) -> None:
    few, more = crawl(mirror).chosen(), crawl(mirror, files=7).chosen()
    assert few == crawl(mirror).chosen() == sorted(few)
    assert len(set(few)) == 3
    assert set(few) < set(more)
    assert set(more) < set(crawl(mirror, files=COUNT).chosen())
    assert crawl(mirror, fraction=0.25).chosen() == few
    assert len(crawl(mirror, fraction=0.0001).chosen()) == 1
    others = {tuple(crawl(mirror, seed=seed).chosen()) for seed in range(10)}
    assert len(others) > 5
    assert all("/wet/" in path for path in crawl(mirror, kind="wet").chosen())


@pytest.mark.parametrize("kind", ["warc", "wet"])
@pytest.mark.parametrize("trouble", ["", "busy", "breaks", "breaks, knows ranges"])
def test_a_server_and_a_copy_give_the_same_documents(
    mirror: Path, server: str, tmp_path: Path, kind: str, trouble: str
) -> None:
    of_copy = run(tmp_path / "copy", crawl(mirror, kind=kind))
    Handler.trouble = trouble
    of_server = run(tmp_path / "server", crawl(server, kind=kind))
    assert of_server == of_copy
    assert len(of_copy) == 9
    assert Handler.asked > (4 if trouble else 3)


def test_the_number_of_workers_does_not_matter(mirror: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "1", crawl(mirror)) == run(tmp_path / "2", crawl(mirror), workers=2)


def test_the_fingerprint_tells_files_and_changed_content(mirror: Path, server: str, tmp_path: Path) -> None:
    of_copy = crawl(mirror).fingerprint(hash_file)
    assert [entry[0] for entry in of_copy] == crawl(mirror).chosen()
    assert all(size > 0 and len(digest) == 64 for _, size, digest in of_copy)
    assert crawl(server).fingerprint(hash_file) == [[path] for path in crawl(mirror).chosen()]
    assert crawl(mirror, seed=1).fingerprint(hash_file) != of_copy
    assert crawl(mirror).input_bytes() == sum(size for _, size, _ in of_copy)
    assert crawl(server).input_bytes() == 3 * (1000 << 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dump": "CC-MAIN-2024-11"}, r"no dump 'CC-MAIN-2024-11'; did you mean 'CC-MAIN-2024-10'\?"),
        ({"base": "/no/such/place"}, r"has no folder `crawl-data`"),
        ({"files": COUNT + 1}, r"lists 12 files, fewer than `files: 13`"),
    ],
)
def test_what_a_copy_does_not_have_is_named(mirror: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        crawl(**{"base": mirror} | change).parts(1)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not gzip", gzip.compress(b""), gzip.compress(b"a\n" * 99)[:-9], gzip.compress(b"../../etc/passwd\n/etc/passwd")])  # fmt: skip
def test_a_damaged_listing_is_named(tmp_path: Path, content: bytes) -> None:
    listing = tmp_path / "crawl-data" / DUMP / "warc.paths.gz"
    listing.parent.mkdir(parents=True)
    listing.write_bytes(content)
    with pytest.raises(InputError, match=r"paths\.gz: is no"):
        crawl(tmp_path, files=1).chosen()


def test_a_file_that_the_copy_lacks_is_named(tmp_path: Path) -> None:
    listing = tmp_path / "crawl-data" / DUMP / "warc.paths.gz"
    listing.parent.mkdir(parents=True)
    listing.write_bytes(gzip.compress(f"crawl-data/{DUMP}/segments/1/warc/0.warc.gz\n".encode()))
    for action in (lambda s: s.parts(1), lambda s: s.fingerprint(hash_file), lambda s: s.input_bytes()):
        with pytest.raises(InputError, match="there is no folder"):
            action(crawl(tmp_path, files=1))


def test_a_server_that_does_not_answer_is_named(server: str) -> None:
    with pytest.raises(InputError, match="answers 404"):
        crawl(server, dump="CC-MAIN-2020-50").chosen()
    assert Handler.asked == 1  # asking again would change nothing
    Handler.trouble = "down"
    with pytest.raises(InputError, match=r"answers 503 \(Slow Down\)"):
        crawl(server).chosen()
    assert Handler.asked == 1 + remote.ATTEMPTS
    with pytest.raises(InputError, match="refused"):
        crawl("http://127.0.0.1:9").chosen()


def test_a_connection_that_keeps_breaking_ends_in_a_clear_line(
    mirror: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = crawl(server)
    source.chosen()
    Handler.trouble = "down"
    with pytest.raises(InputError, match=r"segments.*answers 503.*source 'cc'"):
        run(tmp_path, source)


def test_reading_in_pieces_is_reading_whole(mirror: Path, server: str) -> None:
    path = crawl(mirror).chosen()[0]
    content = (mirror / path).read_bytes()
    Handler.trouble = "breaks, knows ranges"
    for size in (1, 7, 100, 1 << 20):
        pieces = []
        with RemoteFile(f"{server}/{path}") as file:
            while piece := file.read(size):
                pieces.append(piece)
                assert file.tell() == sum(map(len, pieces))
        assert b"".join(pieces) == content


def test_settings_that_say_nothing_or_too_much_are_refused() -> None:
    for change in (
        {"files": None},
        {"files": 1, "fraction": 0.5},
        {"dump": "2024-10"},
        {"dump": "CC-MAIN-../x"},
        {"kind": "wat"},
        {"kind": "wet", "extract": "fast"},
    ):
        with pytest.raises(ValidationError):
            CommonCrawl.model_validate({"use": "common_crawl", "dump": DUMP, "files": 1} | change)
