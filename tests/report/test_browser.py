"""The report as a person sees it: in headless Chromium, wide and narrow, light and dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

LOOK = """
const seen = (mark) => { const box = mark.getBoundingClientRect(); return box.width + box.height > 0; };
const charts = [...document.querySelectorAll("figure")].map((figure) => {
  const shown = [...figure.querySelectorAll("svg.marks")].filter(seen);
  const marks = shown.flatMap((svg) => [...svg.querySelectorAll("[role=graphics-symbol], .mark-line path, .mark-text text")]);
  const page = figure.getBoundingClientRect();
  const cut = shown.flatMap((svg) => [...svg.querySelectorAll("text")].filter((text) => {
    const box = text.getBoundingClientRect(), frame = svg.getBoundingClientRect();
    return box.width && (box.left < frame.left - 3 || box.right > frame.right + 3 || box.top < frame.top - 3 || box.bottom > frame.bottom + 3);
  }).map((text) => text.textContent));
  return { title: figure.querySelector("strong").textContent, drawings: shown.length, marks: marks.filter(seen).length, cut,
           inside: page.left >= 0 && page.right <= innerWidth };
});
const mark = [...document.querySelectorAll("[role=graphics-symbol][aria-label]")].find(seen);
mark?.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: 50, clientY: 50 }));
const box = document.getElementById("tip");
const told = getComputedStyle(box).display === "block" && box.textContent === mark?.getAttribute("aria-label");
parent.postMessage(JSON.stringify({ told, width: innerWidth, scroll: document.documentElement.scrollWidth, charts }), "*");
"""
FRAME = """<!doctype html><title>frame</title><iframe src="{page}" style="border: 0; width: {width}px; height: 1200px"></iframe>
<script>onmessage = (event) => {{ document.body.dataset.verdict = event.data; }};</script>"""
"""A frame of any width: the window of a headless Chromium is at least 500 pixels wide."""


def look(page: Path, folder: Path, width: int, *, dark: bool = False) -> dict:
    """Open a page in Chromium with a script at its end that writes down what is there."""
    copy, frame = folder / "page.html", folder / "frame.html"
    text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{LOOK}</script></body>")
    copy.write_text(text, encoding="utf-8")
    frame.write_text(FRAME.format(page=copy.as_uri(), width=width), encoding="utf-8")
    command = [
        *(
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ),
        *(
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={folder}/profile",
        ),
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        *("--virtual-time-budget=4000", "--window-size=1400,1300", "--dump-dom", frame.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    verdict = re.search(r'data-verdict="([^"]*)"', done.stdout)
    assert verdict, done.stderr[-2000:]
    return {"console": console, **json.loads(html.unescape(verdict[1]))}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_every_chart_is_drawn_and_nothing_is_cut_off(
    report_folder: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    seen = look(report_folder / "report.html", tmp_path, width, dark=dark)
    assert seen["console"] == []
    assert seen["width"] == width
    assert seen["scroll"] <= width, "the page scrolls sideways"
    assert seen["told"], "pointing at a mark shows nothing"
    titles = [chart["title"] for chart in seen["charts"]]
    assert {"Loss", "Learning rate", "Throughput", "Time for each stage"} <= set(titles)
    for chart in seen["charts"]:
        assert chart["drawings"] == 1, chart
        assert chart["marks"] >= 3, chart
        assert chart["inside"], chart
        assert chart["cut"] == [], chart


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_look_finds_what_is_wrong(report_folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    text = (report_folder / "report.html").read_text(encoding="utf-8")
    text = re.sub(
        r'(<div class="wide"[^>]*>)<svg.*?</svg>',
        r'\1<svg class="marks" width="9" height="9"></svg>',
        text,
        count=1,
        flags=re.DOTALL,
    )
    page.write_text(
        text.replace("<main>", '<main><div style="width: 3000px">wide</div><script>nonsense()</script>'),
        encoding="utf-8",
    )
    seen = look(page, tmp_path, 1280)
    assert seen["console"]
    assert seen["scroll"] > 1280
    assert seen["charts"][0]["marks"] == 0
