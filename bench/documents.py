"""Quality rules and near-duplicate search: documents per CPU second, Headwater beside datatrove, on the same documents.

    python bench/documents.py [--mb 60] [--peer-documents 1500]

Both read documents, apply Gopher's repetition and quality rules, find near-duplicates by MinHash (5-grams, 14 bands of 8)
and write what is left. One process each; CPU seconds of the work without imports and compilation. Headwater also drops
exact duplicates, and keeps every dropped document with its reason, which datatrove is not asked for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from headwater.core.hardware import Machine, processor_name
from headwater.core.stage import Workspace
from headwater.documents.clean import Clean, clean
from headwater.documents.dedup import Dedup, dedup
from headwater.documents.document import Shards, documents_of
from peers.environment import PEERS, python_of
from peers.texts import documents

STEPS = [{"use": "gopher_repetition"}, {"use": "gopher_quality"}]


def ours(folder: Path, texts: list[str]) -> tuple[dict[str, float], dict[str, int]]:
    """CPU seconds of each stage and how many documents it leaves."""
    with Shards(folder / "read" / "documents", "web") as shards:
        for start in range(0, len(texts), 1000):
            shards.write(documents_of("web", texts[start : start + 1000]))
    settings = {"clean": Clean.model_validate({"steps": STEPS}), "dedup": Dedup()}
    seconds, left, inputs = {}, {}, folder / "read"
    for name, door in (("clean", clean), ("dedup", dedup)):
        out = Workspace(folder / name, Machine(workers=1))
        out.folder.mkdir()
        before = time.process_time()
        left[name] = door(settings[name], {"documents": inputs}, out)["documents_out"]
        seconds[name] = time.process_time() - before
        inputs = out.folder
    return seconds, left


def theirs(folder: Path, texts: list[str], *options: str) -> dict[str, float]:
    """CPU seconds of each part of datatrove's pipeline."""
    folder.mkdir()
    file = folder / "documents.jsonl"
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": text, "id": str(number)}) + "\n" for number, text in enumerate(texts))
    command = [python_of("datatrove"), PEERS / "datatrove_documents.py", "time", file, folder / "work", *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def row(name: str, count: int, seconds: dict[str, float]) -> float:
    rate = count / sum(seconds.values())
    parts = ", ".join(f"{part} {value:.2f}" for part, value in seconds.items())
    print(
        f"{name:28s} {count:7d} documents  {sum(seconds.values()):8.2f} CPU s  {rate:9,.0f} documents/CPU s   ({parts})"
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=60, help="text for Headwater [MB]")
    parser.add_argument("--peer-documents", type=int, default=1500, help="documents for datatrove")
    options = parser.parse_args()
    texts = list(documents(options.mb * 1_000_000))
    python_of("datatrove")
    print(f"{processor_name()}; {len(texts)} documents, {sum(map(len, texts)) / len(texts):,.0f} characters on average")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours(folder / "warm", texts[:50])  # compiles, or loads what is compiled
        seconds, left = ours(folder / "ours", texts)
        rate = row("headwater", len(texts), seconds)
        print(f"{'':28s} left: {left['clean']} after the rules, {left['dedup']} after duplicates")
        some = texts[: options.peer_documents]
        shipped = row("datatrove 0.10.1", len(some), theirs(folder / "theirs", some))
        tuned = row("datatrove, regex for spaCy", len(some), theirs(folder / "tuned", some, "--fast-words"))
    print(f"ratio to datatrove as shipped: {rate / shipped:.0f}x; with its tokenizer replaced: {rate / tuned:.0f}x")


if __name__ == "__main__":
    main()
