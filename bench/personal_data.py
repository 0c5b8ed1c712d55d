"""Personal data: recall, precision and speed of `use: personal_data` beside presidio-analyzer, on the same texts.

    python bench/personal_data.py [--long 200]

The texts are the 1,500 sentences of presidio-research with their marked spans, for recall and precision, and long documents
(books, with a sentence of those put in every tenth), for speed and for what is found where nothing is. Presidio's
named-entity model is left out, so it is faster here than as it is shipped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import zstandard

from headwater.core.hardware import processor_name
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.redact import PersonalData
from headwater.documents.document import documents_of
from peers.environment import PEERS, python_of
from peers.varied import DATA
from peers.varied import documents as varied

KINDS = {
    "EMAIL_ADDRESS": "email",
    "IP_ADDRESS": "ip",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "credit_card",
    "IBAN_CODE": "iban",
    "US_SSN": "national_id",
}
Spans = list[tuple[str, int, int]]


def gold() -> tuple[list[str], list[Spans]]:
    with zstandard.open(DATA / "gold/pii/presidio-synth_dataset_v2.json.zst", "rt", encoding="utf-8") as file:
        rows = json.load(file)
    spans = [
        [
            (KINDS[span["entity_type"]], span["start_position"], span["end_position"])
            for span in row["spans"]
            if span["entity_type"] in KINDS
        ]
        for row in rows
    ]
    return [row["full_text"] for row in rows], spans


def score(found: list[Spans], marked: list[Spans]) -> dict[str, tuple[int, int, int, int]]:
    """For each kind: marked, of these found, found, of these marked; a span counts when it meets one of its kind."""
    counts = {kind: [0, 0, 0, 0] for kind in KINDS.values()}

    def meets(span: tuple[str, int, int], others: Spans) -> bool:
        return any(span[0] == kind and span[1] < end and start < span[2] for kind, start, end in others)

    for ours, theirs in zip(found, marked, strict=True):
        for span in theirs:
            counts[span[0]][0] += 1
            counts[span[0]][1] += meets(span, ours)
        for span in ours:
            counts[span[0]][2] += 1
            counts[span[0]][3] += meets(span, theirs)
    return {kind: tuple(numbers) for kind, numbers in counts.items()}


def by_presidio(texts: list[str]) -> tuple[list[Spans], float]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.jsonl"
        file.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
        command = [python_of("presidio"), PEERS / "presidio_personal_data.py", file]
        *lines, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [[tuple(span) for span in json.loads(line)] for line in lines], float(seconds)


def timed(step: PersonalData, texts: list[str]) -> tuple[float, Any]:
    batch = Features(documents_of("web", texts))
    before = time.process_time()
    verdict = step(batch)
    return time.process_time() - before, verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", type=int, default=200, help="long documents for the speed")
    options = parser.parse_args()
    texts, marked = gold()
    step = PersonalData(use="personal_data", secret="leave", countries=("us",))
    timed(step, texts[:50])
    ours = [[(span.kind, span.start, span.end) for span in step.find(text)] for text in texts]
    theirs, short_peer = by_presidio(texts)
    short = timed(step, texts)[0]
    print(f"{processor_name()}; {len(texts)} marked sentences")
    print(f"{'kind':12s} marked   headwater recall precision   presidio recall precision")
    for kind in KINDS.values():
        cells = []
        for found in (ours, theirs):
            wanted, hit, said, right = score(found, marked)[kind]
            cells.append(f"{hit / max(1, wanted):16.3f} {right / max(1, said):9.3f}")
        print(f"{kind:12s} {wanted:6d} {'  '.join(cells)}")
    generator, books = random.Random(0), varied(options.long)["prose"]
    long = [
        text + "\n\n" + generator.choice(texts) if number % 10 == 0 else text
        for number, text in enumerate(itertools.islice(books, options.long))
    ]
    peer_long = by_presidio(long)[1]
    own_long = timed(step, long)[0]
    everything = PersonalData(use="personal_data")
    own_all = timed(everything, long)[0]
    for name, own, peer, some in (
        ("sentences", short, short_peer, texts), ("long documents", own_long, peer_long, long)
    ):  # fmt: skip
        size = sum(len(text.encode()) for text in some) / 1e6
        print(f"{name}: headwater {own:.3f} CPU s ({size / own:.1f} MB/s), presidio {peer:.2f}: {peer / own:.0f}x")
    print(f"every kind and country, long documents: {own_all:.3f} CPU s")
    print("found where nothing is marked, in documents of each kind of text (per 1,000):")
    for kind, plain in varied(1000).items():
        seconds, verdict = timed(everything, plain)
        told = Counter({name: int(number.sum()) for name, number in verdict.found.items()})
        shown = ", ".join(f"{name} {number}" for name, number in told.most_common() if number) or "nothing"
        print(f"  {kind}: {shown} ({sum(map(len, plain)) / 1e6 / seconds:.0f} M characters/CPU s)")


if __name__ == "__main__":
    main()
