"""The app as a person uses it: in headless Chromium, wide and narrow."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from headwater.evaluation.arena import Votes
from headwater.serve.app import app_of
from headwater.serve.browse import Shelf
from headwater.serve.models import Models
from headwater.serve.server import listen

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">\u202e turned"


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def address(place: Path, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The app on a free port, in a thread."""
    monkeypatch.chdir(place)
    listening = listen("127.0.0.1", 0)
    app = app_of(models, Votes(tmp_path / "votes.jsonl"), Shelf(place / "runs"), "127.0.0.1")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: playwright.Browser, address: str) -> Iterator[playwright.Page]:
    """The app's page; fails when the browser had something to complain of, or when anything was asked for elsewhere."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    playwright.expect.set_options(timeout=60_000)  # a busy machine is slow, not wrong
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda one: asked.append(one.url))
    page.goto(address)
    yield page
    assert complaints == []
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    context.close()


def fits(page: playwright.Page) -> bool:
    """Whether the page does not scroll sideways."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def write(page: playwright.Page, form: str, prompt: str) -> None:
    page.locator(f"#{form}-prompt").fill(prompt)
    page.locator(f"#{form}-form summary").click()
    page.locator(f"#{form}-form [name=max_new_tokens]").fill("12")
    page.locator(f"#{form}-form .main").click()


def test_two_models_write_and_a_highlight_says_where_it_stands(page: playwright.Page, document: dict[str, str]) -> None:
    words = " ".join(document["text"].split(" ")[5:18])
    write(page, "write", f"{HOSTILE} {words}")
    texts = page.locator("#write-texts > div")
    playwright.expect(texts.locator("button.trace")).to_have_count(2)
    assert texts.locator("h3 > span:first-child").all_text_contents() == ["before", "tiny"]
    for text in texts.locator("pre").all_text_contents():
        assert "<script>document.title" in text
        assert "\\u202e turned" in text
        assert len(text) > len(HOSTILE) + len(words) + 1, "the model wrote nothing"
    texts.nth(1).locator("button.trace").click()
    mark = texts.nth(1).locator("mark.found").first
    mark.click()
    origin = texts.nth(1).locator(".origin").first
    playwright.expect(origin).to_contain_text(document["id"])
    playwright.expect(origin).to_contain_text(document["url"])
    playwright.expect(origin).to_contain_text("PSF-2.0")
    assert fits(page)
    mark.click()
    playwright.expect(texts.nth(1).locator(".origin")).to_have_count(0)
    assert page.title() == "Headwater"
    assert page.locator("main script, main img").count() == 0


def test_a_blind_vote_shows_names_only_afterwards(page: playwright.Page, tmp_path: Path) -> None:
    page.locator("nav a[href='#blind']").click()
    write(page, "blind", HOSTILE)
    playwright.expect(page.locator("#blind-votes")).to_be_visible()
    headings = page.locator("#blind-texts h3 > span:first-child")
    assert headings.all_text_contents() == ["Left", "Right"]
    assert fits(page)
    page.locator("[data-choice=left]").click()
    playwright.expect(page.locator("#blind-told")).to_contain_text("was better than")
    names = headings.all_text_contents()
    assert sorted(names) == ["before", "tiny"]
    (line,) = (tmp_path / "votes.jsonl").read_text(encoding="utf-8").splitlines()
    vote = json.loads(line)
    assert [vote["left"]["label"], vote["right"]["label"], vote["choice"]] == [*names, "left"]
    assert vote["prompt"] == HOSTILE
    playwright.expect(page.locator("#blind-votes")).to_be_hidden()
    page.locator("#blind-told a").click()
    rows = page.locator("#ranking tbody tr")
    playwright.expect(rows).to_have_count(2)
    assert rows.first.locator("td").first.text_content() == names[0]
    assert fits(page)
    page.reload()
    playwright.expect(page.locator("#ranking tbody tr")).to_have_count(2)


def test_runs_scores_and_documents_are_there(page: playwright.Page, document: dict[str, str]) -> None:
    page.locator("nav a[href='#runs']").click()
    playwright.expect(page.locator(".run h3")).to_contain_text("tiny")
    assert fits(page)
    page.locator("nav a[href='#scores']").click()
    playwright.expect(page.locator("#scores-body")).to_contain_text("No scores in this folder yet")
    page.locator("nav a[href='#documents']").click()
    playwright.expect(page.locator("#documents-run")).to_have_value("tiny")
    page.locator("#documents-id").fill(document["id"])
    page.locator("#documents-form .main").click()
    playwright.expect(page.locator("article.document pre")).to_have_text(document["text"])
    assert fits(page)
    page.locator("#documents-id").fill("")
    page.locator("#documents-rule").fill("length")
    page.locator("#documents-form .main").click()
    playwright.expect(page.locator("article.document").first).to_contain_text("dropped by clean: length")


def test_what_went_wrong_is_said(page: playwright.Page) -> None:
    boxes = page.locator("#write-models input")
    playwright.expect(boxes).to_have_count(2)  # they come with the page's first request
    for box in boxes.all():
        box.uncheck()
    write(page, "write", "The")
    playwright.expect(page.locator("#problem")).to_have_text("choose a model")
    boxes.first.check()
    page.locator("#write-form .main").click()
    playwright.expect(page.locator("#write-texts button.trace")).to_have_count(1)
    playwright.expect(page.locator("#problem")).to_be_hidden()
