"""HTML to text: quality and pages per CPU second of the three tiers, beside the libraries they are built on.

    python bench/extraction.py [--pages FOLDER] [--rounds 3] [--check-outputs FOLDER]

Pages and true texts: https://github.com/scrapinghub/article-extraction-benchmark (a folder with `html/*.html.gz` and
`ground-truth.json`; by default the one beside the checkout). Its metric: counts of 4-grams of words, precision and recall
averaged over the pages, F1 of the averages. Names and thresholds were tuned on half A (every second page by
name); the scores of half B were looked at while designing, so that they are slightly optimistic.
`--check-outputs` computes the metric of outputs in that repository's form, to be compared with the published table.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from headwater.core.hardware import processor_name
from headwater.documents.sources.extract import extract

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "web" / "article-extraction-benchmark"
WORD = re.compile(r"\w+")


def shingles(text: str | None) -> Counter[tuple[str, ...]]:
    """Each 4-gram of words with how often it stands in the text; a shorter text is one shingle."""
    words = WORD.findall(text or "")
    found = (tuple(words[start : start + 4]) for start in range(max(1, len(words) - 3)))
    return Counter(shingle for shingle in found if shingle)


def scores(pairs: Iterable[tuple[str | None, str | None]]) -> tuple[float, float, float]:
    """F1, precision and recall of (true text, extracted text) of pages."""
    precision, recall = [], []
    for truth, found in ((shingles(truth), shingles(found)) for truth, found in pairs):
        right = (truth & found).total()
        if found:
            precision.append(right / found.total())
        if truth:
            recall.append(right / truth.total())
    p, r = statistics.mean(precision), statistics.mean(recall)
    return 2 * p * r / (p + r), p, r


def extractors() -> dict[str, Callable[[bytes], str | None]]:
    import trafilatura
    from resiliparse.extract.html2text import extract_plain_text

    return {
        "resiliparse 2.0 main content": lambda html: extract_plain_text(html.decode(), main_content=True),
        "trafilatura 2.3 fast=True": lambda html: trafilatura.extract(html.decode(), fast=True, include_comments=False),
        "headwater fast": lambda html: extract(html, "fast").text,
        "headwater balanced": lambda html: extract(html, "balanced").text,
        "headwater precise": lambda html: extract(html, "precise").text,
    }


def check_outputs(folder: Path, truth: dict[str, dict[str, str]]) -> None:
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        found = found.get("output", found)
        if found.keys() == truth.keys():
            values = scores((truth[key].get("articleBody"), found[key].get("articleBody")) for key in truth)
            print(f"{path.stem:24s} F1 {values[0]:.3f}  precision {values[1]:.3f}  recall {values[2]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=Path, default=FOLDER, help="folder of the benchmark")
    parser.add_argument("--rounds", type=int, default=3, help="times that all pages are read; the fastest counts")
    parser.add_argument("--check-outputs", type=Path, help="folder with outputs of other programs")
    options = parser.parse_args()
    truth = json.loads((options.pages / "ground-truth.json").read_text(encoding="utf-8"))
    if options.check_outputs:
        check_outputs(options.check_outputs, truth)
        return
    pages = {f.name.split(".")[0]: gzip.decompress(f.read_bytes()) for f in (options.pages / "html").glob("*.gz")}
    names = sorted(pages)
    halves = {"A (tuned on)": names[::2], "B (held out)": names[1::2], "all": names}
    print(
        f"{processor_name()}; {len(pages)} pages, {sum(map(len, pages.values())) / 1e6:.1f} MB; F1 / precision / recall"
    )
    runs = extractors()
    seconds: dict[str, float] = dict.fromkeys(runs, float("inf"))
    for turn in range(options.rounds):  # in turns, so that a busy machine slows all alike
        for name, run in runs.items():
            before = time.process_time()
            found = {page: run(pages[page]) for page in names}
            seconds[name] = min(seconds[name], time.process_time() - before)
            if turn == 0:
                parts = (scores((truth[p].get("articleBody"), found[p]) for p in half) for half in halves.values())
                shown = "   ".join(
                    f"{half} {f:.3f} {p:.3f} {r:.3f}" for half, (f, p, r) in zip(halves, parts, strict=True)
                )
                print(f"{name:30s} {shown}")
    peer = seconds["trafilatura 2.3 fast=True"]
    for name, value in seconds.items():
        print(f"{name:30s} {len(pages) / value:6.0f} pages/CPU s   {peer / value:5.2f}x trafilatura")


if __name__ == "__main__":
    main()
