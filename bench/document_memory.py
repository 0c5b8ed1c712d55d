"""Peak memory of the document stages: read, clean, dedup and split of 0.5, 1 and 2 GB of text with two workers.

    python bench/document_memory.py [--gb 0.5 1 2] [--workers 2] [--dedup '{spans: {}}']

Runs `headwater run --until split` and samples the memory of its processes (PSS: shared pages count once) 20 times a second.
Goal: less than 600 MB on 1 GB of text, and no more when the text doubles.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from headwater.core.store import read_json
from peers.texts import documents

RECIPE = """
read: {{sources: {{web: {{use: jsonl, paths: [{paths}]}}}}}}
clean:
  steps:
    - {{use: normalise}}
    - {{use: length, min_characters: 100}}
    - {{use: gopher_repetition}}
    - {{use: gopher_quality}}
dedup: {dedup}
split: {{}}
machine: {{workers: {workers}}}
"""
PART_BYTES = 100_000_000


def write_parts(folder: Path, total_bytes: int) -> list[Path]:
    """Write documents as JSON Lines files of 100 MB of text each."""
    parts = []
    for number in range(total_bytes // PART_BYTES):
        parts.append(folder / f"part-{number:02d}.jsonl")
        with parts[-1].open("w", encoding="utf-8") as out:
            out.writelines(json.dumps({"text": text}) + "\n" for text in documents(PART_BYTES, seed=number))
    return parts


def tree_bytes(process: psutil.Process) -> int:
    """Memory of a process and its children [bytes]."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            total += member.memory_full_info().pss
        except psutil.Error:
            continue  # it has just ended
    return total


def measure(
    folder: Path, parts: list[Path], workers: int, dedup: str
) -> tuple[dict[str, int], dict[str, float], dict[str, int]]:
    """Run the document stages and return the peak memory and seconds of each, and how many documents it leaves."""
    folder.mkdir()
    recipe = folder / "memory.yaml"
    recipe.write_text(RECIPE.format(paths=", ".join(map(str, parts)), workers=workers, dedup=dedup), encoding="utf-8")
    command = [sys.executable, "-m", "headwater", "run", str(recipe), "--until", "split"]
    with (folder / "log.txt").open("w") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        process, peaks = psutil.Process(running.pid), {}
        while running.poll() is None:
            stage = next((path.name.split("-")[0] for path in folder.glob("store/*.partial")), "begin")
            peaks[stage] = max(peaks.get(stage, 0), tree_bytes(process))
            time.sleep(0.05)
    if running.returncode:
        sys.exit((folder / "log.txt").read_text())
    manifests = {path.parent.name.split("-")[0]: read_json(path) for path in folder.glob("store/*/manifest.json")}
    seconds = {name: manifests[name]["seconds"] for name in ("read", "clean", "dedup", "split")}
    return peaks, seconds, {name: manifests[name]["counts"]["documents_out"] for name in ("read", "clean", "dedup")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="amounts of text [GB]")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dedup", default="{}", help="settings of dedup, such as '{near: {verify: true}, spans: {}}'")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = write_parts(folder, round(max(options.gb) * 1e9))
        for size in options.gb:
            chosen = parts[: round(size * 1e9) // PART_BYTES]
            peaks, seconds, left = measure(folder / f"run-{size}", chosen, options.workers, options.dedup)
            stages = ", ".join(
                f"{stage} {peaks.get(stage, 0) / 1e6:.0f} MB {seconds[stage]:.0f} s" for stage in seconds
            )
            counts = " -> ".join(f"{count:,}" for count in left.values())
            peak = max(peaks.values()) / 1e6
            print(f"{size:4.1f} GB of text: peak {peak:4.0f} MB   ({stages}; documents {counts})", flush=True)


if __name__ == "__main__":
    main()
