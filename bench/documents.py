"""Quality rules and near-duplicate search: documents per CPU second, Headwater beside its peers, on the same documents.

    python bench/documents.py [--mb 60] [--peer-documents 1500] [--peers datatrove regex dolma data_juicer] [--repeat 3]

Headwater and datatrove read documents, apply Gopher's repetition and quality rules, find near-duplicates by MinHash
(5-grams, 14 bands of 8) and write what is left. Headwater also drops exact duplicates, and keeps every dropped document
with its reason, which datatrove is not asked for. `regex` is datatrove with a regular expression in the place of spaCy.
dolma's tagger `gopher_v2` is measured beside our stage clean alone. data-juicer does the same job with its own rules,
fewer than Gopher's; it installs 6 GB, so it has to be asked for.

One process each; CPU seconds of the work without imports and compilation; the median of so many runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
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


PEER = {
    "datatrove": ("datatrove 0.10.1", "datatrove", ["time"], []),
    "regex": ("datatrove, regex for spaCy", "datatrove", ["time"], ["--fast-words"]),
    "dolma": ("dolma 1.2.1, gopher_v2", "dolma", [], []),
    "data_juicer": ("data-juicer 1.6.1", "data_juicer", [], []),
}
"""Title, environment, and what stands before and after the file and the folder on its command line."""


def theirs(peer: str, folder: Path, texts: list[str]) -> dict[str, float]:
    """CPU seconds of each part of a peer's work."""
    _, environment, before, after = PEER[peer]
    folder.mkdir()
    file = folder / "documents.jsonl"
    with file.open("w", encoding="utf-8") as out:
        rows = ({"text": text, "id": str(number), "source": "web"} for number, text in enumerate(texts))
        out.writelines(json.dumps(row) + "\n" for row in rows)
    script = PEERS / f"{environment}_documents.py"
    command = [python_of(environment), script, *before, file, folder / "work", *after]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """The run whose sum is in the middle."""
    return sorted(runs, key=lambda run: sum(run.values()))[(len(runs) - 1) // 2]


def row(name: str, count: int, runs: list[dict[str, float]]) -> float:
    seconds = median(runs)
    rate = count / sum(seconds.values())
    parts = ", ".join(f"{part} {value:.2f}" for part, value in seconds.items())
    print(
        f"{name:28s} {count:7d} documents  {sum(seconds.values()):8.2f} CPU s  {rate:9,.0f} documents/CPU s   ({parts})",
        flush=True,
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=60, help="text for Headwater [MB]")
    parser.add_argument("--peer-documents", type=int, default=1500, help="documents for each peer")
    parser.add_argument("--peers", nargs="*", choices=PEER, default=["datatrove", "regex", "dolma"])
    parser.add_argument("--repeat", type=int, default=3, help="runs of each")
    options = parser.parse_args()
    texts = list(documents(options.mb * 1_000_000))
    for peer in options.peers:
        python_of(PEER[peer][1])
    print(f"{processor_name()}; {len(texts)} documents, {sum(map(len, texts)) / len(texts):,.0f} characters on average")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours(folder / "warm", texts[:50])  # compiles, or loads what is compiled
        our_runs = [ours(folder / f"ours-{number}", texts) for number in range(options.repeat)]
        rate = row("headwater", len(texts), [seconds for seconds, _ in our_runs])
        clean_rate = len(texts) / statistics.median(seconds["clean"] for seconds, _ in our_runs)
        left = our_runs[0][1]
        print(f"{'':28s} left: {left['clean']} after the rules, {left['dedup']} after duplicates")
        some = texts[: options.peer_documents]
        for peer in options.peers:
            runs = [theirs(peer, folder / f"{peer}-{number}", some) for number in range(options.repeat)]
            theirs_rate = row(PEER[peer][0], len(some), runs)
            ratio, what = (
                (clean_rate / theirs_rate, "clean alone") if peer == "dolma" else (rate / theirs_rate, "the job")
            )
            print(f"{'':28s} ratio: {ratio:.1f}x ({what})", flush=True)


if __name__ == "__main__":
    main()
