"""Two workers against one: wall and CPU seconds of read, clean, dedup and split, with the same documents left.

    python bench/workers.py [--mb 400] [--repeat 3] [--clean rules language fineweb]

Runs `headwater run --until split`, workers in turns, and takes medians. Seconds of stages are wall time without the start of
Python; CPU is that of all processes. Goal: two workers are 1.7 times as fast as one on a quiet machine of two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from document_memory import write_parts
from headwater.core.hardware import processor_name
from headwater.core.store import read_json

RECIPE = """
read: {{sources: {{web: {{use: jsonl, paths: [{paths}]}}}}}}
clean:
  steps: [{steps}]
dedup: {{}}
split: {{}}
machine: {{workers: {workers}}}
"""
RULES = "{use: normalise}, {use: length, min_characters: 100}, {use: gopher_repetition}, {use: gopher_quality}"
STEPS = {"rules": RULES, "language": "{use: language, keep: [en]}, " + RULES, "fineweb": "{use: preset, name: fineweb}"}
STAGES = ("read", "clean", "dedup", "split")


def measure(folder: Path, parts: list[Path], steps: str, workers: int) -> dict[str, float]:
    """Wall seconds of each stage, CPU seconds of the whole, and the number of documents left."""
    folder.mkdir()
    recipe = folder / "workers.yaml"
    recipe.write_text(RECIPE.format(paths=", ".join(map(str, parts)), steps=steps, workers=workers), encoding="utf-8")
    command = [sys.executable, "-m", "headwater", "run", str(recipe), "--until", "split"]
    with (folder / "log.txt").open("w") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(running.pid, 0)  # with the workers, whose end it has waited for
        running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        sys.exit((folder / "log.txt").read_text())
    manifests = {path.parent.name.split("-")[0]: read_json(path) for path in folder.glob("store/*/manifest.json")}
    found = {name: manifests[name]["seconds"] for name in STAGES}
    return found | {"cpu": usage.ru_utime + usage.ru_stime, "left": manifests["dedup"]["counts"]["documents_out"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=400, help="text [MB], in steps of 100")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--clean", nargs="+", choices=STEPS, default=["rules", "language"])
    options = parser.parse_args()
    print(f"{processor_name()}; {options.mb} MB of text; medians of {options.repeat}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = write_parts(folder, options.mb * 1_000_000)
        for chosen in options.clean:
            runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
            measure(folder / f"{chosen}-warm", parts[:1], STEPS[chosen], 1)  # compiles, or loads what is compiled
            for number in range(options.repeat):
                for workers, found in runs.items():
                    found.append(measure(folder / f"{chosen}-{workers}-{number}", parts, STEPS[chosen], workers))
            walls = {}
            for workers, found in runs.items():
                medians = {key: statistics.median(run[key] for run in found) for key in found[0]}
                walls[workers] = statistics.median(sum(run[stage] for stage in STAGES) for run in found)
                stages = ", ".join(f"{stage} {medians[stage]:.1f}" for stage in STAGES)
                print(
                    f"{chosen:9s} {workers} workers: wall {walls[workers]:5.1f} s ({stages}), CPU {medians['cpu']:5.1f} s"
                )
            assert len({run["left"] for found in runs.values() for run in found}) == 1, "other documents are left"
            print(f"{chosen:9s} {walls[1] / walls[2]:.2f}x as fast with two workers", flush=True)


if __name__ == "__main__":
    main()
