"""Pages of a server of this machine: what is read, what is refused and why, and how politely it is asked for."""

import gzip
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from headwater.core.errors import EmptyResultError, MissingExtraError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.read import Read, read

from .reading import fingerprint, problem_of, rows, run, texts
from .servers import serving

pytest.importorskip("protego", reason="needs headwater[web]")
pytest.importorskip("httpx", reason="needs headwater[web]")
pytest.importorskip("resiliparse", reason="needs headwater[web]")

from headwater.documents.sources import web_client

WORDS = "The river rises in the hills and runs past the mill to the sea, as it has done for many thousands of years. "


def page(name: str, *links: str, lang: str = "en", head: str = "") -> bytes:
    anchors = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
    body = f"<article><h1>{name}</h1><p>{name}: {WORDS * 3}</p><p>{WORDS * 2}</p></article><ul>{anchors}</ul>"
    return f'<!doctype html><html lang="{lang}"><head><title>{name}</title>{head}</head><body>{body}</body></html>'.encode()


class Site:
    """What a server has: path -> body, or a function of the request."""

    def __init__(self, pages: dict[str, Any], robots: str | int | None = None) -> None:
        self.pages, self.robots = pages, robots
        self.times: list[float] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def __call__(self, request: Any) -> None:
        with self.lock:
            self.times.append(time.monotonic())
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            self.answer(request)
        finally:
            with self.lock:
                self.at_once -= 1

    def answer(self, request: Any) -> None:
        found = self.pages.get(request.path)
        if request.path == "/robots.txt":
            if isinstance(self.robots, int):
                request.give(self.robots)
            elif self.robots is not None:
                request.give(200, self.robots.encode(), Content_Type="text/plain")
            else:
                request.give(404)
        elif found is None:
            request.give(404, page("Not found"), Content_Type="text/html")
        elif callable(found):
            found(request)
        else:
            request.give(200, found, Content_Type="text/html; charset=utf-8")


def crawl(server: Any, *paths: str, **more: Any) -> dict[str, Any]:
    urls = [path if "://" in path else server.url + path for path in paths]
    polite = {"contact": "me@example.org", "delay": 0, "timeout": 5, "allow_private": True}
    return {"use": "crawl", "urls": urls, **polite, **more}


def reasons(dropped: list[dict[str, Any]], server: Any) -> dict[str, str]:
    """Path -> rule of the pages that were dropped."""
    return {re.sub(r"^http://[^/]+", "", row["detail"].split(": ")[0]): row["rule"] for row in dropped}


def test_pages_become_documents_with_where_they_are_from(tmp_path: Path) -> None:
    licence = '<link rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">'

    def dated(request: Any) -> None:
        when = "Wed, 01 May 2024 12:00:00 GMT"
        request.give(200, page("Dated", lang="de-AT", head=licence), Content_Type="text/html", Last_Modified=when)

    def plain(request: Any) -> None:
        request.give(200, "Grüße vom Fluss".encode("latin-1"), Content_Type="text/plain; charset=iso-8859-1")

    def packed(request: Any) -> None:
        request.give(200, gzip.compress(page("Packed")), Content_Type="text/html", Content_Encoding="gzip")

    def french(request: Any) -> None:
        body = page("Fran\u00e7ais").decode().encode("cp1252")
        request.give(200, body, Content_Type="text/html; charset=windows-1252")

    site = Site({"/a": page("First"), "/dated": dated, "/plain": plain, "/packed": packed, "/french": french})
    with serving(site) as server:
        source = crawl(server, "/a", "/dated", "/plain", "/packed", "/french#part", licence="CC0-1.0")
        counts, found, dropped = run(tmp_path / "out", source)
    assert not dropped
    first, german, plain_text, zipped, fr = found
    assert first["url"] == f"{server.url}/a"
    assert "First: The river rises in the hills" in first["text"]
    assert (first["licence"], first["language"], first["date"]) == ("CC0-1.0", "en", None)
    assert orjson.loads(first["meta"]) == {"title": "First"}
    assert (german["licence"], german["language"]) == ("CC-BY-SA-4.0", "de")
    assert german["date"] == "2024-05-01T12:00:00+00:00"
    assert plain_text["text"] == "Grüße vom Fluss"
    assert "Packed: The river" in zipped["text"]
    assert "Français: The river" in fr["text"]
    assert fr["url"].endswith("/french")
    assert counts["sources"]["web"]["input_bytes"] > 0
    agents = {headers["User-Agent"] for _, _, headers in server.seen}
    assert agents == {next(iter(agents))}
    assert re.fullmatch(r"headwater/[\d.]+\S* \(\+me@example.org\)", next(iter(agents)))
    assert not (tmp_path / "out" / "cache").exists()


def test_whatever_is_not_read_is_kept_with_the_reason(tmp_path: Path) -> None:
    def to(place: str) -> Any:
        return lambda request: request.give(302, b"", Location=place)

    def bomb(request: Any) -> None:
        body = gzip.compress(bytes(300 << 20))
        request.give(200, body, Content_Type="text/html", Content_Encoding="gzip")

    def endless(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        request.end_headers()
        for _ in range(3000):
            request.wfile.write(b"x" * 65536)

    def short(request: Any) -> None:
        request.give(200, b"abc", Content_Type="text/html", Content_Length="1000")

    site = Site(
        {
            "/good": page("Good"),
            "/gone": lambda request: request.give(410),
            "/error": lambda request: request.give(500, page("Error"), Content_Type="text/html"),
            "/loop": to("/loop2"),
            "/loop2": to("/loop"),
            "/moved": to("/good"),
            "/away": to("ftp://example.org/x"),
            "/secret/a": page("Secret"),
            "/to-secret": to("/secret/a"),
            "/picture": lambda request: request.give(200, b"\x89PNG", Content_Type="image/png"),
            "/bomb": bomb,
            "/endless": endless,
            "/short": short,
            "/empty": b"",
        },
        robots="User-agent: *\nDisallow: /secret/\n",
    )
    paths = ["/good", "/missing", *(path for path in site.pages if path not in ("/good", "/loop2"))]
    with serving(site) as server:
        counts, found, dropped = run(tmp_path / "out", crawl(server, *paths, max_page_bytes="1MB"))
    assert len(found) == 1
    rules = reasons([row for row in dropped if row["rule"] != "empty"], server)
    assert rules == {
        "/missing": "http_status",
        "/gone": "http_status",
        "/error": "http_status",
        "/loop": "redirects",
        "/moved": "same_page",
        "/away": "malformed_url",
        "/secret/a": "robots",
        "/to-secret": "robots",
        "/picture": "content_type",
        "/bomb": "too_large",
        "/endless": "too_large",
        "/short": "unreachable",
    }
    assert counts["dropped"]["empty"]["documents"] == 1
    by_rule = {row["rule"]: row for row in dropped}
    assert by_rule["redirects"]["threshold"] == 5
    assert "answers 404" in next(row["detail"] for row in dropped if "/missing" in row["url"])
    assert "river" not in "".join(row["text"] for row in dropped)  # the body of a 404 is no document, nor kept as one
    assert counts["documents_in"] == len(paths)


@pytest.mark.parametrize("how", ["silent", "dripping", "dripping headers"])
def test_a_server_that_hangs_is_given_up(tmp_path: Path, how: str) -> None:
    ended = threading.Event()

    def hang(request: Any) -> None:
        if how == "dripping":
            request.send_response(200)
            request.send_header("Content-Type", "text/html")
            request.end_headers()
        while how != "silent" and not ended.wait(0.1):
            request.wfile.write(b"x")
        ended.wait(20)

    site = Site({"/good": page("Good"), "/hang": hang})
    with serving(site) as server:
        started = time.monotonic()
        _, found, dropped = run(tmp_path / "out", crawl(server, "/hang", "/good", timeout=0.6))
        assert time.monotonic() - started < 5
        ended.set()
    assert len(found) == 1
    assert reasons(dropped, server) == {"/hang": "timeout"}


@pytest.mark.parametrize("status", [500, 503, 429])
def test_without_robots_txt_because_of_an_error_nothing_is_fetched(tmp_path: Path, status: int) -> None:
    site = Site({"/a": page("A")}, robots=status)
    with serving(site) as server:
        problem = problem_of(tmp_path, crawl(server, "/a"))
        assert "yields no documents; 1 records were read and dropped: robots_unreachable 1" in problem
        assert [path for _, path, _ in server.seen] == ["/robots.txt"]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_without_robots_txt_everything_may_be_fetched(tmp_path: Path, status: int) -> None:
    with serving(Site({"/a": page("A")}, robots=status)) as server:
        assert len(run(tmp_path / "out", crawl(server, "/a"))[1]) == 1


def test_robots_txt_speaks_to_us_by_name(tmp_path: Path) -> None:
    robots = "User-agent: *\nDisallow: /\n\nUser-agent: Headwater\nDisallow: /private\nCrawl-delay: 0.3\n"
    site = Site({"/a": page("A"), "/b": page("B"), "/private": page("P")}, robots=robots)
    with serving(site) as server:
        _, found, dropped = run(tmp_path / "out", crawl(server, "/a", "/b", "/private"))
    assert len(found) == 2
    assert reasons(dropped, server) == {"/private": "robots"}
    assert site.times[2] - site.times[1] >= 0.3


def test_who_has_opted_out_of_training_is_left_out(tmp_path: Path) -> None:
    def with_header(name: str, value: str) -> Any:
        return lambda request: request.give(200, page("Header"), Content_Type="text/html", **{name: value})

    def text(content: str) -> Any:
        return lambda request: request.give(200, content.encode(), Content_Type="text/plain")

    reserved = [
        {"location": "/free/*", "tdm-reservation": 0},
        {"location": "/free/not/", "tdm-reservation": 1},
        {"location": "/*.asp$", "tdm-reservation": "1"},
    ]
    pages = {
        "/ai.txt": text("# Spawning\nUser-Agent: *\nDisallow: /art/\nAllow: /\n"),
        "/.well-known/tdmrep.json": text(orjson.dumps(reserved).decode()),
        "/art/1": page("Art"),
        "/free/1": page("Free"),
        "/free/not/1": page("Not"),
        "/a.asp": page("Asp"),
        "/a.aspx": page("Aspx"),
        "/header": with_header("TDM_Reservation", "1"),
        "/noai": with_header("X_Robots_Tag", "noindex, noai"),
        "/noimageai": with_header("X_Robots_Tag", "noimageai"),
        "/meta": page("Meta", head='<META content="1" name="tdm-reservation">'),
        "/robots-meta": page("Robots", head="<meta name='robots' content='nofollow,noai'>"),
    }
    with serving(Site(pages)) as server:
        paths = [path for path in pages if path not in ("/ai.txt", "/.well-known/tdmrep.json")]
        _, found, dropped = run(tmp_path / "out", crawl(server, *paths))
        asked = [path for _, path, _ in server.seen]
    out = ("/art/1", "/free/not/1", "/a.asp", "/header", "/noai", "/meta", "/robots-meta")
    assert reasons(dropped, server) == dict.fromkeys(out, "opted_out")
    assert sorted(row["url"].removeprefix(server.url) for row in found) == ["/a.aspx", "/free/1", "/noimageai"]
    assert not any(row["text"] for row in dropped)
    assert asked.count("/ai.txt") == asked.count("/.well-known/tdmrep.json") == 1
    assert "/art/1" not in asked


@pytest.mark.parametrize(
    "content", [b"---\ntitle: facts for assistants\n---\n# Disallow: nothing", page("Not found"), b"\xff\x00"]
)
def test_other_files_of_these_names_are_no_opt_out(tmp_path: Path, content: bytes) -> None:
    pages = dict.fromkeys(("/ai.txt", "/.well-known/tdmrep.json"), content) | {"/a": page("A")}
    with serving(Site(pages)) as server:
        _, found, dropped = run(tmp_path / "out", crawl(server, "/a"))
    assert len(found) == 1
    assert not dropped


def test_opt_outs_that_cannot_be_asked_for_keep_us_out(tmp_path: Path) -> None:
    with serving(Site({"/a": page("A"), "/ai.txt": lambda request: request.give(503)})) as server:
        problem = problem_of(tmp_path, crawl(server, "/a"))
    assert "robots_unreachable 1" in problem


def test_a_host_that_wants_very_long_pauses_is_left_alone(tmp_path: Path) -> None:
    site = Site({"/a": page("A")}, robots="User-agent: *\nCrawl-delay: 100000\n")
    with serving(site) as server:
        assert "crawl_delay 1" in problem_of(tmp_path, crawl(server, "/a"))


def test_one_request_at_a_time_with_pauses(tmp_path: Path) -> None:
    site = Site({f"/{number}": page(f"Page {number}") for number in range(4)})
    with serving(site) as server:
        other = server.url.replace("127.0.0.1", "localhost")
        run(tmp_path / "out", crawl(server, *site.pages, delay=0.2))
        gaps = [after - before for before, after in zip(site.times, site.times[1:], strict=False)]
        assert len(gaps) == 6
        assert min(gaps) >= 0.2
        assert site.most_at_once == 1
        site.times.clear()
        names = [server.url + path for path in site.pages] + [other + path for path in site.pages]
        started = time.monotonic()
        run(tmp_path / "two", crawl(server, *names, delay=0.2))
        assert time.monotonic() - started < 0.2 * 2 * len(site.pages) + 0.6  # two hosts side by side
        assert len(site.times) == 14


def test_links_are_followed_within_the_host_and_the_limits(tmp_path: Path) -> None:
    site = Site(
        {
            "/": page("Home", "/a", "b#top", "https://example.org/", "mailto:me@x", "/a?x=1", "//", "http://[bad"),
            "/a": page("A", "/c", "/"),
            "/b": page("B", "/d").replace(b"<a ", b"<a rel=nofollow "),
            "/a?x=1": lambda request: request.give(302, b"", Location="http://localhost:1/"),
            "/c": page("C", "/e"),
            "/d": page("D"),
            "/e": page("E"),
        }
    )

    def found_at(depth: int, name: str, **more: Any) -> list[str]:
        with serving(site) as server:
            _, found, dropped = run(tmp_path / name, crawl(server, "/", depth=depth, **more))
            assert {row["rule"] for row in dropped} <= {"unreachable", "robots_unreachable"}
            return [row["url"].removeprefix(server.url) for row in found]

    assert found_at(0, "none") == ["/"]
    assert found_at(1, "one") == ["/", "/a", "/b"]
    assert found_at(2, "two") == ["/", "/a", "/b", "/c"]
    assert found_at(9, "all") == ["/", "/a", "/b", "/c", "/e"]
    assert found_at(9, "few", max_pages=2) == ["/", "/a"]


def test_pages_beyond_the_limit_that_the_recipe_names_are_said(tmp_path: Path) -> None:
    site = Site({f"/{number}": page(f"Page {number}") for number in range(4)})
    with serving(site) as server:
        _, found, dropped = run(tmp_path / "out", crawl(server, *site.pages, max_pages=3))
        assert len(found) == 3
        assert reasons(dropped, server) == {"/3": "max_pages"}


def test_a_stopped_read_does_not_fetch_again(tmp_path: Path) -> None:
    stopping = threading.Event()
    stopping.set()

    def interrupted(request: Any) -> None:
        request.give(200, page("B"), Content_Type="text/html")

    site = Site({"/a": page("A"), "/b": interrupted})
    with serving(site) as server:
        settings = Read.model_validate({"sources": {"web": crawl(server, "/a", "/b")}})
        source = settings.sources["web"]
        parts = source.fetch(1 << 20, tmp_path / "out" / "cache" / "web", 1)  # as far as a killed run had come
        assert len(parts[0]) == 2
        asked = len(server.seen)
        read(settings, {}, Workspace(tmp_path / "out", Machine(workers=1)))
        assert len(server.seen) == asked
        assert len(rows(tmp_path / "out" / "documents")) == 2


def test_urls_in_a_file(tmp_path: Path) -> None:
    site = Site({"/a": page("A"), "/b": page("B")})
    with serving(site) as server:
        path = tmp_path / "urls.txt"
        path.write_text(f"# pages\n{server.url}/a\n\n{server.url}/b\nnot a url\nhttp://[::1\n")
        source = crawl(server, url_file=str(path)) | {"urls": []}
        before = fingerprint(source)
        _, found, dropped = run(tmp_path / "out", source)
        assert len(found) == 2
        assert [row["rule"] for row in dropped] == ["malformed_url", "malformed_url"]
        path.write_text(f"{server.url}/a\n")
        assert fingerprint(source) != before
        assert "no such file" in problem_of(tmp_path, source | {"url_file": str(tmp_path / "url.txt")})


def test_two_workers_read_the_same(tmp_path: Path) -> None:
    site = Site({f"/{number}": page(f"Page {number}") for number in range(4)})
    with serving(site) as server:
        source = crawl(server, *site.pages, "/missing")
        one = run(tmp_path / "one", source, workers=1, shard_bytes=500)
        assert run(tmp_path / "two", source, workers=2, shard_bytes=500) == one


@pytest.mark.parametrize(
    "body",
    [b"<!--" * 500_000, b"<a " * 500_000, b"<![CDATA[" * 300_000, b"<a" + b" x=1" * 500_000 + b">", b"<div>" * 80_000],
)
def test_pages_made_to_harm_cost_little_time(tmp_path: Path, body: bytes) -> None:
    started = time.process_time()
    with serving(Site({"/good": page("Good"), "/bad": body})) as server:
        _, found, _ = run(tmp_path / "out", crawl(server, "/good", "/bad", depth=1))
    assert found[0]["url"].endswith("/good")
    assert time.process_time() - started < 15


def test_many_links_take_linear_time(tmp_path: Path) -> None:
    home = page("Home", *[f"/{number}" for number in range(5000)])
    started = time.process_time()
    with serving(Site({"/": home, "/0": page("Zero")})) as server:
        _, found, _ = run(tmp_path / "out", crawl(server, "/", depth=1, max_pages=2))
    assert len(found) == 2
    assert time.process_time() - started < 5


# ------------------------------------------------------------------------------------------------- private networks


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fe80::1%eth0",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not web_client.is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_addresses_that_are_public(address: str) -> None:
    assert web_client.is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
def test_private_networks_are_refused_before_anything_is_sent(tmp_path: Path, host: str) -> None:
    with serving(Site({"/a": page("A")})) as server:
        url = server.url.replace("127.0.0.1", host)
        problem = problem_of(tmp_path, crawl(server, f"{url}/a", allow_private=False))
        assert "private_address 1" in problem
        assert server.seen == []


def test_a_redirect_into_a_private_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own name counts as public here; what it leads to does not."""
    with serving(Site({"/secret": page("Secret")})) as inner:
        site = Site({"/out": lambda request: request.give(302, b"", Location=f"{inner.url}/secret")})
        with serving(site) as server:
            resolve = socket.getaddrinfo

            def names(host: str, port: int, *rest: Any, **more: Any) -> Any:
                return resolve("127.0.0.1" if host == "public.test" else host, port, *rest, **more)

            monkeypatch.setattr(socket, "getaddrinfo", names)
            seen: list[str] = []
            judge = web_client.is_public

            def public_once(address: str) -> bool:
                seen.append(address)
                return len(seen) <= 4 or judge(address)  # robots.txt, opt-outs and the page of public.test

            monkeypatch.setattr(web_client, "is_public", public_once)
            url = server.url.replace("127.0.0.1", "public.test")
            problem = problem_of(tmp_path, crawl(server, f"{url}/out", allow_private=False))
            assert "private_address 1" in problem
            assert inner.seen == []
            assert [path for _, path, _ in server.seen] == [
                "/robots.txt",
                "/ai.txt",
                "/.well-known/tdmrep.json",
                "/out",
            ]
            assert server.seen[0][2]["Host"] == url.removeprefix("http://")


def test_a_name_that_changes_its_address_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the address that was checked is the one that is connected to."""
    answers = iter(["93.184.216.34", "127.0.0.1"])
    connected: list[str] = []

    def names(host: str, port: int, *rest: Any, **more: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(address: tuple[str, int], *rest: Any, **more: Any) -> Any:
        connected.append(address[0])
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", names)
    monkeypatch.setattr(socket, "create_connection", connect)
    client = web_client.Client("me@example.org", delay=0, timeout=2, max_bytes=1000)
    with pytest.raises(web_client.RefusedError, match="no network here"):
        client.get("http://rebound.test/")
    assert connected == ["93.184.216.34"]


# -------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"urls": ["example.org"]}, "is no http:// or https:// address"),
        ({"urls": []}, "give `urls` or `url_file`"),
        ({"contact": "nobody"}, "give an e-mail address"),
        ({"contact": "me@x.org\r\nX: y"}, "give an e-mail address"),
    ],
)
def test_settings_that_cannot_work(wrong: dict[str, Any], problem: str) -> None:
    source = {"use": "crawl", "urls": ["https://example.org/"], "contact": "me@example.org", **wrong}
    with pytest.raises(ValidationError, match=problem):
        Read.model_validate({"sources": {"web": source}})


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "protego", None)
    monkeypatch.delitem(sys.modules, "headwater.documents.sources.web_client")
    source = {"use": "crawl", "urls": ["https://example.org/"], "contact": "me@example.org"}
    with pytest.raises(MissingExtraError, match="needs the package protego") as caught:
        run(tmp_path / "out", source)
    assert caught.value.hint == "pip install 'headwater[web]'"


def test_no_page_at_all_is_an_error(tmp_path: Path) -> None:
    with serving(Site({})) as server, pytest.raises(EmptyResultError, match="http_status 2"):
        run(tmp_path / "out", crawl(server, "/a", "/b"))
    assert texts(rows(tmp_path / "out" / "documents")) == []
